"""The benchmark of language modelling."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.language.grid import estimate, run
    from drawstream.tools.bench.language.text import BUILT_IN
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
