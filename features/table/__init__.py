"""The feature table: Parquet parts, joined, checked, described."""
