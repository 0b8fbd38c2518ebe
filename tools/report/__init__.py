"""The report: one self-contained HTML page from the records that jobs left behind, and its figures."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.report import page
    from drawstream.tools.report.build import write_report
    from drawstream.tools.report.comparison import (
        SENTENCES,
        Entry,
        Pair,
        cautions,
        compare,
        metric_of,
        pairs_of,
        verdicts,
    )
    from drawstream.tools.report.data_records import DuplicatesRecord, TableRecord
    from drawstream.tools.report.differences import list_differences
    from drawstream.tools.report.gallery import Picture, extremes, pictures
    from drawstream.tools.report.groups import Group
    from drawstream.tools.report.left_out import LeftOut
    from drawstream.tools.report.records import Confirmation, SearchRecord, TrainRecord, TrialPoint, finite
    from drawstream.tools.report.sampled_rows import Plane, SampledRows, by_percentile, plane
    from drawstream.tools.report.schedules import (
        Counts,
        RewardSpread,
        SearchedSchedule,
        correlation,
        dispersion,
        effective_rows,
        segment_counts,
    )
    from drawstream.tools.report.searches import (
        Curve,
        Search,
        by_candidates,
        by_seconds,
        curves_of,
        group,
        mean_steps,
        search_names,
        uniform_score,
    )
    from drawstream.tools.report.serve import serve_jobs
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
