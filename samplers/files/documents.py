"""JSON and TOML files of users and strangers: read within bounds, each failure is one `ValueError` with a remedy.

A document may be damaged, hostile or no document at all: a named pipe, a device, gigabytes, a thousand brackets, a key
that comes twice, a number that no float or int64 holds. Nothing of that hangs, fills the memory or gives a traceback.
"""

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["DEPTH", "MOST", "parse_json", "read_json", "read_regular", "read_toml"]

MOST = 64 << 20  # bytes of a document; records and samplers have some MB at most
DEPTH = 100  # levels of lists and objects; ours have below ten, and Python itself ends near 1,000
DIGITS = 20  # of an integer; those of int64 have 19
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


def read_json(path: Path, /, *, remedy: str, most: int = MOST, finite: bool = True) -> Any:
    """Read a JSON file of at most `most` bytes; an error's line ends with `remedy`, what the user can do.

    Raises:
        OSError: As the system gives it.
        ValueError: No regular file, too large, not JSON, or a document that `parse_json` refuses.
    """
    try:
        return parse_json(read_regular(path, most=most), finite=finite)
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON: {error}: {remedy}") from None


def read_toml(path: Path, /, *, remedy: str, most: int = MOST) -> dict[str, Any]:
    """Read a TOML file; arguments and errors as `read_json`."""
    try:
        text = read_regular(path, most=most).decode("utf-8-sig")
        content = tomllib.loads(text)
        if _is_deep(text, content):
            raise RecursionError
    except RecursionError:
        raise ValueError(f"{path}: not readable as TOML: {_too_deep()}: {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as TOML: {_reason(error)}: {remedy}") from None
    return content


def parse_json(data: bytes, /, *, finite: bool = True) -> Any:
    """Parse a JSON document: UTF-8, or UTF-16 or UTF-32 with its mark; `finite` refuses NaN, Infinity and 1e400.

    Raises:
        ValueError: Not JSON, lists and objects deeper than `DEPTH`, a key twice in one object, an integer of more than
            `DIGITS` digits, or a number that is not finite.
    """
    hooks: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    try:
        text = data.decode(json.detect_encoding(data))
        value = json.loads(text, parse_int=_integer, object_pairs_hook=_object, **hooks)
        if _is_deep(text, value):
            raise RecursionError
    except RecursionError:
        raise ValueError(_too_deep()) from None
    except ValueError as error:
        raise ValueError(_reason(error)) from None
    return value


def read_regular(path: Path, /, *, most: int = MOST) -> bytes:
    """Read a regular file whole; a named pipe or a device is never waited for.

    Raises:
        OSError: As the system gives it.
        ValueError: Something else than a regular file, or more than `most` bytes.
    """
    _require_regular(path.stat().st_mode)  # opening a device can do something
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status.st_mode)
        data = file.read(most + 1) if status.st_size <= most else b""
    if max(len(data), status.st_size) > most:
        raise ValueError(f"it may have {most} bytes, but has {max(len(data), status.st_size)}")
    return data


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "a device")
        raise ValueError(f"it must be a regular file, but is {kind}")


def _is_deep(text: str, value: Any) -> bool:
    """Whether lists and objects lie deeper than `DEPTH`; found level by level, without recursion."""
    if text.count("[") + text.count("{") + text.count(".") <= DEPTH:  # a dot: TOML's keys
        return False
    level = [value]
    for _ in range(DEPTH):
        parts = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _too_deep() -> str:
    return f"lists and objects may lie {DEPTH} levels deep, but lie deeper"


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 text (byte {error.start})"
    if "integer string conversion" in str(error):  # Python's own limit, with a remedy for programmers
        return f"an integer may have {DIGITS} digits, but one has thousands"
    return (str(error) or type(error).__name__).splitlines()[0]


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError(f"an integer may have {DIGITS} digits, but one has {len(text.lstrip('-'))}")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"numbers must be finite, but one is {text[:40]}")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:100]!r} comes twice in one object")
    return found
