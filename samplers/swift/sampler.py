"""The Swift Sampler: a static map from features of a row to its probability.

Notation (paper "Swift Sampler", Sec. 3.2)
    N        rows; n = 1..F features; f_n(i) value of feature n at row i
    v_n      coefficients, real, not all zero                                  Eq. 6
    u_i      sum_n v_n cdf_n(f_n(i)), float32 (rows,); equal u are one tie       Eq. 6, 7
    T(u)     cumulative gradient norm over u (`cgf`) or its rank (`cdf`)       Eq. 10
    H        piecewise linear on [0, 1]: S segments, ends 0 < e_1 < .. < e_{S-1} < 1, values o_0..o_S in [0, 1]
    tau_i    H(T(u_i)) in [0, 1];   P_i = tau_i / sum tau
The tables of cdf_n and T are the only code path: rows seen in the fit and new rows go through the same knots.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import DrawstreamError
from drawstream.samplers.files import parse_json, read_json, read_regular, write_atomically
from drawstream.samplers.swift.columns import numeric_columns
from drawstream.samplers.swift.knots import Knots, level

FORMAT = "drawstream-sampler"
VERSION = 1  # raise it when an older reader would misread the file
Transform = Literal["cgf", "cdf"]
Array = NDArray[Any]
_PARAMS = ("coefficients", "ends", "values")
MIN_GAP = 1e-9  # ends closer than this would make H a jump, which float64 cannot interpolate


class DegenerateSampler(DrawstreamError):  # noqa: N818 - the field's word, not a failure of the program
    """The parameters give no usable distribution over the rows."""


@dataclass(frozen=True, slots=True)
class SwiftParams:
    """The parameters of a sampler; 10 numbers for two features and four segments.

    Attributes:
        coefficients: v, one per feature, finite, not all zero.
        ends: e, inner ends of the segments (S - 1), increasing in (0, 1).
        values: o, heights at the ends (S + 1), in [0, 1], not all zero.

    Raises:
        DegenerateSampler: All coefficients or all values are zero.
        ValueError: Any other law above is broken.
    """

    coefficients: tuple[float, ...]
    ends: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in _PARAMS:
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
            if not all(map(math.isfinite, getattr(self, name))):
                raise ValueError(f"{name} must be finite, but got {getattr(self, name)}")
        v, e, o = self.coefficients, self.ends, self.values
        if not v:
            raise ValueError("coefficients must hold one number per feature, but got none")
        if len(o) != len(e) + 2:
            raise ValueError(f"S segments need S - 1 ends and S + 1 values, but got {len(e)} ends and {len(o)} values")
        if any(b - a < MIN_GAP for a, b in zip((0.0, *e), (*e, 1.0), strict=True)):
            raise ValueError(f"ends must increase in (0, 1), at least {MIN_GAP} apart, but got {e}")
        if any(not 0 <= x <= 1 for x in o):
            raise ValueError(f"values must lie in [0, 1], but got {o}")
        if not any(v):
            raise DegenerateSampler("all coefficients are zero: no feature decides")
        if not any(o):
            raise DegenerateSampler("all values are zero: no row has positive weight")

    @classmethod
    def uniform(cls, features: int = 2, segments: int = 4) -> SwiftParams:
        """Return the parameters that give every row the same probability.

        Args:
            features: Number of features, at least 1.
            segments: Number of segments of H, at least 1.
        """
        ends = tuple(k / segments for k in range(1, segments))
        return cls((1.0,) + (0.0,) * (features - 1), ends, (1.0,) * (segments + 1))

    def canonical(self) -> SwiftParams:
        """Return the representative of all parameters that give the same sampler (up to ties).

        Largest |v| is 1, largest o is 1, the first non-zero v is positive (v -> -v mirrors H), and a constant H is
        `uniform`. Scales are rounded to 12 digits, so that parameters that differ by a factor compare equal (unless a
        value lies on the very border between two roundings).
        """
        e = self.ends
        v = tuple(round(x / max(map(abs, self.coefficients)), 12) + 0.0 for x in self.coefficients)
        o = tuple(round(x / max(self.values), 12) for x in self.values)
        if min(o) == max(o):
            return SwiftParams.uniform(len(v), len(o) - 1)
        if next(x for x in v if x) < 0:
            v, e, o = tuple(0.0 - x for x in v), tuple(1 - x for x in reversed(e)), tuple(reversed(o))
        return SwiftParams(v, e, o)


def aggregate(ranks: NDArray[np.float64], params: SwiftParams, /) -> NDArray[np.float32]:
    """Return u (rows,) from ranks (F, rows), Eq. 6; the largest |v| counts as 1, so that no scale underflows."""
    u = np.empty(ranks.shape[1], np.float32)
    v = np.array(params.coefficients)
    _aggregate(ranks, v / np.abs(v).max(), u)
    return u


def heights(
    u: NDArray[np.float32], positions: NDArray[np.int32], table: Knots, params: SwiftParams, /
) -> NDArray[np.float64]:
    """Return the heights tau (rows,) from u and its positions in the table of T."""
    tau = np.empty(u.size, np.float64)
    ends = np.array((0.0, *params.ends, 1.0))
    _heights(u, positions, table.x, table.y, ends, np.array(params.values), tau)
    return tau


def normalised(tau: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Divide heights by their sum, in place: P.

    Raises:
        DegenerateSampler: No row has positive weight.
    """
    tau /= weight_sum(tau)
    return tau


