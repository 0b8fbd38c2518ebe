"""One model over the shards of a catalog: the columns of a part, and what they were made with.

    Scoring (options) ─┬─▶ ShardScorer.score(shard) ──columns──▶ write_part
                       └─▶ provenance ─────────────────────────▶ its metadata

A scorer holds a loader and a model; whoever has a catalog, a model and the same `Scoring` makes the same columns, in
this process or on another machine.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features.measures import GradNorm, HeadInput, chosen_measures, measure
from drawstream.pipeline import Catalog, Loader, Transform
from drawstream.pipeline.loader import default_transform
from drawstream.samplers import Sequential


@dataclass(frozen=True, slots=True)
class Scoring:
    """The options of an extraction that decide its values; part of the provenance, and sent to other machines.

    Attributes:
        measures: Some of `MEASURES`; None: all that the number of classes allows.
        grad_norm: `last`: over the last linear layer; `logit`: over the logits.
        transform: Preprocessing; None: the whole small image, or ImageNet's centre crop.
        batch_size: Images per forward pass; 256 fills a GPU, and a CPU is no faster with more.
        device: Where the loader and the model run.
    """

    measures: tuple[str, ...] | None = None
    grad_norm: GradNorm = "last"
    transform: Transform | None = None
    batch_size: int = 256
    device: Literal["cpu", "gpu"] = "cpu"

    def __post_init__(self) -> None:
        if self.grad_norm not in ("last", "logit"):
            raise ValueError(f"`grad_norm` must be last or logit, but got {self.grad_norm!r}")

    def on(self, catalog: Catalog) -> Self:
        """The same with the defaults that depend on the catalog filled in.

        Raises:
            ValueError: A measure is unknown, or not defined for this number of classes.
        """
        return replace(
            self,
            measures=chosen_measures(self.measures, catalog.num_classes),
            transform=self.transform or default_transform(catalog, train=False),
        )


def provenance(catalog: Catalog, model: nn.Module, scoring: Scoring, /, *, model_name: str) -> dict[str, Any]:
    """What made a table, JSON-able: catalog, model with its weights, and every option that decides a value."""
    scoring = scoring.on(catalog)
    assert scoring.transform is not None and scoring.measures is not None
    return {
        "catalog": catalog.fingerprint,
        "parts": len(catalog.shards),
        "model": model_name,
        "weights": weights_hash(model),
        "transform": scoring.transform.as_dict(),
        "grad_norm": scoring.grad_norm if "grad_norm" in scoring.measures else None,
        "measures": list(scoring.measures),
        "batch_size": scoring.batch_size,
        "device": scoring.device,
    }


class ShardScorer:
    """Scores shards one by one; the loader and its graph are made once and serve all of them.

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
        """Put the model into evaluation mode, on the device of the scoring; `threads` are DALI's, by default all cores.

        Raises:
            ValueError: A measure is unknown, or not defined for this number of classes.
        """
        self._catalog = catalog
        self._scoring = scoring.on(catalog)
        self._model = model.to(f"cuda:{device_id}" if scoring.device == "gpu" else "cpu").eval()
        self._device_id, self._threads = device_id, threads
        self._loader: Loader | None = None

    def score(self, shard: int, /, *, on_batch: Callable[[int], None] | None = None) -> dict[str, NDArray[Any]]:
        """All columns of a shard's part, arrays of equal length, rows in the order of the catalog.

        Args:
            shard: Number of the shard.
            on_batch: Called with the number of rows after each batch.

        Raises:
            ValueError: The model gives another number of classes, or values that are not finite.
            BadSampleError: An image is damaged or does not decode.
        """
        start, stop = self._catalog.shard_rows(shard)
        names = self._scoring.measures
        assert names is not None
        columns = {name: [torch.empty(0)] for name in names}
        if stop > start:  # an indexed shard may be empty
            for scored, count in self._batches(Sequential(start, stop), names):
                for name, values in scored.items():
                    columns[name].append(values)
                if on_batch:
                    on_batch(count)
        arrays = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
        _require_finite(arrays, start, self._catalog)
        return {**_fixed(self._catalog, start, stop), **arrays}

    def close(self) -> None:
        """Stop the loader."""
        if self._loader is not None:
            self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @torch.inference_mode()
    def _batches(self, rows: Sequential, names: tuple[str, ...]) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Measures of each batch, on the CPU, and its number of rows."""
        scoring = self._scoring
        with HeadInput(self._model) as head:
            for batch in self._reading(rows):
                logits = self._model(batch.images)
                require_classes(logits, self._catalog)
                wanted = scoring.grad_norm == "last" and "grad_norm" in names
                h, bias = head.of(logits) if wanted else (None, False)
                scored = measure(logits, batch.labels, h, names, bias=bias)
                yield {name: values.cpu() for name, values in scored.items()}, len(batch.labels)

    def _reading(self, rows: Sequential) -> Loader:
        """The loader, over these rows."""
        scoring = self._scoring
        if self._loader is None:
            self._loader = Loader(
                self._catalog,
                rows,
                transform=scoring.transform,
                batch_size=scoring.batch_size,
                device=scoring.device,
                device_id=self._device_id,
                threads=self._threads,
            )
        self._loader.replace_stream(rows)
        return self._loader


def require_classes(logits: Tensor, catalog: Catalog) -> None:
    """Refuse a model whose logits are not one per class of the catalog.

    Raises:
        ValueError: Another shape; both are shown.
    """
    if logits.ndim != 2 or logits.shape[1] != catalog.num_classes:
        raise ValueError(
            f"the model gives logits of shape {tuple(logits.shape)}, but {catalog.path} has {catalog.num_classes} "
            f"classes: build the model for {catalog.num_classes} classes"
        )


def weights_hash(model: nn.Module, /) -> str:
    """Hash over names and values of all parameters and buffers, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fixed(catalog: Catalog, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Columns that do not come from the model."""
    return {
        "sample_id": np.arange(start, stop, dtype=np.int64),
        "crop": np.zeros(stop - start, np.int32),
        "label": catalog.label[start:stop],
    }


def _require_finite(arrays: Mapping[str, NDArray[Any]], start: int, catalog: Catalog) -> None:
    for name, values in arrays.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row = start + int(bad[0])
            raise ValueError(
                f"feature {name!r} is {values[bad[0]]} for sample {catalog.key(row)!r} (row {row}), and not finite for "
                f"{len(bad)} rows of its shard: the model's weights or the preprocessing are wrong"
            )
