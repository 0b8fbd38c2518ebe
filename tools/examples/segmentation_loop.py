"""Segmentation: masks that follow the crops, sizes and flips of their images.

    python -m drawstream.tools.examples.segmentation_loop

The images are generated: a circle and a square of any bright colour on dark noise; a mask says of each pixel whether it
is background, circle or square. Data of your own: `drawstream index SHARDS --label none --fields seg.png`, or files
`NAME.seg.png` beside the images of a folder and `drawstream pack FOLDER OUT --fields seg.png`.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.nn import functional as F

from drawstream import ArraySource, Catalog, IndexStream, Loader, Transform, pack

SIDE, CLASSES = 48, ("background", "circle", "square")


def draw(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images, uint8 (count, SIDE, SIDE, 3), and masks of class numbers, uint8 (count, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 128, (count, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for image, mask in zip(images, masks, strict=True):
        for c in (1, 2):
            row, column, radius = *rng.integers(8, SIDE - 8, 2), rng.integers(5, 12)
            far = np.hypot(y - row, x - column) if c == 1 else np.maximum(abs(y - row), abs(x - column))
            mask[far < radius] = c
            image[far < radius] = rng.integers(128, 256, 3)
    return images, masks


def overlaps(model: nn.Module, loader: Loader) -> list[float]:
    """Intersection over union of each class, over all pixels of all images."""
    model.eval()
    counts = torch.zeros(len(CLASSES), len(CLASSES))
    with torch.no_grad():
        for batch in loader:
            mask = batch.fields["seg.png"]
            pairs = mask * len(CLASSES) + model(batch.images).argmax(1)
            counts += torch.bincount(pairs[mask >= 0], minlength=counts.numel()).reshape(counts.shape)
    found: list[float] = (counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag()).clamp_min(1)).tolist()
    return found


def main() -> None:
    """Train a small convolutional net, and print what it finds on held-out images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()

    images, masks = draw(500, seed=0)
    with TemporaryDirectory() as folder:
        source = ArraySource(images, np.zeros(len(images), np.int64), fields={"seg.png": masks})
        pack(source, Path(folder) / "data", holdout=100, encoding="png")
        train, held = (Catalog.open(Path(folder) / "data" / part) for part in ("train", "holdout"))

        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, len(CLASSES), 1), nn.Upsample(scale_factor=2, mode="bilinear")),
        )
        optimizer = optim.AdamW(model.parameters(), lr=3e-3)
        half = (127.5,) * 3
        crops = Transform((40, 40), half, half, crop="random", scale=(0.5, 1.0), flip=True)
        loader = Loader(train, IndexStream(len(train), seed=0), transform=crops, batch_size=20, mask="seg.png")
        for epoch in range(arguments.epochs):
            loader.set_epoch(epoch)
            losses: list[Tensor] = []
            for batch in loader:
                loss = F.cross_entropy(model(batch.images), batch.fields["seg.png"])  # pixels of -100 do not count
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
            print(f"epoch {epoch}: loss {torch.stack(losses).mean():.3f}")
        whole = Transform.small((SIDE, SIDE), 3)
        found = overlaps(model, Loader(held, transform=whole, batch_size=50, mask="seg.png"))
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(CLASSES, found, strict=True))
        print(f"intersection over union on held-out images: {shares}")


if __name__ == "__main__":
    main()
