"""Duplicates among embeddings, suspects of a large table, and the tracker beside a training step: seconds and recall.

python -m drawstream.tools.bench.large_data duplicates --rows 100000
python -m drawstream.tools.bench.large_data suspects --rows 1280000 --classes 1000
python -m drawstream.tools.bench.large_data tracker --classes 1000

Seconds are those of the clock and of this process's processor time, over all its threads: other work on the machine is
not in the latter.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from drawstream import ArraySource, Catalog, FeatureTable, Tracker, pack, write_part
from drawstream.features import cosine_pairs
from drawstream.features.table import part_path
from drawstream.tools.experiments import Table
from drawstream.tools.runs import machine
from drawstream.tools.suspects import write_suspects
from drawstream.tools.training import build_model

THRESHOLD = 0.95


def timed(deed: Callable[[], Any], /) -> tuple[Any, float, float]:
    """Return what a call returns, its seconds by the clock, and those of the processor."""
    begin, used = time.perf_counter(), time.process_time()
    found = deed()
    return found, time.perf_counter() - begin, time.process_time() - used


def embeddings(rows: int, wide: int, /, *, copies: float = 0.1, classes: int = 100) -> NDArray[np.float16]:
    """Return embeddings as of a classifier, with planted copies.

    Activations lie around a centre for each class, after a ReLU; a part of the rows is another row with noise, at
    cosines around the threshold.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, wide))
    found = np.empty((rows, wide), np.float16)
    for at in range(0, rows, 10_000):
        of = rng.integers(0, classes, min(10_000, rows - at))
        found[at : at + len(of)] = np.maximum(centres[of] + rng.normal(size=(len(of), wide)), 0)
    copied = rng.choice(rows, (2, int(copies * rows)), replace=False)
    noise = rng.uniform(0, 0.5, (copied.shape[1], 1)) * rng.normal(size=(copied.shape[1], wide))
    found[copied[1]] = found[copied[0]] + noise
    return found


def run_duplicates(rows: int, wide: int, /) -> None:
    """Print seconds and recall of exact search and of faiss, where it is installed."""
    given = embeddings(rows, wide)
    cosine_pairs(given[:100], THRESHOLD)  # compiles
    found = {}
    lines = []
    for search in ("exact", *(["faiss"] if importlib.util.find_spec("faiss") else [])):
        pairs, seconds, used = timed(lambda name=search: cosine_pairs(given, THRESHOLD, search=name))  # type: ignore[misc]
        found[search] = pairs
        recall = len(pairs) / max(len(found["exact"]), 1)  # faiss finds true cosines alone: it joins less or the same
        groups = len(np.unique(pairs[:, 0]))
        lines.append((search, f"{seconds:.1f}", f"{used:.1f}", f"{groups:,}", f"{len(pairs):,}", f"{recall:.4f}"))
    print(f"{rows:,} rows of {wide}, threshold {THRESHOLD}")
    print(Table(("search", "seconds", "processor s", "groups", "copies", "recall"), tuple(lines)).text())


def tracked_table(folder: Path, catalog: Catalog, classes: int, /, *, wrong: float = 0.1) -> FeatureTable:
    """Write a table as a tracker of many classes does, of labels of which a part is wrong."""
    rng = np.random.default_rng(0)
    for shard in range(len(catalog.shards)):
        start, stop = catalog.shard_rows(shard)
        rows = stop - start
        bad = rng.random(rows) < wrong
        own = np.where(bad, rng.beta(1, 8, rows), rng.beta(6, 2, rows))
        other = (1 - own) * rng.beta(4, 2, rows)
        label = np.asarray(catalog.label[start:stop])
        columns = {"loss": -np.log(own + 1e-6), "uncertainty": 1 - own, "other": other, "margin": other - own}
        columns["other_label"] = (label + rng.integers(1, classes, rows)) % classes
        fixed: dict[str, NDArray[Any]] = {
            "sample_id": np.arange(start, stop),
            "crop": np.zeros(rows, np.int32),
            "label": label,
        }
        made = {"catalog": catalog.fingerprint, "parts": len(catalog.shards)}
        write_part(part_path(folder, shard), fixed | {k: v.astype(np.float32) for k, v in columns.items()}, made)
    return FeatureTable.open(folder)


def run_suspects(rows: int, classes: int, /) -> None:
    """Print the seconds of `drawstream suspects` without its start."""
    with tempfile.TemporaryDirectory() as folder:
        work, names = Path(folder), tuple(f"class {c:04d}" for c in range(classes))
        source = ArraySource(np.zeros((rows, 1, 1), np.uint8), np.arange(rows) % classes, names)
        catalog = Catalog.open(pack(source, work / "data", shard_rows=100_000).train)
        (work / "table").mkdir()
        table = tracked_table(work / "table", catalog, classes)
        record, seconds, used = timed(lambda: write_suspects(table, catalog, work / "out"))
        size = sum(path.stat().st_size for path in (work / "out").iterdir())
    print(
        f"suspects of {rows:,} rows, {classes:,} classes: {seconds:.1f} s, {used:.1f} s of the processor, "
        f"{size / 1e6:.0f} MB; share {record['wrong_share']:.1%}"
    )


def run_tracker(classes: int, batch: int, /) -> None:
    """Print bytes a row, and processor time of `observe` and of a step of ResNet-18 on photographs."""
    model = build_model("resnet18", num_classes=classes, channels=3, size=(224, 224), seed=0)
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(0, classes, (batch,))
    tracker, ids = Tracker(1_000_000, classes=classes), torch.randint(0, 1_000_000, (batch,))
    tracker.set_epoch(0)
    kept = tracker.state_dict()["tensors"].values()
    size = sum(value.numel() * value.element_size() for value in kept) / tracker.rows
    steps, seen = [], []
    for _ in range(4):
        logits, _, forward = timed(lambda: model(images))
        _, _, backward = timed(lambda: F.cross_entropy(logits, labels).backward())  # type: ignore[no-untyped-call]  # noqa: B023
        _, _, own = timed(lambda: tracker.observe(ids, logits.detach(), labels))  # noqa: B023
        steps.append(forward + backward)
        seen.append(own)
    step, own = float(np.median(steps[1:])), float(np.median(seen[1:]))
    print(
        f"tracker of {classes:,} classes: {size:.0f} bytes a row; batch of {batch}: step {step:.2f} s of CPU, "
        f"observe {1e3 * own:.2f} ms, {own / step:.4%}"
    )


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["duplicates", "suspects", "tracker"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--wide", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    print(machine(), time.strftime("%Y-%m-%d"))
    if given.what == "duplicates":
        run_duplicates(given.rows, given.wide)
    elif given.what == "suspects":
        run_suspects(given.rows, given.classes)
    else:
        run_tracker(given.classes, given.batch)


if __name__ == "__main__":
    main()
