"""Benchmarks: scripts that print a table and say what was compared."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.cell import VALIDATION, Cell, Record, accuracies, plan_of, wrong_share
    from drawstream.tools.bench.checks import check_distinct, check_names, check_noise
    from drawstream.tools.bench.estimates import estimate_auto, estimate_budget, estimate_noise, estimate_transfer
    from drawstream.tools.bench.features import run_features
    from drawstream.tools.bench.precision import run_precision
    from drawstream.tools.bench.stream import missing_systems, run_stream
    from drawstream.tools.bench.transfer import run_transfer
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
