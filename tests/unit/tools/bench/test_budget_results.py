"""What the rows of the budget benchmark are taken to say: controls, the verdict, costs, claims, the page."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

from drawstream.tools.bench.budget.figures import coreset_figure, evenness_figure, pareto_figure, schedule_figure
from drawstream.tools.bench.budget.grid import METHODS, Grid, Point
from drawstream.tools.bench.budget.page import write_page
from drawstream.tools.bench.budget.verdict import chance, checks, compare, control_budgets, summarise
from drawstream.tools.bench.budget.words import claims, format_table, headline
from drawstream.tools.training.loop import Recipe

N, T = 1000, 10


def row(method, budget, seed, last, *, effective=None, augment="none", schedule="linear", **more):
    """A row whose seconds follow its compute."""
    measured = budget if effective is None else effective
    work = {"forward": round(measured * N * T), "backward": round(measured * N * T)}
    counts = {"count_entropy": np.log(0.9 * N), "effective_rows": 0.9}
    where = {"method": method, "budget": budget, "augment": augment, "schedule": schedule, "seed": seed}
    compute = {"effective_budget": measured, "prepare_budget": 0.0, "seconds": 10 * measured}
    return {**where, "last": last, "best": last, **work, **counts, **compute, **more}


def rows_of(method, budget, lasts, **more):
    return [row(method, budget, seed, last, **more) for seed, last in enumerate(lasts)]


def one(rows):
    """The single comparison of some rows."""
    (found,) = compare(summarise(rows))
    return found


def test_a_method_is_compared_with_uniform_draws_of_no_less_compute():
    uniform = [*rows_of("unif", 0.3, [88, 88]), *rows_of("unif", 0.5, [89, 89]), *rows_of("full", 1.0, [90, 90])]
    for effective, control in ((0.3, 0.3), (0.3004, 0.3), (0.31, 0.5), (0.5, 0.5), (0.633, 1.0), (0.999, 1.0)):
        found = one([*uniform, *rows_of("sb", 0.3, [89.5, 89.5], effective=effective)])
        assert found.control.budget == control
        assert not found.short
    beyond = one([*uniform, *rows_of("coreset-forgetting", 0.3, [89, 89], prepare_budget=1.0)])
    assert beyond.entry.effective == pytest.approx(1.3)
    assert beyond.control.method == "full"
    assert beyond.short


def test_other_augmentations_and_schedules_are_no_controls():
    rows = rows_of("p", 0.3, [80, 81]) + rows_of("unif", 0.3, [70, 70], schedule="step")
    assert compare(summarise(rows)) == []
    assert one(rows + rows_of("unif", 0.3, [90, 90])).points == -9.5


@pytest.mark.parametrize(
    ("method", "control", "beats"),
    [
        ([89.0, 89.2], [88.0, 88.2], True),
        ([88.3, 88.3], [88.0, 88.4], False),  # +0.1, and the control spreads by 0.28
        ([88.0, 90.0], [88.0, 88.0], False),  # +1, and the method spreads by 1.41
        ([87.0, 87.0], [88.0, 88.0], False),
        ([88.0, 88.0], [88.0, 88.0], False),  # equal
        ([99.0], [88.0], None),  # one seed says nothing
    ],
)
def test_beating_takes_more_than_the_larger_deviation(method, control, beats):
    found = one(rows_of("p", 0.3, method) + rows_of("unif", 0.3, control))
    assert found.beats is beats
    assert found.points == pytest.approx(np.mean(method) - np.mean(control))


def test_only_common_seeds_are_compared():
    rows = [*rows_of("p", 0.3, [90, 91]), row("unif", 0.3, 1, 90), row("unif", 0.3, 2, 60)]
    assert one(rows).points == 1
    assert one(rows).seeds == 1


def test_controls_are_made_where_the_grid_has_none_within_five_per_cent():
    uniform = rows_of("unif", 0.3, [88]) + rows_of("full", 1.0, [90])
    assert control_budgets(summarise([*uniform, *rows_of("p", 0.3, [88])])) == []
    rows = [
        *uniform,
        *rows_of("sb", 0.3, [88], effective=0.6333),
        *rows_of("rho", 0.3, [88], effective=0.35, prepare_budget=0.27),  # 0.62: the control of sb will do
        *rows_of("dlis", 0.3, [88], effective=0.412),
        *rows_of("coreset-k_center", 0.3, [88], prepare_budget=1.0),  # beyond a full training
    ]
    assert control_budgets(summarise(rows)) == [("none", "linear", 0.64), ("none", "linear", 0.42)]
    step = rows_of("sb", 0.3, [88], effective=0.6333, schedule="step")
    assert ("none", "step", 0.64) in control_budgets(summarise(rows + step))
    entries = summarise(rows + rows_of("unif", 0.64, [89]) + rows_of("unif", 0.42, [88]))
    assert control_budgets(entries) == []  # nothing is wanted twice
    for found in compare(entries):
        assert found.short or found.entry.effective <= found.control.effective <= 1.05 * found.entry.effective


def test_chance_is_what_equal_methods_give():
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(1500):
        rows = rows_of("p", 0.3, rng.normal(88, 0.3, 3)) + rows_of("unif", 0.3, rng.normal(88, 0.3, 3))
        passed += bool(one(rows).beats)
    assert passed / 1500 == pytest.approx(chance(3), abs=0.025)
    assert chance(2) > chance(3) > chance(5) > 0


def test_the_verdict_counts_winners_beside_what_chance_gives():
    level = rows_of("unif", 0.3, [88.0, 88.2, 88.1]) + rows_of("c", 0.3, [88.0, 88.1, 88.2])
    none = headline(compare(summarise(level)))
    assert len(none) == 1
    assert none[0].startswith("None of 1 comparisons are above uniform draws by more than one standard deviation")
    assert "about 0.1 would be above by chance" in none[0]
    won = headline(
        compare(summarise([*level, *rows_of("p", 0.3, [89, 89.1, 89.2]), *rows_of("sb", 0.3, [80, 80, 81])]))
    )
    assert won[0].startswith("1 of 3 comparisons is above")
    assert "1 is as far below" in won[0]
    assert won[1].startswith("Above: p at B = 0.3 (no augmentation, linear schedule)")
    assert "+1.00 points over unif" in won[1]
    single = headline(compare(summarise(rows_of("p", 0.3, [99]) + rows_of("unif", 0.3, [88]))))
    assert single[0].startswith("One seed has no standard deviation, so nothing is said")
    assert headline([]) == ["Nothing but uniform draws was run, so nothing is compared."]


def test_costs_are_pairs_of_the_same_seed_and_place():
    rows = [
        *(row("unif", 0.3, seed, 88, seconds=10.0 * (seed + 1)) for seed in range(3)),
        *(row("p", 0.3, seed, 88, seconds=10.0 * (seed + 1) * ratio) for seed, ratio in enumerate((1.01, 1.0, 1.3))),
        *(row("sb", 0.3, seed, 88, effective=0.6, seconds=21.0 * (seed + 1)) for seed in range(3)),
        *(row("osgd", 0.3, seed, 88, effective=0.2, seconds=7.0 * (seed + 1)) for seed in range(3)),
        *rows_of("coreset-random", 0.3, [80, 80, 80]),
    ]
    found = {check.text: check for check in checks(summarise(rows))}
    p = found["training time of p relative to unif"]
    assert (p.value, p.low, p.high, p.pairs, p.met) == (pytest.approx(1.01), 1.0, pytest.approx(1.3), 3, True)
    sb = found["time of sb per counted row relative to unif"]
    assert sb.value == pytest.approx(1.05)
    assert sb.met
    osgd = found["time of osgd per counted row relative to unif"]
    assert osgd.value == pytest.approx(1.05)
    assert not osgd.met
    assert "1.050 (1.050 to 1.050 over 3 pairs), must be at most 1.02: MISSED" in osgd.line
    assert len(found) == 3  # a core-set has nothing to keep to


@pytest.fixture(scope="module")
def entries():
    """All methods, two budgets and schedules, two seeds; and the uniform runs that they need."""
    rng = np.random.default_rng(0)
    effective = {"sb": 1 / 3, "dlis": 0.2}
    share = {"p": 0.8, "coreset-random": 0.3}
    rows = []
    for p in Grid(METHODS, (0.1, 0.3), seeds=(0, 1)).points():
        last = 88 + rng.normal(0, 0.2) - (1.0 if p.schedule == "step" else 0) - 3 * p.method.startswith("coreset")
        more = {"effective": p.budget + effective.get(p.method, 0), "count_entropy": np.log(share.get(p.method, 0.95))}
        more |= {"prepare_budget": 1.0 * (p.method in ("coreset-forgetting", "coreset-k_center"))}
        rows.append(row(p.method, p.budget, p.seed, last, schedule=p.schedule, **more))
    for _, schedule, budget in control_budgets(summarise(rows)):
        rows += rows_of("unif", budget, [88.2, 88.3], schedule=schedule)
    return summarise(rows)


def test_claims_of_the_paper_stand_beside_numbers(entries):
    found = dict(claims(entries, compare(entries)))
    assert any("over unif of the same measured compute, which is +0.33 above B" in ours for ours in found.values())
    assert "Better for 15 of 15 methods" in found["The linear schedule is better than steps for every method (Tab. 2)."]
    assert claims(summarise(rows_of("unif", 0.3, [88])), []) == []


def test_the_table_has_the_control_first_and_every_entry(entries):
    text = format_table(entries, compare(entries))
    lines = text.splitlines()
    assert lines[1] == "no augmentation, linear schedule, 2 seed(s)"
    assert [line.split()[0] for line in lines[3:6]] == ["full", "unif", "scan"]
    assert re.search(r"coreset-k_center +0.3 +0.300 \+ 1.00 .*full \(less\)", text)


def test_figures_show_the_uniform_control(entries):
    linear = [entry for entry in entries if entry.schedule == "linear"]
    pareto = pareto_figure(linear)
    control = pareto["data"][0]
    assert control["name"] == "unif, full"
    assert control["x"] == sorted(control["x"])
    assert control["x"][-1] == 1
    assert {trace["name"] for trace in pareto["data"][1:]} == set(METHODS) - {"unif", "full"}
    fixed = coreset_figure(linear)
    assert fixed["data"][0]["name"] == "unif"
    assert fixed["layout"]["shapes"]  # the full training
    assert coreset_figure([entry for entry in linear if entry.method == "unif"]) is None
    small = [entry for entry in linear if entry.budget == 0.3]
    assert evenness_figure(small)["data"][0]["y"].count("unif") == 1
    both = [entry for entry in entries if entry.budget == 0.3]
    assert [len(trace["x"]) for trace in schedule_figure(both)["data"]] == [14, 14]
    assert schedule_figure(small) is None


def test_the_page_holds_the_verdict_the_control_and_every_number(entries, tmp_path, common):
    comparisons = compare(entries)
    write_page(tmp_path / "budget.html", entries, comparisons, checks(entries), common=common, processes=2)
    page = (tmp_path / "budget.html").read_text()
    text = page.partition("<script>")[0]
    assert headline(comparisons)[0] in text
    assert "The control of a method is uniform drawing" in text
    assert all(f">{entry.method}</th>" in text for entry in entries)
    assert "2 run(s) at a time" in text
    charts = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(charts) == 8
    assert all(json.loads(chart)["data"] for chart in charts)
    assert "src=" not in text.replace("img-src", "")


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    """What the runs of a page had in common."""
    from drawstream.tools.bench.budget.grid import Common

    folder = tmp_path_factory.mktemp("data")
    return Common(folder, folder, folder, "mlp", 32, Recipe(T, 0.05), 5, 1)


def test_every_seed_has_an_order_of_its_own_and_the_same_points():
    points = Grid(METHODS, (0.1, 0.3), ("none", "ricap"), ("linear",), (0, 1, 2)).points()
    assert len(points) == len(set(points)) == 3 * 2 * (1 + 2 * 14)
    assert len({point.folder for point in points}) == len(points)
    orders = [[p.method for p in points if (p.seed, p.augment, p.budget) == (seed, "none", 0.3)] for seed in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len({tuple(order) for order in orders}) == 3
    before = [{after: one for one, after in pairwise(order)} for order in orders]
    assert len({each.get("p") for each in before}) > 1  # p-SGD does not always follow the same method
    assert Point("full", 1.0, "none", "linear", 0) in points
