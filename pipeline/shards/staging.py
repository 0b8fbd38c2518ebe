"""Write locks of folders, and folders that appear whole or not at all."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from drawstream.samplers.files import fault_of, system_fault

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # a file system without locks


@contextmanager
def claimed(folder: Path, /, *, lock: Path | None = None) -> Iterator[None]:
    """Hold the folder's write lock, which dies with its process; create the folder if needed.

    Args:
        folder: Folder to write.
        lock: The file that is locked, and removed at the end; by default ``.lock`` in the folder.

    Raises:
        ValueError: Another process writes there.
    """
    lock = lock or folder / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        owner = "unknown"
        with suppress(OSError):
            owner = lock.read_text(errors="replace").strip() or owner
        raise ValueError(f"{folder}: another process ({owner}) is writing there: wait for it") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        with suppress(OSError):  # a full disk: the lock has no name
            lock.write_text(f"{os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


@contextmanager
def staged_folder(target: Path, /, *, replaceable: bool = False) -> Iterator[Path]:
    """Give a new folder to fill; on a clean exit it takes the target's name, on an error it is removed.

    The folder is ``.NAME.partial``; the next writer removes what a killed one left there.

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
            if isinstance(error, OSError) and fault_of(error) == "full" and error.filename is None:
                raise system_fault(error, target) from error
            raise


def check_target(target: Path, /, *, replaceable: bool) -> Path:
    """Return the absolute path of a folder that may be made or replaced.

    Raises:
        ValueError: It is filled, or a file.
    """
    target = Path(os.path.realpath(target))  # beside the folder that a link names: on its disk
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file: name a folder")
    if not replaceable and target.is_dir() and any(target.iterdir()):
        remedy = "name another one, or allow it to be overwritten (--overwrite)"
        raise ValueError(f"{target}: folder is not empty: {remedy}")
    return target


def _rename(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists() and any(target.iterdir()):
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
