"""Score every sample once: model over shards, one part per shard; a killed extraction goes on where it was."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features.measures import GradNorm, HeadInput, chosen_measures, measure
from drawstream.features.table import (
    FeatureTable,
    part_path,
    read_provenance,
    remove_abandoned,
    require_same,
    write_part,
)
from drawstream.pipeline import Catalog, Loader, Transform
from drawstream.pipeline.loader import default_transform
from drawstream.samplers import Sequential


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an extraction is: rows scored so far (with those found from before) of all rows."""

    done: int
    rows: int


def extract(
    catalog: Catalog,
    model: nn.Module,
    out: Path,
    /,
    *,
    model_name: str,
    transform: Transform | None = None,
    measures: Sequence[str] | None = None,
    grad_norm: GradNorm = "last",
    batch_size: int = 256,
    device: Literal["cpu", "gpu"] = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> FeatureTable:
    """Write the feature table of a catalog, one Parquet part per shard.

    Parts that are there from a run with the same provenance are kept; each batch lies within one shard, so the parts of
    a resumed run have the same bytes as those of an undisturbed one.

    Args:
        catalog: The samples to score.
        model: Gives logits (n, classes); it is put into evaluation mode and moved to `device`.
        out: Folder of the table, made where missing.
        model_name: How the model was named by the user; part of the provenance.
        transform: Preprocessing; by default the whole small image, or ImageNet's centre crop.
        measures: Some of `MEASURES`; by default all that the number of classes allows.
        grad_norm: `last`: over the last linear layer; `logit`: over the logits.
        batch_size: Images per forward pass.
        device: Where the loader and the model run.
        progress: Called after each batch.

    Raises:
        ValueError: The model gives another number of classes or values that are not finite, or `out` holds parts of
            another extraction.
    """
    if grad_norm not in ("last", "logit"):
        raise ValueError(f"`grad_norm` must be last or logit, but got {grad_norm!r}")
    names = chosen_measures(measures, catalog.num_classes)
    transform = transform or default_transform(catalog, train=False)
    provenance: dict[str, Any] = {
        "catalog": catalog.fingerprint,
        "parts": len(catalog.shards),
        "model": model_name,
        "weights": weights_hash(model),
        "transform": transform.as_dict(),
        "grad_norm": grad_norm if "grad_norm" in names else None,
        "measures": list(names),
    }
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    finished = {shard for shard in range(len(catalog.shards)) if _is_done(part_path(out, shard), provenance)}
    done = sum(_count(catalog, shard) for shard in finished)
    model = model.to("cuda" if device == "gpu" else "cpu").eval()
    loader: Loader | None = None
    try:
        for shard in sorted(set(range(len(catalog.shards))) - finished):
            start, stop = catalog.shard_rows(shard)
            columns = {name: [torch.empty(0)] for name in names}
            if stop > start:  # an indexed shard may be empty
                rows = Sequential(start, stop)
                loader = loader or Loader(catalog, rows, transform=transform, batch_size=batch_size, device=device)
                loader.replace_stream(rows)
                for scored, count in _score(model, loader, names, grad_norm):
                    for name, values in scored.items():
                        columns[name].append(values)
                    done += count
                    if progress:
                        progress(Progress(done, len(catalog)))
            arrays = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
            _require_finite(arrays, start, catalog)
            write_part(part_path(out, shard), {**_fixed(catalog, start, stop), **arrays}, provenance)
    finally:
        if loader is not None:
            loader.close()
    return FeatureTable.open(out)


@torch.inference_mode()
def _score(
    model: nn.Module, loader: Loader, names: tuple[str, ...], mode: GradNorm
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Measures of each batch of the loader, on the CPU, and its number of rows."""
    with HeadInput(model) as head:
        for batch in loader:
            logits = model(batch.images)
            require_classes(logits, loader.catalog)
            h, bias = head.of(logits) if mode == "last" and "grad_norm" in names else (None, False)
            scored = measure(logits, batch.labels, h, names, bias=bias)
            yield {name: values.cpu() for name, values in scored.items()}, len(batch.labels)


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


def _is_done(part: Path, provenance: Mapping[str, Any]) -> bool:
    if not part.exists():
        return False
    require_same(read_provenance(part), provenance, part)
    return True


def _count(catalog: Catalog, shard: int) -> int:
    start, stop = catalog.shard_rows(shard)
    return stop - start


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
