"""The rehearsal: the whole way at ImageNet's number of rows."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.rehearsal.bench import run
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
