"""The outer loop: a study of Optuna that survives kills and never does a trial twice.

A trial settles once, in one transaction, after its objective ran. What a killed process left RUNNING is found by its
owner (machine, process and the process' start) and marked as failed, so its candidate is tried again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from drawstream.samplers import DegenerateSampler, SwiftFit, SwiftParams
from drawstream.samplers.swift import effective_share, require_share
from drawstream.search.agent import SwiftAgent, is_settled, known_trials
from drawstream.search.objective import Objective, Trial, describe, evaluate, usable
from drawstream.search.space import Space

Progress = Callable[[dict[str, Any]], None]
KILLED = "the process was killed while this trial ran"
MOST_FRUITLESS = 100  # candidates in a row without a score before the search gives up
ORPHAN_AGE = timedelta(minutes=1)  # a trial without an owner this old was killed between two writes


class StudyMismatch(ValueError):  # noqa: N818 - a wrong study was named, nothing failed
    """The study in the storage was started with other settings or data."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One settled or failed trial.

    Attributes:
        number: Its number in the study.
        params: The candidate, None where the point gives no valid parameters.
        value: The score, None unless state is "complete".
        state: "complete", "pruned" (degenerate, never run), or "failed".
        ess: Effective sample size as a share of the rows, in (0, 1]; None where there is no distribution.
        seconds: Wall time.
        note: Why a trial was pruned or failed, else empty.
    """

    number: int
    params: SwiftParams | None
    value: float | None
    state: str
    ess: float | None
    seconds: float
    note: str


@contextmanager
def open_study(
    storage: str | None, name: str, agent: SwiftAgent, settings: Mapping[str, Any]
) -> Iterator[optuna.Study]:
    """Open or create the study; connections are closed on leaving.

    Args:
        storage: Optuna URL (`sqlite:///study.db`); None keeps the study in memory.
        name: Name of the study in the storage.
        agent: Proposes the candidates.
        settings: JSON-able; a study that was started with others is refused.

    Raises:
        StudyMismatch: The study exists with other settings.
        ValueError: The storage cannot be opened.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = None
    try:
        try:
            opened = optuna.storages.get_storage(storage)
            study = optuna.create_study(
                storage=opened, study_name=name, sampler=agent, direction="maximize", load_if_exists=True
            )
        except Exception as error:
            raise ValueError(f"cannot open the study storage {storage!r}: {describe(error)}") from error
        stored = study.user_attrs.get("settings")
        if stored is None:
            if study.get_trials(deepcopy=False):
                raise StudyMismatch(f"study {name!r} in {storage} holds trials of another search: choose another name")
            study.set_user_attr("settings", dict(settings))
        else:
            _refuse_other(stored, settings, f"study {name!r} in {storage or 'memory'}")
        yield study
    finally:
        optuna.logging.set_verbosity(level)
        if opened is not None:
            opened.remove_session()
            engine = getattr(getattr(opened, "_backend", opened), "engine", None)
            if engine is not None:
                engine.dispose()


