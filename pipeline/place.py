"""The place of a loader or sampler in its stream: epoch and global position, set by hand or from a saved state."""

import reprlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, SupportsIndex

import torch.distributed as dist
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from drawstream.pipeline.numbers import whole
from drawstream.pipeline.packed import packed, unpacked
from drawstream.pipeline.reading import Batching, Order, Plan
from drawstream.samplers.orders import IndexStream, MixedStream, RowSampler, Sequential, require_object


class Stream(Protocol):
    """Order that a loader follows: `IndexStream`, `Sequential`, or anything with the same methods.

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
    """The stream that is followed, and the epoch and global position of the next batch.

    A pass begins at the start of its epoch, or at a restored position after `load`, until a second batch is asked for;
    `set_epoch` of the epoch of a pass under way, or of a restored one, keeps the position.
    """

    def __init__(self, owner: str, stream: Any, batching: Batching, /, *, rows: int | None = None, what: str) -> None:
        self._owner, self._what, self.epoch, self.batching = owner, what, 0, batching
        self._ranks = {name: getattr(batching, name) for name in ("batch_size", "rank", "world_size")}
        self._warned: set[str] = set()
        self.rows = rows if rows is not None else as_stream(stream).rows
        self.follow(stream)

    def follow(self, stream: Any, /) -> None:
        """Follow another stream over the same rows, from the start of the epoch.

        Raises:
            ValueError: It draws from another number of rows.
        """
        follows = Sequential(0, self.rows) if stream is None else as_stream(stream)
        if follows.rows > self.rows or (follows.rows < self.rows and not isinstance(follows, Sequential)):
            law = f"the stream draws from {follows.rows} rows, but there are {self.rows} {self._what}"
            raise ValueError(f"{law}: build it for these")
        needed, have = getattr(follows, "global_batch", None), self.batching.global_batch
        if needed not in (None, have):
            law = f"every batch of this mixture is of one source, of {needed} rows over all ranks, but got {have}"
            size, odd = divmod(needed, self.batching.world_size)
            remedy = "take a number of ranks that divides it" if odd else f"give batch_size={size}"
            raise ValueError(f"{law}: {remedy}")
        self.stream = follows
        self.go(self.epoch)

    def go(self, epoch: int, position: int = 0, /, *, resumed: bool = False) -> None:
        """Go to a position; a pass that is still running elsewhere no longer moves it."""
        self.epoch, self.position = epoch, position
        self._restored = position if resumed else None
        self._repeats, self._looks, self._by_hand = False, 0, False
        self.runs = False  # the pass of `plan` is under way
        self._given = self._ranks  # the batches up to the position were of these
        self._order: Order | None = None  # of a restored epoch: whose order is held keeps it
        self.plan: Plan | None = None

    def set_epoch(self, epoch: SupportsIndex, /) -> None:
        """Go to the start of an epoch; stay in it if a pass is under way or its place was restored."""
        number = whole("epoch", epoch, least=0, below=1 << 64)
        framework = caller()[0] in FRAMEWORKS
        if framework and self._by_hand and number != self.epoch:
            self._warn(
                "behind",
                f"set_epoch({self.epoch}) of the {self._owner} is undone: the framework that drives it sets its epoch "
                f"to {number}: call set_epoch of the loader that the framework gave back",
            )
        if self._restored is not None and number != self.epoch:
            self._warn_of_loss(number, framework)
        if number != self.epoch or not (self.runs or self._restored is not None):
            self.go(number)
        elif not self.runs:
            self.position = self._restored or 0
        self._repeats, self._looks, self._by_hand = False, 0, not framework

    def _warn_of_loss(self, number: int, framework: bool) -> None:
        """Warn if the rest of a restored epoch is given up."""
        if number < self.epoch:
            self._warn(
                "back",
                f"set_epoch({number}) right after a state of epoch {self.epoch} was loaded gives its place up: go on "
                f"with set_epoch({self.epoch}); Accelerate and Fabric count epochs from 0 in every process, so do not "
                f"let them prepare the {self._owner}",
            )
        rest = draws_of(self.stream, self.epoch) - self.position
        if number > self.epoch and self.position and rest >= self.batching.least and not framework:
            self._warn(
                "rest",
                f"set_epoch({number}) right after a state within epoch {self.epoch} was loaded leaves out the {rest} "
                f"rows that are left of it: go on with set_epoch({self.epoch})",
            )

    @property
    def resumed(self) -> bool:
        """True if the next pass begins at a restored position."""
        return self._restored is not None

    @property
    def start(self) -> int:
        """Position at which the next pass begins."""
        return self._restored or 0

    @property
    def steps(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return self.batching.steps(draws_of(self.stream, self.epoch))

    def begin(self, *, divided: bool = False) -> Plan:
        """Begin a pass, from `start`; `divided`: a framework divides it among processes."""
        plan = Plan(self.stream.epoch(self.epoch), self.stream.seed, self.epoch, self.start, self.batching)
        if not isinstance(self.stream, Sequential):
            self._look_out(divided)
        whole_batch = self.batching.global_batch
        if self.batching.drop_last and 0 < len(plan.order) < whole_batch:
            self._warn(
                "nothing",
                f"drop_last leaves nothing of an epoch: it has {len(plan.order)} rows, a global batch "
                f"{whole_batch}: lower the batch size, or leave drop_last out",
            )
        self.position, self.plan, self.runs, self._by_hand = self.start, plan, True, False
        return plan

    def move(self, plan: Plan, step: int, /) -> None:
        """Go behind a batch of the pass begun last; another pass moves nothing."""
        if self.plan is plan:
            self.position, self._given = plan.end(step), self._ranks
            self._looks += step == 0

    def go_on(self, plan: Plan, /) -> None:
        """Note that a loop asks for a second batch, so it was not a look at the first one."""
        if self.plan is plan:
            self._restored, self._repeats = None, True

    @contextmanager
    def leaving(self, plan: Plan, /) -> Iterator[None]:
        """Note at the end that the pass is over."""
        try:
            yield
        finally:
            if self.plan is plan:
                self.runs = False

    def state(self, identity: Mapping[str, Any], /) -> dict[str, Any]:
        """Return the place as JSON: the identity, the numbers, and what changed in the stream."""
        state = {**identity, "epoch": self.epoch, "position": self.position, **self._given}
        stream = self.stream
        if isinstance(stream, IndexStream | MixedStream):
            changes = stream.state_dict(self.epoch + (self.position >= stream.draws))
        else:
            changes = stream.state_dict() if hasattr(stream, "state_dict") else {}
        if not any("sampler" in each for each in (changes, *changes.get("sources", {}).values())):
            del state["rank"]  # the same on all
        return {**state, "changes": packed(changes)} if changes else state

    def load(self, state: Any, identity: Mapping[str, Any], /) -> None:
        """Take the place of a state, and the changes of its stream; a state that is refused changes nothing.

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
        if epoch is None or position is None or epoch >= 1 << 64:
            shown = " and ".join(reprlib.repr(state.get(key)) for key in ("epoch", "position"))
            raise ValueError(f"a state needs an epoch and a position >= 0, but got {shown}")
        known = getattr(self.stream, "draws", None)
        if known is None or position <= known:  # else nothing is to change
            self._check_ranks(state, within=position > 0 and position != known)
            self._change(state.get("changes"))
        draws = len(self.stream.epoch(epoch)) if known is None else known
        if position > draws:
            raise ValueError(f"the state is at position {position}, but an epoch has {draws}: it is damaged")
        self.go(epoch, position, resumed=True)
        self._given = self._ranks | {key: state[key] for key in self._ranks if key in state}
        if "changes" in state and position < draws:
            self._order = self.stream.epoch(epoch)

    def _check_ranks(self, state: Mapping[str, Any], *, within: bool) -> None:
        """Compare batch size and ranks with those of a state within an epoch."""
        saved = {key: state[key] for key in self._ranks if key in state}
        mine = {key: self._ranks[key] for key in saved}
        if not within or saved == mine:
            return
        if caller()[0] in ("lightning", "pytorch_lightning"):
            raise ValueError(
                f"this state stands within an epoch, after batches of {saved}, and here it is {mine}: Lightning counts "
                "batches, so it would leave rows out: resume with the same numbers, or at the end of an epoch"
            )
        mine.pop("batch_size", None)
        if "rank" in saved and mine != {key: saved[key] for key in mine}:
            self._warn(
                "rank",
                f"this state within an epoch holds what the sampler of rank {saved['rank']} of {saved['world_size']} "
                f"has learnt, but here is rank {mine['rank']} of {mine['world_size']}: save and load one state per "
                "rank, or save at the end of an epoch",
            )

    def _change(self, changes: Any) -> None:
        """Load the changes of a stream."""
        stream = self.stream
        if hasattr(stream, "load_state_dict"):
            try:
                if not (changes is None or isinstance(changes, Mapping)):
                    raise TypeError(f"they are {reprlib.repr(changes)}")
                stream.load_state_dict({} if changes is None else unpacked(changes))
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
        """Warn of the mistakes that change what is trained on and raise no error."""
        call = f"call set_epoch(epoch) of the {self._owner} before each epoch"
        if self._repeats and not self.resumed:
            law = f"this is a second pass over epoch {self.epoch}, with the same rows in the same order"
            self._warn("repeats", f"{law}: {call}")
        elif self._looks > 1:
            law = f"the first batch of epoch {self.epoch} was taken {self._looks} times, and is given once more"
            self._warn("looks", f"{law}: go on with one iterator in place of next(iter(…)), and {call}")
        if divided or not (dist.is_available() and dist.is_initialized()):
            return
        processes, rank, world_size = dist.get_world_size(), self._ranks["rank"], self._ranks["world_size"]
        if processes != world_size:
            result = "some train on the same rows" if processes > world_size else "some rows are left out"
            text = (
                f"torch.distributed has {processes} processes, but this {self._owner} was made for "
                f"world_size={world_size}, so {result}: {REMEDY}"
            )
        elif rank != dist.get_rank():
            text = f"this {self._owner} was made for rank {rank}, but this process has rank {dist.get_rank()}: {REMEDY}"
        else:
            return
        self._warn("processes", text)

    def _warn(self, kind: str, text: str) -> None:
        """Warn the caller outside of this package, once for each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, stacklevel=caller()[1])


class Follower:
    """A loader or sampler that follows a stream and knows its place in it."""

    _place: Place

    @property
    def stream(self) -> Any:
        """Which row stands at which position; one that is assigned is followed from the start of the epoch."""
        return self._place.stream

    @stream.setter
    def stream(self, stream: Stream | RowSampler | ArrayLike | None) -> None:
        """Follow another stream over the same rows."""
        self._place.follow(stream)

    @property
    def identity(self) -> dict[str, Any]:
        """Values that must be equal in a state and where it is loaded, JSON-able."""
        return {"format": 1, "stream": self.stream.fingerprint}

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Choose the epoch of the next iteration, from its start, or from the restored position right after a load.

        Raises:
            TypeError: The epoch is not a whole number.
            ValueError: It is negative.
        """
        self._place.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position up to which batches were given, and fingerprints of what it means; JSON-able.

        Where the stream changes while it is followed (`IndexStream.update`, a row sampler with a `state_dict`), what it
        has become is part of it.
        """
        return self._place.state(self.identity)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also with another batch size, workers or number of ranks.

        After the last batch of an epoch the rest is empty: the next loop yields nothing, `set_epoch` goes on.

        Raises:
            ValueError: The state belongs to something else (both sides are shown), or is no state.
        """
        self._place.load(state, self.identity)


