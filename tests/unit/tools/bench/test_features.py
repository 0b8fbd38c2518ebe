"""The feature benchmark: what it delivers is counted rightly, and its numbers follow from its rounds."""

import json
import statistics

import pytest

from drawstream.tools.bench import features as bench
from drawstream.tools.cli.app import main

STAGES = ["forward", "loader", "extract loss", "extract loss, grad_norm", "extract crops"]


def test_the_command_measures_all_stages(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "ROWS", 70_000)
    path = tmp_path / "features.json"
    command = ["bench", "features", "--data", "digits", "--images", "300", "--batch-size", "64", "--rounds", "2"]
    assert main([*command, "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert [row["stage"] for row in result["rows"]] == STAGES
    rounds = {row["stage"]: row["rounds"] for row in result["rows"]}
    assert all(len(each) == 2 and min(each) > 0 for each in rounds.values())
    assert all(row["rows_per_second"] == statistics.median(row["rounds"]) for row in result["rows"])
    last, pairs = rounds[STAGES[3]], list(zip(rounds["forward"], rounds["loader"], strict=True))
    bound = statistics.median(a / min(pair) for a, pair in zip(last, pairs, strict=True))
    harmonic = statistics.median(a / f + a / r for a, (f, r) in zip(last, pairs, strict=True))
    assert result["ratio_to_bound"] == pytest.approx(bound)
    assert result["ratio_to_harmonic_bound"] == pytest.approx(harmonic) and harmonic > bound
    assert result["candidate_seconds"] > 0 and result["cdf_seconds"] > 0 and result["tracker_share"] > 0
    assert (result["images"], result["batch_size"], result["candidate_rows"]) == (300, 64, 70_000)
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in STAGES) and "loader and model share this CPU" in shown


def test_photos_are_large_images_in_one_shard(tmp_path):
    pytest.importorskip("skimage")
    catalog = bench._open("photos", 12, tmp_path / "kept", tmp_path / "scratch")
    assert len(catalog) == 12 and len(catalog.shards) == 1 and catalog.num_classes == 10
    assert (int(catalog.width.max()), int(catalog.height.max())) == (500, 375)
    kept = bench.pack_photos(tmp_path / "kept", images=12)
    assert sorted(zip(catalog.size, catalog.checksum, strict=True)) == sorted(
        zip(kept.size, kept.checksum, strict=True)
    )
    network = bench._model(None, catalog, large=True)
    assert sum(p.numel() for p in network.parameters()) == 11_176_512 + 512 * 10 + 10  # He et al.'s ResNet-18


def test_every_stage_delivers_every_image(tmp_path, monkeypatch):
    """Rows per round: all images, in the crops' stage twice as many, also where the last batch is not full."""
    delivered = {}

    def count(systems, rounds):
        for system in systems:
            delivered[system.name] = system.deliver(0).images
        return [{"system": s.name, "images_per_second": 1.0, "rounds": [1.0]} for s in systems]

    monkeypatch.setattr(bench, "ROWS", 2000)
    monkeypatch.setattr(bench, "alternate", count)
    bench.run_features("digits", images=150, batch_size=50, rounds=1, show=False)
    assert delivered == dict(zip(STAGES, [150, 150, 150, 150, 300], strict=True))


@pytest.mark.parametrize("option", ["--images", "--batch-size", "--rounds"])
def test_bad_numbers_are_one_line(option, capsys):
    assert main(["bench", "features", "--data", "digits", option, "0"]) == 2
    most = 10**4 if option == "--rounds" else 10**9
    assert capsys.readouterr().err == f"drawstream: {option} must be in [1, {most}], but got 0\n"
