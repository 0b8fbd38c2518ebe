"""`drawstream fit`: a sampler from given parameters, or another table's sampler carried to this one."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drawstream.tools.cli.features import TableOptions
from drawstream.tools.cli.options import FrozenOptions
from drawstream.tools.runs import FINITE, finish, option

if TYPE_CHECKING:
    from drawstream.features.table import FeatureTable
    from drawstream.samplers.swift import SwiftSampler

PARAMETERS = ("coefficients", "ends", "values", "features", "transform")


@dataclass(frozen=True, kw_only=True)
class FitOptions(TableOptions, FrozenOptions):
    """Options of `fit`."""

    out: Path = option(..., "Write this sampler.json.", "--out", "-o")
    coefficients: tuple[float, ...] = option((1.0, 0.0), "v: a weight per feature, comma list.", within=FINITE)
    ends: tuple[float, ...] = option((0.25, 0.5, 0.75), "e: inner ends of the segments, comma list.", within=FINITE)
    values: tuple[float, ...] = option(
        (1.0, 1.0, 1.0, 0.0, 0.0),
        "o: values at the ends, comma list; by default without the worst half.",
        within=FINITE,
    )
    features: tuple[str, ...] = option(("loss", "entropy"), "Columns the sampler reads, comma list.")
    transform: Literal["cgf", "cdf"] = option("cgf", "Transform of the features.")
    like: Path | None = option(None, "Carry over this sampler.json of another table; instead of all of the above.")
    probabilities: Path | None = option(
        None, "Write P to this file (.npy) too, block by block: the table may be larger than memory."
    )


def fit(given: FitOptions) -> None:
    """Make a sampler from given parameters, without a search; or carry one to another feature table.

    Example, drop the worst half by loss: drawstream fit features -o drop.json --transform cdf --values 1,1,1,0,0

    Carried to another model's features: drawstream fit features-of-b -o b.json --like a/sampler.json
    """
    from drawstream.samplers import effective_sample_size
    from drawstream.samplers.swift import SwiftSampler

    file = given.probabilities
    parameters = {name: getattr(given, name) for name in PARAMETERS}
    if file is not None and file.suffix != ".npy":
        raise ValueError(f"--probabilities writes a NumPy file, but got {file}: give it the ending .npy")
    usual = {each.name: each.default for each in fields(given)}
    for name, value in parameters.items():
        if given.like is not None and (name in given.typed or value != usual[name]):
            raise ValueError(f"--like takes everything from {given.like}, but --{name} was given too: leave it out")
    if given.like is None and given.frozen:
        raise ValueError("--frozen keeps the tables of another sampler: say of which with --like")
    table = given.open()
    if given.like is None:
        sampler, p = _fit(table, file, **parameters)
    else:
        sampler, p = _carry(SwiftSampler.load(given.like), table, file, given.frozen)
    sampler.save(given.out)
    ess = effective_sample_size(p)
    result = {"sampler": str(given.out), "rows": len(table), "ess": ess, "zero_rows": int((p == 0).sum())}
    finish(result, given.json_path, f"effective sample size {ess:.0f} of {len(table)} rows: {given.out}")


def _fit(
    table: "FeatureTable", file: Path | None, /, *, features: tuple[str, ...], transform: Any, **params: Any
) -> tuple["SwiftSampler", Any]:
    """The sampler of these parameters, and P of the rows."""
    from drawstream import fit_blocks
    from drawstream.samplers.files import map_weights
    from drawstream.samplers.swift import SwiftFit, SwiftParams, requested_columns
    from drawstream.tools.runs import command_line
    from drawstream.tools.training import origin

    law, names = SwiftParams(**params), list(features)
    noted = {**origin(table), "command": command_line()}
    if file is not None:
        sampler = fit_blocks(table.blocks, file, law, features=names, transform=transform, provenance=noted)
        return sampler, map_weights(file)
    columns = table.columns(*dict.fromkeys(requested_columns(names, "grad_norm", transform)))
    fitted = SwiftFit(columns, features=names, transform=transform)
    return fitted.sampler(law, provenance=noted), fitted.probabilities(law)


def _carry(
    sampler: "SwiftSampler", table: "FeatureTable", file: Path | None, frozen: bool
) -> tuple["SwiftSampler", Any]:
    """The sampler carried to a table, and P of its rows."""
    from drawstream import fit_blocks
    from drawstream.samplers.files import map_weights
    from drawstream.samplers.swift import score_blocks
    from drawstream.tools.training import carry, fitted_on, needed_columns, origin

    if file is None:
        carried = carry(sampler, table, frozen=frozen)
        return carried, carried.probabilities(table.columns(*sampler.features))
    if frozen or fitted_on(sampler, table):
        score_blocks(table.blocks, file, sampler, rows=len(table))
    else:
        needed_columns(sampler, table)
        noted = {**origin(table), "refitted_from": sampler.provenance}
        law: dict[str, Any] = {"features": sampler.features, "transform": sampler.transform}
        sampler = fit_blocks(table.blocks, file, sampler.params, **law, provenance=noted)
    return sampler, map_weights(file)
