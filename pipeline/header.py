"""Tar headers of the plain kind, read and written without `tarfile`, whose objects cost most of packing small images.

Plain: a file, its name at most 100 bytes of ASCII, all numbers octal. Every other header is left to `tarfile`: what is
written here is byte for byte what it writes, and what is read here it reads alike (tests hold them side by side).

====== ========= =================================================================================
byte   length    what
====== ========= =================================================================================
0      100       name, filled up with zeros
100    24        mode, owner, group: seven octal digits and a zero, each
124    12        size: eleven octal digits and a zero
136    12        time of change, alike
148    8         sum of all bytes with these eight as spaces: six octal digits, a zero and a space
156    1         kind: ``0``, a file
157    100       name of a link's target: zeros
257    8         ``ustar``, a zero and ``00``; GNU tar: ``ustar``, two spaces and a zero
265    64        names of owner and group
329    16        numbers of a device: seven octal digits and a zero, twice; or zeros
345    155       what stands before a long name: zeros here
====== ========= =================================================================================
"""

import re
import tarfile

BLOCK = 512  # bytes; headers and data begin at multiples of it
NAME = 100  # bytes of the longest plain name
_LARGEST = 8**11 - 1  # bytes, in eleven octal digits
_PATTERN = tarfile.TarInfo()  # read-only, of nobody, at no time: as `pack` writes
_PATTERN.mode = 0o444
_MADE = _PATTERN.tobuf(tarfile.PAX_FORMAT)
_OWNER, _TIME, _REST = _MADE[100:124], _MADE[136:148], _MADE[156:]
_FIXED = sum(_OWNER + _TIME + _REST) + 8 * ord(" ")
_PLAIN = re.compile(
    rb"(?:[0-7]{7}\0){3}([0-7]{11})\0[0-7]{11}\0([0-7]{6})\0 0\0{100}"
    rb"ustar(?:\00000|  \0).{64}(?:[0-7]{7}\0|\0{8}){2}\0{155}",
    re.DOTALL,
)


def write_plain(name: str, size: int, /) -> bytes | None:
    """The header of a read-only file of nobody, 512 bytes; None where it would not be plain."""
    if not (name.isascii() and 0 < len(name) <= NAME and size <= _LARGEST) or "\0" in name:
        return None
    text, digits = name.encode(), b"%011o" % size
    total = _FIXED + sum(text) + sum(digits)
    return b"".join((text.ljust(NAME, b"\0"), _OWNER, digits, b"\0", _TIME, b"%06o\0 " % total, _REST))


def write_header(name: str, size: int, /) -> bytes:
    """The same, plain or not: the blocks that webdataset's TarWriter writes."""
    if (plain := write_plain(name, size)) is not None:
        return plain
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def read_plain(block: bytes, /) -> tuple[str, int] | None:
    """Name and size of a header of 512 bytes; None where it is not plain, or damaged."""
    if len(block) != BLOCK or not (match := _PLAIN.match(block, NAME)):
        return None
    text = block[:NAME].rstrip(b"\0")
    if not text.isascii() or b"\0" in text or text.endswith(b"/") or not text:
        return None
    written = block[148:156]
    if sum(block) - sum(written) + 8 * ord(" ") != int(match[2], 8):
        return None
    return text.decode(), int(match[1], 8)
