"""The laws of a row sampler: it learns from the visits of past epochs, whatever the batches, ranks and restarts."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.testing.laws import check_refusals, frozen, hold, same, same_state, tensors

_PATIENCE = 60.0  # seconds that a rank waits for the others in `reduce`

Make = Callable[[], Any]
Visits = tuple[NDArray[Any], ...]  # ids int64, logits float32 (n, classes), labels int64, weights float32


def check_row_sampler(
    make: Make,
    /,
    *,
    classes: int = 4,
    epochs: int = 4,
    others: Sequence[Make] = (),
    within_epoch: bool = False,
    seed: int = 0,
) -> None:
    """Check the laws of a row sampler: an object with `probabilities(epoch)`, or with `stream(epoch)`.

    - Probabilities are numbers (N,), finite, >= 0, not all 0; two samplers made alike give the same, and so does a
      sampler that is asked twice.

    For one that learns (`observe`, `reduce`, `state_dict`, `load_state_dict`) also:

    - What is observed counts from `reduce` on, not before. Visits of weight 0 fill up batches and count for nothing.
    - Batches, ranks and restarts change no bit: `reduce(total)` adds up whole numbers (int64) over the ranks.
    - A state holds numbers, texts and arrays; it is a copy, and the sampler that takes it goes on with the same rows.
    - The state of a sampler with other options (`others`) is refused.

    Args:
        make: Makes a fresh sampler, each time the same.
        classes: Number of classes of the logits that it observes.
        epochs: Number of epochs to train.
        others: Make samplers with other options.
        within_epoch: Whether states from the middle of an epoch are promised too.
        seed: Of the visits.

    Raises:
        AssertionError: A law is broken.
    """
    first = make()
    rows = _check_law(first)
    same(_law(first, 0), _law(make(), 0), "samplers made alike are alike", "what the first gives in epoch 0")
    if not hasattr(first, "observe"):
        return
    visits = _visits(np.random.default_rng(seed), rows, classes, epochs)
    whole = _learn(make, visits)
    law = "{} change no bit"
    _compare(_learn(make, visits, batch=5), whole, law.format("batches"))
    _compare(_learn(make, visits, batch=5, ranks=3), whole, law.format("ranks"))
    _compare(_learn(make, visits, batch=5, restarts=True), whole, law.format("restarts between epochs"))
    if within_epoch:
        restarted = _learn(make, visits, batch=5, ranks=2, restarts=True, within_epoch=True)
        _compare(restarted, whole, law.format("restarts within epochs"))
    real = [tuple(column[weights > 0] for column in (*rest, weights)) for *rest, weights in visits]
    _compare(_learn(make, real), whole, "visits of weight 0 count for nothing")
    _check_state(make, visits, others)


def _law(sampler: Any, epoch: int) -> NDArray[Any]:
    """Return an epoch's law: probabilities (N,), or rows and weights (2, M) of the sampler's stream."""
    if hasattr(sampler, "probabilities"):
        return np.array(sampler.probabilities(epoch))
    order = sampler.stream(epoch).epoch(epoch)
    return np.stack([order[:], order.weights(0, len(order))])


def _check_law(sampler: Any) -> int:
    """Number of rows of a sampler that gives sound probabilities."""
    law = "a row sampler has probabilities(epoch), numbers (N,), finite, >= 0, not all 0"
    if not hasattr(sampler, "probabilities"):
        hold(hasattr(sampler, "stream"), law, f"{sampler!r} has neither them nor stream(epoch)")
        return int(sampler.stream(0).rows)
    found = _law(sampler, 0)
    hold(found.ndim == 1 and found.size > 0 and found.dtype.kind in "iuf", law, f"got {found.dtype} {found.shape}")
    sound = bool(np.isfinite(found).all() and (found >= 0).all() and found.any())
    hold(sound, law, f"they lie between {found.min()} and {found.max()}")
    same(_law(sampler, 0), found, "a sampler that is asked twice says the same", "the second answer for epoch 0")
    return found.size


def _visits(rng: np.random.Generator, rows: int, classes: int, epochs: int) -> list[Visits]:
    """Visits of some epochs; rows come never, once or several times, and some fill up a batch."""
    labels = rng.integers(0, classes, rows)
    found: list[Visits] = []
    for _ in range(epochs):
        ids = rng.integers(0, rows, int(rng.integers(1, 60)))
        logits = (3 * rng.standard_normal((ids.size, classes))).astype(np.float32)
        found.append((ids, logits, labels[ids], (rng.integers(0, 3, ids.size) / 2).astype(np.float32)))
    return found


def _learn(
    make: Make,
    visits: Sequence[Visits],
    *,
    batch: int | None = None,
    ranks: int = 1,
    restarts: bool = False,
    within_epoch: bool = False,
) -> list[NDArray[Any]]:
    """Train on visits, dealt out to ranks in batches; what the first rank says before each epoch and at last."""
    group, laws = [make() for _ in range(ranks)], []
    for epoch, columns in enumerate(visits):
        laws.append(_law(group[0], epoch))
        size = batch or columns[0].size or 1
        for turn, start in enumerate(range(0, columns[0].size, size)):
            if within_epoch:
                group = [_restored(make, each.state_dict()) for each in group]
            group[turn % ranks].observe(*tensors(*(column[start : start + size] for column in columns)))
        law = "what is observed counts from `reduce` on"
        same(_law(group[0], epoch), laws[-1], law, f"before it, the answer for epoch {epoch}")
        _reduce(group)
        if restarts:
            group = [_restored(make, each.state_dict()) for each in group]
        for rank, each in enumerate(group):
            law, where = "all ranks draw the same epoch", f"rank {rank} of {ranks}, epoch {epoch + 1},"
            same(_law(each, epoch + 1), _law(group[0], epoch + 1), law, where)
    return [*laws, _law(group[0], len(visits))]


def _restored(make: Make, state: Any) -> Any:
    fresh = make()
    fresh.load_state_dict(frozen(state, "a state holds numbers, texts and arrays"))
    return fresh


def _reduce(group: Sequence[Any]) -> None:
    """End an epoch on all ranks, each a thread here; `total` adds up what they bring."""
    if len(group) == 1:
        group[0].reduce()
        return
    barrier, brought = threading.Barrier(len(group)), [np.zeros(0, np.int64)] * len(group)

    def run(rank: int) -> None:
        def total(mine: NDArray[np.int64]) -> NDArray[np.int64]:
            kind = getattr(mine, "dtype", type(mine).__name__)
            hold(kind == np.int64, "ranks add up int64, whose sum has no order", f"rank {rank} brings {kind}")
            brought[rank] = mine.copy()
            barrier.wait(_PATIENCE)
            added: NDArray[np.int64] = np.sum(brought, axis=0)
            barrier.wait(_PATIENCE)
            return added

        try:
            group[rank].reduce(total)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(group)) as pool:
        errors = [each.exception() for each in [pool.submit(run, rank) for rank in range(len(group))]]
    told = [error for error in errors if error is not None]
    for error in sorted(told, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        law = "`reduce` calls `total` equally often on every rank"
        hold(not isinstance(error, threading.BrokenBarrierError), law, "a rank waits for the others in vain")
        raise error


def _compare(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], law: str) -> None:
    for epoch, (one, other) in enumerate(zip(found, expected, strict=True)):
        same(one, other, law, f"the answer for epoch {epoch}")


def _check_state(make: Make, visits: Sequence[Visits], others: Sequence[Make]) -> None:
    sampler = make()
    for columns in visits:
        sampler.observe(*tensors(*columns))
        sampler.reduce()
    state = sampler.state_dict()
    kept = frozen(state, "a state holds numbers, texts and arrays")
    second = make()
    second.load_state_dict(state)
    for each in (sampler, second):
        each.observe(*tensors(*visits[0]))
        each.reduce()
        same_state(state, kept, "a state is a copy, and stays one where it is loaded")
    check_refusals(others, state)