FRAMEWORKS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")
REMEDY = "give rank=torch.distributed.get_rank() and world_size=torch.distributed.get_world_size()"


def caller() -> tuple[str, int]:
    """Return the top-level package of the nearest caller outside of this one, and its `stacklevel` for a warning."""
    frame, own, level = sys._getframe(1), __name__.partition(".")[0], 1
    while (name := frame.f_globals.get("__name__", "").partition(".")[0]) == own and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return str(name), level


def as_stream(given: Any, /) -> Any:
    """Return a stream as it is; of weights or a row sampler one is made, with seed 0."""
    require_object(given)
    if isinstance(given, Sampler):
        raise TypeError(
            f"a stream is needed, but got {type(given).__name__}: give an IndexStream; where Lightning put its own "
            "sampler here, set Trainer(use_distributed_sampler=False), and predict or overfit with a plain DataLoader"
        )
    return given if hasattr(given, "epoch") and hasattr(given, "fingerprint") else IndexStream(given)


def draws_of(stream: Stream, epoch: int, /) -> int:
    """Return the positions of an epoch, without its set-up if the stream knows them."""
    draws = getattr(stream, "draws", None)
    return len(stream.epoch(epoch)) if draws is None else int(draws)


def _count(value: Any) -> int | None:
    """Return a whole number >= 0 of a state; None if it is something else."""
    try:
        return whole("value", value, least=0)
    except (TypeError, ValueError):
        return None
