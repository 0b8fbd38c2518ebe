"""Measures on logits, their extraction over shards, and the Parquet feature table.

Names are imported when they are first used: what only reads tables starts without torch and DALI.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drawstream.features.crop_scorer import CropScorer
    from drawstream.features.crops import Crops
    from drawstream.features.extraction import extract
    from drawstream.features.scorer import ShardScorer
    from drawstream.features.scoring import Scoring
    from drawstream.features.table import FeatureTable
    from drawstream.features.tracker import Tracker

__all__ = ["CropScorer", "Crops", "FeatureTable", "Scoring", "ShardScorer", "Tracker", "extract"]

_HOMES = {
    "CropScorer": "crop_scorer",
    "Crops": "crops",
    "FeatureTable": "table",
    "Scoring": "scoring",
    "ShardScorer": "scorer",
    "Tracker": "tracker",
    "extract": "extraction",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its file."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
