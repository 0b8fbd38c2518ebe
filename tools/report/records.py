"""Records of runs and searches: every `run.json` and `search.json` below a folder, checked when read.

Paths inside a record are relative to its own folder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drawstream.pipeline.shards.remote import is_url
from drawstream.tools.report.left_out import LeftOut
from drawstream.tools.runs.record import read_record


@dataclass(frozen=True, slots=True)
class EpochPoint:
    """Accuracy after an epoch (numbered from 0), per cent by evaluation set; no set where none was due."""

    epoch: int
    accuracy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracy of a training run on one set, per cent.

    Attributes:
        evaluated_on: "test" or "held_out".
        last: Accuracy after the last epoch.
        best: Highest accuracy over the epochs of the history, whatever epoch the record calls best.
        chosen: Accuracy at the epoch that the held-out set chose; None where the run had no other set than this one.
    """

    evaluated_on: str
    last: float
    best: float
    chosen: float | None


@dataclass(frozen=True, slots=True)
class TrainRecord:
    """One training run.

    Attributes:
        path: Its `run.json`.
        document: All of it.
        method: "uniform", "swift", or another name.
        seed: Of the run.
        result: None where it was not evaluated.
        history: One point per epoch.
        catalog: Folder of the training data, or its URL.
        evaluation: Folder or URL of the data of its result; None where the record does not say.
        budget: Part of the full run, in (0, 1].
        folder: What the folder given is called, where several were.
    """

    path: Path
    document: Mapping[str, Any]
    method: str
    seed: int
    result: Result | None
    history: tuple[EpochPoint, ...]
    catalog: Path | str
    evaluation: Path | str | None
    budget: float
    folder: str = ""


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """One candidate of a search.

    Attributes:
        number: In order of the proposals.
        value: Its score; None unless it completed.
        state: "complete", "pruned" or "failed".
        ess: Effective sample size as a share of the rows.
        seconds: Of its proposal and its run.
    """

    number: int
    value: float | None
    state: str
    ess: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ConfirmationPoint:
    """One run of the guard: trial number (-1: uniform), seed, score (None: not finite)."""

    candidate: int
    seed: int
    value: float | None


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One search for a sampler.

    Attributes:
        path: Its `search.json`.
        document: All of it.
        seed: Of the search.
        catalog: Folder of the data, or its URL.
        features: Folder of the feature table.
        join: Folders of the tables joined to it.
        sampler: The `sampler.json` it wrote.
        winner: "swift" or "uniform".
        message: Why, in one sentence.
        trials: In order of their numbers.
        confirmation: The guard's runs.
        folder: What the folder given is called, where several were.
    """

    path: Path
    document: Mapping[str, Any]
    seed: int
    catalog: Path | str
    features: Path
    join: tuple[Path, ...]
    sampler: Path
    winner: str
    message: str
    trials: tuple[TrialPoint, ...]
    confirmation: tuple[ConfirmationPoint, ...]
    folder: str = ""


def read_records(
    *folders: Path, names: Sequence[str] = ("",), needed: bool = True, left: LeftOut | None = None
) -> tuple[list[TrainRecord], list[SearchRecord]]:
    """All runs and searches below some folders, each sorted by seed, then folder and path.

    Args:
        folders: Where to look.
        names: What they are called.
        needed: Whether it is an error that there are none.
        left: Takes the records that are damaged, of another kind, or of a newer format; by default none is read twice.

    Raises:
        ValueError: No record in them.
    """
    left = LeftOut() if left is None else left
    runs: list[TrainRecord] = []
    searches: list[SearchRecord] = []
    for folder, name in zip(folders, names, strict=True):
        mine = [left.read(path, _train) for path in left.files(folder, "run.json")]
        found = [left.read(path, _search) for path in left.files(folder, "search.json")]
        if needed and not mine and not found:
            raise ValueError(f"{folder}: no run.json and no search.json in or below it; there is nothing to report")
        runs += [replace(run, folder=name) for run in mine if run is not None]
        searches += [replace(search, folder=name) for search in found if search is not None]
    return sorted(runs, key=lambda run: run.seed), sorted(searches, key=lambda search: search.seed)


def _train(path: Path) -> TrainRecord:
    document = read_record(path, "train")
    history = tuple(
        EpochPoint(int(point["epoch"]), {str(name): finite(value) for name, value in point["accuracy"].items()})
        for point in document["history"]
    )
    for name in ("recipe", "sampling", "evaluation"):
        if not isinstance(document.get(name, {}), Mapping):
            raise TypeError(f"its {name} is no object")
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
        catalog=_place(path, document["catalog"]),
        evaluation=None if stated is None else _place(path, stated),
        budget=budget,
    )


def _place(path: Path, stated: str) -> Path | str:
    return stated if is_url(stated) else _beside(path, stated)


def _beside(path: Path, stated: str) -> Path:
    if "\0" in stated:
        raise ValueError(f"no path: {stated!r}")
    return path.parent / stated


def finite(value: Any, /) -> float:
    """A number of a record; NaN and infinity have no place in a chart."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a number is {number}")
    return number


def _result(entry: Mapping[str, Any], history: Sequence[EpochPoint]) -> Result:
    name = str(entry["set"])
    picked = [point.accuracy for point in history if point.epoch == entry["best_epoch"]]
    chosen = picked[0].get(name) if picked and name != "held_out" and "held_out" in picked[0] else None
    seen = [point.accuracy[name] for point in history if name in point.accuracy]
    return Result(name, finite(entry["last"]), max([finite(entry["best"]), *seen]), chosen)


def _search(path: Path) -> SearchRecord:
    document = read_record(path, "search")
    trials = [
        TrialPoint(
            number=int(each["number"]),
            value=_number(each["value"]),
            state=str(each["state"]),
            ess=_number(each.get("ess")),
            seconds=finite(each.get("seconds", 0.0)) + finite(each.get("propose_seconds", 0.0)),
        )
        for each in document["trials"]
    ]
    confirmation = [
        ConfirmationPoint(int(each["candidate"]), int(each["seed"]), _number(each["value"]))
        for each in document["confirmation"]
    ]
    if not isinstance(document.get("options", {}), Mapping):
        raise TypeError("its options are no object")
    return SearchRecord(
        path=path,
        document=document,
        seed=int(document["seed"]),
        catalog=_place(path, document["catalog"]),
        features=_beside(path, document["features"]),
        join=tuple(_beside(path, each) for each in document.get("join", ())),
        sampler=_beside(path, document["sampler"]),
        winner=str(document["winner"]),
        message=str(document["message"]),
        trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        confirmation=tuple(confirmation),
    )


def _number(value: Any) -> float | None:
    return None if value is None else finite(value)
