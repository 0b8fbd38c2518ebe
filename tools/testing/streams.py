"""The laws of an index stream: orders are pure functions of (seed, epoch, position)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers.orders import Order
from drawstream.testing.laws import hold, same

_SPLITS = ((1, 7), (2, 5), (3, 4), (5, 1))  # world size, rows per rank


class Stream(Protocol):
    """Stream interface that a loader needs: the surface of `IndexStream`."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def draws(self) -> int:
        """M, positions of an epoch."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the orders depend on."""

    def epoch(self, epoch: int, /) -> Order:
        """The order of an epoch."""

    def batch(self, epoch: int, step: int, /, *, global_batch: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """The rows of one rank in one step."""


def check_stream(
    stream: Stream,
    /,
    *,
    epochs: Sequence[int] = (0, 1, 2),
    weights: ArrayLike | None = None,
    others: Sequence[Stream] = (),
    seed: int = 0,
) -> None:
    """Check the laws of a stream.

    - An epoch holds `draws` rows, int64 in [0, N), with finite weights >= 0, float32.
    - Any slice is that slice of the whole, of rows and of weights.
    - The parts of the ranks are disjoint, equal in length to within one row, and together the global batch.
    - An order depends on nothing that was drawn before, and a copy has the same.
    - With `weights`: a row of weight 0 is never drawn, and the importance weights are 1 / (N P).
    - Fingerprints are equal for equal streams and differ from those of `others`.

    Args:
        stream: The stream.
        epochs: Numbers of the epochs to look at.
        weights: Weights that the stream draws by, numbers (N,), of any scale; None leaves their law out. Not for mode
            'subset', whose P is the share of a draw without replacement.
        others: Streams that differ in one option each.
        seed: Chooses the slices.

    Raises:
        AssertionError: A law is broken.
    """
    rng = np.random.default_rng(seed)
    orders = {epoch: _check_epoch(stream, epoch, rng) for epoch in epochs}
    for epoch, rows in orders.items():
        _check_ranks(stream, epoch, rows, rng)
        if weights is not None:
            _check_weights(stream, epoch, rows, np.asarray(weights, np.float64))
    copy = deepcopy(stream)  # as pickle would make it in another process, also of classes that it cannot find
    for epoch in reversed(list(orders)):
        same(
            stream.epoch(epoch)[:],
            orders[epoch],
            "an order does not depend on what was drawn before",
            f"epoch {epoch}, drawn again after others,",
        )
        same(copy.epoch(epoch)[:], orders[epoch], "a copy has the same orders", f"epoch {epoch} of a copy")
    _check_fingerprints(stream, copy, others)


def _check_epoch(stream: Stream, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of an epoch whose slices agree."""
    order, draws = stream.epoch(epoch), stream.draws
    law = "an epoch is an order: order[a:b], order.weights(a, b), len(order)"
    hold(hasattr(order, "weights"), law, f"epoch {epoch} is {type(order).__name__}")
    law = "an epoch holds `draws` rows, int64"
    hold(len(order) == draws >= 1, law, f"epoch {epoch} has {len(order)} positions, and draws is {draws}")
    rows, weights = order[:], order.weights(0, draws)
    hold(rows.shape == (draws,) and rows.dtype == np.int64, law, f"epoch {epoch} gives {rows.dtype} {rows.shape}")
    low, high = int(rows.min()), int(rows.max())
    hold(
        low >= 0 and high < stream.rows, "rows lie in [0, N)", f"epoch {epoch} holds {low} and {high} of {stream.rows}"
    )
    law = "weights are float32, finite and >= 0, one for each position"
    shown = f"{weights.dtype} {weights.shape}"
    hold(weights.shape == (draws,) and weights.dtype == np.float32, law, f"epoch {epoch} gives {shown}")
    sound = bool(np.isfinite(weights).all() and (weights >= 0).all())
    hold(sound, law, f"epoch {epoch} has one of {weights.min()} or {weights.max()}")
    slices = [(0, 0), (draws, draws), (draws - 1, draws), *np.sort(rng.integers(0, draws + 1, (6, 2))).tolist()]
    for a, b in slices:
        where = f"order[{a}:{b}] of epoch {epoch}"
        same(order[a:b], rows[a:b], "a slice is that slice of the whole", where)
        same(order.weights(a, b), weights[a:b], "weights of a slice are those of the whole", f"weights of {where}")
    for at in (0, draws - 1, int(rng.integers(draws))):
        same(order[at], rows[at], "a position is that place of the whole", f"order[{at}] of epoch {epoch}")
    return rows


def _check_ranks(stream: Stream, epoch: int, rows: NDArray[np.int64], rng: np.random.Generator) -> None:
    law = "the parts of the ranks, one after the other, are the global batch"
    for world_size, per_rank in _SPLITS:
        size = world_size * per_rank
        steps = -(-stream.draws // size)
        for step in sorted({0, steps - 1, *rng.integers(0, steps, 3).tolist()}):
            parts = [
                stream.batch(epoch, step, global_batch=size, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            where = f"step {step} of epoch {epoch} with {world_size} ranks and a global batch of {size}"
            same(np.concatenate(parts), rows[step * size : (step + 1) * size], law, where)
            lengths = [part.size for part in parts]
            least = max(lengths) - min(lengths) <= 1
            hold(least, "parts of ranks are equal in length, to within one row", f"{where} has {lengths}")


def _check_weights(stream: Stream, epoch: int, rows: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
    expected_shape = f"weights must be ({stream.rows},), but got {weights.shape}"
    hold(weights.shape == (stream.rows,), "the weights given are those of the rows", expected_shape)
    p = weights / weights.max()
    p /= p.sum()
    drawn = p[rows]
    at = int(drawn.argmin())
    hold(drawn[at] > 0, "a row of weight 0 is never drawn", f"epoch {epoch} has row {rows[at]} at position {at}")
    found, expected = stream.epoch(epoch).weights(0, rows.size), 1 / (stream.rows * drawn)
    wrong = np.flatnonzero(~np.isclose(found, expected, rtol=1e-5))
    if wrong.size:
        at = int(wrong[0])
        told = f"epoch {epoch}, position {at}, row {rows[at]} has {found[at]}, but it must be {expected[at]}"
        hold(False, "importance weights are 1 / (N P)", told)


def _check_fingerprints(stream: Stream, copy: Stream, others: Sequence[Stream]) -> None:
    mine = stream.fingerprint
    hold(isinstance(mine, str) and mine != "", "a fingerprint is a text", f"it is {mine!r}")
    law = "equal streams have equal fingerprints"
    for what, found in (("asked again, it", stream.fingerprint), ("that of a copy", copy.fingerprint)):
        hold(found == mine, law, f"{what} is {found!r}, not {mine!r}")
    for number, other in enumerate(others):
        told = f"others[{number}], {other!r}, has that of {stream!r}"
        hold(other.fingerprint != mine, "streams with other orders have other fingerprints", told)
