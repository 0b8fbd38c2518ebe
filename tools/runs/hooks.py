"""Hooks that follow a running job: a protocol of three methods, TensorBoard, and the journal that `serve` reads.

    class Wandb:                                         # my_hooks.py; drawstream train … --hook my_hooks:Wandb
        def __init__(self, out): self.run = wandb.init(dir=out)
        def begin(self, kind, settings): self.run.config.update(settings)
        def step(self, step, total, values): self.run.log(values, step=step)
        def end(self, record): self.run.finish()

Hooks are called on process 0 alone, between steps of the job, and change nothing that it does.
"""

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from drawstream.features import load_factory, users_code
from drawstream.pipeline import without_secrets

JOURNAL = "progress.json"
FORMAT = 1
OFTEN = 0.5  # seconds between two writes of a journal
MOST_POINTS = 1000  # of a journal; beyond, every second one goes

Values = Mapping[str, float]


class Hook(Protocol):
    """Follows one job.

    A job is of the kind `train` (a step is an epoch), `search` (a candidate or a run of the confirmation) or `auto` (an
    interval). `values` are numbers by name: `loss`, `lr`, `accuracy/held_out`, `accuracy/test` (per cent),
    `images_per_second`, `wait_share`; `value`, `best`; `reward`, `reward_mean`.
    """

    def begin(self, kind: str, settings: Mapping[str, Any], /) -> None:
        """Begin to follow a job of a `kind`, new or after a kill; `settings` are those of its record, JSON-able."""

    def step(self, step: int, total: int, values: Values, /) -> None:
        """Take note of a `step` done of `total`, and of the `values` that it gave."""

    def end(self, record: Mapping[str, Any], /) -> None:
        """The job is finished, and its record written."""


class Hooks:
    """Several hooks as one; the journal in the job's folder is always among them. Without `writes` none is called."""

    def __init__(self, out: Path, hooks: Sequence[Hook] = (), /, *, writes: bool = True) -> None:
        self._hooks: list[Hook] = [Journal(out), *hooks] if writes else []

    def begin(self, kind: str, settings: Mapping[str, Any], /) -> None:
        """As `Hook.begin`."""
        plain = without_secrets(json.loads(json.dumps(dict(settings), default=str)))
        for hook in self._hooks:
            hook.begin(kind, plain)

    def step(self, step: int, total: int, values: Mapping[str, float | None], /) -> None:
        """As `Hook.step`; what is None or not finite is left out."""
        finite = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        for hook in self._hooks:
            hook.step(step, total, finite)

    def end(self, record: Mapping[str, Any], /) -> None:
        """As `Hook.end`."""
        for hook in self._hooks:
            hook.end(record)


