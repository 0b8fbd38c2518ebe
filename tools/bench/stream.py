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
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

from drawstream.samplers import IndexStream

__all__ = ["missing_systems", "run"]

ROUND_DRAWS = 2_000_000
SEEK_ROWS = 1024
TORCH_MOST_ROWS = 1 << 24  # torch.multinomial refuses more categories
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Draw = Callable[[int], Any]  # round number -> indices


def run(
    rows: Sequence[int] = (1_280_000,), *, rounds: int = 5, seed: int = 0, show: bool = True
) -> list[dict[str, Any]]:
    """Measure every system at every number of rows, print a table, and return its rows.

    Args:
        rows: numbers of rows N.
        rounds: alternating rounds per number of rows.
        seed: seed of weights and draws.
        show: print the table.

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
    """Who is not in the table of `run` at these numbers of rows, and why: system, mode, rows, reason."""
    missing = []
    for count in rows:
        if count > TORCH_MOST_ROWS:
            missing += [
                (name, "multinomial", count, _REFUSES) for name in ("torch.multinomial", "WeightedRandomSampler")
            ]
        if find_spec("spdl") is None:
            missing += [(_SPDL, mode, count, "not installed") for mode in ("multinomial", "permutation")]
    return [dict(zip(("system", "mode", "rows", "reason"), each, strict=True)) for each in missing]


_SPDL = "spdl.DistributedRandomSampler"
_REFUSES = f"refuses more than {TORCH_MOST_ROWS} rows"


def _compare(rows: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    weights = np.random.default_rng(seed).random(rows) + 0.01
    draws = min(rows, ROUND_DRAWS)
    warm = IndexStream(weights[:2000].copy(), mode="subset", draws=1000)  # compile before the clock starts
    warm.epoch(0)[:]
    for mode in ("permutation", "stratified", "multinomial"):
        IndexStream(2000 if mode == "permutation" else weights[:2000].copy(), mode=mode).epoch(0)[:]
    table, contenders = [], []
    for (system, mode), build in _systems(weights, draws, seed).items():
        base = _reset_peak()
        began = time.perf_counter()
        try:
            first, draw, seek = build()
            first()
        except RuntimeError:  # torch.multinomial knows at most 2^24 rows
            continue
        setup = time.perf_counter() - began
        count = len(draw(0))
        peak = _peak()
        row: dict[str, Any] = {
            "system": system,
            "mode": mode,
            "rows": rows,
            "draws_per_second": 0.0,
            "setup_seconds": setup,
        }
        row |= {"peak_bytes": None if base is None or peak is None else max(0, peak - base), "seek_seconds": None}
        if seek is not None:
            row["seek_seconds"] = _seek_time(seek, rows if system == "drawstream" and mode != "subset" else rows // 2)
        if rows > 10 * ROUND_DRAWS:  # tables of several systems at once would not fit: measure now, one after another
            row["draws_per_second"] = max(_rate(draw, i, count) for i in range(min(rounds, 2)))
        else:
            contenders.append((row, draw, count))
        table.append(row)
        del first, draw, seek
    for i in range(rounds):
        for row, draw, count in contenders:
            row["draws_per_second"] = max(row["draws_per_second"], _rate(draw, i, count))
    return table


Setup = Callable[[], tuple[Any, ...]]  # -> (get the first index, draw a round, read at a position or None)


def _systems(weights: np.ndarray, draws: int, seed: int) -> dict[tuple[str, str], Setup]:
    """For each system and mode a function that sets it up."""
    ours: dict[tuple[str, str], Setup] = {
        ("drawstream", mode): partial(_ours, weights, draws, seed, mode)
        for mode in ("multinomial", "stratified", "subset", "permutation")
    }
    return ours | _weighted_peers(weights, draws, seed) | _uniform_peers(weights.size, seed)


def _ours(weights: np.ndarray, draws: int, seed: int, mode: str) -> tuple[Any, ...]:
    rows = weights.size
    length = rows // 2 if mode == "subset" else rows
    stream = IndexStream(rows if mode == "permutation" else weights, mode=mode, seed=seed, draws=length)
    order = stream.epoch(0)
    part = min(length, draws)
    parts = length // part
    return (
        lambda: order[0],
        lambda i: order[i % parts * part : (i % parts + 1) * part],
        lambda position: order[position : position + SEEK_ROWS],
    )


def _weighted_peers(weights: np.ndarray, draws: int, seed: int) -> dict[tuple[str, str], Setup]:
    rows = weights.size

    def plain(draw: Callable[[int], Any]) -> tuple[Any, ...]:
        return (lambda: draw(1)), (lambda _: draw(draws)), None

    def torch_multinomial() -> tuple[Any, ...]:
        p = torch.from_numpy(weights)
        return plain(lambda count: torch.multinomial(p, count, replacement=True))

    def weighted_random_sampler() -> tuple[Any, ...]:
        return plain(lambda count: list(WeightedRandomSampler(weights, count)))  # type: ignore[arg-type]

    def numpy_choice() -> tuple[Any, ...]:
        generator, p = np.random.default_rng(seed), weights / weights.sum()
        return plain(lambda count: generator.choice(rows, count, p=p))

    def spdl() -> tuple[Any, ...]:
        sampler = partial(import_module("spdl.source").DistributedRandomSampler, rows, rank=0, world_size=1)
        return plain(lambda count: list(sampler(num_draws=count, weights=weights)))

    systems: dict[str, Setup] = {
        "torch.multinomial": torch_multinomial,
        "WeightedRandomSampler": weighted_random_sampler,
        "numpy.Generator.choice": numpy_choice,
    }
    if find_spec("spdl") is not None:
        systems[_SPDL] = spdl
    return {(name, "multinomial"): setup for name, setup in systems.items()}


def _uniform_peers(rows: int, seed: int) -> dict[tuple[str, str], Setup]:
    def whole(draw: Callable[[], Any]) -> tuple[Any, ...]:
        return draw, (lambda _: draw()), None

    def spdl() -> tuple[Any, ...]:
        sampler = import_module("spdl.source").DistributedRandomSampler(rows, rank=0, world_size=1)
        return whole(lambda: list(sampler))

    systems: dict[str, Setup] = {
        "torch.randperm": lambda: whole(lambda: torch.randperm(rows)),
        "numpy.Generator.permutation": lambda: whole(partial(np.random.default_rng(seed).permutation, rows)),
    }
    if find_spec("spdl") is not None:
        systems[_SPDL] = spdl
    return {(name, "permutation"): setup for name, setup in systems.items()}


def _rate(draw: Draw, number: int, count: int) -> float:
    began = time.perf_counter()
    draw(number)
    return count / (time.perf_counter() - began)


def _seek_time(read: Callable[[int], Any], length: int) -> float:
    """Median time to read 1024 indices at a random position."""
    times = []
    for position in np.random.default_rng(1).integers(0, max(1, length - SEEK_ROWS), 101):
        began = time.perf_counter()
        read(int(position))
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _status(key: str) -> int | None:
    if not _STATUS.exists():
        return None
    lines = [line for line in _STATUS.read_text().splitlines() if line.startswith(key)]
    return int(lines[0].split()[1]) * 1024 if lines else None


def _reset_peak() -> int | None:
    """Resident bytes now, with the kernel's peak set back to them; None where there is no /proc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc: give freed memory back, or the next one reuses it
    if trim is not None:
        trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak() -> int | None:
    return _status("VmHWM")


