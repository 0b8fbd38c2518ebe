"""Rows that a condition holds for, over the columns of a catalog and of its feature table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table.table import FeatureTable
from drawstream.pipeline import Column, RowFilter, catalog_columns
from drawstream.pipeline.shards import Catalog

__all__ = ["rows_where"]


def rows_where(
    condition: str, catalog: Catalog | None = None, table: FeatureTable | None = None, /
) -> NDArray[np.bool_]:
    """Return for each row whether a condition holds, for `IndexStream(…, where=…)`.

    Args:
        condition: `height >= 128 and class_name != 'cat' and loss < 3`: comparisons of columns with numbers and texts,
            `in (…)`, `is null`, joined by and, or, not (`drawstream.pipeline.row_filter`).
        catalog: Gives `key`, `source`, `shard`, `label`, `class_name`, `clean_label`, `height`, `width`, `size` and
            `encoding`.
        table: Gives its features, joined ones too, and `crop`; of crops each has its sample's columns of the catalog.

    Returns:
        bool (rows,): of the catalog's rows; of the table's, where a table is given.

    Raises:
        ValueError: No such condition or column, one that holds for no row, or a table of another catalog.

    Example:
        >>> mask = rows_where("height >= 128 and loss < 3", catalog, table)
        >>> stream = IndexStream(len(catalog), where=mask, seed=0)
    """
    columns: dict[str, Column] = {} if catalog is None else catalog_columns(catalog)
    if table is not None:
        if catalog is not None:
            table.check(catalog.fingerprint, str(catalog.path))
            ids = table.sample_id
            if not np.array_equal(ids, np.arange(len(catalog))):
                columns = {name: _taken(column, ids) for name, column in columns.items()}
        columns |= {name: _feature(table, name) for name in table.names}
        columns["crop"] = lambda: table.crop
    return RowFilter.parse(condition).mask(columns)


def _taken(column: Column, ids: NDArray[np.int64]) -> Column:
    def take() -> Any:
        values = column()
        return values[ids] if isinstance(values, np.ndarray) else values.take(ids)

    return take


def _feature(table: FeatureTable, name: str) -> Column:
    return lambda: table.columns(name)[name]
