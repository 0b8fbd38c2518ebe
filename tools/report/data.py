"""The folders and data of a report: their names, and the data sets that runs were trained and judged on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drawstream.pipeline.catalogs import Places
from drawstream.pipeline.shards import Catalog, RemoteError
from drawstream.tools.report.left_out import server_of
from drawstream.tools.report.records import TrainRecord
from drawstream.tools.report.sampled_rows import SampledRows

__all__ = ["Data", "name_folders", "read_data", "source_name"]

SPLITS = ("train", "training", "test", "val", "/")


def name_folders(folders: Sequence[Path], /) -> list[str]:
    """Name each folder by the end of its path, as long as it takes to tell them apart; "" for a single one.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: One comes twice, or lies in another: its runs would be counted twice.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; give the one that `drawstream train`, `search` or `demo` wrote"
            )
    whole = [folder.resolve() for folder in folders]
    for i, folder in enumerate(whole):
        for j, other in enumerate(whole):
            if i != j and folder.is_relative_to(other):
                raise ValueError(
                    f"{folders[i]} lies in {folders[j]}: its runs would be counted twice: give one of them"
                )
    if len(whole) == 1:
        return [""]
    for parts in range(1, max(len(folder.parts) for folder in whole) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in whole]
        if len(set(names)) == len(names):
            break
    return names


@dataclass(frozen=True, slots=True)
class Data:
    """Data sets of some runs."""

    described: Mapping[str, str]  # description by short name, of every distinct data set that is still there
    names: Mapping[str, str]  # short name and number of rows, by fingerprint
    # fingerprint (or address) of the data of a run's result, by its record; "" if it is gone
    judged: Mapping[Path, str]


def read_data(runs: Sequence[TrainRecord], samplings: Sequence[SampledRows], /, *, remote: bool = True) -> Data:
    """Open every catalog that the runs name, once; one that is gone contributes nothing.

    Args:
        runs: Records of trainings.
        samplings: Searches, whose data are open.
        remote: Read data on a server; if not, they contribute nothing.

    Raises:
        ValueError: A catalog is damaged, or a run was trained on other data than lie there now.
    """
    opened: dict[str, Catalog | None] = {
        _key([member.remote or member.path.parent for member in each.catalog.members]): each.catalog
        for each in samplings
    }
    for run in runs:
        catalog = None if not remote and server_of(run.catalog) else _open(run, run.catalog, opened)
        stated = run.document.get("catalog_fingerprint")
        if catalog is not None and stated not in (None, catalog.fingerprint):
            raise ValueError(
                f"{run.path}: trained on catalog {str(stated)[:12]}, but {catalog.path} is {catalog.fingerprint[:12]}: "
                "the data was packed anew; train again"
            )
    trained = [catalog for catalog in opened.values() if catalog is not None]
    names = {each.fingerprint: f"{next(iter(_describe([each])))}, {len(each):,} rows" for each in trained}
    return Data(_describe(trained), names, {run.path: _judged(run, opened) for run in runs})


def _judged(run: TrainRecord, opened: dict[str, Catalog | None]) -> str:
    place = run.evaluation
    if not isinstance(place, Path):  # data on a server are known by their address
        return place or ""
    try:
        catalog = _open(run, place, opened)
    except ValueError:  # damaged since: the result stands, only its data cannot be told
        return ""
    return "" if catalog is None else catalog.fingerprint


def _key(place: Path | str | Sequence[Path | str]) -> str:
    several = (place,) if isinstance(place, Path | str) else place
    return ", ".join(str(each.resolve()) if isinstance(each, Path) else each for each in several)


def _open(run: TrainRecord, place: Places, opened: dict[str, Catalog | None]) -> Catalog | None:
    key = _key(place)
    if key not in opened:
        try:
            opened[key] = Catalog.open(place, classes="union")
        except (FileNotFoundError, RemoteError):
            opened[key] = None
        except ValueError as error:
            raise ValueError(f"{run.path}: {error}") from None
    return opened[key]


def source_name(catalog: Catalog, /) -> str:
    """Return the name of the images' source: the last part of its path that is not the name of a split."""
    if len(catalog.members) > 1:
        return " + ".join(catalog.sources)
    (member,) = catalog.members
    parts = Path(str(member.provenance.get("source", member.path.parent.name))).parts
    return next((part for part in reversed(parts) if part not in SPLITS), "".join(parts[-1:]) or "data")


def _describe(catalogs: Sequence[Catalog]) -> dict[str, str]:
    """Describe catalogs by name; those that differ in their noise only, as a demo's seeds, are one data set."""
    noises: dict[tuple[str, str], list[float]] = {}
    for catalog in catalogs:
        name = source_name(catalog)
        words = {
            "multi": "classes, several of an image",
            "value": f"value{'s'[: catalog.num_classes > 1]} of each image",
        }
        labels = f"{catalog.num_classes} {words.get(catalog.label_kind, 'classes')}"
        labels = "no labels" if catalog.label_kind == "none" else labels
        size = f"{name}: {len(catalog):,} training images, {labels}"
        known = noises.setdefault((name, size), [])
        if catalog.clean_label is not None:
            known.append(100 * float((catalog.label != catalog.clean_label).mean()))
    described: dict[str, str] = {}
    for (name, size), known in noises.items():
        share = " to ".join(dict.fromkeys(f"{pick(known):.2f}" for pick in (min, max))) if known else ""
        noise = f"{share} % of the labels wrong" if known else "true labels not recorded"
        title = f"{name}, {sum(known) / len(known):.0f} % label noise" if known else name
        described[title] = f"{described[title]}. {size}, {noise}" if title in described else f"{size}, {noise}"
    return described
