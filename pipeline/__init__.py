"""Shards, catalog, reads and the DALI loader that follows an index stream."""
