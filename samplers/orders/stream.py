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
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers.arguments import whole_number
from drawstream.samplers.hashing import digest_array
from drawstream.samplers.orders.multinomial import Multinomial
from drawstream.samplers.orders.order import Batches, Draws, Order
from drawstream.samplers.orders.permutation import Permutation
from drawstream.samplers.orders.stratified import Stratified
from drawstream.samplers.orders.stratified_on_disk import Paged
from drawstream.samplers.orders.subset import Subset
from drawstream.samplers.orders.window import MIN_WINDOW
from drawstream.samplers.weights import TOO_LONG, check_single

__all__ = ["IndexStream", "RowSampler"]

MODES = ("permutation", "stratified", "multinomial", "subset")
_MOST = 1 << 61  # positions and rows are int64, and sums of two of them must be too
_Weights = NDArray[np.floating[Any]] | str | None
_INLINE = 1 << 25  # bytes of weights that a state holds; of more it holds a digest, and the user gives them again
_KEPT_EPOCHS = 2  # the running epoch, and the next one while it is being prepared


@runtime_checkable
class Law(Protocol):
    """What a mode prepares once from the weights; a `Schedule` is one too."""

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
            kept while its answer stays equal); or a `Schedule`. In mode 'stratified' a `numpy.memmap` stays on disk:
            the same rows, hardly any memory, but slower (`drawstream.samplers.orders.stratified_on_disk`).
        mode: 'permutation' (default for a number: every row once per N positions), 'stratified' (default for
            weights: each row floor(M P) or ceil(M P) times), 'multinomial' (M independent draws) or 'subset' (M
            distinct rows, heavy ones first).
        seed: in [0, 2^64); combined with the epoch by key, so (1, 0) and (0, 1) have nothing in common.
        draws: M, positions per epoch; N by default.
        window: keep draws of neighbouring rows within about this many positions of one another, so that few shards
            are open at a time (`drawstream.samplers.orders.window`); None shuffles the whole epoch. Not for
            'multinomial'.

    Attributes:
        rows: N.
        draws: M.
        seed: the seed.
        mode: the mode; 'schedule' for recorded orders, where the seed has no effect.
        window: the window, 0 for none.

    Raises:
        TypeError: the first argument is none of these, or an option is no whole number.
        ValueError: no rows, bad weights, an unknown mode, mode 'permutation' with weights, M < 1, window < 1024, more
            draws than positive rows in mode 'subset', a seed out of range.
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
    ) -> None:
        self.seed = whole_number(seed, "seed")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"0 <= seed < 2**64 must hold, but got {seed}")
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._orders: dict[int, Future[Order]] = {}
        self._given = -1  # the epoch that was asked for last
        self._weights: _Weights = None  # of the epochs to come, or their digest; None as long as they are the first
        self._first: Law | None = None  # the law of the first weights, once there are others
        self._used: dict[int, _Weights] = {}  # by epoch, the weights of its order
        self._sampler = weights_or_rows if isinstance(weights_or_rows, RowSampler) else None
        self._weights_key = self._law_digest = ""
        self.window = 0
        if hasattr(weights_or_rows, "draw_epoch") and isinstance(weights_or_rows, Law):
            self._replay(weights_or_rows, mode, draws, window)
            return
        weights = self._read(weights_or_rows)
        self.mode = mode or ("permutation" if weights is None else "stratified")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, but got {mode!r}")
        if self.mode == "permutation" and weights is not None:
            raise ValueError("mode 'permutation' takes a number of rows, but got weights: use mode 'stratified'")
        self.draws = self.rows if draws is None else whole_number(draws, "draws")
        if self.draws < 1:
            raise ValueError(f"draws >= 1 must hold, but got {self.draws}")
        if self.draws >= _MOST:
            raise ValueError(TOO_LONG.format(draws=self.draws))
        if window is not None:
            self.window = self._checked_window(whole_number(window, "window"))
        self._law = self._prepare(weights)
        if self._sampler is not None and weights is not None:
            self._weights_key = digest_array(weights)

    def _replay(self, law: Law, mode: str | None, draws: int | None, window: int | None) -> None:
        if mode not in (None, "schedule") or window is not None or draws not in (None, law.draws):
            raise ValueError(
                f"a schedule fixes mode, window and its {law.draws} draws, but got {mode=}, {window=} and {draws=}: "
                "leave them out"
            )
        self.mode, self._law, self.rows, self.draws = "schedule", law, law.rows, law.draws

    def _read(self, source: int | ArrayLike | RowSampler) -> NDArray[np.floating[Any]] | None:
        """Set the number of rows; return the weights, None for uniform ones."""
        if isinstance(source, int | float) or getattr(source, "shape", None) == ():
            self.rows = whole_number(source, "a number of rows")
            if self.rows < 1:
                raise ValueError(f"rows >= 1 must hold, but got {self.rows}")
            if self.rows >= _MOST:
                raise ValueError(f"rows < 2**61 must hold, but got {self.rows}: row numbers are int64")
            return None
        given = source.probabilities(0) if isinstance(source, RowSampler) else source
        mapped = isinstance(given, np.memmap) and given.dtype in (np.float32, np.float64)
        weights: NDArray[np.floating[Any]] = np.asanyarray(given) if mapped else check_single(given)
        self.rows = weights.size
        return weights

    def _checked_window(self, window: int) -> int:
        if self.mode == "multinomial":
            raise ValueError("mode 'multinomial' draws independently and knows no window: use mode 'stratified'")
        if window < MIN_WINDOW:
            raise ValueError(f"window >= {MIN_WINDOW} must hold, but got {window}")
        return window

    def _prepare(self, weights: NDArray[np.floating[Any]] | None) -> Law:
        if self.mode == "permutation":
            return Permutation(self.rows, self.draws, self.window)
        if self.mode == "stratified" and isinstance(weights, np.memmap):
            return Paged(weights, self.draws, self.window)
        checked = np.ones(self.rows, dtype=np.float32) if weights is None else weights
        if isinstance(checked, np.memmap):
            checked = check_single(checked)
        if self.mode == "multinomial":
            return Multinomial(checked, self.draws)
        return (Subset if self.mode == "subset" else Stratified)(checked, self.draws, self.window)

    def update(self, weights: ArrayLike, /) -> None:
        """Draw with other weights from the next epoch on that is set up; the epoch given last keeps its order.

        All processes of a training must give the same ones. They are part of `state_dict`, not of the fingerprint.

        Args:
            weights: float (rows,), of any kind that `IndexStream` takes.

        Raises:
            TypeError: the weights are not numbers.
            ValueError: bad weights, another number of rows, or a stream that does not follow weights of its own.
        """
        if self._sampler is not None or self.mode in ("permutation", "schedule"):
            kind = "a row sampler" if self._sampler is not None else f"mode {self.mode!r}"
            raise ValueError(f"update() is for a stream of weights, as np.ones(rows), but this one is of {kind}")
        checked = self._own(weights)
        _ = self.fingerprint  # of the first weights
        law = self._prepare(checked)
        with self._building, self._lock:
            self._first = self._first or self._law
            self._law, self._weights = law, checked
            self._orders = {epoch: order for epoch, order in self._orders.items() if epoch == self._given}

    def state_dict(self) -> dict[str, Any]:
        """What has changed since the stream was made, so that one made alike goes on with the same orders.

        Numbers, texts and arrays; empty for a stream that does not change. It holds the weights of `update`, the state
        of a row sampler that has `state_dict` and `load_state_dict`, and the weights of the epoch given last where they
        are others than now. Of weights of more than 32 MiB, and of a row sampler without a state, it holds the digest.
        """
        with self._lock:
            known, used = self._given in self._orders, self._used.get(self._given)
        learner = self._learner
        state: dict[str, Any] = {} if learner is None else {"sampler": learner.state_dict()}
        if known and not (used is None and self._weights is None):
            state |= {"epoch": self._given, "epoch_weights": _kept(used)}
        if self._sampler is None and self._weights is not None and not (known and used is self._weights):
            state["weights"] = _kept(self._weights)
        return state

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was taken from a stream that was made alike.

        Raises:
            ValueError: the state is of another kind of stream, or holds the digest of weights that are not these.
        """
        learner = self._learner
        if not state and (self._sampler is not None or self._weights is None):
            return  # nothing has changed, or the version that saved it did not know
        if (learner is not None) != ("sampler" in state):
            raise ValueError(
                "a state of a row sampler that learns is for a stream over such a one only: build it alike"
            )
        if learner is not None:
            learner.load_state_dict(state["sampler"])
        used = self._recalled(state.get("epoch_weights"), state.get("epoch", 0))
        weights = self._recalled(state["weights"], 0) if "weights" in state else used
        _ = self.fingerprint
        with self._building, self._lock:
            self._first = first = self._first or self._law
            self._law = law = first if weights is None else self._prepare(weights)
            self._weights_key = "" if weights is None else digest_array(weights)
            self._weights = weights if self._sampler is None or learner is not None else self._weights_key or None
            self._orders, self._used, self._given = {}, {}, -1
            if "epoch" in state:
                epoch = self._given = whole_number(state["epoch"], "epoch")
                then = law if used is weights else first if used is None else self._prepare(used)
                self._orders[epoch], self._used[epoch] = Future(), self._weights if used is weights else used
                self._orders[epoch].set_result(Order(then.draw_epoch(self.seed, epoch), self.draws))

    @property
    def _learner(self) -> Any:
        """The row sampler, if it has a state."""
        has = hasattr(self._sampler, "state_dict") and hasattr(self._sampler, "load_state_dict")
        return self._sampler if has else None

    def _own(self, weights: ArrayLike) -> NDArray[np.floating[Any]]:
        """Weights checked, in memory of the stream's own."""
        checked = np.array(check_single(weights))
        if checked.size != self.rows:
            raise ValueError(f"a stream keeps its {self.rows} rows, but got {checked.size} weights: make another one")
        return checked

    def _recalled(self, saved: Any, epoch: int) -> NDArray[np.floating[Any]] | None:
        """The weights of a state, which may hold their digest only."""
        if not isinstance(saved, str):
            return None if saved is None else self._own(saved)
        if self._sampler is None:
            mine = self._weights if isinstance(self._weights, np.ndarray) else None
            remedy = "call update() with the weights of then before the state is loaded"
        else:
            mine = self._own(self._sampler.probabilities(epoch))
            remedy = "restore the row sampler first, or give it state_dict and load_state_dict"
        digest = "none" if mine is None else digest_array(mine)
        if saved != digest:
            raise ValueError(f"the state was saved with weights of digest {saved}, but here it is {digest}: {remedy}")
        return mine

    @property
    def fingerprint(self) -> str:
        """Hash of mode, seed, rows, draws, window and law: equal for streams with the same orders, weights up to scale.

        The weights of a row sampler change while it learns, so they are not part of it: its own state is.
        """
        if not self._law_digest:
            self._law_digest = "row sampler" if self._sampler is not None else self._law.digest()
        parts = (self.mode, self.seed, self.rows, self.draws, self.window, self._law_digest)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of the tables held between epochs."""
        return self._law.nbytes

    def epoch(self, epoch: int, /) -> Order:
        """The order of an epoch >= 0.

        Cheap for weights that stay, but for mode 'subset' (two passes over the rows) and for a row sampler (one set-up
        when its weights have changed). The last two epochs are kept, so asking again costs nothing, and an epoch once
        given keeps its order even while a row sampler learns.

        Raises:
            ValueError: the epoch is negative, or a row sampler gave bad weights or another number of rows.
        """
        epoch = whole_number(epoch, "epoch")
        future, new = self._claim(epoch)
        self._given = epoch
        if new:
            self._build(epoch, future)
        return future.result()

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
        future, new = self._claim(epoch)
        if new:
            arguments = whole_number(epoch, "epoch"), future
            threading.Thread(target=self._build, args=arguments, name="drawstream-epoch", daemon=True).start()
        return future

    def _claim(self, epoch: int) -> tuple[Future[Order], bool]:
        """The order of an epoch to come, and whether it is up to the caller to build it."""
        epoch = whole_number(epoch, "epoch")
        if not 0 <= epoch < 1 << 64:
            raise ValueError(f"0 <= epoch < 2**64 must hold, but got {epoch}")
        with self._lock:
            known = self._orders.get(epoch)
            if known is not None:
                return known, False
            future = self._orders[epoch] = Future()
            while len(self._orders) > _KEPT_EPOCHS:
                del self._orders[next(iter(self._orders))]
            return future, True

    def _build(self, epoch: int, future: Future[Order]) -> None:
        try:
            with self._building:
                self._renew(epoch)
                self._used = {e: used for e, used in self._used.items() if e in self._orders} | {epoch: self._weights}
                future.set_result(Order(self._law.draw_epoch(self.seed, epoch), self.draws))
        except BaseException as error:  # the one who waits gets it, and the next call tries again
            with self._lock:
                if self._orders.get(epoch) is future:
                    del self._orders[epoch]
            future.set_exception(error)

    def _renew(self, epoch: int) -> None:
        """Set up again when the weights of a row sampler have changed."""
        if self._sampler is None:
            return
        weights = check_single(self._sampler.probabilities(epoch))
        if weights.size != self.rows:
            raise ValueError(f"a row sampler must keep its {self.rows} rows, but gave {weights.size} in epoch {epoch}")
        key = digest_array(weights)
        if key != self._weights_key:
            self._law, self._weights_key = self._prepare(weights), key
        self._weights = key if self._learner is None else np.array(weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OF_A_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _building=threading.Lock(), _orders={}, _used={})

    def __repr__(self) -> str:
        return f"IndexStream(rows={self.rows}, mode={self.mode!r}, seed={self.seed}, draws={self.draws})"


_OF_A_PROCESS = ("_lock", "_building", "_orders", "_used")


def _kept(weights: _Weights) -> _Weights:
    """Weights in a state: the digest of many."""
    return digest_array(weights) if isinstance(weights, np.ndarray) and weights.nbytes > _INLINE else weights
