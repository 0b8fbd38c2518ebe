"""Shards, catalog, reads and the DALI loader that follows an index stream."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.batch import Batch, HostCopies, to_device
    from drawstream.pipeline.crop_filter import CropFilter
    from drawstream.pipeline.data_loader import StreamDataLoader
    from drawstream.pipeline.identity import ANOTHER, difference, plain, refuse_other
    from drawstream.pipeline.left_out import MOST_SHOWN, BadImage, BadImagesError, LeftOut, list_bad
    from drawstream.pipeline.loader import RUN, SMALL, Loader, channel_statistics, default_transform, graph_spec
    from drawstream.pipeline.magic import describe_bytes
    from drawstream.pipeline.numbers import MOST, whole
    from drawstream.pipeline.place import Stream
    from drawstream.pipeline.replay import read_replay, write_replay
    from drawstream.pipeline.row_filter import Column, RowFilter, catalog_columns
    from drawstream.pipeline.secrets import describe_error, shown, without_secrets
    from drawstream.pipeline.torch_sampler import StreamBatchSampler, StreamSampler
    from drawstream.pipeline.verify import Note
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
