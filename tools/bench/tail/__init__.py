"""The benchmark on long-tailed data: class-balanced draws beside uniform ones and a re-weighted loss."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.tail.grid import METHODS, estimate, run
    from drawstream.tools.bench.tail.page import guide_table, published, tables
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
