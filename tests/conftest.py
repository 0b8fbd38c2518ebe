"""What every test may rely on: IEEE floats, whatever a job run in this process before it has set.

Hypothesis tries the same examples in every run, so that a change is not stopped by what it did not touch; new ones are
tried by `make soak`, which sets HYPOTHESIS_PROFILE=explore.
"""

import os
import sys

import pytest
from hypothesis import settings

settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(autouse=True)
def ieee_floats():
    """Jobs flush denormals where they train; the command line gives IEEE floats back, a function of a job does not."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
