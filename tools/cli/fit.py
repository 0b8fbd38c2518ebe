"""`drawstream fit`, `suspects` and `duplicates`: better draws without a search."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drawstream.tools.cli.features import TableOptions
from drawstream.tools.cli.options import (
    CATALOG,
    MODEL,
    MODELS,
    ClassesOptions,
    DryRunOptions,
    FrozenOptions,
    JobOptions,
    RecipeOptions,
    ResultOptions,
    TrainedOptions,
    place,
    run_job,
)
from drawstream.tools.runs import FINITE, argument, finish, option, tell_notes

if TYPE_CHECKING:
    from drawstream.features.table import FeatureTable
    from drawstream.pipeline.shards import Catalog
    from drawstream.samplers.swift import SwiftSampler

PARAMETERS = ("coefficients", "ends", "values", "features", "transform")


@dataclass(frozen=True, kw_only=True)
class FitOptions(TableOptions, FrozenOptions):
    """Options of `fit`."""

    out: Path = option(..., "Write this sampler.json.", "--out", "-o")
    method: Literal["parameters", "clean"] = option(
        "parameters",
        "Take the parameters below, or draw rows by the probability that their label is right (clean), from the margin "
        "or, with --features loss, the loss of a tracked table.",
    )
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


@dataclass(frozen=True, kw_only=True)
class SuspectsOptions(TableOptions, TrainedOptions, RecipeOptions, JobOptions):
    """Options of `suspects`; how a model is trained goes with --folds."""

    table: Path | None = argument(  # type: ignore[assignment]
        "Folder of a feature table that a training tracked; none with --folds.", None
    )
    out: Path = option(..., "Folder to write.", "--out", "-o")
    folds: int | None = option(
        None,
        "Train so many times, each on the rows of the other folds, and rank by predictions for rows that a model was "
        "not trained on; with --model, --epochs and the rest as in train.",
        within=(2, 1000),
    )
    method: Literal["margin", "confident", "loss", "agreement"] = option(
        "margin",
        "Score by the averaged margin, by confident learning (margin over thresholds of the classes), by the averaged "
        "loss, or by the mean of their ranks (agreement).",
    )
    drop: float = option(0.5, "Drop rows whose label is wrong with at least this probability.", within=(0, 1))
    relabel: float | None = option(
        None, "Give rows whose label is wrong with at least this probability the suggested one.", within=(0, 1)
    )
    images: int = option(200, "Images on the page.", within=(1, 10**4))
    review: Path | None = option(None, "Follow the decisions that the page saved (review.json).")


@dataclass(frozen=True, kw_only=True)
class DuplicatesOptions(ClassesOptions, ResultOptions):
    """Options of `duplicates`."""

    catalog: list[str] = argument(CATALOG)
    out: Path = option(..., "Folder to write.", "--out", "-o")
    near: Literal["hash", "embedding", "none"] | None = option(
        None,
        "Also find what is nearly the same: by a perceptual hash, by embeddings (what the last linear layer of a model "
        "sees), or not at all; by default by embeddings where some are given, else by the hash.",
    )
    distance: int = option(3, "Largest number of differing bits of 64, of the hash.", within=(0, 16))
    threshold: float = option(0.95, "Least cosine of two embeddings.", within=(0, 1))
    model: str | None = option(None, MODEL, known=MODELS)
    weights: Path | None = option(None, "Weights of that model.")
    embedding: list[Path] = option(
        [], "Take the embeddings that `features --embedding` stored with this table, one for each catalog; repeatable."
    )
    search: Literal["auto", "exact", "faiss"] = option(
        "auto", "Compare all embeddings with all, or look by faiss; auto: faiss for more than 200 000."
    )


def fit(given: FitOptions) -> None:
    """Make a sampler from given parameters or by P(clean), without a search; or carry one to another feature table.

    Example, drop the worst half by loss: drawstream fit features -o drop.json --transform cdf --values 1,1,1,0,0

    Draw rows by the probability that their label is right: drawstream fit tracked -o clean.json --method clean

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
    told = ""
    if given.method == "clean":
        given.refuse_typed((*PARAMETERS[:3], "transform", "like", "probabilities"), "parameters, which P(clean) finds")
        sampler, p, told = _clean(table, given.features if "features" in given.typed else ("margin",))
    elif given.like is None:
        sampler, p = _fit(table, file, **parameters)
    else:
        sampler, p = _carry(SwiftSampler.load(given.like), table, file, given.frozen)
    sampler.save(given.out)
    ess = effective_sample_size(p)
    result = {"sampler": str(given.out), "rows": len(table), "ess": ess, "zero_rows": int((p == 0).sum())}
    finish(result, given.json_path, f"{told}effective sample size {ess:.0f} of {len(table)} rows: {given.out}")


def suspects(given: SuspectsOptions) -> None:
    """List the rows whose label is probably wrong, from one training that was tracked; a page to review them.

    Example: drawstream suspects tracked --catalog data/train -o suspects

    From five trainings, by predictions for rows that a model was not trained on:
    drawstream suspects --catalog data/train -o suspects --folds 5 --model resnet8 --epochs 15
    """
    if not given.catalog:
        raise ValueError("suspects are named by their catalog: give it with --catalog")
    if given.folds is None:
        _no_training(given)
        _list_suspects(given, given.open())
        return
    if given.table is not None or given.join:
        other = f"the table {given.table}" if given.table is not None else "--join"
        raise ValueError(f"--folds makes the table by trainings of its own: leave out {other}")
    from drawstream.tools.estimate import estimate_folds
    from drawstream.tools.jobs import FoldsJob, folds_job
    from drawstream.tools.training import join_ranks

    ranks = join_ranks(given.device)
    job = FoldsJob(given.setup(ranks=ranks), given.recipe(), given.out, given.folds)
    table = run_job(given, ranks, job, estimate_folds, folds_job)
    if table is not None:
        _list_suspects(given, table)


