"""The page of suspects in a browser: decided with the keyboard, filtered, saved, and read by `suspects --review`."""

import json

import numpy as np
import pytest

from drawstream import Catalog
from drawstream.features import Suspects
from drawstream.tools.report.pages import write_review_page
from drawstream.tools.suspects import read_review
from shared.samples import pack_digits

N, SHOWN = 60, 24


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page, its catalog, and the names on it."""
    folder = tmp_path_factory.mktemp("review")
    catalog = Catalog.open(pack_digits(folder / "data", N).train)
    score = np.linspace(1, -1, N)
    joint = np.diag(np.bincount(catalog.label, minlength=10).astype(float))
    parts = ((catalog.label + 1) % 10, 0.25, (0.2, 0.3), joint, "margin", 3 * score)
    found = Suspects(score, np.linspace(1, 0, N), *parts)
    names = [catalog.key(row) for row in range(SHOWN)]
    write_review_page(folder / "suspects.html", catalog, found, np.arange(SHOWN), names)
    return folder / "suspects.html", catalog, names


@pytest.mark.parametrize("width", [360, 1440])
def test_decisions_are_made_with_the_keyboard_saved_and_read(written, open_page, tmp_path, width):
    path, catalog, names = written
    opened = open_page(path, width)
    page = opened.page
    assert opened.sideways() <= 0
    for key in ("k", "d", "r", "d", "u"):  # the last takes back what lies behind it: nothing yet
        page.keyboard.press(key)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("u")
    assert page.locator("#count").text_content() == "3 decided"
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "review.json")
    assert opened.complaints() == []
    other = catalog.classes[(int(catalog.label[2]) + 1) % 10]
    saved = json.loads((tmp_path / "review.json").read_text())
    assert saved["decisions"] == {names[0]: "keep", names[1]: "drop", names[2]: {"relabel": other}}
    review = read_review(tmp_path / "review.json", catalog, {name: row for row, name in enumerate(names)})
    assert (review.keep.tolist(), review.drop.tolist()) == ([0], [1]) and list(review.relabel) == [2]


def test_a_pair_of_classes_is_shown_alone(written, open_page):
    page = open_page(written[0]).page
    page.select_option("#pair", index=1)
    shown = page.evaluate("[...document.querySelectorAll('.card')].filter(card => !card.hidden).length")
    assert 0 < shown < SHOWN and f"({shown})" in page.locator("#pair option:checked").text_content()
