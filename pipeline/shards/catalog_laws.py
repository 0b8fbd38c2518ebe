"""Laws that the rows of a catalog hold, looked at a piece at a time: they may lie on disk."""

from typing import TYPE_CHECKING

import numpy as np

from drawstream.pipeline.decoding import MOST_PIXELS
from drawstream.pipeline.fields import FieldColumns
from drawstream.pipeline.labels import broken_law
from drawstream.pipeline.shards.catalog_file import HASHED, PIECE, RAW, fingerprint, require

if TYPE_CHECKING:
    from drawstream.pipeline.shards.catalog import Catalog

__all__ = ["check_rows"]


def check_rows(catalog: "Catalog", /) -> None:
    """Hold rows against metadata and fingerprint.

    Raises:
        AlteredCatalogError: A law does not hold.
    """
    file = catalog.path
    hashed = {name: getattr(catalog, name) for name in HASHED}
    data = (catalog.shards, hashed, catalog._keys, catalog.encoding_codes)
    actual = fingerprint(*data, orientation=catalog.orientation, label_kind=catalog.label_kind)
    law = f"the fingerprint of the rows is {actual}, the file says {catalog.fingerprint}: the catalog was altered"
    require(actual == catalog.fingerprint, file, law)
    for start in range(0, len(catalog), PIECE):
        _check_piece(catalog, slice(start, start + PIECE + 1))  # with the first of the next, for order
    require(catalog.label_kind != "none" or not catalog.classes, file, "there must be no classes without labels")
    require(catalog.label_kind == "class" or catalog.clean_label is None, file, "only classes have true labels")
    for labels in (catalog.label, catalog.clean_label):
        law = "" if labels is None else broken_law(labels, catalog.classes)
        require(not law, file, law)


def _check_piece(catalog: "Catalog", rows: slice) -> None:
    """Hold some rows that follow one another against the laws of places and sizes."""
    file, shard, offset, size = catalog.path, catalog.shard[rows], catalog.offset[rows], catalog.size[rows]
    require((np.diff(shard) >= 0).all(), file, "the shard column must never decrease")
    require(shard[0] >= 0 and shard[-1] < len(catalog.shards), file, "shards must be in the list")
    ends = np.array([each.size for each in catalog.shards], dtype=np.int64)[shard]
    inside = (offset >= 0) & (size > 0) & (size <= ends) & (offset <= ends - size)
    require(inside.all(), file, "every image must lie inside its shard")
    for name, each in catalog.field_columns.items():
        part = FieldColumns(each.offset[rows], each.size[rows], each.checksum[rows])
        require(part.inside(ends), file, f"every member .{name} must lie inside its shard")
    apart = (offset[1:] >= offset[:-1] + size[:-1]) | (shard[1:] > shard[:-1])
    require(apart.all(), file, "images of a shard must follow one another and not overlap")
    height, width, raw = catalog.height[rows], catalog.width[rows], catalog.encoding_codes[rows] == RAW
    pixels = height.astype(np.int64) * width  # of 31 bits each
    sound = (height >= 1) & (width >= 1) & (pixels <= MOST_PIXELS)
    require(sound.all(), file, f"every image must have 1 … {MOST_PIXELS} pixels")
    require(
        (~raw | (size == pixels * catalog.channels)).all(),
        file,
        "a raw image must have height × width × channels bytes",
    )
    if catalog.turn is not None:
        law = "only encoded images of a catalog with the orientation exif can be turned, as 1 … 8 say"
        turn = catalog.turn[rows]
        wrong = (turn < 1) | (turn > 8) | ((turn != 1) & raw)
        require(catalog.orientation == "exif" and not wrong.any(), file, law)
