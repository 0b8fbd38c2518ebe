"""The README's walk-through, command by command, on digits in place of Fashion-MNIST; then its training loop."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.tools.cli.app import main
from drawstream.tools.training.models import build_model

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SMALLER = {  # what a test adds to each command, to be done in seconds
    "train": "--model mlp --epochs 4 --global-batch 32",
    "features": "--model mlp",
    "search": "--model mlp --global-batch 32 --epochs 4 --trials 5 --confirm-top 1 --confirm-seeds 2",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with digits as two .npz files."""
    digits = load_digits()
    images, labels = np.round(digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    np.savez(tmp_path / "train.npz", images=images[:700], labels=labels[:700])
    np.savez(tmp_path / "test.npz", images=images[700:900], labels=labels[700:900])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def walk_through():
    """The commands of the README's step-by-step block, as argument lists."""
    block = re.search(r"```\n(drawstream pack .*?)```", README, re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].replace("\\\n", " ").splitlines()]


def test_walk_through_and_training_loop(folder, capsys):
    commands = walk_through()
    assert [command[0] for command in commands] == ["pack", "pack", "train", "features", "search", "train", "report"]
    for command in commands:
        if command[0] == "pack":
            source = "test.npz" if "test" in command else "train.npz"
            command[1] = source
            command = [c if c not in ("25000", "5000") else {"25000": "700", "5000": "150"}[c] for c in command]
        assert main([*command, *SMALLER.get(command[0], "").split()]) == 0, capsys.readouterr().err
    assert (folder / "report.html").stat().st_size > 1_000_000  # the charts' code is inside

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    names = {"model": build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)}
    exec(compile(code[1], "README.md", "exec"), names)
    assert len(names["batch"].images) > 0
    assert names["loader"].state_dict()["epoch"] == 1
    assert bool((names["loss"] > 0).all())
