"""`drawstream doctor`: what this machine has, whether the parts work here, and how fast its disk gives images."""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil
import typer

from drawstream.tools.cli.options import ResultOptions, place
from drawstream.tools.runs import argument, finish

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog

REQUIRED = ("torch", "numpy", "numba", "pyarrow", "scipy", "optuna", "botorch", "plotly", "safetensors")
OPTIONAL = {
    "ray": "clusters: pip install 'drawstream[cluster]'",
    "s3fs": "s3:// data: pip install 'drawstream[remote]'",
    "aiohttp": "https:// data: pip install 'drawstream[remote]'",
    "timm": "--model timm:NAME: pip install timm",
}
BUILDS = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
READ = 4096  # images of the disk test, at most
LOADED = 2048  # images of the loader test, at most
LITTLE = 5 << 30  # bytes of free disk below which long jobs may fail
MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check: `ok`, `note` (works without), or `bad` (fix it first), with one line of text."""

    name: str
    verdict: Literal["ok", "note", "bad"]
    text: str


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(ResultOptions):
    """Options of `doctor`."""

    catalog: str | None = argument("Also read images of this catalog (folder or URL).", None)


def doctor(given: DoctorOptions) -> None:
    """Check that everything works on this machine; exit 1 when something must be fixed first.

    Example: drawstream doctor data/train
    """
    checks = []
    for check in examine(given.catalog):
        print(f"{MARKS[check.verdict]}  {check.name:12} {check.text}", flush=True)
        checks.append(check)
    bad = sum(check.verdict == "bad" for check in checks)
    result = {"checks": [asdict(check) for check in checks], "bad": bad}
    finish(result, given.json_path, f"{len(checks)} checks, {bad} bad" if bad else "all is well")
    if bad:
        raise typer.Exit(1)


def examine(catalog: str | None = None, /) -> Iterator[Check]:
    """Yield all checks, one after the other; those of a catalog if one is given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield Check("system", "ok", f"{system}, {cores} cores, {memory:.0f} GiB memory")
    yield _disk(Path.cwd())
    yield from _packages()
    yield from _torch()
    yield from _dali("cpu")
    yield from _dali("gpu")
    yield _streams()
    if catalog is not None:
        yield from _catalog(catalog)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.0f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "note", f"{text}, which is not writable: give output folders elsewhere")
    return Check("disk", "note" if free < LITTLE else "ok", text)


def _packages() -> Iterator[Check]:
    found = {name: _version(name) for name in (*REQUIRED, *BUILDS, *OPTIONAL)}
    missing = [name for name in REQUIRED if not found[name]]
    if missing:
        yield Check("packages", "bad", f"missing: {', '.join(missing)}: pip install drawstream again")
    yield Check("packages", "ok", ", ".join(f"{name} {found[name]}" for name in REQUIRED if found[name]))
    if all(found[name] for name in BUILDS):
        yield Check("DALI", "bad", f"{' and '.join(BUILDS)} share one folder: uninstall both, then install one of them")
    for name, use in OPTIONAL.items():
        yield Check(name, "ok" if found[name] else "note", found[name] or f"not installed; needed for {use}")


