"""Items that a report leaves out, and why: a damaged record, a folder that cannot be read, data on a server.

A bad record takes nothing from the others: it is named on the page, on stderr and by the exit status.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from drawstream.pipeline import RemoteError
from drawstream.pipeline.secrets import shown
from drawstream.pipeline.shards.remote import is_url
from drawstream.tools.runs.record import files_below

__all__ = ["DAMAGED", "LeftOut", "reason"]

# What reading a stranger's record raises: its values may be of any type and size.
DAMAGED = (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError, OSError, RuntimeError)
Read = TypeVar("Read")


@dataclass(slots=True)
class LeftOut:
    """Collects what is left out.

    Attributes:
        remote: Whether data on a server may be read.
        damaged: A line for each record or folder that cannot be read.
        unasked: A line for each record or address that was not read because it lies on a server.
    """

    remote: bool = False
    damaged: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """All lines, each once."""
        return list(dict.fromkeys([*self.damaged, *self.unasked]))

    def files(self, folder: Path, name: str, /) -> list[Path]:
        """Files of a name below a folder; a folder in it that cannot be read is left out."""
        return files_below(folder, name, skip=lambda error: self.damaged.append(f"{error.filename}: {error.strerror}"))

    def read(self, path: Path, build: Callable[[Path], Read], /) -> Read | None:
        """Return `build` of a record; None if the record is damaged and left out."""
        try:
            return build(path)
        except DAMAGED as error:
            self.damaged.append(reason(path, error))
            return None

    def needs(self, path: Path, place: Path | str, /) -> bool:
        """Whether a record must be left out because its data lie on a server."""
        if self.remote or not is_url(place):
            return False
        self.unasked.append(f"{path}: its data lie at {shown(place)} and were not read: --remote allows it")
        return True


def reason(path: Path, error: Exception, /) -> str:
    """One line on a record that cannot be used: of its own values, or of a file that it names."""
    text = " ".join((shown(error) or type(error).__name__).split())
    if text.startswith(str(path)):
        return text
    if isinstance(error, OSError | RemoteError):
        return f"{path}: a file that it names cannot be read: {text}"
    return f"{path}: damaged record: {f'it has no {text}' if isinstance(error, KeyError) else text}"
