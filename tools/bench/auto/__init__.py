"""The benchmark of AutoSampling."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.auto.cell import METHODS, folders
    from drawstream.tools.bench.auto.grid import SETTINGS, AutoGrid, run
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
