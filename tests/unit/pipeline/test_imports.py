"""What only reads catalogs must not import torch and DALI: worker processes and the command line start by that."""

import subprocess
import sys

import pytest

import drawstream.pipeline


@pytest.mark.parametrize("module", ["drawstream.pipeline.index", "drawstream.pipeline.verify"])
def test_catalogs_need_neither_torch_nor_dali(module):
    code = f"import {module}, sys; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_with_little():
    heavy = ("torch", "nvidia.dali", "numba", "pyarrow", "scipy", "optuna", "plotly", "sklearn")
    code = f"import drawstream.tools.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert set(drawstream.pipeline.__all__) == set(drawstream.pipeline._HOMES) == set(dir(drawstream.pipeline))
    for name in drawstream.pipeline.__all__:
        assert getattr(drawstream.pipeline, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = drawstream.pipeline.nope
