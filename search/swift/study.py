"""A study of Optuna: opened or refused, its trials by candidate, and their records.

A trial is one attempt at a candidate. It is created with its candidate's number, point and owner in one transaction,
and settles once, after its objective ran. What a killed process left RUNNING is found by its owner and marked as
failed, and its candidate is run again. Where two processes take one candidate at once, the lower trial counts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, make_url

from drawstream.pipeline import describe_error, difference, plain, shown
from drawstream.samplers import DrawstreamError
from drawstream.samplers.swift import SwiftParams


def owner() -> list[Any]:
    """This process, as JSON: machine, number, and when it started."""
    return [_machine(), os.getpid(), _process_start(os.getpid())]


def fail_orphans(study: optuna.Study, /) -> None:
    """Mark trials whose process is gone as failed; those of other machines and of living processes go on."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        machine, process, start = trial.user_attrs["owner"]
        if machine == _machine() and _process_start(process) != start:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _machine() -> str:
    """Host name and, on Linux, the boot: process numbers mean nothing after a restart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname() + (":" + boot.read_text().strip() if boot.exists() else "")


def _process_start(process: int) -> str | None:
    """When a process started, in the kernel's ticks; "alive" where there is no /proc; None if it is gone."""
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat")
        if not status.exists():
            return "alive"
        fields = status.read_text().rpartition(")")[2].split()
    except (ProcessLookupError, FileNotFoundError):
        return None
    except PermissionError:
        return "alive"  # another user's process
    return None if fields[0] == "Z" else fields[19]


KILLED = "the process was killed while this trial ran"
ATTEMPTS, PAUSE = 6, 0.2  # at opening a storage, seconds between them
MEANWHILE = ("exist", "no such table", "locked", "UNIQUE", "schema")  # another process is creating its tables
_FULL = "database or disk is full"
TWICE = "another process was first with this candidate"


class StudyMismatch(DrawstreamError):  # noqa: N818 - a wrong study was named, nothing failed
    """The study in the storage was started with other settings or data."""


class StorageError(DrawstreamError, RuntimeError):
    """The study's database cannot be read or written."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One settled or failed trial.

    Attributes:
        number: Number of its candidate, in order of the proposals; a failed trial and its repetition have the same.
        params: The candidate, None where the point gives no valid parameters.
        value: The score, None unless state is "complete".
        state: "complete", "pruned" (degenerate, never run), or "failed".
        ess: Effective sample size as a share of the rows, in (0, 1]; None where there is no distribution.
        seconds: Wall time of the objective.
        note: Why a trial was pruned or failed, else empty.
        propose_seconds: Its share of the time that its round took to be proposed.
        trial: Its number in the study, which a dashboard shows; higher than `number` after failures.
    """

    number: int
    params: SwiftParams | None
    value: float | None
    state: str
    ess: float | None
    seconds: float
    note: str
    propose_seconds: float = 0.0
    trial: int = -1


@dataclass(frozen=True, slots=True)
class Study:
    """The study of a search; it is refused if another search has begun it.

    Attributes:
        storage: Optuna URL such as "sqlite:///study.db"; None keeps the study in memory.
        name: Name in the storage.
        provenance: JSON-able notes on the data (catalog fingerprint, model hash), kept in the sampler.
        identity: JSON-able, what decides the objective's scores (data, model, recipe).
    """

    storage: str | None = None
    name: str = "swift"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def open_study(storage: str | None, name: str, settings: Mapping[str, Any]) -> Iterator[optuna.Study]:
    """Open or create the study; connections are closed on leaving.

    Raises:
        StudyMismatch: The study exists with other settings.
        ValueError: The storage cannot be opened.
        OSError: The disk is full.
        StorageError: Its database cannot be read or written any more.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = None
    try:
        study = _created(storage, name)
        opened = study._storage
        try:
            begun = bool(study.get_trials(deepcopy=False))  # looked at first: whoever runs trials has set the settings
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # rows that are damaged
            raise _storage_error(storage, error) from None
        if "settings" not in study.user_attrs:
            if begun:
                law = f"study {name!r} in {shown(storage)} holds trials of another search"
                raise StudyMismatch(f"{law}: choose another name")
            study.set_user_attr("settings", dict(settings))
        _require_same(study, settings, storage)
        yield study
    except Exception as error:
        if not _is_of_database(error):
            raise
        raise _storage_error(storage, error) from None  # its own text may hold the password
    finally:
        optuna.logging.set_verbosity(level)
        if opened is not None:
            opened.remove_session()
            engine = getattr(getattr(opened, "_backend", opened), "engine", None)
            if engine is not None:
                engine.dispose()


def sqlite_url(path: Path, /) -> str:
    """The Optuna URL of a file, with what URLs or Optuna would read otherwise in its name quoted."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _created(storage: str | None, name: str) -> optuna.Study:
    """The study; several processes may create it, and the tables of its database, at the same moment.

    Raises:
        ValueError: The storage cannot be opened.
    """
    for attempt in range(ATTEMPTS):
        try:
            return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        except Exception as error:
            if attempt + 1 == ATTEMPTS or not any(sign in str(error) for sign in MEANWHILE):
                if _FULL in str(error):
                    raise _storage_error(storage, error) from None
                law = f"cannot open the study storage {shown(storage)!r}: {shown(describe_error(error), storage)}"
                raise ValueError(f"{law}: is the address right, is its server up, and its driver installed?") from None
            time.sleep(PAUSE * (1 + attempt))
    raise AssertionError("the last attempt returns or raises")


