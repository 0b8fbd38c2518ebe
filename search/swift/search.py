"""The search for a Swift Sampler: prepare the table, run the trials, confirm, and give the sampler or uniform."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.pipeline import without_secrets
from drawstream.pipeline.workers import Workers
from drawstream.samplers import check_groups
from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler, Transform
from drawstream.search import Objective, open_objective
from drawstream.search.swift.agent import Proposals, SwiftAgent
from drawstream.search.swift.guard import ConfirmationRecord, Guard, confirm
from drawstream.search.swift.rounds import Progress, Rounds
from drawstream.search.swift.space import Space
from drawstream.search.swift.study import Study, TrialRecord, open_study, records_of, settings_mark


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


@check_groups({"study_name": "name", "batch": "round"}, proposals=Proposals, guard=Guard, workers=Workers, study=Study)
def search_swift(
    columns: Mapping[str, ArrayLike],
    objective: Objective,
    /,
    *,
    features: Sequence[str] = ("loss", "entropy"),
    mass: str | None = "grad_norm",
    transform: Transform = "cgf",
    proposals: Proposals = Proposals(),
    starts: Sequence[SwiftParams] = (),
    guard: Guard = Guard(),
    workers: Workers = Workers(),
    study: Study = Study(),
    progress: Progress | None = None,
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
        proposals: How many candidates, and which.
        starts: Candidates to begin with, behind the designed ones, such as P(clean) (`features.clean_starts`).
        guard: How the best of them are confirmed.
        workers: Where candidates run; more than a round of them are of no use.
        study: Where trials are kept, and what must be equal for a study to go on.
        progress: Called after every run with a dict: stage, done, and the record's fields.

    Raises:
        ValueError: An argument or a column breaks its law; or 100 candidates in a row gave no score.
        StudyMismatch: The study was started with other settings, columns or provenance.
        ObjectiveError: The objective raised; the study is intact.
        WorkerError: The workers of a trial died three times; the study is intact.
    """
    notes, identity = without_secrets(_plain("provenance", study.provenance)), _plain("identity", study.identity)
    fit = SwiftFit(columns, features=features, mass=mass, transform=transform)
    space = Space(proposals.space, len(fit.features), proposals.segments)
    agent = SwiftAgent(space, proposals, tuple(map(space.encode, starts)))
    read = [*fit.features, *([mass] if transform == "cgf" and mass else [])]
    settings = {
        "features": list(fit.features),
        "mass": mass if transform == "cgf" else None,
        "transform": transform,
        **asdict(proposals),
        "rows": fit.rows,
        "columns": _content(columns, read),
        **({"identity": identity} if identity else {}),
        **({"more_starts": [asdict(each) for each in starts]} if starts else {}),
    }
    del settings["trials"]  # a larger budget goes on with the same study
    all_settings = settings | {"provenance": notes}
    with (
        open_study(study.storage, study.name, all_settings) as opened,
        open_objective(objective, workers) as pool,
    ):
        reads = bool(getattr(objective, "reads_sampler", False))
        rounds = Rounds(opened, agent, fit, pool, reads, settings_mark(all_settings), progress)
        rounds.run()
        verdict, confirmation = confirm(rounds, guard)
        records = records_of(opened)
    done = [record for record in records if record.state == "complete"]
    won = next((record.params for record in done if record.number == verdict.winner), None)
    params = won or SwiftParams.uniform(len(fit.features), proposals.segments)
    story = settings | {
        "study": study.name,
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


def _plain(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as JSON has it."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
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
