"""Measures on logits, their extraction over shards, and the Parquet feature table."""
