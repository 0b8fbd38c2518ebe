"""Draw images with their masks and boxes as a loader gives them: the picture of docs/fields.md.

    python -m drawstream.tools.examples.fields_picture docs/fields.jpg

Two photographs of scikit-learn; the mask of one is its flower, that of the other its sky and water, found by colour;
their boxes were drawn by hand. The first column shows them as stored, the others are random crops, resized and flipped.
"""

import argparse
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_sample_images

from drawstream import ArraySource, Catalog, IndexStream, Loader, Transform, pack

SIDE, TINT, FRAME = 224, (30, 60, 255), (255, 0, 80)
BOXES = {"china": [[94, 5, 357, 371], [543, 134, 640, 427]], "flower": [[166, 91, 449, 363]]}  # x0, y0, x1, y1


def mask_of(photo: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Pixels of the flower, which is yellow, or of the bright sky and water; specks are smoothed away."""
    red, _, blue = photo.astype(int).transpose(2, 0, 1)
    found = red > blue + 60 if name == "flower" else photo.min(2) > 150
    smooth = Image.fromarray((found * 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(9))
    return (np.asarray(smooth) > 127).astype(np.uint8)


def drawn(image: NDArray[np.uint8], mask: NDArray[np.int64], boxes: NDArray[np.float32]) -> Image.Image:
    """An image with its mask as a tint and its boxes as frames."""
    tinted = np.where((mask == 1)[..., None], image // 2 + np.array(TINT) // 2, image).astype(np.uint8)
    picture = Image.fromarray(tinted)
    for box in boxes.tolist():
        ImageDraw.Draw(picture).rectangle(box, outline=FRAME, width=4)
    return picture


def main() -> None:
    """Pack the photographs, load crops of them, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=5)
    given = parser.parse_args()

    photos = np.stack(load_sample_images().images)
    masks = [mask_of(photo, name) for photo, name in zip(photos, BOXES, strict=True)]
    fields: dict[str, Any] = {"seg.png": masks, "boxes.npy": list(BOXES.values())}
    with TemporaryDirectory() as folder:
        source = ArraySource(photos, np.zeros(len(photos), np.int64), fields=fields)
        catalog = Catalog.open(pack(source, Path(folder) / "data", encoding="png").train)
        height, width = photos.shape[1:3]
        stored = Transform((SIDE, SIDE * width // height), (0.0,) * 3, (1.0,) * 3)
        crops = Transform((SIDE, SIDE), (0.0,) * 3, (1.0,) * 3, crop="random", scale=(0.2, 0.9), flip=True)
        rows: dict[int, list[Image.Image]] = {row: [] for row in range(len(photos))}
        for column in range(given.columns):
            transform = crops if column else stored
            stream = IndexStream(len(catalog), seed=3)
            loader = Loader(catalog, stream, transform=transform, batch_size=2, mask="seg.png", boxes="boxes.npy")
            loader.set_epoch(column)
            (batch,) = loader
            loader.close()
            images = batch.images.to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for i, row in enumerate(batch.ids.tolist()):
                mask, boxes = batch.fields["seg.png"][i].numpy(), batch.fields["boxes.npy"][i]
                rows[int(catalog.key(row))].append(drawn(images[i], mask, boxes.xyxy.numpy()))

    wide = sum(picture.width + 8 for picture in rows[0]) - 8
    sheet = Image.new("RGB", (wide, (SIDE + 8) * len(rows) - 8), "white")
    for number, pictures in rows.items():
        at = 0
        for picture in pictures:
            sheet.paste(picture, (at, number * (SIDE + 8)))
            at += picture.width + 8
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    given.out.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
