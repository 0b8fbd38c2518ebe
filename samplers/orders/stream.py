"""Index streams: the order of the rows in an epoch as a pure function of (seed, epoch, position).

Notation
    N    rows      row numbers are int64 in [0, N)
    M    draws     positions of an epoch
    G    global batch: step g holds the positions [g G, (g + 1) G); rank r of w takes the r-th of w equal parts

           weights (N,)                          position
               | once                               |
               v                                    v
           tables of the mode  --epoch(e)-->  order[a:b]  -->  rows, int64
                                              order.weights(a, b)  -->  1 / (N P), float32

Nothing depends on the number of ranks, workers or on what was drawn before: a position is the whole resume state.

    stream = IndexStream(weights, seed=0)                  # or IndexStream(50_000)
    order = stream.epoch(3)
    rows = order[0:256]
    mine = stream.batch(3, step=10, global_batch=256, rank=1, world_size=4)
"""

import hashlib
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import TOO_LONG, check_single, digest_array, whole_number
from drawstream.samplers.orders.multinomial import Multinomial
from drawstream.samplers.orders.order import Batches, Draws, Order
from drawstream.samplers.orders.permutation import Permutation
from drawstream.samplers.orders.stratified import Stratified
from drawstream.samplers.orders.stratified_on_disk import StratifiedOnDisk
from drawstream.samplers.orders.subset import Subset
from drawstream.samplers.orders.window import MIN_WINDOW

__all__ = ["IndexStream", "RowSampler"]

MODES = ("permutation", "stratified", "multinomial", "subset")
_MOST = 1 << 61  # positions and rows are int64, and sums of two of them must be too
_KEPT_EPOCHS = 2  # the running epoch, and the next one while it is being prepared


@runtime_checkable
class Law(Protocol):
    """Distribution that a mode prepares once from the weights; a `Schedule` is one too."""

    rows: int
    draws: int

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""

    def digest(self) -> str:
        """Hash of the law."""

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """The draws of one epoch."""


@runtime_checkable
class RowSampler(Protocol):
    """A source of weights that may change from epoch to epoch."""

    def probabilities(self, epoch: int, /) -> ArrayLike:
        """Weights >= 0 of the rows in this `epoch`, numbers (rows,), of any scale, as `IndexStream` takes them."""


