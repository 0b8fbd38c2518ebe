"""Fitting Swift Samplers: ranks once per feature table, then a few passes over the rows per candidate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers.swift.columns import gradient_mass, numeric_columns
from drawstream.samplers.swift.mass import mass_table
from drawstream.samplers.swift.sampler import (
    SwiftParams,
    SwiftSampler,
    Transform,
    aggregate,
    heights,
    normalised,
    require_share,
)
from drawstream.samplers.swift.tables import cdf_table


class SwiftFit:
    """A feature table prepared for many candidates: `probabilities(params)` costs no sort of large tables.

    Example:
        >>> fit = SwiftFit({"loss": [0.1, 2.0, 0.4], "grad_norm": [0.2, 1.0, 0.5]}, features=("loss",))
        >>> fit.probabilities(SwiftParams((1.0,), (0.5,), (1.0, 1.0, 0.0))).round(2).tolist()
        [0.5, 0.0, 0.5]

    Args:
        columns: Named numeric columns (rows,), finite.
        features: Names of the features, one or more, distinct.
        mass: Name of the column of gradient norms (>= 0, not all zero); needed for transform "cgf" only.
        transform: "cgf" (the paper) or "cdf" (its ablation, T = rank of u).

    Raises:
        ValueError: A column is missing, not finite, of another length; or the mass is negative or all zero.
    """

    def __init__(
        self,
        columns: Mapping[str, ArrayLike],
        /,
        *,
        features: Sequence[str] = ("loss", "entropy"),
        mass: str | None = "grad_norm",
        transform: Transform = "cgf",
    ) -> None:
        names = requested_columns(features, mass, transform)
        self.features = tuple(features)
        self.transform: Transform = transform
        taken = numeric_columns(columns, names)
        self.rows = taken[0].size
        self._mass = gradient_mass(taken[-1], names[-1]) if transform == "cgf" else None
        self._tables, ranks = zip(*map(cdf_table, taken[: len(self.features)]), strict=True)
        self._ranks = np.stack(ranks)

    def sampler(self, params: SwiftParams, /, *, provenance: Mapping[str, Any] | None = None) -> SwiftSampler:
        """The sampler of `params` with this table's knots; `provenance` must be JSON-able.

        Raises:
            ValueError: There is not one coefficient per feature.
        """
        require_coefficients(params, self.features)
        balance, _ = mass_table(aggregate(self._ranks, params), self._mass)
        return SwiftSampler(self.features, params, self.transform, self._tables, balance, dict(provenance or {}))

    def probabilities(self, params: SwiftParams, /, *, min_ess: float = 0.0) -> NDArray[np.float64]:
        """P of the rows of the fit, float64 (rows,): the bits that `sampler(params).probabilities(columns)` gives.

        Args:
            params: Parameters with one coefficient per feature.
            min_ess: Least effective sample size as a share of the rows, in [0, 1].

        Raises:
            DegenerateSampler: No row has positive weight, or the effective sample size is below the floor.
        """
        require_coefficients(params, self.features)
        u = aggregate(self._ranks, params)
        balance, positions = mass_table(u, self._mass)
        p = normalised(heights(u, positions, balance, params))
        if min_ess > 0:
            require_share(p, min_ess)
        return p


def refit(
    sampler: SwiftSampler,
    columns: Mapping[str, ArrayLike],
    /,
    *,
    mass: str | None = "grad_norm",
    provenance: Mapping[str, Any] | None = None,
) -> SwiftSampler:
    """The sampler carried to the features of another model or data set: the same v, e and o, tables of these rows.

    Args:
        sampler: What to carry over.
        columns: Named numeric columns (rows,), finite: the sampler's features and, for transform "cgf", the mass.
        mass: Name of the column of gradient norms.
        provenance: Of the new rows; JSON-able. What the sampler itself knew is kept under `refitted_from`.

    Raises:
        ValueError: Columns are missing, all of them named; or as `SwiftFit`.
    """
    refit_columns(sampler, columns, mass=mass)
    fit = SwiftFit(columns, features=sampler.features, mass=mass, transform=sampler.transform)
    return fit.sampler(sampler.params, provenance={**(provenance or {}), "refitted_from": sampler.provenance})


def refit_columns(sampler: SwiftSampler, there: Collection[str], /, *, mass: str | None = "grad_norm") -> list[str]:
    """Names of the columns that a refit reads, each once, the features first.

    Raises:
        ValueError: Some of them are not among the columns that are there; all of those are named.
    """
    needed = list(dict.fromkeys(requested_columns(sampler.features, mass, sampler.transform)))
    missing = [name for name in needed if name not in there]
    if missing:
        raise ValueError(
            f"a refit of this {sampler.transform} sampler reads {', '.join(needed)}, but the table has no "
            f"{', no '.join(missing)}: compute or join what is missing, or keep the sampler's own tables (frozen)"
        )
    return needed


def requested_columns(features: Sequence[str], mass: str | None, transform: Transform, /) -> list[str]:
    """Names of the columns that a fit reads, the features first.

    Raises:
        ValueError: The request breaks a law of `SwiftFit`.
    """
    if transform not in ("cgf", "cdf"):
        raise ValueError(f'transform must be "cgf" or "cdf", but got {transform!r}')
    if isinstance(features, str) or not features or len(set(features)) < len(features):
        raise ValueError(f"features must be one or more distinct column names, but got {features!r}")
    if transform == "cgf" and mass is None:
        raise ValueError('transform "cgf" needs a column of gradient norms: name it as mass, or use "cdf"')
    return [*features, mass] if transform == "cgf" and mass is not None else list(features)


def require_coefficients(params: SwiftParams, features: Sequence[str], /) -> None:
    """Refuse parameters that have not one coefficient per feature.

    Raises:
        ValueError: Another number.
    """
    if len(params.coefficients) != len(features):
        raise ValueError(
            f"params must hold one coefficient per feature {tuple(features)}, but has {len(params.coefficients)}"
        )
