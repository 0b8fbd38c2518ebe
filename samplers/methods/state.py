"""State dicts of the parts that learn: whose they are, and that nothing is missing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_array", "check_identity"]


def check_identity(state: Mapping[str, Any], mine: Mapping[str, Any], /) -> None:
    """Refuse the state of another part or of one with other options.

    Raises:
        ValueError: an entry of `mine` differs in the state; both are shown. Or the state's format is a newer one.
    """
    newest, found = mine.get("format", 1), state.get("format", 1)  # selectors write none as long as it is the first
    if isinstance(found, int) and found > newest:
        raise ValueError(f"a state of format {found} is newer than {newest}, which this drawstream reads: upgrade")
    for key, value in mine.items():
        if state.get(key) != value:
            raise ValueError(
                f"a state must be of the same {key}, but it has {state.get(key)!r} and here it is {value!r}"
            )


def check_array(state: Mapping[str, Any], key: str, like: NDArray[Any], /) -> NDArray[Any]:
    """The array `key` of a state, which must have the shape and type of `like`.

    Raises:
        ValueError: it is missing, or of another shape or type.
    """
    found = state.get(key)
    if not isinstance(found, np.ndarray) or found.shape != like.shape or found.dtype != like.dtype:
        shown = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else repr(found)
        raise ValueError(f"the state's {key} must be {like.dtype} {like.shape}, but it is {shown}: it is damaged")
    return found
