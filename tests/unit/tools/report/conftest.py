"""A search as a job leaves it, for the tests of reports."""

import pytest


@pytest.fixture(scope="session")
def searched(tmp_path_factory, make_search):
    """A search whose sampler prefers right labels; not to be changed."""
    folder = tmp_path_factory.mktemp("searched")
    make_search(folder)
    return folder
