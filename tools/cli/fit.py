"""`drawstream fit`: a sampler from given parameters, or another table's sampler carried to this one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from drawstream.tools.cli.features import Catalog, Join, open_table
from drawstream.tools.cli.options import Frozen, Json, one_of
from drawstream.tools.runs.bounds import numbers
from drawstream.tools.runs.record import finish

DEFAULTS = {  # the worst half by loss is left out
    "coefficients": "1,0",
    "ends": "0.25,0.5,0.75",
    "values": "1,1,1,0,0",
    "features": "loss,entropy",
    "transform": "cgf",
}


def _by_default(text: str, name: str) -> Any:
    return typer.Option(f"--{name}", help=text, show_default=DEFAULTS[name])


def fit(
    table: Annotated[Path, typer.Argument(help="Folder of a feature table.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="sampler.json to write.")],
    coefficients: Annotated[str | None, _by_default("v: one weight per feature, comma list.", "coefficients")] = None,
    ends: Annotated[str | None, _by_default("e: inner ends of the segments, comma list.", "ends")] = None,
    values: Annotated[str | None, _by_default("o: values at the ends, comma list.", "values")] = None,
    columns: Annotated[str | None, _by_default("Columns the sampler reads, comma list.", "features")] = None,
    transform: Annotated[str | None, _by_default("cgf or cdf.", "transform")] = None,
    like: Annotated[
        Path | None, typer.Option(help="sampler.json of another table, to carry over; instead of all of the above.")
    ] = None,
    frozen: Frozen = False,
    join: Join = None,
    catalog: Catalog = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(help="Write P there too (.npy), block by block: the table may be larger than memory."),
    ] = None,
    json_path: Json = None,
) -> None:
    """Make a sampler from given parameters, without a search; or carry one to another feature table.

    Example, drop the worst half by loss: drawstream fit features -o drop.json --transform cdf --values 1,1,1,0,0

    Carried to another model's features: drawstream fit features-of-b -o b.json --like a/sampler.json
    """
    from drawstream.samplers import SwiftSampler, effective_sample_size

    asked = {
        "coefficients": coefficients,
        "ends": ends,
        "values": values,
        "features": columns,
        "transform": transform,
    }
    given = {name: text for name, text in asked.items() if text is not None}
    if probabilities is not None and probabilities.suffix != ".npy":
        raise ValueError(f"--probabilities writes a NumPy file, but got {probabilities}: give it the ending .npy")
    if like is not None and given:
        raise ValueError(f"--like takes everything from {like}, but --{next(iter(given))} was given too: leave it out")
    if like is None and frozen:
        raise ValueError("--frozen keeps the tables of another sampler: say of which with --like")
    opened = open_table(table, join, catalog)
    if like is None:
        sampler, p = _fit(opened, probabilities, DEFAULTS | given)
    else:
        sampler, p = _carry(SwiftSampler.load(like), opened, probabilities, frozen)
    sampler.save(out)
    ess = effective_sample_size(p)
    result = {"sampler": str(out), "rows": len(opened), "ess": ess, "zero_rows": int((p == 0).sum())}
    finish(result, json_path, f"effective sample size {ess:.0f} of {len(opened)} rows: {out}")


def _fit(table: Any, file: Path | None, given: dict[str, str]) -> tuple[Any, Any]:
    """The sampler of these parameters, and P of the rows."""
    from drawstream.samplers import SwiftFit, SwiftParams
    from drawstream.samplers.files.weights_file import map_weights
    from drawstream.samplers.swift.fit_blocks import fit_blocks
    from drawstream.tools.runs.record import command
    from drawstream.tools.training.transfer import origin

    params = SwiftParams(*(numbers(name, given[name]) for name in ("coefficients", "ends", "values")))
    names, law = given["features"].split(","), one_of("transform", given["transform"])
    noted = {**origin(table), "command": command()}
    if file is not None:
        sampler = fit_blocks(table.blocks, file, params, features=names, transform=law, provenance=noted)
        return sampler, map_weights(file)
    mass = ["grad_norm"] if law == "cgf" else []
    fitted = SwiftFit(table.columns(*dict.fromkeys([*names, *mass])), features=names, transform=law)
    return fitted.sampler(params, provenance=noted), fitted.probabilities(params)


def _carry(sampler: Any, table: Any, file: Path | None, frozen: bool) -> tuple[Any, Any]:
    """The sampler carried to a table, and P of its rows."""
    from drawstream.samplers.files.weights_file import map_weights
    from drawstream.samplers.swift.fit_blocks import fit_blocks, score_blocks
    from drawstream.tools.training.transfer import carry, fitted_on, needed_columns, origin

    if file is None:
        carried = carry(sampler, table, frozen=frozen)
        return carried, carried.probabilities(table.columns(*sampler.features))
    if frozen or fitted_on(sampler, table):
        score_blocks(table.blocks, file, sampler, rows=len(table))
    else:
        needed_columns(sampler, table)
        noted = {**origin(table), "refitted_from": sampler.provenance}
        law = {"features": sampler.features, "transform": sampler.transform}
        sampler = fit_blocks(table.blocks, file, sampler.params, **law, provenance=noted)
    return sampler, map_weights(file)
