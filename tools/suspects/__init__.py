"""Lists of probably wrong labels, with the page on which they are reviewed, and of duplicates."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.suspects.duplicates import write_duplicates
    from drawstream.tools.suspects.review import DECISIONS, Review, read_review
    from drawstream.tools.suspects.write import write_suspects
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
