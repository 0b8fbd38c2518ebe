"""The benchmark of budgeted training."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.budget.grid import common_of, missing, run
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
