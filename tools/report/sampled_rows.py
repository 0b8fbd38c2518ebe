"""Effect of a sampler on its rows: shares, the feature plane, percentiles, class marginals.

Notation
    N   rows;  P float64 (N,), sums to 1;  ratio = N P, so 1 everywhere for uniform
    F   cdf of a feature over the rows, #{f <= value} / N, in (0, 1]
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.samplers import effective_sample_size
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools.report.left_out import naming
from drawstream.tools.report.records import SearchRecord

Floats = NDArray[np.float64]
PAPER = ("loss", "entropy")  # the axes of Fig. 1 of the Swift Sampler paper


@dataclass(frozen=True, slots=True, eq=False)
class SampledRows:
    """A search's sampler over the rows of its feature table."""

    catalog: Catalog  # the data
    table: FeatureTable  # the rows
    sampler: SwiftSampler  # the map from features to probabilities
    ratio: Floats  # N P, float64 (N,)
    label: NDArray[Any]  # of each row as the training sees it, of the catalog's kind: of classes int64 (N,)
    clean: NDArray[np.int64] | None  # true class, int64 (N,); None if it is not known

    @classmethod
    def open(cls, record: SearchRecord, /) -> Self:
        """Open the files that a search names and score its rows.

        Raises:
            ValueError: A file is missing or damaged, or they do not belong together.
        """
        with naming(record.path):
            catalog = Catalog.open(record.catalog, classes="union")
            table = FeatureTable.open(record.features, join=record.join, catalog=catalog)
            sampler = SwiftSampler.load(record.sampler)
            probabilities = sampler.probabilities(table.columns(*sampler.features))
        clean = None if catalog.clean_label is None else catalog.clean_label[table.sample_id]
        label = table.label if catalog.label_kind == "class" else catalog.label[table.sample_id]
        return cls(catalog, table, sampler, probabilities * len(table), label, clean)

    @property
    def noisy(self) -> NDArray[np.bool_] | None:
        """True for a wrong label, bool (N,); None if true labels are not known."""
        return None if self.clean is None else self.label != self.clean

    @property
    def effective_rows(self) -> float:
        """Kish's effective sample size, rows."""
        return effective_sample_size(self.ratio)

    @property
    def zero_share(self) -> float:
        """Share of rows that are never drawn."""
        return float((self.ratio == 0).mean())

    @property
    def noise(self) -> tuple[float, float] | None:
        """Share of wrong labels among the rows, and among the draws; None if true labels are not known."""
        noisy = self.noisy
        if noisy is None:
            return None
        return float(noisy.mean()), float(self.ratio[noisy].sum() / self.ratio.sum())

    def marginals(self) -> tuple[Floats, Floats]:
        """Share of each class among the rows and among the draws, float64 (classes,) each, by label as trained.

        Of several classes of a row: the share of rows that have it. Values have none.
        """
        classes = self.catalog.num_classes
        if self.catalog.label_kind == "multi":
            return self.label.mean(0), self.ratio @ self.label / self.ratio.sum()
        before = np.bincount(self.label, minlength=classes)
        after = np.bincount(self.label, self.ratio, minlength=classes)
        return before / before.sum(), after / after.sum()

    def axes(self) -> tuple[str, ...]:
        """Features to draw over: loss and entropy if the table has them, else the sampler's own; at most two."""
        known = [*PAPER, *(name for name in self.sampler.features if name not in PAPER)]
        return tuple(name for name in known if name in self.table.names)[:2]

    def bins(self, name: str, count: int) -> NDArray[np.int64]:
        """Number of the bin of F, of `count` equal ones in (0, 1] that include their upper ends, int64 (N,)."""
        values = self.table.columns(name)[name]
        ranks = np.searchsorted(np.sort(values), values, side="right")  # N F, exact
        return (ranks * count - 1) // len(values)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Rows over the cells of a plane of two ranks; row index: second feature."""

    names: tuple[str, str]  # features along x and y
    edges: Floats  # cell boundaries on both axes, float64 (cells + 1,)
    rows: NDArray[np.int64]  # number of rows, int64 (cells, cells)
    ratio: Floats  # mean N P, NaN in a cell without rows
    noisy: Floats | None  # share of wrong labels, NaN in a cell without rows; None if true labels are not known


def plane(sampling: SampledRows, x: str, y: str, /) -> Plane:
    """Return the sampler over the plane of two features' cdfs, with about 10 rows a cell."""
    cells = int(np.clip(np.sqrt(len(sampling.ratio) / 10), 6, 25))
    where = sampling.bins(y, cells) * cells + sampling.bins(x, cells)
    rows, ratio = _bin_means(where, sampling.ratio, cells * cells)
    noisy = None if sampling.noisy is None else _bin_means(where, sampling.noisy, cells * cells)[1]
    shape = (cells, cells)
    return Plane(
        names=(x, y),
        edges=np.linspace(0, 1, cells + 1),
        rows=rows.reshape(shape),
        ratio=ratio.reshape(shape),
        noisy=None if noisy is None else noisy.reshape(shape),
    )


def by_percentile(sampling: SampledRows, name: str, /) -> tuple[Floats, Floats]:
    """Return mean N P in bins of equal width in the percentile of a feature: bin centres in per cent, and means."""
    bins = 50 if len(sampling.ratio) >= 5000 else 20
    rows, means = _bin_means(sampling.bins(name, bins), sampling.ratio, bins)
    return ((np.arange(bins) + 0.5) * 100 / bins)[rows > 0], means[rows > 0]


def _bin_means(where: NDArray[np.int64], values: NDArray[Any], bins: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the number of rows in each bin, and the mean of their values; NaN in an empty bin."""
    rows = np.bincount(where, minlength=bins)
    total = np.bincount(where, values.astype(np.float64), minlength=bins)
    return rows, np.divide(total, rows, out=np.full(bins, np.nan), where=rows > 0)
