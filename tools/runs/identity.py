"""Build the identity of a job: all that decides its result, and nothing else.

    in it       fingerprints of training, held-out and test rows; model and hash of its weights; recipe; global batch;
                augmentation, transform, mixing; what is drawn (stream, sampler, feature table); budget, method and its
                parameters; crop filter; objective; seeds
    not in it   device, backend (its pixels differ by rounding, as a device's do), threads, number of ranks, engine,
                workers, cache, prefetch, progress, paths

`drawstream.pipeline.identity` compares. Training from Python has the same identity as the command: `train` builds it
from its own arguments, and a job adds what those do not show (the model's name, the files behind the stream).
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from drawstream.features import code_identity, load_factory
from drawstream.pipeline import CropFilter, Loader, plain
from drawstream.pipeline.reading import read_quarantine
from drawstream.samplers import digest_array
from drawstream.tools.training import NO_EVALUATION, Evaluation, Recipe
from drawstream.tools.training.methods import NO_PARTS, LoopParts

_PLAIN = (bool, int, float, str, type(None))


def training_identity(
    model: nn.Module,
    loader: Loader | CropFilter,
    recipe: Recipe,
    /,
    *,
    parts: LoopParts = NO_PARTS,
    evaluation: Evaluation = NO_EVALUATION,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the identity of a training.

    Of the fresh model names and shapes count, its values follow from the seed; `about` are entries that a job adds.
    """
    made = {
        "recipe": recipe.settings(),
        **loader_identity(loader),
        **{name: held.catalog.fingerprint for name, held in evaluation.sets.items()},
        "every": evaluation.every,
        **evaluation.identity(),
        "select": evaluation.select,
        "tracked": parts.tracker is not None,
        "grand": True if parts.tracker is not None and parts.tracker.grand else None,
        "loss": _loss_identity(parts.criterion),
        "learner": part_identity(parts.learner),
        "selector": part_identity(parts.selector),
        "weighted": parts.weighted,
        "mixing": part_identity(parts.mix),
        "tensors": shapes_hash(model.state_dict()),
    }
    return plain(made | dict(about or {}))


def loader_identity(loader: Loader | CropFilter, /) -> dict[str, Any]:
    """Return what a loader's batches depend on: catalog, crops, stream, transform, crop filter and global batch."""
    source = loader.loader if isinstance(loader, CropFilter) else loader
    found = {name: value for name, value in loader.identity.items() if name != "format"}
    return {"global_batch": source.global_batch, **found}


def model_identity(spec: str, /) -> dict[str, Any]:
    """Return name of a model, and source and arguments of a factory of the user's own."""
    return {"model": spec, **named_identity("model", spec if not spec.startswith("timm:") else "")}


def named_identity(what: str, spec: str, /) -> dict[str, Any]:
    """Return source and arguments of what the user names as `module:factory`, as entries `WHAT_…`; else None.

    Raises:
        ValueError: As `load_factory`.
    """
    made = code_identity(load_factory(what, spec), spec) if ":" in spec else {}
    return {f"{what}_source": made.get("source"), f"{what}_arguments": made.get("arguments")}


def objective_identity(objective: Any, /, spec: str = "") -> dict[str, Any]:
    """Return what decides an objective's scores; `spec` is the `module:function` that names it, if any.

    An object with an `identity` says it itself, as fine-tuning does; of others it is their code.
    """
    own = getattr(objective, "identity", None)
    return plain(own) if isinstance(own, Mapping) else {"objective": code_identity(objective, spec)}


def part_identity(part: Any, /) -> dict[str, Any] | None:
    """Return name and settings of a learner, selector or mixing before its first step; of the user's own the source."""
    if part is None:
        return None
    if not _is_ours(part):
        return code_identity(part)
    values = asdict(part) if is_dataclass(part) and not isinstance(part, type) else getattr(part, "__dict__", {})
    settings = {name: _value(value) for name, value in values.items() if not name.startswith("_")}
    return {"name": type(part).__name__, **{name: value for name, value in settings.items() if value is not ...}}


def _loss_identity(criterion: nn.Module | None) -> Any:
    """Ours says all that decides it in its `repr`; torch's leaves out `label_smoothing` and weights of classes."""
    return repr(criterion) if _is_ours(criterion) else criterion and code_identity(criterion)


def _is_ours(part: Any) -> bool:
    return type(part).__module__.startswith("drawstream.")


def shapes_hash(state: Mapping[str, Tensor], /) -> str:
    """Return the hash over names, types and shapes of a state dict, 32 hex digits."""
    lines = [f"{name} {value.dtype} {tuple(value.shape)}" for name, value in sorted(state.items())]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def file_hash(path: Path | None, /) -> str | None:
    """Return the hash of a file's bytes, 32 hex digits, or of the files of a folder; None for no path."""
    if path is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        if each.is_file():
            digest.update(each.name.encode() if path.is_dir() else b"")
            with each.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def quarantine_hash(path: str | os.PathLike[str] | None, catalog: Any, /) -> str | None:
    """Return the hash of the rows that a quarantine list keeps out; None where there is no list."""
    return None if path is None else digest_array(read_quarantine(path, catalog))


def _value(value: Any) -> Any:
    """A setting as a plain value; ... where it is none."""
    if isinstance(value, _PLAIN):
        return value
    return digest_array(value) if isinstance(value, np.ndarray) else ...
