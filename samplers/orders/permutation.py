"""Every row once: the uniform stream, in O(1) memory for any number of rows."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.orders.order import Draws, ones
from drawstream.samplers.orders.shuffle import Shuffle
from drawstream.samplers.orders.window import Windows, arrange

__all__ = ["Permutation"]


class Permutation:
    """Every row once per N positions; each further N positions of an epoch have a shuffle of their own."""

    __slots__ = ("draws", "rows", "window")

    nbytes = 0

    def __init__(self, rows: int, draws: int, window: int = 0, /) -> None:
        self.rows, self.draws, self.window = rows, draws, window

    def digest(self) -> str:
        """Return the hash of the law: rows and draws, which the stream knows already, say it all."""
        return ""

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """Return the draws of one epoch."""
        return Draws(partial(self._fill, seed, epoch, self._arrange(seed, epoch, 0)), ones)

    def _arrange(self, seed: int, epoch: int, lap: int) -> Shuffle | Windows:
        return arrange(self.rows, self.window, "permutation", seed, epoch, lap)

    def _fill(self, seed: int, epoch: int, first: Shuffle | Windows, start: int, out: NDArray[np.int64]) -> None:
        done = 0
        while done < out.size:
            lap, place = divmod(start + done, self.rows)
            part = out[done : done + self.rows - place]
            (self._arrange(seed, epoch, lap) if lap else first).fill(place, part)
            done += part.size
