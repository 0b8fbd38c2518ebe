"""A search whose options are given by name."""

from dataclasses import fields

import pytest

from drawstream.pipeline.workers import Workers
from drawstream.search.swift import Guard, Proposals, Study, search_swift
from drawstream.tools.runs import pick

GROUPS = {"proposals": Proposals, "guard": Guard, "workers": Workers, "study": Study}


@pytest.fixture(scope="session")
def search():
    """`search_swift(columns, objective, …)` with the fields of its dataclasses as keywords."""
    known = {each.name for kind in GROUPS.values() for each in fields(kind)}

    def run(columns, objective, **options):
        others = {name: value for name, value in options.items() if name not in known}
        return search_swift(columns, objective, **others, **{name: pick(GROUPS[name], options) for name in GROUPS})

    return run
