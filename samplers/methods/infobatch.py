"""InfoBatch: leave out part of the well learned rows, and let the others count for them (Qin et al., ICLR 2024).

Notation
    N      rows
    s_i    loss of row i at its last visit, in units of 2^-36 (`visits`); rows never seen have none
    below  rows with s_i < mean(s), strictly; n of them
    r      share of them left out in an epoch
    k      rows of them kept: floor or ceil of (1 − r) n, at random so that its expectation is (1 − r) n exactly
    w_i    1 / (1 − r) for rows below the mean, 1 for the others

The k rows are a random subset, so each row below the mean is kept with probability 1 − r, and the expected sum of
w_i g_i over the rows of an epoch is the sum of g_i over all N. An epoch of M rows is shorter, its steps are larger: the
mean of w g over a batch is N / M times the plain mean on average, as in the authors' code. The last epochs (1 − `share`
of them) hold all rows.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, digest_array, random_words, whole_number
from drawstream.samplers.methods.visits import Total, Visits
from drawstream.samplers.orders import Draws, IndexStream, Shuffle, keyed_shuffle

__all__ = ["InfoBatch"]

_FORMAT = 1


class InfoBatch(Visits):
    """InfoBatch: a stream per epoch, of a length of its own.

        >>> from drawstream import InfoBatch
        >>> pruning = InfoBatch(60_000, epochs=90, seed=0)
        >>> stream = pruning.stream(3)           # for this epoch: stream.epoch(3), weights in its order

    In the loop: `pruning.observe(ids, logits, labels, weights)` after each forward pass, `pruning.reduce()` after each
    epoch, as `PSGD`; the loss is the sum of weight times loss over the batch, divided by its rows. All ranks draw the
    same epoch. Memory: 24 bytes per row, and 8 for the rows of the epoch.

    Args:
        rows: N.
        epochs: epochs of the training run.
        ratio: r, in [0, 1).
        share: leading share of the epochs that are pruned, in [0, 1]; 0.875 in the paper.
        seed: in [0, 2^64).

    Raises:
        ValueError: an argument is out of range.
    """

    _kept: ClassVar[Mapping[str, str]] = {"scores": "_scores", "pending": "sums"}

    def __init__(self, rows: int, /, *, epochs: int, ratio: float = 0.5, share: float = 0.875, seed: int = 0) -> None:
        epochs, seed = whole_number(epochs, "epochs"), whole_number(seed, "seed")
        if epochs < 1 or not 0 <= ratio < 1 or not 0 <= share <= 1:
            raise ValueError(
                f"epochs >= 1, 0 <= ratio < 1 and 0 <= share <= 1 must hold, but got {epochs=}, {ratio=} and {share=}"
            )
        derive_keys(1, seed)
        super().__init__(rows, measure="loss")
        self.epochs, self.ratio, self.share, self.seed = epochs, float(ratio), float(share), seed
        self._scores: NDArray[np.int64] = np.full(self.rows, -1, dtype=np.int64)

    def __repr__(self) -> str:
        return f"InfoBatch({self.rows} rows, ratio {self.ratio})"

    def reduce(self, total: Total | None = None, /) -> None:
        """End an epoch: each row seen in it takes the (mean) loss of its visits there; `total` and errors as `PSGD`."""
        sums, visits = self.take(total).T
        np.floor_divide(sums, visits, out=self._scores, where=visits > 0)

    def below_mean(self) -> NDArray[np.bool_]:
        """Return whether a row's last loss lies below the mean over the rows seen, bool (rows,); False for unseen."""
        seen = self._scores >= 0
        count = int(np.count_nonzero(seen))
        if count == 0:
            return seen
        known = self._scores[seen]
        total = (int((known >> 20).sum()) << 20) + int((known & ((1 << 20) - 1)).sum())  # may pass 2^63
        return seen & (self._scores <= (total - 1) // count)

    def epoch_rows(self, epoch: int, /) -> NDArray[np.int64]:
        """Return the rows of an epoch under the state of now, int64, sorted.

        Raises:
            ValueError: the epoch is negative.
        """
        return self._choose(epoch)[0]

    def stream(self, epoch: int, /) -> IndexStream:
        """Return the stream of an epoch under the state of now; `stream.epoch(epoch)` is its order, with weights w.

        Raises:
            ValueError: the epoch is negative.
        """
        rows, below = self._choose(epoch)
        return IndexStream(Kept(rows, below, self.rows, 1.0 / (1.0 - self.ratio)), seed=self.seed)

    def _identity(self) -> dict[str, Any]:
        options = {"epochs": self.epochs, "ratio": self.ratio, "share": self.share, "seed": self.seed}
        return {"format": _FORMAT, "sampler": "infobatch", "rows": self.rows, **options}

    def _choose(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The rows of an epoch, sorted, and whether each of them lies below the mean."""
        epoch = whole_number(epoch, "epoch")
        if epoch < 0:
            raise ValueError(f"epoch >= 0 must hold, but got {epoch}")
        below = self.below_mean()
        if epoch >= self.share * self.epochs or self.ratio == 0.0:
            below[:] = False
        rows = np.flatnonzero(below)
        keys = derive_keys(3, "infobatch", self.seed, epoch)
        places = random_words(rows, keys)
        kept = ~below
        kept[rows[keep_part(places, self.ratio, int(keys[2] >> np.uint64(11)) * 2.0**-53)]] = True
        found = np.flatnonzero(kept)
        return found, below[found]


def keep_part(places: NDArray[np.uint64], ratio: float, coin: float, /) -> NDArray[np.int64]:
    """The k rows of n with the lowest places; k is (1 − ratio) n rounded up where its fraction is above the coin."""
    fraction, whole = math.modf((1.0 - ratio) * places.size)
    count = int(whole) + (coin < fraction)
    return np.argpartition(places, count)[:count] if count < places.size else np.arange(places.size)


class Kept:
    """The law of one epoch: its rows once each, in random order.

    kept int64 (M,) are the rows, sorted; below bool (M,) tells which of them stand for others too, with this weight.
    """

    def __init__(self, kept: NDArray[np.int64], below: NDArray[np.bool_], rows: int, weight: float, /) -> None:
        self.kept, self.below, self.rows, self.weight = kept, below, rows, weight
        self.draws = kept.size

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.kept.nbytes + self.below.nbytes

    def digest(self) -> str:
        """Return the hash of rows and weights."""
        return digest_array(self.kept) + digest_array(self.below) + self.weight.hex()

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """Return the order of an epoch."""
        return Draws(partial(self._fill, keyed_shuffle(self.draws, "infobatch", seed, epoch)), self._importance)

    def _fill(self, places: Shuffle, start: int, out: NDArray[np.int64]) -> None:
        places.fill(start, out)
        out[:] = self.kept[out]

    def _importance(self, _start: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        below = self.below[np.searchsorted(self.kept, rows)]
        return np.where(below, np.float32(self.weight), np.float32(1.0))
