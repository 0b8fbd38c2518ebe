"""Pack a source into shards and catalogs.

    source ──stratified shuffle──▶ holdout rows ──▶ OUT/holdout/catalog.parquet, shard-000000.tar, …
                               └─▶ train rows ──▶ OUT/train/catalog.parquet, shard-000000.tar, …

Without a holdout there is one catalog, in OUT itself. Shards are ordinary WebDataset tars with the members ``KEY.cls``
(the class; other labels are ``KEY.label.npy``, uint8 or float32 (columns,)), ``KEY.jpg``, ``.png``, ``.webp``, ``.pgm``
or ``.ppm`` (the image; the last two are raw pixels), the fields of the source (``KEY.txt``, ``KEY.seg.png`` …), and
where labels are wrong in part (label noise, or a source with
``clean_labels``) ``KEY.clean.cls`` (the true label). Rows are written in shuffled order, so a reader that goes through
the shards from end to end meets mixed classes. The same input gives the same shards.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline import MOST_SHOWN, BadImage, BadImagesError
from drawstream.pipeline.decoding import ImageInfo, Largest, check_rule
from drawstream.pipeline.labels import Kind, Relabelling, broken_law, kind_of
from drawstream.pipeline.shards.catalog import Catalog
from drawstream.pipeline.shards.catalog_file import FILE, Shard
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.label_noise import long_tail, relabel, stratified_order
from drawstream.pipeline.shards.staging import check_target, staged_folder
from drawstream.pipeline.shards.tar import split_name
from drawstream.pipeline.shards.tar_writer import ShardWriter
from drawstream.pipeline.sources import (
    ArraySource,
    DatasetSource,
    FolderSource,
    Form,
    Resized,
    Source,
    TableSource,
    check_boxes,
    field_names,
    hash_source,
    open_source,
    read_fields,
    stored_images,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """Options of ``pack``.

    Attributes:
        encoding: ``keep`` (files as they are, pixels as raw), ``raw`` (all of one shape), ``png`` or ``jpeg``.
        quality: Of newly encoded JPEGs, 1 … 100.
        max_side: Images whose longer side has more pixels are stored smaller, in their own format; None: as they are.
        short_side: The same for the shorter side.
        boxes: Field with boxes of images that are stored smaller, as ``Loader`` takes it: ``boxes.npy``, which is the
            default, or ``json:PATH.TO.KEY``. Masks need not be named.
        limit: Rows to take in all, holdout included; None takes every row. A class-stratified random choice.
        holdout: Rows of them that go to a catalog of their own; the same rows whatever the limit.
        seed: Of the choice of rows and their order.
        noise_seed: Of the relabelling.
        shard_rows: Most rows of a shard; 10 000 keeps the parts of a resumable job short.
        shard_bytes: A shard whose images have these many bytes takes no further row.
        skip_bad: Leave out images that cannot be read, from the part in which they would be; the result names them.
        long_tail: Imbalance I of the training rows: class c of C keeps n_max I^(−c / (C − 1)) rows, as many as its
            largest class has for the first one and a part of 1 / I for the last; None keeps all. The holdout keeps the
            shares of the source.
        label_noise: Labels with wrong ones, int64 (rows,), in place of the source's; or the share R of every class that
            is relabelled uniformly into the other classes, in [0, 1). Of classes without ``clean_labels``.
        noise_holdout: Wrong labels in the holdout too; by default it has its true labels, as in the papers.
        relabel: `relabel.json` of `drawstream suspects`: labels are changed, after label noise, and rows that its
            review dropped are left out. Which rows are held out, and their order, do not depend on it.
        orientation: ``exif``: images are turned as their first EXIF block says; ``stored``: they are not.
        overwrite: Replace an earlier pack in the folder; any other filled folder is still refused.
    """

    encoding: str = "keep"
    quality: int = 95
    max_side: int | None = None
    short_side: int | None = None
    boxes: str | None = None
    limit: int | None = None
    holdout: int = 0
    seed: int = 0
    noise_seed: int = 0
    shard_rows: int = 10_000
    shard_bytes: int = 1 << 30
    skip_bad: bool = False
    long_tail: float | None = None
    label_noise: float | NDArray[np.int64] = 0.0
    noise_holdout: bool = False
    relabel: str | os.PathLike[str] | None = None
    orientation: str = "exif"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in ("keep", "raw", "png", "jpeg"):
            raise ValueError(f"encoding must be keep, raw, png or jpeg, but got {self.encoding!r}")
        check_rule(self.orientation)
        _within("quality", self.quality, 1, 100)
        _within("shard_rows", self.shard_rows, 1)
        _within("shard_bytes", self.shard_bytes, 1)
        if self.quality != 95 and self.encoding != "jpeg" and Largest(self.max_side, self.short_side).side is None:
            law = f"quality {self.quality} would do nothing, as no JPEG is made anew"
            raise ValueError(f"{law}: store them smaller (--short-side, --max-side), or as jpeg (--encoding jpeg)")
        Largest(self.max_side, self.short_side)

    @property
    def form(self) -> Form:
        """How images are stored."""
        return Form(self.encoding, self.quality, self.orientation, Largest(self.max_side, self.short_side))


_RECORDED = (  # beside what `_Part` has of its own
    *("encoding", "quality", "limit", "holdout", "seed", "noise_seed", "shard_rows", "shard_bytes", "skip_bad"),
)


@dataclass(frozen=True, slots=True)
class PackResult:
    """Folders that were written, with their counts.

    Attributes:
        train: Folder of the catalog to train on.
        holdout: Folder of the held-out catalog, or None.
        rows: Rows of ``train``.
        holdout_rows: Rows of ``holdout``.
        relabelled: Rows of both whose label is not the true one.
        bytes: Size of all shards.
        bad: Images that could not be read and were left out.
        class_rows: Rows of each class in ``train``, by its label; its true one, where some are wrong. None of values.
        resized: Images that were stored smaller, of both.
        changed: Labels of both that `relabel` changed.
        dropped: Rows that it left out.
        ran: False where an earlier pack of the same source and options was found finished.
    """

    train: Path
    holdout: Path | None
    rows: int
    holdout_rows: int
    relabelled: int
    bytes: int
    bad: tuple[BadImage, ...] = ()
    ran: bool = True
    class_rows: tuple[int, ...] = ()
    resized: Resized = field(default_factory=Resized)
    changed: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """One catalog to write: rows of the source in their new order, their labels, and its provenance."""

    name: str
    rows: NDArray[np.int64]
    labels: NDArray[Any]
    clean: NDArray[np.int64] | None
    origin: dict[str, Any]


_Written = tuple[CatalogWriter, NDArray[np.int64], list[Shard]]  # rows, which of the part's they are, shards


def pack(
    source: Source | Any,
    out: str | os.PathLike[str],
    /,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    finish: Callable[[PackResult, Path], None] | None = None,
    **options: Any,
) -> PackResult:
    """Write a source as one catalog, or as two when a holdout is asked for.

    Everything is written beside the target and renamed at the end: a killed pack leaves no catalog behind. Where the
    target holds a whole pack of the same source and options already, nothing is done.

    Args:
        source: Where images and labels come from, as ``open_source`` gives it; or a path or map-style data set to open.
        out: Folder to make. With a holdout it gets ``train/`` and ``holdout/``, otherwise the catalog lies in it.
        dry_run: Check options, source and folder, and write nothing; of the result only rows and folders count.
        progress: Called after every row as ``progress(rows_done, rows_in_all)``.
        finish: Called at the end as ``finish(result, folder)``, before the folder is renamed to ``out``: what it writes
            there appears with the rest.
        **options: The attributes of ``PackOptions``.

    Raises:
        BadImagesError: Images that cannot be read; all of them are named.
        ValueError: Bad options, raw images of two shapes, or a filled target; of a pack with other options both
            are shown.

    Example:
        >>> pack(open_source("photos"), "data", holdout=5000, label_noise=0.4)
        >>> pack(open_source(MyDataset(), workers=8), "data")
    """
    settings, out = PackOptions(**options), Path(out)
    opened = hasattr(source, "read") and hasattr(source, "key")
    source = source if opened else open_source(source, skip_bad=settings.skip_bad)
    rows = len(source) if settings.limit is None else settings.limit
    _within("limit", rows, 1, len(source))
    _within("holdout", settings.holdout, 0, rows - 1)
    if isinstance(source, FolderSource) and Path(source.name).resolve() in out.resolve().parents:
        raise ValueError(f"{out}: lies in the folder that is packed, where it would be a class: name another one")
    check_boxes(source, settings.boxes, settings.form.largest, settings.encoding)
    parts = _parts(source, settings, rows)
    rows = sum(len(part.rows) for part in parts)
    unread: tuple[BadImage, ...] = getattr(source, "bad", ())  # while labels were read
    earlier = any((out / name / FILE).is_file() for name in ("", "train"))
    if earlier and not settings.overwrite:
        return replace(_finished(out, parts, settings.orientation), bad=unread)
    check_target(out, replaceable=earlier)
    if dry_run:
        held = out / "holdout" if settings.holdout else None
        counts = _class_rows(parts[0].labels, parts[0].clean, len(source.classes))
        sizes = (len(parts[0].rows), rows - len(parts[0].rows), 0, 0)
        told = _relabel_counts([part.origin for part in parts])
        return PackResult(out / parts[0].name, held, *sizes, unread, ran=False, class_rows=counts, **told)
    done = count(1)

    def tick() -> None:
        if progress:
            progress(next(done), rows)

    with staged_folder(out, replaceable=earlier) as folder:
        bad: list[BadImage] = []
        written, resized = [], Resized()
        for part in parts:
            writer = ShardWriter(folder / part.name, settings.shard_rows, settings.shard_bytes)
            written.append(_write(source, part, writer, settings, bad, resized, tick))
        _check_bad(source, parts, written, bad, settings.skip_bad)
        channels = max(catalog.channels for catalog, *_ in written)  # the parts are used together
        for part, (catalog, kept, shards) in zip(parts, written, strict=True):
            catalog.channels = channels
            catalog.save(
                folder / part.name / FILE,
                part.labels[kept],
                None if part.clean is None else part.clean[kept],
                shards=shards,
                classes=source.classes,
                provenance=part.origin,
                orientation=settings.orientation,
            )
        result = replace(_result(out, parts, folder, [*unread, *bad]), resized=resized)
        if finish:
            finish(result, folder)
    return result


def _within(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        law = f"at least {least}" if most is None else f"in {least} … {most}"
        raise ValueError(f"{name} must be {law}, but got {value}")


def _parts(source: Source, options: PackOptions, rows: int) -> list[_Part]:
    """Choose the rows of each catalog and relabel them."""
    classes = source.labels if source.labels.ndim == 1 else np.zeros(len(source), np.int64)  # else all are alike
    order = stratified_order(classes, seed=options.seed)
    made = {"by": "pack", "source": source.name, "rows": len(source), "listing": hash_source(source)}
    made |= {name: getattr(options, name) for name in _RECORDED}
    made |= {"fields": list(names)} if (names := field_names(source)) else {}
    if isinstance(source, DatasetSource | TableSource) and source.fields:
        made["field_columns"] = {name: str(column) for name, column in source.fields.items()}
    made |= {name: side for name in ("max_side", "short_side", "boxes") if (side := getattr(options, name)) is not None}
    made |= _RECORDED_KIND[kind_of(source.labels)]
    given, true, noise, named = _noise(source, options)
    held = options.holdout
    if options.long_tail is not None:
        _require_classes(source, "a long tail (--long-tail)")
    rest = order[held:rows]
    if options.long_tail is not None:
        truth, made["long_tail"] = source.labels if true is None else true, options.long_tail
        kept = long_tail(truth, imbalance=options.long_tail, classes=len(source.classes), order=rest)
        rest = kept[stratified_order(source.labels[kept], seed=options.seed)]
    chosen = [("train" if held else "all", rest, noise, True)]
    if held:
        chosen.append(("holdout", order[:held], noise if options.noise_holdout else 0.0, options.noise_holdout))
    parts = []
    for number, (name, part, rate, wrong) in enumerate(chosen):
        labels = given[part]
        seeds = {"seed": options.noise_seed, "part": number}
        noisy = relabel(labels, rate=rate, classes=len(source.classes), **seeds) if rate else labels
        clean = labels if rate else None
        origin = made | {"part": name, "label_noise": named if wrong and named else rate}
        if true is not None:
            noisy, clean = (labels, true[part]) if wrong else (true[part], None)
            origin["clean_labels"] = "beside" if wrong else "instead"
        parts.append(_Part(name if held else "", part, noisy, clean, origin))
    return parts if options.relabel is None else _relabelled(source, parts, Path(options.relabel))


def _relabelled(source: Source, parts: Sequence[_Part], file: Path) -> list[_Part]:
    """Return the parts with labels changed and rows left out as a `relabel.json` says."""
    _require_classes(source, "changed labels (--relabel)")
    relabelling = Relabelling.read(file)
    known = {source.key(row) for row in range(len(source))}
    found = []
    for part in parts:
        at = {source.key(row): i for i, row in enumerate(part.rows.tolist())}

        def find(keys: Sequence[str], at: dict[str, int] = at) -> NDArray[np.int64]:
            return np.array([at.get(key, -1) for key in keys], np.int64)

        done = relabelling.apply(find, part.labels, source.classes, source.name, absent=known.__contains__)
        clean, kept = part.clean if part.clean is None else part.clean[done.kept], done.kept
        origin = part.origin | relabelling.provenance(done)
        found.append(_Part(part.name, part.rows[kept], done.labels[kept], clean, origin))
    return found


def _relabel_counts(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many labels were changed and rows left out, of all parts."""
    each = [made.get("relabel", {}) for made in provenances]
    return {name: sum(int(counts.get(name, 0)) for counts in each) for name in ("changed", "dropped")}


