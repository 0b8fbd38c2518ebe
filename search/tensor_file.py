"""Checkpoints as files: torch's format with plain values and tensors only, written whole, read without running code."""

import zipfile
from pathlib import Path
from typing import Any

from drawstream.samplers.files import raise_unless_file, write_atomically


def save_tensors(path: Path, content: dict[str, Any], /, *, kept: Path | None = None) -> None:
    """Write values and tensors.

    Args:
        path: The file.
        content: Numbers, strings, lists, tables and tensors.
        kept: Name for the file that `path` replaces; None: it is gone.

    Raises:
        OSError: The disk is full; it names the file.
    """
    import torch

    with write_atomically(path) as draft, draft.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # of closing the archive, after the disk was full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        if kept is not None and path.exists():
            path.replace(kept)  # killed here, the next start finds this one


def load_tensors(path: Path, /) -> dict[str, Any]:
    """Read what `save_tensors` wrote, to the CPU.

    Raises:
        ValueError: Not such a file, or damaged.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch itself leaves the checksums unread
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"{bad} is not as it was written")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged archive or pickle raises
        raise_unless_file(error, path)
        raise _refused(path, error) from None
    if not isinstance(content, dict):
        raise _refused(path, "it holds no table of values")
    return content


def _refused(path: Path, why: Exception | str) -> ValueError:
    reason = (str(why).splitlines() or [""])[0] or type(why).__name__
    return ValueError(f"{path}: not a readable checkpoint ({reason}): remove it to begin anew, or name another folder")
