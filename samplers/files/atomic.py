"""Files that exist are whole: write under a temporary name, then rename.

The temporary name of `NAME` is `.NAME.PID-HOST`, so that the next writer knows those whose process is gone, and leaves
those of other machines alone.
"""

import glob
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["remove_abandoned", "temporary_name", "write_atomically"]


@contextmanager
def write_atomically(path: Path, /) -> Iterator[Path]:
    """Give a temporary path beside `path`: it takes the name if the block ends well, and is removed if not.

    What killed writers of the same file left is removed.

    Raises:
        OSError: As the system gives it; an error that names no file, or the temporary one, names `path`.
        ValueError: A device, a named pipe or a socket has the name: renaming would remove it from the system.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: is a device, a named pipe or a socket, which is not replaced: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, glob.escape(path.name))
    temporary = temporary_name(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk says neither where nor what
        if error.errno is None or (error.filename is not None and str(error.filename) != str(temporary)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path, /) -> Path:
    """Where this process writes a file before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}-{_machine()}")


def remove_abandoned(folder: Path, name: str, /) -> None:
    """Remove what killed writers of files `name` (may hold *) of this machine left under temporary names."""
    for temporary in folder.glob(f".{name}.*-{_machine()}"):
        writer = temporary.name.rpartition(".")[2].partition("-")[0]
        if writer.isdigit() and Path("/proc/self").exists() and not Path("/proc", writer).exists():
            temporary.unlink(missing_ok=True)


def _machine() -> str:
    """Eight digits for the host: process numbers mean nothing on another one."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"
