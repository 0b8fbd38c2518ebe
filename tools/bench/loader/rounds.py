"""Alternating rounds: every system delivers the same images again and again, and what it delivered is compared."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.images import Transform
from drawstream.tools.experiments import Columns

__all__ = ["SPEEDS", "Delivery", "Setting", "System", "alternate", "median_ratio"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings that all systems share.

    Attributes:
        transform: Geometry and normalisation.
        batch_size: Images per batch.
        threads: Worker threads of a system, or its worker processes.
        prefetch: Batches that DALI computes ahead.
        device: Where DALI decodes and transforms, and where all batches must arrive.
    """

    transform: Transform
    batch_size: int
    threads: int
    prefetch: int
    device: Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Result of one round: images, seconds, and the labels if the system has them."""

    seconds: float
    images: int
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """Someone who delivers images.

    Attributes:
        name: In the table.
        batch_size: Images per batch.
        deliver: Runs round number i; called for 0, 1, … in this order.
        expected: Labels that round i must deliver, or None where nothing is known.
        ordered: Whether they must come in this order, too; workers hand over as they please.
    """

    name: str
    batch_size: int
    deliver: Callable[[int], Delivery]
    expected: Callable[[int], NDArray[np.int64]] | None = None
    ordered: bool = True

    def round(self, number: int, /) -> float:
        """Run a round; return images per second.

        Raises:
            RuntimeError: Other labels than expected: speeds of different work say nothing.
        """
        delivery = self.deliver(number)
        if self.expected is not None and delivery.labels is not None:
            got, wanted = delivery.labels, self.expected(number)
            if not self.ordered:
                got, wanted = np.sort(got), np.sort(wanted)
            if not np.array_equal(got, wanted):
                raise RuntimeError(
                    f"{self.name}: round {number} must deliver {len(wanted)} images that are known, but {len(got)} "
                    "came, or others: its speed cannot be compared"
                )
        return delivery.images / delivery.seconds


SPEEDS: Columns[dict[str, Any]] = {  # of the rows that `alternate` returns
    "images/s": lambda row: f"{row['images_per_second']:,.1f}",
    "slowest": lambda row: f"{min(row['rounds']):,.1f}",
    "fastest": lambda row: f"{max(row['rounds']):,.1f}",
}


def alternate(systems: Sequence[System], rounds: int, /) -> list[dict[str, Any]]:
    """Run all systems in turns, after one round each that does not count.

    Each round has an order of its own: a system that always follows the same one pays for what that leaves behind, such
    as worker processes that still wind down.

    Returns:
        Per system `system`, `batch_size`, `images_per_second` (median over the rounds) and `rounds` (each of them).

    Raises:
        RuntimeError: A system delivers other images than it should.
    """
    speeds: list[list[float]] = [[] for _ in systems]
    orders = np.random.default_rng(0)
    for number in range(rounds + 1):
        for at in orders.permutation(len(systems)).tolist():
            speeds[at].append(systems[at].round(number))
    return [
        {"system": system.name, "batch_size": system.batch_size, "images_per_second": median, "rounds": counted}
        for system, (_, *counted) in zip(systems, speeds, strict=True)
        for median in [statistics.median(counted)]
    ]


def median_ratio(over: Sequence[float], under: Sequence[float], /) -> float:
    """Return the median over the rounds of the ratio in a round: a machine that is busy for a while hurts both."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
