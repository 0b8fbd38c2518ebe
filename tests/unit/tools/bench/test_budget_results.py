"""Results of the budget benchmark: controls, the verdict, costs, claims, the page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from drawstream.tools.bench.budget.cell import METHODS, Common
from drawstream.tools.bench.budget.claims import claims
from drawstream.tools.bench.budget.grid import points_of
from drawstream.tools.bench.budget.page import (
    coreset_figure,
    evenness_figure,
    headline,
    pareto_figure,
    schedule_figures,
    tables,
    variability_figure,
    write_page,
)
from drawstream.tools.bench.budget.results import checks, control_budgets, findings_of
from drawstream.tools.cli import BudgetGrid
from drawstream.tools.experiments.results import Row
from drawstream.tools.training import RECIPES, Framing, Recipe, named_recipe

N, T = 1000, 10


def row(method, budget, seed, last, *, effective=None, augment="none", schedule="linear", **more):
    """A row whose seconds follow its compute."""
    measured = budget if effective is None else effective
    work = {"forward": round(measured * N * T), "backward": round(measured * N * T)}
    counts = {"count_entropy": np.log(0.9 * N), "effective_rows": 0.9}
    compute = {"effective_budget": measured, "prepare_budget": 0.0, "seconds": 10 * measured}
    values = {"last": last, "best": last, **work, **counts, **compute, **more}
    return Row(method, {"budget": budget, "augment": augment, "schedule": schedule}, seed, values)


def rows_of(method, budget, lasts, **more):
    return [row(method, budget, seed, last, **more) for seed, last in enumerate(lasts)]


def compared(rows):
    return [each for each in findings_of(rows) if each.gain]


def test_a_method_is_compared_with_uniform_draws_of_no_less_compute():
    uniform = [*rows_of("unif", 0.3, [88, 88]), *rows_of("unif", 0.5, [89, 89]), *rows_of("full", 1.0, [90, 90])]
    for effective, control in ((0.3, 0.3), (0.3004, 0.3), (0.31, 0.5), (0.5, 0.5), (0.633, 1.0), (0.999, 1.0)):
        (found,) = compared([*uniform, *rows_of("sb", 0.3, [89.5, 89.5], effective=effective)])
        assert found.control.setting["budget"] == control
        assert not found.short
    (beyond,) = compared([*uniform, *rows_of("coreset-forgetting", 0.3, [89, 89], prepare_budget=1.0)])
    assert beyond.effective == pytest.approx(1.3)
    assert beyond.control.method == "full"
    assert beyond.short


def test_only_uniform_draws_of_the_same_augmentation_schedule_and_seeds_are_controls():
    rows = rows_of("p", 0.3, [80, 81]) + rows_of("unif", 0.3, [70, 70], schedule="step")
    assert compared(rows) == []
    (found,) = compared(rows + rows_of("unif", 0.3, [90, 90]))
    assert (found.gain.mean, found.gain.seeds) == (-9.5, 2)
    (found,) = compared([*rows, row("unif", 0.3, 1, 80), row("unif", 0.3, 2, 60)])
    assert (found.gain.mean, found.gain.seeds) == (1, 1)


def test_controls_are_made_where_the_grid_has_none_within_five_per_cent():
    uniform = rows_of("unif", 0.3, [88]) + rows_of("full", 1.0, [90])
    assert control_budgets(findings_of([*uniform, *rows_of("p", 0.3, [88])])) == []
    rows = [
        *uniform,
        *rows_of("sb", 0.3, [88], effective=0.6333),
        *rows_of("rho", 0.3, [88], effective=0.35, prepare_budget=0.27),  # 0.62: the control of sb will do
        *rows_of("dlis", 0.3, [88], effective=0.412),
        *rows_of("coreset-k_center", 0.3, [88], prepare_budget=1.0),  # beyond a full training
    ]
    assert control_budgets(findings_of(rows)) == [("none", "linear", 0.64), ("none", "linear", 0.42)]
    step = rows_of("sb", 0.3, [88], effective=0.6333, schedule="step")
    assert ("none", "step", 0.64) in control_budgets(findings_of(rows + step))
    rows += rows_of("unif", 0.64, [89]) + rows_of("unif", 0.42, [88])
    assert control_budgets(findings_of(rows)) == []  # nothing is wanted twice
    for found in compared(rows):
        e = found.effective
        assert found.short or e <= found.control.mean("effective_budget") <= 1.05 * e


def test_the_verdict_counts_what_the_intervals_show():
    level = rows_of("unif", 0.3, [88.0, 88.2, 88.1]) + rows_of("c", 0.3, [88.0, 88.1, 88.2])
    (none,) = headline(findings_of(level))
    assert "Of 1 comparisons" in none and "0 show a better method, 0 a worse one" in none
    won = headline(findings_of([*level, *rows_of("p", 0.3, [89, 89.21, 89.1]), *rows_of("sb", 0.3, [80, 80, 80.5])]))
    assert "Of 3 comparisons" in won[0] and "1 show a better method, 1 a worse one" in won[0]
    assert won[1].startswith("Better: p at B = 0.3 (no augmentation, linear schedule)")
    assert "+1.00 (+0.99 to +1.02) points over unif 0.3, higher at 3 of 3 seeds" in won[1]
    (single,) = headline(findings_of(rows_of("p", 0.3, [99]) + rows_of("unif", 0.3, [88])))
    assert single.startswith("One seed has no interval, so nothing is said")
    assert headline([]) == ["Nothing but uniform draws was run, so nothing is compared."]


def test_costs_are_pairs_of_the_same_seed_and_place():
    rows = [
        *(row("unif", 0.3, seed, 88, seconds=10.0 * (seed + 1)) for seed in range(3)),
        *(row("p", 0.3, seed, 88, seconds=10.0 * (seed + 1) * ratio) for seed, ratio in enumerate((1.01, 1.0, 1.3))),
        *(row("sb", 0.3, seed, 88, effective=0.6, seconds=21.0 * (seed + 1)) for seed in range(3)),
        *(row("osgd", 0.3, seed, 88, effective=0.2, seconds=7.0 * (seed + 1)) for seed in range(3)),
        *rows_of("coreset-random", 0.3, [80, 80, 80]),
    ]
    found = {check.text: check for check in checks(findings_of(rows))}
    p = found["training time of p relative to unif"]
    assert p.ratios == pytest.approx((1.01, 1.0, 1.3))
    assert (p.value, p.met) == (pytest.approx(1.01), True)
    sb = found["time of sb per counted row relative to unif"]
    assert (sb.value, sb.met) == (pytest.approx(1.05), True)
    osgd = found["time of osgd per counted row relative to unif"]
    assert (osgd.value, osgd.met) == (pytest.approx(1.05), False)
    assert "1.050 (1.050 to 1.050 over 3 pairs), must be at most 1.02: MISSED" in osgd.line
    assert len(found) == 3  # a core-set has nothing to keep to


@pytest.fixture(scope="module")
def findings():
    """All methods, two budgets and schedules, two seeds; and the uniform runs that they need."""
    rng = np.random.default_rng(0)
    effective = {"sb": 1 / 3, "dlis": 0.2}
    share = {"p": 0.8, "coreset-random": 0.3}
    rows = []
    for p in points_of(BudgetGrid(methods=METHODS, budgets=(0.1, 0.3), seeds=(0, 1))):
        last = 88 + rng.normal(0, 0.2) - (1.0 if p.schedule == "step" else 0) - 3 * p.method.startswith("coreset")
        more = {"effective": p.budget + effective.get(p.method, 0), "count_entropy": np.log(share.get(p.method, 0.95))}
        more |= {"prepare_budget": 1.0 * (p.method in ("coreset-forgetting", "coreset-k_center"))}
        rows.append(row(p.method, p.budget, p.seed, last, schedule=p.schedule, **more))
    for _, schedule, budget in control_budgets(findings_of(rows)):
        rows += rows_of("unif", budget, [88.2, 88.3], schedule=schedule)
    return findings_of(rows)


@pytest.fixture(scope="module")
def linear(findings):
    return [each for each in findings if each.entry.setting["schedule"] == "linear"]


def test_claims_of_the_paper_stand_beside_numbers(findings):
    found = claims(findings)
    assert any("over unif of the same measured compute, which is +0.33 above B" in ours for ours in found.values())
    assert "Better for 19 of 19 methods" in found["The linear schedule is better than steps for every method (Tab. 2)."]
    assert claims(findings_of(rows_of("unif", 0.3, [88]))) == {}


def test_the_table_has_the_control_first_and_every_entry(findings):
    first, second = tables(findings)
    lines = first.text().splitlines()
    assert lines[0] == "no augmentation, linear schedule, 2 seed(s)"
    assert [line.split()[0] for line in lines[2:5]] == ["full", "unif", "scan"]
    assert re.search(r"coreset-k_center +0.3 +0.300 \+ 1.00 .*full \(less\)", first.text())
    assert len(first.rows) + len(second.rows) == len(findings)


def test_figures_show_the_uniform_control(findings, linear):
    pareto, _ = pareto_figure(linear)
    control = pareto["data"][0]
    assert control["name"] == "unif, full"
    assert control["x"] == sorted(control["x"])
    assert control["x"][-1] == 1
    assert {trace["name"] for trace in pareto["data"][1:]} == set(METHODS) - {"unif", "full"}
    fixed, _ = coreset_figure(linear)
    assert fixed["data"][0]["name"] == "unif"
    assert fixed["layout"]["shapes"]  # the full training
    assert coreset_figure([each for each in linear if each.method == "unif"]) is None
    small = [each for each in linear if each.budget == 0.3]
    even, _ = evenness_figure(small)
    assert even["data"][0]["y"].count("unif") == 1
    ((schedules, _),) = filter(None, schedule_figures([each for each in findings if each.budget == 0.3]))
    assert [len(trace["x"]) for trace in schedules["data"]] == [18, 18]
    assert schedule_figures(small) == [None]


def test_the_figure_of_variability_has_p_and_its_ablation_under_every_schedule(findings):
    figure, caption = variability_figure(findings)
    assert [trace["name"] for trace in figure["data"]] == ["unif", "p", "p-no-smoothing", "p-last"]
    assert {told for trace in figure["data"] for told in trace["customdata"]} == {
        "linear schedule, none",
        "step schedule, none",
    }
    assert all(len(trace["x"]) == 2 for trace in figure["data"]) and "B = 0.3" in caption
    assert variability_figure([each for each in findings if each.method == "unif"]) is None


def test_the_table_has_the_time_saved_over_a_full_training():
    rows = [*rows_of("full", 1.0, [90, 90], seconds=8.0), *rows_of("p", 0.8, [90, 90], seconds=6.0)]
    (table,) = tables(findings_of(rows))
    column = list(table.head).index("speed-up, %")
    assert [each[column] for each in table.rows] == ["0.0", "25.0"]


def test_the_page_holds_the_verdict_the_control_and_every_number(findings, tmp_path):
    common = Common(tmp_path, tmp_path, tmp_path, "mlp", 32, Recipe(T, 0.05), 5, 1)
    write_page(tmp_path / "budget.html", findings, checks(findings), common=common, processes=2)
    page = (tmp_path / "budget.html").read_text()
    text = page.partition("<script>")[0]
    assert headline(findings)[0] in text
    assert "The control of a method is uniform drawing" in text
    assert all(f">{each.method}</th>" in text for each in findings)
    assert "2 run(s) at a time" in text
    charts = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(charts) == 9
    assert all(json.loads(chart)["data"] for chart in charts)
    assert "src=" not in text.replace("img-src", "")


def test_the_colours_of_a_recipe_hold_and_flips_can_be_left_out(tmp_path):
    common = Common(tmp_path, tmp_path, tmp_path, "mlp", 32, named_recipe("ss-imagenet"), 5, 1, flip=False)
    framing = common.setup("standard").framing
    assert framing.jitter == RECIPES["ss-imagenet"]["jitter"] and not framing.flip
    assert replace(common, recipe=named_recipe("bt"), flip=True).setup("standard").framing == Framing()
