"""The folders that a report is about, each with a short name."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["name_folders"]


def name_folders(folders: Sequence[Path], /) -> list[str]:
    """Name each folder by the end of its path, as long as it takes to tell them apart; "" for a single one.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: One comes twice, or lies in another: its runs would be counted twice.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; give the one that `drawstream train`, `search` or `demo` wrote"
            )
    whole = [folder.resolve() for folder in folders]
    for i, folder in enumerate(whole):
        for j, other in enumerate(whole):
            if i != j and folder.is_relative_to(other):
                raise ValueError(
                    f"{folders[i]} lies in {folders[j]}: its runs would be counted twice: give one of them"
                )
    if len(whole) == 1:
        return [""]
    for parts in range(1, max(len(folder.parts) for folder in whole) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in whole]
        if len(set(names)) == len(names):
            break
    return names
