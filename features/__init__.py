"""Measures on logits, their extraction over shards, and the Parquet feature table."""

from drawstream.features.extract import extract
from drawstream.features.table import FeatureTable

__all__ = ["FeatureTable", "extract"]
