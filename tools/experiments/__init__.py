"""Experiments: cells of method, setting and seed, their records, one comparison, one table."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.experiments.compare import Difference, Spread, by_seed, difference, relations, signed
    from drawstream.tools.experiments.figures import (
        Figure,
        Style,
        axes,
        by_name,
        line,
        literal,
        rows_figure,
        seeds_figure,
        style_of,
        title_of,
        trace,
    )
    from drawstream.tools.experiments.metrics import KIND_METRICS, METRICS, lower_is_better, shown_metric, unit_of
    from drawstream.tools.experiments.results import Entry, Row, blocks, control_of, entries_of
    from drawstream.tools.experiments.table import NONE, Columns, Table, number, table_of
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
