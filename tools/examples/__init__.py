"""Runnable examples: python -m drawstream.tools.examples.verification."""

import sys


def missing(error: ImportError, module: str, package: str) -> BaseException:
    """Return what to raise where an example's package is not installed: one line and status 2 if it is the program.

    Args:
        error: Of the import.
        module: `__name__` of the example.
        package: What pip installs.
    """
    if module != "__main__":
        return error
    print(f"this example needs {package} ({error}): pip install {package}", file=sys.stderr)
    return SystemExit(2)
