"""The data of the runs: what each data set is called, and whether two runs were trained and judged on the same one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drawstream.pipeline import Catalog, RemoteError
from drawstream.pipeline.shards.remote import is_url
from drawstream.tools.report.records import TrainRecord
from drawstream.tools.report.sampled_rows import SampledRows

__all__ = ["Data", "read_data", "source_name"]

SPLITS = ("train", "training", "test", "val", "/")


@dataclass(frozen=True, slots=True)
class Data:
    """Data sets of some runs.

    Attributes:
        described: Short name and description of every distinct data set that is still there.
        names: Short name and number of rows, by fingerprint.
        judged: Fingerprint (or address) of the data of a run's result, by its record; "" where it is gone.
    """

    described: Sequence[tuple[str, str]]
    names: Mapping[str, str]
    judged: Mapping[Path, str]


def read_data(runs: Sequence[TrainRecord], samplings: Sequence[SampledRows], /, *, remote: bool = True) -> Data:
    """Open every catalog that the runs name, once; one that is gone contributes nothing.

    Args:
        runs: Records of trainings.
        samplings: Searches, whose data are open.
        remote: Whether data on a server are read; if not, they contribute nothing.

    Raises:
        ValueError: A catalog is damaged, or a run was trained on other data than lie there now.
    """
    opened: dict[str, Catalog | None] = {_key(each.catalog.path.parent): each.catalog for each in samplings}
    for run in runs:
        catalog = None if not remote and is_url(run.catalog) else _open(run, run.catalog, opened)
        stated = run.document.get("catalog_fingerprint")
        if catalog is not None and stated not in (None, catalog.fingerprint):
            raise ValueError(
                f"{run.path}: trained on catalog {str(stated)[:12]}, but {catalog.path} is {catalog.fingerprint[:12]}: "
                "the data was packed anew; train again"
            )
    trained = [catalog for catalog in opened.values() if catalog is not None]
    described = _describe(trained)
    names = {each.fingerprint: f"{_describe([each])[0][0]}, {len(each):,} rows" for each in trained}
    judged = {run.path: _judged(run, opened) for run in runs}
    return Data(described, names, judged)


def _judged(run: TrainRecord, opened: dict[str, Catalog | None]) -> str:
    place = run.evaluation
    if not isinstance(place, Path):  # what lies elsewhere is known by its address
        return place or ""
    try:
        catalog = _open(run, place, opened)
    except ValueError:  # damaged since: the result stands, only what it was measured on cannot be told
        return ""
    return "" if catalog is None else catalog.fingerprint


def _key(place: Path | str) -> str:
    return str(place.resolve()) if isinstance(place, Path) else place


def _open(run: TrainRecord, place: Path | str, opened: dict[str, Catalog | None]) -> Catalog | None:
    key = _key(place)
    if key not in opened:
        try:
            opened[key] = Catalog.open(place)
        except (FileNotFoundError, RemoteError):
            opened[key] = None
        except ValueError as error:
            raise ValueError(f"{run.path}: {error}") from None
    return opened[key]


def source_name(catalog: Catalog, /) -> str:
    """Return the name of the images' source: the last part of its path that is not the name of a split."""
    parts = Path(str(catalog.provenance.get("source", catalog.root.name))).parts
    return next((part for part in reversed(parts) if part not in SPLITS), "".join(parts[-1:]) or "data")


def _describe(catalogs: Sequence[Catalog]) -> list[tuple[str, str]]:
    """Catalogs that differ in their noise only, as those of a demo's seeds, are described as one data set."""
    noises: dict[tuple[str, str], list[float]] = {}
    for catalog in catalogs:
        name = source_name(catalog)
        what = f"{name}: {len(catalog):,} training images, {catalog.num_classes} classes"
        known = noises.setdefault((name, what), [])
        if catalog.clean_label is not None:
            known.append(100 * float((catalog.label != catalog.clean_label).mean()))
    described = []
    for (name, what), known in noises.items():
        if not known:
            described.append((name, f"{what}, true labels not recorded"))
            continue
        low, high = f"{min(known):.2f}", f"{max(known):.2f}"
        share = low if low == high else f"{low} to {high}"
        described.append((f"{name}, {np.mean(known):.0f} % label noise", f"{what}, {share} % of the labels wrong"))
    return described
