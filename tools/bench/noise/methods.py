"""The methods of the label-noise benchmark by name: what each search differs in, and sets of them."""

from collections.abc import Sequence
from typing import Any

from drawstream.tools.bench import check_names
from drawstream.tools.cli import search as search_recipes

SEGMENTS = (2, 6, 8)  # of H, beside the 4 of `swift` (Tab. 8 of the paper)
CANDIDATES = (5, 10, 20, 40, 60, 80)  # of searches that differ in length alone: the same ones first (Tab. 9: 20 to 80)
SEARCHES: dict[str, dict[str, Any]] = {  # options of the search, over those of the plan
    "swift": {"transform": "cdf"},
    "swift-cgf": {"transform": "cgf"},
    "swift-random": {"transform": "cdf", "agent": "random", "starts": False},  # no designed candidates either
    "swift-reinforce": {"transform": "cdf", "agent": "reinforce", "starts": False},
    **{f"swift-s{segments}": {"transform": "cdf", "segments": segments} for segments in SEGMENTS},
    **{f"swift-{trials}": {"transform": "cdf", "trials": trials} for trials in CANDIDATES},
    "swift-paper": {name: value for name, value in search_recipes.PAPER.items() if name != "fine_tune_epochs"},
}
PAPER = "swift-paper"  # its protocol: features of the last model, fine-tuning over whole epochs, no guard
PAPER_EPOCHS = round(search_recipes.PAPER["fine_tune_epochs"])
SETS = {
    "segments": tuple(f"swift-s{segments}" for segments in SEGMENTS),
    "candidates": tuple(f"swift-{trials}" for trials in CANDIDATES),
}
DROPPED = (0.2, 0.3, 0.4, 0.5)  # shares of the rows, those of the highest loss
METHODS = (
    *("uniform", "swift", "swift-cgf", "swift-random", "swift-reinforce"),
    *("drop", "reed-soft", "reed-hard", "l2rw", "mentornet", "clean-only"),
)
STOPPED = "early-stopping"  # `uniform` at the epoch that the validation set chose: a row of its own, no run


def folders(method: str, validation: str, /) -> list[str]:
    """Return the folders of a method's training runs under a validation set: one, or one for each share of `drop`."""
    if method == "drop":
        return [f"drop-{share:g}" for share in DROPPED]
    return [f"{method}-{validation}"] if method in SEARCHES or method == "l2rw" else [method]


def expand(names: Sequence[str], /) -> list[str]:
    """Return the methods of a list that may name sets, each once.

    Raises:
        ValueError: A name is neither a method nor a set, or a method comes twice.
    """
    methods = [method for name in names for method in SETS.get(name, (name,))]
    check_names("methods", methods, dict.fromkeys([*METHODS, *SEARCHES, *SETS]))
    return methods
