"""One process of a population search: intervals, cycles, checkpoints; notation in `drawstream.search.auto.search`."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline import refuse_other
from drawstream.search import load_tensors, save_tensors
from drawstream.search.auto.explore import SubSchedule, smooth, sub_schedule
from drawstream.search.auto.group import Group, Ranks, children_of, of_first
from drawstream.search.auto.plan import Cycle, PopulationPlan
from drawstream.search.auto.record import Recorder, write_distribution, write_orders

FORMAT = 1


@dataclass(slots=True)
class Progressed:
    """A search after a whole number of epochs.

    Attributes:
        epoch: Epochs done.
        state: State of the best child, which all have.
        rewards: Of all children, per interval.
        winners: The recorded child, per interval.
        length: Rows of the recorded schedule.
        checksum: Of these.
        seconds: What took how long.
    """

    epoch: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    rewards: list[list[float]] = field(default_factory=list)
    winners: list[int] = field(default_factory=list)
    length: int = 0
    checksum: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def fields_of(done: Progressed, /) -> dict[str, Any]:
    """The fields as they are: `asdict` would copy every tensor."""
    return {each.name: getattr(done, each.name) for each in fields(done)}


def save_checkpoint(path: Path, settings: Mapping[str, Any], done: Progressed, /) -> None:
    """Write a checkpoint; settings are JSON-able."""
    save_tensors(path, {"format": FORMAT, "settings": json.dumps(dict(settings)), **fields_of(done)})


def load_checkpoint(path: Path, settings: Mapping[str, Any], /) -> Progressed:
    """Read a checkpoint of the same search; a fresh start if there is none.

    Raises:
        ValueError: It is of a search with other settings, or is not readable.
    """
    if not path.exists():
        return Progressed()
    try:
        content = load_tensors(path)
        if (version := content.pop("format")) > FORMAT:
            raise ValueError(f"format {version} is newer than {FORMAT}, which this drawstream reads: upgrade, or")
        theirs = json.loads(content.pop("settings"))
        done = Progressed(**content)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint of a search ({error}): start in another folder") from None
    refuse_other(path, theirs, settings)
    return done


PARTS = ("train", "evaluate", "wait", "clone", "write", "explore", "checkpoint")


@dataclass(frozen=True, slots=True, eq=False)
class AutoResult:
    """Result of a search; the same on every process, except `seconds`.

    Attributes:
        schedule: `schedule.arrow`, to be replayed by `IndexStream(Schedule.open(...))`.
        distribution: `distribution.parquet`, to be drawn from: `IndexStream(map_weights(..., column="weight"))`.
        rewards: float64 (intervals, population), of every child at the end of every interval.
        winners: int64 (intervals,), the child whose rows were recorded.
        steps: int64 (intervals,), batches of each.
        state: State of the best child at the end.
        seconds: Of this process, by `train`, `evaluate`, `wait` (for other processes), `clone`, `write` (the schedule),
            `explore` and `checkpoint`; of all its starts together.
    """

    schedule: Path
    distribution: Path
    rewards: NDArray[np.float64]
    winners: NDArray[np.int64]
    steps: NDArray[np.int64]
    state: dict[str, Any]
    seconds: dict[str, float]


def best_child(rewards: NDArray[np.float64], /) -> int:
    """The child with the highest reward, the first of several; those that are not numbers never win.

    Raises:
        ValueError: No reward is a number.
    """
    if np.isnan(rewards).all():
        raise ValueError(f"no child has a reward that is a number, but got {rewards.tolist()}: lower the learning rate")
    return int(np.nanargmax(rewards))


@dataclass(slots=True)
class AutoRun:
    """A search under way, as one process sees it.

    Attributes:
        group: The children of this process.
        plan: Its laws: exploration, interval, cycles.
        out: Folder of the search.
        settings: JSON-able, what a checkpoint must agree with.
        ranks: This process among all.
        done: How far it is.
        recorder: The recorded rows, in process 0.
        cycle: The cycle under way.
        orders: Rows by position, for each child of this process.
        where: Which rows of the catalog are those of the plan, bool (rows of the catalog,); None: all are.
        classes: Classes of the plan's rows whose totals are held to those of `base`, int64 (N,); None without one.
        base: Probabilities float64 (N,) of the plan's rows, in place of permutations (`sub_schedule`); None: these.
    """

    group: Group
    plan: PopulationPlan
    out: Path
    settings: dict[str, Any]
    ranks: Ranks
    done: Progressed = field(default_factory=Progressed)
    recorder: Recorder | None = None  # of process 0
    cycle: Cycle | None = None
    orders: list[SubSchedule] = field(default_factory=list)
    where: NDArray[np.bool_] | None = None
    classes: NDArray[np.int64] | None = None
    base: NDArray[np.float64] | None = None

    def __enter__(self) -> Self:
        """Bring all children to the last checkpoint, or to the state of child 0."""
        children_of(self.ranks, population=self.plan.population)
        self.done = Progressed(**of_first(self.ranks, self._begun))
        self.done.seconds = dict.fromkeys(PARTS, 0.0) | self.done.seconds
        self.group.load_state_dict(self.done.state)
        if self.ranks.rank == 0 and not self.written:
            self.recorder = Recorder(self.out / "schedule.rows", length=self.done.length, checksum=self.done.checksum)
        return self

    def _begun(self) -> dict[str, Any]:
        """The fields of the last checkpoint, or of the beginning."""
        self.out.mkdir(parents=True, exist_ok=True)
        done = load_checkpoint(self.out / "checkpoint.pt", self.settings)
        if done.epoch == 0:
            done.state = self.group.state_dict(0)
        return fields_of(done)

    def __exit__(self, _kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def run_interval(self, epoch: int, start: int, stop: int) -> None:
        """Train all children on their rows, record the best one's, and clone its state into all.

        Raises:
            ValueError: The group gives not one reward per child, or no reward is a number.
        """
        with self._timed("explore"):
            self._explore(self.plan.cycle(epoch))
            rows = np.stack([order(epoch, start, stop) for order in self.orders])
            rows = rows if self.where is None else np.flatnonzero(self.where)[rows]
        with self._timed("train"):
            self.group.train(rows)
        with self._timed("evaluate"):
            mine = self.group.evaluate()
        if mine.shape != (len(rows),):
            raise ValueError(f"a group of {len(rows)} children must give as many rewards, but gave {mine.shape}")
        with self._timed("wait"):
            gathered = self.ranks.gather(mine)
        rewards = np.concatenate(gathered)
        winner = best_child(rewards)
        with self._timed("clone"):
            recorded = rows[0] if rewards.size == 1 else self._clone(winner, [part.size for part in gathered], rows)
        with self._timed("write"):
            if self.recorder is not None:
                self.recorder.append(recorded)
        self.done.rewards.append(rewards.tolist())
        self.done.winners.append(winner)

    def _clone(self, winner: int, sizes: list[int], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the winner's state to all children, and its rows to process 0, which records them."""
        ends = np.cumsum(sizes)
        source = int(np.searchsorted(ends, winner, side="right"))
        sent = None
        if source == self.ranks.rank:
            local = winner - int(ends[source]) + sizes[source]
            sent = rows[local], self.group.state_dict(local)
        recorded, state = self.ranks.share(sent, source)
        self.group.load_state_dict(state)
        return recorded  # type: ignore[no-any-return]

    def _explore(self, cycle: Cycle) -> None:
        """At the beginning of a cycle: the distribution of the rows recorded so far, and each child's order from it."""
        if cycle == self.cycle:
            return
        share = None
        if cycle.number:
            before = self.plan.cycle(cycle.begin - 1).begin if self.plan.estimate == "cycle" else 0
            counted = (before * self.plan.draws, cycle.begin * self.plan.draws)
            if self.recorder is not None:
                found = self.recorder.counts(*counted, self._all_rows)
                found = found if self.where is None else found[self.where]
                share = smooth(found, beta=self.plan.beta, smoothing=self.plan.count_smoothing)
                if self.base is not None and self.classes is not None:
                    totals = [np.bincount(self.classes, weights=each) for each in (self.base, share)]
                    share *= self.base.sum() * (totals[0] / np.maximum(totals[1], 1e-300))[self.classes]
            share = self.ranks.share(share, 0)
        children = children_of(self.ranks, population=self.plan.population)
        self.orders = [sub_schedule(self.plan, cycle, child, share, self.base) for child in children]
        self.cycle = cycle

    def end_epoch(self, epoch: int) -> None:
        """Write a checkpoint."""
        self.done.epoch = epoch + 1
        if self.recorder is None:
            return
        with self._timed("write"):
            self.recorder.sync()
        with self._timed("checkpoint"):
            self.done.length, self.done.checksum = self.recorder.length, self.recorder.checksum
            self.done.state = self.group.state_dict(0)
            save_checkpoint(self.out / "checkpoint.pt", self.settings, self.done)

    def event(self, epoch: int) -> dict[str, Any]:
        """Return the progress event of an interval."""
        done = self.done
        return {
            "epoch": epoch,
            "done": len(done.winners),
            "total": self.plan.epochs * self.plan.intervals,
            "rewards": done.rewards[-1],
            "winner": done.winners[-1],
            "seconds": dict(done.seconds),
        }

    @property
    def _all_rows(self) -> int:
        """Rows of the catalog."""
        return self.plan.rows if self.where is None else self.where.size

    @property
    def written(self) -> bool:
        """Whether the search has ended and its rows have become a schedule."""
        ended = self.done.epoch == self.plan.epochs
        return ended and not (self.out / "schedule.rows").exists() and (self.out / "schedule.arrow").exists()

    def finish(self) -> AutoResult:
        """Write what was found, and give it."""
        schedule, distribution = self.out / "schedule.arrow", self.out / "distribution.parquet"
        if self.recorder is not None:
            plan, recorder = self.plan, self.recorder
            about: dict[str, Any] = {"catalog": self.settings["catalog"], "provenance": self.settings}
            with self._timed("write"):
                write_distribution(distribution, recorder.counts(0, recorder.length, self._all_rows), **about)
                write_orders(schedule, recorder, rows=self._all_rows, draws=plan.draws, **about)
            recorder.path.unlink()
        self.ranks.wait()
        return AutoResult(
            schedule=schedule,
            distribution=distribution,
            rewards=np.array(self.done.rewards),
            winners=np.array(self.done.winners, dtype=np.int64),
            steps=np.array([(b - a) // self.plan.batch_size for a, b in self.plan.spans()] * self.plan.epochs),
            state=self.group.state_dict(0),
            seconds=dict(self.done.seconds),
        )

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.done.seconds[part] += time.perf_counter() - begin
