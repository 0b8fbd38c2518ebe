"""Several catalogs as one: members, names of sources, merged rows and classes."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.pipeline.catalogs.columns import merged_labels
    from drawstream.pipeline.catalogs.join import (
        Classes,
        MemberCatalog,
        Places,
        join_catalogs,
        joint_fingerprint,
        source_names,
    )
    from drawstream.pipeline.catalogs.keys import rows_of_keys
    from drawstream.pipeline.catalogs.mapped import LARGE, MappedColumns, whole_column
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
