"""Groups of runs that are averaged and compared, folders side by side, and the cases in which nothing may be said."""

import json
import re
from pathlib import Path

import pytest

from drawstream.tools.cli.app import main
from drawstream.tools.report.build import write_report
from drawstream.tools.report.comparison import cautions, compare, pairs_of, verdicts
from drawstream.tools.report.data import name_folders
from drawstream.tools.report.differences import list_differences
from drawstream.tools.report.groups import groups_of
from drawstream.tools.report.records import read_records


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
        with pytest.raises(ValueError, match="its runs would be counted twice"):
            name_folders([tmp_path / "a/x", tmp_path / twice])


def test_at_the_command_line(tmp_path: Path, make_run, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path / "x", "uniform", 0, 70.0)
    make_run(tmp_path / "y", "uniform", 1, 71.0)
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "x"), str(tmp_path / "y"), "-o", str(page)]) == 0
    assert "x, y</h1>" in page.read_text()
    for words, told in (
        (["x", "y"], "2 folders: say with --out"),
        (["x", "empty", "-o", "page.html"], "empty: no run.json"),
    ):
        assert main(["report", *(word if word == "-o" else str(tmp_path / word) for word in words)]) == 2
        assert told in capsys.readouterr().err


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
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        write_report(tmp_path, tmp_path / "report.html")
    assert f"{tmp_path / 'run.json'}: damaged record: " in str(caught.value)
