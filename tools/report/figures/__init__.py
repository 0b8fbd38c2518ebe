"""Figures of the report."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.report.figures.schedule import loss_figure, rewards_figure, segments_figure, spread_figure
    from drawstream.tools.report.figures.search import (
        confirmation_figure,
        heights_figure,
        marginals_figure,
        percentiles_figure,
        plane_figures,
        progress_figure,
        trials_figure,
    )
    from drawstream.tools.report.figures.training import classes_figure, history_figure, result_figure, shares_figure
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
