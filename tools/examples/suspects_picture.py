"""Draw the images of a data set whose labels are most suspect, with the given and the suggested label, for README.md.

drawstream pack /usr/share/datasets/fashion-mnist data
drawstream train data -o run --model resnet6 --epochs 15 --augment standard --track tracked
python -m drawstream.tools.examples.suspects_picture tracked data docs/suspects.png
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from drawstream import Catalog, FeatureTable, IndexStream, Loader, Transform, find_suspects

NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
TILE, LINE, GAP = 112, 17, 8


def tile(image: NDArray[np.uint8], given: str, suggested: str) -> Image.Image:
    """Return an image with its given label, struck out, and the suggested one below."""
    found = Image.new("RGB", (TILE, TILE + 2 * LINE + 4), "white")
    found.paste(Image.fromarray(image).resize((TILE, TILE), Image.Resampling.NEAREST))
    draw, font = ImageDraw.Draw(found), ImageFont.load_default(14)
    for line, (text, colour) in enumerate(((given, (165, 30, 30)), (suggested, (20, 110, 60)))):
        draw.text((TILE / 2, TILE + LINE * line + 3), text, colour, font, anchor="ma")
    half = draw.textlength(given, font) / 2
    draw.line((TILE / 2 - half, TILE + 12, TILE / 2 + half, TILE + 12), (165, 30, 30), 1)
    return found


def main() -> None:
    """Rank the rows of the table, load the first ones, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1)
    given = parser.parse_args()

    catalog = Catalog.open(given.catalog)
    found = find_suspects(FeatureTable.open(given.table, catalog=catalog), len(catalog.classes))
    first = found.order[: given.columns * given.rows]
    weights = np.zeros(len(catalog))
    weights[first] = 1
    stream = IndexStream(weights, mode="subset", draws=len(first))
    images: dict[int, NDArray[np.uint8]] = {}
    stored = Transform((28, 28), (0.0,), (1.0,))
    for batch in Loader(catalog, stream, transform=stored, batch_size=8):
        pixels = np.round(batch.images[:, 0].numpy()).astype(np.uint8)
        images |= dict(zip(batch.ids.tolist(), pixels, strict=True))
    picture = Image.new(
        "RGB",
        (given.columns * (TILE + GAP) + GAP, given.rows * (TILE + 2 * LINE + 4 + GAP) + GAP),
        "white",
    )
    for place, row in enumerate(first.tolist()):
        labels = (NAMES[int(catalog.label[row])], NAMES[int(found.suggested[row])])
        at = (place % given.columns * (TILE + GAP) + GAP, place // given.columns * (TILE + 2 * LINE + 4 + GAP) + GAP)
        picture.paste(tile(images[row], *labels), at)
    picture.save(given.out, optimize=True)


if __name__ == "__main__":
    main()
