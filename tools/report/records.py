"""Records of runs and searches: every `run.json` and `search.json` below a folder, checked when read.

Paths inside a record are relative to its own folder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from drawstream.pipeline.catalogs import Places
from drawstream.pipeline.shards import is_url
from drawstream.tools.experiments import METRICS, lower_is_better
from drawstream.tools.report.left_out import LeftOut
from drawstream.tools.runs import read_record

__all__ = [
    "Confirmation",
    "Epoch",
    "Result",
    "SearchRecord",
    "TrainRecord",
    "TrialPoint",
    "place_of",
    "places_of",
    "read_records",
]


@dataclass(frozen=True, slots=True)
class Epoch:
    """Main metric after an epoch (numbered from 0) by evaluation set; no set if none was due."""

    number: int
    accuracy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """Main metric of a training run on one set."""

    evaluated_on: str  # "test" or "held_out"
    last: float  # accuracy after the last epoch
    best: float  # best value over the epochs of the history, whatever epoch the record calls best
    # accuracy at the epoch that the held-out set chose; None if the run had no other set than this one
    chosen: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)  # all of the last epoch, by name
    classes: Mapping[str, float | None] = field(default_factory=dict)  # of the last epoch, by class or value
    metric: str = "top1"  # name of the main metric


@dataclass(frozen=True, slots=True)
class TrainRecord:
    """One training run."""

    path: Path  # its `run.json`
    document: Mapping[str, Any]  # all of it
    method: str  # "uniform", "swift", or another name
    seed: int  # seed of the run
    result: Result | None  # None if it was not evaluated
    history: tuple[Epoch, ...]  # one entry per epoch
    catalog: Places  # folder of the training data, or its URL
    evaluation: Path | str | None  # folder or URL of the data of its result; None if the record does not say
    budget: float  # part of the full run, in (0, 1]
    folder: str = ""  # name of the folder given, if there are several


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """One candidate of a search."""

    number: int  # its place in the order of the proposals
    value: float | None  # its score; None unless it completed
    state: str  # "complete", "pruned" or "failed"
    ess: float | None  # effective sample size as a share of the rows
    seconds: float  # time of its proposal and its run


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One run of the guard: trial number (-1: uniform), seed, score (None: not finite)."""

    candidate: int
    seed: int
    value: float | None


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One search for a sampler."""

    path: Path  # its `search.json`
    document: Mapping[str, Any]  # all of it
    seed: int  # seed of the search
    catalog: Places  # folder of the data, or its URL
    features: Path  # folder of the feature table
    join: tuple[Path, ...]  # folders of the tables joined to it
    sampler: Path  # the `sampler.json` it wrote
    winner: str  # "swift" or "uniform"
    message: str  # the reason, in one sentence
    trials: tuple[TrialPoint, ...]  # by number
    confirmation: tuple[Confirmation, ...]  # the guard's runs
    folder: str = ""  # name of the folder given, if there are several


def read_records(
    *folders: Path, names: Sequence[str] = ("",), needed: bool = True, left: LeftOut | None = None
) -> tuple[list[TrainRecord], list[SearchRecord]]:
    """Return all runs and searches below some folders, each sorted by seed, then folder and path.

    Args:
        folders: Where to look.
        names: Names of the folders.
        needed: Refuse a folder without any.
        left: Takes the records that are damaged, of another kind, or of a newer format.

    Raises:
        ValueError: No record in them.
    """
    left = left or LeftOut()
    runs: list[TrainRecord] = []
    searches: list[SearchRecord] = []
    for folder, name in zip(folders, names, strict=True):
        before = len(runs) + len(searches) + len(left.damaged)
        runs += left.read_all(folder, "run.json", partial(_train, name))
        searches += left.read_all(folder, "search.json", partial(_search, name))
        if needed and before == len(runs) + len(searches) + len(left.damaged):
            raise ValueError(f"{folder}: no run.json and no search.json in or below it; there is nothing to report")
    return sorted(runs, key=lambda run: run.seed), sorted(searches, key=lambda search: search.seed)


def _train(folder: str, path: Path, /) -> TrainRecord:
    document = read_record(path, "train")
    _check_objects(document, "recipe", "sampling", "evaluation")
    history = tuple(
        Epoch(int(each["epoch"]), {str(name): finite(value) for name, value in each["accuracy"].items()})
        for each in document["history"]
    )
    budget = finite(document.get("sampling", {}).get("budget", 1.0))
    if not 0 < budget <= 1:
        raise ValueError(f"its budget must be in (0, 1], but is {budget:g}")
    result = _result(document["result"], history) if "result" in document else None
    stated = document.get("evaluation", {}).get(result.evaluated_on) if result else None
    return TrainRecord(
        path=path,
        document=document,
        method=str(document["method"]),
        seed=int(document["seed"]),
        result=result,
        history=history,
        catalog=places_of(path, document["catalog"]),
        evaluation=None if stated is None else place_of(path, stated),
        budget=budget,
        folder=folder,
    )


def _result(entry: Mapping[str, Any], history: Sequence[Epoch]) -> Result:
    name = str(entry["set"])
    picked = [each.accuracy for each in history if each.number == entry["best_epoch"]]
    chosen = picked[0].get(name) if picked and name != "held_out" and "held_out" in picked[0] else None
    seen = [each.accuracy[name] for each in history if name in each.accuracy]
    metrics = {str(key): finite(value) for key, value in entry.get("metrics", {}).items()}
    classes = {str(key): _number(value) for key, value in entry.get("classes", {}).items()}
    metric = str(entry.get("metric", "top1"))
    if metric not in METRICS:
        raise ValueError(f"its metric must be one of {', '.join(METRICS)}, but is {metric!r}")
    best = (min if lower_is_better(metric) else max)([finite(entry["best"]), *seen])
    return Result(name, finite(entry["last"]), best, chosen, metrics, classes, metric)


def _search(folder: str, path: Path, /) -> SearchRecord:
    document = read_record(path, "search")
    _check_objects(document, "options")
    trials = [
        TrialPoint(
            int(each["number"]),
            _number(each["value"]),
            str(each["state"]),
            _number(each.get("ess")),
            finite(each.get("seconds", 0.0)) + finite(each.get("propose_seconds", 0.0)),
        )
        for each in document["trials"]
    ]
    return SearchRecord(
        path=path,
        document=document,
        seed=int(document["seed"]),
        catalog=places_of(path, document["catalog"]),
        features=_beside(path, document["features"]),
        join=tuple(_beside(path, each) for each in document.get("join", ())),
        sampler=_beside(path, document["sampler"]),
        winner=str(document["winner"]),
        message=str(document["message"]),
        trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        confirmation=tuple(
            Confirmation(int(each["candidate"]), int(each["seed"]), _number(each["value"]))
            for each in document["confirmation"]
        ),
        folder=folder,
    )


def _check_objects(document: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(document.get(name, {}), Mapping):
            raise TypeError(f"its {name} must be an object")


def place_of(path: Path, stated: str, /) -> Path | str:
    """Return a URL of a record as it is, and a path of it from the record's folder."""
    return stated if is_url(stated) else _beside(path, stated)


def places_of(path: Path, stated: str | Sequence[str], /) -> Places:
    """Return the places of one catalog, or of the several that a job was given together."""
    return place_of(path, stated) if isinstance(stated, str) else tuple(place_of(path, str(each)) for each in stated)


def _beside(path: Path, stated: str) -> Path:
    if "\0" in stated:
        raise ValueError(f"no path: {stated!r}")
    return path.parent / stated


def finite(value: Any, /) -> float:
    """Return a number of a record; NaN and infinity have no place in a chart."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a number is {number}")
    return number


def _number(value: Any) -> float | None:
    return None if value is None else finite(value)
