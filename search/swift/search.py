"""The search for a Swift Sampler: prepare the table, run the trials, confirm, and give the sampler or uniform."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.pipeline.secrets import without_secrets
from drawstream.samplers import SwiftFit, SwiftParams, SwiftSampler
from drawstream.samplers.swift.sampler import Transform
from drawstream.search.objective import Objective, open_objective
from drawstream.search.swift.agent import SwiftAgent
from drawstream.search.swift.guard import (
    ConfirmationRecord,
    Verdict,
    best_candidates,
    decide,
    run_confirmation,
    unguarded,
)
from drawstream.search.swift.rounds import Progress, Rounds
from drawstream.search.swift.space import Space, SpaceName
from drawstream.search.swift.study import TrialRecord, open_study, records_of, settings_mark


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """Result of a search.

    Attributes:
        sampler: The winner, or the uniform sampler over the same features.
        probabilities: Its P over the rows, float64 (rows,).
        winner: "swift" if a candidate beat uniform in the confirmation, else "uniform".
        trials: Records of all trials that do not run, in order of their numbers.
        confirmation: Records of the guard's runs, the control first.
        message: One sentence: who won, by how much, and what was needed.
    """

    sampler: SwiftSampler
    probabilities: NDArray[np.float64]
    winner: Literal["swift", "uniform"]
    trials: list[TrialRecord]
    confirmation: list[ConfirmationRecord]
    message: str

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of work for `propose`, `objective` and `confirm`, all processes and killed lives together."""
        return {
            "propose": sum(trial.propose_seconds for trial in self.trials),
            "objective": sum(trial.seconds for trial in self.trials),
            "confirm": sum(run.seconds for run in self.confirmation),
        }


