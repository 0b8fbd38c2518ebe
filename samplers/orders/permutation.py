"""Every row once: the uniform stream, in O(1) memory for any number of rows."""

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.orders.shuffle import Shuffle
from drawstream.samplers.orders.window import Windows, arrange

__all__ = ["Permutation"]


class Permutation:
    """Every row once per N positions; each further N positions of an epoch have a shuffle of their own."""

    __slots__ = ("draws", "rows", "window")

    def __init__(self, rows: int, draws: int, window: int = 0, /) -> None:
        self.rows, self.draws, self.window = rows, draws, window

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        return 0

    def digest(self) -> str:
        """Hash of the law: rows and draws, of which the stream knows already, say it all."""
        return ""

    def draw_epoch(self, seed: int, epoch: int, /) -> "PermutationEpoch":
        """The draws of one epoch."""
        return PermutationEpoch(self.rows, self.window, seed, epoch)


class PermutationEpoch:
    """The draws of one epoch; see `Permutation`."""

    __slots__ = ("_epoch", "_first", "_rows", "_seed", "_window")

    def __init__(self, rows: int, window: int, seed: int, epoch: int, /) -> None:
        self._rows, self._window, self._seed, self._epoch = rows, window, seed, epoch
        self._first = self._arrange(0)

    def _arrange(self, lap: int) -> Shuffle | Windows:
        return arrange(self._rows, self._window, "permutation", self._seed, self._epoch, lap)

    def fill(self, start: int, out: NDArray[np.int64], /) -> None:
        """Write the rows at positions start, start + 1, … into `out` (int64)."""
        done = 0
        while done < out.size:
            lap, place = divmod(start + done, self._rows)
            part = out[done : done + self._rows - place]
            (self._arrange(lap) if lap else self._first).fill(place, part)
            done += part.size

    def importance(self, _start: int, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Ones, float32: every row has the same probability."""
        return np.ones(rows.size, dtype=np.float32)
