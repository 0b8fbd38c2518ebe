"""Benchmarks on catalogs, by a recipe of one's own: `--data CATALOG --held-out … --test … --recipe …`."""

import json
from pathlib import Path

import pytest

from drawstream.pipeline.shards import Catalog
from drawstream.tools.bench.auto import grid as auto_grid
from drawstream.tools.bench.auto.cell import Settings
from drawstream.tools.bench.auto.grid import settings_of
from drawstream.tools.bench.cell import plan_of, wrong_share
from drawstream.tools.bench.noise.cell import NoiseCell
from drawstream.tools.cli.app import main
from drawstream.tools.cli.grids import AutoGrid, NoiseGrid
from drawstream.tools.demo import PLANS
from shared.programs import cli


@pytest.fixture
def places(shrink, monkeypatch, tmp_path):
    """Options that name the catalogs of a noisy cell of digits."""
    shrink(monkeypatch)
    cell = NoiseCell(tmp_path / "packed", PLANS["digits"], 0.4, 0)
    cell.pack("digits", None)
    data = tmp_path / "packed/data"
    return [f"--data={data / 'train'}", f"--held-out={data / 'holdout'}", f"--test={tmp_path / 'packed/test'}"]


def test_noise_has_the_labels_of_the_catalog_and_the_recipe(places, tmp_path):
    out = tmp_path / "out"
    command = ["bench", "noise", *places, "--model", "mlp", "--recipe", "ss-cifar", "--epochs", "2", "-o", str(out)]
    command += ["--augment", "none", "--methods", "uniform,clean-only"]
    assert main([*command, "--dry-run"]) == 0 and not out.exists()
    assert "40% wrong labels, clean validation, 1 seed(s)" in cli(*command)
    rows = json.loads((out / "noise.json").read_text())["rows"]
    assert [row["noise"] for row in rows] == [pytest.approx(0.4, abs=0.01)] * 3
    record = json.loads((out / "seed-0/uniform/run.json").read_text())
    train = Catalog.open(tmp_path / "packed/data/train")
    assert record["catalog_fingerprint"] == train.fingerprint and record["global_batch"] == 128
    assert {name: record["recipe"][name] for name in ("epochs", "lr", "weight_decay", "milestones")} == {
        "epochs": 2,
        "lr": 0.1,
        "weight_decay": 1e-3,
        "milestones": [1, 2],  # of 80 epochs 40 and 80
    }
    assert not (out / "seed-0/data").exists()


def test_auto_and_transfer_take_catalogs(places, tmp_path, monkeypatch):
    monkeypatch.setitem(auto_grid.SETTINGS, "fashion-mnist", Settings(epochs=2, interval=5, first=1, reward_rows=40))
    auto = ["bench", "auto", *places, "--model", "mlp", "--methods", "uniform,mixture", "--population", "2"]
    assert main([*auto, "-o", str(tmp_path / "auto"), "--global-batch", "32", "--augment", "mixup"]) == 0
    (row, _) = json.loads((tmp_path / "auto/bench-auto.json").read_text())["rows"]
    assert row["noise"] == pytest.approx(0.4, abs=0.01) and row["last"] > 10
    transfer = ["bench", "transfer", *places, "--model", "mlp", "--targets", "cnn", "--seeds", "0", "--epochs", "1"]
    transfer += ["--trials", "5", "-o", str(tmp_path / "transfer")]
    assert main([*transfer, "--dry-run"]) == 0 and not (tmp_path / "transfer").exists()
    assert main(transfer) == 0
    rows = json.loads((tmp_path / "transfer/transfer.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["uniform", "own", "uniform", "own", "refit", "frozen", "same-p"]


def test_plans_follow_the_options(places):
    data, held_out, test = (each.partition("=")[2] for each in places)
    plan = plan_of(NoiseGrid(data=data, held_out=held_out, test=test, model="cnn", global_batch=7))
    assert (plan.places, plan.model, plan.batch_size) == ((data, held_out, test), "cnn", 7)
    assert plan.fine_tune == PLANS["fashion-mnist"].fine_tune
    assert plan_of(NoiseGrid(data="digits")) == PLANS["digits"]
    assert settings_of(AutoGrid(data=data, epochs=240)).first == 20
    cell = NoiseCell(Path(), plan, 0.0, 0)
    assert wrong_share(cell.setup) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (["--noise", "0.4"], "--noise goes with fashion-mnist and digits"),
        (["--data", "nowhere"], "no plan for 'nowhere': give one of digits, fashion-mnist, or the folder of a catalog"),
        (["--held-out", ""], "nothing"),
    ],
)
def test_what_does_not_fit_is_named(places, tmp_path, capsys, change, law):
    given = [each for each in places if not (law == "nothing" and each.startswith("--held-out"))]
    more = [] if law == "nothing" else change
    assert main(["bench", "noise", *given, *more, "--methods", "uniform", "-o", str(tmp_path / "out")]) == 2
    law = "rows to choose and report on are missing: give --held-out and --test" if law == "nothing" else law
    assert law in capsys.readouterr().err