_RECORDED_KIND: dict[Kind, dict[str, str]] = {  # as `Selection` says which member has the labels of a shard
    "class": {},
    "multi": {"label": "label.npy", "label_kind": "multi"},
    "value": {"label": "label.npy", "label_kind": "value"},
    "none": {"label": "none"},
}


def _require_classes(source: Source, what: str) -> None:
    if (kind := kind_of(source.labels)) != "class":
        raise ValueError(f"{source.name}: {what} needs one class of each row, but the labels are of kind {kind}")


def _noise(source: Source, options: PackOptions) -> tuple[NDArray[Any], NDArray[np.int64] | None, float, str]:
    """Return labels, true ones where they are known, the rate of noise, and the name of noise that was given."""
    true = source.clean_labels if isinstance(source, ArraySource) else None
    noise = options.label_noise
    if not isinstance(noise, np.ndarray) and not noise:
        return source.labels, true, 0.0, ""
    _require_classes(source, "label noise (--label-noise)")
    if true is not None:
        raise ValueError(f"{source.name} has clean_labels beside wrong ones: leave out label noise (--label-noise)")
    if not isinstance(noise, np.ndarray):
        return source.labels, None, noise, ""
    if noise.shape != source.labels.shape or noise.dtype.kind not in "iu":
        law = f"labels with noise must be integers {source.labels.shape}, one of each row of {source.name}"
        raise ValueError(f"{law}, but got {noise.dtype} {noise.shape}: give them in the order of the source")
    if law := broken_law(noise, source.classes):
        raise ValueError(f"{source.name}: of the labels with noise, {law}: give classes of the source")
    given = noise.astype(np.int64)
    mark = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(given, dtype="<i8").data)
    return given, source.labels, 0.0, f"labels {mark}"