def search_swift(
    columns: Mapping[str, ArrayLike],
    objective: Objective,
    /,
    *,
    features: Sequence[str] = ("loss", "entropy"),
    mass: str | None = "grad_norm",
    transform: Transform = "cgf",
    space: SpaceName = "reduced",
    segments: int = 4,
    trials: int = 40,
    agent: str = "gp",
    storage: str | None = None,
    study_name: str = "swift",
    seed: int = 0,
    min_ess: float = 0.3,
    starts: bool = True,
    kappa: float = 1.0,
    batch: int = 4,
    workers: int | None = None,
    engine: str = "local",
    confirm_top: int = 3,
    confirm_seeds: int = 3,
    progress: Progress | None = None,
    provenance: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Search the sampler with the highest objective (paper, Algorithm 1), and take it only if it beats uniform again.

    With a storage, a search that was killed goes on where it was, gives what it would have given, and a finished one
    started again runs nothing. Several processes may share one study, and give what one would have given.

    Args:
        columns: Named numeric columns (rows,), finite.
        objective: Probabilities (rows,) and Trial to a score, higher is better; the same arguments should give the
            same score. NaN fails the trial.
        features: Columns the sampler reads.
        mass: Column of gradient norms, for transform "cgf".
        transform: "cgf" (the paper) or "cdf".
        space: "reduced" (8 dimensions for 2 features, 4 segments) or "paper10".
        segments: Segments of H (4: Tab. 8 of the paper).
        trials: Completed trials (40: Tab. 9 of the paper); designed starts count, degenerate candidates do not.
        agent: "gp" (Gaussian process and UCB, the paper), "random", "reinforce" (its comparators),
            "optuna:TPESampler" or "optuna:GPSampler".
        storage: Optuna URL such as "sqlite:///study.db"; None keeps the study in memory.
        study_name: Name in the storage.
        seed: Seed of the proposals and of the runs.
        min_ess: Least effective sample size of a candidate, as a share of the rows (0.3: fine-tuning over-rates
            tiny clean subsets).
        starts: Whether four designed candidates come first.
        kappa: Weight of the standard deviation in UCB.
        batch: Candidates that are proposed at once, and can run in parallel (1: the paper's).
        workers: Candidates that run at once; by default 1, on Ray as many as there is room for. More than `batch` are
            of no use.
        engine: "local", "ray" (the cluster of `RAY_ADDRESS`, or a new one on this machine) or "ray:ADDRESS".
        confirm_top: Candidates that are confirmed; 0 takes the best observed one, without any guard, as in the paper.
        confirm_seeds: Seeds of the confirmation, the same for every candidate.
        progress: Called after every run with a dict: stage, done, and the record's fields.
        provenance: JSON-able notes on the data (catalog fingerprint, model hash): kept in the sampler, and a study
            with others is refused.
        identity: JSON-able, what decides the objective's scores (data, model, recipe): a study with another one is
            refused, also by the other processes of a shared storage.

    Raises:
        ValueError: An argument or a column breaks its law; or 100 candidates in a row gave no score.
        StudyMismatch: The study was started with other settings, columns or provenance.
        ObjectiveError: The objective raised; the study is intact.
    """
    for name, value, least in (
        ("trials", trials, 1),
        ("confirm_top", confirm_top, 0),
        ("confirm_seeds", confirm_seeds, 2),
    ):
        if value < least:
            raise ValueError(f"{name} >= {least} must hold, but got {value}")
    if not 0 <= min_ess <= 1:
        raise ValueError(f"0 <= min_ess <= 1 must hold, but got {min_ess}")
    notes, own = without_secrets(_notes("provenance", provenance)), _notes("identity", identity)
    fit = SwiftFit(columns, features=features, mass=mass, transform=transform)
    cube = Space(space, len(fit.features), segments)
    settings = {
        "features": list(fit.features),
        "mass": mass if transform == "cgf" else None,
        "transform": transform,
        "space": space,
        "segments": segments,
        "agent": agent,
        "seed": seed,
        "min_ess": min_ess,
        "starts": starts,
        "kappa": kappa,
        "batch": batch,
        "rows": fit.rows,
        "columns": _content(columns, [*fit.features, *([mass] if transform == "cgf" and mass else [])]),
        "provenance": notes,
        **({"identity": own} if own else {}),
    }
    proposer = SwiftAgent(cube, seed=seed, agent=agent, kappa=kappa, starts=starts, batch=batch)
    confirmation: list[ConfirmationRecord] = []
    with (
        open_study(storage, study_name, settings) as study,
        open_objective(objective, engine=engine, workers=workers) as pool,
    ):
        Rounds(study, proposer, fit, pool, trials, min_ess, settings_mark(settings), progress).run()
        records = records_of(study)
        if confirm_top == 0:
            verdict = unguarded(records)
        else:
            verdict = Verdict(None, "no candidate beats uniform: none differs from it")
            candidates = best_candidates(study, cube, fit, top=confirm_top, smooth=agent == "gp")
            if candidates:
                confirmation = run_confirmation(
                    study, candidates, pool, seed=seed, seeds=confirm_seeds, progress=progress
                )
                verdict = decide(confirmation)
    done = [record for record in records if record.state == "complete"]
    won = next((record.params for record in done if record.number == verdict.winner), None)
    params = won or SwiftParams.uniform(len(fit.features), segments)
    story = {key: value for key, value in settings.items() if key != "provenance"} | {
        "study": study_name,
        "trials": len(done),
        "trial": verdict.winner,
        "message": verdict.message,
        "confirmation": [asdict(record) for record in confirmation],
    }
    return SearchResult(
        sampler=fit.sampler(params, provenance={**notes, "search": story}),
        probabilities=fit.probabilities(params),
        winner="swift" if won else "uniform",
        trials=records,
        confirmation=confirmation,
        message=verdict.message,
    )


def _notes(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(given or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be plain JSON (strings, numbers, lists, dicts): {error}") from error
    return found


def _content(columns: Mapping[str, ArrayLike], names: Sequence[str]) -> str:
    """Hash of the columns that a search reads, so that a study is not continued on other data."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        values = np.ascontiguousarray(columns[name])
        digest.update(f"{name} {values.dtype.str} {values.shape} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
