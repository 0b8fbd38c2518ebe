"""Where in a stream a loader or a sampler stands: epoch and global position, set by hand or from a saved state."""

import reprlib
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, SupportsIndex

import torch.distributed as dist
from torch.utils.data import Sampler

from drawstream.pipeline.packed import packed, unpacked
from drawstream.pipeline.reading.plan import Order, Plan
from drawstream.samplers import IndexStream, Sequential
from drawstream.samplers.arguments import whole_number


class Stream(Protocol):
    """What a loader follows: `IndexStream`, `Sequential`, or anything with their surface.

    A stream that changes while it is followed has `state_dict()` and `load_state_dict(state)` too, which become part of
    the loader's state.
    """

    @property
    def rows(self) -> int:
        """Number of rows that it draws from."""

    @property
    def seed(self) -> int:
        """Keys the draws of the transform."""

    @property
    def fingerprint(self) -> str:
        """Equal for streams of the same orders."""

    def epoch(self, epoch: int, /) -> Order:
        """The order of an epoch."""


class Place:
    """Epoch and global position of the next batch.

    A pass begins at the start of its epoch, or at a restored position right after `load`; `set_epoch` of the restored
    epoch keeps that position.

    Args:
        owner: The word for whose place it is, in messages: loader or sampler.
        world_size: Number of processes that the owner counts on.
    """

    def __init__(self, owner: str, world_size: int, /) -> None:
        self._owner, self._world_size = owner, world_size
        self._warned: set[str] = set()
        self.go(0)

    def go(self, epoch: int, position: int = 0, /, *, resumed: bool = False) -> None:
        """Stand at a position; a pass that is still running elsewhere no longer moves it."""
        self.epoch, self.position = epoch, position
        self.resumed, self._repeats = resumed, False
        self.plan: Plan | None = None

    def set_epoch(self, epoch: SupportsIndex, /) -> None:
        """Go to the start of an epoch, or stay at the restored position right after `load`.

        Raises:
            TypeError: The epoch is not a whole number.
            ValueError: It is negative.
        """
        number = whole("epoch", epoch, least=0)
        if self.resumed and number == self.epoch:
            return
        if self.resumed and number < self.epoch:
            self._warn(
                "back",
                f"set_epoch({number}) right after a state of epoch {self.epoch} was loaded gives its place up: go on "
                f"with set_epoch({self.epoch}); Accelerate and Fabric count epochs from 0 in every process, so do not "
                f"let them prepare the {self._owner}",
                stacklevel=4,
            )
        self.go(number)

    @property
    def start(self) -> int:
        """Where the next pass begins."""
        return self.position if self.resumed else 0

    def begin(self, plan: Plan, stream: Stream, /, *, divided: bool = False) -> None:
        """Begin a pass, from `start`; `divided`: somebody else divides it among processes."""
        if not isinstance(stream, Sequential):
            self._look_out(divided)
        if plan.drop_last and 0 < len(plan.order) < plan.global_batch:
            self._warn(
                "nothing",
                f"drop_last leaves nothing of an epoch: it has {len(plan.order)} rows, a global batch "
                f"{plan.global_batch}: lower the batch size, or leave drop_last out",
                stacklevel=4,
            )
        repeats = self._repeats
        self.go(self.epoch, self.start)
        self.plan, self._repeats = plan, repeats

    def move(self, plan: Plan, step: int, /, *, asked_ahead: bool = False) -> None:
        """Stand behind a batch of the pass begun last; another pass moves nothing."""
        if self.plan is plan:
            self.position = plan.end(step)
            ended = step + 1 == len(plan)
            self._repeats |= ended or (step > 0 and not asked_ahead)  # one batch of several was only looked at

    def state(self, identity: Mapping[str, Any], stream: Stream, /) -> dict[str, Any]:
        """The place as JSON: what must be equal where it is loaded, the numbers, and what changed in the stream."""
        state = {**identity, "epoch": self.epoch, "position": self.position}
        changes = stream.state_dict() if hasattr(stream, "state_dict") else {}
        return {**state, "changes": packed(changes)} if changes else state

    def load(self, state: Any, identity: Mapping[str, Any], stream: Stream, /) -> None:
        """Take the place of a state, and the changes of its stream; nothing changes where it is refused.

        Raises:
            ValueError: It is of something else (both sides are shown), or no state.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"a state of a {self._owner} is what its state_dict() gave, but got {reprlib.repr(state)}")
        for key, mine in identity.items():
            theirs = state.get(key)
            if theirs != mine:
                raise ValueError(f"this state is of another {key}: saved {theirs!r}, {self._owner} has {mine!r}")
        epoch, position = (_count(state.get(key)) for key in ("epoch", "position"))
        if epoch is None or position is None:
            shown = " and ".join(reprlib.repr(state.get(key)) for key in ("epoch", "position"))
            raise ValueError(f"a state needs an epoch and a position >= 0, but got {shown}")
        draws = getattr(stream, "draws", None)
        if draws is None or position <= draws:  # else nothing is to change
            self._change(stream, state.get("changes"))
        draws = len(stream.epoch(epoch)) if draws is None else draws
        if position > draws:
            raise ValueError(f"the state is at position {position}, but an epoch has {draws}: it is damaged")
        self.go(epoch, position, resumed=True)

    def _change(self, stream: Stream, changes: Any) -> None:
        """Let a stream that changes go on from there."""
        if hasattr(stream, "load_state_dict"):
            try:
                stream.load_state_dict({} if changes is None else {**unpacked(changes)})
            except (AttributeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"the stream cannot take the changes of this state ({type(error).__name__}: {error}): it is "
                    "damaged, or of another row sampler"
                ) from None
        elif changes is not None:
            raise ValueError(
                f"this state holds changes of a stream, but {type(stream).__name__} has no load_state_dict: build the "
                f"{self._owner} with the same stream"
            )

    def _look_out(self, divided: bool) -> None:
        """Warn of the two mistakes that change what is trained on and raise no error."""
        if self._repeats:
            self._warn(
                "repeats",
                f"this is a second pass over epoch {self.epoch}, with the same rows in the same order: call "
                f"set_epoch(epoch) of the {self._owner} before each epoch",
                stacklevel=5,
            )
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if processes > self._world_size and not divided:
            self._warn(
                "processes",
                MORE_PROCESSES.format(processes=processes, owner=self._owner, world_size=self._world_size),
                stacklevel=5,
            )

    def _warn(self, kind: str, text: str, *, stacklevel: int) -> None:
        """Warn, once for each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, stacklevel=stacklevel)