def _no_training(given: SuspectsOptions) -> None:
    """Refuse options of a training where there is none."""
    if given.table is None:
        raise ValueError("suspects are told by a training: give its table (train --track), or train with --folds 5")
    own = {each.name for base in (TableOptions, ResultOptions) for each in fields(base)}
    trained = {each.name for base in (TrainedOptions, RecipeOptions, DryRunOptions) for each in fields(base)}
    given.refuse_typed(sorted(trained - own), "--folds, which trains")


def _list_suspects(given: SuspectsOptions, table: "FeatureTable") -> None:
    """Write list, weights and page, and say what was found."""
    from drawstream.pipeline.shards import Catalog
    from drawstream.tools.suspects import write_suspects

    catalog = Catalog.open(given.catalog, classes=given.classes)
    catalog.require_labels("a list of suspects", "class")
    how: dict[str, Any] = {name: getattr(given, name) for name in ("method", "drop", "relabel", "images", "review")}
    record = write_suspects(table, catalog, given.out, **how)
    low, high = record["interval"]
    share = f"{record['wrong_share']:.1%} of {record['rows']:,} labels are probably wrong ({low:.1%} to {high:.1%})"
    done = f"{record['dropped']} rows dropped"
    done += f", {record['relabelled']} relabelled" if record["relabelled"] else ""
    finish(record, given.json_path, f"{share}; {done}: {given.out / 'suspects.html'}")


def duplicates(given: DuplicatesOptions) -> None:
    """List images that are in the data more than once, also across catalogs: leaks from training to test.

    Catalogs may have labels of any kinds and images of any encodings.

    Example: drawstream duplicates data/train data/holdout data/test -o duplicates
    """
    from drawstream.features import find_duplicates
    from drawstream.pipeline.shards import Catalog
    from drawstream.tools.suspects import write_duplicates

    near = given.near or ("embedding" if given.embedding or given.model or given.weights else "hash")
    if near != "hash":
        given.refuse_typed(("distance",), "--near hash")
    if near != "embedding":
        given.refuse_typed(("model", "weights", "embedding", "threshold", "search"), "--near embedding")
    try:
        catalog = Catalog.open(given.catalog, classes="union")
    except ValueError:  # labels or images do not fit each other; what else is wrong is said now
        catalog = Catalog.open(given.catalog, classes="none")
    how: dict[str, Any] = {"near": near != "none", "distance": given.distance, "threshold": given.threshold}
    how["search"] = given.search
    embeddings = _embeddings(given, catalog) if near == "embedding" else None
    found = find_duplicates(catalog, embeddings=embeddings, **how)
    told = {"near": near, "model": given.model, "tables": list(map(str, given.embedding))}
    told |= {name: how[name] for name in ("distance", "threshold", "search")}
    record = write_duplicates(catalog, found, given.out, told)
    kinds = ", ".join(f"{count:,} of equal {name}" for name, count in record["duplicates"].items() if name != "near")
    text = f"{record['groups']:,} groups in {len(catalog):,} images: {kinds}, {record['duplicates']['near']:,} alike"
    leaks = f"; {record['leaks']:,} groups in several catalogs" if len(catalog.sources) > 1 else ""
    finish(record, given.json_path, f"{text}{leaks}: {given.out / 'duplicates.csv'}")


def _embeddings(given: DuplicatesOptions, catalog: "Catalog") -> Any:
    """Embeddings of all rows: stored ones, or by the model."""
    import numpy as np

    from drawstream.features.table import FeatureTable
    from drawstream.tools.training import Setup, load_weights
    from drawstream.tools.training.methods import embed

    if given.embedding:
        if given.model or given.weights:
            raise ValueError("--embedding holds what a model saw: leave out --model and --weights")
        table = FeatureTable.open(*given.embedding, catalog=catalog)
        if not np.array_equal(table.sample_id, np.arange(len(catalog))):
            raise ValueError(f"{table.path}: duplicates are whole images: score all, without --crops and --where")
        return table.embedding()
    if given.model is None or given.weights is None:
        raise ValueError("--near embedding needs the model that embeds: give --model and --weights, or --embedding")
    setup = Setup(place(given.catalog), given.model, classes=given.classes)
    model = setup.build(0)
    load_weights(model, given.weights)
    return embed(setup, model)


def _clean(table: "FeatureTable", features: tuple[str, ...]) -> tuple["SwiftSampler", Any, str]:
    """The sampler by P(clean), P of the rows, and the share of wrong labels in words."""
    from drawstream.features import FEW_WRONG, clean_params, find_suspects, told_by_heart
    from drawstream.samplers.swift import SwiftFit
    from drawstream.tools.runs import command_line
    from drawstream.tools.training import origin

    if features not in (("margin",), ("loss",)):
        raise ValueError(f"P(clean) reads margin or loss, but --features is {','.join(features)}: give one of them")
    found: Any = find_suspects(table, method="margin" if features == ("margin",) else "loss")
    tell_notes(filter(None, [told_by_heart(table, found)]))
    fitted = SwiftFit(table.columns(*features), features=features, mass=None, transform="cdf")
    law = clean_params(found)
    about = {"wrong_share": found.share, "interval": list(found.interval)}
    noted = {**origin(table), "command": command_line(), "clean": about}
    told = f"{found.share:.1%} of the labels are probably wrong"
    told += f", fewer than {FEW_WRONG:.0%}: uniform; " if found.share < FEW_WRONG else "; "
    return fitted.sampler(law, provenance=noted), fitted.probabilities(law), told


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
