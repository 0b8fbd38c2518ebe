"""The guard: the best candidates and the uniform control run again, with other seeds, before one is taken.

Notation: k candidates and the control, each run with the same n >= 2 seeds; y_cs score of c under seed s.
    y_c     mean over the seeds;  the best candidate has the largest
    s^2     sum (y_cs - y_c - y_s + y)^2 / (k (n - 1)): the noise left after the seeds' own effect (two-way layout)
    d       y_best - y_uniform, with standard error s sqrt(2 / n)
The best is taken if d > t s sqrt(2 / n), where t is Student's quantile at 1 - 0.05 / k with k (n - 1) degrees of
freedom: when no candidate is better than uniform, one is taken at most once in 20 searches. t is 2.75 for 3 candidates
and 3 seeds, and comes near 2 with more seeds. Where the scores have no noise at all, d must exceed 1e-6 of their size.

That speaks of the objective as it is run here, and of the noise between its runs: not of the choice of held-out images,
which all runs share, nor of a training from scratch where the objective fine-tunes. On Fashion-MNIST with right labels
one of three searches took a sampler that fine-tuned .36 points better than uniform (needed: .31) and, trained from
scratch, was 2.35 points worse. So when both trainings are finished `paired` judges them again, and with it a sampler
costs time at worst. Not stated in the paper, which has no such check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t as student

from drawstream.samplers.swift import SwiftFit, SwiftParams
from drawstream.search import Outcome, Trial, usable
from drawstream.search.swift import gp
from drawstream.search.swift.rounds import Rounds, history_of, run_seed
from drawstream.search.swift.space import Space
from drawstream.search.swift.study import TrialRecord, record_of, records_of, settled_trials

UNIFORM = -1  # number of the control in records and in Trial.number
LEVEL = 0.05  # chance that noise alone lets a candidate win
FLOOR = 1e-6  # least difference, relative to the size of the scores, where they have no noise
NEAR = 0.02  # candidates closer than this in total variation are one


@dataclass(frozen=True, slots=True)
class Guard:
    """Settings of the confirmation.

    Attributes:
        confirm_top: Candidates that are confirmed; 0 takes the best observed one, without any guard, as in the paper.
        confirm_seeds: Seeds of the confirmation, the same for every candidate.
    """

    confirm_top: int = 3
    confirm_seeds: int = 3

    def __post_init__(self) -> None:
        for name, least in (("confirm_top", 0), ("confirm_seeds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} >= {least} must hold, but got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class ConfirmationRecord:
    """One run of the guard.

    Attributes:
        candidate: Its number; -1 for the uniform control.
        seed: Of the run; the same ones for every candidate and the control.
        value: Score, higher is better; None where it was not finite.
        seconds: Wall time.
    """

    candidate: int
    seed: int
    value: float | None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the guard decided.

    Attributes:
        winner: Number of the trial that won, or None for uniform.
        message: One sentence that says why.
    """

    winner: int | None
    message: str


def confirm(rounds: Rounds, guard: Guard, /) -> tuple[Verdict, list[ConfirmationRecord]]:
    """Run the best candidates of a finished search again, and decide.

    Raises:
        ObjectiveError: The objective raised.
        ValueError: The objective gives the control no finite score.
    """
    if guard.confirm_top == 0:
        return unguarded(records_of(rounds.study)), []
    smooth = rounds.agent.proposals.agent == "gp"
    candidates = best_candidates(rounds.study, rounds.agent.space, rounds.fit, top=guard.confirm_top, smooth=smooth)
    if not candidates:
        return Verdict(None, "kept uniform: no candidate differs from it"), []
    records = run_confirmation(rounds, candidates, seeds=guard.confirm_seeds)
    return decide(records), records


def best_candidates(
    study: optuna.Study, space: Space, fit: SwiftFit, /, *, top: int, smooth: bool
) -> dict[int, NDArray[np.float64]]:
    """Trial number and probabilities of the best few distinct candidates, best first; uniform is none of them.

    `smooth` ranks by the posterior mean of the Gaussian process, which a lucky run sways less, in place of the score.
    """
    settled = settled_trials(study)
    history = history_of(settled, space)
    points, scores = history.points, history.filled()
    merit = gp.posterior_mean(points, scores) if smooth and len(settled) > 1 else scores
    chosen: dict[int, NDArray[np.float64]] = {}
    known = [np.full(fit.rows, 1 / fit.rows)]
    for index in np.argsort(-merit, kind="stable"):
        if len(chosen) == top:
            break
        trial: FrozenTrial = settled[index]
        record = record_of(trial)
        params = record.params
        if trial.state != TrialState.COMPLETE or params is None:
            continue
        probabilities = fit.probabilities(params)
        if all(np.abs(probabilities - other).sum() / 2 > NEAR for other in known):
            chosen[record.number] = probabilities
            known.append(probabilities)
    return chosen