def _result(
    out: Path, parts: Sequence[_Part], folder: Path, bad: Sequence[BadImage] = (), ran: bool = True
) -> PackResult:
    """Describe a pack that lies in a folder and belongs to `out`."""
    train, *held = catalogs = [Catalog.open(folder / part.name) for part in parts]
    noisy = [catalog for catalog in catalogs if catalog.clean_label is not None]
    return PackResult(
        train=out / parts[0].name,
        holdout=out / parts[1].name if held else None,
        rows=len(train),
        holdout_rows=sum(map(len, held)),
        relabelled=sum(int((catalog.label != catalog.clean_label).sum()) for catalog in noisy),
        bytes=sum(shard.size for catalog in catalogs for shard in catalog.shards),
        bad=tuple(bad),
        ran=ran,
        class_rows=_class_rows(train.label, train.clean_label, train.num_classes),
        **_relabel_counts([catalog.provenance for catalog in catalogs]),
    )


def _class_rows(labels: NDArray[Any], clean: NDArray[np.int64] | None, classes: int) -> tuple[int, ...]:
    """Rows of each class, by true labels where there are some; nothing of values and without labels."""
    if labels.ndim == 2:
        return tuple(labels.sum(axis=0, dtype=np.int64).tolist()) if labels.dtype == np.uint8 else ()
    return tuple(np.bincount(labels if clean is None else clean, minlength=classes).tolist())


