"""Import models, samplers, hooks, measures and objectives that a user names as `module:factory`."""

import importlib
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drawstream.pipeline import describe_error


def load_factory(what: str, spec: str, /) -> Callable[..., Any]:
    """The class or function named by "module:factory"; modules of the working folder are found after installed ones.

    The working folder is appended to `sys.path`, also for what the module imports later. `what` names it in messages.

    Raises:
        ValueError: The name is malformed, the module cannot be imported or ends the process, or has no such factory.
    """
    module, _, name = spec.partition(":")
    if not (module and name):
        raise ValueError(f"{what} must be module:factory, but got {spec!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with users_code(f"{what} {spec!r} cannot be imported"):
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # of the user's module
            raise ValueError(
                f"{what} {spec!r} cannot be imported: {describe_error(error)}: give module:factory, of the "
                "working folder or installed"
            ) from error
    if not callable(found):
        raise ValueError(f"{what} {spec!r} must name a factory, but {name} is {type(found).__name__}")
    factory: Callable[..., Any] = found
    return factory


@contextmanager
def users_code(what: str, /) -> Iterator[None]:
    """Run a user's code, which must not end the process; `what` begins the message.

    Raises:
        ValueError: It raised SystemExit; that of SIGTERM goes through.
    """
    try:
        yield
    except SystemExit as ended:
        if ended.code == 128 + signal.SIGTERM:
            raise
        raise ValueError(
            f"{what}: it ended the process (SystemExit {ended.code}): put its main part under "
            "`if __name__ == '__main__':`"
        ) from None


def accepted(factory: Callable[..., Any], offered: Mapping[str, Any], /) -> dict[str, Any]:
    """Those of the offered keywords that a factory takes."""
    parameters = inspect.signature(factory).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return dict(offered)
    return {name: value for name, value in offered.items() if name in parameters}
