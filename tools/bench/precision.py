"""Training in bf16 with channels last beside float32: seconds of the same steps, and accuracy.

The variants take turns, a whole short training each, from the same initial weights on the same rows; a round has a seed
of its own. Of the times the median over the rounds counts, of the accuracies every difference: paired by seed.

    seconds   of training, waits for data included, evaluation not
    cpu       of the processor in this process, evaluation included
    speed     seconds of float32 over those of the variant
"""

import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch

from drawstream.samplers.orders import IndexStream
from drawstream.tools.experiments import Table
from drawstream.tools.training import Evaluation, Recipe, Setup, flush_denormals, train

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, channels last": {"channels_last": True},
    "bf16": {"amp": "bf16"},
    "bf16, channels last": {"amp": "bf16", "channels_last": True},
}


def run_precision(
    data: Path, held_out: Path, /, *, model: str, rows: int, epochs: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Train every variant `rounds` times on `rows` images drawn per epoch, print a table, and return its rows."""
    flush_denormals()
    torch.set_num_threads(threads)
    setup = Setup(data, model, held_out)
    loader, held = setup.training_loader(), setup.evaluation_loaders("held_out")
    evaluation = Evaluation(held, every=epochs)
    found: list[dict[str, Any]] = []
    for seed in range(rounds):
        loader.replace_stream(IndexStream(len(setup.data), seed=seed, draws=min(rows, len(setup.data))))
        for name, changed in VARIANTS.items():
            recipe, begin = replace(Recipe(epochs, seed=seed), **changed), time.process_time()
            run = train(setup.build(seed), loader, recipe, evaluation=evaluation)
            spent = {"seconds": run.seconds, "cpu": time.process_time() - begin, "accuracy": run.last("held_out")}
            found.append({"variant": name, "seed": seed, **spent})
            told = f"{run.seconds:.2f} s, {spent['accuracy']:.2f} %"
            print(f"round {seed + 1}/{rounds}, {name}: {told}", flush=True)
    for each in (loader, *held.values()):
        each.close()
    rows_ = [_summary(name, found) for name in VARIANTS]
    head = ("variant", "seconds", "speed", "speed (cpu)", "held-out top-1 %", "less float32's")
    cells = [tuple(row[key] for key in ("variant", "seconds", "speed", "cpu", "accuracy", "less")) for row in rows_]
    print(Table(head, tuple(cells)).text())
    return {"rows": found, "model": model, "images": rows, "epochs": epochs, "threads": threads}


def _summary(name: str, found: list[dict[str, Any]]) -> dict[str, str]:
    """Cells of a variant: medians of times and ratios, mean and deviation of accuracies and of their differences."""
    control, mine = ([row for row in found if row["variant"] == each] for each in ("float32", name))
    pairs = list(zip(control, mine, strict=True))
    less = [own["accuracy"] - other["accuracy"] for other, own in pairs]
    return {
        "variant": name,
        "seconds": f"{median(row['seconds'] for row in mine):.2f}",
        **{
            key: f"{median(other[of] / own[of] for other, own in pairs):.2f}"
            for key, of in (("speed", "seconds"), ("cpu", "cpu"))
        },
        "accuracy": f"{fmean(row['accuracy'] for row in mine):.2f}",
        "less": f"{fmean(less):+.2f} ± {stdev(less) if len(less) > 1 else 0:.2f}",
    }
