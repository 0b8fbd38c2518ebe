"""Names from strangers: keys, classes and paths go into reports and terminals, so what could act there is refused.

Refused are control characters (a newline makes two lines of one, an escape moves the cursor), marks that turn the order
of text around, and halves of characters. A name is never used as the name of a file.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from drawstream.pipeline import shown

LONGEST = 4096  # bytes of a key: the longest path of Linux, so that no file has a longer one
PIECE = 1 << 16  # keys that are looked at together, so that checks take little memory
MOST_CLASSES = 1 << 24  # that numbers alone may imply; a greater number is rather an identity than a class
SPARSE = 1 << 16  # classes that any data may imply; more of them must have rows, for each costs memory
_ACTING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def check_name(name: str, /, *, what: str = "name", remedy: str = "rename it") -> None:
    """Refuse a name that could act where it is shown; the message ends with `remedy`.

    Raises:
        ValueError: Empty, too long, or with a control, direction or surrogate character; says which.
    """
    found = _ACTING.search(name)
    if found:
        law = "must have no control or direction characters"
        raise ValueError(f"{what} {shortened(name)} {law}, but has U+{ord(found[0]):04X}: {remedy}")
    if not name or len(name) > LONGEST or len(name.encode()) > LONGEST:
        law = f"must have 1 … {LONGEST} bytes, but has {len(name.encode())}"
        raise ValueError(f"{what} {shortened(name)} {law}: {remedy}")


def check_keys(keys: Any, /) -> None:
    """Hold every key of a catalog, large_string (rows,), against the law of names; quick where all is plain ASCII.

    Raises:
        ValueError: One of them is refused, or is not UTF-8.
    """
    _, offsets, text = keys.buffers()
    bounds = np.frombuffer(offsets, dtype="<i8")[keys.offset : keys.offset + len(keys) + 1]
    used = np.frombuffer(text or b"", np.uint8)[bounds[0] : bounds[-1]]
    plain = bool(used.size and used.min() >= 0x20 and used.max() < 0x7F)
    if plain and all(
        (lengths := np.diff(bounds[start : start + PIECE + 1])).min() > 0 and lengths.max() <= LONGEST
        for start in range(0, len(keys), PIECE)
    ):
        return
    try:
        keys.validate(full=True)  # UTF-8
    except ValueError as error:  # ArrowInvalid
        raise ValueError(str(error).splitlines()[0]) from None
    for key in keys.to_pylist():
        check_name(key, what="key")


def check_paths(paths: Sequence[str], /, *, remote: bool) -> None:
    """Refuse paths of shards that lead where no catalog of ours leads; a local one may lie beside its shards' folder.

    Raises:
        ValueError: Absolute, a URL, or of a remote catalog one that leaves its folder, perhaps to another host.
    """
    for path in paths:
        check_name(path, what="path of a shard")
        if path.startswith("/") or "://" in path:
            raise ValueError(f"path of a shard must be relative to the catalog, but got {shortened(path)}: index anew")
        if remote and ".." in path.split("/"):
            law = "path of a shard of a remote catalog must not leave the catalog's folder"
            raise ValueError(f"{law}, but got {shortened(path)}: index the shards where they lie")


def shortened(name: str, /) -> str:
    """A name in quotes, escaped, its end left out where it is long."""
    return repr(name) if len(name) <= 200 else f"{name[:100]!r}…"


def printable(text: object, /) -> str:
    """A text for a terminal: no secrets of URLs, and characters that could act there as escapes; line ends stay."""
    return _ACTING.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", shown(text))


def number_names(largest: int, rows: int, /) -> tuple[str, ...]:
    """Class names that are the numbers 0 … `largest`, of labels of so many rows.

    Raises:
        ValueError: One row with a huge label would make a list of names that fills the memory.
    """
    bound = min(MOST_CLASSES, max(SPARSE, 16 * rows))
    if largest >= bound:
        law = f"labels must be below {bound} where the classes have no names"
        raise ValueError(f"{law}, but got {largest}: number the classes from 0")
    return tuple(str(c) for c in range(largest + 1))
