"""The benchmark of budgeted training."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.budget.cell import METHODS
    from drawstream.tools.bench.budget.grid import MAIN, Grid, common_of, run
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
