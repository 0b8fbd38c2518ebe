"""Training in bf16 and with channels last beside float32."""

import json

from drawstream.tools.bench.precision import VARIANTS
from drawstream.tools.cli.app import main
from drawstream.tools.cli.grids import NoiseGrid
from drawstream.tools.training.recipe import Recipe


def test_precisions_take_turns_from_the_same_weights(digits, tmp_path, capsys):
    command = ["bench", "precision", "--data", digits.train, "--held-out", digits.held_out, "--model", "resnet8"]
    command += ["--rows", 128, "--epochs", 1, "--rounds", 2, "--json", tmp_path / "found.json"]
    assert main([str(each) for each in command]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["variant"] for row in rows[:4]] == [row["variant"] for row in rows[4:]] == list(VARIANTS)
    assert [row["seed"] for row in rows] == [0] * 4 + [1] * 4 and all(row["seconds"] > 0 for row in rows)
    told = capsys.readouterr().out
    assert all(name in told for name in VARIANTS) and "+0.00 ± 0.00" in told


def test_options_of_a_grid_made_in_python_count_as_given():
    base = Recipe(7, 0.3, weight_decay=1e-4)
    assert NoiseGrid(epochs=2).recipe(base) == Recipe(2, 0.3, weight_decay=1e-4)
    named = NoiseGrid(named="bt", momentum=0.8)
    assert (named.epochs, named.momentum, named.nesterov) == (200, 0.8, False)
    assert named.recipe(base).settings()["schedule"] == "linear"
