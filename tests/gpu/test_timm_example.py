"""The loop of timm's parts: it trains beside the uniform control, and goes on where it was killed."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, "-m", *(str(each) for each in command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_timm_loop(tmp_path):
    pytest.importorskip("timm", reason="needs timm and the torchvision that belongs to torch")
    rng = np.random.default_rng(0)
    for row in range(96):
        folder = tmp_path / "raw" / f"class{row % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (96, 128, 3), dtype=np.uint8) + np.uint8(127 * (row % 2))
        Image.fromarray(pixels).save(folder / f"{row}.jpg")
    run("drawstream.tools.cli.app", "pack", "raw", "data", "--holdout", 32, cwd=tmp_path)
    np.save(tmp_path / "p.npy", rng.random(64))
    options = ("data/train", "--held-out", "data/holdout", "--model", "test_resnet", "--size", 64, "--batch-size", 8)
    command = ("drawstream.tools.examples.timm_loop", *options, "--epochs", 3, "--weights", "p.npy")
    whole = run(*command, "--out", "whole", cwd=tmp_path)
    assert re.findall(r"^(\w+): held-out top-1 [\d.]+ % after 3 epochs$", whole, re.MULTILINE) == [
        "uniform",
        "weighted",
    ]
    run(*command, "--out", "cut", "--stop-after", 10, cwd=tmp_path)
    again = run(*command, "--out", "cut", cwd=tmp_path)
    assert (
        "epoch 0" not in again.split("uniform:")[0] and "epoch 1" in again
    )  # GPU sums differ between runs: no more than that
