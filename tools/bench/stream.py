"""Index streams beside the samplers people use today: draws per second, set-up, memory, seeking.

All systems run in one process on one thread, in alternating rounds, and the fastest round of each counts, so a busy
machine hurts them alike. A round draws min(rows, 2 000 000) indices, or one full shuffle where a system knows no less.
Set-up is the time from weights to the first index. Memory is the growth of the peak resident set over set-up and one
round, the input weights not counted. A seek reads 1024 indices at a random position after set-up; the others hold no
position, they draw their list again, so theirs is empty. SPDL's sampler joins when the package is installed; who could
not take part is told by `missing_systems`.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

from drawstream.samplers.orders import IndexStream, Order
from drawstream.tools.experiments import number, table_of

__all__ = ["missing_systems", "run_stream"]

ROUND_DRAWS = 2_000_000
SEEK_ROWS = 1024
TORCH_MOST_ROWS = 1 << 24  # torch.multinomial refuses more categories
MODES = ("multinomial", "stratified", "subset", "permutation")
SPDL = "spdl.DistributedRandomSampler"
REFERENCES = {"× torch": "torch.multinomial", "× numpy": "numpy.Generator.permutation"}
_PROC = Path("/proc/self")

Draw = Callable[[int], Any]  # number of indices -> so many of them, or one full shuffle


def run_stream(
    rows: Sequence[int] = (1_280_000,), *, rounds: int = 5, seed: int = 0, show: bool = True
) -> list[dict[str, Any]]:
    """Measure every system at every number of rows, print a table, and return its rows.

    Returns:
        One dict per system and N: system, mode, rows, draws_per_second, setup_seconds, peak_bytes, seek_seconds
        (None where the system cannot, or the machine cannot tell).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        table = [row for count in rows for row in _compare(count, rounds, seed)]
    finally:
        torch.set_num_threads(threads)
    if show:
        print(format_table(table))
    return table


def missing_systems(rows: Sequence[int], /) -> list[dict[str, Any]]:
    """Return who is not in the table of `run_stream` at these numbers of rows, and why: system, mode, rows, reason."""
    refuses = f"refuses more than {TORCH_MOST_ROWS} rows"
    missing = []
    for count in rows:
        if count > TORCH_MOST_ROWS:
            missing += [
                (name, "multinomial", count, refuses) for name in ("torch.multinomial", "WeightedRandomSampler")
            ]
        if find_spec("spdl") is None:
            missing += [(SPDL, mode, count, "not installed") for mode in ("multinomial", "permutation")]
    return [dict(zip(("system", "mode", "rows", "reason"), each, strict=True)) for each in missing]


