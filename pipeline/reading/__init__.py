"""Reading: bytes of shards, read ahead, checked, cached; bad samples and quarantine."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.reading.bad_samples import LEAVE_OUT, BadSample, BadSampleError, BadSamples, name_sample
    from drawstream.pipeline.reading.cache import CachedShards
    from drawstream.pipeline.reading.metrics import Meter
    from drawstream.pipeline.reading.options import Checksum, Reading
    from drawstream.pipeline.reading.plan import Batching, Order, Plan
    from drawstream.pipeline.reading.quarantine import WHOLE, Finding, read_quarantine, write_quarantine
    from drawstream.pipeline.reading.read import ShardFiles
    from drawstream.pipeline.reading.read_ahead import ENDING, Feed, Prepared, Reader, interpreter_ends
    from drawstream.pipeline.reading.refused import Headers, undecodable
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
