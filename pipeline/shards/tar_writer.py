"""Write WebDataset tars: headers as webdataset's TarWriter writes them, and shards of a bounded size."""

import os
import tarfile
from pathlib import Path
from typing import BinaryIO

from drawstream.pipeline.shards.catalog_file import Shard, hash_file
from drawstream.pipeline.shards.tar import BLOCK, NAME

_LARGEST = 8**11 - 1  # bytes, in eleven octal digits
_PATTERN = tarfile.TarInfo()  # mode 0444, no owner, no time
_PATTERN.mode = 0o444
_MADE = _PATTERN.tobuf(tarfile.PAX_FORMAT)
_OWNER, _TIME, _REST = _MADE[100:124], _MADE[136:148], _MADE[156:]
_FIXED = sum(_OWNER + _TIME + _REST) + 8 * ord(" ")


def write_ustar(name: str, size: int, /) -> bytes | None:
    """Return a ustar header, mode 0444, no owner, 512 bytes; None if plain ustar cannot hold it."""
    if not (name.isascii() and 0 < len(name) <= NAME and size <= _LARGEST) or "\0" in name:
        return None
    text, digits = name.encode(), b"%011o" % size
    total = _FIXED + sum(text) + sum(digits)
    return b"".join((text.ljust(NAME, b"\0"), _OWNER, digits, b"\0", _TIME, b"%06o\0 " % total, _REST))


def write_header(name: str, size: int, /) -> bytes:
    """Return the blocks of a header; with PAX blocks where plain ustar cannot hold it."""
    if (plain := write_ustar(name, size)) is not None:
        return plain
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class ShardWriter:
    """Writes samples into numbered tars, each closed when it is full.

    Attributes:
        root: Folder of the tars.
        shards: The closed ones.
    """

    def __init__(self, root: Path, most_rows: int, most_bytes: int) -> None:
        self.root = root
        self.shards: list[Shard] = []
        self._most = (most_rows, most_bytes)
        self._filled = (0, 0)  # rows of the open tar, and bytes of its images and fields
        self._file: BinaryIO | None = None

    def add(self, key: str, members: dict[str, bytes]) -> dict[str, int]:
        """Append a sample to the open tar; return where each of its members begins, by extension."""
        if self._file is None:
            self._file = (self.root / f"shard-{len(self.shards):06d}.tar").open("xb")
        begins = {}
        for extension, data in sorted(members.items()):
            self._file.write(write_header(f"{key}.{extension}", len(data)))
            begins[extension] = self._file.tell()
            self._file.writelines((data, bytes(-len(data) % BLOCK)))
        size = sum(len(data) for extension, data in members.items() if not extension.endswith("cls"))
        self._filled = self._filled[0] + 1, self._filled[1] + size
        if self._filled[0] >= self._most[0] or self._filled[1] >= self._most[1]:
            self.close()
        return begins

    def close(self) -> None:
        """End the open tar, if there is one, and flush it to disk."""
        if self._file is None:
            return
        self._file.write(bytes(2 * BLOCK))
        self._file.write(bytes(-self._file.tell() % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = Path(self._file.name)
        self.shards.append(Shard(path.name, path.stat().st_size, hash_file(path)))
        self._file, self._filled = None, (0, 0)