def _version(name: str) -> str:
    """Version of a package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _torch() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch", "bad", f"cannot be imported: {error}")
        return
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}, but sees none" if torch.version.cuda else "a CPU build"
        yield Check("GPU", "note", f"none: torch is {build}; everything runs on {torch.get_num_threads()} CPU threads")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        yield Check("GPU", "ok", f"{number}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _dali(device: Literal["cpu", "gpu"]) -> Iterator[Check]:
    """Run a small graph; nothing on a GPU that is missing, or if the CPU's check says it all."""
    try:
        import nvidia.dali
    except (ImportError, OSError) as error:
        if device == "cpu":
            law = f"cannot be imported ({error}): images are decoded by Pillow, somewhat more slowly"
            yield Check("DALI", "note", f"{law}: pip install 'drawstream[cuda13]' (or cuda12)")
        return
    if device == "gpu":
        import torch

        if not torch.cuda.is_available():
            return
    dali: Any = nvidia.dali  # its stubs do not export all of it
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    try:
        pipe = dali.Pipeline(batch_size=1, num_threads=1, device_id=0 if device == "gpu" else None)
        with pipe:
            given = dali.fn.external_source(source=lambda: [image], dtype=dali.types.UINT8, ndim=3)
            pipe.set_outputs(dali.fn.flip(given.gpu() if device == "gpu" else given, horizontal=1))
        pipe.build()
        (out,) = pipe.run()
        got = np.asarray((out.as_cpu() if device == "gpu" else out).as_array())[0]
    except RuntimeError as error:
        yield Check(f"DALI {device}", "bad", f"{dali.__version__} cannot run: {str(error).strip().splitlines()[0]}")
        return
    if np.array_equal(got, image[:, ::-1]):
        yield Check(f"DALI {device}", "ok", f"{dali.__version__} runs")
    else:
        yield Check(f"DALI {device}", "bad", f"{dali.__version__} gives wrong pixels: install it again")


def _streams() -> Check:
    """Draw from a weighted stream of a million rows, compiled kernels included."""
    from drawstream.samplers.orders import IndexStream

    stream = IndexStream(np.linspace(0.5, 1.5, 1_000_000), seed=0)
    stream.epoch(0)[:1024]
    begin = time.perf_counter()
    drawn = stream.epoch(1)[:]
    rate = len(drawn) / (time.perf_counter() - begin)
    if np.bincount(drawn, minlength=stream.rows).max() > 2:
        return Check("streams", "bad", "compiled kernels draw wrong rows: delete the caches of Numba (__pycache__)")
    return Check("streams", "ok", f"{rate / 1e6:.0f} M weighted draws a second, one thread")


def _catalog(name: str) -> Iterator[Check]:
    from drawstream.pipeline.reading import BadSampleError
    from drawstream.pipeline.shards import Catalog

    try:
        catalog = Catalog.open(place(name))
    except (FileNotFoundError, ValueError) as error:
        yield Check("catalog", "bad", str(error))
        return
    size = sum(shard.size for shard in catalog.shards)
    yield Check("catalog", "ok", f"{len(catalog)} images in {len(catalog.shards)} shards, {size / 1e9:.2f} GB")
    try:
        yield _reading(catalog)
        yield _loading(catalog)
    except BadSampleError as error:
        yield Check("images", "bad", str(error))


def _reading(catalog: "Catalog") -> Check:
    from drawstream.pipeline.reading import ShardFiles

    rows = np.random.default_rng(0).permutation(len(catalog))[:READ].astype(np.int64)
    files = ShardFiles(catalog)
    begin = time.perf_counter()
    for start in range(0, len(rows), 256):
        files.read(rows[start : start + 256])
    seconds = time.perf_counter() - begin
    files.close()
    size = int(catalog.size[rows].sum())
    rate = f"{len(rows) / seconds:,.0f} images and {size / seconds / 1e6:,.0f} MB a second"
    return Check("disk speed", "ok", f"{rate}, read at random places on one thread; what is cached is faster")


def _loading(catalog: "Catalog") -> Check:
    from drawstream.pipeline import Loader
    from drawstream.samplers.orders import IndexStream

    draws = min(len(catalog), LOADED)
    loader = Loader(catalog, IndexStream(len(catalog), draws=draws), batch_size=min(128, draws))
    for _ in loader:  # builds the graph
        break
    loader.set_epoch(1)
    begin = time.perf_counter()
    count = sum(len(batch.ids) for batch in loader)
    rate = count / (time.perf_counter() - begin)
    loader.close()
    by = {"dali": "DALI", "pillow": "Pillow"}[loader.backend]
    return Check("loader", "ok", f"{rate:,.0f} images a second, decoded by {by} and in batches, on the CPU")
