"""Dry runs: what they say, and that they leave no trace."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from drawstream.pipeline.shards import Catalog
from drawstream.tools.cli.app import main
from drawstream.tools.estimate.probe import Probe, ProbeDone, scratch_folder
from drawstream.tools.estimate.stages import Estimate, Stage, duration
from drawstream.tools.training.descent import make_optimizer
from drawstream.tools.training.models import save_weights
from drawstream.tools.training.recipe import Recipe
from drawstream.tools.training.setup import Setup
from shared.programs import cli


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, by its time and content."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


@pytest.fixture(autouse=True)
def short_probes(monkeypatch):
    for module in ("probe", "search", "training"):
        monkeypatch.setattr(f"drawstream.tools.estimate.{module}.LIMIT", 0.2)


@pytest.fixture(scope="module")
def start(digits, tmp_path_factory):
    """Weights of a model that was not trained."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_weights(path, Setup(digits.train, "mlp").build(0).state_dict())
    return path


@pytest.fixture(scope="module")
def table(digits, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table") / "features"
    assert main(["features", str(digits.train), "-o", str(folder), "--model", "mlp", "--weights", str(start)]) == 0
    return folder


def commands(digits, start, table, out: Path) -> dict[str, list[str]]:
    """A command of each kind."""
    train, held_out, small = str(digits.train), ["--held-out", str(digits.held_out)], ["--model", "mlp"]
    swift = ["search", "swift", str(table), "--catalog", train, *held_out, *small, "--start", str(start)]
    return {
        "train": ["train", train, *small, *held_out, "--epochs", "3", "-o", str(out)],
        "features": ["features", train, *small, "--weights", str(start), "-o", str(out)],
        "swift": [*swift, "--trials", "2", "--confirm-top", "1", "--confirm-seeds", "2", "-o", str(out)],
        "auto": ["search", "auto", train, *small, *held_out, "--population", "2", "--epochs", "2", "-o", str(out)],
    }


@pytest.mark.parametrize("kind", ["train", "features", "swift", "auto"])
def test_a_dry_run_writes_nothing_and_tells_the_time(kind, digits, start, table, tmp_path, capsys):
    command = commands(digits, start, table, tmp_path / "work" / "out")[kind]
    (tmp_path / "work").mkdir()
    before = [tree(folder) for folder in (tmp_path / "work", digits.train, digits.held_out, table)]
    assert main([*command, "--dry-run", "--json", str(tmp_path / "estimate.json")]) == 0
    assert [tree(folder) for folder in (tmp_path / "work", digits.train, digits.held_out, table)] == before
    told, found = capsys.readouterr().out, json.loads((tmp_path / "estimate.json").read_text())
    assert "a dry run, nothing was written" in told and found["dry_run"] is True
    assert found["seconds"] > 0
    assert all(stage["basis"].startswith("measured: ") for stage in found["stages"])


def test_dry_runs_of_pack_and_index_check_and_write_nothing(digits, tmp_path, capsys):
    labels = Catalog.open(digits.train).label
    np.savez(tmp_path / "images.npz", images=np.zeros((300, 8, 8), np.uint8), labels=labels[:300])
    pack = ["pack", str(tmp_path / "images.npz"), str(tmp_path / "out"), "--dry-run"]
    index = ["index", str(digits.train), "--dry-run"]
    before = [tree(folder) for folder in (tmp_path, digits.train)]
    assert main(pack) == main([*index, "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "300 images would be packed" in told and "of every shard would be indexed" in told
    assert main([*pack, "--holdout", "300"]) == 2 and "holdout must be" in capsys.readouterr().err
    assert main(index) == 2 and "--overwrite" in capsys.readouterr().err
    assert [tree(folder) for folder in (tmp_path, digits.train)] == before


BAD = {
    "train": (["--sampler", "nothing.json"], ["--budget", "2"], ["--epochs", "0"], ["--hook", "none"]),
    "features": (["--measures", "nothing"], ["--engine", "slurm"]),
    "swift": (["--agent", "nobody"], ["--workers", "0"], ["--features", "nothing"]),
    "auto": (["--interval", "0"], ["--reward-rows", "0"], ["--exploration", "wild"], ["--test", "nowhere"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_as_by_the_real_run(kind, digits, start, table, tmp_path):
    command = commands(digits, start, table, tmp_path / "out")[kind]
    for wrong in BAD[kind]:
        real, dry = (cli(*command, *wrong, *more, status=2).splitlines()[-1] for more in ([], ["--dry-run"]))
        assert real == dry, wrong


@pytest.mark.parametrize(("kind", "change"), [("train", ["--lr", "0.1"]), ("auto", ["--seed", "5"])])
def test_a_folder_with_another_job_is_refused_as_by_the_real_run(kind, change, digits, start, table, tmp_path):
    folder = tmp_path / "out"
    command = commands(digits, start, table, folder)[kind]
    assert main(command) == 0 and "finished" in cli(*command, "--dry-run")
    before = tree(folder)
    real, dry = (cli(*command, *change, *more, status=2).splitlines()[-1] for more in ([], ["--dry-run"]))
    assert real == dry and tree(folder) == before


def test_epochs_of_a_checkpoint_are_not_estimated_again(digits, tmp_path, monkeypatch):
    command = ["train", str(digits.train), "--model", "mlp", "--epochs", "5", "-o", str(tmp_path / "out")]

    class Stop(BaseException):
        pass

    def stop(_self, step, _total, _values):
        if step == 2:
            raise Stop

    monkeypatch.setattr("drawstream.tools.runs.hooks.Journal.step", stop)
    with pytest.raises(Stop):
        main(command)
    before = tree(tmp_path / "out")
    told = cli(*command, "--dry-run")
    assert "2 epochs are done and would not be done again" in told and "3 epochs" in told
    assert tree(tmp_path / "out") == before
    line = cli(*command, "--dry-run", "--lr", "0.3", status=2).splitlines()[-1]
    assert str(tmp_path / "out/checkpoint.pt") in line and "recipe.lr 0.05, not 0.3" in line


@pytest.mark.parametrize(("ranks", "steps"), [(1, 5), (2, 20)])
def test_a_probe_stops_any_loop_and_counts_its_steps(ranks, steps):
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, Recipe(1, 0.1))
    with Probe(ranks=ranks) as probe:
        while True:
            time.sleep(0.02 if ranks == 1 else 0)
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert probe.stopped and probe.count >= steps and (ranks == 1 or probe.count == steps)
    assert ranks > 1 or probe.unit_seconds == pytest.approx(0.02, rel=0.5)
    count = probe.count
    optimizer.step()
    assert probe.count == count


def test_errors_name_the_real_folder(tmp_path):
    (tmp_path / "study.db").write_bytes(b"x")
    with pytest.raises(ValueError, match="other") as caught, scratch_folder(tmp_path, ["*.db"]) as scratch:
        assert (scratch / "study.db").read_bytes() == b"x"
        raise ValueError(f"{scratch / 'study.db'}: other")
    assert str(caught.value) == f"{tmp_path / 'study.db'}: other" and not scratch.exists()
    with pytest.raises(ProbeDone), scratch_folder(tmp_path):
        raise ProbeDone


def test_totals(tmp_path):
    stages = (Stage("a", 1.0, "computed"), Stage("b", 2.0, "computed"))
    assert Estimate("train", tmp_path, stages).seconds == 3.0
    assert Estimate("train", tmp_path, (*stages, Stage("c", None, "unknown"))).seconds is None
    assert stages[1].times(3, "3 runs") == Stage("b", 6.0, "3 runs × (computed)")
    assert [duration(s) for s in (None, 1.25, 600, 9000)] == ["unknown", "1.2 s", "10 min", "2 h 30 min"]


@pytest.mark.parametrize(
    "command", [["demo"], ["bench", "noise", "--noise", "0.4"], ["bench", "auto", "--noise", "0"], ["bench", "budget"]]
)
@pytest.mark.slow
def test_dry_runs_of_the_demo_and_the_benchmarks(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [*command, "--data", "digits", "--seeds", "0,1", "--dry-run", "--json", str(tmp_path / "e.json")]
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    assert json.loads((tmp_path / "e.json").read_text())["seconds"] > 0
