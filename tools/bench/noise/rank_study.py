"""Does fine-tuning rank samplers as training from scratch does? The rank study of the Swift Sampler paper (Tab. 4).

The last candidates of a search are scored twice: as the search scored them, by fine-tuning and the validation set, and
by test accuracy after training from scratch. Beside it stand two random rankings of as many.

    SR(SS)   Spearman's correlation of both scores
    SR(RD)   the same of two random rankings, keyed by the seed
    TR       rank by training from scratch of the candidate that fine-tunes best, 1 for the best
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from drawstream.features.table import FeatureTable
from drawstream.samplers.swift import SwiftFit, SwiftParams
from drawstream.tools.bench import Record
from drawstream.tools.bench.noise.cell import NoiseCell
from drawstream.tools.experiments import Row, Table, number, table_of

__all__ = ["agreements", "rank_study", "rank_table"]

SEARCH = "swift-rank"
FEATURES, MASS = ("loss", "entropy"), "grad_norm"


def rank_study(cell: NoiseCell, count: int, setting: dict[str, Any], /) -> list[Row]:
    """Score the last candidates of a search both ways; finished runs are read.

    Returns:
        A row for each candidate, `rank-0` and on: candidate, ess, fine_tuned and from_scratch in per cent.

    Raises:
        ValueError: The search has fewer candidates.
    """
    validation = setting["validation"] if cell.noise else "clean"
    search = cell.search(SEARCH, validation)
    done = [trial for trial in search["trials"] if trial["state"] == "complete"]
    if len(done) < count:
        raise ValueError(f"a rank study of {count} candidates needs a search of as many, but it has {len(done)}")
    columns = FeatureTable.open(cell.features(SEARCH)).columns(*FEATURES, MASS)
    fit, rows = SwiftFit(columns, features=FEATURES, mass=MASS), list[Row]()
    for trial in done[-count:]:
        params = SwiftParams(**{name: tuple(values) for name, values in trial["params"].items()})
        name = f"rank-{trial['number']}"
        folder = name if validation == "clean" else f"{name}-{validation}"
        trained = cell.train(folder, fit.probabilities(params))["result"]["last"]
        scores = {"fine_tuned": trial["value"], "from_scratch": trained}
        rows.append(Row(name, setting, cell.seed, {"candidate": trial["number"], "ess": trial["ess"], **scores}))
    return rows


def agreements(rows: Sequence[Row], /) -> list[Row]:
    """Say how well the first score ranks for the second, a row per setting and seed.

    Returns:
        `candidates`; `spearman`, None where all scores of one kind are equal; `true_rank` of the candidate with the
        highest fine-tuned score (the mean rank where it ties); `random`, the correlation of two random rankings.
    """
    studies: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        studies.setdefault((*row.setting.values(), row.seed), []).append(row)
    found = []
    for mine in studies.values():
        tuned, trained = (np.array([row.values[key] for row in mine]) for key in ("fine_tuned", "from_scratch"))
        constant = np.ptp(tuned) == 0 or np.ptp(trained) == 0
        draw, count = np.random.default_rng([mine[0].seed, 6]), len(mine)
        values = {
            "candidates": count,
            "spearman": None if constant else float(spearmanr(tuned, trained).statistic),
            "true_rank": float(rankdata(-trained)[np.argmax(tuned)]),
            "random": float(spearmanr(draw.permutation(count), draw.permutation(count)).statistic),
        }
        found.append(Row("rank study", mine[0].setting, mine[0].seed, values))
    return found


def rank_table(found: Sequence[Record], title: str, /) -> Table:
    """Return the paper's Tab. 4 of some agreements: average, largest and smallest of each measure."""
    names = {"random": "SR(RD)", "spearman": "SR(SS)", "true_rank": "TR"}
    measures = [(name, [each[key] for each in found if each[key] is not None]) for key, name in names.items()]
    columns = {
        "": lambda each: each[0],
        "average": lambda each: number(float(np.mean(each[1])) if each[1] else None),
        "largest": lambda each: number(max(each[1], default=None)),
        "smallest": lambda each: number(min(each[1], default=None)),
    }
    return table_of(measures, columns, title)
