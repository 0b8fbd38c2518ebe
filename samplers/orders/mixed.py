"""Several sources as one stream: shares between them, their own streams inside.

Notation
    G, N_g   sources, and rows of each; the mixture's row numbers are those of source 0, then source 1, …
    M        draws     positions of an epoch; position p of the whole training is epoch * M + position
    unit     a position, or one global batch: what the shares count
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, SupportsFloat

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, whole_number
from drawstream.samplers.orders.order import Batches, Draws, Order
from drawstream.samplers.orders.shares import BLOCK, Shares

__all__ = ["MixedStream"]

Share = float | Sequence[tuple[float, float]]
Kept = dict[tuple[int, int], Order]  # by source and its epoch
WINDOW, HELD = 4096, 4  # positions that are drawn together, and windows that an order holds
MOST = 1 << 61  # positions are int64, and sums of two of them must be too


class Turns(NamedTuple):
    """Whose some positions are that follow one another.

    Attributes:
        sources: Of each position, int32 (n,).
        numbers: Of each position the number of the draw of its source, int64 (n,).
        places: The positions from 0 on, those of source 0 first, int64 (n,).
        bounds: Where the places of each source begin, and n.
    """

    sources: NDArray[np.int32]
    numbers: NDArray[np.int64]
    places: NDArray[np.int64]
    bounds: list[int]


class MixedStream(Batches):
    """Draw from several sources, each with its share of the positions and its own stream inside.

    In every block of 1024 positions each source has its share to within one draw, and so has it up to the end of any
    block, where shares change, too. A source's draws are those of its own stream, in order, over as many of its epochs
    as it takes. Any slice is computed where it is looked at: ranks, batch sizes and restarts change nothing. A source
    that learns has the weights of the beginning of the mixture's epoch in which its own epoch begins.

        stream = MixedStream([IndexStream(len(a)), IndexStream(weights_of_b)], [0.7, 0.3], seed=0)

    Args:
        streams: One stream per source: `IndexStream`, `Sequential` or another mixture.
        shares: One for each source: a number >= 0, of any scale; or steps `[[progress, share], …]`, where progress in
            [0, 1) of the training is increasing from 0 and each share holds until the next step.
        seed: In [0, 2^64); it orders the sources within a block, the streams have seeds of their own.
        draws: M; by default the rows of all sources that may be drawn.
        epochs: Length of the training, where shares have steps.
        batches: 'mixed', or 'single': a global batch comes from one source, and the shares hold in every 16 batches.
        global_batch: Rows of a batch over all ranks, for 'single'; it divides M, which is by default rounded down.

    Attributes:
        rows: N, of all sources.
        draws: M.
        offsets: Row number of each source's first row, and N, int64 (G + 1,).
        seed: The seed.

    Raises:
        TypeError: A number is none, or not whole.
        ValueError: No sources, shares that do not fit them, or an option that does not fit the others.
    """

    mode = "mixed"
    window = 0

    def __init__(
        self,
        streams: Sequence[Any],
        shares: Sequence[Share],
        /,
        *,
        seed: int = 0,
        draws: int | None = None,
        epochs: int | None = None,
        batches: Literal["mixed", "single"] = "mixed",
        global_batch: int | None = None,
    ) -> None:
        self.streams = tuple(streams)
        if wrong := [each for each in self.streams if not isinstance(each, Batches)]:
            raise TypeError(f"a mixture draws from streams, as IndexStream(rows), but got {wrong[0]!r}")
        if not hasattr(shares, "__len__"):
            raise TypeError(f"shares must be a list, one for each stream, but got {shares!r}")
        if not self.streams or len(self.streams) != len(shares):
            raise ValueError(f"a mixture has one share per stream, but got {len(self.streams)} and {len(shares)}")
        if batches not in ("mixed", "single") or (batches == "single") != (global_batch is not None):
            raise ValueError(
                f"batches is 'mixed', or 'single' with global_batch, but got {batches=} and {global_batch=}"
            )
        self.seed, self.batches = whole_number(seed, "seed"), batches
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"0 <= seed < 2**64 must hold, but got {seed}")
        self.offsets = np.cumsum([0, *(stream.rows for stream in self.streams)], dtype=np.int64)
        self.rows = int(self.offsets[-1])
        self._firsts: list[int] = self.offsets.tolist()
        self._allowed = np.array([getattr(stream, "allowed", stream.rows) for stream in self.streams], dtype=np.float64)
        self.unit = 1 if global_batch is None else whole_number(global_batch, "global_batch")
        every = int(self._allowed.sum())
        self.draws = every // max(self.unit, 1) * self.unit if draws is None else whole_number(draws, "draws")
        if self.unit < 1 or self.draws < 1 or self.draws % self.unit or self.draws >= MOST:
            raise ValueError(f"draws must be a positive multiple of global_batch, but got {self.draws} and {self.unit}")
        times, table = _steps(shares)
        if len(times) > 1 and (epochs is None or whole_number(epochs, "epochs") < 1):
            raise ValueError(f"shares with steps need epochs >= 1, the length of the training, but got {epochs=}")
        units = 0 if epochs is None else whole_number(epochs, "epochs") * self.draws // self.unit
        self._given = (times, table.tolist(), units if len(times) > 1 else 0)
        self._shares = Shares(
            table, [int(time * units) for time in times[1:]], block=BLOCK if global_batch is None else 16
        )
        drawn = np.where(self._shares.shares > 0, self._shares.shares, np.nan)
        self._scale = self._allowed / self._allowed.sum() / drawn  # of weights inside a source, by row of shares
        self._keys = derive_keys(2, "mixed", self.seed)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables held between epochs."""
        return sum(stream.nbytes for stream in self.streams)

    @property
    def fingerprint(self) -> str:
        """Hash of all that the orders depend on."""
        parts = (self.mode, self.seed, self.draws, self.unit, self._given, [each.fingerprint for each in self.streams])
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def epoch(self, epoch: int, /) -> Order:
        """Return the order of an epoch >= 0.

        Raises:
            ValueError: The epoch is negative.
        """
        number = whole_number(epoch, "epoch")
        if not 0 <= number < MOST // self.draws:
            law = f"0 <= epoch < {MOST // self.draws} must hold, as positions are below 2**61"
            raise ValueError(f"{law}, but got {number}")
        windows = Windows(self, number * self.draws, self._begin(number))
        return Order(Draws(windows.fill, windows.importance), self.draws)

    @property
    def learns(self) -> bool:
        """Whether a source asks a row sampler for its weights."""
        return any(getattr(stream, "learns", False) for stream in self.streams)

    def drawn(self, epoch: int, /) -> NDArray[np.int64]:
        """Return how often each source was drawn from before an epoch, int64 (G,)."""
        return self._shares.before(self._keys, whole_number(epoch, "epoch") * self.draws // self.unit) * self.unit

    def _begin(self, epoch: int) -> Kept:
        """The orders of all epochs of sources that learn which have a draw in an epoch of the mixture.

        They are set up now, when all ranks know the same, and held: no rank sets one up later, having learnt more.
        """
        if not self.learns:
            return {}
        starts, stops = self.drawn(epoch).tolist(), self.drawn(epoch + 1).tolist()
        return {
            (g, each): stream.epoch(each)
            for g, stream in enumerate(self.streams)
            if getattr(stream, "learns", False)
            for each in range(starts[g] // stream.draws, -(-stops[g] // stream.draws))
        }

    def state_dict(self, since: int = 0, /) -> dict[str, Any]:
        """Return the changes of the sources' streams since they were made, by number; empty without any.

        Args:
            since: The epoch in which the training stands; nothing of earlier ones is held.
        """
        states = {}
        for g, (stream, drawn) in enumerate(zip(self.streams, self.drawn(since).tolist(), strict=True)):
            if hasattr(stream, "state_dict") and (state := stream.state_dict(drawn // stream.draws)):
                states[str(g)] = state
        return {"sources": states} if states else {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was taken from a mixture that was made alike; errors as `IndexStream`'s.

        Raises:
            ValueError: The state is of another kind of stream.
        """
        if unknown := state.keys() - {"sources"}:
            raise ValueError(f"a state of a mixture holds sources, but got {min(unknown)!r}")
        states = state.get("sources", {})
        if unknown := states.keys() - {str(g) for g in range(len(self.streams))}:
            raise ValueError(f"a state of a mixture of {len(self.streams)} sources has none named {min(unknown)!r}")
        for g, stream in enumerate(self.streams):
            if hasattr(stream, "load_state_dict"):
                stream.load_state_dict(states.get(str(g), {}))

    @property
    def global_batch(self) -> int | None:
        """Rows of a batch over all ranks, of `batches='single'`; None where any batch will do."""
        return self.unit if self.batches == "single" else None

    def _turns(self, start: int, size: int) -> Turns:
        """Whose positions start … start + size - 1 of the training are."""
        first = start // self.unit
        units = (start + size - 1) // self.unit + 1 - first
        sources, numbers = np.empty(units, dtype=np.int32), np.empty(units, dtype=np.int64)
        self._shares.fill(self._keys, first, sources, numbers)
        if self.unit > 1:
            skip = slice(start - first * self.unit, start - first * self.unit + size)
            numbers = (numbers[:, None] * self.unit + np.arange(self.unit)).reshape(-1)[skip]
            sources = np.repeat(sources, self.unit)[skip]
        places, bounds = np.empty(size, dtype=np.int64), np.zeros(len(self.streams) + 1, dtype=np.int64)
        group_by_source(sources, places, bounds)
        return Turns(sources, numbers, places, bounds.tolist())

    def draw(self, start: int, size: int, kept: Kept, /) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows int64 and weights float32 (size,) from a position of the training on.

        Args:
            start: The position.
            size: How many.
            kept: Orders of sources that learn.
        """
        turns = self._turns(start, size)
        units = np.arange(start, start + size, dtype=np.int64) // self.unit
        scale = self._scale[self._shares.rows_at(units), turns.sources]
        rows, weights = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)
        for g, places, order, span in self._spans(turns, kept):
            own = order[span]
            rows[places] = own + self._firsts[g]
            weights[places] = order.importance(span.start, own) * scale[places]
        return rows, weights

    def _spans(self, turns: Turns, kept: Kept) -> Iterator[tuple[int, NDArray[np.int64], Order, slice]]:
        """Of each source and each of its epochs: where its draws stand, their order and their positions in it."""
        for g, (begin, end) in enumerate(pairwise(turns.bounds)):
            if begin == end:
                continue
            places, draws = turns.places[begin:end], self.streams[g].draws
            low = int(turns.numbers[places[0]])
            high = low + end - begin
            for epoch in range(low // draws, (high - 1) // draws + 1):
                span = slice(max(low - epoch * draws, 0), min(high - epoch * draws, draws))
                offset = epoch * draws - low
                order = kept[g, epoch] if (g, epoch) in kept else self.streams[g].epoch(epoch)
                yield g, places[span.start + offset : span.stop + offset], order, span

    def __repr__(self) -> str:
        return f"MixedStream(sources={len(self.streams)}, rows={self.rows}, seed={self.seed}, draws={self.draws})"


class Windows:
    """An epoch of a mixture, drawn a window at a time: loaders ask for a batch after the other.

    Args:
        stream: The mixture.
        first: Position of the training at which the epoch begins.
        kept: Orders of sources that learn.
    """

    def __init__(self, stream: MixedStream, first: int, kept: Kept, /) -> None:
        self._stream, self._first, self._kept = stream, first, kept
        self._known: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}  # replaced, never changed

    def fill(self, start: int, out: NDArray[np.int64], /) -> None:
        """Write the rows from a position of the epoch on, int64 (n,)."""
        self._copy(0, start, out)

    def importance(self, start: int, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Return the weights of the rows (n,) from a position of the epoch on, float32 (n,)."""
        out = np.empty(rows.size, dtype=np.float32)
        self._copy(1, start, out)
        return out

    def _copy(self, which: int, start: int, out: NDArray[Any]) -> None:
        done = 0
        while done < out.size:
            number, skip = divmod(start + done, WINDOW)
            part = self._window(number)[which][skip : skip + out.size - done]
            out[done : done + part.size] = part
            done += part.size

    def _window(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = self._known.get(number)
        if found is None:
            begin = number * WINDOW
            size = min(WINDOW, self._stream.draws - begin)
            found = self._stream.draw(self._first + begin, size, self._kept)
            self._known = dict([*self._known.items(), (number, found)][-HELD:])
        return found


def share_steps(share: Any, what: str, /) -> list[tuple[float, float]]:
    """Return a share as steps of (progress, share).

    Args:
        share: A number, or pairs of numbers.
        what: Its name in messages.

    Raises:
        TypeError: Neither of these.
    """
    try:
        pairs = [(0.0, share)] if isinstance(share, SupportsFloat) else [tuple(step) for step in share]
        numbers = [[_number(value) for value in pair] for pair in pairs]
        return [(begin, value) for begin, value in numbers]
    except (TypeError, ValueError):
        law = f"{what} must be a number, or steps as [[0, 0.3], [0.5, 0]] of progress and share"
        raise TypeError(f"{law}, but got {share!r}") from None


def _number(value: Any) -> float:
    if isinstance(value, bool | str | np.bool_):
        raise TypeError
    return float(value)


def _steps(shares: Sequence[Share]) -> tuple[list[float], NDArray[np.float64]]:
    """Return the progress at which shares change, from 0 on (K,), and the shares from each on, float64 (K, G)."""
    steps = [share_steps(share, f"share of source {g}") for g, share in enumerate(shares)]
    for g, of_source in enumerate(steps):
        progress = [step[0] for step in of_source]
        if not progress or progress[0] != 0 or progress != sorted(set(progress)) or progress[-1] >= 1:
            raise ValueError(
                f"steps of a share begin at progress 0 and increase below 1, but source {g} has {progress}"
            )
    times = sorted({float(time) for of_source in steps for time, _ in of_source})
    table = np.array(
        [[[share for begin, share in of_source if begin <= time][-1] for of_source in steps] for time in times],
        dtype=np.float64,
    )
    if not ((table >= 0).all() and (table < 1e300).all() and (table.sum(1) > 0).all()):
        raise ValueError(f"shares must be finite, >= 0 and positive for a source at any time, but got {table.tolist()}")
    return times, table


@njit(cache=True, nogil=True)
def group_by_source(sources: NDArray[np.int32], places: NDArray[np.int64], bounds: NDArray[np.int64]) -> None:
    """Write where the draws of each source stand, in order, into `places` (n,), and where each begins into `bounds`."""
    for source in sources:
        bounds[source + 1] += 1
    for g in range(1, bounds.size):
        bounds[g] += bounds[g - 1]
    at = bounds.copy()
    for i in range(sources.size):
        places[at[sources[i]]] = i
        at[sources[i]] += 1
