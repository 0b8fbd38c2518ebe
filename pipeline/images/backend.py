"""The two backends that decode and transform: DALI, and Pillow in threads where DALI is not installed.

Both take the same inputs and give the same rows, windows and flips. Pixels agree within rounding: JPEGs and PNGs to the
same levels, resized images to one level of 255.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

from drawstream.pipeline.images.graph_spec import GraphSpec

Backend = Literal["dali", "pillow"]
WITHOUT_DALI = (
    "DALI is not installed, so images are decoded by Pillow: the same batches, but more slowly; "
    "pip install 'drawstream[cuda13]' (or cuda12) on Linux, or say backend=\"pillow\" (--backend pillow)"
)
_told: list[str] = []


def dali_installed() -> bool:
    """Check whether DALI can be imported, without importing it."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except (ImportError, ValueError):
        return False


def choose_backend(asked: Backend | None, /, *, level: int = 1, tell: bool = True) -> Backend:
    """Return the backend that is asked for; of None DALI, or else Pillow with one warning in a process.

    Args:
        asked: `dali`, `pillow` or None.
        level: `stacklevel` of the warning.
        tell: Whether to warn at all.

    Raises:
        ValueError: It is none of these.
    """
    if asked is None and dali_installed():
        return "dali"
    if asked is None:
        if tell and not _told:
            _told.append(WITHOUT_DALI)
            warnings.warn(WITHOUT_DALI, stacklevel=level + 1)
        return "pillow"
    if asked not in get_args(Backend):
        raise ValueError(f"`backend` must be dali or pillow, or None for what is installed, but got {asked!r}")
    return asked


def build_graph(
    backend: Backend,
    source: Callable[[Any], tuple[Any, ...]],
    spec: GraphSpec,
    *,
    run_size: int,
    gpu: int | None,
    threads: int,
    prefetch: int,
) -> Any:
    """Build the graph of a backend; arguments as `graph.build_pipeline`.

    Its `run(stream)` gives a tuple of one output, or raises RuntimeError for images that do not decode and
    StopIteration behind the last run, after which `reset` begins anew.
    """
    if backend == "dali":
        from drawstream.pipeline.images.graph import build_pipeline

        return build_pipeline(source, spec, run_size=run_size, gpu=gpu, threads=threads, prefetch=prefetch)
    from drawstream.pipeline.images.pillow import PillowGraph

    return PillowGraph(source, spec, gpu=gpu, threads=threads, prefetch=prefetch)
