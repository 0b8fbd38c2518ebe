"""A Swift Sampler and the weights of more rows than memory holds: the fit of `SwiftFit`, block after block.

    sampler = fit_blocks(table.blocks, "weights.npy", params)       # table: a FeatureTable
    stream = IndexStream(map_weights("weights.npy"), seed=0)        # leaves the weights on disk

Notation and equations are those of `swift`. The readings of the features, N rows, R = `histogram.cdf_tables`:
    1 … R   cdf of each feature, R = 2 as a rule; the ranks are exact
    R + 1   u of every row into a nameless file beside the weights, 4 bytes a row
then, over u and (cgf) the column of gradient norms:
    twice   T, the histogram in two levels of `mass_table`: coarse, then finer where more mass lies
    once    tau = H(T(u)) into the weights file, 8 bytes a row, and P = tau / sum tau in place
Sums run in the order of the rows, so the tables and every P are bit for bit those of `SwiftFit` in memory, whatever the
blocks and the number of cores. Memory: the counters (`memory`), some blocks, and 6 MB for tables.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.files.atomic import write_atomically
from drawstream.samplers.parallel import PIECE, map_ahead, map_pieces
from drawstream.samplers.swift.fit import SwiftFit, requested_columns, require_coefficients
from drawstream.samplers.swift.histogram import MEMORY, Blocks, cdf_tables, columns_of
from drawstream.samplers.swift.knots import MAX_KNOTS, Knots, MassHistogram
from drawstream.samplers.swift.lookup import Lookup
from drawstream.samplers.swift.sampler import (
    DegenerateSampler,
    SwiftParams,
    SwiftSampler,
    Transform,
    aggregate,
    heights,
)

__all__ = ["fit_blocks", "score_blocks"]


def fit_blocks(
    blocks: Blocks,
    out: str | os.PathLike[str],
    params: SwiftParams,
    /,
    *,
    features: Sequence[str] = ("loss", "entropy"),
    mass: str | None = "grad_norm",
    transform: Transform = "cgf",
    memory: int = MEMORY,
    provenance: Mapping[str, Any] | None = None,
) -> SwiftSampler:
    """Fit a sampler and write P of every row as a `.npy` file, float64 (N,), that `map_weights` maps.

    Args:
        blocks: Called with names, gives those columns block by block, float32 (rows of the block,); called anew for
            every reading. `FeatureTable.blocks` is one.
        out: Weights file; written under a temporary name, then renamed.
        params: v, e, o.
        features: As of `SwiftFit`.
        mass: As of `SwiftFit`.
        transform: As of `SwiftFit`.
        memory: Bytes for counters.
        provenance: Of the sampler; JSON-able.

    Raises:
        DegenerateSampler: No row has positive weight.
        ValueError: As `SwiftFit` and `cdf_tables`.
    """
    names = requested_columns(features, mass, transform)
    require_coefficients(params, features)
    target = Path(out)
    rows, tables = cdf_tables(blocks, features, memory=memory)
    if rows <= MAX_KNOTS:
        return _fit_few(blocks, target, params, names, features, mass, transform, provenance)
    with tempfile.TemporaryFile(dir=target.parent) as file:
        low, high = _write_u(blocks, features, tables, params, file)
        u = np.memmap(file, np.float32, "r", shape=(rows,))
        balance = _balance(u, low, high, blocks, names[len(features) :])
        _write_weights(target, rows, _scored(u, balance, params))
    return SwiftSampler(tuple(features), params, transform, tables, balance, dict(provenance or {}))


def score_blocks(blocks: Blocks, out: str | os.PathLike[str], sampler: SwiftSampler, /, *, rows: int) -> None:
    """Write P of every row by a sampler as it is, as `fit_blocks` writes it; one reading.

    Args:
        blocks: As of `fit_blocks`.
        out: Weights file.
        sampler: Its tables stay as they are.
        rows: How many there are.

    Raises:
        DegenerateSampler: No row has positive weight.
        ValueError: A value is not finite, or there are other than so many rows.
    """
    seen = 0

    def scored() -> Iterator[NDArray[np.float64]]:
        nonlocal seen
        for start, values in columns_of(blocks, sampler.features):
            seen = start + values[0].size
            if seen > rows:
                break
            if seen > start:
                yield sampler.score(dict(zip(sampler.features, values, strict=True)))
        if seen != rows:
            raise ValueError(f"{rows} rows must be read, but there are {'more' if seen > rows else seen}")

    _write_weights(Path(out), rows, scored())


def _fit_few(
    blocks: Blocks,
    target: Path,
    params: SwiftParams,
    names: Sequence[str],
    features: Sequence[str],
    mass: str | None,
    transform: Transform,
    provenance: Mapping[str, Any] | None,
) -> SwiftSampler:
    """In memory: so few rows have exact tables of their own."""
    read = [columns for _, columns in columns_of(blocks, names)]
    whole = {name: np.concatenate([columns[i] for columns in read]) for i, name in enumerate(names)}
    fit = SwiftFit(whole, features=features, mass=mass, transform=transform)
    sampler = fit.sampler(params, provenance=provenance)
    _write_weights(target, fit.rows, iter([sampler.score(whole)]))
    return sampler


def _write_u(
    blocks: Blocks, features: Sequence[str], tables: Sequence[Knots], params: SwiftParams, file: BinaryIO
) -> tuple[float, float]:
    """Write u of every row; return its ends."""
    lookups = [Lookup(table) for table in tables]

    def work(block: tuple[int, list[NDArray[np.float32]]]) -> NDArray[np.float32]:
        ranks = np.stack([lookup.at(values) for lookup, values in zip(lookups, block[1], strict=True)])
        return aggregate(ranks, params)

    low, high = np.inf, -np.inf
    for u in map_ahead(work, columns_of(blocks, features)):
        low, high = min(low, float(u.min(initial=low))), max(high, float(u.max(initial=high)))
        file.write(u.data)
    file.flush()
    return low, high


def _balance(u: NDArray[np.float32], low: float, high: float, blocks: Blocks, mass: Sequence[str]) -> Knots:
    """T as `mass_table` makes it of all rows at once."""
    histogram = MassHistogram(low, high if high > low else low + 1)
    for start, weights in _masses(blocks, mass, u.size):
        histogram.add_coarse(u[start : start + weights.size], weights)
    if not histogram.coarse.any():
        raise ValueError(
            f"column {mass[0]!r} is zero in all {u.size} rows, so there is no gradient mass to accumulate: "
            'use transform="cdf", or another mass column'
        )
    histogram.refine()
    positions = np.empty(PIECE, np.int32)
    for start, weights in _masses(blocks, mass, u.size):
        histogram.add_fine(u[start : start + weights.size], weights, positions[: weights.size])
    return histogram.table(counted=not mass)


def _masses(blocks: Blocks, mass: Sequence[str], rows: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """First row and mass of pieces, float64; ones where rows are counted."""
    if not mass:
        yield from ((start, np.ones(min(PIECE, rows - start))) for start in range(0, rows, PIECE))
        return
    end = 0
    for start, (values,) in columns_of(blocks, mass):
        end = start + values.size
        bad = ~((values >= 0) & (values < np.inf))
        if bad.any():
            first = int(np.argmax(bad))
            raise ValueError(
                f"column {mass[0]!r} must hold finite gradient norms >= 0, but row {start + first} is {values[first]} "
                f"({int(bad.sum())} such in its block)"
            )
        if end > rows:
            break
        for at in range(0, values.size, PIECE):
            yield start + at, values[at : at + PIECE].astype(np.float64)
    if end != rows:
        raise ValueError(f"every reading must give the same rows, but {mass[0]!r} has other than {rows}")


def _scored(u: NDArray[np.float32], balance: Knots, params: SwiftParams) -> Iterator[NDArray[np.float64]]:
    """The heights tau of pieces of u."""
    lookup = Lookup(balance)

    def work(start: int) -> NDArray[np.float64]:
        piece = u[start : start + PIECE]
        return heights(piece, lookup.positions(piece), balance, params)

    return map_ahead(work, range(0, u.size, PIECE))


def _write_weights(target: Path, rows: int, pieces: Iterator[NDArray[np.float64]]) -> None:
    """Write tau, then P = tau / sum tau in place; under a temporary name, renamed when whole."""
    with write_atomically(target) as temporary:
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (rows,)})
            for tau in pieces:  # written, not mapped: a full disk is an error here, not the end of the process
                file.write(tau.data)
        _normalise(np.load(temporary, mmap_mode="r+"))


def _normalise(mapped: NDArray[np.float64]) -> None:
    """As `swift.normalised`: the same sum over all rows, then a division each."""
    tau = np.asarray(mapped)
    total = tau.sum()
    if not total > 0:
        raise DegenerateSampler(f"none of the {tau.size} rows has positive weight: H is zero wherever rows lie")

    def divide(start: int, stop: int) -> None:
        tau[start:stop] /= total

    map_pieces(tau.size, divide)
