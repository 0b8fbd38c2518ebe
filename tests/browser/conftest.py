"""Pages in the headless Chromium or Chrome of this machine: what a reader sees, and what the browser complains of.

The browser is the system's own: none is downloaded. Where there is none, these tests are skipped.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drawstream.tools.report.build import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TABLET, DESKTOP = 768, 1440  # pixels; what is narrower is a phone


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


@pytest.fixture(scope="session")
def demo(tmp_path_factory, make_run, make_search):
    """Two seeds of two methods, two searches: as a demo leaves them."""
    folder = tmp_path_factory.mktemp("demo")
    for seed in (0, 1):
        (folder / f"seed-{seed}").mkdir()
        data = make_search(folder / f"seed-{seed}", seed)
        for method, last in (("uniform", 70.0), ("swift", 90.0)):
            make_run(folder / f"seed-{seed}/{method}", method, seed, last + seed, catalog=data)
    return folder


@pytest.fixture(scope="session")
def demo_page(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(demo, out)
    return out
