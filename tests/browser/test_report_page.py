"""The report in a browser: it complains of nothing, loads nothing, fits every screen, and its charts answer."""

from itertools import pairwise

import pytest

from drawstream.tools.report.build import write_report

PHONE, TABLET, DESKTOP = 360, 768, 1440
LOADED = "[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length"
CHART = "section:nth-of-type(2) figure.chart .plot"  # accuracy over epochs
POINT = f"""(plot => {{
  const trace = plot.data.at(-1), {{xaxis, yaxis}} = plot._fullLayout;
  return [xaxis.d2p(trace.x[2]), yaxis.d2p(trace.y[2])];
}})(document.querySelector('{CHART}'))"""


def check(opened, address):
    opened.walk()
    assert opened.complaints() == []
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [address]
    assert opened.sideways() <= 0


@pytest.mark.parametrize("width", [PHONE, pytest.param(DESKTOP, marks=pytest.mark.slow)])
def test_a_report_fits_and_loads_nothing(demo_page, open_page, width):
    opened = open_page(demo_page, width)
    check(opened, demo_page.as_uri())
    assert opened.page.evaluate("document.images.length") == 48 + 24
    assert opened.page.evaluate(LOADED) == 0
    assert opened.page.evaluate("document.querySelectorAll('.plot .main-svg').length") > 10


def test_charts_are_hovered_zoomed_and_reset(demo_page, open_page):
    opened = open_page(demo_page)
    page = opened.page
    plot = page.locator(CHART).first
    plot.scroll_into_view_if_needed()
    area = plot.locator(".nsewdrag").first
    area.wait_for()
    box = area.bounding_box()

    def ends():
        return page.evaluate(f"document.querySelector('{CHART}')._fullLayout.xaxis.range")

    x, y = page.evaluate(POINT)
    page.mouse.move(box["x"] + x, box["y"] + y)
    label = plot.locator(".hoverlayer .hovertext").first
    label.wait_for()
    assert "Swift Sampler, mean of 2 runs, epoch 3: 88.50 %" in label.text_content()
    before = ends()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8, steps=4)
    page.mouse.up()
    opened.until(f"document.querySelector('{CHART}')._fullLayout.xaxis.range[0] > {before[0] + 1}")
    assert before[0] < ends()[0] < ends()[1] < before[1]
    page.wait_for_timeout(400)  # what follows sooner is no double click of its own
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.until(f"document.querySelector('{CHART}')._fullLayout.xaxis.range[0] == {before[0]}")
    assert ends() == pytest.approx(before)
    assert opened.complaints() == []


def luminance(colour):
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, TABLET])
@pytest.mark.parametrize("dark", [False, True])
def test_both_schemes_can_be_read(demo_page, open_page, width, dark):
    opened = open_page(demo_page, width, dark=dark, still=True)
    check(opened, demo_page.as_uri())
    page = opened.page
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(behind) < 0.1) == dark
    for kind in ("body", ".soft", "figcaption", ".gallery b", "summary"):
        colour = page.evaluate(f"getComputedStyle(document.querySelector('{kind}')).color")
        assert contrast(colour, behind) >= 4.5, (kind, colour, behind)
    text = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    assert contrast(text, behind) >= 4.5


@pytest.mark.slow
def test_a_change_of_scheme_redraws_the_charts(demo_page, open_page):
    opened = open_page(demo_page)
    opened.walk()
    fill = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = opened.page.evaluate(fill)
    opened.page.emulate_media(color_scheme="dark")
    opened.until(f"{fill} != '{light}'")
    assert luminance(opened.page.evaluate(fill)) > 0.5 > luminance(light)
    assert opened.complaints() == []


@pytest.mark.slow
def test_on_paper_every_open_chart_is_drawn_dark_on_white(demo_page, open_page):
    opened = open_page(demo_page, dark=True)
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert len(opened.page.pdf()) > 100_000
    drawn = "figure => figure.closest('details:not([open])') || figure.querySelector('.main-svg')"
    assert opened.page.evaluate(f"[...document.querySelectorAll('figure.chart')].every({drawn})")
    opened.until("getComputedStyle(document.querySelector('.xtick text')).fill == 'rgb(28, 33, 40)'")
    assert opened.complaints() == []


@pytest.mark.slow
def test_the_page_can_be_read_by_ear_and_by_keyboard(demo_page, open_page):
    opened = open_page(demo_page)
    page = opened.page
    assert page.evaluate("document.documentElement.lang") == "en"
    assert "digits" in page.title()
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.evaluate("[...document.images].filter(image => !image.alt).length") == 0
    unnamed = "[...document.querySelectorAll('.wide')].filter(each => !each.getAttribute('aria-label')).length"
    assert page.evaluate(unnamed) == 0
    headed = "[...document.querySelectorAll('tbody tr')].every(row => row.querySelector('th[scope=row]'))"
    assert page.evaluate(headed)
    page.keyboard.press("Tab")  # what scrolls sideways can be reached
    assert page.evaluate("document.activeElement.className") == "wide"
    summary = page.locator("details summary").first
    summary.focus()
    page.keyboard.press("Enter")
    opened.until("document.querySelector('details[open] .plot .main-svg')")


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_several_folders_side_by_side(tmp_path, open_page, make_run, width):
    for name, gain in (("slow", 0.0), ("fast", 2.5)):
        for seed in (0, 1):
            for method, last in (("uniform", 70.0), ("swift", 80.0)):
                recipe = {"epochs": 5, "lr": 0.1 + gain, "seed": seed}
                make_run(tmp_path / name / f"{method}-{seed}", method, seed, last + gain + seed, recipe=recipe)
    out = tmp_path / "page.html"
    write_report([tmp_path / "slow", tmp_path / "fast"], out)
    opened = open_page(out, width)
    check(opened, out.as_uri())
    assert "What differs between these runs" in opened.page.inner_text("body")


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.slow
def test_names_are_text_and_never_markup(tmp_path, open_page, make_run, make_search):
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    classes = tuple(f"{HOSTILE}{i}<a href='javascript:alert(1)'>x</a>" for i in range(10))
    data = make_search(folder, classes=classes)
    make_run(folder / HOSTILE, HOSTILE, 0, 70.0, catalog=data)
    make_run(folder / "u", "uniform", 0, 70.0, catalog=data, model="</script><script>alert(1)</script>")
    out = tmp_path / "page.html"
    write_report(folder, out)
    opened = open_page(out)
    opened.page.on("dialog", lambda dialog: opened.uncaught.append(dialog.message))
    check(opened, out.as_uri())
    assert opened.page.evaluate("document.querySelectorAll('img[onerror], a[href^=javascript]').length") == 0
    assert opened.page.evaluate("document.querySelectorAll('svg a').length") == 0
    assert HOSTILE in opened.page.inner_text("body")
