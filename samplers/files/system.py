"""Errors of the operating system: whether a file is at fault, or the process, the device or the network.

Only a file's own fault may be called damage, be replaced by another sample or be listed as bad. Everything else stops
the work with one line that says where, what and how to mend it.
"""

import errno
import os
import resource
from collections.abc import Iterator
from typing import Literal

__all__ = ["DESCRIPTORS", "Fault", "SystemFault", "fault_behind", "fault_of", "raise_unless_file", "system_fault"]

Fault = Literal["file", "access", "full", "process", "device", "network", "other"]

DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_NUMBERS: dict[Fault, tuple[int, ...]] = {
    "file": (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ESPIPE),
        *(errno.EINVAL, errno.EOVERFLOW, errno.EEXIST, errno.ENOTEMPTY),
    ),
    "access": (errno.EACCES, errno.EPERM, errno.EROFS),
    "full": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "process": (*DESCRIPTORS, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS),
    "device": (errno.EIO, errno.ENODEV, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOMEDIUM),
    "network": (
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ENOLINK),
        *(errno.ECOMM, errno.EPROTO, errno.ESHUTDOWN),
    ),
}
_NO_MEMORY = "can't allocate memory"  # in a RuntimeError of torch
_NO_THREAD = "can't start new thread"
_FAULTS = {number: fault for fault, numbers in _NUMBERS.items() for number in numbers}


class SystemFault(OSError):  # noqa: N818 - the fault of the process, the device or the network, as `fault_of` says
    """An error of the system that says nothing about the file's content; its text holds the remedy."""


def fault_of(error: OSError, /) -> Fault:
    """Return who is at fault; the file where there is no number, as in errors of Arrow and Pillow."""
    return "file" if error.errno is None else _FAULTS.get(error.errno, "other")


def system_fault(error: OSError, where: object = None, /, *, at: int | None = None) -> OSError:
    """Return an error that names the file and the remedy; one of a file's own fault or of a permission without remedy.

    `where` is the file, by default the one that the error names; `at` is the byte at which a read failed twice.
    """
    if isinstance(error, SystemFault):
        return error
    number, fault = error.errno or 0, fault_of(error)
    where = error.filename if where is None else where
    named = [] if where is None else [os.fsdecode(where) if isinstance(where, bytes) else str(where)]
    text = os.strerror(number) + ("" if at is None else f" at byte {at}, also when read again")
    if fault in ("file", "access", "full", "other"):
        return OSError(number, text, *named)
    return SystemFault(number, f"{text}: {_remedy(number, fault)}", *named)


def raise_unless_file(error: BaseException, where: object, /) -> None:
    """Return if the file can be at fault for an error of its reader, or an error behind it; else raise the system's.

    Raises:
        OSError: The fault is the process', the device's, the network's, or one of permissions or room.
        ValueError: The path is not UTF-8, so that no reader of Arrow could open it.
    """
    fault = fault_behind(error, where)
    if fault is not None:
        raise fault from None
    if isinstance(error, UnicodeEncodeError):
        raise ValueError(f"{where}: a path must be UTF-8 for Arrow, but this one is not: rename it") from None


def fault_behind(error: BaseException, where: object = None, /) -> OSError | None:
    """Return what the system says behind an error; None if the file, or nothing of the system, is at fault."""
    for each in _behind(error):
        if isinstance(each, MemoryError) or _NO_MEMORY in str(each):
            return system_fault(OSError(errno.ENOMEM, ""), where)
        if isinstance(each, OSError) and fault_of(each) != "file":
            return system_fault(each, where)
        if _NO_THREAD in str(each):
            return system_fault(OSError(errno.EAGAIN, ""), where)
    return None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _remedy(number: int, fault: Fault) -> str:
    if fault == "device":
        return "the device or its connection fails: look into the system's log (`dmesg`), then start again"
    if fault == "network":
        return "the network file system does not answer: mount it again, then start again"
    if number == errno.EMFILE:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may open {soft}: raise the limit (`ulimit -n {max(4096, 4 * soft)}`)"
    if number == errno.ENFILE:
        return "all programs of this machine together: end some, or raise the limit (`sysctl fs.file-max`)"
    if number in (errno.EAGAIN, errno.ENOBUFS):
        return "the limit on processes and threads is reached: raise it (`ulimit -u`), or end other programs"
    return "free memory, raise its limit (`ulimit -v`), or lower batch size and workers"
