"""Every table and figure of the three papers, with the command that makes it."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.papers.run import run_table
    from drawstream.tools.papers.tables import PAPERS, TABLES, find_table
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
