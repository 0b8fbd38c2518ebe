"""Samplers carried to another feature table: another model's features, another data set, another split."""

from drawstream.features import FeatureTable
from drawstream.samplers import SwiftSampler, refit


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
    if frozen or sampler.provenance.get("features") == table.fingerprint:
        return sampler
    wanted = (*sampler.features, "grad_norm") if sampler.transform == "cgf" else sampler.features
    columns = table.columns(*(name for name in dict.fromkeys(wanted) if name in table.names))
    return refit(sampler, columns, provenance={**table.provenance, "features": table.fingerprint})
