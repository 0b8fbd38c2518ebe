"""One model over the shards of a catalog, in the same way in this process and on another machine.

Scoring (options) ─┬─▶ ShardScorer.score(shard) ──columns──▶ write_part
└─▶ provenance ─────────────────────────▶ its metadata
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features.crops import CropRows
from drawstream.features.custom import measure_batch
from drawstream.features.grad_norm import HeadInput, full_grad_norms
from drawstream.features.options import Scoring, autocast
from drawstream.pipeline import Batch, Loader, RowFilter, catalog_columns
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog
from drawstream.samplers import digest_array
from drawstream.samplers.orders import Sequential

EMBEDDING = "embedding"  # among the columns of a shard: float16 (rows, D)


class ShardScorer:
    """Scores shards one by one; the loader and its graph are made once and serve all of them.

    Whoever has a catalog, a model and the same `Scoring` makes the same columns.

    >>> scorer = ShardScorer(catalog, model, Scoring())
    >>> write_part(part_path(out, 0), scorer.score(0), provenance(catalog, model, Scoring(), model_name="cnn"))
    >>> scorer.close()
    """

    def __init__(
        self,
        catalog: Catalog,
        model: nn.Module,
        scoring: Scoring,
        /,
        *,
        device_id: int = 0,
        threads: int | None = None,
    ) -> None:
        """Put the model into evaluation mode, on the device of the scoring.

        Args:
            catalog: What is scored.
            model: Gives logits (n, classes) of images (n, C, H, W).
            scoring: What to compute, of which pixels, and where.
            device_id: GPU.
            threads: DALI's; all cores of this process by default.

        Raises:
            ValueError: A measure is unknown, or not defined for this number of classes; the model has no such head; or
                there is no GPU.
        """
        if scoring.device == "gpu" and not torch.cuda.is_available():
            raise ValueError("`device` must be cpu, for torch sees no CUDA device, but got 'gpu'")
        self._catalog = catalog
        self._scoring = scoring.on(catalog)
        self._model = model.to(f"cuda:{device_id}" if scoring.device == "gpu" else "cpu").eval()
        if scoring.channels_last:
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._head = HeadInput(self._model, scoring.head)
        self._device_id, self._threads = device_id, threads
        self._each = scoring.rows_per_sample
        self._kept = kept_samples(catalog, scoring.where)
        self._loader: Loader | None = None

    def score(self, shard: int, /, *, on_batch: Callable[[int], None] | None = None) -> dict[str, NDArray[Any]]:
        """All columns of a shard's part, arrays of equal length; rows by sample, then by crop.

        Args:
            shard: Number of the shard.
            on_batch: Called with the number of rows after each batch.

        Raises:
            ValueError: The model gives another number of classes, values are not finite, or an own measure gives
                something else than one number per row.
            BadSampleError: An image is damaged or does not decode.
        """
        start, stop = self._bounds(shard)
        if start == stop:  # a part without rows has the columns of any other
            return {name: values[:0] for name, values in self.head(1).items()}
        return self._columns(start, stop, on_batch or (lambda _: None))

    def head(self, samples: int, /) -> dict[str, NDArray[Any]]:
        """All columns of the first samples that are scored, whatever shards they lie in; errors as `score`."""
        return self._columns(0, min(samples, self._samples), lambda _: None)

    @property
    def shards(self) -> int:
        """Shards of the catalog."""
        return len(self._catalog.shards)

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return self._samples * self._each

    def rows_of(self, shard: int, /) -> int:
        """Rows of a shard's part."""
        start, stop = self._bounds(shard)
        return (stop - start) * self._each

    @property
    def _samples(self) -> int:
        """Number of samples that are scored."""
        return len(self._catalog) if self._kept is None else len(self._kept)

    def _bounds(self, shard: int) -> tuple[int, int]:
        """Samples of a shard, half open, counted among those that are scored."""
        start, stop = self._catalog.shard_rows(shard)
        if self._kept is None:
            return start, stop
        first, last = np.searchsorted(self._kept, (start, stop))
        return int(first), int(last)

    def close(self) -> None:
        """Stop the loader."""
        if self._loader is not None:
            self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _columns(self, start: int, stop: int, on_batch: Callable[[int], None]) -> dict[str, NDArray[Any]]:
        """The columns of samples [start, stop) of those that are scored, at least one."""
        loader = self._reading(start, stop)
        scored: list[dict[str, Tensor]] = []
        scoring = self._scoring
        caught = scoring.grad_norm == "last" or scoring.functions or scoring.options.embedding
        watched = self._head if caught else nullcontext()
        with torch.inference_mode(self._scoring.grad_norm != "full"), torch.no_grad(), watched:
            for batch in loader:
                scored.append(self._measured(batch))
                _require_same_columns(scored)
                on_batch(len(batch.labels))
        features = {name: torch.cat([each[name] for each in scored]).cpu().numpy() for name in scored[0]}
        fixed = self._fixed(start, stop)
        _require_finite(features, fixed["sample_id"], self._catalog)
        return {**fixed, **features}

    def _measured(self, batch: Batch) -> dict[str, Tensor]:
        """All measures of a batch, each float32 (n,), where the model is."""
        scoring, full = self._scoring, self._scoring.grad_norm == "full"
        images = batch.images
        if scoring.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(scoring.options.amp, images.device.type):
            logits = self._model(images)
        require_classes(logits, self._catalog)
        plain = [name for name in scoring.names if not (name == "grad_norm" and full)]
        last = scoring.grad_norm == "last"
        found = measure_batch(logits, batch.labels, self._head, plain, scoring.functions, last=last)
        if full:
            found["grad_norm"] = full_grad_norms(self._model, images, batch.labels, memory=scoring.options.grad_memory)
        if scoring.options.embedding:
            if EMBEDDING in found:
                raise ValueError(
                    f"a measure of yours gives a column {EMBEDDING!r}, which `embedding` writes: rename it"
                )
            found[EMBEDDING] = self._embedding(logits)
        return {name: found.pop(name) for name in scoring.names} | found

    def _embedding(self, logits: Tensor) -> Tensor:
        """Input of the last linear layer, float16 (n, D)."""
        found = self._head.find(logits)
        if found is None:
            raise ValueError(
                "an embedding is the input of the last linear layer, but the logits are not its output: leave out "
                "`embedding`, or wrap the model"
            )
        return found[0].half()

    @cached_property
    def _table(self) -> "SomeSamples | CropRows | None":
        """The rows of the table, where they are crops or not all samples."""
        return self._crops if self._kept is None or self._crops is not None else SomeSamples(self._kept)

    @cached_property
    def _crops(self) -> CropRows | None:
        """The rows of the table, where they are crops."""
        crops = self._scoring.crops
        return CropRows(self._catalog, self._scoring.transform, crops, kept=self._kept) if crops else None

    def _reading(self, start: int, stop: int) -> Loader:
        """The loader, over these samples or their crops."""
        options = self._scoring.options
        rows = Sequential(start * self._each, stop * self._each)
        if self._loader is None:
            self._loader = Loader(
                self._catalog,
                rows,
                rows=self._table,
                transform=self._scoring.transform,
                batch_size=options.batch_size,
                device=f"gpu:{self._device_id}" if options.device == "gpu" else "cpu",
                backend=options.backend,
                reading=Reading(threads=self._threads),
            )
        self._loader.replace_stream(rows)
        return self._loader

    def _fixed(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Columns that do not come from the model."""
        if self._crops is not None:
            columns = self._crops.columns(start * self._each, stop * self._each)
        else:
            ids = np.arange(start, stop, dtype=np.int64) if self._kept is None else self._kept[start:stop]
            columns = {"sample_id": ids, "crop": np.zeros(stop - start, np.int32)}
        if self._catalog.label_kind != "class":  # a label is no column then
            return columns
        return {**columns, "label": self._catalog.label[columns["sample_id"]]}


@dataclass(frozen=True, slots=True, eq=False)
class SomeSamples:
    """Rows of a loader that are whole images of some samples.

    Attributes:
        sample_id: Rows of the catalog, int64 (rows,).
        windows: None: the whole images.
        flip: None: as they are.
    """

    sample_id: NDArray[np.int64]
    windows: None = None
    flip: None = None

    @property
    def fingerprint(self) -> str:
        """Says which samples these are."""
        return digest_array(self.sample_id)

    def check(self, fingerprint: str, where: str, /) -> None:
        """They belong to the catalog that they were chosen from."""


def kept_samples(catalog: Catalog, where: str | None, /) -> NDArray[np.int64] | None:
    """Return the samples for which a condition holds, int64, in order; None without one. Errors as `RowFilter`."""
    return None if where is None else np.flatnonzero(RowFilter.parse(where).mask(catalog_columns(catalog)))


def require_classes(logits: object, catalog: Catalog) -> None:
    """Refuse a model whose outputs are not one per class or value of the catalog; errors as `require_logits`."""
    sizes = logits.shape if isinstance(logits, Tensor) and logits.ndim == 2 else (0, 0)
    outputs = sizes[1] if catalog.label_kind == "none" else catalog.num_classes
    require_logits(logits, "the model", sizes[0], outputs, of=f"{catalog.path} has")


def require_logits(logits: object, what: str, rows: int, classes: int, /, *, of: str = "the data have") -> None:
    """Refuse what is no tensor of logits (rows, classes); `what` and `of` are the model and the data in messages.

    Raises:
        ValueError: Another type or another shape; both sides are shown.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{what} gives a {type(logits).__name__}, but must give one tensor of logits (images, classes): wrap it in "
            "a module that returns this tensor alone"
        )
    if logits.ndim != 2 or logits.shape[0] != rows or logits.shape[1] != classes:
        raise ValueError(
            f"{what} gives logits of shape {tuple(logits.shape)}, but {of} {classes} classes: build the model for "
            f"{classes} classes"
        )


def _require_finite(features: Mapping[str, NDArray[Any]], samples: NDArray[np.int64], catalog: Catalog) -> None:
    for name, values in features.items():
        finite = np.isfinite(values)
        bad = np.flatnonzero(~(finite.all(1) if values.ndim == 2 else finite))
        if len(bad):
            row = int(samples[bad[0]])
            if values.ndim == 2:
                raise ValueError(
                    f"the embedding of sample {catalog.key(row)!r} (row {row}) and of {len(bad) - 1} others is not "
                    "finite as float16, which ends at 65 504: leave out `embedding`, or scale the layer before the last"
                )
            raise ValueError(
                f"feature {name!r} is {values[bad[0]]} for sample {catalog.key(row)!r} (row {row}), and not finite for "
                f"{len(bad)} rows of its shard: the model's weights, the preprocessing or a measure of yours are wrong"
            )


def _require_same_columns(scored: Sequence[Mapping[str, Tensor]]) -> None:
    if scored[-1].keys() != scored[0].keys():
        raise ValueError(
            f"measures must give the same columns for every batch, but one got {', '.join(scored[-1])} after "
            f"{', '.join(scored[0])}"
        )