def _finished(out: Path, parts: Sequence[_Part], orientation: str) -> PackResult:
    """Return the result of an earlier pack, which must be of the same source and options."""

    def refuse(text: str) -> NoReturn:
        law = f"{out}: folder is not empty, it holds a pack with {text}"
        raise ValueError(f"{law}: name another one, or allow it to be overwritten (--overwrite)")

    names = [name for name in ("", "train", "holdout") if (out / name / FILE).is_file()]
    due = [part.name for part in parts]
    if names != due:
        there, wanted = (" and ".join(name or "one catalog" for name in each) for each in (names, due))
        refuse(f"{there}, wanted {wanted}")
    for part in parts:
        catalog = Catalog.open(out / part.name)
        before = {**catalog.provenance, "orientation": catalog.orientation}
        now = part.origin | {"orientation": orientation}
        others = [key for key in {**now, **before} if now.get(key) != before.get(key)]
        if others:
            key = "rows" if others[0] == "listing" and "rows" in others else others[0]
            refuse("other files" if key == "listing" else f"{key} {before.get(key)!r}, wanted {now.get(key)!r}")
    return _result(out, parts, out, ran=False)


def _check_bad(
    source: Source, parts: Sequence[_Part], written: Sequence[_Written], bad: Sequence[BadImage], skip_bad: bool
) -> None:
    """Refuse bad images, unless they are skipped and leave something."""
    if bad and not skip_bad:
        raise BadImagesError(source.name, bad, "repair or remove them, or leave them out (--skip-bad LIST.json)")
    for part, (catalog, *_) in zip(parts, written, strict=True):
        if not catalog.keys:
            name = f"{source.name}: no image is left for {part.name or 'the catalog'}"
            raise BadImagesError(name, bad, "repair them")
    part, kept = parts[0], written[0][1]
    true = part.labels if part.clean is None else part.clean
    if true.ndim == 2:
        return
    if len(lost := np.setdiff1d(true, true[kept])):
        names = ", ".join(source.classes[label] for label in lost[:MOST_SHOWN])
        where = f"{source.name}: no image is left of class {names}"
        raise BadImagesError(where, bad, "repair them, or remove the class")


