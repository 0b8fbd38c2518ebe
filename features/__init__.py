"""Measures on logits, their extraction over shards, and the Parquet feature table."""

from drawstream.features.crop_scorer import CropScorer
from drawstream.features.crops import Crops
from drawstream.features.extract import extract
from drawstream.features.scorer import ShardScorer
from drawstream.features.scoring import Scoring
from drawstream.features.table import FeatureTable
from drawstream.features.tracker import Tracker

__all__ = ["CropScorer", "Crops", "FeatureTable", "Scoring", "ShardScorer", "Tracker", "extract"]
