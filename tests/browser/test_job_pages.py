"""Pages of real jobs, small ones: the demo, a crop table, a schedule search, one training, and the three benchmarks."""

from dataclasses import replace

import pytest
from safetensors.torch import save_file

from drawstream.tools import demo as demos
from drawstream.tools.bench.auto import grid as auto_grid
from drawstream.tools.bench.auto.cell import Settings
from drawstream.tools.bench.noise import grid as noise_grid
from drawstream.tools.cli.app import main
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.models import build_model

pytestmark = pytest.mark.slow
BENCHES = {
    "noise": ("--noise", "0,0.4", "--methods", "uniform,swift,drop", "--seeds", "0,1"),
    "auto": ("--noise", "0.4", "--methods", "uniform,best-of,mixture"),
    "budget": (
        "--methods",
        "full,unif,p,infobatch,coreset-random",
        "--budgets",
        "0.5",
        "--seeds",
        "0,1",
        "--processes",
        1,
    ),
}


@pytest.fixture(scope="module")
def small():
    """400 digits, 2 epochs, 4 candidates."""
    with pytest.MonkeyPatch.context() as patch:
        recipes = {"recipe": Recipe(2, 0.05), "fine_tune": Recipe(1, 0.02), "confirm": Recipe(1, 0.02)}
        plan = replace(
            demos.PLANS["digits"], limit=500, holdout=100, trials=4, confirm_top=1, confirm_seeds=2, **recipes
        )
        patch.setitem(demos.PLANS, "digits", plan)
        patch.setitem(noise_grid.CHANGED, "digits", {"trials": 4, "confirm_seeds": 2})
        settings = Settings(epochs=2, population=2, interval=5, first=1, permutations=1, reward_rows=40)
        patch.setitem(auto_grid.SETTINGS, "digits", settings)
        yield


def run(*words):
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture(scope="module")
def pages(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("jobs")
    run("demo", "--seeds", "0,1", "-o", root / "demo")
    cell = root / "demo/seed-0"
    data = ("--model", "mlp", "--held-out", cell / "data/holdout")
    run("train", cell / "data/train", "-o", root / "one", *data, "--epochs", 2)
    start, scored = root / "w.safetensors", root / "crops/f"
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), start)
    run("features", cell / "data/train", "-o", scored, "--model", "mlp", "--weights", start, "--crops", 3)
    of_search = ("--transform", "cdf", "--trials", 3, "--fine-tune-epochs", 0.5, "--epochs", 1, "--confirm-seeds", 2)
    where = ("--catalog", cell / "data/train", *data, "--start", start)
    run("search", "swift", scored, "-o", root / "crops/search", *where, *of_search)
    few = ("--epochs", 2, "--population", 2, "--explore-after", 1, "--permutations", 1, "--interval", 5)
    few += ("--reward-rows", 60)
    run("search", "auto", cell / "data/train", "-o", root / "auto", *data, *few)
    for name in ("one", "crops", "auto"):
        run("report", root / name)
    for name, words in BENCHES.items():
        run("bench", name, "--data", "digits", "-o", root / f"bench-{name}", *words)
    made = {name: root / name / "report.html" for name in ("demo", "one", "crops")}
    return (
        made
        | {"auto": root / "auto/report.html"}
        | {f"bench {name}": root / f"bench-{name}/{name}.html" for name in BENCHES}
    )


@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("name", ["demo", "one", "crops", "auto", "bench noise", "bench auto", "bench budget"])
def test_pages_of_real_jobs(pages, open_page, name, width):
    opened = open_page(pages[name], width)
    for summary in opened.page.locator("details > summary").all():
        if summary.is_visible():
            summary.click()
    opened.walk()
    assert opened.complaints() == []
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [pages[name].as_uri()]
    assert opened.sideways() <= 0
    hidden = "[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length"
    assert opened.page.evaluate(hidden) == 0
    assert opened.page.evaluate("document.querySelectorAll('.plot .main-svg').length") > 0
    cut = opened.page.evaluate(CUT)
    assert cut == []


CUT = """[...document.querySelectorAll('.plot')].filter(plot => plot.clientWidth).flatMap(plot => {
  const a = plot.getBoundingClientRect();
  const outside = b => b.left < a.left - 2 || b.right > a.right + 2 || b.top < a.top - 2 || b.bottom > a.bottom + 2;
  return [...plot.querySelectorAll('.g-xtitle text, .g-ytitle text, .legendtext, .xtick text, .ytick text')]
    .filter(text => text.getBoundingClientRect().width && outside(text.getBoundingClientRect()))
    .map(text => text.textContent);
})"""
