"""Sources of images: class folders, IDX, NumPy."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.sources.convert import ENDINGS
    from drawstream.pipeline.sources.dataset import DatasetSource
    from drawstream.pipeline.sources.folder import FolderSource
    from drawstream.pipeline.sources.hugging_face import TableSource
    from drawstream.pipeline.sources.listing import hash_source
    from drawstream.pipeline.sources.members import check_boxes, field_names, read_fields
    from drawstream.pipeline.sources.source import FASHION_MNIST, ArraySource, Source, open_array, open_source
    from drawstream.pipeline.sources.storing import Form, Resized, stored_images
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
