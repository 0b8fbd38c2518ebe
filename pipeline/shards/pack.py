"""Pack a source into shards and catalogs.

    source ──stratified shuffle──▶ holdout rows ──▶ OUT/holdout/catalog.parquet, shard-000000.tar, …
                               └─▶ train rows ──▶ OUT/train/catalog.parquet, shard-000000.tar, …

Without a holdout there is one catalog, in OUT itself. Shards are ordinary WebDataset tars with the members ``KEY.cls``
(the label), ``KEY.jpg``, ``.png``, ``.webp``, ``.pgm`` or ``.ppm`` (the image; the last two are raw pixels), and with
label noise ``KEY.clean.cls`` (the true label). Rows are written in shuffled order, so a reader that goes through the
shards from end to end meets mixed classes. The same input gives the same shards.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tarfile import RECORDSIZE
from typing import Any, BinaryIO, NoReturn

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline.decoding.exif import check_rule
from drawstream.pipeline.decoding.image import ImageInfo, encode
from drawstream.pipeline.shards.catalog import FILE, Catalog, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import Draft
from drawstream.pipeline.shards.label_noise import relabel, stratified_order
from drawstream.pipeline.shards.remote import RemoteError
from drawstream.pipeline.shards.staging import staged_folder
from drawstream.pipeline.shards.tar import BLOCK, split_name, write_header
from drawstream.pipeline.sources.folder import FolderSource
from drawstream.pipeline.sources.source import ArraySource, Source
from drawstream.samplers.errors import DrawstreamError

MOST_SHOWN = 20  # bad images in a message


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
        ran: False where an earlier pack of the same source and options was found finished.
    """

    train: Path
    holdout: Path | None
    rows: int
    holdout_rows: int
    relabelled: int
    bytes: int
    bad: tuple["BadImage", ...] = ()
    ran: bool = True


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        key: Its key.
        path: Its file, where it is one; its shard, where it is a member; else its key.
        reason: What is wrong with it.
    """

    key: str
    path: str
    reason: str


class BadImagesError(DrawstreamError):
    """Images that cannot be read, all of them."""

    def __init__(self, source: str, bad: Sequence[BadImage], remedy: str, *, of_shards: bool = False) -> None:
        self.bad = tuple(bad)
        names = [f"{each.path}: sample {each.key!r}" if of_shards else f"image {each.key!r}" for each in bad]
        some = "; ".join(f"{name}: {each.reason}" for name, each in zip(names[:MOST_SHOWN], bad, strict=False))
        many = f"{len(bad)} images cannot be read: " if len(bad) > 1 else ""
        more = f"; and {len(bad) - MOST_SHOWN} others" if len(bad) > MOST_SHOWN else ""
        super().__init__(f"{source}: {many}{some}{more}: {remedy}")


@dataclass(frozen=True, slots=True)
class _Form:
    """How images are stored."""

    encoding: str
    quality: int
    orientation: str


@dataclass(frozen=True, slots=True)
class _Part:
    """One catalog to write: rows of the source in their new order, with their labels."""

    name: str
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean: NDArray[np.int64] | None
    origin: dict[str, Any]


_Member = Callable[[], tuple[bytes, ImageInfo]]  # gives a member's bytes and what its header says, or raises ValueError
_Written = tuple[Draft, NDArray[np.int64], list[Shard]]  # rows, which of the part's they are, shards


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
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    finish: Callable[[PackResult, Path], None] | None = None,
) -> PackResult:
    """Write a source as shards with a catalog, or with two when a holdout is asked for.

    Everything is written beside the target and renamed at the end: a killed pack leaves no catalog behind. Where the
    target holds a whole pack of the same source and options already, nothing is done.

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
        skip_bad: Leave out images that cannot be read, from the part in which they would be; the result names them.
        overwrite: Replace ``out`` where it holds an earlier pack; any other filled folder is still refused.
        progress: Called after every row as ``progress(rows_done, rows_in_all)``.
        finish: Called at the end as ``finish(result, folder)``, before the folder is renamed to ``out``: what it writes
            there appears with the rest.

    Raises:
        BadImagesError: Images that cannot be read; all of them are named.
        ValueError: Bad options, raw images of two shapes, or a filled target; of a pack with other options both
            are shown.
    """
    rows = check_pack(source, encoding=encoding, quality=quality, limit=limit, holdout=holdout)
    check_rule(orientation)
    _within("shard_rows", shard_rows, 1)
    _within("shard_bytes", shard_bytes, 1)
    form = _Form(encoding, quality, orientation)
    order = stratified_order(source.labels, seed=seed)
    made = {"by": "pack", "source": source.name, "rows": len(source), "listing": _listing(source)}
    made |= {"encoding": encoding, "quality": quality, "limit": limit, "holdout": holdout, "seed": seed}
    made |= {"noise_seed": noise_seed, "shard_rows": shard_rows, "shard_bytes": shard_bytes, "skip_bad": skip_bad}

    def part(name: str, chosen: NDArray[np.int64], number: int, noise: float) -> _Part:
        labels = source.labels[chosen]
        noisy = relabel(labels, rate=noise, classes=len(source.classes), seed=noise_seed, part=number)
        origin = made | {"part": name or "all", "label_noise": noise}
        return _Part(name, chosen, noisy, labels if noise else None, origin)

    parts = [part("train" if holdout else "", order[holdout:rows], 0, label_noise)]
    if holdout:
        parts.append(part("holdout", order[:holdout], 1, label_noise if noise_holdout else 0.0))
    out = Path(out)
    if isinstance(source, FolderSource) and Path(source.name).resolve() in out.resolve().parents:
        raise ValueError(f"{out}: lies in the folder that is packed, where it would be a class: name another one")
    earlier = holds_pack(out)
    if earlier and not overwrite:
        return _finished(out, parts, orientation)
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if progress:
            progress(count, rows)

    with staged_folder(out, replaceable=earlier) as folder:
        bad: list[BadImage] = []
        written = [
            _write(source, each, _ShardWriter(folder / each.name, shard_rows, shard_bytes), form, bad, skip_bad, tick)
            for each in parts
        ]
        _check_bad(source, parts, written, bad, skip_bad)
        channels = max(draft.channels for draft, *_ in written)  # the parts are used together
        for each, (draft, kept, shards) in zip(parts, written, strict=True):
            draft.channels = channels
            draft.save(
                folder / each.name / FILE,
                each.labels[kept],
                None if each.clean is None else each.clean[kept],
                shards=shards,
                classes=source.classes,
                provenance=each.origin,
                orientation=orientation,
            )
        result = _result(out, [(part.name, Catalog.open(folder / part.name)) for part in parts], tuple(bad))
        if finish:
            finish(result, folder)
    return result


def _listing(source: Source) -> str:
    """A hash over keys, labels and classes, and size and time of its files: tells two states apart."""
    state = xxhash.xxh3_128("\n".join(source.classes).encode())
    state.update(np.ascontiguousarray(source.labels, dtype="<i8").data)
    for begin in range(0, len(source), 10_000):
        keys = [source.key(row) for row in range(begin, min(begin + 10_000, len(source)))]
        state.update("".join(f"\n{key}" for key in keys).encode())
    files = source.files if isinstance(source, FolderSource | ArraySource) else ()
    for file in files:
        with suppress(OSError):  # a file that is gone since is named where it is read
            found = file.stat()
            state.update(b"%d %d\n" % (found.st_size, found.st_mtime_ns))
    return state.hexdigest()


def _result(
    out: Path, catalogs: Sequence[tuple[str, Catalog]], bad: tuple[BadImage, ...], ran: bool = True
) -> PackResult:
    """Describe a packed folder."""
    (name, train), *held = catalogs
    noisy = [catalog for _, catalog in catalogs if catalog.clean_label is not None]
    return PackResult(
        train=out / name,
        holdout=out / held[0][0] if held else None,
        rows=len(train),
        holdout_rows=sum(len(catalog) for _, catalog in held),
        relabelled=sum(int((catalog.label != catalog.clean_label).sum()) for catalog in noisy),
        bytes=sum(shard.size for _, catalog in catalogs for shard in catalog.shards),
        bad=bad,
        ran=ran,
    )


def _finished(out: Path, parts: Sequence[_Part], orientation: str) -> PackResult:
    """The result of an earlier pack of the same source and options.

    Raises:
        ValueError: The options or the source were others.
    """
    names = [name for name in ("", "train", "holdout") if (out / name / FILE).is_file()]
    due = [part.name for part in parts]
    if names != due:
        said = [" and ".join(name or "one catalog" for name in each) for each in (names, due)]
        raise _filled(out, f"{said[0]}, wanted {said[1]}")
    catalogs = [(part.name, Catalog.open(out / part.name)) for part in parts]
    for part, (_, catalog) in zip(parts, catalogs, strict=True):
        before = {**catalog.provenance, "orientation": catalog.orientation}
        wanted = part.origin | {"orientation": orientation}
        others = [key for key in {**wanted, **before} if wanted.get(key) != before.get(key)]
        if others:
            key = others[0]
            key = "rows" if key == "listing" and "rows" in others else key
            text = "other files" if key == "listing" else f"{key} {before.get(key)!r}, wanted {wanted.get(key)!r}"
            raise _filled(out, text)
    return _result(out, catalogs, (), ran=False)


def _filled(out: Path, text: str) -> ValueError:
    remedy = "name another one, or allow it to be overwritten (--overwrite)"
    return ValueError(f"{out}: folder is not empty, it holds a pack with {text}: {remedy}")


def _check_bad(
    source: Source, parts: Sequence[_Part], written: Sequence[_Written], bad: Sequence[BadImage], skip_bad: bool
) -> None:
    """Refuse bad images, unless they are skipped and leave something."""
    if bad and not skip_bad:
        raise BadImagesError(source.name, bad, "repair or remove them, or leave them out (--skip-bad LIST.json)")
    for part, (draft, *_) in zip(parts, written, strict=True):
        if not draft.keys:
            name = f"{source.name}: no image is left for {part.name or 'the catalog'}"
            raise BadImagesError(name, bad, "repair them")
    part, kept = parts[0], written[0][1]
    true = part.labels if part.clean is None else part.clean
    if len(lost := np.setdiff1d(true, true[kept])):
        names = ", ".join(source.classes[label] for label in lost[:MOST_SHOWN])
        where = f"{source.name}: no image is left of class {names}"
        raise BadImagesError(where, bad, "repair them, or remove the class")


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


def _write(
    source: Source,
    part: _Part,
    writer: _ShardWriter,
    form: _Form,
    bad: list[BadImage],
    skip_bad: bool,
    tick: Callable[[], None],
) -> _Written:
    """Write one part's shards; bad images are added to `bad`, and nothing is written after one that is not skipped."""
    writer.root.mkdir(exist_ok=True)
    draft = Draft()
    kept = []
    try:
        for i, (row, member) in enumerate(_encoded(source, part.rows, form)):
            tick()
            key = source.key(row)
            try:
                data, info = member()
            except ValueError as error:
                path = str(source.files[row]) if isinstance(source, FolderSource) else key
                bad.append(BadImage(key, path, str(error)))
                continue
            if bad and not skip_bad:
                continue
            try:
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
            kept.append(i)
    finally:
        writer.close()
    return draft, np.array(kept, np.int64), writer.shards


