"""Records that a report leaves out, and why: a damaged one, a folder that cannot be read, data on a server.

A bad record takes nothing from the others: it is named on the page, on stderr and by the exit status.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from drawstream.pipeline import shown
from drawstream.pipeline.shards import RemoteError, is_url
from drawstream.samplers.files import raise_unless_file
from drawstream.tools.runs import files_below

__all__ = ["DAMAGED", "LeftOut", "naming"]

# Errors that a stranger's record raises: its values may be of any type and size.
DAMAGED = (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError, OSError, RuntimeError)
Read = TypeVar("Read")


@dataclass(slots=True)
class LeftOut:
    """The one reader of records, which collects those that are left out."""

    remote: bool = False  # read data on a server
    damaged: list[str] = field(default_factory=list)  # a line for each record or folder that cannot be read
    # a line for each record or address that was not read because it lies on a server
    unasked: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """All lines, each once."""
        return list(dict.fromkeys([*self.damaged, *self.unasked]))

    def read_all(self, folder: Path, name: str, build: Callable[[Path], Read | None], /) -> list[Read]:
        """Return `build` of every file of a name below a folder, sorted by path; damaged ones are left out."""

        def skip(error: OSError) -> None:
            self.damaged.append(f"{error.filename}: {error.strerror}")

        found = [self.read(path, build) for path in files_below(folder, name, skip=skip)]
        return [each for each in found if each is not None]

    def read(self, path: Path, build: Callable[[Path], Read], /) -> Read | None:
        """Return `build` of a record; None if the record is damaged and left out."""
        try:
            return build(path)
        except DAMAGED as error:
            self.damaged.append(_reason(path, error))
            return None

    def needs(self, path: Path, place: object, /) -> bool:
        """Return True if a record must be left out because its data lie on a server."""
        place = server_of(place)
        if self.remote or place is None:
            return False
        self.unasked.append(f"{path}: its data lie at {shown(place)} and were not read: --remote allows it")
        return True


def server_of(place: object, /) -> str | None:
    """The URL among the places of a catalog, or of several; None if all are on disk."""
    several = place if isinstance(place, list | tuple) else (place,)
    return next((each for each in several if isinstance(each, str) and is_url(each)), None)


@contextmanager
def naming(path: Path, /) -> Iterator[None]:
    """Name the record whose files cannot be used.

    Raises:
        ValueError: A file is missing or damaged, or does not belong to the others.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise_unless_file(error, path)
        raise ValueError(f"{path}: a file that it names cannot be used: {error}") from None


def _reason(path: Path, error: Exception) -> str:
    """Return one line on a record that cannot be used."""
    text = " ".join((shown(error) or type(error).__name__).split())
    if text.startswith(str(path)):
        return text
    if isinstance(error, OSError | RemoteError):
        return f"{path}: a file that it names cannot be read: {text}"
    return f"{path}: damaged record: {f'it has no {text}' if isinstance(error, KeyError) else text}"
