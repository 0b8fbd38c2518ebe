"""WebDataset tars, read by their headers: members, and the samples that members form.

Stricter than the readers of the field, which stop without a word at a damaged header: an archive must run from header
to header up to its end-of-archive mark (a block of zeros, and zeros to the end of the file). Some writers leave the
mark out: an archive that ends behind a whole member is taken, and noted.
"""

import mmap
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drawstream.pipeline import LeftOut
from drawstream.pipeline.shards.names import check_name, shortened
from drawstream.samplers import DrawstreamError

BLOCK = 512  # bytes; headers and data begin at multiples of it
NAME = 100  # bytes of the longest plain name
_PLAIN = re.compile(
    rb"(?:[0-7]{7}\0){3}([0-7]{11})\0[0-7]{11}\0([0-7]{6})\0 0\0{100}"
    rb"ustar(?:\00000|  \0).{64}(?:[0-7]{7}\0|\0{8}){2}\0{155}",
    re.DOTALL,
)
AS_TAR = "write the samples as a sorted tar (tar --sort=name -cf NEW.tar -C FOLDER .)"
_COPY = "copy the shard again"
_MOST_ZEROS = 64 << 20  # bytes behind the end mark: tar pads to records of kilobytes, and a sparse file has no end
_MISLED = (tarfile.TarError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError, MemoryError)
COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|lzma|lzo|lz|z|br)|tgz|tbz2?|txz|tzst|taz|tlz)$", re.IGNORECASE)
_PACKED = (  # gzip, compress, pack, bzip2, xz, lzma, lzip, zstd, lz4 and its older form, lzop, snappy
    *(b"\x1f\x8b", b"\x1f\x9d", b"\x1f\xa0", b"BZh", b"\xfd7zXZ", b"]\0\0", b"LZIP", b"\x28\xb5\x2f\xfd"),
    *(b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18", b"\x89LZO", b"\xff\x06\0\0sNaPpY"),
)
_META = re.compile(r"__[^/]*__($|/)")  # webdataset skips these
_NO_FILE = "it holds no image or label: write the tar without it (tar --exclude)"
_LINKED = "store the file itself (tar --dereference --hard-dereference)"
_KINDS = {
    tarfile.SYMTYPE: ("a symbolic link", _LINKED),
    tarfile.LNKTYPE: ("a hard link", _LINKED),
    tarfile.FIFOTYPE: ("a pipe", _NO_FILE),
    tarfile.CHRTYPE: ("a device", _NO_FILE),
    tarfile.BLKTYPE: ("a device", _NO_FILE),
    b"D": ("a folder's listing of an incremental backup", "write the tar without --listed-incremental"),
    b"M": ("a part of a file that began in another volume", "join the volumes: write the tar without --multi-volume"),
}


def read_ustar(block: bytes, /) -> tuple[str, int] | None:
    """Return name and size of a plain ustar header of 512 bytes; None where it is another, or damaged."""
    if len(block) != BLOCK or not (match := _PLAIN.match(block, NAME)):
        return None
    text = block[:NAME].rstrip(b"\0")
    if not text.isascii() or b"\0" in text or text.endswith(b"/") or not text:
        return None
    written = block[148:156]
    if sum(block) - sum(written) + 8 * ord(" ") != int(match[2], 8):
        return None
    return text.decode(), int(match[1], 8)


class DamagedTarError(DrawstreamError):
    """A tar that does not run from header to header to its end.

    Args:
        message: What is wrong, with the file.
        at: The byte where the walk stopped.
    """

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at

    def __reduce__(self) -> tuple[Any, ...]:
        """Both arguments cross processes."""
        return type(self), (str(self), self.at)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        name: Its path there.
        offset: First byte of its content in the tar.
        size: Bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Consecutive `members` of one `key`, by lower-case extension, in the tar's order."""

    key: str
    members: dict[str, Member]


@dataclass(slots=True)
class Remarks:
    """Findings of a walk that its user should know of.

    Attributes:
        passed: Members that belong to no sample.
        unended: Byte where the end-of-archive mark is missing.
    """

    passed: LeftOut = field(default_factory=LeftOut)
    unended: int | None = None


@contextmanager
def mapped(shard: Path, /) -> Iterator[mmap.mmap]:
    """Map a tar for reading.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Empty, compressed, another archive, or no regular file (a pipe, a device, a folder).
    """
    if not shard.is_file():
        if shard.exists():
            raise ValueError(f"{shard}: a shard must be a regular file or a link to one: give .tar files, or a folder")
        raise FileNotFoundError(f"{shard}: no such shard")
    with shard.open("rb") as file:
        head = file.read(BLOCK)
        if not head:
            raise ValueError(f"{shard}: shard is empty: copy it again")
        if not is_header(head):  # a member's name may begin with such bytes, too
            frame = head[1:4] == b"\x2a\x4d\x18" and head[:1] in b"PQRSTUVWXYZ[\\]^_"  # zstd and lz4 skip such a one
            if frame or head.startswith(_PACKED) or COMPRESSED.search(shard.name):
                law = "shard is compressed, its images cannot be reached by offset"
                raise ValueError(f"{shard}: {law}: decompress it (gunzip, unxz, unzstd, lz4 -d …)")
            if head.startswith((b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!")):
                remedy = f"unpack it and {AS_TAR}; folders of images per class can be packed (drawstream pack)"
                raise ValueError(f"{shard}: is a zip, 7z or rar archive and no tar: {remedy}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def samples(data: mmap.mmap, shard: Path, /, remarks: Remarks | None = None) -> Iterator[Sample]:
    """Group a tar's members as WebDataset does: consecutive names that agree up to the first dot of the basename.

    Hidden files and ``__meta__`` names or folders are passed over.

    Raises:
        ValueError: A damaged or truncated tar, members of a key that are not adjacent, a member that comes twice, or a
            name that ``check_name`` refuses.
    """
    remarks = remarks or Remarks()
    seen: dict[str, Sample] = {}
    current: Sample | None = None
    for member in members(data, shard, remarks=remarks):
        parts = split_name(member.name)
        if parts is None:
            remarks.passed.add("members that belong to no sample", shortened(member.name))
            continue
        key, extension = parts
        try:
            check_name(member.name, what="member name")
        except ValueError as error:
            raise ValueError(f"{shard}: {error}") from None
        if current is None or key != current.key:
            if current is not None:
                yield current
            if key in seen:
                raise ValueError(f"{shard}: {_apart(seen[key], extension, member)}")
            current = seen[key] = Sample(key, {})
        if extension in current.members:
            raise ValueError(f"{shard}: key {key!r} has two members .{extension}: keep one of them")
        current.members[extension] = member
    if current is not None:
        yield current


def _apart(first: Sample, extension: str, member: Member) -> str:
    """Say what is wrong with a key that comes again behind others."""
    if extension in first.members:
        return f"key {first.key!r} comes twice, with a member .{extension} each: rename or remove one of them"
    before = next(iter(first.members.values())).name
    return (
        f"members of key {first.key!r} are not adjacent, other keys stand between {shortened(before)} and "
        f"{shortened(member.name)}: unpack it and {AS_TAR}"
    )


def split_name(name: str, /) -> tuple[str, str] | None:
    """Key and lower-case extension of a member's name; None for hidden and ``__meta__`` names."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")  # as webdataset's base_plus_ext: at the basename's first dot
    if not stem or not dot or _META.match(name):
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def members(data: mmap.mmap, shard: Path, /, *, begin: int = 0, remarks: Remarks | None = None) -> Iterator[Member]:
    """Walk a mapped tar from the header at ``begin`` to its end; GNU and PAX long names are understood.

    Raises:
        DamagedTarError: Damaged or truncated; names the byte.
        ValueError: Something else than plain files and folders in it, or a name that is not UTF-8.
    """
    end = begin  # where the next header must be
    while plain := read_ustar(data[end : end + BLOCK]):
        begin, (name, size) = end + BLOCK, plain
        if begin + size > len(data):  # cut: tarfile says so
            break
        yield Member(name, begin, size)
        end = begin - -size // BLOCK * BLOCK
    tar: Any = None  # from the first header on that is not plain; most often there is none but the end
    data.seek(min(end, len(data)))
    while len(data) - end >= BLOCK:
        try:
            tar = tar or tarfile.open(fileobj=data, mode="r:")  # noqa: SIM115 (nothing to close: the map is the caller's)
            info = tar.next()
            tar.members.clear()  # tarfile keeps them all
        except _MISLED as error:  # RecursionError: a chain of headers that each say that the next one is long
            head = f"; it begins with {bytes(data[:16])!r}, is it a tar?" if end == 0 else ""
            law = f"damaged or truncated tar after byte {end} ({str(error) or type(error).__name__}{head})"
            raise DamagedTarError(f"{shard}: {law}: copy the shard again", end) from None
        if info is None:
            break
        if tar.offset <= end or info.size < 0:
            raise DamagedTarError(f"{shard}: damaged header at byte {end}: copy the shard again", end)
        if not info.isdir() and info.type != b"V":  # V: the label of GNU tar
            yield _member(info, len(data), shard, end)
        end = tar.offset
    _check_end(data, shard, end, remarks)


def survey(data: mmap.mmap, shard: Path, /) -> tuple[list[Member], list[DamagedTarError]]:
    """Find every member and every damaged place of a mapped tar; behind one the walk goes on at the next header."""
    found: list[Member] = []
    damage: list[DamagedTarError] = []
    begin: int | None = 0
    while begin is not None:
        try:
            found.extend(members(data, shard, begin=begin))
            break
        except DamagedTarError as error:
            damage.append(error)
            first = -(-max(begin, error.at) // BLOCK) * BLOCK + BLOCK
            places = range(first, len(data), BLOCK)
            begin = next((at for at in places if is_header(data[at : at + BLOCK])), None)
        except ValueError as error:  # a link, or a name that is not UTF-8, where the catalog's maker saw none
            damage.append(DamagedTarError(str(error), found[-1].offset if found else 0))
            break
    return found, damage


def is_header(block: bytes, /) -> bool:
    """Whether 512 bytes are a tar header by the checksum in them."""
    try:
        written = int(block[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return len(block) == BLOCK and written == sum(block) - sum(block[148:156]) + 8 * 32


def _check_end(data: mmap.mmap, shard: Path, end: int, remarks: Remarks | None) -> None:
    """Hold the bytes after the last member against an archive's end: zeros, a block of them at least, or nothing."""
    block, rest = data[end : end + BLOCK], len(data) - end
    empty = not block.strip(b"\0")
    if rest < BLOCK and end > 0 and empty:
        if remarks:
            remarks.unended = end
        return
    if end == 0 and not empty:
        remedy = "is it a tar? Copy the shard again, or leave it out"
        law = f"damaged or truncated at byte 0, it begins with {bytes(data[:16])!r}: {remedy}"
    elif rest < BLOCK:
        law = f"truncated inside a header at byte {end}: {_COPY}"
    elif not empty:
        law = f"damaged header at byte {end}: {_COPY}"
    elif rest > _MOST_ZEROS:
        law = f"{rest} bytes after the end-of-archive mark at byte {end}: {_COPY}"
    elif any(data[at : at + (1 << 20)].strip(b"\0") for at in range(end, len(data), 1 << 20)):
        remedy = f"{_COPY}; if tars were joined, unpack it with tar --ignore-zeros and write it anew"
        law = f"data after the end-of-archive mark at byte {end}: {remedy}"
    else:
        return
    raise DamagedTarError(f"{shard}: {law}", end)


def _member(info: tarfile.TarInfo, length: int, shard: Path, at: int) -> Member:
    name = shortened(info.name)
    if not info.isreg() or info.issparse():
        what, remedy = _KINDS.get(info.type, (f"of type {info.type!r}", _NO_FILE))
        if info.issparse():
            what, remedy = "a sparse file", "store it whole (tar without --sparse)"
        raise ValueError(f"{shard}: member {name} is {what}: {remedy}")
    if info.offset_data + info.size > length:
        raise DamagedTarError(f"{shard}: truncated inside member {name}: {_COPY}", at)
    try:
        info.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shard}: member name {name} must be UTF-8: rename it") from None
    return Member(info.name, info.offset_data, info.size)
