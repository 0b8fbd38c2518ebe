"""Shards, catalog, reads and the DALI loader that follows an index stream."""

from drawstream.pipeline.catalog import Catalog, Shard
from drawstream.pipeline.sources import ArraySource, Source, open_source

__all__ = ["ArraySource", "Catalog", "Shard", "Source", "open_source"]
