"""Pages in the headless Chromium or Chrome of this machine: what a reader sees, and what the browser complains of.

The browser is the system's own: none is downloaded. Where there is none, these tests are skipped.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.features import FeatureTable
from drawstream.features.table.table import part_path, write_part
from drawstream.pipeline import ArraySource, Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.search import Proposals, search_swift
from drawstream.tools.report.build import write_report
from drawstream.tools.runs.record import write_record

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TABLET, DESKTOP = 768, 1440  # pixels; what is narrower is a phone
ROWS = 400


@dataclass
class Opened:
    """A page, and what the browser said while it was open."""

    page: object
    console: list[str] = field(default_factory=list)  # errors and warnings
    uncaught: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def complaints(self):
        return self.console + self.uncaught

    def walk(self):
        """Scroll to the end, so that all that is drawn when it comes into sight is drawn."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for y in range(0, height, 1500):
            self.page.evaluate(f"scrollTo(0, {y})")
            self.page.wait_for_timeout(60)
        self.until(DRAWN)
        self.page.evaluate("scrollTo(0, 0)")

    def until(self, expression, seconds=30):
        """Wait until an expression holds; playwright's own way needs eval(), which the pages forbid."""
        for _ in range(20 * seconds):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"after {seconds} s still not: {expression}")

    def sideways(self):
        """Pixels that the page can be scrolled to the right."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


DRAWN = """() => [...document.querySelectorAll('figure.chart')].every(figure => figure.closest('details:not([open])')
  || figure.querySelector('.plot .main-svg'))"""


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a file or an address: `open_page(target, width, dark=…, still=…)`."""
    contexts = []

    def act(target, width=DESKTOP, *, dark=False, still=False):
        phone = width < TABLET
        context = chromium.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if still else "no-preference",
            has_touch=phone,
            is_mobile=phone,
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda said: said.type in ("error", "warning") and opened.console.append(said.text))
        opened.page.on("pageerror", lambda error: opened.uncaught.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(target.as_uri() if isinstance(target, Path) else target)
        return opened

    yield act
    for context in contexts:
        context.close()


def write_run(folder, method, seed, last, *, catalog=None, **changed):
    """The record of a run of five epochs whose test accuracy ends at `last`."""
    history = [
        {"epoch": i, "loss": 1.0, "accuracy": {"held_out": 60.0 + i, "test": last - 4 + i}, "seconds": 1.0, "wait": 0.0}
        for i in range(5)
    ]
    recipe = {"epochs": 5, "lr": 0.1, "seed": seed}
    content = {"method": method, "seed": seed, "model": "mlp", "catalog": catalog or folder / "absent"}
    content |= {"recipe": recipe, "history": history, "seconds": 5.0}
    content |= {"result": {"set": "test", "last": last, "best": last, "best_epoch": 4}, **changed}
    if catalog is not None:
        content["catalog_fingerprint"] = Catalog.open(catalog).fingerprint
    return write_record(folder / "run.json", "train", content)


def write_search(folder, seed=0, classes=()):
    """Packed digits with wrong labels, features that betray them, and a search over them; the folder of the data."""
    digits = load_digits()
    images, labels = (digits.images[:ROWS] * 15.9375).astype(np.uint8), digits.target[:ROWS]
    data = pack(ArraySource(images, labels, classes, name="digits"), folder / "data", label_noise=0.4).train
    catalog = Catalog.open(data)
    rng = np.random.default_rng(seed)
    noisy = catalog.label != catalog.clean_label
    columns = {"sample_id": np.arange(ROWS), "crop": np.zeros(ROWS, np.int32), "label": catalog.label}
    columns |= {"loss": (rng.gamma(2, 0.3, ROWS) + 2.5 * noisy).astype(np.float32)}
    columns |= {"entropy": (rng.gamma(2, 0.5, ROWS) + ~noisy).astype(np.float32)}
    (folder / "features").mkdir()
    write_part(part_path(folder / "features", 0), columns, {"catalog": catalog.fingerprint, "parts": 1})
    table = FeatureTable.open(folder / "features")

    def objective(probabilities, trial):
        return 50 + 40 * float(probabilities[~noisy].sum()) + 0.01 * (trial.seed % 7)

    names = ("loss", "entropy")
    options = {"features": names, "transform": "cdf", "mass": None, "proposals": Proposals(6, "random", min_ess=0.2)}
    found = search_swift(table.columns(*names), objective, **options)
    found.sampler.save(folder / "sampler.json")
    trials = [
        {"number": t.number, "params": None, "value": t.value, "state": t.state, "ess": t.ess, "seconds": 1.0}
        for t in found.trials
    ]
    content = {"seed": seed, "catalog": data, "features": folder / "features", "sampler": folder / "sampler.json"}
    content |= {"winner": found.winner, "message": found.message, "trials": trials, "seconds": 1.0}
    content["confirmation"] = [{"candidate": c.candidate, "seed": c.seed, "value": c.value} for c in found.confirmation]
    write_record(folder / "search.json", "search", content)
    return data


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Three seeds of two methods, two searches: as a demo leaves them."""
    folder = tmp_path_factory.mktemp("demo")
    for seed in (0, 1):
        (folder / f"seed-{seed}").mkdir()
        data = write_search(folder / f"seed-{seed}", seed)
        for method, last in (("uniform", 70.0), ("swift", 90.0)):
            write_run(folder / f"seed-{seed}/{method}", method, seed, last + seed, catalog=data)
    return folder


@pytest.fixture(scope="session")
def demo_page(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(demo, out)
    return out


@pytest.fixture(scope="session")
def make_run():
    return write_run


@pytest.fixture(scope="session")
def make_search():
    return write_search
