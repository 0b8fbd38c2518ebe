"""How a law is checked and a broken one told; recorded input and the states of parts."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hold(true: bool, law: str, told: str, /) -> None:
    """Raise AssertionError with a law and how it was broken, unless it holds."""
    if not true:
        raise AssertionError(f"broken law: {law}: {told}")


def same(found: Any, expected: Any, law: str, where: str, /) -> None:
    """Require two arrays to be equal in shape and, bit for bit, in values; the message shows the first that differ."""
    found, expected = np.asarray(found), np.asarray(expected)
    hold(found.shape == expected.shape, law, f"{where} has the shape {found.shape}, but it must be {expected.shape}")
    differ = np.argwhere(found != expected)  # of two numbers: an array (1, 0) where they differ
    if len(differ):
        at = tuple(differ[0].tolist())
        place = f" at place {at[0] if len(at) == 1 else at}" if at else ""
        hold(False, law, f"{where} has {found[at]}{place}, but it must be {expected[at]}")


def tensors(*arrays: NDArray[Any]) -> tuple[Any, ...]:
    """Return arrays as a training gives them: tensors where PyTorch is installed. Parts get copies."""
    if importlib.util.find_spec("torch") is None:
        return tuple(array.copy() for array in arrays)
    import torch

    return tuple(torch.from_numpy(array.copy()) for array in arrays)


def frozen(state: Any, law: str, where: str = "the state") -> Any:
    """Return a copy of a state; a checkpoint holds tables and lists of numbers, texts, None and arrays alone."""
    if state is None or isinstance(state, bool | int | float | str | np.number | np.bool_):
        return state
    if isinstance(state, Mapping):
        return {key: frozen(value, law, f"{where}[{key!r}]") for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [frozen(value, law, f"{where}[{i}]") for i, value in enumerate(state)]
    if type(state).__module__.partition(".")[0] == "torch":
        return state.detach().clone()
    sound = isinstance(state, np.ndarray) and state.dtype.kind in "biuf"
    hold(sound, law, f"{where} is {type(state).__name__}, which a checkpoint does not hold")
    return state.copy()


def same_state(found: Any, expected: Any, law: str, where: str = "the state") -> None:
    """Require two states to be equal."""
    if isinstance(expected, Mapping):
        hold(set(found) == set(expected), law, f"{where} has the entries {sorted(found)}, not {sorted(expected)}")
        for key, value in expected.items():
            same_state(found[key], value, law, f"{where}[{key!r}]")
    elif isinstance(expected, list):
        hold(len(found) == len(expected), law, f"{where} has {len(found)} entries, not {len(expected)}")
        for i, value in enumerate(expected):
            same_state(found[i], value, law, f"{where}[{i}]")
    else:
        same(found, expected, law, where)


def check_refusals(others: Sequence[Callable[[], Any]], state: Any, /) -> None:
    """Require parts of another kind or with other options to refuse a state."""
    law = "the state of a part with other options is refused"
    for number, other in enumerate(others):
        part = other()
        try:
            part.load_state_dict(state)
        except ValueError:
            continue
        hold(False, law, f"others[{number}], {part!r}, takes it; load_state_dict must raise ValueError")
