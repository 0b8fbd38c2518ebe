"""What only reads catalogs must not import torch and DALI: worker processes and the command line start by that."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["drawstream.pipeline.shards.index", "drawstream.pipeline.verify"])
def test_catalogs_need_neither_torch_nor_dali(module):
    code = f"import {module}, sys; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_with_little():
    heavy = ("torch", "nvidia.dali", "numba", "pyarrow", "scipy", "optuna", "plotly", "sklearn")
    code = f"import drawstream.tools.cli.app, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
