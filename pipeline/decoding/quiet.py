"""Silences warnings of Pillow and its libtiff, and what libjpeg, libpng, OpenCV and nvImageCodec, under DALI, print.

These libraries write to C's ``stderr`` and C++'s ``std::cerr``, through a slot that each has for either (its global
offset table). Their slots, and no others, are pointed at a closed stream: no line of theirs reaches the user,
whichever thread decodes, and everything else in the process prints as before. Linux only, as DALI is; where a slot
cannot be found or written, it stays as it is.
"""

import ctypes
import logging
import mmap
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what Pillow logs of a file
_STREAMS = {"stderr": "file", "_ZSt4cerr": "ostream"}
_SLOT = frozenset({6, 1025})  # R_X86_64_GLOB_DAT, R_AARCH64_GLOB_DAT: a slot that holds the address of a symbol
_RELA, _DYNSYM = 4, 11  # kinds of ELF sections
_LIBRARIES = ("libnvimgcodec.so*", "extensions/lib*jpeg_turbo_ext.so*", "extensions/libopencv_ext.so*")
_lock = Lock()
_filters = ExitStack()  # those of warnings, while somebody is within `no_warnings`
_inside = 0  # how many are
_kept: list[Any] = []  # what the slots point at, for as long as the process lives


@contextmanager
def no_warnings() -> Iterator[None]:
    """Ignore warnings; several threads may be inside at once, unlike in `warnings.catch_warnings`."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _filters.enter_context(_no_errors_of_libtiff())
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _filters.close()


@cache
def _libtiff() -> ctypes.CDLL | None:
    """Pillow's own libtiff, which is loaded with its core; None where it has none."""
    with suppress(OSError, AttributeError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        library = ctypes.CDLL(next((line.split(maxsplit=5)[5] for line in lines if "/libtiff" in line), None))
        library.TIFFSetErrorHandler.restype = ctypes.c_void_p
        return library
    return None


@contextmanager
def _no_errors_of_libtiff() -> Iterator[None]:
    """Keep libtiff from printing what it reports to Pillow as well."""
    library = _libtiff()
    before = library.TIFFSetErrorHandler(None) if library else None
    try:
        yield
    finally:
        if library:
            library.TIFFSetErrorHandler(ctypes.c_void_p(before))


def silence(module: Path, /) -> None:
    """Load nvImageCodec's image libraries for good, and silence them and its Python module."""
    libraries = [module, *(file for pattern in _LIBRARIES for file in sorted(module.parent.glob(pattern)))]
    with suppress(OSError, AttributeError, ValueError, struct.error, StopIteration):
        targets = _closed_streams()
        for file in libraries:
            _kept.append(ctypes.CDLL(str(file)))
            base = _base(file)
            for offset, name in _slots(file.read_bytes()):
                _write(base + offset, targets[name])


def _closed_streams() -> dict[str, int]:
    """Addresses of what takes the place of `stderr`, a pointer to a stream, and of `std::cerr`, a stream."""
    system, cpp = ctypes.CDLL(None), ctypes.CDLL("libstdc++.so.6")
    system.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(system.fopen(b"/dev/null", b"we"))
    stream = ctypes.create_string_buffer(1024)  # a std::ostream of 272 bytes; without a buffer it writes nothing
    cpp["_ZNSoC1EPSt15basic_streambufIcSt11char_traitsIcEE"](stream, None)
    _kept.extend([file, stream])
    return {"stderr": ctypes.addressof(file), "_ZSt4cerr": ctypes.addressof(stream)}


def _base(file: Path) -> int:
    """Where a library lies in memory."""
    real = str(file.resolve())
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(int(line.split("-")[0], 16) for line in lines if line.endswith(real) and line.split()[2] == "00000000")


def _slots(elf: bytes) -> Iterator[tuple[int, str]]:
    """Places of the slots in a library of 64 bits, relative to its base, each with its symbol."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    width, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * width) for i in range(count)]
    symbols = next(section for section in sections if section[1] == _DYNSYM)
    names = sections[symbols[6]][4]
    for section in sections:
        if section[1] != _RELA:
            continue
        for at in range(section[4], section[4] + section[5], 24):
            offset, info, _ = struct.unpack_from("<QQq", elf, at)
            if info & 0xFFFFFFFF in _SLOT:
                (name,) = struct.unpack_from("<I", elf, symbols[4] + (info >> 32) * 24)
                start = names + name
                text = elf[start : elf.index(b"\0", start)].decode("ascii", "replace")
                if text in _STREAMS:
                    yield offset, text


def _write(address: int, value: int) -> None:
    """Put an address into a slot, in memory that the loader may have made read-only."""
    system = ctypes.CDLL(None, use_errno=True)
    page = address & -mmap.PAGESIZE
    if system.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.c_void_p.from_address(address).value = value
