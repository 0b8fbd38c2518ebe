"""The examples run as their first lines say, and draw what the stream says."""

import os
import re
import subprocess
import sys

import pytest

from drawstream.tools.examples import selection_loop

EXAMPLES = "drawstream.tools.examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A catalog of 500 digits."""
    folder = tmp_path_factory.mktemp("examples")
    code = (
        "import numpy as np; from sklearn.datasets import load_digits; from drawstream import ArraySource;"
        "from drawstream.pipeline.shards.pack import pack; d = load_digits();"
        f"pack(ArraySource((d.images * 15).astype(np.uint8), d.target), {str(folder / 'digits')!r}, limit=500)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return folder / "digits"


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, "-m", *(str(each) for each in command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def losses(text):
    return [float(each) for each in re.findall(r"loss(?: of the last batch)? ([\d.]+)", text)]


def test_map_style_goes_on_at_the_batch_where_it_stopped(tmp_path):
    whole = run(f"{EXAMPLES}.map_style_loop", cwd=tmp_path)
    assert losses(whole)[2] < losses(whole)[0]
    last = [float(share) for share in whole.splitlines()[-1].split()[-2:]]
    assert all(0.23 <= share <= 0.26 for share in last)  # 4 of 16 parts
    run(f"{EXAMPLES}.map_style_loop", "--checkpoint", "cut.pt", "--stop-after", 40, "--workers", 1, cwd=tmp_path)
    again = run(f"{EXAMPLES}.map_style_loop", "--checkpoint", "cut.pt", cwd=tmp_path)
    assert losses(again) == losses(whole)[1:] and again.splitlines()[-1] == whole.splitlines()[-1]


def test_lightning_draws_the_rows_of_the_stream(data, tmp_path):
    pytest.importorskip("lightning")
    out = run(f"{EXAMPLES}.lightning_loop", data, "--epochs", 2, cwd=tmp_path)
    assert out.count("500 rows, as the stream says") == 2


def test_accelerate(data, tmp_path):
    pytest.importorskip("accelerate")
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", 2, "--num_machines", 1)
    out = run(*launch, "-m", f"{EXAMPLES}.accelerate_loop", data, cwd=tmp_path)
    assert len(losses(out)) == 3 and losses(out)[2] < losses(out)[0]


def test_ddp_goes_on_at_the_batch_where_it_stopped(data, tmp_path):
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", f"{EXAMPLES}.ddp_loop", data)
    whole = run(*launch, "--checkpoint", "whole.pt", cwd=tmp_path)
    run(*launch, "--checkpoint", "cut.pt", "--stop-after", 10, cwd=tmp_path)
    assert run(*launch, "--checkpoint", "cut.pt", cwd=tmp_path) == whole


@pytest.fixture
def select(data, tmp_path, monkeypatch, capsys):
    """The example in this process, for it is run often: its lines."""
    monkeypatch.chdir(tmp_path)

    def go(*options):
        monkeypatch.setattr(sys, "argv", ["selection_loop", str(data), "--test", str(data), *options])
        selection_loop.main()
        return capsys.readouterr().out

    return go


def test_selection_goes_on_and_stands_beside_uniform_draws_of_the_same_work(select):
    whole = select("--epochs", "4", "--out", "whole")
    select("--epochs", "2", "--out", "cut")
    assert select("--epochs", "4", "--out", "cut") == whole
    work = [float(each) for each in re.findall(r"work ([\d.]+)", whole)]
    assert 0.7 < work[0] < 1.0 and abs(work[0] - work[1]) < 0.01  # (4/3 + 3 (1/2 + 1/3)) / 4 = 0.96 and less


def test_ordered_selection_goes_forward_with_all_rows(select):
    out = select("--epochs", "2", "--method", "ordered")
    assert re.findall(r"(\w+): .* work ([\d.]+)", out) == [("ordered", "1.000"), ("uniform", "1.000")]
