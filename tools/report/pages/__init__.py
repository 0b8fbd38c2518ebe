"""Pages of the report."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.report.pages.classes import class_section
    from drawstream.tools.report.pages.data import data_sections
    from drawstream.tools.report.pages.provenance import Job, command_of, date_of, provenance_section
    from drawstream.tools.report.pages.result import history_sections, result_section
    from drawstream.tools.report.pages.review import write_review_page
    from drawstream.tools.report.pages.schedule import schedule_blocks, schedule_sections, words_of
    from drawstream.tools.report.pages.search import overview, search_blocks, side_by_side
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