def _is_of_database(error: BaseException) -> bool:
    kinds = (StorageInternalError, json.JSONDecodeError)  # notes of a trial that were damaged
    return isinstance(error, kinds) or type(error).__module__.startswith(("sqlalchemy", "sqlite3"))


def _storage_error(storage: str | None, error: BaseException) -> Exception:
    """Return the error to raise for an error of the database."""
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None and _is_of_database(deeper):
        cause = deeper
    if _FULL in str(cause):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), make_url(storage or "sqlite://").database)
    law = f"the study storage {shown(storage)!r} cannot be read or written: {shown(describe_error(cause), storage)}"
    return StorageError(f"{law}: is it whole, and may you write there? Another output folder starts a new one")


def _require_same(study: optuna.Study, given: Mapping[str, Any], storage: str | None) -> None:
    if told := difference(study.user_attrs["settings"], given):
        raise StudyMismatch(
            f"study {study.study_name!r} in {shown(storage or 'memory')}: this job was started with {told}: give "
            "another output folder (-o), or in a shared storage another study name"
        )


def settings_mark(settings: Mapping[str, Any], /) -> str:
    """Return the hash of a search's settings, which each of its trials carries."""
    return hashlib.blake2b(json.dumps(plain(settings), sort_keys=True).encode(), digest_size=16).hexdigest()


def is_settled(trial: FrozenTrial, /) -> bool:
    """Check whether the trial is settled: it has a score or a score of NaN, or its candidate is degenerate.

    Trials that were killed, interrupted or stopped by an error in the objective are not settled.
    """
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("outcome") == "nan"
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def by_candidate(trials: Sequence[FrozenTrial], /) -> dict[int, FrozenTrial]:
    """The trial that counts for each candidate that was taken, settled or running; in order of the candidates."""
    taken: dict[int, FrozenTrial] = {}
    for trial in trials:
        if is_settled(trial) or trial.state == TrialState.RUNNING:
            taken.setdefault(trial.user_attrs["candidate"], trial)
    return dict(sorted(taken.items()))


def settled_trials(study: optuna.Study, /) -> list[FrozenTrial]:
    """Return the settled trials, one per candidate, in order of the candidates."""
    return [trial for trial in by_candidate(study.get_trials(deepcopy=False)).values() if is_settled(trial)]


def records_of(study: optuna.Study, /) -> list[TrialRecord]:
    """All trials that do not run, in order of their candidates; without those that were taken twice."""
    trials = study.get_trials(deepcopy=False)
    counted = {trial.number for trial in by_candidate(trials).values()}
    twice = [t for t in trials if t.number not in counted and (is_settled(t) or t.user_attrs.get("outcome") == "twice")]
    ended = [trial for trial in trials if trial.state.is_finished() and trial not in twice]
    return [record_of(trial) for trial in sorted(ended, key=lambda t: (t.user_attrs["candidate"], t.number))]


def record_of(trial: FrozenTrial, /) -> TrialRecord:
    """The record of a trial that is not running."""
    params = trial.user_attrs.get("params")
    return TrialRecord(
        number=trial.user_attrs["candidate"],
        params=None if params is None else SwiftParams(**{key: tuple(value) for key, value in params.items()}),
        value=trial.value,
        state={TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(trial.state, "failed"),
        ess=trial.user_attrs.get("ess"),
        seconds=trial.user_attrs.get("seconds", 0.0),
        note=trial.user_attrs.get("note", KILLED if trial.state == TrialState.FAIL else ""),
        propose_seconds=trial.user_attrs["propose_seconds"],
        trial=trial.number,
    )
