"""Measures on logits, their extraction over shards, and the Parquet feature table."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.features.crop_scorer import CropScorer
    from drawstream.features.crops import Crops
    from drawstream.features.custom import call_measure, load_measure
    from drawstream.features.duplicates import KINDS, Duplicates, cosine_pairs, find_duplicates, thumbnails
    from drawstream.features.extraction import (
        RemoteScorer,
        extract_features,
        finish_table,
        lacking_shards,
        missing_shards,
        write_shards,
        write_shards_on_ray,
    )
    from drawstream.features.grad_norm import HeadInput
    from drawstream.features.label_measures import kind_of_batch, label_losses
    from drawstream.features.measures import chosen_measures, measure
    from drawstream.features.named import accepted, load_factory, users_code
    from drawstream.features.options import HALF, Amp, Scoring, provenance, state_hash
    from drawstream.features.shard_scorer import ShardScorer, require_classes, require_logits
    from drawstream.features.suspects import (
        FEW_WRONG,
        CleanSampler,
        Suspects,
        clean_params,
        clean_probabilities,
        find_suspects,
        told_by_heart,
    )
    from drawstream.features.tracker import Tracker, named_classes
    from drawstream.features.user_code import code_identity
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