def weight_sum(tau: NDArray[np.float64], /) -> float:
    """Return the sum of heights (rows,), float64.

    Raises:
        DegenerateSampler: No row has positive weight.
    """
    total = float(tau.sum())
    if not total > 0:
        raise DegenerateSampler(f"none of the {tau.size} rows has positive weight: H is zero wherever rows lie")
    return total


def effective_share(probabilities: NDArray[np.float64], /) -> float:
    """Return the effective sample size over rows, 1 / (N sum P^2), in (0, 1]: 1 for uniform, k/N for k equal rows."""
    squares = np.einsum("i,i->", probabilities, probabilities)  # np.dot would start BLAS threads for one pass
    return float(1.0 / (probabilities.size * squares))


def require_share(probabilities: NDArray[np.float64], floor: float, /) -> None:
    """Refuse a distribution whose effective sample size, as a share of the rows, is below the floor in [0, 1].

    Raises:
        DegenerateSampler: It is below.
    """
    share = effective_share(probabilities)
    if share < floor:
        rows = probabilities.size
        raise DegenerateSampler(
            f"effective sample size >= {floor:g} of the rows must hold, but it is {share:.3g} "
            f"(as if {share * rows:.0f} of {rows} rows were drawn)"
        )


@dataclass(frozen=True, slots=True, eq=False)
class SwiftSampler:
    """A fitted sampler: `SwiftFit.sampler` makes one, `load` reads one.

    It carries over to another model frozen, as it is, or refitted: `refit(sampler, columns)` keeps v, e and o and
    rebuilds the tables on the new model's features.

    Example:
        >>> sampler = SwiftSampler.load("sampler.json")  # doctest: +SKIP
        >>> p = sampler.probabilities({"loss": loss, "entropy": entropy})  # doctest: +SKIP

    Attributes:
        features: Column names, in the order of the coefficients.
        params: v, e and o as given.
        transform: T: "cgf" (cumulative gradient norm) or "cdf" (rank).
        tables: cdf_n, one table per feature.
        balance: T as a table over u.
        provenance: What the maker noted, JSON-able (catalog fingerprint, model hash); a refit keeps it.
    """

    features: tuple[str, ...]
    params: SwiftParams
    transform: Transform
    tables: tuple[Knots, ...]
    balance: Knots
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.transform not in ("cgf", "cdf"):
            raise ValueError(f'transform must be "cgf" or "cdf", but got {self.transform!r}')
        sizes = {len(self.features), len(self.params.coefficients), len(self.tables)}
        if len(sizes) > 1 or len(set(self.features)) < len(self.features):
            raise ValueError(
                f"one coefficient and one table per distinct feature are needed, but got {len(self.features)} features "
                f"{self.features}, {len(self.params.coefficients)} coefficients, {len(self.tables)} tables"
            )

    def score(self, columns: Mapping[str, ArrayLike], /) -> NDArray[np.float64]:
        """Return the heights tau in [0, 1], float64 (rows,), of rows of the fit or of new ones (crops, another split).

        Args:
            columns: Named numeric columns (rows,), finite, the sampler's features among them; float32 as a table gives
                them, or any other numbers.

        Raises:
            ValueError: A feature is missing, not numeric, not finite, or of another length than the rest.
        """
        taken = numeric_columns(columns, self.features)
        ranks = np.stack([table.at(values) for table, values in zip(self.tables, taken, strict=True)])
        u = aggregate(ranks, self.params)
        return heights(u, self.balance.positions(u), self.balance, self.params)

    def probabilities(self, columns: Mapping[str, ArrayLike], /) -> NDArray[np.float64]:
        """Return P, float64 (rows,), sums to 1.

        Args:
            columns: Named numeric columns (rows,), as `score`; P is normalised over these rows.

        Raises:
            DegenerateSampler: None of these rows has positive weight.
            ValueError: As `score`.
        """
        return normalised(self.score(columns))

    def save(self, path: str | os.PathLike[str], /) -> None:
        """Write `sampler.json`: under a temporary name, then renamed, so a reader sees the old file or the new.

        Args:
            path: The file.

        Raises:
            ValueError: The provenance is not plain JSON.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            "features": list(self.features),
            "transform": self.transform,
            **{name: list(getattr(self.params, name)) for name in _PARAMS},
            "provenance": self.provenance,
            "tables": [_table_to_json(table) for table in self.tables],
            "balance": _table_to_json(self.balance),
        }
        try:
            lines = [
                f'  "{key}": {json.dumps(each, allow_nan=False, ensure_ascii=False)}' for key, each in document.items()
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"provenance must be plain JSON (strings, numbers, lists, dicts): {error}") from error
        with write_atomically(Path(path)) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], /) -> SwiftSampler:
        """Read what `save` wrote; the sampler gives bit-identical probabilities.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, something else, or of a newer version.
        """
        document = _read_document(Path(path))
        try:
            return cls(
                features=tuple(str(name) for name in document["features"]),
                params=SwiftParams(*(tuple(document[name]) for name in _PARAMS)),
                transform=document["transform"],
                tables=tuple(_table_from_json(entry) for entry in document["tables"]),
                balance=_table_from_json(document["balance"]),
                provenance=dict(document["provenance"]),
            )
        except KeyError as error:
            raise ValueError(f"{path} is damaged: it has no {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def is_sampler(source: Path, /) -> bool:
    """Check whether a file is a `sampler.json`, whole or damaged, and no JSON file of weights."""
    if source.suffix != ".json" or not source.is_file():
        return False
    try:
        document = read_json(source, remedy="", most=1 << 32, finite=False)
    except ValueError:
        with source.open("rb") as file:
            return FORMAT.encode() in file.read(1000)
    return isinstance(document, dict) and document.get("format") == FORMAT


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_regular(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, it is not valid JSON ({error}): write the sampler again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path} is no sampler: it lacks the entry {FORMAT!r} under 'format'")
    version = document.get("version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{path} is damaged: its format version is {version!r}")
    if version > VERSION:
        raise ValueError(
            f"{path} has format version {version}, this drawstream reads versions up to {VERSION}: upgrade"
        )
    return document


def _table_to_json(table: Knots) -> dict[str, Any]:
    kind, knots = _shortest(table.x)
    if table.counts is not None:
        return {"dtype": kind, "knots": knots, "counts": table.counts.tolist()}
    return {"dtype": kind, "knots": knots, "levels": _shortest(table.y)[1]}


def _table_from_json(entry: dict[str, Any]) -> Knots:
    x = np.array(entry["knots"], entry["dtype"]).astype(np.float64)
    if "counts" in entry:
        return Knots.from_counts(x, np.array(entry["counts"], np.int64))
    return Knots(x, np.array(entry["levels"], np.float32).astype(np.float64))


def _shortest(values: NDArray[np.float64]) -> tuple[str, list[float]]:
    """Return the storage type, and numbers whose text is shortest."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if np.array_equal(single.astype(np.float64), values):
        short = [float(str(value)) for value in single]
        if np.array_equal(np.array(short, np.float32), single):
            return "float32", short
    return "float64", values.tolist()


@njit(cache=True, nogil=True)
def _aggregate(ranks: Array, v: Array, u: Array) -> None:
    """Set u = v . ranks, rounded to float32; ranks (F, rows) float64. Rounding makes ties of equal sums."""
    for i in range(u.size):
        total = 0.0
        for n in range(v.size):
            total += v[n] * ranks[n, i]
        u[i] = np.float32(total)


@njit(cache=True, nogil=True)
def _heights(u: Array, positions: Array, x: Array, y: Array, ends: Array, values: Array, tau: Array) -> None:
    """Set tau = H(T(u)); ends (S + 1,) hold 0 and 1 too."""
    for i in range(u.size):
        t = level(u[i], positions[i], x, y)
        s = 0
        for k in range(1, ends.size - 1):  # no branch: the segments of neighbouring rows are as good as random
            s += t > ends[k]
        share = (t - ends[s]) / (ends[s + 1] - ends[s])
        tau[i] = values[s] * (1.0 - share) + values[s + 1] * share
