"""The benchmark of suspects: how well averaged predictions of one training find labels that are known to be wrong."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.suspects.grid import estimate, run
    from drawstream.tools.bench.suspects.page import calibration_table, guide_table, published, tables
    from drawstream.tools.bench.suspects.ranking import auroc, calibration, quality
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
