"""Several catalogs as one: rows, classes, keys, reads and damage are those of the members."""

import numpy as np
import pytest
import torch

from drawstream import (
    Catalog,
    IndexStream,
    Loader,
    MixedStream,
    Reading,
    StreamBatchSampler,
    StreamDataLoader,
    Tracker,
    verify,
)
from drawstream.pipeline.catalogs import merged_labels, source_names
from drawstream.pipeline.reading import BadSampleError, read_quarantine, write_quarantine
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, array_catalog, overwrite

CUTS = (0, 100, 130, 300)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three catalogs of 100, 30 and 170 digits in several shards; the second one has label noise."""
    root = tmp_path_factory.mktemp("parts")
    return [
        array_catalog(
            root / name, PIXELS[a:b], LABELS[a:b], shard_rows=40, encoding="png", label_noise=0.2 * (name == "b")
        )
        for name, a, b in zip("abc", CUTS[:-1], CUTS[1:], strict=True)
    ]


def paths(parts):
    return [each.root for each in parts]


def test_rows_are_those_of_the_members_in_order(parts):
    whole = Catalog.open(*paths(parts))
    assert len(whole) == 300 and whole.sources == ("a", "b", "c") and whole.channels == 1
    for g, (member, part) in enumerate(zip(whole.members, parts, strict=True)):
        rows = np.arange(member.first_row, member.first_row + member.rows)
        assert (whole.source[rows] == g).all() and member.fingerprint == part.fingerprint and len(part) == member.rows
        for name in ("offset", "size", "checksum", "label", "height", "width", "encoding_codes"):
            np.testing.assert_array_equal(getattr(whole, name)[rows], getattr(part, name))
        assert [whole.shard_path(s) for s in whole.shard[rows]] == [part.shard_path(s) for s in part.shard]
        assert [whole.key(row) for row in rows] == part.keys
        assert [whole.member_key(row) for row in rows] == [part.member_key(row) for row in range(len(part))]
        true = part.label if part.clean_label is None else part.clean_label
        np.testing.assert_array_equal(whole.clean_label[rows], true)
    assert whole.shard_rows(len(parts[0].shards)) == (100, 130)
    again = Catalog.open(*whole.places, classes="union")
    others = [Catalog.open(*reversed(paths(parts))), Catalog.open(*paths(parts)[:2]), parts[0]]
    assert again.fingerprint == whole.fingerprint
    assert len({each.fingerprint for each in (whole, *others)}) == 4


def test_one_catalog_is_as_before(parts):
    one = Catalog.open(parts[0].root)
    assert one.fingerprint == parts[0].fingerprint and one.sources == ("a",) and not one.source.any()
    assert one.source.dtype == np.int16 and one.source.shape == (100,) and one.member_of(2).first_row == 0


def test_classes_are_equal_or_merged_by_name(tmp_path, parts):
    class_names = ["two", "zero", "one"]
    labels = np.arange(30) % 3
    other = Catalog.open(pack(ArraySource(PIXELS[:30], labels, tuple(class_names)), tmp_path / "named").train)
    assert other.classes == tuple(class_names)
    refused("classes='union'", lambda: Catalog.open(other.root, parts[0].root))
    whole = Catalog.open(other.root, parts[0].root, classes="union")
    assert whole.classes == (*class_names, *parts[0].classes)
    names = [*(class_names[label] for label in other.label), *(parts[0].classes[label] for label in parts[0].label)]
    assert [whole.classes[label] for label in whole.label] == names
    assert whole.fingerprint != Catalog.open(parts[0].root, other.root, classes="union").fingerprint
    refused("'merge'", lambda: Catalog.open(other.root, parts[0].root, classes="merge"))


def test_a_key_of_several_catalogs_is_told_by_its_source(parts):
    whole = Catalog.open(*paths(parts))
    unique = next(i for i, key in enumerate(parts[2].keys) if int(key) >= 100)
    assert whole.rows_of([parts[2].key(unique), "nobody"]).tolist() == [130 + unique, -1]
    twice = parts[1].key(3)
    refused("a/", lambda: whole.rows_of([twice]))
    assert whole.rows_of([f"{name}/{twice}" for name in "abc"]).tolist() == [
        first + part.keys.index(twice) for first, part in zip(CUTS[:-1], parts, strict=True)
    ]


def test_a_catalog_that_is_given_twice_has_two_names(parts):
    whole = Catalog.open(parts[0].root, parts[0].root, parts[1].root)
    assert whole.sources == ("a (0)", "a (1)", "b (2)")
    key = parts[0].key(7)
    assert whole.rows_of([f"a (0)/{key}", f"a (1)/{key}", "a/nobody"]).tolist() == [7, 107, -1]
    told = f"a/{key}' means no one row: write 'a (0)/{key}' or 'a (1)/{key}'"
    assert told in refused("is given twice", lambda: whole.rows_of([f"a/{key}"]))


def test_the_loader_gives_the_images_of_the_members(parts):
    whole = Catalog.open(*paths(parts))
    stream = IndexStream(300, seed=4)
    loader = Loader(whole, stream, batch_size=64)
    alone = {g: {} for g in range(3)}
    for g, part in enumerate(parts):
        for batch in Loader(part, transform=loader.transform, batch_size=50):
            alone[g] |= {int(row): image for row, image in zip(batch.ids, batch.images, strict=True)}
    seen = 0
    for batch in loader:
        np.testing.assert_array_equal(batch.labels, whole.label[batch.ids])
        for row, image in zip(batch.ids.tolist(), batch.images, strict=True):
            g = whole.source[row]
            assert (image == alone[g][row - CUTS[g]]).all()
            seen += 1
    assert seen == 300


def test_a_tracker_writes_a_table_of_all_rows(tmp_path, parts):
    whole = Catalog.open(*paths(parts))
    tracker = Tracker(len(whole))
    logits = torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    tracker.set_epoch(0)
    tracker.observe(torch.arange(300), logits, torch.tensor(whole.label))
    tracker.reduce()
    table = tracker.export(tmp_path / "table", whole)
    assert len(table) == 300 and len(table.parts) == len(whole.shards)
    np.testing.assert_array_equal(table.label, whole.label)


@pytest.mark.parametrize("pixels", [True, False])
def test_damage_is_told_with_the_members_path_and_its_own_row(tmp_path, parts, pixels):
    mine = [
        array_catalog(tmp_path / n, PIXELS[i : i + 60], LABELS[i : i + 60], encoding="png")
        for i, n in ((0, "a"), (60, "b"))
    ]
    overwrite(mine[1], 17, at=30)
    whole = Catalog.open(*paths(mine))
    findings = verify(whole, pixels=pixels)
    assert {each.row for each in findings if each.row is not None} == {77}
    assert all("/b/" in each.message for each in findings) and any("(row 17)" in each.message for each in findings)
    assert {each.shard for each in findings} == {1}
    assert write_quarantine(tmp_path / "bad.json", whole, findings) == 1
    assert read_quarantine(tmp_path / "bad.json", whole).tolist() == [77]
    with pytest.raises(BadSampleError, match=r"row 77, which is row 17 of .*/b/.*catalog\.parquet") as error:
        list(Loader(whole))
    assert error.value.sample_id == 77
    loader = Loader(whole, reading=Reading(on_bad="substitute"))
    assert sum(len(batch.ids) for batch in loader) == 120 and loader.bad_samples[0].sample_id == 77


def test_members_that_do_not_fit_are_refused(tmp_path, parts):
    colour = np.repeat(PIXELS[:9, :, :, None], 3, axis=3)
    raw = array_catalog(tmp_path / "raw", PIXELS[:9], LABELS[:9])
    rgb = array_catalog(tmp_path / "rgb", colour, LABELS[:9])
    refused("3", lambda: Catalog.open(raw.root, rgb.root, classes="union"))
    refused("several catalogs", lambda: Catalog.open(*paths(parts)).root)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Catalog.open(parts[0].root, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["data/a", "data/b"], ["a", "b"]),
        (["data/a/train", "data/b/train"], ["a", "b"]),
        (["s3://bucket/a/train", "/data/b/train"], ["a", "b"]),
        (["x/train", "y/train", "x/val"], ["x/train", "y/train", "x/val"]),
        (["/d/a", "/d/a"], ["a (0)", "a (1)"]),
        (["train"], ["train"]),
    ],
)
def test_names_of_sources_tell_them_apart(places, names):
    assert source_names(places) == names


def test_labels_of_several_classes_take_the_columns_of_the_whole():
    labels = np.array([[1, 0, 1], [0, 1, 0]], np.uint8)
    merged = merged_labels(labels, np.array([4, 0, 2]), 5)
    assert merged.dtype == np.uint8 and merged.tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 0, 0]]
    assert merged_labels(np.array([2, 0]), np.array([4, 0, 2]), 5).tolist() == [2, 4]


def test_a_mixture_runs_through_the_loaders_with_other_ranks_and_a_state(parts):
    whole = Catalog.open(*paths(parts))
    streams = [IndexStream(len(part), seed=g) for g, part in enumerate(parts)]
    mixture = MixedStream(streams, [0.5, 0.2, [[0, 0.3], [0.5, 0.1]]], seed=3, epochs=4)
    everything = [mixture.epoch(epoch)[:] for epoch in range(3)]
    loader = Loader(whole, mixture, batch_size=50)
    loader.set_epoch(1)
    batches = iter(loader)
    first = [next(batches) for _ in range(2)]
    state = loader.state_dict()
    assert torch.cat([batch.ids for batch in first]).tolist() == everything[1][:100].tolist()
    np.testing.assert_allclose(torch.cat([batch.weights for batch in first]), mixture.epoch(1).weights(0, 100))
    ranks = [Loader(whole, mixture, batch_size=20, rank=rank, world_size=2) for rank in range(2)]
    for each in ranks:
        each.load_state_dict(state)
    rest = [[batch.ids for batch in each] for each in ranks]
    assert torch.cat([torch.cat(both) for both in zip(*rest, strict=True)]).tolist() == everything[1][100:].tolist()
    data = StreamDataLoader(np.arange(300), mixture, batch_size=30)
    data.set_epoch(2)
    assert torch.cat(list(data)).tolist() == everything[2].tolist()
    other = MixedStream(streams, [0.5, 0.3, 0.2], seed=3)
    refused("another stream", lambda: Loader(whole, other).load_state_dict(state))


def test_batches_of_one_source_have_the_global_batch_of_the_mixture(parts):
    whole = Catalog.open(*paths(parts))
    mixture = MixedStream(
        [IndexStream(len(part)) for part in parts], [1, 1, 1], batches="single", global_batch=60, draws=240
    )
    for rank in range(2):
        for batch in Loader(whole, mixture, batch_size=30, rank=rank, world_size=2):
            assert len(set(whole.source[batch.ids])) == 1
    refused("batch_size=60", lambda: Loader(whole, mixture, batch_size=50))
    refused("batch_size=20", lambda: StreamDataLoader(np.arange(300), mixture, batch_size=60, world_size=3))
    refused("divides it", lambda: StreamBatchSampler(mixture, batch_size=60, world_size=7))
