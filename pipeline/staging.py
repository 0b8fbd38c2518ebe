"""A folder that appears whole or not at all: filled under a hidden name beside its target, then renamed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_folder(target: Path, /, *, replaceable: bool = False) -> Iterator[Path]:
    """Give a new folder to fill; on a clean exit it takes the target's name, on an error it is removed.

    The hidden folder ``.NAME.partial`` is locked while it is filled. What a killed process left behind is cleared by
    the next one; two at once are refused.

    Args:
        target: Where the folder goes. Missing or empty, unless ``replaceable``.
        replaceable: Whether a filled target may be replaced.

    Raises:
        ValueError: The target is in use: filled, a file, or being written by another process.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 (resolve() would follow a link that is to be replaced)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file: name a folder")
    if not replaceable and target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: folder is not empty: name another one, or allow it to be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _claim(lock, partial)
        for leftover in partial.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield partial
            _rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _claim(lock: int, partial: Path) -> None:
    """Lock the folder, and make sure that it still bears its name."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.fstat(lock).st_ino == partial.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        same = False
    if not same:
        raise ValueError(f"{partial}: another process is writing there: wait for it")


def _rename(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists() and any(target.iterdir()):
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
