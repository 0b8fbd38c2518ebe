"""The benchmark of AutoSampling."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.auto.cell import folders
    from drawstream.tools.bench.auto.grid import methods_of, run, settings_of
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
