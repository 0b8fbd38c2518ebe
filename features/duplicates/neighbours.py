"""Rows whose embeddings point the same way.

Notation
    u_i     embedding of row i divided by its length, float32 (D,); a row of length 0 stays 0
    t       threshold in (0, 1]; rows i and j are near where u_i · u_j >= t

`exact` multiplies blocks of rows with all later ones, N² D operations. `faiss` looks among the rows of the nearest
cells of a k-means clustering (`IndexIVFFlat` of faiss, an extra): near rows lie in the same cells or in neighbouring
ones. Near rows are joined while they are found, so memory does not grow with the number of pairs.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

__all__ = ["EXACT_ROWS", "Search", "cosine_pairs"]

Search = Literal["auto", "exact", "faiss"]
EXACT_ROWS = 200_000  # rows up to which `auto` compares all with all
_TALL, _WIDE = 1024, 4096  # of a block of cosines: 16 MiB
_ASKED = 16384  # rows that faiss is asked for at once
_CELLS = 4  # cells, times √N; faiss advises 4 to 16
_PROBED = 32  # cells that are looked through
_PER_CELL = 50  # rows that the clustering learns from

Pairs = NDArray[np.int64]  # (p, 2)
Join = Callable[[NDArray[np.int64], NDArray[np.int64]], None]


def cosine_pairs(embeddings: NDArray[Any], threshold: float, /, *, search: Search = "auto") -> Pairs:
    """Return pairs that join near rows, directly or through others; at most one for each row, int64 (p, 2).

    Args:
        embeddings: float16 or float32 (rows, D), finite; may be mapped.
        threshold: t.
        search: `exact`; `faiss`; or `auto`, exact for up to 200 000 rows and faiss for more.

    Raises:
        ValueError: Embeddings are not finite, or faiss is wanted and not installed.
    """
    rows, parents = len(embeddings), np.arange(len(embeddings))
    use = ("exact" if rows <= EXACT_ROWS else "faiss") if search == "auto" else search
    if use == "faiss" and importlib.util.find_spec("faiss") is None:
        raise ValueError(
            f"near rows among {rows:,} embeddings are found by faiss, which is not installed: "
            "`pip install 'drawstream[faiss]'`, or compare all with all (search 'exact')"
        )
    units = _units(embeddings)

    def join(first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        unite(parents, first, second)

    (_join_exact if use == "exact" else _join_by_faiss)(units, threshold, join)
    settle(parents)
    joined = np.flatnonzero(parents != np.arange(rows))
    return np.stack([parents[joined], joined], 1)


def _units(embeddings: NDArray[Any]) -> torch.Tensor:
    """u, float32 (rows, D)."""
    units = torch.empty(embeddings.shape, dtype=torch.float32)
    for at in range(0, len(embeddings), _ASKED):
        block = torch.from_numpy(np.array(embeddings[at : at + _ASKED], np.float32))
        if not bool(torch.isfinite(block).all()):
            raise ValueError(f"embeddings must be finite, but one of rows {at} to {at + len(block) - 1} is not")
        torch.nn.functional.normalize(block, out=units[at : at + len(block)])
    return units


def _join_exact(units: torch.Tensor, threshold: float, join: Join) -> None:
    """Join by all cosines above the diagonal, block by block."""
    room = torch.empty(_TALL * _WIDE)
    for top in range(0, len(units), _TALL):
        rows = units[top : top + _TALL]
        for left in range(top, len(units), _WIDE):
            others = units[left : left + _WIDE]
            cosines = room[: len(rows) * len(others)].view(len(rows), len(others))
            torch.mm(rows, others.T, out=cosines)
            near = torch.nonzero(cosines.amax(1) >= threshold)[:, 0]  # hardly any row has a neighbour elsewhere
            at, of = torch.nonzero(cosines[near] >= threshold, as_tuple=True)
            join((near[at] + top).numpy(), (of + left).numpy())


def _join_by_faiss(units: torch.Tensor, threshold: float, join: Join) -> None:
    """Join by the cosines with the rows of the nearest cells."""
    faiss = importlib.import_module("faiss")
    x = units.numpy()
    rows, wide = x.shape
    cells = max(1, min(round(_CELLS * math.sqrt(rows)), rows // _PER_CELL))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(wide), wide, cells, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(rows, min(rows, cells * _PER_CELL), replace=False)
    index.train(x[np.sort(sample)])
    index.add(x)
    index.nprobe = min(_PROBED, cells)
    for at in range(0, rows, _ASKED):
        bounds, _, found = index.range_search(x[at : at + _ASKED], float(np.nextafter(np.float32(threshold), -1)))
        join(np.repeat(np.arange(len(bounds) - 1) + at, np.diff(bounds.astype(np.int64))), found.astype(np.int64))


@njit(cache=True, nogil=True)
def root(parents: NDArray[np.int64], row: int) -> int:
    """First row of a row's group; halves the path to it."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(cache=True, nogil=True)
def unite(parents: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
    """Join the groups of pairs of rows, first (p,) and second (p,)."""
    for i in range(first.size):
        a, b = root(parents, first[i]), root(parents, second[i])
        if a != b:
            parents[max(a, b)] = min(a, b)


@njit(cache=True, nogil=True)
def settle(parents: NDArray[np.int64]) -> None:
    """Let every row point at the first one of its group."""
    for row in range(parents.size):
        parents[row] = root(parents, row)
