"""The label-noise benchmark: its data, its rows, and that a killed one ends like an undisturbed one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.search import PairedTest, paired_test
from drawstream.tools import demo
from drawstream.tools.bench.noise import cell as noise_cell
from drawstream.tools.bench.noise.cell import right_rows, without_highest
from drawstream.tools.bench.noise.grid import run
from drawstream.tools.bench.noise.methods import DROPPED, METHODS, SEARCHES, SETS, expand, search_options, varied
from drawstream.tools.bench.noise.page import agent_figures, over_levels, tables, write_page
from drawstream.tools.bench.noise.rank_study import agreements, rank_table
from drawstream.tools.bench.noise.results import findings_of
from drawstream.tools.cli import NoiseGrid
from drawstream.tools.cli.app import main
from drawstream.tools.experiments.results import Row
from drawstream.tools.training.evaluation import top1
from drawstream.tools.training.guard import compare_finished
from drawstream.tools.training.models import save_weights
from drawstream.tools.training.recipe import Recipe
from shared.refusals import refused

KEYS = {"method", "noise", "validation", "seed", "last", "best", "top5", "balanced", "curve", "extra_forward_backward"}
TIMES = {"search_seconds", "train_seconds"}
CHEAP = ("uniform", "drop", "reed-hard", "mentornet-pd", "mentornet-dd", "l2rw", "clean-only")


@pytest.fixture(autouse=True)
def small_plan(shrink, monkeypatch):
    shrink(monkeypatch)


def grid_of(out, *methods, noise=0.4, **options):
    return NoiseGrid(data="digits", noise=(noise,), methods=methods, out=out, **options)


def accuracies(result):
    return [{key: row[key] for key in KEYS} for row in result["rows"]]


def test_rows_of_all_methods_at_the_command_line(tmp_path, capsys):
    path = tmp_path / "noise.json"
    arguments = ["--data", "digits", "--noise", "0.4", "--validation", "noisy", "-o", str(tmp_path / "out")]
    assert main(["bench", "noise", *arguments, "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    names = [m for m in METHODS if m != "drop"] + [f"drop-{share:g}" for share in DROPPED]
    rows = {row["method"]: row for row in result["rows"]}
    assert all(set(row) == KEYS | TIMES for row in result["rows"])
    assert sorted(rows) == sorted([*names, "early-stopping"])
    stopped = rows.pop("early-stopping")
    assert stopped["last"] == stopped["best"] == rows["uniform"]["best"]
    kept = {each["method"]: each["kept"] for each in result["searches"]}
    for name, row in rows.items():
        searched = name.startswith("swift")
        folder = name if not (searched or name in ("l2rw", "mentornet-dd")) else f"{name}-noisy"
        folder = tmp_path / "out/noise-0.4/seed-0" / ("uniform" if kept.get(name) == "uniform" else folder)
        history = [epoch["accuracy"] for epoch in json.loads((folder / "run.json").read_text())["history"]]
        held = [each["held_out_noisy"] for each in history]
        assert row["last"] == history[-1]["test"]
        assert row["best"] == history[int(np.argmax(held))]["test"]
        assert (row["search_seconds"] > 0) == searched
        assert row["train_seconds"] > 0
    assert list(kept) == [name for name in METHODS if name.startswith("swift")]
    assert all(len(each["scores"]) == 5 for each in result["searches"])
    page = (tmp_path / "out/noise.html").read_text()
    assert page.index(">Uniform</th>") < page.index(">early-stopping</th>") < page.index(">Swift Sampler</th>")
    assert page.count('<figure class="chart">') == 3  # points, cost, agents
    work = {entry["method"]: entry["extra_forward_backward"] for entry in result["summary"]}
    assert work["uniform"] == work["swift"] == [0, 0]
    assert work["l2rw"] == [3 * 13 * 32, 3 * 13 * 32 + 2 * 3 * 400]  # 13 steps an epoch, the last one of 16 images
    shown = capsys.readouterr().out
    assert "40% wrong labels, noisy validation" in shown
    assert "self-paced (MentorNet PD)" in shown
    assert main(["bench", "noise", *arguments, "--dry-run", "--json", str(path)]) == 0
    assert [stage["name"] for stage in json.loads(path.read_text())["stages"]] == ["page"]


def test_a_killed_benchmark_goes_on_to_the_same_rows(goes_on):
    goes_on(lambda out: run(grid_of(out, *CHEAP, validation=("clean", "noisy"))), accuracies, 4)


def test_noisy_validation_has_the_same_images_and_as_many_wrong_labels(tmp_path, cell):
    cell(seed=7)
    clean, noisy, rows = (Catalog.open(tmp_path / name) for name in ("data/holdout", "noisy/holdout", "data/train"))
    assert noisy.keys == clean.keys
    assert np.array_equal(noisy.checksum, clean.checksum)
    assert clean.clean_label is None
    assert np.array_equal(noisy.clean_label, clean.label)
    assert (noisy.label != noisy.clean_label).mean() == pytest.approx(0.4, abs=0.03)
    assert (rows.label != rows.clean_label).mean() == pytest.approx(0.4, abs=0.01)
    assert not {*rows.keys} & {*clean.keys}
    p = right_rows(rows)
    assert p[rows.label != rows.clean_label].sum() == 0
    assert p.sum() == pytest.approx(1)
    assert len(set(p[p > 0])) == 1
    assert right_rows(clean) == pytest.approx(np.full(100, 0.01))


def test_labels_of_a_file_are_a_level_of_their_own(tmp_path):
    """`--noise labels.npy`: these labels in training, their share of wrong ones in the table, true ones held out."""
    from drawstream.tools.demo import source_and_test

    true = source_and_test("digits", None, 0)[0].labels
    wrong = np.where(np.arange(len(true)) % 4 == 0, (true + 1) % 10, true)
    np.save(tmp_path / "people.npy", wrong)
    grid = grid_of(
        tmp_path / "out", "uniform", "clean-only", noise=tmp_path / "people.npy", validation=("clean", "noisy")
    )
    rows = run(grid)["rows"]
    folder = tmp_path / "out/noise-people/seed-0"
    train, held, noisy = (Catalog.open(folder / name) for name in ("data/train", "data/holdout", "noisy/holdout"))
    assert (train.label == wrong[[int(key) for key in train.keys]]).all()
    assert (train.clean_label == true[[int(key) for key in train.keys]]).all()
    assert (held.label == true[[int(key) for key in held.keys]]).all() and held.clean_label is None
    assert (noisy.label == wrong[[int(key) for key in noisy.keys]]).all()
    share = (train.label != train.clean_label).mean()
    assert {row["noise"] for row in rows} == {share} and abs(share - 0.25) < 0.05
    np.save(tmp_path / "people.npy", true)
    refused("data", run, grid)
    refused(
        "--noise must be shares of wrong labels such as 0.4 or a file such as labels.npy",
        run,
        grid_of(tmp_path / "x", "uniform", noise="some"),
    )


def test_without_noise_both_validation_sets_are_the_clean_one(tmp_path):
    rows = run(grid_of(tmp_path, "uniform", "l2rw", noise=0, validation=("clean", "noisy")))["rows"]
    clean, noisy = ([row for row in rows if row["validation"] == name] for name in ("clean", "noisy"))
    assert [{**row, "validation": "noisy"} for row in clean] == noisy
    assert not (tmp_path / "noise-0/seed-0/noisy").exists()


def test_dropping_leaves_out_the_rows_of_highest_loss_as_the_tracker_saw_them(tmp_path, cell):
    loss = np.float32([0.5, 2.0, 0.5, 3.0, 0.1])
    assert without_highest(loss, 0.4).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3])
    assert without_highest(loss, 0.8).tolist() == [0, 0, 0, 0, 1]
    assert without_highest(np.zeros(4, np.float32), 0.5).tolist() == [0.5, 0.5, 0, 0]  # ties: the first stay
    cell().runs("drop", "clean")
    loss = FeatureTable.open(tmp_path / "features").columns("loss")["loss"]
    rows = Catalog.open(tmp_path / "data/train")
    wrong = rows.label != rows.clean_label
    assert loss[wrong].mean() > loss[~wrong].mean()
    assert without_highest(loss, 0.4)[wrong].sum() < 0.4


def test_another_plan_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, "uniform", noise=0)
    run(grid)
    monkeypatch.setitem(demo.PLANS, "digits", replace(demo.PLANS["digits"], recipe=Recipe(2, 0.05)))
    refused(r"run\.json: .* with recipe.epochs \d+, not 2.*another output folder", run, grid)


def row(method, seed, last, best=0.0, noise=0.4, curve=(50.0,)):
    values = {
        "last": last,
        "best": best,
        "top5": 99.0,
        "balanced": last,
        "curve": curve,
        "search_seconds": 2.0,
        "train_seconds": 3.0,
    }
    return Row(method, {"noise": noise, "validation": "clean"}, seed, values | {"extra_forward_backward": [0, 0]})


def test_findings_and_the_share_that_was_best_in_hindsight():
    rows = [row("uniform", 0, 70.0, 80.0), row("drop-0.2", 0, 75.0), row("drop-0.4", 0, 74.0)]
    rows += [row("uniform", 1, 72.0, 83.0), row("drop-0.2", 1, 75.0), row("drop-0.4", 1, 79.0)]
    found = {each.entry.method: each for each in findings_of(rows)}
    assert [name for name, each in found.items() if each.hindsight] == ["drop-0.4"]
    (table,) = tables([*found.values()])
    assert "71.00 ± 1.41" in table.text()
    assert found["drop-0.4"].gain.mean == pytest.approx(5.5)
    assert found["drop-0.4"].gain.text() in table.text()
    assert found["drop-0.4"].best_gain.mean == pytest.approx(-81.5)
    assert found["uniform"].search_cost == pytest.approx(2 / 3)
    assert found["uniform"].gap_closed is None
    oracle = findings_of([*rows, row("clean-only", 0, 81.0), row("clean-only", 1, 83.0)])[-2:]
    assert [each.gap_closed for each in oracle] == [pytest.approx(0.5), pytest.approx(1)]
    (single,) = findings_of([row("uniform", 0, 70.0)])
    assert "±" not in tables([single])[0].text()


@pytest.mark.parametrize("better", [True, False])
def test_a_finished_model_that_is_no_better_gives_way_to_uniforms(tmp_path, monkeypatch, cell, better):
    right = np.zeros(100, bool), np.arange(100) < 20
    test = paired_test(*(right if better else right[::-1]))
    monkeypatch.setattr(noise_cell.NoiseCell, "search", lambda *_: {"winner": "swift", "seconds": 1.0, "trials": []})
    monkeypatch.setattr(noise_cell.Sampling, "probabilities", lambda *_: np.full(400, 1 / 400))
    monkeypatch.setattr(noise_cell, "compare_finished", lambda *_: test)
    made = cell(noise=0)
    record = made.runs("swift", "clean")["swift"]
    uniform, swift = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("uniform", "swift-clean"))
    assert uniform["history"] != swift["history"]
    assert record["history"] == (swift if better else uniform)["history"]
    assert record["seconds"] == swift["seconds"]  # spent either way
    assert record["unguarded"] == swift["result"]["last"]
    assert record["guard"]["better"] == better
    monkeypatch.setattr(noise_cell, "compare_finished", None)  # a finished one is read
    assert made.runs("swift", "clean")["swift"] == record


def test_a_search_that_finds_nothing_gives_the_uniform_run(tmp_path, monkeypatch, cell):
    search = {"winner": "uniform", "seconds": 1.0, "trials": []}
    monkeypatch.setattr(noise_cell.NoiseCell, "search", lambda *_: search)
    made = cell(noise=0)
    assert made.runs("swift", "clean")["swift"] == made.uniform() | {"search": search, "guard": None}
    assert not (tmp_path / "swift-clean").exists()


def test_the_papers_protocol_has_its_own_features_and_fine_tuning_and_no_guard(tmp_path, monkeypatch, cell):
    monkeypatch.setitem(SEARCHES["swift-paper"], "trials", 4)
    made = cell()
    made.uniform()
    objective = made.objective("clean", "swift-paper")
    assert (objective.search.epochs, objective.share) == (5, 1)
    record = made.runs("swift-paper", "clean")["swift-paper"]
    assert record["guard"] is None
    assert record["search"]["confirmation"] == []
    assert record["search"]["options"]["space"] == "paper10"
    tables = [FeatureTable.open(tmp_path / name).columns("loss")["loss"] for name in ("features", "features-last")]
    assert not np.allclose(*tables)


def test_both_models_are_judged_on_the_same_images(tmp_path, cell):
    made = cell()
    record, weights, start = made.uniform(), tmp_path / "uniform/last.safetensors", tmp_path / "start.safetensors"
    save_weights(start, made.setup.build(0).state_dict())
    found = compare_finished(made.setup, start, weights)
    begun = top1(made.setup.build(0), made.setup.evaluation_loaders("held_out")["held_out"])
    assert found.gained - found.lost == round(record["history"][-1]["accuracy"]["held_out"] - begun)  # of 100 images
    assert found.better
    assert compare_finished(made.setup, weights, weights) == PairedTest(0, 0, 1.0)
    refused(r"give --held-out", lambda: compare_finished(replace(made.setup, held_out=None), start, weights))


def test_sets_and_variants_of_methods():
    assert expand(["uniform", "segments"]) == ["uniform", "swift-s2", "swift", "swift-s6", "swift-s8"]
    assert expand(["swift", *SETS]) == [
        "swift",
        *dict.fromkeys(m for each in SETS.values() for m in each if m != "swift"),
    ]
    refused(r"must be given and differ, but got \['swift-s2', 'swift-s2'\]", expand, ["swift-s2", "swift-s2"])
    assert varied(["uniform", "swift-cgf", "swift-paper"], (2, 6), (20,)) == [
        *("uniform", "swift-cgf-s2-20", "swift-cgf-s6-20", "swift-paper")
    ]
    assert varied(["swift"], (), ()) == ["swift"]
    assert search_options("swift-cgf-s6-20") == {"transform": "cgf", "segments": 6, "trials": 20}
    assert search_options("swift-gp-40") == {"transform": "cdf", "starts": False, "trials": 40}
    assert all(search_options(name) is None for name in ("uniform", "swift-paper-s6", "swift-x-2", "swiftly"))


def scored(tuned, trained):
    """Rows of a rank study with these scores."""
    setting = {"noise": 0.4, "validation": "clean"}
    pairs = enumerate(zip(tuned, trained, strict=True))
    return [Row(f"rank-{k}", setting, 0, {"candidate": k, "fine_tuned": a, "from_scratch": b}) for k, (a, b) in pairs]


def test_page_shows_every_figure(tmp_path):
    names = ("uniform", "swift", "drop-0.2")
    rows = [row(name, seed, 70.0 + seed, noise=noise) for noise in (0, 0.4) for name in names for seed in (0, 1)]
    key = {"noise": 0.4, "validation": "clean", "seed": 0}
    search = {"winner": "swift", "message": "<won>", "kept": "uniform", "guard": "no better", "unguarded": 69.5}
    searches = [{"method": "swift", **key, **search, "scores": [50.0, 40.0, 60.0]}]
    scores = scored([50, 51, 52], [60, 59, 58])
    more = {"rank_study": scores, "rank_agreement": agreements(scores)}
    more = {name: [each.as_dict() for each in found] for name, found in more.items()}
    findings = findings_of(rows)
    write_page(tmp_path / "noise.html", "digits", findings, searches=searches, **more)
    shown = (tmp_path / "noise.html").read_text()
    assert shown.count('<figure class="chart">') == 2 + 1 + 2 + 1 + 1  # points, levels, cost, agents, ranks
    assert "&lt;won&gt;" in shown
    assert "rank study, 40% wrong labels, clean validation, 3 candidates, 1 seed(s)" in shown and "SR(RD)" in shown
    ((agents, _),) = agent_figures(searches)
    assert agents["data"][0]["y"] == [50.0, 50.0, 60.0]
    figure, _ = over_levels(findings)
    assert [trace["name"] for trace in figure["data"]] == ["Uniform", "Swift Sampler", "drop (best share in hindsight)"]
    assert [len(trace["y"]) for trace in figure["data"]] == [2, 2, 2]


def test_rank_study_trains_the_last_candidates_of_a_search(tmp_path, capsys):
    grid = grid_of(tmp_path, "uniform", candidates=3)
    result = run(grid)
    rows, cell = result["rank_study"], tmp_path / "noise-0.4/seed-0"
    search = json.loads((cell / "search-swift-rank-clean/search.json").read_text())
    done = [trial for trial in search["trials"] if trial["state"] == "complete"][-3:]
    assert [(each["candidate"], each["fine_tuned"]) for each in rows] == [(t["number"], t["value"]) for t in done]
    assert all(0.3 <= each["ess"] <= 1 for each in rows) and search["confirmation"] == []
    assert [each["from_scratch"] for each in rows] == [
        json.loads((cell / f"rank-{each['candidate']}/run.json").read_text())["result"]["last"] for each in rows
    ]
    shown = capsys.readouterr().out
    assert "rank study, 40% wrong labels, clean validation, 3 candidates, 1 seed(s)" in shown
    again = run(grid)
    assert again["rank_study"] == rows
    assert again["rank_agreement"] == result["rank_agreement"]
    with pytest.raises(ValueError, match="a rank study of 6 candidates needs a search of as many, but it has 5"):
        run(replace(grid, candidates=6))


def test_the_table_of_rank_studies_has_the_papers_measures():
    found = [{"random": r, "spearman": s, "true_rank": t} for r, s, t in ((0.1, 0.9, 1.0), (-0.5, None, 3.0))]
    table = rank_table(found, "title")
    assert table.rows == (
        ("SR(RD)", "−0.20", "0.10", "−0.50"),
        ("SR(SS)", "0.90", "0.90", "0.90"),
        ("TR", "2.00", "3.00", "1.00"),
    )


def test_each_model_is_a_block_of_its_own(tmp_path, capsys):
    rows = run(grid_of(tmp_path, "uniform", models=("mlp", "cnn")))["rows"]
    assert [row["model"] for row in rows if row["method"] == "uniform"] == ["mlp", "cnn"]
    shown = capsys.readouterr().out
    assert "clean validation, mlp, 1 seed(s)" in shown and "clean validation, cnn, 1 seed(s)" in shown


def test_speed_is_in_epochs_until_the_last_accuracy_of_uniform():
    curves = {
        "uniform": [50.0, 70.0, 60.0, 60.0],
        "swift": [40.0, 50.0, 55.0, 61.0],
        "drop-0.2": [10.0, 20.0, 30.0, 40.0],
    }
    rows = [row(name, seed, curve[-1], curve=curve) for name, curve in curves.items() for seed in (0, 1)]
    speeds = {each.entry.method: each.speed for each in findings_of(rows)}
    assert speeds == {"uniform": None, "swift": 0.5, "drop-0.2": None}


@pytest.mark.parametrize(
    ("tuned", "trained", "spearman", "true_rank"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0, 1),
        ([4, 3, 2, 1], [10, 20, 30, 40], -1.0, 4),
        ([1, 2, 9, 4], [10, 20, 30, 40], 0.8, 2),
        ([1, 9, 3, 4], [30, 20, 20, 40], -1 / 22.5**0.5, 3.5),
        ([5, 5, 5, 5], [10, 20, 30, 40], None, 4),
    ],
)
def test_agreement_of_two_scores(tuned, trained, spearman, true_rank):
    found = None if spearman is None else pytest.approx(spearman)
    (row,) = agreements(scored(tuned, trained))
    assert -1 <= row.values.pop("random") <= 1
    assert row.values == {"candidates": 4, "spearman": found, "true_rank": true_rank}
