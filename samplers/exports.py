"""Public names of a package, each imported when it is first used.

A package says its names once, as imports that only type checkers run:

    if TYPE_CHECKING:
        from drawstream.samplers.orders.stream import IndexStream as IndexStream
    else:
        __getattr__, __dir__, __all__ = lazy_exports(__name__)

`lazy_exports` reads that block from the package's own source, so the package is imported without its heavy parts.
`from drawstream.room import file` in the block exports a whole file of the room.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_exports(package: str, /) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Build `__getattr__`, `__dir__` and `__all__` of a package from its `if TYPE_CHECKING:` imports.

    Args:
        package: Name of the package that calls, `__name__`.
    """
    homes = public_names(package)
    names = sorted(homes)

    def __getattr__(name: str) -> Any:  # noqa: N807 - what PEP 562 calls it
        """Import a public name from its file."""
        if homes.get(name) == package:
            return import_module(f"{package}.{name}")
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}{_nearest(name, names)}", name=name)

    def __dir__() -> list[str]:  # noqa: N807
        """List the public names."""
        return names

    return __getattr__, __dir__, names


def public_names(package: str, /) -> dict[str, str]:
    """Read the public names of an imported package: name to the module that has it."""
    spec = sys.modules[package].__spec__
    source = getattr(spec.loader, "get_source")(package) if spec else None  # noqa: B009 - not every loader has it
    if source is None:
        raise ImportError(f"the source of {package} is missing, and its public names are read from it: reinstall")
    return {
        alias.name: node.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def _nearest(name: str, names: list[str]) -> str:
    """Suggest the public name that looks like a wrong one, for the end of a message."""
    from difflib import get_close_matches  # used for wrong names only

    lower = {each.lower(): each for each in names}
    close = [] if name.startswith("__") else get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""
