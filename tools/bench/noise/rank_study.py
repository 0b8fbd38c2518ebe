"""Does fine-tuning rank samplers as training from scratch does? The rank study of the Swift Sampler paper (Tab. 4).

Random candidates of the search space are scored twice: as the search scores them, by fine-tuning and the validation
set, and by test accuracy after training from scratch.
"""

from collections.abc import Sequence
from contextlib import closing
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
from drawstream.tools.bench.noise.cell import NoiseCell
from drawstream.tools.experiments import Row
from drawstream.tools.runs import finished_record, objective_identity, write_record
from drawstream.tools.training import FineTune

__all__ = ["agreements", "rank_study"]

FEATURES = ("loss", "entropy")
MIN_ESS = 0.3  # as in the search


def rank_study(cell: NoiseCell, count: int, validation: str, /) -> list[Row]:
    """Score candidates both ways, on the features of the cell's uniform run; finished runs are read.

    Returns:
        A row for each candidate, `rank-0` and on: candidate, ess, fine_tuned and from_scratch in per cent.
    """
    cell.uniform()
    columns = FeatureTable.open(cell.folder / "features").columns(*FEATURES)
    fit = SwiftFit(columns, features=FEATURES, mass=None, transform="cdf")
    setting, rows = {"noise": cell.noise, "validation": validation}, []
    with closing(cell.objective(validation if cell.noise else "clean")) as objective:
        for number, probabilities in enumerate(_random_candidates(fit, count, cell.seed)):
            folder, trial = cell.folder / f"rank-{number}", Trial(number, cell.seed, "search")
            values = {
                "candidate": number,
                "ess": effective_share(probabilities),
                "fine_tuned": _fine_tuned(folder / "fine-tuned.json", objective, probabilities, trial),
                "from_scratch": cell.train(folder.name, probabilities)["result"]["last"],
            }
            rows.append(Row(folder.name, setting, cell.seed, values))
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


def agreements(rows: Sequence[Row], /) -> list[Row]:
    """Say how well the first score ranks for the second, a row per setting and seed.

    Returns:
        `candidates`; `spearman`, None where all scores of one kind are equal; `true_rank` of the candidate with the
        highest fine-tuned score, 1 for the best (the mean rank where it ties).
    """
    studies: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        studies.setdefault((*row.setting.values(), row.seed), []).append(row)
    found = []
    for mine in studies.values():
        tuned, trained = (np.array([row.values[key] for row in mine]) for key in ("fine_tuned", "from_scratch"))
        constant = np.ptp(tuned) == 0 or np.ptp(trained) == 0
        values = {
            "candidates": len(mine),
            "spearman": None if constant else float(spearmanr(tuned, trained).statistic),
            "true_rank": float(rankdata(-trained)[np.argmax(tuned)]),
        }
        found.append(Row("rank study", mine[0].setting, mine[0].seed, values))
    return found
