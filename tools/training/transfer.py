"""Samplers carried to another feature table: another model's features, another data set, another split."""

from typing import Any

from drawstream.features.table import FeatureTable
from drawstream.samplers.swift import SwiftSampler, refit, refit_columns


def carry(sampler: SwiftSampler, table: FeatureTable, /, *, frozen: bool = False) -> SwiftSampler:
    """The sampler as it scores a table's rows.

    Args:
        sampler: What was found, on this table or on another.
        table: The rows.
        frozen: Keep the stored tables; by default v, e and o are kept and the tables are rebuilt of these rows.

    Returns:
        The sampler itself where it is frozen or was fitted on this very table, else a refit that notes both tables.

    Raises:
        ValueError: The table lacks columns, all of them named.
    """
    if frozen or fitted_on(sampler, table):
        return sampler
    return refit(sampler, table.columns(*needed_columns(sampler, table)), provenance=origin(table))


def fitted_on(sampler: SwiftSampler, table: FeatureTable, /) -> bool:
    """Return True if a sampler's tables were made of this very feature table."""
    return bool(sampler.provenance.get("features") == table.fingerprint)


def needed_columns(sampler: SwiftSampler, table: FeatureTable, /) -> list[str]:
    """Names of the columns that a refit on a table reads.

    Raises:
        ValueError: The table lacks some, all of them named.
    """
    try:
        return refit_columns(sampler, table.names)
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from None


def origin(table: FeatureTable, /) -> dict[str, Any]:
    """Describe the feature table that a sampler is fitted on."""
    return {**table.provenance, "features": table.fingerprint}
