"""Images that show the same: bytes, pixels, thumbnails, and neighbours among embeddings."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.features.duplicates.find import KINDS, Duplicates, find_duplicates, thumbnails
    from drawstream.features.duplicates.neighbours import EXACT_ROWS, Search, cosine_pairs
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
