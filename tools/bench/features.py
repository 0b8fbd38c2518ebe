"""Feature extraction beside its bounds: the bare model and the bare loader, on the same images in one run.

No extraction is faster than the slower of the two. On a GPU that bound is in reach, for the loader works while the
model does. On a CPU both want the same cores: without any other cost an extraction then takes the sum of their times,
the harmonic bound 1 / (1 / forward + 1 / loader). Both are shown.

What makes use of the features costs no pass over the images, and is timed apart: ranks of a feature and a candidate of
the search, on made-up columns of ImageNet's length; the tracker beside a training step of the same model.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream import pack
from drawstream.features import HALF, Amp, Scoring, ShardScorer, Tracker, provenance, write_shards
from drawstream.pipeline import SMALL, Loader, default_transform
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.sources import open_source
from drawstream.samplers.orders import Sequential
from drawstream.samplers.swift import SwiftFit, SwiftParams
from drawstream.tools.bench.loader import (
    Delivery,
    System,
    alternate,
    median_ratio,
    open_catalog,
    pack_photos,
    small_images,
    write_files,
)
from drawstream.tools.experiments import Columns, table_of
from drawstream.tools.training import ResNet, build_model, check_built

__all__ = ["run_features"]

PHOTOS, SMALL_IMAGES = 192, 20_000  # images of a round: some seconds of ResNet-18, or one of the CNN, on two cores
FORWARD, LOADER, LOSS, LAST, CROPS = "forward", "loader", "extract loss", "extract loss, grad_norm", "extract crops"
CROPS_PER_IMAGE = 2
ROWS = 1_280_000  # of ImageNet's training set
STEPS = 5  # training steps that the tracker is timed beside


def run_features(
    data: str | Path = "photos",
    *,
    model: str | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    rounds: int = 3,
    device: Literal["cpu", "gpu"] = "cpu",
    amp: Amp = "off",
    work: Path | None = None,
    show: bool = True,
) -> dict[str, Any]:
    """Measure all stages, print a table, and return it.

    Returns:
        `rows`: per stage `stage`, `rows_per_second` (median) and `rounds` (each); `ratio_to_bound`, the extraction with
        gradient norms over the slower of forward and loader; `ratio_to_harmonic_bound`; `grad_norm_cost`, the time that
        the gradient norm adds, as a share; `candidate_seconds` and `cdf_seconds`, CPU time; `tracker_share` of a
        training step; and what was run.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        catalog = _open(data, images, work or scratch, scratch)
        large = max(int(catalog.height.max()), int(catalog.width.max())) > SMALL
        batch = min(batch_size or (32 if large else 256), len(catalog))
        network = _model(model, catalog, large=large)
        scoring = Scoring(batch_size=batch, amp=amp, device=device)
        table = alternate(_systems(catalog, network, scoring, scratch, stack), rounds)
        tracker = _tracker_share(network, _batch(catalog, scoring), catalog)
    candidate, cdf = _candidate(ROWS)
    speeds = {row["system"]: row["rounds"] for row in table}
    pairs = list(zip(speeds[FORWARD], speeds[LOADER], strict=True))
    result = {
        "rows": [
            {"stage": row["system"], "rows_per_second": row["images_per_second"], "rounds": row["rounds"]}
            for row in table
        ],
        "ratio_to_bound": median_ratio(speeds[LAST], [min(pair) for pair in pairs]),
        "ratio_to_harmonic_bound": median_ratio(speeds[LAST], [1 / (1 / a + 1 / b) for a, b in pairs]),
        "grad_norm_cost": median_ratio(speeds[LOSS], speeds[LAST]) - 1,
        "candidate_seconds": candidate,
        "cdf_seconds": cdf,
        "candidate_rows": ROWS,
        "tracker_share": tracker,
        "data": str(data),
        "model": model or ("resnet18, ImageNet's stem" if large else "cnn"),
        "images": len(catalog),
        "batch_size": batch,
        "amp": amp,
        "device": device,
        "threads": torch.get_num_threads(),
    }
    if show:
        print(format_table(result))
    return result


