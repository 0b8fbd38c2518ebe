"""Parts of a checkpoint, each as one state of all ranks.

Within an epoch every rank has counts of its own. Integers are added up, and the first rank goes on with the sum, so
that any number of ranks can: `TrackerOfAll`, `LearnerOfAll`. Of other parts each rank's state is kept: `OfEachRank`.

`state_dict` is a collective call, and its result counts on rank 0; `load_state_dict` takes the state on every rank.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from drawstream.features import Tracker
from drawstream.pipeline import CropFilter, Loader
from drawstream.samplers.methods import Visits
from drawstream.tools.training import Ranks

COUNTS = ("sums", "last", "other", "grand_sums")  # of a tracker, within an epoch
PENDING = "pending"  # sums of a learner within an epoch, int64


class Stateful(Protocol):
    """A part of a run: model, optimizer, tracker, loss, sampler or selector."""

    def state_dict(self) -> dict[str, Any]:
        """Return the current state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore a state."""


@dataclass(frozen=True, slots=True)
class AsTensors:
    """A sampler or selector, whose state is of arrays, as a part whose state is of tensors."""

    part: Stateful

    def state_dict(self) -> dict[str, Any]:
        """Its state; a file without pickled code can hold it."""
        state = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.part.state_dict().items()}
        return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state."""
        self.part.load_state_dict({k: v.numpy() if isinstance(v, Tensor) else v for k, v in state.items()})


@dataclass(frozen=True, slots=True)
class OfEachRank:
    """A part whose state is each rank's own: random numbers, a loss.

    Attributes:
        part: The part.
        ranks: The processes.
        mergeable: Another number of ranks goes on with the states of the first ones; else only with equal states.
    """

    part: Stateful
    ranks: Ranks
    mergeable: bool = True

    def state_dict(self) -> dict[str, Any]:
        """The states by rank."""
        return {"ranks": self.ranks.collect(self.part.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore this rank's state.

        Raises:
            ValueError: It is of another number of ranks, and cannot be divided among these.
        """
        states: Sequence[Any] = state["ranks"]
        strict = not self.mergeable and len(states) != self.ranks.world_size
        if strict and not all(_equal(each, states[0]) for each in states[1:]):
            name = type(getattr(self.part, "part", self.part)).__name__
            law = f"it was saved within an epoch of {len(states)} ranks, each with visits of its own of {name}"
            raise ValueError(f"{law}: go on with {len(states)} ranks, not {self.ranks.world_size}")
        self.part.load_state_dict(states[self.ranks.rank % len(states)])


@dataclass(frozen=True, slots=True)
class TrackerOfAll:
    """A tracker, with the visits of all ranks."""

    tracker: Tracker
    ranks: Ranks

    def state_dict(self) -> dict[str, Any]:
        """Its state, with what all ranks counted in the epoch under way."""
        return self.tracker.state_dict(joined=True)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore it; the counts of the epoch go on in rank 0."""
        tensors = state["tensors"]
        if not self.ranks.writes:
            tensors = {k: torch.zeros_like(v) if k in COUNTS else v for k, v in tensors.items()}
        self.tracker.load_state_dict({**state, "tensors": tensors})


@dataclass(frozen=True, slots=True)
class LearnerOfAll:
    """A row sampler that adds up what it observes (`adds_up`: p-SGD, RAIS, …), with the visits of all ranks.

    Attributes:
        learner: The sampler.
        ranks: The processes.
        device: Where arrays are added up.
    """

    learner: Stateful
    ranks: Ranks
    device: torch.device

    def state_dict(self) -> dict[str, Any]:
        """Its state, with what all ranks observed in the epoch under way."""
        state = AsTensors(self.learner).state_dict()
        summed = {k: self.ranks.total(v.to(self.device, copy=True)).cpu() for k, v in state.items() if _pends(k)}
        return state | summed

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore it; the visits of the epoch go on in rank 0."""
        idle = {} if self.ranks.writes else {k: torch.zeros_like(v) for k, v in state.items() if _pends(k)}
        AsTensors(self.learner).load_state_dict({**state, **idle})


def _equal(one: Any, other: Any) -> bool:
    """Whether two states hold the same values."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def adds_up(learner: Any, /) -> bool:
    """Return whether what a learner observes within an epoch are sums: of a mixture's, whether those of all are."""
    several = getattr(learner, "learners", None)
    return all(isinstance(each, Visits) for each in (several.values() if isinstance(several, dict) else (learner,)))


def _pends(name: str) -> bool:
    """Whether an entry of a state, of a mixture's `SOURCE.NAME`, holds visits of the epoch under way."""
    return name.rpartition(".")[2] == PENDING


@dataclass(slots=True)
class LoaderPlace:
    """The place of a loader in its stream, and what changed in the stream, the same for all ranks.

    Attributes:
        loader: The loader, or the filter of its crops.
        ranks: The processes.
        within: Whether an epoch is under way; else the place is the start of the next one.
    """

    loader: Loader | CropFilter
    ranks: Ranks
    within: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Epoch, global position and changes of the stream; of rank 0."""
        if not self.ranks.writes:
            return {}
        state = self.loader.state_dict()
        state |= {} if self.within else {"epoch": self.loader.epoch + 1, "position": 0}
        return {k: v for k, v in state.items() if k not in ("batch_size", "rank", "world_size")}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go there."""
        self.loader.load_state_dict(dict(state))


@dataclass(frozen=True, slots=True)
class BufferState:
    """Statistics that each rank takes of its own rows, as BatchNorm does: those of rank 0 are in the model's state.

    Attributes:
        buffers: Gives them by name.
    """

    buffers: Callable[[], Mapping[str, Tensor]]

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU."""
        return {name: value.cpu() for name, value in self.buffers().items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore them."""
        for name, value in self.buffers().items():
            value.copy_(state[name])


@dataclass(frozen=True, slots=True)
class RandomState:
    """Random numbers of torch (of this rank's device too), NumPy and Python: dropout draws from them."""

    device: torch.device

    def state_dict(self) -> dict[str, Any]:
        """The states of the generators."""
        kind, key, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - a model's own code may use it
        version, words, gauss = random.getstate()
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        numpy = [kind, key.tolist(), *rest]  # type: ignore[union-attr]
        return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy, "python": [version, list(words), gauss]}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore them."""
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        kind, key, *rest = state["numpy"]
        np.random.set_state((kind, np.array(key, np.uint32), *rest))  # noqa: NPY002 - see above
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
