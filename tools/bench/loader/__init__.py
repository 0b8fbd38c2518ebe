"""The benchmark of loaders, beside peers."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.bench.loader.bench import run_loader
    from drawstream.tools.bench.loader.photos import open_catalog, pack_photos, small_images, write_files
    from drawstream.tools.bench.loader.rounds import Delivery, System, alternate, median_ratio
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
