"""What every test may rely on: IEEE floats, whatever a job run in this process before it has set."""

import sys

import pytest


@pytest.fixture(autouse=True)
def ieee_floats():
    """Jobs flush denormals where they train; the command line gives IEEE floats back, a function of a job does not."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
