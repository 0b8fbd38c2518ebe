"""Pack a source into shards and catalogs.

    source ──stratified shuffle──▶ holdout rows ──▶ OUT/holdout/catalog.parquet, shard-000000.tar, …
                               └─▶ train rows ──▶ OUT/train/catalog.parquet, shard-000000.tar, …

Without a holdout there is one catalog, in OUT itself. Shards are ordinary WebDataset tars with the members ``KEY.cls``
(the label), ``KEY.jpg``, ``.png``, ``.webp``, ``.pgm`` or ``.ppm`` (the image; the last two are raw pixels), and with
label noise ``KEY.clean.cls`` (the true label). Rows are written in shuffled order, so a reader that goes through the
shards from end to end meets mixed classes. The same input gives the same bytes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tarfile import RECORDSIZE
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.catalog import FILE, Shard, hash_file
from drawstream.pipeline.draft import Draft
from drawstream.pipeline.header import BLOCK, write_header
from drawstream.pipeline.image import ImageInfo, encode
from drawstream.pipeline.noise import relabel, stratified_order
from drawstream.pipeline.sources import Source
from drawstream.pipeline.staging import staged_folder
from drawstream.pipeline.tar import split_name


@dataclass(frozen=True, slots=True)
class PackResult:
    """What was written.

    Attributes:
        train: Folder of the catalog to train on.
        holdout: Folder of the held-out catalog, or None.
        rows: Rows of ``train``.
        holdout_rows: Rows of ``holdout``.
        relabelled: Rows of both whose label is not the true one.
        bytes: Size of all shards.
    """

    train: Path
    holdout: Path | None
    rows: int
    holdout_rows: int
    relabelled: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    """One catalog to write: rows of the source in their new order, with their labels."""

    name: str
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean: NDArray[np.int64] | None
    origin: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Form:
    """How images are stored."""

    encoding: str
    quality: int
    orientation: str


def pack(
    source: Source,
    out: str | os.PathLike[str],
    /,
    *,
    encoding: str = "keep",
    quality: int = 95,
    orientation: str = "exif",
    limit: int | None = None,
    holdout: int = 0,
    seed: int = 0,
    label_noise: float = 0.0,
    noise_seed: int = 0,
    noise_holdout: bool = False,
    shard_rows: int = 10_000,
    shard_bytes: int = 1 << 30,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    finish: Callable[[PackResult, Path], None] | None = None,
) -> PackResult:
    """Write a source as shards with a catalog, or with two when a holdout is asked for.

    Everything is written beside the target and renamed at the end: a killed pack leaves no catalog behind.

    Args:
        source: Where images and labels come from; see ``open_source``.
        out: Folder to make. With a holdout it gets ``train/`` and ``holdout/``, otherwise the catalog lies in it.
        encoding: ``keep`` (files as they are, pixels as raw), ``raw`` (all of one shape), ``png`` or ``jpeg``.
        quality: Of newly encoded JPEGs, 1 … 100.
        orientation: ``exif``: images are turned as their first EXIF block says; ``stored``: they are not.
        limit: Rows to take in all, holdout included; None takes every row. A class-stratified random choice.
        holdout: Rows of them that go to a catalog of their own; the same rows whatever the limit.
        seed: Of the choice of rows and their order.
        label_noise: Share R of every class that is relabelled uniformly into the other classes, in [0, 1).
        noise_seed: Of the relabelling.
        noise_holdout: Relabel the holdout too; by default it keeps its true labels, as in the papers.
        shard_rows: Most rows of a shard; 10 000 keeps the parts of a resumable job short.
        shard_bytes: A shard whose images have these many bytes takes no further row.
        overwrite: Replace ``out`` where it holds an earlier pack; any other filled folder is still refused.
        progress: Called after every row as ``progress(rows_done, rows_in_all)``.
        finish: Called at the end as ``finish(result, folder)``, before the folder is renamed to ``out``: what it writes
            there appears with the rest.

    Raises:
        ValueError: Bad options, an unreadable image (named), raw images of two shapes, or a filled target.
    """
    rows = check_pack(source, encoding=encoding, quality=quality, limit=limit, holdout=holdout)
    _within("shard_rows", shard_rows, 1)
    _within("shard_bytes", shard_bytes, 1)
    order = stratified_order(source.labels, seed=seed)

    def part(name: str, chosen: NDArray[np.int64], number: int, noise: float) -> _Part:
        labels = source.labels[chosen]
        noisy = relabel(labels, rate=noise, classes=len(source.classes), seed=noise_seed, part=number)
        choice = {"limit": limit, "holdout": holdout, "seed": seed, "label_noise": noise, "noise_seed": noise_seed}
        origin = {"by": "pack", "source": source.name, "part": name or "all", "encoding": encoding, "quality": quality}
        return _Part(name, chosen, noisy, labels if noise else None, origin | choice)

    parts = [part("train" if holdout else "", order[holdout:rows], 0, label_noise)]
    if holdout:
        parts.append(part("holdout", order[:holdout], 1, label_noise if noise_holdout else 0.0))
    out = Path(out)
    earlier = overwrite and holds_pack(out)
    done, size = 0, 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, rows)

    with staged_folder(out, replaceable=earlier) as folder:
        for each in parts:
            writer = _ShardWriter(folder / each.name, shard_rows, shard_bytes)
            size += _write(source, each, writer, _Form(encoding, quality, orientation), tick)
        train, *held = parts
        result = PackResult(
            train=out / train.name,
            holdout=out / held[0].name if held else None,
            rows=len(train.rows),
            holdout_rows=holdout,
            relabelled=sum(int((each.labels != each.clean).sum()) for each in parts if each.clean is not None),
            bytes=size,
        )
        if finish:
            finish(result, folder)
    return result


def check_pack(source: Source, /, *, encoding: str, quality: int, limit: int | None, holdout: int) -> int:
    """Rows that `pack` would write in all; arguments are its own, errors as `pack`."""
    rows = len(source) if limit is None else limit
    if encoding not in ("keep", "raw", "png", "jpeg"):
        raise ValueError(f"encoding must be keep, raw, png or jpeg, but got {encoding!r}")
    _within("quality", quality, 1, 100)
    _within("limit", rows, 1, len(source))
    _within("holdout", holdout, 0, rows - 1)
    return rows


def holds_pack(out: Path, /) -> bool:
    """Whether an earlier pack lies there, which may be overwritten."""
    return any((out / name / FILE).is_file() for name in ("", "train"))


def _within(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        law = f"at least {least}" if most is None else f"in {least} … {most}"
        raise ValueError(f"{name} must be {law}, but got {value}")


class _ShardWriter:
    """Writes samples into numbered tars, each closed when it is full."""

    def __init__(self, root: Path, most_rows: int, most_bytes: int) -> None:
        self.root = root
        self.shards: list[Shard] = []
        self._most = (most_rows, most_bytes)
        self._filled = (0, 0)  # rows and image bytes of the open tar
        self._file: BinaryIO | None = None

    def add(self, key: str, members: dict[str, bytes], image: str) -> int:
        """Append a sample to the open tar; ``image`` is its last member by name. Returns where the image begins."""
        if self._file is None:
            self._file = (self.root / f"shard-{len(self.shards):06d}.tar").open("xb")
        assert max(members) == image  # members are sorted by name: the image ends where the tar now ends
        for extension, data in sorted(members.items()):
            self._file.write(write_header(f"{key}.{extension}", len(data)))
            self._file.write(data)
            self._file.write(bytes(-len(data) % BLOCK))
        size = len(members[image])
        begin = self._file.tell() - -(-size // BLOCK) * BLOCK
        self._filled = self._filled[0] + 1, self._filled[1] + size
        if self._filled[0] >= self._most[0] or self._filled[1] >= self._most[1]:
            self.close()
        return begin

    def close(self) -> None:
        """End the open tar, if there is one, and flush it to disk."""
        if self._file is None:
            return
        self._file.write(bytes(2 * BLOCK))
        self._file.write(bytes(-self._file.tell() % RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = Path(self._file.name)
        self.shards.append(Shard(path.name, path.stat().st_size, hash_file(path)))
        self._file, self._filled = None, (0, 0)


def _write(source: Source, part: _Part, writer: _ShardWriter, form: _Form, tick: Callable[[], None]) -> int:
    """Write one part's shards and catalog; returns the shards' size in bytes."""
    writer.root.mkdir(exist_ok=True)
    draft = Draft()
    try:
        for i, row in enumerate(part.rows.tolist()):
            key = source.key(row)
            try:
                data, info = encode(source.read(row), form.encoding, quality=form.quality, rule=form.orientation)
                image = _extension(info)
                if split_name(f"{key}.{image}") != (key, image):
                    raise ValueError(
                        "a key must have no dot after its last slash and no __meta__ name: rename the image"
                    )
                members = {"cls": b"%d" % part.labels[i], image: data}
                if part.clean is not None:
                    members["clean.cls"] = b"%d" % part.clean[i]
                shard = len(writer.shards)
                draft.add(key, shard, writer.add(key, members, image), data, info)
            except ValueError as error:
                raise ValueError(f"{source.name}: image {key!r}: {error}") from None
            tick()
    finally:
        writer.close()
    draft.save(
        writer.root / FILE,
        part.labels,
        part.clean,
        shards=writer.shards,
        classes=source.classes,
        provenance=part.origin,
        orientation=form.orientation,
    )
    return sum(shard.size for shard in writer.shards)


def _extension(info: ImageInfo) -> str:
    if info.encoding == "raw":
        return "pgm" if info.channels == 1 else "ppm"
    return "jpg" if info.encoding == "jpeg" else info.encoding
