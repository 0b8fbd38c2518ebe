"""Measures of the user's own: any function of logits, targets and activations, for any modality.

    def top2(logits, targets, activations):
        two = logits.topk(2, dim=1).values
        return {"top2_margin": two[:, 0] - two[:, 1]}

A function is known by its name and by a hash of its module's source and of what it closes over, so a table made with
another text is refused; what these import or read from files is not part of the hash.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from drawstream.features.grad_norm import HeadInput
from drawstream.features.measures import measure
from drawstream.features.named import load_factory, users_code
from drawstream.features.table import FIXED
from drawstream.features.user_code import code_identity

MeasureFunction = Callable[[Tensor, Tensor, Tensor | None], Mapping[str, Tensor]]


def load_measure(spec: str, /) -> MeasureFunction:
    """The function named by "module:function"; modules of the working folder are found too, after installed ones.

    Raises:
        ValueError: The spec is malformed, the module cannot be imported, or it has no such function.
    """
    found: MeasureFunction = load_factory("measure", spec)
    if not inspect.isfunction(found):
        raise ValueError(_not_plain(f"measure {spec!r}", found))
    return found


def name_measure(function: object, /) -> str:
    """`module:function`.

    Raises:
        ValueError: Not a plain function, whose source says all that it does.
    """
    if not inspect.isfunction(function):
        raise ValueError(_not_plain("a measure", function))
    return f"{function.__module__}:{function.__qualname__}"


def _not_plain(what: str, found: object) -> str:
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    return f"{what} must be a name or a plain function, but got a {kind}: wrap it in a `def`"


def hash_source(function: MeasureFunction, /) -> str:
    """Hash of the source of the function's module and of what it closes over, 32 hex digits.

    Raises:
        ValueError: The source cannot be read.
    """
    made = code_identity(function)
    source: str | None = made["source"]
    if source is None:
        raise ValueError(
            f"measure {name_measure(function)}: its source cannot be read: define it in a module of its own"
        )
    if "arguments" not in made:
        return source
    return hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=16).hexdigest()


def measure_batch(
    logits: Tensor,
    targets: Tensor,
    head: HeadInput,
    names: Sequence[str],
    functions: Mapping[str, MeasureFunction],
    /,
    *,
    last: bool,
) -> dict[str, Tensor]:
    """Built-in measures of a batch by name, then the columns of the user's functions, each float32 (n,).

    `last` says that the gradient norm is that of the last linear layer.

    Raises:
        ValueError: There is no such layer; or two columns have one name; or as `call_measure`.
    """
    found = head.of(logits) if last else head.find(logits) if functions else None
    h, bias = found if found and last else (None, False)
    columns = measure(logits, targets, h, names, bias=bias)
    for name, function in functions.items():
        own = call_measure(function, logits.float(), targets, found[0].float() if found else None)
        for column in own:
            if column in columns or column in FIXED:
                raise ValueError(
                    f"measure {name} gives a column {column!r}, which is there already: give it another name"
                )
        columns |= own
    return columns


def call_measure(
    function: MeasureFunction, logits: Tensor, targets: Tensor, activations: Tensor | None, /
) -> dict[str, Tensor]:
    """The columns that a function gives for a batch, each float32 (n,).

    Args:
        function: Called once per batch.
        logits: float32 (n, C).
        targets: int64 (n,).
        activations: Inputs of the last linear layer, float32 (n, D); None where the model has none.

    Raises:
        ValueError: It gives something else than named tensors with one number per row.
    """
    name, n = name_measure(function), len(targets)
    with users_code(f"measure {name}"):
        found = function(logits, targets, activations)
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"measure {name} must give a dict of name and tensor, but gave {type(found).__name__}")
    columns = {}
    for key, values in found.items():
        if not isinstance(key, str) or not key:
            raise ValueError(f"measure {name} must name its columns by strings, but gave {key!r}")
        if not isinstance(values, Tensor):
            raise ValueError(f"measure {name} must give tensors, but {key!r} is {type(values).__name__}")
        if values.shape != (n,) or values.is_complex():
            raise ValueError(
                f"measure {name} must give one real number per row, shape ({n},), but {key!r} is {values.dtype} "
                f"{tuple(values.shape)}"
            )
        columns[key] = values.detach().to(torch.float32)
    return columns
