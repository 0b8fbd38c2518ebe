"""Images that are in the data more than once: the same bytes, the same pixels, or nearly the same.

Notation
    h_i     perceptual hash, 64 bits: whether each of 8 × 8 pixels of the image, brought to 8 × 9 and averaged over the
            channels, is brighter than its left neighbour (the difference hash of N. Krawetz, 2013)
    d       Hamming distance of two hashes
    t_i     those 8 × 9 pixels in whole levels of 0..255
    c       cosine of two embeddings, unit vectors

Rows with equal bytes are found by size and checksum and compared by a hash of 256 bits; rows with equal pixels, and
equal transparency, among those of the same size and h; rows that are nearly the same by d <= `distance` and no pixel of
t more than 12 levels apart, or by c >= `threshold` where embeddings are given. Two hashes at a distance of at most k
agree in one of k + 1 parts, so only rows with an equal part are compared (Manku, Jain, Das Sarma, WWW 2007); of
embeddings see `neighbours`.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from drawstream.features.duplicates.neighbours import Search, cosine_pairs
from drawstream.pipeline import Loader
from drawstream.pipeline.decoding import decode
from drawstream.pipeline.images import Transform
from drawstream.pipeline.reading import LEAVE_OUT, Reading, ShardFiles
from drawstream.pipeline.shards import RAW, Catalog

__all__ = ["KINDS", "Duplicates", "find_duplicates", "thumbnails"]

KINDS = ("bytes", "pixels", "near")
_READ = 256  # members in memory
_APART = 12  # levels
_CHAIN = (0.1, 20)  # share and number of the images: a larger group, most of it only nearly the same, is no duplicate

Pairs = NDArray[np.int64]  # (p, 2)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups of rows that show the same.

    Attributes:
        group: Number of each row's group, int64 (rows,); -1 for a row that is alone. Numbers rise with the first rows.
        kind: How a row resembles an earlier one of its group, int8 (rows,), the first of `KINDS` that holds; -1 for a
            first row and one that is alone.
    """

    group: NDArray[np.int64]
    kind: NDArray[np.int8]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def firsts(self) -> NDArray[np.int64]:
        """First row of each group, int64 (groups,)."""
        grouped = np.flatnonzero(self.group >= 0)
        return grouped[np.unique(self.group[grouped], return_index=True)[1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each group, int64 (groups,)."""
        return np.bincount(self.group[self.group >= 0], minlength=self.groups)

    @property
    def copies(self) -> NDArray[np.int64]:
        """Number of each row in its group, by row, int64 (rows,); 0 for a first row and one that is alone."""
        found = np.zeros(len(self.group), np.int64)
        rows = np.flatnonzero(self.group >= 0)
        order = rows[np.argsort(self.group[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(self.group[order], prepend=-1))
        sizes = np.diff(np.append(starts, len(order)))
        found[order] = np.arange(len(order)) - np.repeat(starts, sizes)
        return found

    def weights(self, source: NDArray[np.int16] | None = None, /) -> NDArray[np.float32]:
        """1 / (rows of the group), float32 (rows,); with `source` (rows,) only those of the same source are counted."""
        rows = np.flatnonzero(self.group >= 0)
        of = np.zeros_like(rows) if source is None else source[rows].astype(np.int64)
        _, place, size = np.unique(np.stack([self.group[rows], of]), axis=1, return_inverse=True, return_counts=True)
        found = np.ones(len(self.group), np.float32)
        found[rows] = 1 / size[place.ravel()]
        return found


def find_duplicates(
    catalog: Catalog,
    /,
    *,
    near: bool = True,
    distance: int = 3,
    embeddings: NDArray[Any] | None = None,
    threshold: float = 0.95,
    search: Search = "auto",
    reading: Reading = Reading(),
) -> Duplicates:
    """Find the rows that are in the data more than once.

    Warns where alike images, each like the next, chain more than a tenth of all into one group.

    Args:
        catalog: The data, or several catalogs as one, of any labels and images (`Catalog.open(…, classes="none")`).
        near: Also find what is nearly the same; else bytes and pixels alone.
        distance: Largest d of two rows that are nearly the same, in [0, 16].
        embeddings: float16 or float32 (rows, D), of which the cosine decides instead, as of `FeatureTable.embedding`.
        threshold: Least c, in (0, 1].
        search: How near embeddings are found, see `cosine_pairs`.
        reading: How images are read.

    Raises:
        ValueError: An argument is out of range, or an image is damaged.
    """
    if not 0 <= distance <= 16 or not 0 < threshold <= 1:
        raise ValueError(
            f"`0 <= distance <= 16` and `0 < threshold <= 1` must hold, but got {distance} and {threshold}"
        )
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != len(catalog)):
        raise ValueError(f"embeddings must be ({len(catalog)}, D), but got {embeddings.shape}")
    small = thumbnails(catalog, reading=reading)
    hashes = _hashes(small)
    same = _same_bytes(catalog)
    pixels = np.concatenate([same, _same_pixels(catalog, hashes)])
    alike = pixels
    if near and embeddings is not None:
        alike = np.concatenate([pixels, cosine_pairs(embeddings, threshold, search=search)])
    elif near:
        alike = np.concatenate([pixels, _hash_pairs(hashes, small, distance)])
    found = _grouped(len(catalog), (same, pixels, alike))
    _warn_of_chains(found, f"raise --threshold ({threshold:g})" if embeddings is not None else "lower --distance")
    return found


def _warn_of_chains(found: Duplicates, remedy: str) -> None:
    if not found.groups:
        return
    largest, rows = int(found.sizes.argmax()), len(found.group)
    size, near = int(found.sizes[largest]), int((found.kind[found.group == largest] == KINDS.index("near")).sum())
    if size > max(_CHAIN[0] * rows, _CHAIN[1]) and near > size / 2:
        law = f"the largest group has {size:,} of {rows:,} images, each only like some other of them"
        warnings.warn(f"{law}: {remedy}", stacklevel=3)


def thumbnails(catalog: Catalog, /, *, reading: Reading = Reading()) -> NDArray[np.uint8]:
    """Return t of every row, uint8 (rows, 72), as the loader decodes and turns it.

    Raises:
        ValueError: An image is damaged.
    """
    small = np.zeros((len(catalog), 72), np.uint8)
    parts = [catalog] if _one_graph(catalog) else [_own_depth(catalog.part(g)) for g in range(len(catalog.members))]
    for part, member in zip(parts, catalog.members, strict=False):
        rows = slice(member.first_row, member.first_row + len(part))
        small[rows] = (_loaded if _one_graph(part) else _one_by_one)(part, reading)
    return small


def _one_graph(catalog: Catalog) -> bool:
    """Check that a loader can take all rows: raw images are alone, and all of one size and depth."""
    raw = catalog.encoding_codes == RAW
    columns = (catalog.height, catalog.width, catalog.size)
    return not raw.any() or bool(raw.all() and all((each == each[0]).all() for each in columns))


def _own_depth(catalog: Catalog) -> Catalog:
    """Return one of several catalogs with the depth of its own images where they are raw."""
    if not (len(catalog) and catalog.encoding_codes[0] == RAW and _one_graph(catalog)):
        return catalog
    return replace(catalog, channels=int(catalog.size[0]) // (int(catalog.height[0]) * int(catalog.width[0])))


def _loaded(catalog: Catalog, reading: Reading) -> NDArray[np.uint8]:
    transform = Transform((8, 9), (0.0,) * catalog.channels, (1.0,) * catalog.channels)
    found = np.zeros((len(catalog), 72), np.uint8)
    loader = Loader(catalog, transform=transform, batch_size=256, reading=reading)
    for batch in loader:
        found[batch.ids.numpy()] = batch.images.mean(1).round().flatten(1).byte().numpy()
    loader.close()
    return found


def _one_by_one(catalog: Catalog, reading: Reading) -> NDArray[np.uint8]:
    """Bring raw images of several sizes, or beside encoded ones, to size with Pillow."""
    found = np.zeros((len(catalog), 72), np.uint8)
    files = ShardFiles(catalog, remote=reading.remote)
    for start in range(0, len(catalog), _READ):
        rows = np.arange(start, min(start + _READ, len(catalog)))
        data, bounds = files.read(rows)
        for row, (a, b) in zip(rows.tolist(), pairwise(bounds.tolist()), strict=True):
            try:
                pixels = _pixels(catalog, row, data[a:b])
            except ValueError as error:
                raise files.refusal(row, str(error), LEAVE_OUT) from None
            image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
            small = np.asarray(image.resize((9, 8), Image.Resampling.BILINEAR), np.float64).reshape(72, -1)
            found[row] = small.mean(1).round()
    return found


def _hashes(small: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes h of thumbnails, uint64 (rows,)."""
    pixels = small.reshape(-1, 8, 9)
    bits = (pixels[:, :, 1:] > pixels[:, :, :-1]).reshape(len(small), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _same_bytes(catalog: Catalog) -> Pairs:
    """Rows whose members are equal, each with the first of its kind."""
    size = np.stack([catalog.size.astype(np.int64), catalog.checksum.astype(np.int64)])
    sides = (catalog.height.astype(np.int64) << 32) | catalog.width.astype(np.int64)
    shape = np.where(catalog.encodings == "raw", sides, -1)
    return _equal(catalog, np.concatenate([size, shape[None]]), _digest_of_bytes)


def _same_pixels(catalog: Catalog, hashes: NDArray[np.uint64]) -> Pairs:
    """Rows whose pixels are equal, each with the first of its kind."""
    sides = np.sort(np.stack([catalog.height, catalog.width]), axis=0).astype(np.int64)  # some are turned
    return _equal(catalog, np.concatenate([hashes.view(np.int64)[None], sides]), _digest_of_pixels)


def _equal(catalog: Catalog, keys: NDArray[np.int64], digest: object) -> Pairs:
    """Pairs of rows with equal keys (k, rows) whose digests are equal, too."""
    _, place, count = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(count[place.ravel()] > 1)
    first: dict[tuple[int, bytes], int] = {}
    pairs = []
    files = ShardFiles(catalog)
    for start in range(0, len(candidates), _READ):
        rows = candidates[start : start + _READ]
        data, bounds = files.read(rows)
        for i, row in enumerate(rows.tolist()):
            name = int(place.ravel()[row]), digest(catalog, row, data[bounds[i] : bounds[i + 1]])  # type: ignore[operator]
            other = first.setdefault(name, row)
            if other != row:
                pairs.append((other, row))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _digest_of_bytes(_catalog: Catalog, _row: int, data: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(data.tobytes(), digest_size=32).digest()


def _pixels(catalog: Catalog, row: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of a row as they are turned, (height, width, 1 or 3)."""
    if catalog.encoding_codes[row] == RAW:
        return data.reshape(int(catalog.height[row]), int(catalog.width[row]), -1)
    rule = catalog.member_of(int(catalog.shard[row])).orientation
    return np.atleast_3d(decode(data.tobytes(), rule=rule))


def _digest_of_pixels(catalog: Catalog, row: int, data: NDArray[np.uint8]) -> bytes:
    pixels = _pixels(catalog, row, data)
    digest = hashlib.blake2b(pixels.tobytes(), key=str(pixels.shape).encode(), digest_size=32)
    if catalog.encoding_codes[row] != RAW:
        digest.update(_transparency(data.tobytes()))
    return digest.digest()


def _transparency(data: bytes) -> bytes:
    """The alpha channel of an image; empty where it has none: black drawings differ in it alone."""
    with Image.open(io.BytesIO(data)) as image:
        if "A" not in image.getbands() and "transparency" not in image.info:
            return b""
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        return b"" if (alpha == 255).all() else alpha.tobytes()


def _hash_pairs(hashes: NDArray[np.uint64], small: NDArray[np.uint8], distance: int) -> Pairs:
    """Pairs of rows that are nearly the same by hash and thumbnail."""
    edges = np.linspace(0, 64, distance + 2).astype(np.int64).tolist()
    found = []
    for a, b in pairwise(edges):
        part = hashes & np.uint64((1 << b) - (1 << a))
        order = np.argsort(part, kind="stable")
        found.append(order[_close(hashes[order], part[order], small[order], distance)])
    return np.concatenate(found)


@njit(cache=True, nogil=True)
def _close(
    hashes: NDArray[np.uint64], part: NDArray[np.uint64], small: NDArray[np.uint8], distance: int
) -> NDArray[np.int64]:
    """Places of near pairs with an equal part, which lie side by side."""
    found = []
    start = 0
    for i in range(1, hashes.size):
        if part[i] != part[i - 1]:
            start = i
        for j in range(start, i):
            rest, bits = hashes[i] ^ hashes[j], 0
            while rest and bits <= distance:
                rest &= rest - np.uint64(1)
                bits += 1
            most = np.int64(0)
            for k in range(small.shape[1] if bits <= distance else 0):
                most = np.maximum(most, np.abs(np.int64(small[i, k]) - np.int64(small[j, k])))
            if bits <= distance and most <= _APART:
                found.append((j, i))
    pairs = np.empty((len(found), 2), np.int64)
    for at, pair in enumerate(found):
        pairs[at, 0], pairs[at, 1] = pair
    return pairs


def _grouped(rows: int, levels: tuple[Pairs, ...]) -> Duplicates:
    """Groups by the loosest pairs, and the strictest level at which a row still belongs to an earlier one."""
    parts = [_components(rows, pairs) for pairs in levels]
    _, first, place, count = np.unique(parts[-1], return_index=True, return_inverse=True, return_counts=True)
    several = count > 1
    number = np.full(len(first), -1, np.int64)
    number[np.flatnonzero(several)[np.argsort(first[several], kind="stable")]] = np.arange(several.sum())
    kind = np.full(rows, -1, np.int8)
    for level in range(len(levels) - 1, -1, -1):
        later = np.ones(rows, np.bool_)
        later[np.unique(parts[level], return_index=True)[1]] = False
        kind[later] = level
    return Duplicates(number[place], kind)


def _components(rows: int, pairs: Pairs) -> NDArray[np.int64]:
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    component: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return component
