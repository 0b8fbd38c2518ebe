"""What is said about a schedule: stages, segments, entropy, and the spread between children against its noise."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.samplers.orders.schedule import Schedule, write_schedule
from drawstream.search.auto.plan import stage_epochs
from drawstream.tools.report import cautions, compare, list_differences, pairs_of, verdicts, write_report
from drawstream.tools.report.data import name_folders
from drawstream.tools.report.groups import groups_of
from drawstream.tools.report.records import SearchRecord, TrialPoint, read_records
from drawstream.tools.report.schedules import (
    children_spread,
    correlation,
    count_stages,
    dispersion,
    effective_rows,
    segment_counts,
)
from drawstream.tools.report.searches import Curve, by_candidates, by_seconds, mean_steps, uniform_score
from shared.programs import cli
from shared.refusals import refused


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 8))
def test_stages_share_out_all_epochs_and_end_where_cycles_do(epochs, first, cycle):
    stages = stage_epochs(epochs, first=first, cycle=cycle)
    assert [epoch for stage in stages for epoch in stage] == list(range(epochs))
    assert all(stage for stage in stages) and len(stages) <= 3
    assert all((stage.stop - first) % cycle == 0 and stage.stop >= first for stage in stages[:-1])


def test_stages_are_thirds_as_far_as_cycles_allow():
    assert stage_epochs(240, first=20, cycle=4) == [range(80), range(80, 160), range(160, 240)]  # as in the paper
    assert stage_epochs(10, first=2, cycle=4) == [range(2), range(2, 6), range(6, 10)]
    assert stage_epochs(6) == [range(2), range(2, 4), range(4, 6)]
    assert stage_epochs(3, first=5, cycle=4) == [range(3)]


def test_counts_of_the_stages_are_those_of_the_schedule(tmp_path):
    orders = [np.array(order) for order in ([0, 0, 1], [2, 2, 2], [0, 1, 2], [3, 3, 3])]
    write_schedule(tmp_path / "s.arrow", orders, rows=5)
    schedule = Schedule.open(tmp_path / "s.arrow")
    counts = count_stages(schedule, [range(1), range(1, 3), range(3, 4)])
    assert counts.tolist() == [[2, 1, 0, 0, 0], [1, 1, 4, 0, 0], [0, 0, 0, 3, 0]]
    assert counts.sum(0).tolist() == schedule.counts().tolist()


def test_segments_follow_the_last_stage_and_their_mean_is_1():
    rng = np.random.default_rng(3)
    counts = rng.poisson(2.0, (3, 1000))
    parts = segment_counts(counts, segments=20)
    assert parts.shape == (3, 20)
    assert (np.diff(parts[-1]) >= 0).all()
    assert parts.mean(1) == pytest.approx([1, 1, 1])  # 20 equal segments
    same = segment_counts(np.stack([counts[0], counts[0]]), segments=20)
    assert same[0].tolist() == same[1].tolist()
    assert segment_counts(counts[:, :7], segments=20).shape == (3, 7)
    blocks = np.ones((2, 1000), np.int64)
    blocks[0] = np.repeat([0, 2], 500)  # all tie in the last stage: a segment is no block of neighbours
    assert segment_counts(blocks, segments=10)[0].min() > 0.5


def test_entropy_and_dispersion_know_permutations_and_independent_draws():
    rng = np.random.default_rng(0)
    rows = 20_000
    even = np.full(rows, 3)
    assert effective_rows(even) == pytest.approx(1)
    assert dispersion(even) == 0
    independent = np.bincount(rng.integers(0, rows, 3 * rows), minlength=rows)
    assert dispersion(independent) == pytest.approx(1, abs=0.05)
    preferred = np.bincount(rng.choice(rows, 3 * rows, p=np.arange(rows) / np.arange(rows).sum()), minlength=rows)
    assert dispersion(preferred) > 1.5
    assert effective_rows(preferred) < effective_rows(independent) < 1
    half = np.repeat([0, 4], rows // 2)
    assert effective_rows(half) == pytest.approx(0.5)


def test_correlation_is_none_where_one_side_is_constant():
    assert correlation(np.array([1, 1, 1]), np.array([1.0, 2.0, 3.0])) is None
    assert correlation(np.array([1, 2, 3]), np.array([1.0, 8.0, 27.0])) == pytest.approx((26 / 724**0.5, 1.0))


def rewards_of(real, rows, *, again=False):
    """Accuracies of 4 children over 400 intervals: true ones that differ by `real` per cent, counted on `rows` rows."""
    rng = np.random.default_rng(5)
    truth = 0.8 + real / 100 * rng.standard_normal((400, 4))
    first, second = (100 * rng.binomial(rows, truth) / rows for _ in range(2))
    return children_spread(first, rows, again=second if again else None)


def test_equal_children_are_spread_by_binomial_noise_alone():
    noise = rewards_of(0, 500, again=True)
    assert noise.binomial == pytest.approx(100 * np.sqrt(0.8 * 0.2 / 500), rel=1e-2)
    assert noise.between == pytest.approx(noise.binomial, rel=0.05)
    assert noise.gain == pytest.approx(1.03 * noise.between, rel=0.1)  # as the highest of 4 normal numbers
    assert abs(noise.repeated) < 0.25
    assert abs(noise.agreement) < 0.1


def test_children_that_differ_are_seen_on_the_other_rows_too():
    real = rewards_of(3, 5000, again=True)
    assert real.between > 4 * real.binomial
    assert real.repeated == pytest.approx(real.gain, rel=0.1)
    assert real.agreement > 0.9
    assert rewards_of(3, 5000).repeated is None


def test_rewards_must_be_accuracies_of_several_children():
    refused("at least 2 children", children_spread, np.zeros((5, 1)), 100)
    refused(r"\[0, 100\] %, but got -1\.5", children_spread, np.full((5, 2), -1.5), 100)


# Searches side by side: best so far, and the mean of step functions


floats = st.floats(-100, 100)


def record(trials):
    points = [TrialPoint(i, value, state, ess, seconds) for i, (value, state, ess, seconds) in enumerate(trials)]
    where = Path("x/search.json")
    return SearchRecord(where, {}, 3, where, where, (), where, "swift", "", tuple(points), ())


SEARCH = record(
    [
        (5.0, "complete", 1.0, 1.0),
        (None, "pruned", None, 0.25),
        (4.0, "complete", 0.5, 2.0),
        (None, "failed", 0.5, 3.0),
        (7.0, "complete", 0.4, 1.0),
    ]
)


def test_candidates_without_a_score_count_for_time_alone():
    assert by_candidates(SEARCH).x.tolist() == [1, 2, 3]
    assert by_candidates(SEARCH).y.tolist() == by_seconds(SEARCH).y.tolist() == [5, 5, 7]
    assert by_seconds(SEARCH).x.tolist() == [1, 3.25, 7.25]
    assert uniform_score(SEARCH.trials) == 5
    assert uniform_score(SEARCH.trials[1:]) is None
    empty = record([(None, "failed", 0.5, 1.0)])
    assert by_candidates(empty).x.size == by_seconds(empty).y.size == 0


def steps(curve, x):
    """The level at x by its definition: that of the last step at or before x."""
    return [float(curve.y[np.flatnonzero(curve.x <= each)[-1]]) for each in x]


@given(st.lists(st.lists(st.tuples(st.floats(0.01, 10), floats), min_size=1, max_size=8), min_size=1, max_size=5))
def test_the_mean_of_steps_is_the_mean_wherever_all_are_known(curves):
    made = [Curve("", np.cumsum([gap for gap, _ in each]), np.array([y for _, y in each])) for each in curves]
    mean = mean_steps(made)
    inside = [x for each in made for x in each.x if all(other.x[0] <= x <= other.x[-1] for other in made)]
    assert mean.x.tolist() == sorted(set(inside))
    assert mean.y.tolist() == pytest.approx(np.mean([steps(each, mean.x) for each in made], axis=0).tolist())


# Groups of runs that are averaged and compared, folders side by side, and the cases in which nothing may be said


def groups(*folders: Path):
    return groups_of(read_records(*folders, names=name_folders(folders))[0])


def means(found):
    return {entry.group.name: entry.spread.mean for entry in compare(found) if entry.kind == "last"}


def test_models_and_budgets_are_not_averaged(tmp_path: Path, make_run):
    for seed in (0, 1):
        for model, base in (("mlp", 70.0), ("cnn", 90.0)):
            for method, gain in (("uniform", 0.0), ("swift", 2.0)):
                make_run(tmp_path / f"{model}/{method}-{seed}", method, seed, base + gain + seed, model=model)
    found = groups(tmp_path)
    expected = {"Uniform, mlp": 70.5, "Swift Sampler, mlp": 72.5, "Uniform, cnn": 90.5, "Swift Sampler, cnn": 92.5}
    assert means(found) == expected
    assert {pair.group.name: pair.control.name for pair in pairs_of(found, {})} == {
        "Swift Sampler, mlp": "Uniform, mlp",
        "Swift Sampler, cnn": "Uniform, cnn",
    }
    assert [pair.last.mean for pair in pairs_of(found, {})] == [2.0, 2.0]
    make_run(tmp_path / "unif", "unif", 0, 60.0, sampling={"budget": 0.3})
    assert means(groups(tmp_path))["unif, mlp, budget 0.3"] == 60.0


def test_each_setting_has_its_control_first(tmp_path: Path, make_run):
    runs = [("p", 0.3, 5), ("unif", 0.3, 5), ("uniform", 1.0, 5), ("swift", 1.0, 5)]
    runs += [("scan", 0.3, 6), ("infobatch", 0.3, 6), ("unif", 0.3, 20)]
    for i, (method, budget, epochs) in enumerate(runs):
        make_run(tmp_path / f"{i}", method, sampling={"budget": budget}, recipe={"epochs": epochs})
    found = groups(tmp_path)
    assert {pair.group.method: pair.control and pair.control.telling for pair in pairs_of(found, {})} == {
        "p": "epochs 5, budget 0.3",
        "swift": "epochs 5, budget 1",
        "scan": "epochs 20, budget 0.3",  # B T of T epochs
        "infobatch": "epochs 20, budget 0.3",
    }
    settings = [dict(group.setting) for group in found]
    starts = [i for i, each in enumerate(settings) if i == 0 or settings[i - 1] != each]
    assert all(found[i].is_control for i in starts)


@pytest.mark.parametrize(("place", "names"), [("{}/seed-{}", ("cdf", "cgf")), ("{}-{}", ("cdf-*", "cgf-*"))])
def test_runs_of_one_seed_are_told_apart_by_their_folders(tmp_path: Path, make_run, place, names):
    for name, gain in (("cdf", 0.0), ("cgf", 5.0)):
        for seed in (0, 1):
            make_run(tmp_path / place.format(name, seed), "swift", seed, 80.0 + gain)
    assert means(groups(tmp_path)) == {f"Swift Sampler, {names[0]}": 80.0, f"Swift Sampler, {names[1]}": 85.0}


def test_several_folders_are_kept_apart_and_single_runs_averaged(tmp_path: Path, make_run):
    for name, gain in (("x", 0.0), ("y", 5.0)):
        for seed in (0, 1):
            make_run(tmp_path / f"{name}/u{seed}", "uniform", seed, 70.0 + gain + seed)
            make_run(tmp_path / f"{name}/s{seed}", "swift", seed, 80.0 + gain + seed)
    found = groups(tmp_path / "x", tmp_path / "y")
    assert list(means(found)) == ["x: Uniform", "x: Swift Sampler", "y: Uniform", "y: Swift Sampler"]
    assert [pair.last.mean for pair in pairs_of(found, {})] == [10.0, 10.0]
    singles = [tmp_path / "x" / name for name in ("u0", "u1", "s0", "s1")]
    assert means(groups(*singles)) == {"Uniform": 70.5, "Swift Sampler": 80.5}
    again = [tmp_path / "x/u0", tmp_path / "y/u0"]  # the same seed twice: two experiments
    assert list(means(groups(*again))) == ["x/u0: Uniform", "y/u0: Uniform"]
    mixed = pairs_of(groups(tmp_path / "x/u0", tmp_path / "y"), {})[0]
    assert mixed.control.name == "y: Uniform"  # the nearest


def test_a_control_of_another_folder_serves_where_there_is_no_nearer_one(tmp_path: Path, make_run):
    for seed in (0, 1):
        make_run(tmp_path / f"x/u{seed}", "uniform", seed, 70.0)
        make_run(tmp_path / f"y/s{seed}", "swift", seed, 80.0)
    (pair,) = pairs_of(groups(tmp_path / "x", tmp_path / "y"), {})
    assert pair.control.name == "x: Uniform" and pair.last.mean == 10.0


@pytest.mark.parametrize(("budget", "remedy"), [(1.0, "without --sampler"), (0.5, "with --sampler unif")])
def test_other_settings_have_no_control_and_the_nearest_is_named(tmp_path: Path, make_run, budget, remedy):
    sampling = {"budget": budget}
    make_run(tmp_path / "u", "uniform", sampling=sampling)
    make_run(tmp_path / "s", "swift", recipe={"epochs": 9}, sampling=sampling)
    found = groups(tmp_path)
    (told,) = verdicts(found, pairs_of(found, {}))
    for word in ("Swift Sampler, epochs 9", "epochs 9 against 5", remedy):
        assert word in told
    (unlike,) = cautions(found, {})
    assert "(epochs: 5, 9)" in unlike or "(epochs: 9, 5)" in unlike


@pytest.mark.parametrize("how", ["trained", "measured"])
def test_results_on_other_data_are_not_compared(tmp_path: Path, make_run, how: str):
    for seed in (0, 1):
        make_run(tmp_path / f"u{seed}", "uniform", seed, 70.0)
        other = {"catalog_fingerprint": "other"} if how == "trained" and seed else {}
        make_run(tmp_path / f"s{seed}", "swift", seed, 80.0 + 10 * seed, **other)
    judged = {tmp_path / f"{name}/run.json": "same" for name in ("u0", "u1", "s0", "s1")}
    if how == "measured":
        judged[tmp_path / "s1/run.json"] = "another"
    found = groups(tmp_path)
    (pair,) = pairs_of(found, judged)
    assert (pair.last.mean, pair.last.seeds) == (10.0, 1)
    (told,) = cautions(found, judged)
    assert f"were {how} on other data at seed 1" in told


def test_only_settings_that_differ_are_in_the_table(tmp_path: Path, make_run):
    for name, lr in (("x", 0.1), ("y", 0.2)):
        for seed in (0, 1):
            transform = {"mean": [lr], "pad": 4}
            make_run(tmp_path / name / f"{seed}", seed=seed, recipe={"lr": lr}, transform=transform)
    table = list_differences(groups(tmp_path / "x", tmp_path / "y"))
    assert re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table) == ["Setting", "x", "y", "lr", "0.1", "0.2"]
    assert list_differences(groups(tmp_path / "x")) == ""


def test_many_groups_have_a_summary_and_a_table(tmp_path: Path, make_run):
    for seed in (0, 1, 2):
        make_run(tmp_path / f"u{seed}", "uniform", seed, 70.0 + 0.1 * seed)
        for k in range(12):
            make_run(tmp_path / f"m{k}-{seed}", f"m{k:02}", seed, 70.0 + (5.0 if k == 3 else 0.0) + 0.1 * seed)
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "12 groups of runs" in page and "1 are better and 0 worse" in page
    assert '<th scope="row">m03</th><td>Uniform</td><td>+5.0</td>' in page


def test_folders_have_short_names_that_differ(tmp_path: Path):
    for name in ("a/x", "b/x", "c"):
        (tmp_path / name).mkdir(parents=True)
    assert name_folders([tmp_path / "c"]) == [""]
    assert name_folders([tmp_path / "a/x", tmp_path / "c"]) == ["x", "c"]
    assert name_folders([tmp_path / "a/x", tmp_path / "b/x"]) == ["a/x", "b/x"]
    for twice in ("a/x", "a"):
        refused("its runs would be counted twice", name_folders, [tmp_path / "a/x", tmp_path / twice])


def test_at_the_command_line(tmp_path: Path, make_run: pytest.CaptureFixture[str]):
    make_run(tmp_path / "x", "uniform", 0, 70.0)
    make_run(tmp_path / "y", "uniform", 1, 71.0)
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"
    cli("report", tmp_path / "x", tmp_path / "y", "-o", page)
    assert "x, y</h1>" in page.read_text()
    for words, told in (
        (["x", "y"], "2 folders: say with --out"),
        (["x", "empty", "-o", "page.html"], "empty: no run.json"),
    ):
        assert told in cli("report", *(word if word == "-o" else str(tmp_path / word) for word in words), status=2)


def test_records_say_when_and_where(tmp_path: Path, make_run):
    record = make_run(tmp_path / "x")
    assert record["machine"]["cores"] >= 1 and record["machine"]["cpu"]
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert record["finished"][:16].replace("T", " ") + " UTC" in page and record["machine"]["cpu"] in page


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"recipe": 3}, "its recipe must be an object"),
        ({"sampling": {"budget": 0}}, "its budget must be in (0, 1], but is 0"),
        ({"evaluation": {"test": "\0"}}, "no path"),
        ({"result": {"set": "test", "last": float("nan"), "best": 1.0, "best_epoch": 0}}, "a number is nan"),
        ({"history": [{"epoch": 0, "accuracy": {"test": 1e999}}]}, "a number is inf"),
        ({"seed": "x"}, "invalid literal"),
    ],
)
def test_a_record_with_other_values_than_a_jobs_is_damaged(tmp_path: Path, make_run, damage: dict, told: str):
    record = json.dumps({**make_run(tmp_path), **damage})
    (tmp_path / "run.json").write_text(record)
    assert f"{tmp_path / 'run.json'}: damaged record: " in refused(
        re.escape(told), write_report, tmp_path, tmp_path / "report.html"
    )
