"""The benchmark on classes that were never trained on: few-shot classification and verification."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.novel.grid import estimate, run
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