def _write(
    source: Source,
    part: _Part,
    writer: ShardWriter,
    options: PackOptions,
    bad: list[BadImage],
    resized: Resized,
    tick: Callable[[], None],
) -> _Written:
    """Write one part's shards; bad images are added to `bad`, and nothing is written after one that is not skipped."""
    writer.root.mkdir(exist_ok=True)
    names = field_names(source)
    catalog, kept = CatalogWriter(fields=names), []
    try:
        for i, (row, member) in enumerate(stored_images(source, part.rows, options.form, writer.root)):
            tick()
            key = source.key(row)
            try:
                data, info, before, sizes, turned = member.result()
                fields = read_fields(source, row, names, sizes, options.boxes, turned)
            except ValueError as error:
                path = str(source.files[row]) if isinstance(source, FolderSource) else key
                bad.append(BadImage(key, path, str(error)))
                continue
            if bad and not options.skip_bad:
                continue
            try:
                image = _extension(info)
                if split_name(f"{key}.{image}") != (key, image):
                    raise ValueError(
                        "a key must have no dot after its last slash and no __meta__ name: rename the image"
                    )
                members = {**_label_member(part.labels[i]), image: data, **fields}
                if part.clean is not None:
                    members["clean.cls"] = b"%d" % part.clean[i]
                shard = len(writer.shards)
                begins = writer.add(key, members)
                places = [(begins[name], fields[name]) if name in fields else None for name in names]
                catalog.add(key, shard, begins[image], data, info, places)
            except ValueError as error:
                raise ValueError(f"{source.name}: image {key!r}: {error}") from None
            resized.add(before, len(data))
            kept.append(i)
    finally:
        writer.close()
    return catalog, np.array(kept, np.int64), writer.shards


def _label_member(label: Any) -> dict[str, bytes]:
    """Return the member that holds a label: a class as text, several or values as an array."""
    if label.ndim == 0:
        return {"cls": b"%d" % label}
    if len(label) == 0:
        return {}
    file = io.BytesIO()
    np.save(file, label)
    return {"label.npy": file.getvalue()}


def _extension(info: ImageInfo) -> str:
    if info.encoding == "raw":
        return "pgm" if info.channels == 1 else "ppm"
    return "jpg" if info.encoding == "jpeg" else info.encoding
