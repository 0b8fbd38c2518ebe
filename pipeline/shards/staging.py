"""Who writes in a folder, and folders that appear whole or not at all.

A writer holds flock on a hidden file that names it, so the lock dies with its owner, however that ends, and two
writers at once are refused.
"""

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def claimed(folder: Path, /, *, lock: Path | None = None) -> Iterator[None]:
    """Hold the folder's write lock; create the folder if needed.

    Args:
        folder: Folder to write.
        lock: The file that is locked, and removed at the end; by default ``.lock`` in the folder.

    Raises:
        ValueError: Another process writes there.
    """
    lock = lock or folder / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _claim(lock, folder)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def staged_folder(target: Path, /, *, replaceable: bool = False) -> Iterator[Path]:
    """Give a new folder to fill; on a clean exit it takes the target's name, on an error it is removed.

    What a killed process left behind in the hidden folder ``.NAME.partial`` is cleared by the next one; two at once are
    refused.

    Args:
        target: Where the folder goes. Missing or empty, unless ``replaceable``.
        replaceable: Whether a filled target may be replaced.

    Raises:
        ValueError: The target is in use: filled, a file, or being written by another process.
    """
    target = check_target(target, replaceable=replaceable)
    partial = target.with_name(f".{target.name}.partial")
    with claimed(target, lock=target.with_name(f".{target.name}.lock")):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            _rename(partial, target)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
                raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
            raise


def check_target(target: Path, /, *, replaceable: bool) -> Path:
    """The absolute path of a folder that may be made or replaced.

    Raises:
        ValueError: It is filled, or a file.
    """
    target = Path(os.path.realpath(target))  # beside the folder that a link names: on its disk
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file: name a folder")
    if not replaceable and target.is_dir() and any(target.iterdir()):
        raise ValueError(
            f"{target}: folder is not empty: name another one, or allow it to be overwritten (--overwrite)"
        )
    return target


def _claim(lock: Path, folder: Path) -> int:
    """A descriptor of the file, locked; one that its owner removed meanwhile is no lock any more."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 80).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ValueError(f"{folder}: another process ({owner}) is writing there: wait for it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                os.close(descriptor)
                raise
        try:
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                os.ftruncate(descriptor, 0)
                with suppress(OSError):  # the disk is full: it goes without a name
                    os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _rename(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists() and any(target.iterdir()):
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
