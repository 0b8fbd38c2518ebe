"""Cost per row of a rehearsal's stages, extrapolated to ImageNet's photographs and to 10^9 rows.

Notation
    n1, n2   training rows of the two measured ways;  y1, y2   a stage's seconds, bytes held or bytes written there
    b        (y2 - y1) / (n2 - n1), by the row;  a = y2 - b n2, fixed.  Then y(n) = a + b n, the law "rows"
    g        log(y2 / y1) / log(n2 / n1) of the CPU time: below 1 the start counts, above 1 it does not scale

Two sizes give two numbers, so they cannot show that a law is straight; g above 1 shows that it is not. Where y falls
from n1 to n2 (noise, or nothing depends on the rows) the law is "fixed": the larger of both, and b = 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drawstream.tools.experiments import Columns, table_of

PARTS = ("eighth", "full")
IMAGENET, BILLION = 1_281_167, 10**9  # rows
PASSES = 40 * 0.25 + (3 + 1) * 3 * 2  # over the rows in a search by default: 40 candidates, then the confirmation
MEMORY = 64e9  # bytes of the machine that 10^9 rows are held against
STEEP = 1.15  # g from which a stage is said to grow faster than its rows
BY_BYTES = ("pack", "index", "verify")  # what photographs cost there is measured with photographs
BY_IMAGES = ("train uniform", "features", "search", "train swift")  # there the loader's rate bounds them

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Law:
    """y(n) = fixed + by_row n; kind is `rows` or `fixed`."""

    fixed: float
    by_row: float
    kind: str

    def at(self, rows: float) -> float:
        """y(n)."""
        return self.fixed + self.by_row * rows


def fit(rows: tuple[float, float], values: tuple[float, float], /) -> Law:
    """The law through two measurements."""
    (n1, n2), (y1, y2) = rows, values
    by_row = (y2 - y1) / (n2 - n1)
    if by_row <= 0:
        return Law(max(values), 0.0, "fixed")
    if by_row * n2 > y2:  # steeper than the rows: the line through zero is the least that can be said
        return Law(0.0, y2 / n2, "rows")
    return Law(y2 - by_row * n2, by_row, "rows")


def extrapolate(stages: Sequence[Figures], /, *, photos_per_second: float | None) -> dict[str, Any]:
    """Laws of all stages, and what they say of ImageNet and of 10^9 rows.

    Returns:
        `laws`, `imagenet` and `billion`: per stage what is computed, and by which law.
    """
    by_part = {part: {each["stage"]: each for each in stages if each["part"] == part} for part in (*PARTS, "photos")}
    small, full = (by_part[part] for part in PARTS)
    rows = small["index"]["rows"], full["index"]["rows"]
    laws: dict[str, tuple[dict[str, Law], float]] = {}
    for name in full:
        pair = small[name], full[name]
        found = {what: fit(rows, (pair[0][what], pair[1][what])) for what in ("seconds", "held", "written")}
        growth = math.log(max(pair[1]["cpu"], 0.01) / max(pair[0]["cpu"], 0.01)) / math.log(rows[1] / rows[0])
        laws[name] = (found, growth)
    photographs = [
        _photographs(name, found, full[name]["rows"] / rows[1], by_part["photos"], photos_per_second)
        for name, (found, _) in laws.items()
        if name != "images" and (photos_per_second is not None or name not in BY_BYTES + BY_IMAGES)
    ]
    if photos_per_second is not None:
        longer = _photographs("search", laws["search"][0], PASSES, by_part["photos"], photos_per_second)
        photographs.append(longer | {"stage": "search, by default"})
    return {
        "laws": [
            {"stage": name, "growth": growth, "steep": growth > STEEP, **{k: asdict(law) for k, law in found.items()}}
            for name, (found, growth) in laws.items()
        ],
        "imagenet": photographs,
        "billion": [_computed(name, found, BILLION, "rows, of small raw images") for name, (found, _) in laws.items()],
    }


def _computed(name: str, found: Mapping[str, Law], rows: int, law: str) -> dict[str, Any]:
    held = found["held"].at(rows)
    values = {"seconds": found["seconds"].at(rows), "held": held, "written": found["written"].at(rows)}
    return {"stage": name, "rows": rows, **values, "fits": held <= MEMORY, "law": law, "measured": False}


def _photographs(
    name: str, found: Mapping[str, Law], passes: float, photos: Mapping[str, Figures], rate: float | None
) -> dict[str, Any]:
    """A stage over ImageNet: seconds by what a photograph costs there, memory by the rows, disk by bytes or rows."""
    entry = _computed(name, found, IMAGENET, "rows")
    if rate is not None and name in BY_BYTES:
        mine = photos[name]
        fixed = min(found["seconds"].fixed, mine["seconds"] / 2)
        entry["seconds"] = fixed + IMAGENET * (mine["seconds"] - fixed) / mine["rows"]
        entry["law"] = f"photographs, {mine['rows']} measured; memory by rows"
        if name == "pack":
            entry["written"] = IMAGENET * mine["written"] / mine["rows"]
    elif rate is not None and name in BY_IMAGES:
        entry["seconds"] = found["seconds"].fixed + IMAGENET * passes / rate
        entry["held"] += photos["load"]["held"]
        entry["law"] = f"{passes:.3g} × rows at {rate:.0f} photographs/s decoded; the model's time comes on top"
    return entry


def report(result: Mapping[str, Any], /) -> str:
    """Return all of it as text: what was measured, the laws, what they say."""
    machine = result["machine"]
    measured: Columns[Figures] = {
        "measured": lambda each: f"{each['part']} {each['stage']}",
        "rows": lambda each: str(each["rows"]),
        "s": _number("seconds", 1, ".1f"),
        "CPU s": _number("cpu", 1, ".1f"),
        "rows/s": lambda each: f"{each['rows'] / each['seconds']:,.0f}",
        "held MB": _number("held", 1e-6, ",.0f"),
        "peak MB": _number("peak", 1e-6, ",.0f"),
        "disk MB": _number("written", 1e-6, ",.1f"),
        "silent s": _number("silent", 1, ".1f"),
        "load": _number("load", 1, ".1f"),
    }
    laws: Columns[Figures] = {
        "computed: laws": lambda each: each["stage"],
        "s": lambda each: f"{each['seconds']['fixed']:.1f}",
        "+ µs/row": lambda each: f"{1e6 * each['seconds']['by_row']:.2f}",
        "MB": lambda each: f"{each['held']['fixed'] / 1e6:,.0f}",
        "+ B/row": lambda each: f"{each['held']['by_row']:.1f}",
        "disk B/row": lambda each: f"{each['written']['by_row']:.1f}",
        "g": lambda each: f"{each['growth']:.2f}{' faster than the rows' if each['steep'] else ''}",
    }
    computed: Columns[Figures] = {
        "time": lambda each: duration(each["seconds"]),
        "held GB": _number("held", 1e-9, ".2f"),
        "disk GB": _number("written", 1e-9, ".2f"),
        "by the law of": lambda each: each["law"] + ("" if each["fits"] else f"; more than {MEMORY / 1e9:.0f} GB"),
    }
    name: Columns[Figures] = {"stage": lambda each: each["stage"]}
    tables = [
        table_of(result["stages"], measured),
        table_of(result["laws"], laws),
        table_of(result["imagenet"], {**name, **computed}, "computed: ImageNet"),
        table_of(result["billion"], {**name, **computed}, "computed: 10^9 rows"),
    ]
    first = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB, "
        f"load {machine['load']:.1f}, {result['date']}"
    )
    return "\n\n".join([first, *(table.text() for table in tables)])


def _number(key: str, scale: float, form: str) -> Callable[[Figures], str]:
    return lambda each: format(each[key] * scale, form)


def duration(seconds: float, /) -> str:
    """Seconds, minutes, hours or days, whichever reads well."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
