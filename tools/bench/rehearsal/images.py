"""Images for the rehearsal: small, gray, of many classes, learnable; any number of them, never all in memory.

Notation
    m      float32 (classes, SIDE · SIDE), grey levels: prototypes, smooth noise around 128
    x_i    uint8 (SIDE, SIDE) = m of row i's class, with normal noise of NOISE grey levels, clipped to 0 … 255
    block  BLOCK rows in sequence; its generator is Philox with the key (seed, block), so any block is made alone

Row i is of class i mod classes: `pack` shuffles. Wrong labels are put in by `pack`, which remembers the right ones.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from drawstream.tools.runs import Progress

SIDE = 16  # pixels: 256 bytes an image, so 1.28 million are 328 MB before they are packed
BLOCK = 1 << 14  # rows, 16 MB of normal numbers
DEPTH, NOISE = 20.0, 64.0  # deviations of prototypes and pixels, grey levels: of 1000 classes some are mistaken
_PROTOTYPES = 1 << 63  # a block that no row has


def write_images(folder: Path, /, *, rows: int, classes: int, seed: int = 0) -> None:
    """Write `images.npy` and `labels.npy`, which `drawstream pack` reads, under a temporary name, and rename them."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    prototypes = make_prototypes(classes, seed)
    images = open_memmap(temporary / "images.npy", "w+", np.uint8, (rows, SIDE, SIDE))
    with Progress("images", "rows") as progress:
        for begin in range(0, rows, BLOCK):
            end = min(begin + BLOCK, rows)
            images[begin:end] = make_block(prototypes, begin // BLOCK, seed)[: end - begin]
            progress.update(end, rows)
    images.flush()
    np.save(temporary / "labels.npy", np.arange(rows, dtype=np.int64) % classes)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def make_prototypes(classes: int, seed: int, /) -> NDArray[np.float32]:
    """m, float32 (classes, SIDE · SIDE): noise on a grid of a quarter of the side, enlarged, of deviation DEPTH."""
    coarse = _generator(seed, _PROTOTYPES).standard_normal((classes, SIDE // 4, SIDE // 4), np.float32)
    smooth = np.kron(coarse, np.ones((1, 4, 4), np.float32))
    return (128 + DEPTH * smooth).reshape(classes, SIDE * SIDE).astype(np.float32)


def make_block(prototypes: NDArray[np.float32], block: int, seed: int, /) -> NDArray[np.uint8]:
    """The images of one block, uint8 (BLOCK, SIDE, SIDE)."""
    labels = (block * BLOCK + np.arange(BLOCK)) % len(prototypes)
    images = _generator(seed, block).standard_normal((BLOCK, SIDE * SIDE), np.float32)
    images *= NOISE
    images += prototypes[labels]
    np.clip(images, 0, 255, out=images)
    return images.astype(np.uint8).reshape(BLOCK, SIDE, SIDE)


def _generator(seed: int, block: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, block], np.uint64)))


if __name__ == "__main__":  # a process of its own, as every stage of the rehearsal
    if sys.argv[1] == "--photos":
        from drawstream.tools.bench.loader import pack_photos, write_files

        work, folder, photos, copies = sys.argv[2:]
        write_files(pack_photos(Path(work), images=int(photos)), Path(folder), copies=int(copies))
    else:
        write_images(Path(sys.argv[1]), rows=int(sys.argv[2]), classes=int(sys.argv[3]), seed=int(sys.argv[4]))
