"""The state of a source as a hash, which tells a finished pack from one of other files."""

from contextlib import suppress

import numpy as np
import xxhash

from drawstream.pipeline.labels import TYPES, kind_of
from drawstream.pipeline.sources.folder import FolderSource
from drawstream.pipeline.sources.source import ArraySource, Source

__all__ = ["hash_source"]


def hash_source(source: Source, /) -> str:
    """Return a hash over keys, labels and classes, and size and time of the files, 32 hex digits."""
    state = xxhash.xxh3_128("\n".join(source.classes).encode())
    kept = TYPES[kind_of(source.labels)].newbyteorder("<")
    state.update(np.ascontiguousarray(source.labels, dtype=kept).data)
    if isinstance(source, ArraySource) and source.clean_labels is not None:
        state.update(np.ascontiguousarray(source.clean_labels, dtype="<i8").data)
    for begin in range(0, len(source), 10_000):
        keys = [source.key(row) for row in range(begin, min(begin + 10_000, len(source)))]
        state.update("".join(f"\n{key}" for key in keys).encode())
    files = list(getattr(source, "files", ()))
    if isinstance(source, FolderSource):
        files += [source.field_file(row, name) for name in source.fields for row in range(len(source))]
    for file in files:
        with suppress(OSError):  # a file that is gone since is named where it is read
            found = file.stat()
            state.update(b"%d %d\n" % (found.st_size, found.st_mtime_ns))
    return state.hexdigest()
