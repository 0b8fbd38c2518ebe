"""The file of a mixture, `drawstream train --mixture mixture.toml`: sources, their shares, and what is drawn inside.

    batches = "mixed"            # or "single": each global batch is of one source
    draws = 60000                # positions of an epoch; by default the rows of all sources

    [[sources]]
    catalog = "data/photos"
    share = [[0, 0.3], [0.5, 0]] # of progress: 0.3 in the first half of the training, then nothing

    [[sources]]
    catalog = "data/drawings"    # or a URL
    share = 0.7                  # of any scale
    sampler = "drawings.json"    # as train --sampler takes it, with its table, mode, column and budget
    where = "height >= 64"       # rows that are drawn; balance = 0.5: their classes drawn more alike
    table = "features/drawings"

Paths are those of the folder where the command is started.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from drawstream.samplers.files import raise_unless_file, read_toml
from drawstream.samplers.orders import share_steps

BATCHES, MODES = ("mixed", "single"), ("stratified", "multinomial", "subset")
Share = float | list[list[float]]
_WANTED = {"column": "a name", "where": "a condition"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSource:
    """A source of a mixture.

    Attributes:
        catalog: Folder or URL.
        share: A number, or steps (progress, share).
        sampler: As `train --sampler` takes it; None: uniform.
        table: Feature table of the sampler.
        mode: Mode of the stream of a sampler or of weights.
        column: Of a file of weights.
        budget: Part of its rows that one of its epochs draws, in (0, 1].
        balance: γ of its classes, as `train --balance` takes it, in [0, 1].
        where: Condition on its rows, as `train --where` takes it.
    """

    catalog: str
    share: Share
    sampler: str | None = None
    table: str | None = None
    mode: str = "stratified"
    column: str | None = None
    budget: float = 1.0
    balance: float = 0.0
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture as its file says it.

    Attributes:
        path: The file.
        sources: In the order of their rows.
        batches: `mixed`, or `single`: a global batch is of one source.
        draws: Positions of an epoch; None: the rows of all sources.
    """

    path: Path
    sources: tuple[MixtureSource, ...]
    batches: str = "mixed"
    draws: int | None = None

    def source_name(self, number: int, /) -> str:
        """Return what messages call a source: the file, its place there and its catalog."""
        return f"{self.path}: sources[{number}] ({self.sources[number].catalog})"

    def as_dict(self) -> dict[str, Any]:
        """Return what a record keeps."""
        return {"file": self.path, **{name: value for name, value in asdict(self).items() if name != "path"}}


def read_mixture(path: Path, /) -> Mixture:
    """Read the file of a mixture.

    Raises:
        ValueError: No such file, not TOML, or an entry that is missing, unknown or of another kind; the file, the
            source, the key and the value are named.
    """
    try:
        content = read_toml(path, remedy="mend the file")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such mixture: give a TOML file with a table [[sources]] for each") from None
    except OSError as error:
        raise_unless_file(error, path)
        raise ValueError(f"{path}: not readable: {error.strerror}") from None
    listed = content.pop("sources", None)
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        raise ValueError(f"{path}: sources must be tables, one for each: write [[sources]] above catalog and share")
    _check_keys(path, "", content, ("batches", "draws", "sources"))
    batches, draws = content.get("batches", "mixed"), content.get("draws")
    _require(path, "batches", batches in BATCHES, batches, f"one of {', '.join(BATCHES)}")
    _require(path, "draws", draws is None or (_is_whole(draws) and draws > 0), draws, "a whole number above 0")
    return Mixture(path, tuple(_source(path, i, each) for i, each in enumerate(listed)), batches, draws)


def _source(path: Path, number: int, entry: Mapping[str, Any]) -> MixtureSource:
    catalog = entry.get("catalog")
    where = f"sources[{number}]" + (f" ({catalog})" if isinstance(catalog, str) else "")
    _check_keys(path, f"{where}.", entry, [each.name for each in fields(MixtureSource)])
    for name in ("catalog", "sampler", "table", "column", "where"):
        value = entry.get(name)
        sound = isinstance(value, str) and value != "" if name in entry or name == "catalog" else True
        _require(path, f"{where}.{name}", sound, value, _WANTED.get(name, "a path"))
    balance = entry.get("balance", 0.0)
    _require(path, f"{where}.balance", _is_number(balance) and 0 <= balance <= 1, balance, "a number in [0, 1]")
    mode, budget = entry.get("mode", "stratified"), entry.get("budget", 1.0)
    _require(path, f"{where}.mode", mode in MODES, mode, f"one of {', '.join(MODES)}")
    _require(path, f"{where}.budget", _is_number(budget) and 0 < budget <= 1, budget, "a number in (0, 1]")
    try:
        share_steps(entry.get("share"), f"{where}.share")
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
    return MixtureSource(**entry)


def _check_keys(path: Path, where: str, entry: Mapping[str, Any], known: Any) -> None:
    for key in entry:
        if key not in known:
            near = get_close_matches(key, list(known), n=1)
            remedy = f"do you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{path}: {where}{key}: no such key: {remedy}")


def _require(path: Path, key: str, law: bool, value: Any, wanted: str) -> None:
    if not law:
        got = "it is not there" if value is None else f"got {value!r}"
        raise ValueError(f"{path}: {key} must be {wanted}, but {got}: mend the file")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
