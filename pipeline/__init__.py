"""Shards, catalog, reads and the DALI loader that follows an index stream.

Each name is imported when it is first used: see `drawstream.samplers.exports`.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.crop_filter import CropFilter as CropFilter
    from drawstream.pipeline.data_loader import StreamDataLoader as StreamDataLoader
    from drawstream.pipeline.images.mixing import RICAP as RICAP
    from drawstream.pipeline.images.mixing import Mixed as Mixed
    from drawstream.pipeline.images.mixing import Mixup as Mixup
    from drawstream.pipeline.images.transform import Transform as Transform
    from drawstream.pipeline.loader import Batch as Batch
    from drawstream.pipeline.loader import Loader as Loader
    from drawstream.pipeline.reading.bad_samples import BadSample as BadSample
    from drawstream.pipeline.reading.bad_samples import BadSampleError as BadSampleError
    from drawstream.pipeline.reading.options import Reading as Reading
    from drawstream.pipeline.shards.catalog import Catalog as Catalog
    from drawstream.pipeline.shards.catalog import Shard as Shard
    from drawstream.pipeline.shards.remote import Remote as Remote
    from drawstream.pipeline.shards.remote import RemoteError as RemoteError
    from drawstream.pipeline.sources.source import ArraySource as ArraySource
    from drawstream.pipeline.sources.source import Source as Source
    from drawstream.pipeline.sources.source import open_source as open_source
    from drawstream.pipeline.torch_sampler import StreamBatchSampler as StreamBatchSampler
    from drawstream.pipeline.torch_sampler import StreamSampler as StreamSampler
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
