"""A search whose options are given by name."""

import pytest

from drawstream.search.swift import search_swift
from drawstream.tools.jobs.search import search_keywords


@pytest.fixture(scope="session")
def search():
    """`search_swift(columns, objective, …)` with the fields of its dataclasses as keywords."""

    def run(columns, objective, **options):
        return search_swift(columns, objective, **search_keywords(options))

    return run
