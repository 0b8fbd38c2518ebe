"""Several catalogs in the commands: train, features, search, verify, stream, report."""

import json

import numpy as np
import pytest

from drawstream import ArraySource, Catalog, FeatureTable, pack
from shared.programs import cli, cli_json
from shared.samples import LABELS, PIXELS, array_catalog, overwrite

CUTS = {"a": slice(0, 120), "b": slice(120, 200), "c": slice(200, 300)}
MLP = ("--model", "mlp", "--global-batch", 50)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of three catalogs of 120, 80 and 100 digits, and of a held-out one."""
    root = tmp_path_factory.mktemp("several")
    folders = [array_catalog(root / name, PIXELS[cut], LABELS[cut], shard_rows=50).root for name, cut in CUTS.items()]
    return (*folders, array_catalog(root / "held", PIXELS[300:400], LABELS[300:400]).root)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    *some, held = parts
    out = tmp_path_factory.mktemp("run")
    cli("train", *some, "-o", out, *MLP, "--epochs", 2, "--held-out", held)
    return out


def test_several_catalogs_are_trained_on_as_one(parts, trained, tmp_path):
    *some, held = parts
    record = json.loads((trained / "run.json").read_text())
    whole = Catalog.open(*some)
    assert record["catalog_fingerprint"] == whole.fingerprint
    assert [(trained / each).resolve() for each in record["catalog"]] == list(some)
    assert "nothing was run" in cli("train", *some, "-o", trained, *MLP, "--epochs", 2, "--held-out", held, notes=True)
    other = cli("train", *some[::-1], "-o", trained, *MLP, "--epochs", 2, "--held-out", held, status=2)
    assert "catalog" in other and "another output folder" in other
    cli("report", trained, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "a + b + c" in page and "Training by source" in page


def test_features_and_a_search_of_several_catalogs(parts, trained, tmp_path):
    *some, held = parts
    cli("features", *some, "-o", tmp_path / "f", "--model", "mlp", "--weights", trained / "last.safetensors")
    table = FeatureTable.open(tmp_path / "f", catalog=Catalog.open(*some))
    assert len(table) == 300 and len(table.parts) == 3 + 2 + 2
    several = [word for each in some for word in ("--catalog", each)]
    assert "0 findings" in cli("features", "check", tmp_path / "f", *several)
    few = ("--trials", 2, "--round", 1, "--agent", "random", "--confirm-top", 0, "--fine-tune-epochs", 0.25)
    start = ("--start", trained / "last.safetensors", "--held-out", held)
    cli("search", "swift", tmp_path / "f", "-o", tmp_path / "s", *several, *MLP, *start, *few)
    cli("report", tmp_path / "s", "-o", tmp_path / "report.html")
    shown = ("stream", "show", tmp_path / "s/sampler.json", "--table", tmp_path / "f", *several)
    assert "300 rows" in cli(*shown)
    assert "give the catalog" in cli("stream", "show", "--rows", 300, *several[:4], status=2)


def test_classes_are_merged_where_it_is_asked_for(parts, tmp_path):
    few = array_catalog(tmp_path / "few", PIXELS[:40], np.arange(40) % 3).root
    words = ("train", few, parts[0], "-o", tmp_path / "run", *MLP, "--epochs", 1)
    assert "--classes union" in cli(*words, status=2)
    cli(*words, "--classes", "union")
    whole = Catalog.open(few, parts[0], classes="union")
    assert json.loads((tmp_path / "run/run.json").read_text())["catalog_fingerprint"] == whole.fingerprint
    named = ArraySource(PIXELS[:40], np.arange(40) % 3, ("7", "2", "owl"))
    owls = pack(ArraySource(PIXELS[40:60], np.arange(20) % 2, ("owl", "2")), tmp_path / "owls").train
    words = ("train", pack(named, tmp_path / "named").train, parts[0], "-o", tmp_path / "owl", *MLP, "--epochs", 1)
    cli(*words, "--classes", "union", "--held-out", owls)
    classes = json.loads((tmp_path / "owl/run.json").read_text())["result"]["classes"]
    assert {name for name, value in classes.items() if value is not None} == {"2", "owl"}
    assert "in part" in cli(*words, "--classes", "union", "--held-out", parts[0], status=2)


def test_verify_tells_damage_of_each(parts, tmp_path):
    mine = [array_catalog(tmp_path / name, PIXELS[:30], LABELS[:30], encoding="png") for name in "xy"]
    overwrite(mine[1], 7, at=30)
    result = cli_json(tmp_path, "verify", *(each.root for each in mine), status=1)
    assert result["rows"] == 60 and {each["row"] for each in result["findings"]} >= {37}
    assert any("/y/" in each["message"] and "(row 7)" in each["message"] for each in result["findings"])