def _refuse_other(stored: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    differing = [key for key in sorted({*stored, *given}) if stored.get(key) != given.get(key)]
    if differing:
        sides = "; ".join(f"{key}: {stored.get(key)!r} there, {given.get(key)!r} given" for key in differing)
        raise StudyMismatch(f"{what} was started with other settings ({sides}): give the same, or another study name")


def run_trials(
    study: optuna.Study,
    space: Space,
    fit: SwiftFit,
    objective: Objective,
    *,
    trials: int,
    seed: int,
    min_ess: float,
    progress: Progress | None,
) -> None:
    """Go on until the study has `trials` completed trials.

    Raises:
        ObjectiveError: The objective raised.
        ValueError: 100 candidates in a row gave no score.
    """
    fruitless = 0
    while True:
        _fail_orphans(study)
        known = study.get_trials(deepcopy=False)
        done = sum(t.state == TrialState.COMPLETE for t in known)
        if done >= trials:
            return
        if fruitless >= MOST_FRUITLESS:
            notes = [t.user_attrs.get("note", "") for t in known if is_settled(t) and t.value is None]
            raise ValueError(f"{fruitless} candidates in a row gave no score, the last because: {notes[-1]}")
        ordinal = len(known_trials(known, space.names))  # not the number: a killed trial is run again with its seed
        trial = study.ask({name: FloatDistribution(0.0, 1.0) for name in space.names})
        record = _run_one(study, trial, space, fit, objective, seed=run_seed(seed, 0, ordinal), min_ess=min_ess)
        fruitless = 0 if record.state == "complete" else fruitless + 1
        if progress is not None:
            best = max((t.value for t in study.get_trials(deepcopy=False) if t.value is not None), default=None)
            done += record.state == "complete"
            progress({"stage": "search", "done": done, "trials": trials, "best": best, **asdict(record)})


def run_seed(seed: int, stream: int, index: int) -> int:
    """Seed of one run, below 2^32: stream 0 holds the search runs, stream 1 the confirmation runs."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1)[0])


def _run_one(
    study: optuna.Study,
    trial: optuna.Trial,
    space: Space,
    fit: SwiftFit,
    objective: Objective,
    *,
    seed: int,
    min_ess: float,
) -> TrialRecord:
    trial.set_user_attr("owner", _owner())
    point = [trial.params[name] for name in space.names]
    started = time.perf_counter()
    state, value, note, outcome = TrialState.COMPLETE, None, "", "complete"
    try:
        probabilities = candidate(fit, space.decode(point), trial, min_ess)
        score = evaluate(objective, probabilities, Trial(trial.number, seed, "search"))
        if usable(score):
            value = score
        else:
            state, outcome = TrialState.FAIL, "nan"
            note = f"the objective returned {score}: training diverged, or the score is not defined"
    except DegenerateSampler as error:
        state, outcome, note = TrialState.PRUNED, "degenerate", str(error)
    except BaseException as error:
        _settle(study, trial, TrialState.FAIL, None, note=describe(error), outcome="stopped", started=started)
        raise
    _settle(study, trial, state, value, note=note, outcome=outcome, started=started)
    return record_of(study.get_trials(deepcopy=False)[trial.number])


def candidate(fit: SwiftFit, params: SwiftParams, trial: optuna.Trial, min_ess: float) -> NDArray[np.float64]:
    """Probabilities of a candidate; its parameters and effective sample size are noted in the trial.

    Raises:
        DegenerateSampler: No row has weight, or the effective sample size is below the floor.
    """
    trial.set_user_attr("params", asdict(params))
    probabilities = fit.probabilities(params)
    trial.set_user_attr("ess", effective_share(probabilities))
    require_share(probabilities, min_ess)
    return probabilities


def _settle(
    study: optuna.Study,
    trial: optuna.Trial,
    state: TrialState,
    value: float | None,
    *,
    note: str,
    outcome: str,
    started: float,
) -> None:
    trial.set_user_attr("seconds", time.perf_counter() - started)
    if note:  # each attribute is a transaction: none without need
        trial.set_user_attr("outcome", outcome)
        trial.set_user_attr("note", note)
    study.tell(trial, value, state=state)


def record_of(trial: FrozenTrial, /) -> TrialRecord:
    """The record of a trial that is not running."""
    params = trial.user_attrs.get("params")
    return TrialRecord(
        number=trial.number,
        params=None if params is None else SwiftParams(**{key: tuple(value) for key, value in params.items()}),
        value=trial.value,
        state={TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(trial.state, "failed"),
        ess=trial.user_attrs.get("ess"),
        seconds=trial.user_attrs.get("seconds", 0.0),
        note=trial.user_attrs.get("note", KILLED if trial.state == TrialState.FAIL else ""),
    )


def _fail_orphans(study: optuna.Study) -> None:
    """Mark trials whose process is gone as failed; those of other machines and of living processes go on."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        if owner is None:
            gone = trial.datetime_start is None or datetime.now() - trial.datetime_start > ORPHAN_AGE
        else:
            machine, process, start = owner
            gone = machine == _machine() and _process_start(process) != start
        if gone:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _owner() -> list[Any]:
    return [_machine(), os.getpid(), _process_start(os.getpid())]


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
