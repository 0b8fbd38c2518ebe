"""Shards, catalog, reads and the DALI loader that follows an index stream.

Names are imported when they are first used: what only reads catalogs starts without torch and DALI (0.4 s, not 2.3).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drawstream.pipeline.augment import RICAP, Mixed, Mixup
    from drawstream.pipeline.bad import BadSample, BadSampleError
    from drawstream.pipeline.catalog import Catalog, Shard
    from drawstream.pipeline.crop_filter import CropFilter
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
    "CropFilter",
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

_FILES = {
    "augment": ("RICAP", "Mixed", "Mixup"),
    "bad": ("BadSample", "BadSampleError"),
    "catalog": ("Catalog", "Shard"),
    "crop_filter": ("CropFilter",),
    "loader": ("Batch", "Loader"),
    "remote": ("Remote", "RemoteError"),
    "sources": ("ArraySource", "Source", "open_source"),
    "transform": ("Transform",),
}
_HOMES = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its file."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
