"""The laws of a batch selector: a choice depends on the scores so far and on (seed, epoch, step)."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.methods import BatchSelector, Selected
from drawstream.testing.laws import check_refusals, frozen, hold, same, same_state, tensors

Make = Callable[[], BatchSelector]


def check_batch_selector(
    make: Make,
    /,
    *,
    batch: int = 96,
    steps: int = 25,
    others: Sequence[Make] = (),
    seed: int = 0,
) -> None:
    """Check the laws of a batch selector.

    - It has the surface of `BatchSelector`: `factor`, `scores`, `before`, `select`, `state_dict`, `load_state_dict`.
    - A choice is int64 places in [0, n) with float32 weights, finite and >= 0, as many; short batches are fine.
    - Lists, arrays and tensors of the same scores give the same choice, and are left as they were.
    - Selectors made alike choose alike. After any step the state, numbers and arrays, is a copy, and the selector that
      takes it goes on with the same choices; one with other options (`others`) refuses it.
    - Scores that are none or not finite are refused with `ValueError`.

    Args:
        make: Makes a fresh selector, each time the same.
        batch: Rows of the global batch; the ids are 0 … batch - 1.
        steps: Number of batches to choose from.
        others: Make selectors of other kinds or with other options.
        seed: Of the scores.

    Raises:
        AssertionError: A law is broken.
    """
    _check_surface(make())
    scores = [_scores(np.random.default_rng([seed, step]), step, batch) for step in range(steps)]
    whole = _choose(make(), scores, 0)
    _compare(_choose(make(), scores, 0), whole, "selectors made alike choose alike", 0)
    for kind in ("list", "tensor"):
        _compare(_choose(make(), scores, 0, kind), whole, f"a {kind} of scores counts as the array does", 0)
    _choose(make(), [each[: 1 + step % batch] for step, each in enumerate(scores)], 0)
    for at in sorted({0, 1, steps // 3, steps - 1}):
        _check_state(make, scores, whole, at, others)
    _check_refused(make, batch)


def _scores(rng: np.random.Generator, step: int, n: int) -> NDArray[np.float32]:
    """Scores of a batch, with ties and a trend."""
    return np.round(rng.exponential(size=n) / (1 + step / 40), 2).astype(np.float32)


def _check_surface(selector: BatchSelector) -> None:
    law = "a selector has the surface of BatchSelector"
    hold(isinstance(selector, BatchSelector), law, f"{type(selector).__name__} lacks a part of it")
    factor, scores, before = selector.factor, selector.scores, selector.before
    hold(isinstance(factor, int) and factor >= 1, law, f"factor must be a whole number >= 1, but is {factor!r}")
    hold(scores in ("loss", "grad_norm"), law, f"scores must be 'loss' or 'grad_norm', but is {scores!r}")
    hold(isinstance(before, bool), law, f"before must be True or False, but is {before!r}")


def _choose(
    selector: BatchSelector, scores: Sequence[NDArray[np.float32]], start: int, kind: str = "array"
) -> list[Selected]:
    """Choices of the batches from step `start` on, each of a sound form; eight steps make an epoch."""
    found = []
    for step, each in enumerate(scores, start=start):
        array = each.copy()
        given: Any = array.tolist() if kind == "list" else array
        if kind == "tensor":
            (given,) = tensors(array)
            if importlib.util.find_spec("torch") is not None:
                given.requires_grad_()
        choice = selector.select(given, epoch=step // 8, step=step % 8, ids=np.arange(each.size))
        same(array, each, "scores are left as they were", f"the scores of step {step}")
        _check_choice(choice, each.size, f"step {step}")
        found.append(choice)
    return found


def _check_choice(choice: Selected, n: int, where: str) -> None:
    indices, weights = choice
    law = "a choice is int64 places in [0, n) and as many float32 weights"
    shown = f"{where} gives {indices.dtype} {indices.shape} and {weights.dtype} {weights.shape}"
    kinds = indices.dtype == np.int64 and weights.dtype == np.float32
    hold(kinds and indices.ndim == 1 and indices.shape == weights.shape, law, shown)
    if indices.size:
        low, high = int(indices.min()), int(indices.max())
        hold(low >= 0 and high < n, law, f"{where} chooses places from {low} to {high} of {n}")
        sound = bool(np.isfinite(weights).all() and (weights >= 0).all())
        hold(sound, "weights are finite and >= 0", f"{where} has one of {weights.min()} or {weights.max()}")


def _compare(found: Sequence[Selected], expected: Sequence[Selected], law: str, start: int) -> None:
    for step, (one, other) in enumerate(zip(found, expected, strict=True), start=start):
        same(one.indices, other.indices, law, f"the choice of step {step}")
        same(one.weights, other.weights, law, f"the weights of step {step}")


def _check_state(
    make: Make, scores: Sequence[NDArray[np.float32]], whole: Sequence[Selected], at: int, others: Sequence[Make]
) -> None:
    first, second = make(), make()
    _choose(first, scores[:at], 0)
    state = first.state_dict()
    kept = frozen(state, "a state holds numbers, texts and arrays")
    second.load_state_dict(state)
    law = "a selector that takes a state goes on with the same choices"
    _compare(_choose(second, scores[at:], at), whole[at:], law, at)
    _choose(first, scores[at:], at)
    same_state(state, kept, "a state is a copy, and stays one where it is loaded")
    check_refusals(others, state)


def _check_refused(make: Make, batch: int) -> None:
    law = "scores that are none or not finite are refused"
    for what, scores in (("nan", [0.5, np.nan]), ("inf", [np.inf, 0.5]), ("none", [])):
        if len(scores) > batch:
            continue
        try:
            make().select(np.array(scores), epoch=0, step=0, ids=np.arange(len(scores)))
        except ValueError:
            continue
        hold(False, law, f"scores with {what} are taken: select must raise ValueError")
