"""Peers of the loader benchmark in processes of their own, each an interpreter that runs `peer_worker.py`.

torch's DataLoaders run in this environment's interpreter. Mosaic Streaming, LitData and SPDL need another environment,
for they ask for torchvision, which brings another torch, and Mosaic Streaming for an older NumPy. Without their
dependencies they install and run beside the same CPU build of torch:

    python3 -m venv build/peers
    build/peers/bin/pip install -c constraints.txt torch numpy pillow
    build/peers/bin/pip install --no-deps mosaicml-streaming litdata spdl_core spdl_io
    build/peers/bin/pip install tqdm xxhash Brotli python-snappy zstd catalogue requests lightning-utilities
    build/peers/bin/pip install tifffile obstore boto3
    apt-get install --no-install-recommends libavcodec59 libavformat59 libavfilter8 libavdevice59  # SPDL's decoder
    drawstream bench loader --peers-env build/peers

What cannot take part is told with its reason.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import WeightedRandomSampler

from drawstream.pipeline.shards import Catalog
from drawstream.tools.bench.loader import peer_worker
from drawstream.tools.bench.loader.rounds import Delivery, Setting, System

__all__ = ["Peers", "start_peers"]

WEIGHTED = "torch map-style + Pillow"
HERE = ("torch webdataset + Pillow", WEIGHTED)
ELSEWHERE = ("mosaic streaming", "litdata", "spdl")


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers that could be started, and why others could not."""

    systems: list[System]
    missing: list[dict[str, str]]


@contextmanager
def start_peers(
    catalog: Catalog,
    weights: NDArray[np.float64],
    setting: Setting,
    folder: Path,
    /,
    *,
    environment: Path | None,
    seed: int,
) -> Iterator[Peers]:
    """Start the peers' processes, which end with the context."""
    peers = Peers([], [])
    spec = _write_spec(catalog, weights, setting, folder, seed)
    with ExitStack() as stack:
        workers = []
        for name in (*HERE, *ELSEWHERE):
            if name in ELSEWHERE and environment is None:
                peers.missing.append({"system": name, "reason": "runs in an environment of its own: give --peers-env"})
                continue
            python = str(environment / "bin" / "python") if name in ELSEWHERE and environment else sys.executable
            workers.append(_Worker(python, name, spec))
            stack.callback(workers[-1].close)
        for worker in workers:  # all have begun to import and to copy
            if (reason := worker.missing()) is not None:
                peers.missing.append({"system": worker.name, "reason": reason})
                continue
            drawn = worker.name == WEIGHTED
            expected = _Draws(catalog, weights, seed) if drawn else lambda _: catalog.label
            peers.systems.append(System(worker.name, setting.batch_size, worker.deliver, expected, ordered=drawn))
        yield peers


class _Draws:
    """Expected labels of torch's weighted sampler, round by round, with the worker's seed."""

    def __init__(self, catalog: Catalog, weights: NDArray[np.float64], seed: int) -> None:
        self._label = catalog.label
        generator = torch.Generator().manual_seed(seed)
        self._sampler = WeightedRandomSampler(weights.tolist(), len(catalog), generator=generator)

    def __call__(self, _: int) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self._label[np.array(list(self._sampler))]
        return labels


class _Worker:
    """The process of one peer."""

    def __init__(self, python: str, name: str, spec: Path) -> None:
        self.name = name
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process: subprocess.Popen[str] | None = None
        self._refused = ""
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [python, peer_worker.__file__, name, str(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        except OSError as error:
            self._refused = f"{python} does not start ({error.strerror}): --peers-env names no virtual environment"

    def missing(self) -> str | None:
        """Wait for the first line: why it cannot take part, or None."""
        return self._refused if self._process is None else self._answer().get("missing")

    def deliver(self, number: int) -> Delivery:
        """A round; the process takes the time itself.

        Raises:
            RuntimeError: The process has died.
        """
        assert self._process is not None and self._process.stdin is not None
        print(number, file=self._process.stdin, flush=True)
        answer = self._answer()
        if "missing" in answer:
            raise RuntimeError(f"{self.name}: died in round {number}: {answer['missing']}")
        labels = np.array(answer["labels"], np.int64)
        return Delivery(answer["seconds"], len(labels), labels)

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        self._log.close()
        if self._process is None:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._log.seek(0)
        said = [text for text in self._log.read().splitlines() if text.strip()]
        return {"missing": said[-1] if said else "its process ended without a word"}


def _write_spec(catalog: Catalog, weights: NDArray[np.float64], setting: Setting, folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("shard", "offset", "size", "label", "height", "width")
    np.savez(folder / "rows.npz", weight=weights, **{name: getattr(catalog, name) for name in columns})
    law = setting.transform
    spec = {
        "shards": [str(catalog.shard_path(shard)) for shard in range(len(catalog.shards))],
        "rows": str(folder / "rows.npz"),
        "folder": str(folder),
        "batch_size": setting.batch_size,
        "workers": setting.threads,
        "device": setting.device,
        "seed": seed,
        **{name: getattr(law, name) for name in ("size", "mean", "std", "scale", "ratio")},
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path
