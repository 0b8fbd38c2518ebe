"""Read everything a catalog points at and list what is wrong; nothing is changed."""

import os
from collections.abc import Callable, Iterator

import xxhash

from drawstream.pipeline.catalog import RAW, Catalog, hash_file
from drawstream.pipeline.finding import Finding
from drawstream.pipeline.image import decode


def verify(
    catalog: Catalog, /, *, pixels: bool = True, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Check every shard's hash and every image's checksum, and decode every image.

    Args:
        catalog: The catalog; opening it has checked labels, byte ranges and the shards' lengths already.
        pixels: Decode the images too, which finds those that were damaged before they were packed.
        progress: Called after every shard as ``progress(shards_done, shards_in_all)``.

    Returns:
        The findings in row order, a shard's own before its rows'. Empty when all is well.
    """
    findings: list[Finding] = []
    for shard in range(len(catalog.shards)):
        path = catalog.shard_path(shard)
        try:
            actual, expected = hash_file(path), catalog.shards[shard].hash
            if actual != expected:
                message = f"{path}: hash must be {expected}, but got {actual}: copy the shard again"
                findings.append(Finding("shard", shard, None, None, message))
            findings += _rows(catalog, shard, pixels)
        except OSError as error:
            findings.append(
                Finding("shard", shard, None, None, f"{path}: not readable ({error.strerror}): copy it again")
            )
        if progress:
            progress(shard + 1, len(catalog.shards))
    return findings


def _rows(catalog: Catalog, shard: int, pixels: bool) -> Iterator[Finding]:
    path = catalog.shard_path(shard)
    with path.open("rb") as file:
        for row in range(*catalog.shard_rows(shard)):
            size = int(catalog.size[row])
            data = os.pread(file.fileno(), size, int(catalog.offset[row]))
            where = f"{path}: sample {row} ({catalog.key(row)!r})"
            if (actual := xxhash.xxh32_intdigest(data)) != catalog.checksum[row]:
                expected = f"{catalog.checksum[row]:08x}"
                message = f"{where}: checksum must be {expected}, but got {actual:08x}: copy the shard again"
                yield Finding("checksum", shard, row, catalog.key(row), message)
            elif pixels and catalog.encoding_codes[row] != RAW:
                yield from _image(catalog, row, data, where)


def _image(catalog: Catalog, row: int, data: bytes, where: str) -> Iterator[Finding]:
    shard = int(catalog.shard[row])
    expected = int(catalog.height[row]), int(catalog.width[row])
    try:
        actual = decode(data).shape[:2]
    except ValueError as error:
        yield Finding("decode", shard, row, catalog.key(row), f"{where}: {error}: replace the image and pack anew")
        return
    if actual != expected:
        message = f"{where}: image must be {expected} pixels high and wide, but got {actual}: index the shard anew"
        yield Finding("size", shard, row, catalog.key(row), message)
