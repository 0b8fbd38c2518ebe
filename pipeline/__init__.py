"""Shards, catalog, reads and the DALI loader that follows an index stream."""

from drawstream.pipeline.augment import RICAP, Mixed, Mixup
from drawstream.pipeline.bad import BadSample, BadSampleError
from drawstream.pipeline.catalog import Catalog, Shard
from drawstream.pipeline.loader import Batch, Loader
from drawstream.pipeline.remote import Remote, RemoteError
from drawstream.pipeline.sources import ArraySource, Source, open_source
from drawstream.pipeline.transform import Transform

__all__ = [
    "RICAP",
    "ArraySource",
    "BadSample",
    "BadSampleError",
    "Batch",
    "Catalog",
    "Loader",
    "Mixed",
    "Mixup",
    "Remote",
    "RemoteError",
    "Shard",
    "Source",
    "Transform",
    "open_source",
]
