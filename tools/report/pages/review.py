"""The page on which suspects are reviewed: their images by pair of classes, decided with the keyboard."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from drawstream.features import Suspects
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files import write_atomically
from drawstream.tools.report import page, pictures

__all__ = ["write_review_page"]


def write_review_page(
    path: Path, catalog: Catalog, found: Suspects, rows: NDArray[np.int64], names: Sequence[str], /
) -> None:
    """Write the page.

    Args:
        path: HTML file, which is replaced in one step.
        catalog: The data.
        found: Scores of all rows.
        rows: Rows on the page, int64 (n,), in their order.
        names: Names under which decisions about them are saved, n.

    Raises:
        ValueError: An image is damaged or cannot be read.
    """
    shown = pictures(catalog, rows, found.wrong[rows])
    classes = catalog.classes
    suggested = [classes[c] if c >= 0 else "" for c in found.suggested[rows].tolist()]
    cards = [
        {"name": name, "given": each.label, "suggested": other, "wrong": f"{wrong:.0%}", "picture": each}
        for name, each, other, wrong in zip(names, shown, suggested, found.wrong[rows].tolist(), strict=True)
    ]
    pairs: dict[str, int] = {}
    for card in cards:
        key = f"{card['given']} → {card['suggested']}"
        pairs[key] = pairs.get(key, 0) + 1
    low, high = found.interval
    told = f"{found.share:.1%} of {len(found.score):,} labels are estimated to be wrong ({low:.1%} to {high:.1%})"
    text = page.template("review.html").render(
        told=f"{told}; the {len(rows)} most suspect by {found.method} are here.",
        cards=cards,
        pairs=sorted(pairs.items(), key=lambda item: (-item[1], item[0])),
        classes=classes,
        about=Markup(json.dumps({"catalog": catalog.fingerprint}).replace("<", "\\u003c")),  # noqa: S704 - escaped
    )
    with write_atomically(path) as temporary:
        temporary.write_text(text.encode("utf-8", "replace").decode(), encoding="utf-8")
