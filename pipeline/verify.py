"""Read everything a catalog points at and list what is wrong; nothing is changed."""

import os
from collections.abc import Callable, Iterator

import xxhash

from drawstream.pipeline.cache import CachedShards
from drawstream.pipeline.catalog import RAW, Catalog, hash_file
from drawstream.pipeline.finding import Finding
from drawstream.pipeline.image import decode
from drawstream.pipeline.remote import Remote, RemoteError


def verify(
    catalog: Catalog, /, *, pixels: bool = True, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Check every shard's hash and every image's checksum, and decode every image.

    Args:
        catalog: The catalog; opening it has checked labels and byte ranges, of local shards also the lengths. Remote
            ones are read through the cache on local disk.
        pixels: Decode the images too, which finds those that were damaged before they were packed.
        progress: Called after every shard as ``progress(shards_done, shards_in_all)``.

    Returns:
        The findings in row order, a shard's own before its rows'. Empty when all is well.
    """
    findings: list[Finding] = []
    cache = None if catalog.remote is None else CachedShards(catalog, Remote())
    for shard in range(len(catalog.shards)):
        name = catalog.shard_name(shard)
        try:
            with os.fdopen(cache.open(shard), "rb") if cache else catalog.shard_path(shard).open("rb") as file:
                actual, expected = hash_file(file.fileno()), catalog.shards[shard].hash
                if actual != expected:
                    message = f"{name}: hash must be {expected}, but got {actual}: copy the shard again"
                    findings.append(Finding("shard", shard, None, None, message))
                    if cache:  # the copy has gone bad on the local disk: the next use fetches another
                        cache.discard(shard)
                findings += _rows(catalog, shard, file.fileno(), pixels)
        except OSError as error:
            findings.append(
                Finding("shard", shard, None, None, f"{name}: not readable ({error.strerror}): copy it again")
            )
        except RemoteError as error:
            findings.append(Finding("shard", shard, None, None, str(error)))
        if progress:
            progress(shard + 1, len(catalog.shards))
    return findings


def _rows(catalog: Catalog, shard: int, descriptor: int, pixels: bool) -> Iterator[Finding]:
    for row in range(*catalog.shard_rows(shard)):
        data = os.pread(descriptor, int(catalog.size[row]), int(catalog.offset[row]))
        where = f"{catalog.shard_name(shard)}: sample {row} ({catalog.key(row)!r})"
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
