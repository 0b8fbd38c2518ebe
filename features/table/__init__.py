"""The feature table: Parquet parts, joined, checked, described."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.features.table.check import check_table
    from drawstream.features.table.describe import Description, describe_table
    from drawstream.features.table.embedding import (
        embedding_path,
        has_embedding,
        merge_embedding,
        write_embedding_part,
    )
    from drawstream.features.table.part import (
        FIXED,
        part_path,
        read_provenance,
        remove_abandoned,
        require_same,
        write_part,
    )
    from drawstream.features.table.table import FeatureTable, fixed_columns
    from drawstream.features.table.where import rows_where
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
