"""Does fine-tuning rank samplers as training from scratch does? The rank study of the Swift Sampler paper (Tab. 4).

Random candidates of the search space are scored twice: as the search scores them, by fine-tuning and the validation
set, and by test accuracy after training from scratch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from drawstream.features.table import FeatureTable
from drawstream.pipeline import plain
from drawstream.samplers import digest_array
from drawstream.samplers.swift import DegenerateSampler, SwiftFit, effective_share, require_share
from drawstream.search import Trial
from drawstream.search.swift import Space
from drawstream.tools.bench import Record
from drawstream.tools.bench.noise.cell import NoiseCell
from drawstream.tools.runs import finished_record, objective_identity, write_record
from drawstream.tools.training import FineTune

__all__ = ["agreement", "rank_study"]

FEATURES = ("loss", "entropy")
MIN_ESS = 0.3  # as in the search


def rank_study(cell: NoiseCell, count: int, validation: str, /) -> list[Record]:
    """Score candidates both ways, on the features of the cell's uniform run; finished runs are read.

    Returns:
        A row for each candidate: candidate, ess, fine_tuned and from_scratch in per cent.
    """
    cell.uniform()
    columns = FeatureTable.open(cell.folder / "features").columns(*FEATURES)
    fit = SwiftFit(columns, features=FEATURES, mass=None, transform="cdf")
    objective = cell.objective(validation if cell.noise else "clean")
    rows: list[Record] = []
    for number, probabilities in enumerate(_random_candidates(fit, count, cell.seed)):
        folder = cell.folder / f"rank-{number}"
        tuned = _fine_tuned(folder / "fine-tuned.json", objective, probabilities, Trial(number, cell.seed, "search"))
        trained = cell.train(folder.name, probabilities)["result"]["last"]
        share = effective_share(probabilities)
        rows.append({"candidate": number, "ess": share, "fine_tuned": tuned, "from_scratch": trained})
    objective.loader.close()
    objective.held_out.close()
    return rows


def _fine_tuned(path: Path, objective: FineTune, probabilities: NDArray[np.float64], trial: Trial) -> float:
    """Score a candidate by fine-tuning, per cent; a finished score is read."""
    drawn = {"probabilities": digest_array(probabilities), "seed": trial.seed}
    identity = plain({"objective": objective_identity(objective), **drawn})
    record = finished_record(path, "fine-tuning", identity)
    if record is None:
        record = write_record(path, "fine-tuning", {"score": objective(probabilities, trial), "identity": identity})
    return float(record["score"])


def _random_candidates(fit: SwiftFit, count: int, seed: int) -> list[NDArray[np.float64]]:
    """Probabilities (rows,) of random points of the search space; those the search would refuse are drawn again."""
    space = Space("reduced", len(fit.features), 4)
    generator = np.random.default_rng([seed, 4])
    found: list[NDArray[np.float64]] = []
    while len(found) < count:
        try:
            probabilities = fit.probabilities(space.decode(generator.random(len(space.names))))
            require_share(probabilities, MIN_ESS)
        except DegenerateSampler:
            continue
        found.append(probabilities)
    return found


def agreement(rows: list[Record], /) -> dict[str, Any]:
    """Say how well the first score ranks for the second.

    Returns:
        `candidates`; `spearman`, None where all scores of one kind are equal; `true_rank` of the candidate with the
        highest fine-tuned score, 1 for the best (the mean rank where it ties).
    """
    tuned, trained = (np.array([row[key] for row in rows]) for key in ("fine_tuned", "from_scratch"))
    constant = np.ptp(tuned) == 0 or np.ptp(trained) == 0
    return {
        "candidates": len(rows),
        "spearman": None if constant else float(spearmanr(tuned, trained).statistic),
        "true_rank": float(rankdata(-trained)[np.argmax(tuned)]),
    }