MORE_PROCESSES = (
    "torch.distributed has {processes} processes, but this {owner} was made for world_size={world_size}, so some "
    "train on the same rows: give rank=torch.distributed.get_rank() and world_size=torch.distributed.get_world_size()"
)


def whole(name: str, value: SupportsIndex, /, *, least: int) -> int:
    """A whole number of any integer type as an int.

    Raises:
        TypeError: It is of another type; a bool is one.
        ValueError: It is below `least`.
    """
    number = whole_number(value, f"`{name}`")
    if number < least:
        raise ValueError(f"`{name} >= {least}` must hold, but got {number}")
    return number


def whole_ranks(rank: SupportsIndex, world_size: SupportsIndex, /) -> tuple[int, int]:
    """Rank and number of processes as ints.

    Raises:
        TypeError: One is not a whole number.
        ValueError: Not 0 <= rank < world_size.
    """
    ranks = whole("world_size", world_size, least=1)
    try:
        number = whole("rank", rank, least=0)
    except ValueError:
        number = ranks
    if number >= ranks:
        raise ValueError(f"`0 <= rank < world_size` must hold, but got rank {rank} of {ranks}")
    return number, ranks


def as_stream(given: Any, /) -> Any:
    """A stream as it is; of weights or a row sampler one is made, with seed 0.

    Raises:
        TypeError: It is a sampler of torch, or nothing that a stream can be made of.
    """
    if isinstance(given, Sampler):
        raise TypeError(
            f"a stream is needed, but got {type(given).__name__}: give an IndexStream; where Lightning put its own "
            "sampler here, set Trainer(use_distributed_sampler=False), and predict or overfit with a plain DataLoader"
        )
    return given if hasattr(given, "epoch") and hasattr(given, "fingerprint") else IndexStream(given)


def require_rows(stream: Stream, rows: int, what: str, /) -> None:
    """Refuse a stream over another number of rows; one in file order may end earlier.

    Raises:
        ValueError: It draws from another number; both are shown.
    """
    if stream.rows > rows or (stream.rows < rows and not isinstance(stream, Sequential)):
        raise ValueError(f"the stream draws from {stream.rows} rows, but there are {rows} {what}: build it for these")


def draws_of(stream: Stream, epoch: int, /) -> int:
    """Positions of an epoch; without its set-up where the stream says them."""
    draws = getattr(stream, "draws", None)
    return len(stream.epoch(epoch)) if draws is None else int(draws)


def _count(value: Any) -> int | None:
    """A whole number >= 0 of a state; None where it is something else."""
    try:
        return whole("value", value, least=0)
    except (TypeError, ValueError):
        return None
