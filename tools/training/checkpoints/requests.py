"""Requests to save, of clocks and signals, on which all ranks agree without a collective call in the step.

    signal or clock of any rank ──asked──▶ store ──▶ each rank's thread looks there twice a second
    every rank, at its next step:  waits for its device, then says that it is here
    rank 0, when all are here:     publishes the next step; every rank saves after that step

The step at which all save is one that no rank has passed: a rank ends a step only after every rank has begun it, since
the gradient is theirs together, so no rank is more than one step ahead of rank 0 once all wait for their devices.
What is asked for while an epoch ends is agreed on there, by a collective call.
"""

import itertools
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import psutil
import torch
import torch.distributed as dist

from drawstream.tools.training import Ranks
from drawstream.tools.training.checkpoints.saving import GO_ON, Saving, status_of

LOOK = 0.5  # seconds between two looks at the store
_RUNS = itertools.count()  # trainings of several ranks in this process, as many in each
SAVE = 0  # what is asked for: to save and go on, or the exit status with which to end


class SaveRequests:
    """Tells after which steps to save; a context in which SIGTERM and SIGUSR1 are requests, if they are to be.

    >>> with SaveRequests(Saving(steps=500), ranks, device) as requests:
    ...     for batch in loader:
    ...         ...
    ...         asked = requests.after_step()  # None, SAVE, or an exit status
    """

    def __init__(self, saving: Saving, ranks: Ranks, device: torch.device, /) -> None:
        self._saving, self._ranks, self._device = saving, ranks, device
        self._signal: int | None = None
        self._usual: dict[int, Any] = {}
        self._begun = time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())
        self._saved, self._since, self._step = time.monotonic(), 0, 0
        self._run, self._round, self._asked, self._here, self._target = 0, 0, False, False, ""
        self._lock, self._left = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGUSR1) if self._saving.signals and main else ():
            self._usual[number] = signal.signal(number, self._receive)
        if self._saving.asks and self._ranks.world_size > 1:
            self._store, self._run = dist.distributed_c10d._get_default_store(), next(_RUNS)
            self._thread = threading.Thread(target=self._watch, name="drawstream-save", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def after_step(self) -> int | None:
        """Return the request after a step, the same on all ranks: `SAVE`, an exit status, or None."""
        self._step += 1
        self._since += 1
        if self._since == self._saving.steps:
            return SAVE
        if self._ranks.world_size == 1:
            return self._wish()
        return self._agreed() if self._asked else None

    def after_epoch(self) -> int | None:
        """Return the request after the last step of an epoch (a collective call): an exit status, or None."""
        wish = self._wish()
        if self._saving.asks and self._ranks.world_size > 1:
            most = torch.tensor(-1 if wish is None else wish, device=self._device)
            dist.all_reduce(most, dist.ReduceOp.MAX)
            wish = int(most)
        return wish if wish is not None and wish > SAVE else None

    def saved(self) -> None:
        """Note that a checkpoint was written, on all ranks."""
        self._saved, self._since = time.monotonic(), 0
        with self._lock:
            self._round += 1
            self._asked, self._here, self._target = False, False, ""

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal; the second one ends the process as it would have done without."""
        if self._signal is not None:
            usual = self._usual[number]
            if callable(usual):
                usual(number, _frame)
            else:
                signal.signal(number, usual)
                signal.raise_signal(number)
        self._signal = number

    def _wish(self) -> int | None:
        """Return the request of this rank."""
        if self._signal is not None:
            return status_of(self._signal)
        if not self._ranks.writes:  # one clock for all
            return None
        now = time.monotonic()
        if self._saving.longest is not None and now - self._begun >= self._saving.longest:
            return GO_ON
        if self._saving.seconds is not None and now - self._saved >= self._saving.seconds:
            return SAVE
        return None

    def _key(self, name: str, number: int) -> str:
        """Key of the store, of the request of this number."""
        return f"drawstream/save/{self._run}/{number}/{name}"

    def _watch(self) -> None:
        """Ask for what this rank wishes, and see what others ask for."""
        while not self._left.wait(LOOK):
            number = self._round
            key = self._key("asked", number)
            try:
                wish = self._wish()
                if wish is not None and not self._store.check([key]):
                    self._store.set(key, str(wish))
                asked = self._store.check([key])
            except RuntimeError:  # the store went with rank 0: the collectives of the step say so
                return
            with self._lock:
                self._asked |= asked and number == self._round

    def _agreed(self) -> int | None:
        """Return the request of all, if this is the step after which they save."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        asked, here, target = (self._key(name, self._round) for name in ("asked", "here", "at"))
        if not self._here:
            self._store.add(here, 1)
            self._here = True
        if self._target:
            pass
        elif self._ranks.writes and int(self._store.add(here, 0)) == self._ranks.world_size:
            self._target = f"{self._step + 1} {self._store.get(asked).decode()}"
            self._store.set(target, self._target)
        elif self._store.check([target]):
            self._target = self._store.get(target).decode()
        at, _, wish = self._target.partition(" ")
        return int(wish) if at and int(at) <= self._step else None
