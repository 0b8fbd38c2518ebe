"""The children of a population: what a user's own training step must offer, and how one process holds several.

    class Mine:                          # a `Child`: any model, optimizer and data
        def train(self, rows): ...       # these rows, in this order, cut into batches
        def evaluate(self): ...          # reward on held-out rows, higher is better
        def state_dict(self): ...        # all that decides how training goes on
        def load_state_dict(self, state): ...

    group = InTurn([Mine() for _ in children_of(ranks, population=4)])

Children are numbered over all processes; the search gives each the rows of its own number.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Child(Protocol):
    """One member of the population: a model in training."""

    def train(self, rows: NDArray[np.int64], /) -> None:
        """Train on one interval: int64 (batches * batch size,) rows in this order, cut into its batches."""

    def evaluate(self) -> float:
        """Reward on the held-out set, higher is better; not a number where training has diverged."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides how training goes on: weights, optimizer state, buffers, position of the learning rate.

        Tensors, numbers, strings, lists and dictionaries. It may share memory with the child: whoever keeps it copies.
        """

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from the state of another child; the child may keep what it is given."""


class Group(Protocol):
    """The children of this process, trained in turn, or however suits the device."""

    def train(self, rows: NDArray[np.int64], /) -> None:
        """Train each child on its row of `rows`, int64 (children, batches * batch size)."""

    def evaluate(self) -> NDArray[np.float64]:
        """Rewards, float64 (children,)."""

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """State of one of these children, `index` counted from 0 within the process."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Give one state to all of these children; it stays the caller's."""


class InTurn:
    """Children that share a device and are trained one after another; states are copied, never shared.

    Args:
        children: At least one.

    Raises:
        ValueError: There is none.
    """

    def __init__(self, children: Sequence[Child], /) -> None:
        if not children:
            raise ValueError("a group must hold at least one child, but got none: use no more ranks than children")
        self.children = tuple(children)

    def train(self, rows: NDArray[np.int64], /) -> None:
        """Train each child on its row of `rows`, int64 (children, batches * batch size)."""
        for child, own in zip(self.children, rows, strict=True):
            child.train(own)

    def evaluate(self) -> NDArray[np.float64]:
        """Rewards, float64 (children,)."""
        return np.array([child.evaluate() for child in self.children], dtype=np.float64)

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """A copy of the state of child `index`, counted from 0 within the process."""
        return copy.deepcopy(self.children[index].state_dict())

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Give each child a copy of `state`, its own: optimizers keep the tensors that they are given."""
        for child in self.children:
            child.load_state_dict(copy.deepcopy(state))


class Ranks(Protocol):
    """This process among those that share a population."""

    @property
    def rank(self) -> int:
        """In [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in their order."""

    def share(self, value: Any, source: int, /) -> Any:
        """The value of process `source`, on all of them."""

    def wait(self) -> None:
        """Until all processes are here."""


@dataclass(frozen=True, slots=True)
class OneRank:
    """One process with the whole population.

    Attributes:
        rank: 0.
        world_size: 1.
    """

    rank: int = 0
    world_size: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]

    def share(self, value: Any, _source: int, /) -> Any:
        """The value."""
        return value

    def wait(self) -> None:
        """At once."""


def of_first(ranks: Ranks, work: Callable[[], Any], /) -> Any:
    """Return on every process what process 0's work gives; the others do none.

    Raises:
        ValueError, OSError: On every process, where the work raises one: nobody waits for a process that has left.
    """
    found: Any = None
    refused: Exception | None = None
    if ranks.rank == 0:
        try:
            found = work()
        except (ValueError, OSError) as error:
            refused = error if isinstance(error, OSError) else ValueError(str(error))
    found, refused = ranks.share((found, refused), 0)
    if refused is not None:
        raise refused
    return found


def children_of(ranks: Ranks, /, *, population: int) -> range:
    """Numbers of the children that a process holds: a contiguous part of the population, at most one more than others.

    Args:
        ranks: This process among all.
        population: Number of children in all.

    Raises:
        ValueError: There are fewer children than processes.
    """
    if population < ranks.world_size:
        raise ValueError(
            f"`population >= ranks` must hold, but got {population} children for {ranks.world_size} ranks: "
            "start fewer processes"
        )
    first, last = (edge * population // ranks.world_size for edge in (ranks.rank, ranks.rank + 1))
    return range(first, last)
