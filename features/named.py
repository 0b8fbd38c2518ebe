"""What a user names as `module:factory`: models, samplers and hooks of their own."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def load_factory(what: str, spec: str, /) -> Callable[..., Any]:
    """The class or function named by "module:factory"; modules of the working folder are found after installed ones.

    Args:
        what: Its name in messages: `model`, `--hook`.
        spec: The name.

    Raises:
        ValueError: The name is malformed, the module cannot be imported, or it has no such factory.
    """
    module, _, name = spec.partition(":")
    if not (module and name):
        raise ValueError(f"{what} must be module:factory, but got {spec!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # of the user's module
        raise ValueError(
            f"{what} {spec!r} cannot be imported: {error}: give module:factory, of the working folder or installed"
        ) from None
    if not callable(found):
        raise ValueError(f"{what} {spec!r} must name a factory, but {name} is {type(found).__name__}")
    factory: Callable[..., Any] = found
    return factory


def accepted(factory: Callable[..., Any], offered: Mapping[str, Any], /) -> dict[str, Any]:
    """Those of the offered keywords that a factory takes."""
    parameters = inspect.signature(factory).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return dict(offered)
    return {name: value for name, value in offered.items() if name in parameters}