class Journal:
    """`progress.json` in the job's folder while it runs: what `drawstream serve` shows.

    JSON: format, kind, title, step, total, began and updated (seconds since 1970), process (pid and host), and points:
    [seconds, step, values].
    """

    def __init__(self, out: Path, /) -> None:
        self._path, self._written, self._first = out / JOURNAL, 0.0, True
        self._state: dict[str, Any] = {}

    def begin(self, kind: str, settings: Mapping[str, Any], /) -> None:
        """Begin, with the points of a killed job if there are some."""
        title = f"{settings.get('method', '')} seed {settings.get('seed', 0)}".strip()
        process = {"pid": os.getpid(), "host": platform.node()}
        self._state = {"format": FORMAT, "kind": kind, "title": title, "step": 0, "total": 0, "began": time.time()}
        self._state |= {"process": process, "points": []} | self._earlier(kind)
        self._write()
        self._written = 0.0  # the first point is written at once

    def _earlier(self, kind: str) -> dict[str, Any]:
        """Return the killed job's journal; an empty dict if it is damaged or of another kind of job."""
        try:
            found = read_journal(self._path) or {}
            began, step, total = float(found["began"]), int(found["step"]), int(found["total"])
            points = [[float(spent), int(at), dict(values)] for spent, at, values in found["points"]]
        except (KeyError, TypeError, ValueError, OverflowError):
            return {}
        return {"began": began, "step": step, "total": total, "points": points} if found["kind"] == kind else {}

    def step(self, step: int, total: int, values: Values, /) -> None:
        """Take a point; it is on disk within half a second of the next one."""
        points = self._state["points"]
        if self._first:  # what was done after the last checkpoint is done again
            points[:] = [point for point in points if point[1] < step]
            self._first = False
        if len(points) >= MOST_POINTS:
            del points[1::2]
        points.append([time.time() - self._state["began"], step, dict(values)])
        self._state |= {"step": step, "total": total}
        if time.monotonic() - self._written >= OFTEN or step >= total:
            self._write()

    def end(self, _: Mapping[str, Any], /) -> None:
        """Delete the journal; the record replaces it."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        from drawstream.samplers.files import write_atomically  # here: it brings Numba, which no help text needs

        self._written = time.monotonic()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(self._path) as temporary:
            temporary.write_text(json.dumps({**self._state, "updated": time.time()}), encoding="utf-8")


def read_journal(path: Path, /) -> dict[str, Any] | None:
    """Return the journal of a job under way; None where there is none, or none that this version reads."""
    try:
        return open_journal(path)
    except (OSError, ValueError):
        return None


def open_journal(path: Path, /) -> dict[str, Any]:
    """Return the journal of a job under way.

    Raises:
        OSError: As the system gives it.
        ValueError: Not JSON, or not a journal of this version.
    """
    from drawstream.samplers.files import read_json  # here: it brings Numba, which no help text needs

    remedy = "start its job again with this drawstream, or remove the file"
    found = read_json(path, remedy=remedy, finite=False)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: not a journal of format {FORMAT}: {remedy}")
    return found


class TensorBoard:
    """Scalars for `tensorboard --logdir`, in the folder `tensorboard` of the job's folder.

    Raises:
        ValueError: The package is not installed.
    """

    def __init__(self, out: Path, /) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard needs the package: pip install 'drawstream[tensorboard]'") from None
        self._open, self._folder = SummaryWriter, out / "tensorboard"
        self._writer: SummaryWriter | None = None
        self._kind, self._settings = "", ""

    def begin(self, kind: str, settings: Mapping[str, Any], /) -> None:
        """Note the settings."""
        self._kind, self._settings = kind, json.dumps(settings, indent=2)

    def step(self, step: int, _: int, values: Values, /) -> None:
        """Write the values; steps that a killed job had done already are replaced."""
        if self._writer is None:
            self._writer = self._open(self._folder, purge_step=step)
            self._writer.add_text(f"{self._kind}/settings", f"```json\n{self._settings}\n```", step)
        for name, value in values.items():
            self._writer.add_scalar(f"{self._kind}/{name}", value, step)
        self._writer.flush()

    def end(self, _: Mapping[str, Any], /) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def check_hooks(names: Iterable[str], /, *, tensorboard: bool = False) -> None:
    """Find the hooks of a command without making them; errors as `load_hooks`."""
    for name in names:
        load_factory("--hook", name)
    if tensorboard:
        TensorBoard(Path())


def load_hooks(out: Path, names: Iterable[str], /, *, tensorboard: bool = False) -> list[Hook]:
    """Make the hooks of a command: each of the names is `module:factory`, called with the job's folder.

    Raises:
        ValueError: No such module or factory, or it raises; or TensorBoard is asked for and not installed.
    """
    hooks: list[Hook] = [TensorBoard(out)] if tensorboard else []
    for name in names:
        factory = load_factory("--hook", name)
        try:
            with users_code("it cannot be made"):
                hooks.append(factory(out))
        except Exception as error:  # of the user's module
            raise ValueError(f"--hook {name}: {type(error).__name__}: {error}: it is called with the folder") from error
    return hooks