def runs_of(candidates: int, seeds: int, /) -> int:
    """Runs of a confirmation: each candidate and the control under each seed; none without candidates."""
    return (candidates + 1) * seeds if candidates else 0


def run_confirmation(
    rounds: Rounds, candidates: Mapping[int, NDArray[np.float64]], /, *, seeds: int
) -> list[ConfirmationRecord]:
    """Run the control and each candidate under the same seeds; runs that the study already holds are not repeated.

    Raises:
        ValueError: The objective gives the control no finite score.
    """
    study, pool, seed = rounds.study, rounds.pool, rounds.agent.proposals.seed
    rows = next(iter(candidates.values())).size
    runs = {UNIFORM: np.full(rows, 1 / rows), **candidates}
    params = {record.number: record.params for record in records_of(study) if record.params is not None}
    params[UNIFORM] = SwiftParams.uniform(len(rounds.fit.features), rounds.agent.proposals.segments)
    samplers = {number: rounds.sampler(params[number]) for number in runs}
    trials = [
        Trial(number, run_seed(seed, 1, index), "confirm", samplers[number])
        for number in runs
        for index in range(seeds)
    ]
    waiting = [trial for trial in trials if _key(trial) not in study.user_attrs]
    for trial in waiting:
        pool.start((runs[trial.number], trial))
    for done in range(len(trials) - len(waiting) + 1, len(trials) + 1):
        outcome: Outcome = pool.next().value
        if outcome.error is not None:
            raise outcome.error
        assert outcome.score is not None
        score = outcome.score if usable(outcome.score) else None
        study.set_user_attr(_key(outcome.trial), [score, outcome.seconds])
        if outcome.trial.number == UNIFORM and score is None:
            break
        if rounds.progress is not None:
            record = ConfirmationRecord(outcome.trial.number, outcome.trial.seed, score, outcome.seconds)
            rounds.progress({"stage": "confirm", "done": done, "runs": len(trials), **asdict(record)})
    stored = study.user_attrs
    records = [ConfirmationRecord(t.number, t.seed, *stored[_key(t)]) for t in trials if _key(t) in stored]
    for record in records:
        if record.candidate == UNIFORM and record.value is None:
            raise ValueError(f"the uniform control gives no finite score (seed {record.seed}): nothing to compare with")
    return records


def _key(trial: Trial) -> str:
    return f"confirm {trial.number} {trial.seed}"


def unguarded(records: Sequence[TrialRecord], /) -> Verdict:
    """The best observed candidate, of equal ones the first; nothing checks it (the paper has no guard)."""
    best = max((r for r in records if r.value is not None), key=lambda r: (r.value, -r.number))
    return Verdict(best.number, f"trial {best.number} has the best score, {best.value:.6g}: taken without a guard")


def decide(records: Sequence[ConfirmationRecord], /) -> Verdict:
    """Whether the best candidate beats the control by more than noise (the rule above).

    Candidates with a score that is not finite are out. The records hold the control, and n >= 2 seeds of each.
    """
    scores: dict[int, list[float]] = {}
    for record in records:
        scores.setdefault(record.candidate, []).append(math.nan if record.value is None else record.value)
    table = {number: np.array(values) for number, values in scores.items() if np.isfinite(values).all()}
    control = table.pop(UNIFORM)
    if not table:
        return Verdict(None, "kept uniform: no candidate gave finite scores when confirmed")
    y = np.stack([control, *table.values()])
    candidates, seeds = len(table), control.size
    means = y.mean(axis=1)
    best = int(np.argmax(means[1:])) + 1
    noise = y - means[:, None] - y.mean(axis=0) + y.mean()
    freedom = candidates * (seeds - 1)
    error = math.sqrt(float(np.square(noise).sum()) / freedom * 2 / seeds)
    needed = max(float(student.ppf(1 - LEVEL / candidates, freedom)) * error, FLOOR * float(np.abs(means).max()))
    difference = float(means[best] - means[0])
    number = list(table)[best - 1]
    figures = (
        f"scores {means[best]:.6g} against {means[0]:.6g} for uniform ({difference:+.3g} ± {error:.2g}, threshold "
        f"{needed:+.2g})"
    )
    if difference > needed:
        return Verdict(number, f"sampler accepted: trial {number} {figures}")
    return Verdict(None, f"kept uniform: the best candidate, trial {number}, {figures}")