def format_table(table: list[dict[str, Any]]) -> str:
    """The result as lines of text, speeds also as multiples of torch.multinomial and numpy's permutation."""
    reference = {
        (row["rows"], row["system"]): row["draws_per_second"]
        for row in table
        if row["system"] in ("torch.multinomial", "numpy.Generator.permutation")
    }
    lines = [
        f"{'rows':>11} {'mode':<12} {'system':<28} {'M draws/s':>9} {'x torch':>8} {'x numpy':>8} "
        f"{'set-up s':>9} {'peak MB':>8} {'seek us':>8}"
    ]
    for row in table:
        speed = row["draws_per_second"]
        ratios = [
            f"{speed / reference[row['rows'], name]:8.1f}" if (row["rows"], name) in reference else f"{'-':>8}"
            for name in ("torch.multinomial", "numpy.Generator.permutation")
        ]
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        seek = "-" if row["seek_seconds"] is None else f"{row['seek_seconds'] * 1e6:.0f}"
        lines.append(
            f"{row['rows']:>11} {row['mode']:<12} {row['system']:<28} {speed / 1e6:9.1f} {ratios[0]} {ratios[1]} "
            f"{row['setup_seconds']:9.4f} {peak:>8} {seek:>8}"
        )
    return "\n".join(lines)