def _open(data: str | Path, images: int | None, work: Path, scratch: Path) -> Catalog:
    """The catalog to score, made where needed; all in one shard, for shards of real sets hold many batches."""
    if (catalog := open_catalog(data, "scoring")) is not None:
        return catalog
    if data == "photos":
        source = open_source(write_files(pack_photos(work, images=images or PHOTOS), scratch / "jpegs"))
    else:
        source = small_images(data, images or SMALL_IMAGES)
    count = min(images or SMALL_IMAGES, len(source))
    return Catalog.open(pack(source, scratch / "images", limit=count, shard_rows=count).train)


def _model(spec: str | None, catalog: Catalog, *, large: bool) -> nn.Module:
    if spec is None and large:
        network = ResNet((2, 2, 2, 2), 64, num_classes=catalog.num_classes, channels=catalog.channels)
        network.stem = nn.Sequential(
            nn.Conv2d(catalog.channels, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        return network
    size = default_transform(catalog, train=False).size
    classes, channels = catalog.num_classes, catalog.channels
    model = build_model(spec or "cnn", num_classes=classes, channels=channels, size=size, seed=0)
    check_built(model, spec or "cnn", num_classes=classes, channels=channels, size=size, trained=False)
    return model


def _loader(catalog: Catalog, scoring: Scoring) -> Loader:
    """A loader of all images in order, as a scorer has it."""
    transform = default_transform(catalog, train=False)
    rows = Sequential(0, len(catalog))
    return Loader(catalog, rows, transform=transform, batch_size=scoring.batch_size, device=scoring.device)


def _systems(catalog: Catalog, model: nn.Module, scoring: Scoring, scratch: Path, stack: ExitStack) -> list[System]:
    """The stages; each delivers all images once, the crops some times as many rows."""
    loader = _loader(catalog, scoring)
    stack.callback(loader.close)
    deeds: dict[str, Callable[[int], int]] = {
        FORWARD: _forward(model, _batch(catalog, scoring), scoring, len(catalog)),
        LOADER: lambda _: sum(len(batch.labels) for batch in loader),
    }
    chosen = {
        LOSS: replace(scoring, measures=("loss",)),
        LAST: replace(scoring, measures=("loss", "grad_norm")),
        CROPS: replace(scoring, measures=("loss", "grad_norm"), crops=CROPS_PER_IMAGE),
    }
    for number, (name, options) in enumerate(chosen.items()):
        scorer = stack.enter_context(ShardScorer(catalog, model, options))
        made = provenance(catalog, model, options, model_name="bench")
        deeds[name] = _extraction(scorer, scratch / f"features-{number}", made)
    return [System(name, scoring.batch_size, _timed(deed)) for name, deed in deeds.items()]


def _timed(deed: Callable[[int], int]) -> Callable[[int], Delivery]:
    def deliver(number: int) -> Delivery:
        began = time.perf_counter()
        rows = deed(number)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Delivery(time.perf_counter() - began, rows)

    return deliver


def _batch(catalog: Catalog, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Images and labels of one batch, where the model is."""
    with closing(_loader(catalog, scoring)) as loader:
        first = next(iter(loader))
        return first.images.clone(), first.labels.clone()


def _forward(model: nn.Module, batch: tuple[Tensor, Tensor], scoring: Scoring, images: int) -> Callable[[int], int]:
    """The same batch again and again through the model, as `ShardScorer` runs it."""
    device = "cuda" if scoring.device == "gpu" else "cpu"
    model = model.to(device).eval()

    @torch.inference_mode()
    def deed(_: int) -> int:
        runs = -(-images // scoring.batch_size)
        for _ in range(runs):
            with nullcontext() if scoring.amp == "off" else torch.autocast(device, HALF[scoring.amp]):
                model(batch[0])
        return runs * len(batch[0])

    return deed


def _extraction(scorer: ShardScorer, folder: Path, made: dict[str, Any]) -> Callable[[int], int]:
    """Every shard, with its part written; each round to a folder of its own."""

    def deed(number: int) -> int:
        out = folder / str(number)
        out.mkdir(parents=True)
        write_shards(scorer, range(scorer.shards), out, made)
        return scorer.rows

    return deed


def _candidate(rows: int) -> tuple[float, float]:
    """CPU seconds of a candidate's probabilities (cdf, cgf and H over all rows), and of one feature's ranks."""
    generator = np.random.default_rng(0)
    loss = generator.gamma(0.7, 1.0, rows).astype(np.float32)
    entropy = (0.3 * loss + generator.random(rows)).astype(np.float32)
    columns = {"loss": loss, "entropy": entropy, "grad_norm": loss * generator.random(rows).astype(np.float32)}
    params = SwiftParams((1.0, 0.4), (0.2, 0.5, 0.8), (0.9, 1.0, 0.4, 0.1, 0.0))
    fit = SwiftFit(columns)
    return (
        _cpu_seconds(lambda: fit.probabilities(params)),
        _cpu_seconds(lambda: SwiftFit(columns, features=("loss",), transform="cdf")),
    )


def _cpu_seconds(deed: Callable[[], object]) -> float:
    """Median CPU time over all threads, after one run that compiles: as if on one core, whatever else is running."""
    times = []
    for _ in range(8):
        began = time.process_time()
        deed()
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def _tracker_share(model: nn.Module, batch: tuple[Tensor, Tensor], catalog: Catalog) -> float:
    """Time of `Tracker.observe` as a share of a training step on the same batch."""
    images, labels = batch
    optimiser = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9)
    tracker = Tracker(len(catalog))
    tracker.set_epoch(0)
    ids = torch.arange(len(labels))
    shares = []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        optimiser.zero_grad()
        logits = model(images)
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if images.is_cuda:
            torch.cuda.synchronize()
        stepped = time.perf_counter()
        tracker.observe(ids, logits.detach(), labels)
        shares.append((time.perf_counter() - stepped) / (stepped - began))
    return statistics.median(shares[1:])


def format_table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    rows = {row["stage"]: row["rows_per_second"] for row in result["rows"]}
    harmonic = 1 / (1 / rows[FORWARD] + 1 / rows[LOADER])
    columns: Columns[dict[str, Any]] = {
        "stage": lambda row: row["stage"],
        "rows/s": lambda row: f"{row['rows_per_second']:,.1f}",
        "slowest": lambda row: f"{min(row['rounds']):,.1f}",
        "fastest": lambda row: f"{max(row['rounds']):,.1f}",
    }
    shared = (
        f"loader and model share this CPU, which leaves {harmonic:,.1f} rows/s without any other cost (harmonic "
        f"bound): extraction reaches {result['ratio_to_harmonic_bound']:.3f} of that\n"
    )
    return (
        f"{result['images']} images of {result['data']}, {result['model']}, batch {result['batch_size']}, "
        f"{result['device']}, {result['threads']} threads\n"
        f"{table_of(result['rows'], columns).text()}\n"
        f"extraction of the slower of forward and loader: {result['ratio_to_bound']:.3f} (goal 0.95)\n"
        f"{shared if result['device'] == 'cpu' else ''}"
        f"time added by the gradient norm (last): {result['grad_norm_cost']:.1%} (goal 3 %)\n"
        f"candidate over {result['candidate_rows']:,} rows: {result['candidate_seconds']:.4f} s (goal 0.040)\n"
        f"ranks of one feature: {result['cdf_seconds']:.4f} s (goal 0.150)\n"
        f"tracker: {result['tracker_share']:.2%} of a training step (goal 1 %)"
    )
