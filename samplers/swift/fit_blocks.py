"""A Swift Sampler and the weights of more rows than memory holds: the fit of `SwiftFit`, block after block.

    sampler = fit_blocks(table.blocks, "weights.npy", params)       # table: a FeatureTable
    stream = IndexStream(map_weights("weights.npy"), seed=0)        # leaves the weights on disk

Notation and equations are those of `sampler`. The readings:
    of each feature    its cdf, two or three times (`tables`)
    of the features    once: u of every row into a nameless file beside the weights, 4 bytes a row
    of the mass        twice, for cgf: T (`mass`)
    of u               once: tau = H(T(u)) into the weights file, 8 bytes a row, and P = tau / sum tau in place
Sums run in the order of the rows, so the tables and every P are bit for bit those of `SwiftFit` in memory, whatever the
blocks and the number of cores. Memory: some blocks, and some 10 MB for tables.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers import PIECE, map_ahead, map_pieces
from drawstream.samplers.files import write_atomically
from drawstream.samplers.swift.columns import Blocks, columns_of, gradient_mass, require_mass
from drawstream.samplers.swift.fit import SwiftFit, requested_columns, require_coefficients
from drawstream.samplers.swift.knots import MAX_KNOTS, Knots
from drawstream.samplers.swift.mass import histogram_table
from drawstream.samplers.swift.sampler import SwiftParams, SwiftSampler, Transform, aggregate, heights, weight_sum
from drawstream.samplers.swift.tables import Pieces, cdf_of_pieces

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
        provenance: Of the sampler; JSON-able.

    Raises:
        DegenerateSampler: No row has positive weight.
        ValueError: As `SwiftFit`; a block is no such block, there are no rows, or a reading gave other rows.
    """
    names = requested_columns(features, mass, transform)
    require_coefficients(params, features)
    target = Path(out)
    few = _few_rows(blocks, names)
    if few is not None:
        fit = SwiftFit(few, features=features, mass=mass, transform=transform)
        sampler = fit.sampler(params, provenance=provenance)
        _write_weights(target, fit.rows, iter([sampler.score(few)]))
        return sampler
    tables = tuple(cdf_of_pieces(_column(blocks, name)) for name in features)
    rows = int(tables[0].counts[-1]) if tables[0].counts is not None else 0
    with tempfile.TemporaryFile(dir=target.parent) as file:
        low, high = _write_u(blocks, features, tables, params, file)
        u = np.memmap(file, np.float32, "r", shape=(rows,))
        balance = _balance(u, low, high, blocks, names[len(features) :])
        _write_weights(target, rows, _scored(u, balance, params))
    return SwiftSampler(tuple(features), params, transform, tables, balance, dict(provenance or {}))


def _few_rows(blocks: Blocks, names: Sequence[str]) -> dict[str, NDArray[np.float32]] | None:
    """Return the columns whole; None for so many rows that they have no exact tables."""
    read: list[list[NDArray[np.float32]]] = []
    for start, columns in columns_of(blocks, names):
        read.append(columns)
        if start + columns[0].size > MAX_KNOTS:
            return None
    if not sum(columns[0].size for columns in read):
        raise ValueError("at least one row is needed, but the blocks have none: give the table's parts")
    return {name: np.concatenate([columns[i] for columns in read]) for i, name in enumerate(names)}


def _column(blocks: Blocks, name: str) -> Pieces:
    """Return a function that reads one column."""
    return lambda: (values for _, (values,) in columns_of(blocks, [name]))


def score_blocks(blocks: Blocks, out: str | os.PathLike[str], sampler: SwiftSampler, /, *, rows: int) -> None:
    """Write P of every row by a sampler as it is, as `fit_blocks` writes it; one reading, which must give so many rows.

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


def _write_u(
    blocks: Blocks, features: Sequence[str], tables: Sequence[Knots], params: SwiftParams, file: BinaryIO
) -> tuple[float, float]:
    """Write u of every row; return its ends."""

    def work(block: tuple[int, list[NDArray[np.float32]]]) -> NDArray[np.float32]:
        return aggregate(np.stack([table.at(values) for table, values in zip(tables, block[1], strict=True)]), params)

    low, high = np.inf, -np.inf
    for u in map_ahead(work, columns_of(blocks, features)):
        low, high = min(low, float(u.min(initial=low))), max(high, float(u.max(initial=high)))
        file.write(u.data)
    file.flush()
    return low, high


def _balance(u: NDArray[np.float32], low: float, high: float, blocks: Blocks, mass: Sequence[str]) -> Knots:
    """Return T as `mass_table` makes it of all rows at once."""
    positions = np.empty(PIECE, np.int32)

    def pieces() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int32]]]:
        for start, weights in _masses(blocks, mass, u.size):
            yield u[start : start + weights.size], weights, positions[: weights.size]

    return histogram_table(low, high if high > low else low + 1, pieces, counted=not mass)[0]


def _masses(blocks: Blocks, mass: Sequence[str], rows: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the first row and the mass of pieces, float64; ones where rows are counted."""
    if not mass:
        yield from ((start, np.ones(min(PIECE, rows - start))) for start in range(0, rows, PIECE))
        return
    end, some = 0, False
    for start, (values,) in columns_of(blocks, mass):
        end = start + values.size
        if end > rows:
            break
        masses = gradient_mass(values, mass[0], start=start)
        some = some or bool(masses.any())
        yield from ((start + at, masses[at : at + PIECE]) for at in range(0, values.size, PIECE))
    if end != rows:
        raise ValueError(f"every reading must give the same rows, but {mass[0]!r} has other than {rows}")
    require_mass(some, mass[0], rows)


def _scored(u: NDArray[np.float32], balance: Knots, params: SwiftParams) -> Iterator[NDArray[np.float64]]:
    """Yield the heights tau of pieces of u."""

    def work(start: int) -> NDArray[np.float64]:
        piece = u[start : start + PIECE]
        return heights(piece, balance.positions(piece), balance, params)

    return map_ahead(work, range(0, u.size, PIECE))


def _write_weights(target: Path, rows: int, pieces: Iterator[NDArray[np.float64]]) -> None:
    """Write tau, then P = tau / sum tau in place; under a temporary name, renamed when whole."""
    with write_atomically(target) as temporary:
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (rows,)})
            for tau in pieces:  # written, not mapped: a full disk is an error here, not the end of the process
                file.write(tau.data)
        tau = np.asarray(np.load(temporary, mmap_mode="r+"))
        total = weight_sum(tau)
        map_pieces(tau.size, lambda start, stop: np.divide(tau[start:stop], total, out=tau[start:stop]))