def _compare(rows: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    weights = np.random.default_rng(seed).random(rows) + 0.01
    for mode in MODES:  # compile before the clock starts
        _ours(weights[:2000].copy(), seed, mode)[0](1000)
    table, contenders = [], []
    for (system, mode), build in _systems(weights, seed).items():
        base = _reset_peak()
        began = time.perf_counter()
        try:
            draw, order = build()
            draw(1)
        except RuntimeError:  # torch.multinomial knows at most 2^24 rows
            continue
        setup = time.perf_counter() - began
        count = len(draw(min(rows, ROUND_DRAWS)))
        peak = _memory("VmHWM")
        row: dict[str, Any] = {"system": system, "mode": mode, "rows": rows}
        row |= {"draws_per_second": 0.0, "setup_seconds": setup}
        row["peak_bytes"] = None if base is None or peak is None else max(0, peak - base)
        row["seek_seconds"] = None if order is None else _seek_time(order)
        if rows > 10 * ROUND_DRAWS:  # tables of several systems at once would not fit: measure now, one after another
            row["draws_per_second"] = max(_rate(draw, count) for _ in range(min(rounds, 2)))
        else:
            contenders.append((row, draw, count))
        table.append(row)
        del draw, order
    for _ in range(rounds):
        for row, draw, count in contenders:
            row["draws_per_second"] = max(row["draws_per_second"], _rate(draw, count))
    return table


def _systems(weights: np.ndarray, seed: int) -> dict[tuple[str, str], Callable[[], tuple[Draw, Order | None]]]:
    """For each system and mode a function that sets it up: it gives what draws, and ours the order too."""
    rows = weights.size

    def spdl() -> Any:
        return partial(import_module("spdl.source").DistributedRandomSampler, rows, rank=0, world_size=1)

    def weighted_spdl() -> Draw:
        sampler = spdl()
        return lambda count: list(sampler(num_draws=count, weights=weights))

    def uniform_spdl() -> Draw:
        sampler = spdl()()
        return lambda _: list(sampler)

    def numpy_permutation() -> Draw:
        generator = np.random.default_rng(seed)
        return lambda _: generator.permutation(rows)

    peers: dict[tuple[str, str], Callable[[], Draw]] = {
        ("torch.multinomial", "multinomial"): lambda: partial(
            torch.multinomial, torch.from_numpy(weights), replacement=True
        ),
        ("WeightedRandomSampler", "multinomial"): lambda: lambda count: list(WeightedRandomSampler(weights, count)),  # type: ignore[arg-type]
        ("numpy.Generator.choice", "multinomial"): lambda: partial(
            np.random.default_rng(seed).choice, rows, p=weights / weights.sum()
        ),
        (SPDL, "multinomial"): weighted_spdl,
        ("torch.randperm", "permutation"): lambda: lambda _: torch.randperm(rows),
        ("numpy.Generator.permutation", "permutation"): numpy_permutation,
        (SPDL, "permutation"): uniform_spdl,
    }
    here = {key: build for key, build in peers.items() if key[0] != SPDL or find_spec("spdl") is not None}
    return {("drawstream", mode): partial(_ours, weights, seed, mode) for mode in MODES} | {
        key: partial(_peer, build) for key, build in here.items()
    }


def _peer(build: Callable[[], Draw]) -> tuple[Draw, None]:
    return build(), None


def _ours(weights: np.ndarray, seed: int, mode: str) -> tuple[Draw, Order]:
    rows = weights.size
    length = rows // 2 if mode == "subset" else rows
    order = IndexStream(rows if mode == "permutation" else weights, mode=mode, seed=seed, draws=length).epoch(0)
    part = min(length, ROUND_DRAWS)
    starts = cycle(range(0, length // part * part, part))  # a round after the other, each from its own place

    def draw(count: int) -> Any:
        begin = next(starts) if count > 1 else 0
        return order[begin : begin + min(count, part)]

    return draw, order


def _rate(draw: Draw, count: int) -> float:
    began = time.perf_counter()
    draw(count)
    return count / (time.perf_counter() - began)


def _seek_time(order: Order) -> float:
    """Median time to read 1024 indices at a random position."""
    times = []
    for position in np.random.default_rng(1).integers(0, max(1, len(order) - SEEK_ROWS), 101).tolist():
        began = time.perf_counter()
        order[position : position + SEEK_ROWS]
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _memory(key: str) -> int | None:
    """A line of /proc/self/status in bytes; None where there is none."""
    with suppress(OSError):
        lines = [line for line in (_PROC / "status").read_text().splitlines() if line.startswith(key)]
        return int(lines[0].split()[1]) * 1024 if lines else None
    return None


def _reset_peak() -> int | None:
    """Resident bytes now, with the kernel's peak set back to them; None where there is no /proc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc: give freed memory back, or the next one reuses it
    if trim is not None:
        trim(0)
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return None
    return _memory("VmRSS")


def format_table(table: Sequence[dict[str, Any]], /) -> str:
    """Return the result as lines of text, speeds also as multiples of torch.multinomial and numpy's permutation."""
    speeds = {(row["rows"], row["system"]): row["draws_per_second"] for row in table}

    def ratio(name: str) -> Callable[[dict[str, Any]], str]:
        def text(row: dict[str, Any]) -> str:
            base = speeds.get((row["rows"], name))
            return number(base and row["draws_per_second"] / base, ".1f")

        return text

    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "system": lambda row: row["system"],
        "mode": lambda row: row["mode"],
        "rows": lambda row: str(row["rows"]),
        "M draws/s": lambda row: f"{row['draws_per_second'] / 1e6:.1f}",
        **{head: ratio(name) for head, name in REFERENCES.items()},
        "set-up s": lambda row: f"{row['setup_seconds']:.4f}",
        "peak MB": lambda row: number(row["peak_bytes"] and row["peak_bytes"] / 1e6, ".0f"),
        "seek us": lambda row: number(row["seek_seconds"] and row["seek_seconds"] * 1e6, ".0f"),
    }
    return table_of(table, columns).text()
