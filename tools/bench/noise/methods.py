"""The methods of the label-noise benchmark by name: what each search differs in, and sets of them."""

import re
from collections.abc import Sequence
from itertools import product
from typing import Any

from drawstream.tools.bench import check_names
from drawstream.tools.cli import search as search_recipes

SEARCHES: dict[str, dict[str, Any]] = {  # options of the search, over those of the plan
    "swift": {"transform": "cdf"},
    "swift-cgf": {"transform": "cgf"},
    # the paper's Fig. 3: without designed candidates
    "swift-random": {"transform": "cdf", "agent": "random", "starts": False},
    "swift-reinforce": {"transform": "cdf", "agent": "reinforce", "starts": False},
    "swift-gp": {"transform": "cdf", "starts": False},
    "swift-gp-cgf": {"transform": "cgf", "starts": False},
    "swift-rank": {"transform": "cgf", "starts": False, "confirm_top": 0},  # of the rank study
    "swift-paper": {name: value for name, value in search_recipes.PAPER.items() if name != "fine_tune_epochs"},
}
VARIANT = re.compile(r"(?P<search>swift[a-z-]*?)(?:-s(?P<segments>\d+))?(?:-(?P<trials>\d+))?")
PAPER = "swift-paper"  # its protocol: features of the last model, fine-tuning over whole epochs, no guard
PAPER_EPOCHS = round(search_recipes.PAPER["fine_tune_epochs"])
SETS = {
    "agents": ("swift-random", "swift-reinforce", "swift-gp", "swift-gp-cgf"),
    "segments": ("swift-s2", "swift", "swift-s6", "swift-s8"),  # of H; 4 of `swift` (Tab. 8 of the paper)
    # searches that differ in length alone: the same candidates first (Tab. 9: 20 to 80)
    "candidates": tuple(f"swift-{trials}" for trials in (5, 10, 20, 40, 60, 80)),
}
CLEAN: dict[str, dict[str, Any]] = {  # P(clean) by the tracker of the uniform run, or (refit) of its own training
    "clean": {},
    "clean-loss": {"clean_score": "loss"},
    "clean-class": {"per_class": True},
    "clean-refit": {"refresh": 3},
}
DROPPED = (0.2, 0.3, 0.4, 0.5)  # shares of the rows, those of the highest loss
METHODS = (
    *("uniform", "swift", "swift-cgf", "swift-random", "swift-reinforce"),
    *("clean", "suspects", "drop", "reed-soft", "reed-hard", "l2rw", "mentornet-pd", "mentornet-dd", "clean-only"),
)
STOPPED = "early-stopping"  # `uniform` at the epoch that the validation set chose: a row of its own, no run


def search_options(method: str, /) -> dict[str, Any] | None:
    """Return a search's options, over those of the plan; None for a method that searches nothing.

    `swift-s6-20` is `swift` with 6 segments and 20 candidates; each search has such variants.
    """
    if method in SEARCHES:
        return SEARCHES[method]
    found = VARIANT.fullmatch(method)
    if found is None or found["search"] not in SEARCHES.keys() - {PAPER}:
        return None
    numbers = {name: int(found[name]) for name in ("segments", "trials") if found[name]}
    return SEARCHES[found["search"]] | numbers


def varied(methods: Sequence[str], segments: Sequence[int], trials: Sequence[int], /) -> list[str]:
    """Return the methods, each search of them with each number of segments and of candidates that is given."""
    of_segments = [f"-s{each}" for each in segments] or [""]
    of_trials = [f"-{each}" for each in trials] or [""]
    ends = ["".join(each) for each in product(of_segments, of_trials)]
    return [name + end for name in methods for end in (ends if name in SEARCHES and name != PAPER else [""])]


def folders(method: str, validation: str, /) -> list[str]:
    """Return the folders of a method's training runs under a validation set: one, or one for each share of `drop`."""
    if method == "drop":
        return [f"drop-{share:g}" for share in DROPPED]
    own = search_options(method) or method in ("l2rw", "mentornet-dd")
    return [f"{method}-{validation}"] if own else [method]


def expand(names: Sequence[str], /) -> list[str]:
    """Return the methods of a list that may name sets, each once.

    Raises:
        ValueError: A name is neither a method nor a set, or comes twice.
    """
    known = [*METHODS, *SEARCHES, *CLEAN, *SETS]
    check_names("methods", names, [*known, *(name for name in names if search_options(name))])
    return list(dict.fromkeys(method for name in names for method in SETS.get(name, (name,))))