def _encoded(source: Source, rows: NDArray[np.int64], form: _Form) -> Iterator[tuple[int, _Member]]:
    """Rows in their order, each with what gives its member; files are decoded in threads, some rows ahead.

    The source is read in one thread: one that a user wrote may not bear more.
    """
    threads = len(os.sched_getaffinity(0))
    ahead: deque[tuple[int, _Member]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="drawstream-pack") as pool:
        for row in rows.tolist():
            ahead.append((row, _begun(source, row, form, pool)))
            if len(ahead) > 2 * threads:
                yield ahead.popleft()
        yield from ahead


def _begun(source: Source, row: int, form: _Form, pool: Executor) -> _Member:
    """Read a row and begin to encode it; pixels at once, for their array may be the source's own."""
    options: dict[str, Any] = {"quality": form.quality, "rule": form.orientation}
    try:
        image = source.read(row)
        if isinstance(image, bytes):
            return pool.submit(encode, image, form.encoding, **options).result
        member = encode(image, form.encoding, **options)
    except RemoteError:  # of a user's own source: the network is at fault and no image
        raise
    except ValueError as error:
        return partial(_raise, error)
    return lambda: member


def _raise(error: ValueError) -> NoReturn:
    raise error


def _extension(info: ImageInfo) -> str:
    if info.encoding == "raw":
        return "pgm" if info.channels == 1 else "ppm"
    return "jpg" if info.encoding == "jpeg" else info.encoding
