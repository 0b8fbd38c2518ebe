"""Measures on logits, their extraction over shards, and the Parquet feature table."""

from drawstream.features.extract import extract
from drawstream.features.scorer import Scoring, ShardScorer
from drawstream.features.table import FeatureTable

__all__ = ["FeatureTable", "Scoring", "ShardScorer", "extract"]
