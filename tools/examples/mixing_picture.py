"""Draw docs/mixing.svg: whose draws stand where in a mixture, from its own orders.

python -m drawstream.tools.examples.mixing_picture docs/mixing.svg
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drawstream import IndexStream, MixedStream

NAMES, COLOURS = ("photos", "drawings", "renderings"), ("#2f7fc1", "#d9730d", "#1b9e77")
ROWS, SHARES = (10_000, 1_500, 2_500), (0.5, ((0.0, 0.3), (0.5, 0.0)), 0.2)
EPOCHS, BLOCK, STRIP, BATCH = 4, 1024, 128, 16  # a strip shows the first draws, a square each
LEFT, WIDTH, HEIGHT, SIDE = 70, 640, 150, 5


def sources_of(stream: MixedStream, first: int, count: int) -> NDArray[np.int64]:
    """Return the source of positions first … first + count - 1 of the training, int64 (count,)."""
    epochs = range(first // stream.draws, (first + count - 1) // stream.draws + 1)
    rows = np.concatenate([stream.epoch(epoch)[:] for epoch in epochs])[first % stream.draws :][:count]
    return np.searchsorted(stream.offsets, rows, side="right") - 1


def shares(top: int) -> Iterator[str]:
    """Yield the share of each source in every block of the training, as stacked bars."""
    stream = MixedStream([IndexStream(rows) for rows in ROWS], SHARES, seed=0, epochs=EPOCHS)
    blocks = EPOCHS * stream.draws // BLOCK
    source = sources_of(stream, 0, blocks * BLOCK).reshape(blocks, BLOCK)
    for block in range(blocks):
        y = float(top + HEIGHT)
        for g, colour in enumerate(COLOURS):
            height = HEIGHT * float((source[block] == g).mean())
            y -= height
            place = f'x="{LEFT + WIDTH * block / blocks:.2f}" y="{y:.2f}" width="{WIDTH / blocks + 0.3:.2f}"'
            yield f'<rect {place} height="{height:.2f}" fill="{colour}"/>'
    for g, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        yield f'<rect x="{LEFT + 150 * g}" y="{top - 22}" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{LEFT + 150 * g + 15}" y="{top - 13}">{name}, {ROWS[g]:,} rows</text>'
    for epoch in range(EPOCHS + 1):
        x = LEFT + WIDTH * epoch / EPOCHS
        yield f'<text x="{x:.0f}" y="{top + HEIGHT + 15}" text-anchor="middle">{epoch}</text>'
    yield f'<text x="{LEFT + WIDTH / 2}" y="{top + HEIGHT + 31}" text-anchor="middle">epoch</text>'
    for share in (0, 0.5, 1):
        y = top + HEIGHT * (1 - share) + 4
        yield f'<text x="{LEFT - 8}" y="{y:.0f}" text-anchor="end">{share:g}</text>'


def strip(top: int, name: str, *, single: bool) -> Iterator[str]:
    """Yield the first draws in order, a square each."""
    kind = {"batches": "single", "global_batch": BATCH} if single else {}
    stream = MixedStream([IndexStream(rows) for rows in ROWS], (0.5, 0.3, 0.2), seed=0, **kind)  # type: ignore[arg-type]
    yield f'<text x="{LEFT - 8}" y="{top + 8}" text-anchor="end">{name}</text>'
    for position, g in enumerate(sources_of(stream, 0, STRIP).tolist()):
        x = LEFT + SIDE * position * 0.95 + position // BATCH * 2
        yield f'<rect x="{x:.2f}" y="{top}" width="4.4" height="10" fill="{COLOURS[g]}"/>'


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parts = [*shares(40), *strip(250, "mixed", single=False), *strip(270, "single", single=True)]
    style = 'xmlns="http://www.w3.org/2000/svg" width="730" height="295" font-family="sans-serif" font-size="12"'
    body = "\n".join(['<rect width="100%" height="100%" fill="white"/>', *parts])
    parser.parse_args().out.write_text(f"<svg {style}>\n{body}\n</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
