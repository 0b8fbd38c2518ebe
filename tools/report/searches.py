"""Searches side by side: the facts that tell them apart, and how fast each one found its best.

Notation
    s_k   score of candidate k of a search;  best so far b_k = max(s_0 .. s_k)
    t_k   seconds of the search up to candidate k: proposals and runs one after the other, also of those without a score
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.report.data import source_name
from drawstream.tools.report.records import SearchRecord, TrialPoint
from drawstream.tools.report.sampled_rows import SampledRows

UNIFORM = 1 - 1e-9  # effective share of the rows from which on a candidate is the uniform one
AGENTS = {"gp": "GP", "random": "random search", "reinforce": "REINFORCE"}
Floats = NDArray[np.float64]
Search = tuple[SearchRecord, SampledRows]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One search as a line."""

    name: str  # name of the search
    x: Floats  # float64 (n,), increasing
    y: Floats  # float64 (n,)


def group(searches: Sequence[Search], /) -> dict[str, list[int]]:
    """Return the positions of the searches that differ in their seed only, by the facts that tell them apart."""
    facts = [_facts(*search) for search in searches]
    telling = [key for key in facts[0] if len({each[key] for each in facts}) > 1]
    groups: dict[str, list[int]] = {}
    for i, each in enumerate(facts):
        groups.setdefault(", ".join(each[key] for key in telling) or facts[0]["agent"], []).append(i)
    return groups


def search_names(searches: Sequence[Search], /) -> list[str]:
    """Name each search by its seed and by its difference from the others."""
    groups = group(searches) if searches else {}
    kinds = {i: f", {name}" if len(groups) > 1 else "" for name, members in groups.items() for i in members}
    return [f"seed {record.seed}{kinds[i]}" for i, (record, _) in enumerate(searches)]


def _facts(record: SearchRecord, sampling: SampledRows) -> dict[str, str]:
    options, sampler = record.document.get("options", {}), sampling.sampler
    noise = "" if sampling.noise is None else f" with {100 * sampling.noise[0]:.0f} % label noise"
    agent = options.get("agent", "gp")
    return {
        "folder": record.folder,
        "data": source_name(sampling.catalog) + noise,
        "model": str(sampling.table.provenance.get("model", "unknown model")).rpartition(":")[2],
        "rows": "crops" if sampling.table.windows is not None else "images",
        "features": "+".join(sampler.features),
        "transform": f"T = {sampler.transform}",
        "agent": AGENTS.get(agent, str(agent)),
        "space": str(options.get("space", "reduced")),
    }


def by_candidates(record: SearchRecord, /) -> Curve:
    """Return the best score so far over the number of candidates scored, from 1."""
    scores = [trial.value for trial in record.trials if trial.value is not None]
    return _curve(record, [float(i + 1) for i in range(len(scores))], scores)


def by_seconds(record: SearchRecord, /) -> Curve:
    """Return the best score so far over t."""
    ends = np.cumsum([trial.seconds for trial in record.trials])
    scored = [(end, trial.value) for end, trial in zip(ends, record.trials, strict=True) if trial.value is not None]
    return _curve(record, [end for end, _ in scored], [score for _, score in scored])


def _curve(record: SearchRecord, x: Sequence[float], scores: Sequence[float]) -> Curve:
    best = np.maximum.accumulate(np.array(scores, np.float64)) if scores else np.empty(0)
    return Curve(f"seed {record.seed}, {record.path.parent.name}", np.array(x, np.float64), best)


def mean_steps(curves: Sequence[Curve], /) -> Curve:
    """Return the mean of step functions, from the last beginning to the first end; x of any of them."""
    low, high = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    every = np.unique(np.concatenate([curve.x for curve in curves]))
    x = every[(every >= low) & (every <= high)]
    levels = [curve.y[np.searchsorted(curve.x, x, side="right") - 1] for curve in curves]
    return Curve(f"mean of {len(curves)}", x, np.mean(levels, axis=0))


def curves_of(
    groups: Mapping[str, Sequence[int]], searches: Sequence[Search], make: Callable[[SearchRecord], Curve], /
) -> dict[str, list[Curve]]:
    """Return the curves of every group's searches, without those that scored nothing."""
    made = {name: [make(searches[i][0]) for i in members] for name, members in groups.items()}
    kept = {name: [curve for curve in curves if curve.x.size] for name, curves in made.items()}
    return {name: curves for name, curves in kept.items() if curves}


def uniform_score(trials: Sequence[TrialPoint], /) -> float | None:
    """Return the search's own score of uniform sampling, if it was a candidate."""
    scores = [t.value for t in trials if t.value is not None and t.ess is not None and t.ess >= UNIFORM]
    return scores[0] if scores else None
