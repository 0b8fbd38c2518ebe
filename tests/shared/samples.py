"""Data that many tests read: digits, photographs, encoded images, tars, and catalogs of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image
from sklearn.datasets import load_digits

from drawstream.features.table import part_path, write_part
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * 15.9375).astype(np.uint8), DIGITS.target  # (1797, 8, 8), to 255
PHOTOS = Path(sklearn.datasets.__file__).parent / "images"  # two JPEGs of 427 × 640 pixels
CHINA, FLOWER = ((PHOTOS / name).read_bytes() for name in ("china.jpg", "flower.jpg"))
CASES = Path(__file__).parents[1] / "cases"


def pack_digits(folder, rows=300, **options):
    """Pack the first digits; gives what `pack` gives."""
    return pack(ArraySource(PIXELS[:rows], LABELS[:rows]), folder, **options)


def digits_catalog(folder, rows=300, **options):
    """The catalog of the first digits, packed."""
    return Catalog.open(pack_digits(folder, rows, **options).train)


def array_catalog(folder, images, labels, **options):
    """The catalog of arrays, packed."""
    return Catalog.open(pack(ArraySource(images, labels), folder, **options).train)


def write_tar(path, *files, form=tarfile.PAX_FORMAT):
    """Write a tar of (name, bytes or text) members; gives its path."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files:
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def encoded(pixels, kind, mode=None, **options):
    """The bytes of an image as Pillow writes it."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned_exif(orientation):
    """EXIF of this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def member(catalog, row):
    """The stored bytes of a row."""
    with catalog.shard_path(catalog.shard[row]).open("rb") as file:
        file.seek(catalog.offset[row])
        return file.read(catalog.size[row])


def overwrite(catalog, row, data=b"\x55", at=3):
    """Damage the stored bytes of a row."""
    with catalog.shard_path(catalog.shard[row]).open("r+b") as file:
        file.seek(int(catalog.offset[row]) + at)
        file.write(data)


def write_table(folder, catalog, columns, owner="", **provenance):
    """A feature table of whole images in the catalog's order, a part for each shard; gives its folder.

    `owner` is the fingerprint of another catalog that it says it is of.
    """
    folder.mkdir(exist_ok=True)
    made = {"catalog": owner or catalog.fingerprint, "parts": len(catalog.shards), **provenance}
    for shard in range(len(catalog.shards)):
        rows = np.arange(*catalog.shard_rows(shard))
        fixed = {"sample_id": rows, "crop": np.zeros(rows.size, np.int32), "label": catalog.label[rows]}
        write_part(part_path(folder, shard), fixed | {name: each[rows] for name, each in columns.items()}, made)
    return folder


def write_files(root, files):
    """Write bytes by path below a folder, which is given back."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root
