"""Measures on logits, their extraction over shards, and the Parquet feature table.

Each name is imported when it is first used: see `drawstream.samplers.exports`.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.features.crop_scorer import CropScorer as CropScorer
    from drawstream.features.crops import Crops as Crops
    from drawstream.features.extraction import extract_features as extract_features
    from drawstream.features.options import Scoring as Scoring
    from drawstream.features.shard_scorer import ShardScorer as ShardScorer
    from drawstream.features.table.table import FeatureTable as FeatureTable
    from drawstream.features.tracker import Tracker as Tracker
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
