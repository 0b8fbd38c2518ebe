"""Laws of packing that hold for any images, labels and options."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drawstream.pipeline.decoding.image import ImageInfo, decode, encode, probe
from drawstream.pipeline.shards.catalog import FILE, Catalog, Shard
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.index import index
from drawstream.pipeline.shards.label_noise import relabel, stratified_order
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource
from drawstream.pipeline.verify import verify

labels = hnp.arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 7))
seeds = st.integers(0, 2**64)
sizes = st.integers(1, 9)


@given(labels, seeds)
@settings(deadline=None)
def test_order_is_a_permutation_with_balanced_prefixes(labels, seed):
    order = stratified_order(labels, seed=seed)
    assert (np.sort(order) == np.arange(len(labels))).all()
    totals = np.bincount(labels, minlength=8)
    counts = np.cumsum(labels[order][:, None] == np.arange(8), axis=0)
    due = np.arange(1, len(labels) + 1)[:, None] * totals / len(labels)
    assert np.abs(counts - due).max() < 8  # each class is off by less than one draw per class


@given(labels, st.floats(0, 1, exclude_max=True), seeds)
@settings(deadline=None)
def test_noise_is_exact_in_every_class(labels, rate, seed):
    noisy = relabel(labels, rate=rate, classes=8, seed=seed)
    assert noisy.min() >= 0 and noisy.max() < 8
    for c in range(8):
        assert (noisy != labels)[labels == c].sum() == round(rate * (labels == c).sum())


@given(
    st.data(),
    st.tuples(st.integers(2, 25), sizes, sizes, st.sampled_from([1, 3])),
    st.sampled_from(["keep", "raw", "png"]),
    seeds,
)
@settings(deadline=None, max_examples=25)
def test_every_row_goes_out_as_it_came_in(data, shape, encoding, seed):
    images = data.draw(hnp.arrays(np.uint8, shape))
    labels = data.draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, 4)))
    holdout = data.draw(st.integers(0, shape[0] - 1))
    source = ArraySource(images, labels, tuple("abcde"))
    with tempfile.TemporaryDirectory() as folder:
        options = {"holdout": holdout, "label_noise": 0.4, "shard_rows": 7, "seed": seed, "encoding": encoding}
        result = pack(source, Path(folder) / "out", **options)
        rows = []
        for part in filter(None, (result.train, result.holdout)):
            catalog = Catalog.open(part)
            assert verify(catalog) == [] and catalog.channels == shape[3]
            assert Catalog.open(index(part, out=Path(folder) / f"index-{part.name}")).fingerprint == catalog.fingerprint
            for row in range(len(catalog)):
                number = int(catalog.key(row))
                with catalog.shard_path(catalog.shard[row]).open("rb") as file:
                    file.seek(catalog.offset[row])
                    stored = file.read(catalog.size[row])
                if catalog.encodings[row] == "raw":
                    assert stored == images[number].tobytes()
                else:
                    assert (decode(stored).reshape(shape[1:]) == images[number]).all()
                truth = catalog.label if catalog.clean_label is None else catalog.clean_label
                assert truth[row] == labels[number]
                rows.append(number)
        assert sorted(rows) == list(range(shape[0]))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"P5\n", b"RIFF"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_an_image_or_refused_in_one_line(data, head):
    for act in (probe, decode):
        try:
            act(head + data)
        except ValueError as error:
            assert "\n" not in str(error)


@given(hnp.arrays(np.uint8, st.tuples(sizes, sizes)), st.integers(0, 10_000), st.integers(1, 255))
@settings(deadline=None, max_examples=200)
def test_a_damaged_png_never_escapes_as_another_error(image, at, mask):
    data = bytearray(encode(image, "png", quality=95)[0])
    data[at % len(data)] ^= mask
    try:
        assert decode(bytes(data)).dtype == np.uint8
    except ValueError as error:
        assert str(error)


keys_of_a_shard = st.lists(st.text("ab/0ü. -", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@given(st.lists(keys_of_a_shard, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_keys_lead_to_their_rows_with_and_without_the_stem(shards):
    draft, found = CatalogWriter(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, keys in enumerate(shards):
            part = CatalogWriter()
            for i, key in enumerate(keys):
                part.add(key, 0, 16 * i, b"x" * 16, ImageInfo("png", 2, 2, 1))
            draft.append(part, number)
            found.append(Shard(f"{'abcd'[number]}.tar", 512, 32 * "0"))
            (Path(folder) / found[-1].path).write_bytes(bytes(512))
        draft.save(Path(folder) / FILE, None, None, shards=found, classes=(), provenance={})
        catalog = Catalog.open(folder)
    rows = np.arange(len(catalog))
    short = [key for keys in shards for key in keys]
    repeated = len(set(short)) < len(short)
    assert (catalog.key_form == "stem/key") == repeated
    assert [catalog.member_key(row) for row in rows] == short
    assert catalog.rows_of(catalog.keys).tolist() == rows.tolist()
    whole = [f"{'abcd'[shard]}/{key}" for shard, key in zip(catalog.shard, short, strict=True)]
    assert repeated == (catalog.keys == whole) or whole == short
    for row, key in enumerate(short):
        meant = [at for at, other in enumerate(short) if other == key]
        if key in catalog.keys:
            assert catalog.rows_of([key]).tolist() == [catalog.keys.index(key)]
        elif len(meant) == 1:
            assert catalog.rows_of([key, "no such key"]).tolist() == [row, -1]
        else:
            with pytest.raises(ValueError, match="shards: write which one is meant"):
                catalog.rows_of([key])
