"""Workers that do tasks: this process, spawned processes, or a Ray cluster."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.workers.engines import Workers, open_workers, spread, suitable_workers
    from drawstream.pipeline.workers.pool import ATTEMPTS, Pool, WorkerError
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
