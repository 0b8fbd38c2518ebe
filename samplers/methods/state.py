"""State dicts of the parts that learn: whose they are, and that nothing is missing."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stateful", "check_array", "check_identity"]


class Stateful:
    """A part with a state: numbers and arrays that are kept under names, beside what tells it from other parts."""

    _kept: ClassVar[Mapping[str, str]] = {}  # entry of the state: attribute, a number or an array

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same in a state that is loaded."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state: numbers and arrays.

        A row sampler has visits of its own within an epoch, and each rank must save and restore its state; after
        `reduce`, and for selectors always, the states of all ranks are equal, and that of rank 0 serves all.
        """
        kept = {key: getattr(self, name) for key, name in self._kept.items()}
        return self._identity() | {key: np.copy(x) if isinstance(x, np.ndarray) else x for key, x in kept.items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was called: the same steps give the same state.

        Raises:
            ValueError: the state is of another part (both sides are shown), or damaged.
        """
        check_identity(state, self._identity())
        mine = {key: getattr(self, name) for key, name in self._kept.items()}
        for key, x in mine.items():
            mine[key] = check_array(state, key, x).copy() if isinstance(x, np.ndarray) else type(x)(state[key])
        for key, name in self._kept.items():
            setattr(self, name, mine[key])


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
    """Return the array `key` of a state, which must have the shape and type of `like`.

    Raises:
        ValueError: it is missing, or of another shape or type.
    """
    found = state.get(key)
    if not isinstance(found, np.ndarray) or found.shape != like.shape or found.dtype != like.dtype:
        shown = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else repr(found)
        raise ValueError(f"the state's {key} must be {like.dtype} {like.shape}, but it is {shown}: it is damaged")
    return found
