"""Effect of a sampler on its rows: shares, the feature plane, percentiles, class marginals.

Notation
    N   rows;  P float64 (N,), sums to 1;  ratio = N P, so 1 everywhere for uniform
    F   cdf of a feature over the rows, #{f <= value} / N, in (0, 1]
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.features import FeatureTable
from drawstream.pipeline import Catalog
from drawstream.samplers import SwiftSampler, effective_sample_size
from drawstream.samplers.files.system import raise_unless_file
from drawstream.tools.report.records import SearchRecord

Floats = NDArray[np.float64]
PAPER = ("loss", "entropy")  # the axes of Fig. 1 of the Swift Sampler paper


@dataclass(frozen=True, slots=True, eq=False)
class SampledRows:
    """A search's sampler over the rows of its feature table.

    Attributes:
        catalog: The data.
        table: The rows.
        sampler: The map from features to probabilities.
        ratio: N P, float64 (N,).
        label: Class of each row as the training sees it, int64 (N,).
        clean: True class, int64 (N,); None where it is not known.
    """

    catalog: Catalog
    table: FeatureTable
    sampler: SwiftSampler
    ratio: Floats
    label: NDArray[np.int64]
    clean: NDArray[np.int64] | None

    @classmethod
    def open(cls, record: SearchRecord, /) -> Self:
        """Open what a search names and score its rows.

        Raises:
            ValueError: A file is missing or damaged, or they do not belong together.
        """
        try:
            catalog = Catalog.open(record.catalog)
            table = FeatureTable.open(record.features, join=record.join, catalog=catalog)
            sampler = SwiftSampler.load(record.sampler)
            probabilities = sampler.probabilities(table.columns(*sampler.features))
        except OSError as error:
            raise_unless_file(error, record.path)
            raise ValueError(f"{record.path}: a file that it names cannot be read: {error}") from None
        except ValueError as error:
            raise ValueError(f"{record.path}: {error}") from None
        clean = None if catalog.clean_label is None else catalog.clean_label[table.sample_id]
        return cls(catalog, table, sampler, probabilities * len(table), table.label, clean)

    @property
    def noisy(self) -> NDArray[np.bool_] | None:
        """Whether the label of a row is wrong, bool (N,); None where that is not known."""
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
    def noisy_before(self) -> float | None:
        """Share of rows with a wrong label: what uniform sampling draws."""
        return None if self.noisy is None else float(self.noisy.mean())

    @property
    def noisy_after(self) -> float | None:
        """Share of the draws with a wrong label under the sampler."""
        return None if self.noisy is None else float(self.ratio[self.noisy].sum() / self.ratio.sum())

    def marginals(self) -> tuple[Floats, Floats]:
        """Share of each class among the rows and among the draws, float64 (classes,) each, by label as trained."""
        classes = self.catalog.num_classes
        before = np.bincount(self.label, minlength=classes)
        after = np.bincount(self.label, self.ratio, minlength=classes)
        return before / before.sum(), after / after.sum()

    def axes(self) -> tuple[str, ...]:
        """Features to draw over: loss and entropy where the table has them, else the sampler's own; at most two."""
        known = [*PAPER, *(name for name in self.sampler.features if name not in PAPER)]
        return tuple(name for name in known if name in self.table.names)[:2]

    def bins(self, name: str, count: int) -> NDArray[np.int64]:
        """Which of `count` equal parts of (0, 1] holds F of a feature, int64 (N,); their upper ends included."""
        values = self.table.columns(name)[name]
        ranks = np.searchsorted(np.sort(values), values, side="right")  # N F, exact
        return (ranks * count - 1) // len(values)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Rows over the cells of a plane of two ranks; row index: second feature.

    Attributes:
        names: Features along x and y.
        edges: Cell boundaries on both axes, float64 (cells + 1,).
        rows: Number of rows, int64 (cells, cells).
        ratio: Mean N P, NaN where there is no row.
        noisy: Share of wrong labels, NaN where there is no row; None where true labels are not known.
    """

    names: tuple[str, str]
    edges: Floats
    rows: NDArray[np.int64]
    ratio: Floats
    noisy: Floats | None


def plane(sampling: SampledRows, x: str, y: str, /) -> Plane:
    """The sampler over the plane of two features' cdfs; about 10 rows a cell if they were spread evenly."""
    cells = int(np.clip(np.sqrt(len(sampling.ratio) / 10), 6, 25))
    column, row = sampling.bins(x, cells), sampling.bins(y, cells)
    where = row * cells + column
    rows = np.bincount(where, minlength=cells * cells)

    def average(values: NDArray[Any]) -> Floats:
        total = np.bincount(where, values.astype(np.float64), minlength=cells * cells)
        mean = np.divide(total, rows, out=np.full(rows.size, np.nan), where=rows > 0)
        return np.reshape(mean, (cells, cells))

    noisy = None if sampling.noisy is None else average(sampling.noisy)
    edges = np.linspace(0, 1, cells + 1)
    return Plane((x, y), edges, rows.reshape(cells, cells), average(sampling.ratio), noisy)


def by_percentile(sampling: SampledRows, name: str, /) -> tuple[Floats, Floats]:
    """Mean N P in bins of equal width in the percentile of a feature: bin centres in per cent, and means."""
    bins = 50 if len(sampling.ratio) >= 5000 else 20
    where = sampling.bins(name, bins)
    rows = np.bincount(where, minlength=bins)
    total = np.bincount(where, sampling.ratio, minlength=bins)
    seen = rows > 0
    return ((np.arange(bins) + 0.5) * 100 / bins)[seen], total[seen] / rows[seen]
