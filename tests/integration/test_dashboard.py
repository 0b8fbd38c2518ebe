"""optuna-dashboard opens the study of a search and shows its trials under readable names."""

import json
import warnings
from io import BytesIO

import numpy as np
import pytest

from drawstream.search.swift import Proposals, Study, search_swift

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, while they load
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    loss = np.random.default_rng(0).random(300, np.float32)
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'study.db'}"
    search_swift(
        {"loss": loss, "entropy": loss[::-1].copy(), "grad_norm": loss},
        lambda p, trial: float(p[loss < 0.5].sum()),
        proposals=Proposals(6, "random"),
        study=Study(url, "mine"),
    )
    return url


def get(app, path):
    """The JSON that the dashboard's own page asks for."""
    told = {}
    environment = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "here", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": BytesIO(), "wsgi.errors": BytesIO(),
    }  # fmt: skip
    body = b"".join(app(environment, lambda status, headers, *_: told.update(status=status)))
    assert told["status"].startswith("200"), body
    return json.loads(body)


def test_the_list_of_studies_and_the_trials(storage):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = dashboard.wsgi(storage)
        (study,) = get(app, "/api/studies")["study_summaries"]
        detail = get(app, f"/api/studies/{study['study_id']}")
    assert study["study_name"] == "mine"
    assert study["directions"] == ["maximize"]
    complete = [trial for trial in detail["trials"] if trial["state"] == "Complete"]
    assert len(complete) == 6
    names = {param["name"] for param in complete[0]["params"]}
    assert {"coefficient_2", "end_1", "end_2", "end_3", "value_1", "value_4"} <= names
    attributes = {entry["key"] for entry in complete[0]["user_attrs"]}
    assert {"candidate", "params", "ess", "seconds", "propose_seconds"} <= attributes
