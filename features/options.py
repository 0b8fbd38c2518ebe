"""Options of an extraction, and the provenance that a table keeps of them."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from drawstream.features.crops import Crops
from drawstream.features.custom import MeasureFunction, hash_source, name_measure
from drawstream.features.measures import GradNorm, chosen_measures
from drawstream.pipeline import RowFilter, default_transform
from drawstream.pipeline.images import Backend, Transform, choose_backend
from drawstream.pipeline.shards import Catalog

Amp = Literal["off", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(amp: Amp, device: str, /) -> AbstractContextManager[object]:
    """Forward passes in half precision on a kind of device, `cpu` or `cuda`; nothing if it is off."""
    return nullcontext() if amp == "off" else torch.autocast(device, HALF[amp])


@dataclass(frozen=True, slots=True)
class Scoring:
    """The options of an extraction that decide its values; part of the provenance, and sent to other machines.

    Attributes:
        measures: Some of `MEASURES`, and functions of your own (see `custom`); None: all names that the number of
            classes allows.
        grad_norm: `last`: over the last linear layer; `logit`: over the logits; `full`: over all parameters.
        head: Name of the last linear layer; None: the one whose output the logits are.
        crops: Random crops to score instead of the whole image; a number K stands for `Crops(K)`.
        transform: Preprocessing; None: the whole small image, or ImageNet's centre crop. Crops take its size and
            normalisation, and their law from its `scale` and `ratio`.
        batch_size: Images per forward pass; 256 fills a GPU, and a CPU is no faster with more.
        amp: Forward passes under autocast to bfloat16 or float16; measures are float32 all the same.
        channels_last: Memory format of model and images.
        grad_memory: Bytes that the gradients of `full` may take at once; 256 MiB are 300 rows of a small CNN.
        device: Where the loader and the model run.
        backend: What decodes, see `Loader`; None: what is installed.
        embedding: Also keep the input of the last linear layer, see `FeatureTable.embedding`.
        where: Condition on the samples that are scored (`pipeline.row_filter`), over the catalog's columns; None: all.
    """

    measures: Sequence[str | MeasureFunction] | None = None
    grad_norm: GradNorm = "last"
    head: str | None = None
    crops: Crops | int | None = None
    transform: Transform | None = None
    batch_size: int = 256
    amp: Amp = "off"
    channels_last: bool = False
    grad_memory: int = 1 << 28
    device: Literal["cpu", "gpu"] = "cpu"
    backend: Backend | None = None
    where: str | None = None
    embedding: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", choose_backend(self.backend))
        if self.grad_norm not in ("last", "logit", "full"):
            raise ValueError(f"`grad_norm` must be last, logit or full, but got {self.grad_norm!r}")
        if self.amp not in ("off", *HALF):
            raise ValueError(f"`amp` must be off, bf16 or fp16, but got {self.amp!r}")
        if self.grad_norm == "full" and self.amp != "off":
            raise ValueError(f"`full` gradient norms need float32 throughout, but `amp` is {self.amp}: turn it off")
        if self.grad_memory < 1:
            raise ValueError(f"`grad_memory >= 1` must hold, but got {self.grad_memory}")
        if isinstance(self.crops, int):
            object.__setattr__(self, "crops", Crops(self.crops))
        if self.measures is not None:
            object.__setattr__(self, "measures", tuple(self.measures))
            if len(self.functions) < len({each for each in self.measures if not isinstance(each, str)}):
                raise ValueError(f"two measures have one name, of {', '.join(self.functions)}: write a `def` for each")

    @property
    def rows_per_sample(self) -> int:
        """Rows of the table for each sample of the catalog."""
        return self.crops.count if isinstance(self.crops, Crops) else 1

    @property
    def functions(self) -> dict[str, MeasureFunction]:
        """The measures that are the user's own, by name."""
        return {name_measure(each): each for each in self.measures or () if not isinstance(each, str)}

    def on(self, catalog: Catalog, /) -> "Resolved":
        """The same with what depends on the catalog filled in.

        Raises:
            ValueError: A measure is unknown, is no function, or is not defined for these labels; or there is none.
        """
        named = None if self.measures is None else [each for each in self.measures if isinstance(each, str)]
        if not self.functions:
            catalog.require_labels("scoring without measures of your own")
        names = chosen_measures(named, catalog.num_classes, catalog.label_kind)
        transform = self.transform or default_transform(catalog, train=False)
        crops = Crops(self.crops) if isinstance(self.crops, int) else self.crops
        return Resolved(self, names, self.functions, transform, crops)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A scoring on one catalog.

    Attributes:
        options: What was asked for.
        names: Of the built-in measures.
        functions: Own measures by name.
        transform: The preprocessing, that of the catalog where none was asked for.
        crops: The crops of each image; None for whole images.
    """

    options: Scoring
    names: tuple[str, ...]
    functions: Mapping[str, MeasureFunction]
    transform: Transform
    crops: Crops | None

    @property
    def grad_norm(self) -> GradNorm | None:
        """The mode, where the gradient norm is wanted at all."""
        return self.options.grad_norm if "grad_norm" in self.names else None


def provenance(catalog: Catalog, model: nn.Module, scoring: Scoring, /, *, model_name: str) -> dict[str, Any]:
    """Return a table's provenance, JSON-able: catalog, model, its weights, and every option that decides a value."""
    resolved = scoring.on(catalog)
    other: dict[str, Any] = (
        {} if scoring.backend == "dali" else {"backend": scoring.backend}
    )  # older tables have no such entry
    other |= {} if scoring.where is None else {"where": RowFilter.parse(scoring.where).text}
    other |= {"embedding": True} if scoring.embedding else {}
    other |= {} if catalog.label_kind == "class" else {"label_kind": catalog.label_kind}
    return {
        "catalog": catalog.fingerprint,
        "parts": len(catalog.shards),
        "model": model_name,
        "weights": weights_hash(model),
        "transform": resolved.transform.as_dict(),
        "crops": asdict(resolved.crops) if resolved.crops else None,
        "grad_norm": resolved.grad_norm,
        "grad_memory": scoring.grad_memory if resolved.grad_norm == "full" else None,
        "head": scoring.head,
        "measures": list(resolved.names),
        "functions": {name: hash_source(function) for name, function in resolved.functions.items()},
        "batch_size": scoring.batch_size,
        "amp": scoring.amp,
        "channels_last": scoring.channels_last,
        "device": scoring.device,
        **other,
    }


def weights_hash(model: nn.Module, /) -> str:
    """Hash over names and values of all parameters and buffers, 32 hex digits."""
    return state_hash(model.state_dict())


def state_hash(state: Mapping[str, Tensor], /) -> str:
    """Hash over names and values of a state dict, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
