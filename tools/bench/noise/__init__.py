"""The benchmark of methods under label noise."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.noise.cell import NoiseCell, Probabilities, right_rows
    from drawstream.tools.bench.noise.grid import CHANGED, cells_of, methods_of, run, start
    from drawstream.tools.bench.noise.methods import folders, search_options
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
