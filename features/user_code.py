"""Fingerprint a user's function, class or object by the source of its modules and its plain arguments.

    partial(judge, factor=2)  -->  {"name": "mine:judge", "source": "3f2a…", "arguments": {"keywords": {"factor": 2}}}

The source is that of whole modules, as their constants and helpers decide too: of the one that `module:factory` names,
and of those that define the object, what it wraps, and its arguments. What these import, or read from files, does not
count; nor does the source of the libraries below, whose objects are known by name, fingerprint or `repr`.
"""

import contextlib
import hashlib
import inspect
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from drawstream.samplers import digest_array

_LIBRARIES = {"drawstream", "numpy", "torch", "pandas", "polars", "pyarrow", *sys.stdlib_module_names} - {"__main__"}
Modules = dict[str, Any]  # what was found of each, by the module's name


def code_identity(found: Any, /, spec: str = "") -> dict[str, Any]:
    """Return name, source (hash of 32 hex digits; None where it cannot be read) and arguments, where there are some.

    `spec` is the `module:factory` that names the function, method, class, partial or object.
    """
    modules: Modules = {spec.partition(":")[0]: found} if spec else {}
    name, arguments = _made_of(found, modules, ())
    return {"name": name, "source": _source(modules)} | ({"arguments": arguments} if arguments else {})


def _made_of(found: Any, modules: Modules, above: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of what is called or is an object; notes the modules."""
    above = (*above, id(found))

    def settled(values: Mapping[str, Any]) -> dict[str, Any]:
        made = {key: _value(value, modules, above) for key, value in values.items()}
        return {key: value for key, value in made.items() if value not in (None, {}, [])}

    if isinstance(found, partial):
        name, inner = _made_of(found.func, modules, above)
        own = settled({"args": list(found.args), "keywords": found.keywords, "attributes": vars(found)})
        return name, own | ({"of": inner} if inner else {})
    if isinstance(found, MethodType):
        owner, inner = _made_of(found.__self__, modules, above)
        name, arguments = _made_of(found.__func__, modules, above)
        return name, arguments | {"self": {"name": owner, **inner}}
    kind: Any = found if inspect.isroutine(found) or inspect.isclass(found) else type(found)
    if wrapped := kind is not found and getattr(found, "__wrapped__", None):  # by a cache, or a compiler
        return _made_of(wrapped, modules, above)
    modules.setdefault(kind.__module__ or "", kind)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(found, FunctionType):
        modules.setdefault(found.__globals__.get("__name__", ""), found)
        cells = zip(found.__code__.co_freevars, found.__closure__ or (), strict=False)
        held = {key: cell.cell_contents for key, cell in cells if key != "__class__" and _filled(cell)}
        defaults = {"defaults": list(found.__defaults__ or ()), "keywords": found.__kwdefaults__ or {}} if held else {}
        return name, settled(held | defaults)
    own_name = getattr(found, "__name__", None)  # of NumPy's functions, say
    held = {} if kind is found else {"__name__": own_name} | _attributes(found)
    return name, settled(held)


def _value(value: Any, modules: Modules, above: tuple[int, ...]) -> Any:
    """A value as JSON has it, equal for equal values in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(value)  # NaN is not equal to itself
    if isinstance(value, np.generic | PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return hashlib.blake2b(value, digest_size=16).hexdigest()
    if id(value) in above:
        return "itself"
    if isinstance(value, Mapping | list | tuple | set | frozenset | torch.Tensor | np.ndarray):
        return _several(value, modules, (*above, id(value)))
    fingerprint = getattr(value, "fingerprint", None)
    if isinstance(fingerprint, str) and not inspect.isclass(value):
        return fingerprint
    of_library = (type(value).__module__ or "").partition(".")[0] in _LIBRARIES
    if of_library and not callable(value) and not isinstance(value, torch.nn.Module):
        text = repr(value)
        return f"{type(value).__module__}:{type(value).__qualname__}" if " at 0x" in text.lower() else text
    name, arguments = _made_of(value, modules, above)
    return {"name": name, **arguments} if arguments else name


def _several(value: Any, modules: Modules, inside: tuple[int, ...]) -> Any:
    """A container, or an array by its hash."""
    if isinstance(value, Mapping):
        return {str(key): _value(each, modules, inside) for key, each in value.items()}
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return [str(value.dtype), list(value.shape), digest_array(flat.view(torch.uint8).numpy())]
    if isinstance(value, np.ndarray):
        whole = value.tolist() if value.dtype.hasobject else digest_array(value)
        return [str(value.dtype), list(value.shape), _value(whole, modules, inside)]
    several = [_value(each, modules, inside) for each in value]
    return sorted(several, key=repr) if isinstance(value, set | frozenset) else several


def _attributes(found: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots included."""
    state = object.__getstate__(found)  # whatever its class would give to pickle
    parts = state if isinstance(state, tuple) else (state,)
    return {name: value for part in parts for name, value in (part or {}).items()}


def _filled(cell: Any) -> bool:
    with contextlib.suppress(ValueError):
        return cell.cell_contents is not cell
    return False


def _source(modules: Modules) -> str | None:
    """The hash of the sources of the modules of the user; of what was found where a module's cannot be read."""
    texts = {}
    for name, found in sorted(modules.items()):
        if name.partition(".")[0] in _LIBRARIES:
            continue
        sources: tuple[Any, Any] = sys.modules.get(name), found
        for each in sources:
            with contextlib.suppress(OSError, TypeError):
                texts[name] = inspect.getsource(each)
                break
    return hashlib.blake2b("".join(texts.values()).encode(), digest_size=16).hexdigest() if texts else None