class IndexStream(Batches):
    """An endless, seekable order over rows, epoch by epoch.

    Args:
        weights_or_rows: number of rows N; or weights, numbers (N,), finite, >= 0, of any scale, by position: a list,
            an array, a tensor of any dtype on any device, a pandas Series with the index 0, 1, 2, …, a polars Series,
            an Arrow array; or a row sampler, an object with `probabilities(epoch)`, asked once per epoch (tables are
            kept while its answer stays equal); or a law: a `Schedule`, or `Capped`. In mode 'stratified' a
            `numpy.memmap` stays on disk: the same rows, hardly any memory, but slower
            (`drawstream.samplers.orders.stratified_on_disk`).
        mode: 'permutation' (default for a number: every row once per N positions), 'stratified' (default for
            weights: each row floor(M P) or ceil(M P) times), 'multinomial' (M independent draws) or 'subset' (M
            distinct rows, heavy ones first).
        seed: in [0, 2^64); combined with the epoch by key, so (1, 0) and (0, 1) have nothing in common.
        draws: M, positions per epoch; N by default.
        where: the rows that may be drawn, bool (N,); they are the N of M's default and of the orders' weights
            1 / (N P). All rows by default.
        window: keep draws of neighbouring rows within about this many positions of one another, so that few shards
            are open at a time (`drawstream.samplers.orders.window`); None shuffles the whole epoch. Not for
            'multinomial'.

    Attributes:
        rows: N.
        draws: M.
        seed: the seed.
        mode: the mode; 'schedule' for recorded orders, where the seed has no effect; 'capped'.
        window: the window, 0 for none.

    Raises:
        TypeError: the first argument is none of these, or an option is no whole number.
        ValueError: no rows, bad weights, an unknown mode, mode 'permutation' with weights, M < 1, window < 1024, more
            draws than positive rows in mode 'subset', a seed out of range; `where` of another number of rows, or one
            that leaves no row to draw.
    """

    rows: int
    draws: int
    mode: str

    def __init__(
        self,
        weights_or_rows: int | ArrayLike | RowSampler | Law,
        /,
        *,
        mode: str | None = None,
        seed: int = 0,
        draws: int | None = None,
        window: int | None = None,
        where: ArrayLike | None = None,
    ) -> None:
        require_object(weights_or_rows)
        self.seed = whole_number(seed, "seed")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"0 <= seed < 2**64 must hold, but got {seed}")
        self._building = threading.Lock()
        self._kept: dict[int, Order] = {}  # the epochs set up last; replaced, never changed
        self._given: weakref.WeakValueDictionary[int, Order] = weakref.WeakValueDictionary()
        self._weights: NDArray[np.floating[Any]] | None = None  # of the law; None as long as they are the first
        _ALIVE.add(self)
        self._sampler = weights_or_rows if isinstance(weights_or_rows, RowSampler) else None
        self._law_digest = ""
        self.window = 0
        self._where = None if where is None else _mask(where)
        if hasattr(weights_or_rows, "draw_epoch") and isinstance(weights_or_rows, Law):
            if where is not None:
                raise ValueError("`where` is for rows, weights and row samplers, but got a law: leave it out")
            self._replay(weights_or_rows, mode, draws, window)
            return
        weights = self._read(weights_or_rows)
        self.mode = mode or ("permutation" if weights is None else "stratified")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, but got {mode!r}")
        if self.mode == "permutation" and weights is not None:
            raise ValueError(
                "mode 'permutation' takes a number of rows, but got weights or `where`: use mode 'stratified'"
            )
        self.draws = self.allowed if draws is None else whole_number(draws, "draws")
        if self.draws < 1:
            raise ValueError(f"draws >= 1 must hold, but got {self.draws}")
        if self.draws >= _MOST:
            raise ValueError(TOO_LONG.format(draws=self.draws))
        if window is not None:
            self._set_window(whole_number(window, "window"))
        self._law = self._first = self._prepare(weights)
        if self._sampler is not None and weights is not None:
            self._weights = np.array(weights)

    def _replay(self, law: Law, mode: str | None, draws: int | None, window: int | None) -> None:
        fixed = getattr(law, "mode", "schedule")
        if mode not in (None, fixed) or window is not None or draws not in (None, law.draws):
            raise ValueError(
                f"a {'schedule' if fixed == 'schedule' else f'{fixed} law'} fixes mode, window and its {law.draws} "
                f"draws, but got {mode=}, {window=} and {draws=}: leave them out"
            )
        self.mode, self.rows, self.draws = fixed, law.rows, law.draws
        self._law = self._first = law

    def _read(self, source: int | ArrayLike | RowSampler) -> NDArray[np.floating[Any]] | None:
        """Set the number of rows; return the weights, None for uniform ones."""
        if isinstance(source, int | float) or getattr(source, "shape", None) == ():
            self.rows = whole_number(source, "a number of rows")
            if self.rows < 1:
                raise ValueError(f"rows >= 1 must hold, but got {self.rows}")
            if self.rows >= _MOST:
                raise ValueError(f"rows < 2**61 must hold, but got {self.rows}: row numbers are int64")
            return None if self._where is None else self._allowed(np.ones(self._where.size, dtype=np.float32))
        given = source.probabilities(0) if isinstance(source, RowSampler) else source
        mapped = isinstance(given, np.memmap) and given.dtype in (np.float32, np.float64)
        weights: NDArray[np.floating[Any]] = np.asanyarray(given) if mapped else check_single(given)
        self.rows = weights.size
        return self._allowed(weights)

    def _allowed(self, weights: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The weights, 0 for the rows that `where` leaves out."""
        if self._where is None:
            return weights
        if self._where.size != self.rows or weights.size != self.rows:
            raise ValueError(f"`where` must say it of {self.rows} rows, but got {self._where.size}: give one each")
        kept: NDArray[np.floating[Any]] = np.where(self._where, weights, weights.dtype.type(0))
        if not kept.any():
            raise ValueError("no row that `where` allows has a weight above 0: there is no row to draw")
        return kept

    def _set_window(self, window: int) -> None:
        if self.mode == "multinomial":
            raise ValueError("mode 'multinomial' draws independently and knows no window: use mode 'stratified'")
        if window < MIN_WINDOW:
            raise ValueError(f"window >= {MIN_WINDOW} must hold, but got {window}")
        self.window = window

    def _prepare(self, weights: NDArray[np.floating[Any]] | None) -> Law:
        if self.mode == "permutation":
            return Permutation(self.rows, self.draws, self.window)
        if self.mode == "stratified" and isinstance(weights, np.memmap):
            return StratifiedOnDisk(weights, self.draws, self.window)
        checked = np.ones(self.rows, dtype=np.float32) if weights is None else weights
        if isinstance(checked, np.memmap):
            checked = check_single(checked)
        if self.mode == "multinomial":
            return Multinomial(checked, self.draws)
        return (Subset if self.mode == "subset" else Stratified)(checked, self.draws, self.window)

    def update(self, weights: ArrayLike, /) -> None:
        """Draw with other weights in epochs that were not given yet; those given last keep their orders.

        All processes of a training must give the same ones. They are part of `state_dict`, not of the fingerprint.

        Args:
            weights: float (rows,), of any kind that `IndexStream` takes.

        Raises:
            TypeError: the weights are not numbers.
            ValueError: bad weights, another number of rows, or a stream that does not follow weights of its own.
        """
        checked = self._own(weights)
        law = self._prepare(checked)
        with self._building:
            self._law, self._weights = law, checked
            self._kept = {epoch: order for epoch, order in self._kept.items() if self._given.get(epoch) is order}

    def state_dict(self, since: int = 0, /) -> dict[str, Any]:
        """Return the changes since the stream was made, so that an equal new stream continues with the same orders.

        Numbers, texts and arrays; empty for a stream that does not change. It holds the weights of `update`, the state
        of a row sampler that has `state_dict` and `load_state_dict`, and the weights of the epochs that keep their
        orders, where these weights do not follow from the rest.

        Args:
            since: the epoch in which the training stands; nothing of earlier ones is held.
        """
        state: dict[str, Any] = {} if self._learner is None else {"sampler": self._learner.state_dict()}
        if self._sampler is None and self._weights is not None:
            state["weights"] = self._weights
        since = since if self._sampler is None or self._learner is not None else 0  # to know the sampler again
        epochs = {
            str(epoch): order.source
            for epoch, order in sorted(self._known().items())
            if epoch >= since and (self._sampler is not None or order.source is not self._weights)
        }
        return state | {"epochs": epochs} if epochs else state

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was taken from a stream that was made alike.

        Warns where a row sampler without a state gives other weights than when the state was saved.

        Raises:
            TypeError: a part of the state is of another type.
            ValueError: the state is of another kind of stream, or damaged.
        """
        learner = self._learner
        if not state and learner is not None:
            return  # the version that saved it did not know
        if (learner is not None) != ("sampler" in state):
            raise ValueError(
                "a state of a row sampler that learns is for a stream over such a one only: build it alike"
            )
        if unknown := state.keys() - {"sampler", "weights", "epochs"}:
            raise ValueError(f"a state of a stream holds sampler, weights and epochs, but got {min(unknown)!r}")
        weights = self._own(state["weights"]) if "weights" in state else None
        law = self._first if weights is None else self._prepare(weights)
        orders = {}
        for name, source in state.get("epochs", {}).items():
            if not name.isdecimal():
                raise ValueError(f"an epoch of a stream's state is a number, but got {name!r}")
            epoch, used = _epoch(int(name)), None if source is None else self._weights_of(source)
            of = self._first if used is None else self._prepare(used)
            orders[epoch] = self._order(of, epoch, used)
        if learner is not None:
            learner.load_state_dict(state["sampler"])
        elif self._sampler is not None and orders:
            self._compare(max(orders), orders[max(orders)].source)
        with self._building:
            if self._sampler is None:
                self._law, self._weights = law, weights
            self._kept, self._given = orders, weakref.WeakValueDictionary(orders)

    @property
    def _learner(self) -> Any:
        """The row sampler, if it has a state."""
        has = hasattr(self._sampler, "state_dict") and hasattr(self._sampler, "load_state_dict")
        return self._sampler if has else None

    def _compare(self, epoch: int, saved: Any) -> None:
        assert self._sampler is not None
        if not np.array_equal(self._allowed(check_single(self._sampler.probabilities(epoch))), saved):
            warnings.warn(
                f"{type(self._sampler).__name__} gives other weights for epoch {epoch} than when the state was saved: "
                "restore it first, or give it state_dict and load_state_dict",
                stacklevel=3,
            )

    def _own(self, weights: ArrayLike) -> NDArray[np.floating[Any]]:
        """Weights in place of those that the stream was made of."""
        if self._sampler is not None or self.mode not in MODES[1:]:
            kind = "a row sampler" if self._sampler is not None else f"mode {self.mode!r}"
            raise ValueError(f"other weights are for a stream of weights, as np.ones(rows), but this one is of {kind}")
        return self._weights_of(weights)

    def _weights_of(self, weights: ArrayLike) -> NDArray[np.floating[Any]]:
        """Weights checked, in memory of the stream's own."""
        checked = np.array(check_single(weights))
        if self._where is not None:
            checked = self._allowed(checked)
        if checked.size != self.rows:
            raise ValueError(f"a stream keeps its {self.rows} rows, but got {checked.size} weights: make another one")
        return checked

    @property
    def fingerprint(self) -> str:
        """Return the hash of mode, seed, rows, draws, window and law (weights up to scale): equal for equal orders.

        The weights of a row sampler change while it learns, so they are not part of it: its own state is, or a
        `fingerprint` that it may have.
        """
        if not self._law_digest:
            self._law_digest = self._first.digest() if self._sampler is None else self._sampler_digest()
        parts = (self.mode, self.seed, self.rows, self.draws, self.window, self._law_digest)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def _sampler_digest(self) -> str:
        own = str(getattr(self._sampler, "fingerprint", "row sampler"))
        return own if self._where is None else f"{own} where {digest_array(self._where)}"

    @property
    def nbytes(self) -> int:
        """Bytes of the tables held between epochs."""
        return self._law.nbytes

    def epoch(self, epoch: int, /) -> Order:
        """Return the order of an epoch >= 0.

        Cheap for weights that stay, but for mode 'subset' (two passes over the rows) and for a row sampler (one set-up
        when its weights have changed). The last two epochs, and all whose orders are still held by somebody, are known:
        asking again costs nothing, and gives the same order even while a row sampler learns.

        Raises:
            ValueError: the epoch is negative, or a row sampler gave bad weights or another number of rows.
        """
        number = _epoch(epoch)
        order = self._set_up(number)
        self._given[number] = order
        return order

    @property
    def allowed(self) -> int:
        """Number of rows that may be drawn: all, or those of `where`."""
        return self.rows if self._where is None else int(np.count_nonzero(self._where))

    @property
    def learns(self) -> bool:
        """Whether epochs ask a row sampler, whose weights may change."""
        return self._sampler is not None

    @property
    def sets_up_epochs(self) -> bool:
        """Whether an epoch takes passes over the rows that can be done ahead: mode 'subset' of weights that stay."""
        return self.mode == "subset" and self._sampler is None

    def prepare(self, epoch: int, /) -> Future[Order]:
        """Begin the set-up of an epoch on a thread of its own, while another epoch runs; errors show in its result.

        A row sampler is asked for its weights now: what it learns later counts from the epoch after.

        Raises:
            ValueError: the epoch is negative.
        """
        number, future = _epoch(epoch), Future[Order]()

        def work() -> None:
            try:
                future.set_result(self._set_up(number))
            except BaseException as error:  # the one who waits gets it, and the next call tries again
                future.set_exception(error)

        threading.Thread(target=work, name="drawstream-epoch", daemon=True).start()
        return future

    def _known(self) -> dict[int, Order]:
        """Orders by epoch that are not to change."""
        return self._kept | dict(self._given.items())

    def _set_up(self, epoch: int) -> Order:
        if (known := self._known().get(epoch)) is not None:
            return known
        with self._building:
            if (known := self._known().get(epoch)) is not None:  # a thread has set it up meanwhile
                return known
            self._renew(epoch)
            order = self._order(self._law, epoch, self._weights)
            self._kept = dict([*self._kept.items(), (epoch, order)][-_KEPT_EPOCHS:])
            return order

    def _order(self, law: Law, epoch: int, source: NDArray[np.floating[Any]] | None) -> Order:
        """The order of an epoch, its weights those among the rows that may be drawn."""
        draws = law.draw_epoch(self.seed, epoch)
        if self._where is not None:
            draws = Draws(draws.fill, partial(_rescaled, draws.importance, self.rows / np.count_nonzero(self._where)))
        return Order(draws, self.draws, source)

    def _renew(self, epoch: int) -> None:
        """Set up again when the weights of a row sampler have changed."""
        if self._sampler is None:
            return
        weights = check_single(self._sampler.probabilities(epoch))
        if self._where is not None:
            weights = self._allowed(weights)
        if weights.size != self.rows:
            raise ValueError(f"a row sampler must keep its {self.rows} rows, but gave {weights.size} in epoch {epoch}")
        if self._weights is None or not np.array_equal(weights, self._weights):
            self._law, self._weights = self._prepare(weights), np.array(weights)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_building": None, "_kept": self._known(), "_given": dict(self._given.items())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._building = threading.Lock()
        self._given = weakref.WeakValueDictionary(state["_given"])
        _ALIVE.add(self)

    def __repr__(self) -> str:
        return f"IndexStream(rows={self.rows}, mode={self.mode!r}, seed={self.seed}, draws={self.draws})"


def _rescaled(
    importance: Callable[[int, NDArray[np.int64]], NDArray[np.float32]],
    factor: float,
    start: int,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The importance of rows (n,) times a factor, float32 (n,)."""
    return (importance(start, rows) * np.float64(factor)).astype(np.float32)


def _mask(where: ArrayLike) -> NDArray[np.bool_]:
    """Rows that may be drawn, bool (N,), in memory of the stream's own."""
    given = np.asarray(where)
    if given.dtype != np.bool_ or given.ndim != 1:
        raise ValueError(f"`where` must be bool (rows,), but got {given.dtype} {given.shape}: compare a column")
    if not given.any():
        raise ValueError(f"`where` leaves none of {given.size} rows: there is no row to draw")
    return given.copy()


def require_object(given: Any, /) -> None:
    """Raise TypeError where a class was given in place of an object of it."""
    if isinstance(given, type):
        raise TypeError(f"a stream needs an object, but got the class {given.__name__}: make one, as PSGD(rows)")


def _epoch(value: int) -> int:
    number = whole_number(value, "epoch")
    if not 0 <= number < 1 << 64:
        raise ValueError(f"0 <= epoch < 2**64 must hold, but got {number}")
    return number


_ALIVE: weakref.WeakSet[IndexStream] = weakref.WeakSet()


def _begin_in_child() -> None:
    """Begin anew in a forked process: the thread that held a lock is in the parent."""
    for stream in list(_ALIVE):
        stream._building = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
