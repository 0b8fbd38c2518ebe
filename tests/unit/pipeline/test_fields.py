"""Fields in the batches of a loader: values, what is read, damage, and what is refused."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from drawstream import (
    RICAP,
    ArraySource,
    BadSampleError,
    Catalog,
    FieldDataset,
    IndexStream,
    Loader,
    Mixup,
    Reading,
    Remote,
    StreamDataLoader,
    Transform,
    pack,
)  # fmt: skip
from drawstream.features.table import FeatureTable
from drawstream.pipeline.fields import NO_MASK
from drawstream.pipeline.reading import write_quarantine
from drawstream.pipeline.verify import verify
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, encoded, write_table

N = 60
TEXTS = [None if i % 7 == 0 else f"{label}: {'ein' * (i % 3)} 中国" for i, label in enumerate(LABELS[:N])]
OBJECTS = [{"row": i, "objects": [[i % 4, 1, 8, 6 + i % 3]] * (i % 3)} for i in range(N)]
ARRAYS = [np.full((i % 3, 2), i, np.int16) for i in range(N)]
MASKS = [None if i % 5 == 0 else mask for i, mask in enumerate((PIXELS[:N] > 100).astype(np.uint8) * 7)]
FIELDS = {"txt": TEXTS, "json": OBJECTS, "npy": ARRAYS, "seg.png": MASKS, "bin": [bytes([i]) for i in range(N)]}
KINDS = ("raw", "png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    source = ArraySource(PIXELS[:N], LABELS[:N], fields=FIELDS)
    return {kind: pack(source, folder / kind, encoding=kind, shard_rows=25).train for kind in KINDS}


@pytest.fixture
def png(folders):
    return Catalog.open(folders["png"])


def loader_of(catalog, **options):
    return Loader(catalog, IndexStream(len(catalog), seed=1), **{"batch_size": 16, **options})


def rows_of(loader):
    """Values of all batches by number of the image: (row of the catalog, fields)."""
    found = {}
    for batch in loader:
        for i, row in enumerate(batch.ids.tolist()):
            found[int(loader.catalog.key(row))] = {name: values[i] for name, values in batch.fields.items()}
    loader.close()
    return found


@pytest.mark.parametrize("backend", ["dali", "pillow"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_by_name(folders, kind, backend):
    asked = ("txt", "json", "npy", ".BIN")
    transform = Transform.small((8, 8), 1, augment=True)
    loader = loader_of(
        Catalog.open(folders[kind]), fields=asked, mask="seg.png", boxes="json:objects", transform=transform,
        backend=backend, batch_size=7,
    )  # fmt: skip
    if kind == "raw":
        assert loader._reader.group > 1  # batches are parts of a run
    found = rows_of(loader)
    assert sorted(found) == list(range(N))
    for i, values in found.items():
        assert list(values) == ["txt", "json", "npy", "bin", "json:objects", "seg.png"]
        assert (values["txt"], values["json"], values["bin"]) == (TEXTS[i], OBJECTS[i], bytes([i]))
        assert np.array_equal(values["npy"], ARRAYS[i]) and values["npy"].dtype == np.int16
        assert len(values["json:objects"].xyxy) <= i % 3
        there = set(values["seg.png"].unique().tolist())
        assert there == {NO_MASK} if MASKS[i] is None else there <= {NO_MASK, 0, 7} and 0 in there


def test_whole_images_keep_masks_and_boxes(png):
    found = rows_of(loader_of(png, mask="seg.png", boxes="json:objects"))
    for i, values in found.items():
        if MASKS[i] is not None:
            assert np.array_equal(values["seg.png"], MASKS[i])
        boxes = np.array(OBJECTS[i]["objects"], np.float32).reshape(-1, 4)
        assert np.array_equal(values["json:objects"].xyxy, boxes) and values["json:objects"].kept.tolist() == [
            *range(i % 3)
        ]


def test_without_fields_nothing_of_them_is_read(png):
    plain = loader_of(png)
    batches = list(plain)
    assert all(batch.fields == {} for batch in batches)
    assert plain.metrics["bytes_read"] == int(png.size.sum())
    loader = loader_of(png, fields=("txt",))
    again = list(loader)
    assert loader.metrics["bytes_read"] == int(png.size.sum() + png.field_columns["txt"].size.sum())
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.ids, other.ids)


def test_ranks_and_places_have_the_same_fields(png):
    whole = rows_of(loader_of(png, fields=("txt",), mask="seg.png"))
    for rank in range(3):
        loader = loader_of(png, batch_size=5, rank=rank, world_size=3, fields=("txt",), mask="seg.png")
        for i, values in rows_of(loader).items():
            assert values["txt"] == whole[i]["txt"] and torch.equal(values["seg.png"], whole[i]["seg.png"])
    loader = loader_of(png, fields=("txt",))
    begun = iter(loader)
    next(begun)
    state = loader.state_dict()
    begun.close()
    rest = loader_of(png, fields=("txt",))
    rest.load_state_dict(state)
    assert len(rows_of(rest)) == N - 16
    loader_of(png).load_state_dict(state)  # the order is the same whatever is read


def test_crops_of_a_feature_table(png, tmp_path):
    folder = write_table(tmp_path / "table", png, {"loss": np.arange(N, dtype=np.float32)})
    loader = Loader(png, IndexStream(N), rows=FeatureTable.open(folder), batch_size=N, fields=("txt",))
    (batch,) = loader
    assert batch.fields["txt"] == [TEXTS[int(png.key(row))] for row in batch.ids.tolist()]


def test_some_rows_of_a_batch(png):
    (batch,) = loader_of(png, batch_size=N, fields=("txt",), mask="seg.png")
    for index in (slice(3, 9), torch.tensor([5, 2])):
        part = batch.rows(index)
        places = list(range(3, 9)) if isinstance(index, slice) else [5, 2]
        assert part.fields["txt"] == [batch.fields["txt"][place] for place in places]
        assert torch.equal(part.fields["seg.png"], batch.fields["seg.png"][places])
        assert torch.equal(part.ids, batch.ids[places]) and len(part.tensors) == 5


@pytest.mark.parametrize("mode", ["cache", "ranges"])
def test_remote_shards(folders, png, mode, tmp_path):
    catalog = Catalog.open(f"file://{folders['png']}")
    reading = Reading(remote=Remote(mode, folder=tmp_path))
    found = rows_of(loader_of(catalog, fields=("txt", "bin"), mask="seg.png", reading=reading))
    for i, values in rows_of(loader_of(png, fields=("txt", "bin"), mask="seg.png")).items():
        assert (found[i]["txt"], found[i]["bin"]) == (values["txt"], values["bin"])
        assert torch.equal(found[i]["seg.png"], values["seg.png"])


DAMAGE = {  # what is put at the begin of a field of row 40, and what is said
    "a letter": ("txt", b"X", r"its \d+ bytes of .txt do not match the checksum of the catalog"),
    "no text": ("txt", b"\xff", r"\.txt must be UTF-8, but has byte 0xff at 0"),
    "no object": ("json", b"[", r"\.json must be JSON, but has '\["),
    "no array": ("npy", b"?", r"\.npy must be an array as np.save writes it"),
    "no mask": ("seg.png", b"GIF8", r"mask \.seg\.png must be a PNG of class numbers"),
}


@pytest.fixture
def damaged(folders, tmp_path):
    def damage(name, data):
        catalog = Catalog.open(shutil.copytree(folders["png"], tmp_path / "data"))
        row = catalog.rows_of([f"{41:08d}"])[0]
        with catalog.shard_path(catalog.shard[row]).open("r+b") as file:
            file.seek(int(catalog.field_columns[name].offset[row]))
            file.write(data)
        return catalog, int(row)

    return damage


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_fields_are_bad_samples(damaged, case):
    name, data, text = DAMAGE[case]
    catalog, row = damaged(name, data)
    asked = {"mask": "seg.png"} if name == "seg.png" else {"fields": (name,)}
    policy = "always" if case == "a letter" else "never"
    loader = loader_of(catalog, reading=Reading(checksum=policy), **asked)
    with pytest.raises(BadSampleError, match=f"sample '00000041'.*{text}") as caught:
        list(loader)
    assert caught.value.sample_id == row and "\n" not in str(caught.value)
    reading = Reading(checksum=policy, on_bad="substitute")
    loader = loader_of(catalog, reading=reading, **asked)
    ids = torch.cat([batch.ids for batch in loader]).tolist()
    assert len(ids) == N and row not in ids and [each.sample_id for each in loader.bad_samples] == [row]
    assert loader.metrics["substituted"] == 1
    assert len(list(loader_of(catalog, reading=Reading(checksum=policy)))) == 4  # not asked for, not read


def test_a_list_of_verify_leaves_out_samples_with_damaged_fields(damaged, tmp_path):
    catalog, row = damaged("txt", b"X")
    findings = verify(catalog)
    assert [(each.kind, each.row) for each in findings] == [("bytes", None), ("checksum", row)]
    assert write_quarantine(tmp_path / "bad.json", catalog, findings) == 1
    loader = loader_of(catalog, reading=Reading(quarantine=tmp_path / "bad.json"), fields=("txt",))
    assert 41 not in rows_of(loader)


def test_a_checksum_of_the_first_read_covers_fields(damaged):
    catalog, row = damaged("txt", b"X")
    loader = loader_of(catalog, reading=Reading(checksum="first", on_bad="substitute"), fields=("txt",))
    assert row not in torch.cat([batch.ids for batch in loader])
    assert loader._files._seen.sum() == N - 1


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"fields": ("cap",)}, r"has no field 'cap', its fields are txt, json, npy, seg.png, bin: index it"),
        ({"fields": "txt"}, r"`fields` must be a sequence of names, but got 'txt': give \('txt',\)"),
        ({"fields": ("txt", "txt")}, "field 'txt' is named twice"),
        ({"fields": ("seg.png",), "mask": "seg.png"}, "'seg.png' is asked for as the mask and as a field"),
        ({"fields": ("npy",), "boxes": "npy"}, "'npy' is asked for as boxes and as a field"),
        ({"boxes": ""}, "a field is named by its extension"),
        ({"mask": "txt"}, "a mask is a PNG of class numbers, but mask='txt' names members .txt: name the field of"),
        ({"mask": "input.JPG"}, "mask='input.jpg' names members .input.jpg"),
        ({"boxes": "jpg"}, "boxes are arrays or JSON, but boxes='jpg' names members .jpg: give a field such as"),
        ({"boxes": "txt:boxes"}, "boxes='txt:boxes' names members .txt"),
        ({"boxes": "npy:boxes"}, "boxes='npy:boxes': an array has no keys: give 'npy'"),
        ({"boxes": "json:"}, "boxes='json:': no key stands behind the colon: give 'json', or json:PATH.TO.KEY"),
    ],
)
def test_fields_that_cannot_be_asked_for(png, asked, text):
    refused(text, lambda: loader_of(png, **asked))


def test_operations_that_masks_cannot_follow_are_refused(png):
    transform = Transform.small((8, 8), 1)
    moved = replace(transform, randaugment=(2, 4))
    for asked in ({"mask": "seg.png"}, {"boxes": "json:objects"}):
        refused(
            "RandAugment turns, shears and moves images", lambda asked=asked: loader_of(png, transform=moved, **asked)
        )
    assert len(list(loader_of(png, transform=moved, fields=("txt",), backend="pillow"))) == 4


BOXES = {
    "no boxes": ([[1, 2, 3]], r"must hold boxes, finite numbers \(k, 4\)"),
    "words": ("all", r"must hold boxes, finite numbers \(k, 4\)"),
    "sides": ([[5, 5, 2, 6]], r"box 0 is \[5.0, 5.0, 2.0, 6.0\]: is it x, y, width, height\?"),
    "endless": ([[0, 0, float("inf"), 1]], r"must hold boxes, finite numbers \(k, 4\)"),
}


@pytest.mark.parametrize("case", BOXES)
def test_boxes_that_are_none(tmp_path, case):
    boxes, text = BOXES[case]
    source = ArraySource(PIXELS[:2], LABELS[:2], fields={"json": [{"boxes": boxes}, {"boxes": None}]})
    catalog = Catalog.open(pack(source, tmp_path / "out").train)
    refused(text, lambda: list(loader_of(catalog, boxes="json:boxes")), error=BadSampleError)


def test_a_key_that_no_sample_has_is_the_fault_of_the_option_and_of_one_that_of_the_sample(tmp_path):
    def first_error(objects, **asked):
        source = ArraySource(PIXELS[: len(objects)], LABELS[: len(objects)], fields={"json": objects})
        catalog = Catalog.open(pack(source, tmp_path / f"{len(list(tmp_path.iterdir()))}").train)
        return refused("must have a key", lambda: list(loader_of(catalog, **asked)), error=BadSampleError)

    text = first_error([{"boxes": []}, {"boxes": None}, None], boxes="json:b")
    assert "'b', but its keys are 'boxes'; no sample of its batch has one there: name another" in text
    assert "(boxes='json:b')" in text and "drawstream verify" not in text
    text = first_error([{"boxes": []}, {"other": []}], boxes="json:boxes")
    assert "'00000001'" in text and "repair it, or let the loader replace" in text


def test_what_torch_loaders_do_not_take_is_said(png):
    dataset = FieldDataset(png, ("txt",))
    for asked in ({"fields": ("txt",)}, {"mask": "seg.png"}, {"boxes": "json:b"}):
        refused("is an option of Loader.*FieldDataset", StreamDataLoader, dataset, **asked, error=TypeError)


def masked(folder, *masks, **options):
    """A catalog of so many digits with these masks."""
    source = ArraySource(PIXELS[: len(masks)], LABELS[: len(masks)], fields={"seg.png": masks})
    return Catalog.open(pack(source, folder / "out", **options).train)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (encoded(np.zeros((8, 8, 3), np.uint8), "PNG"), "must have one channel, gray or palette"),
        (np.zeros((8, 9), np.uint8), "must have 8 × 8 pixels, as the image has as stored, but has 8 × 9"),
        (b"\xff\xd8\xff\xe0 a JPEG", "must be a PNG of class numbers"),
    ],
)
def test_masks_that_are_none(tmp_path, mask, text):
    catalog = Catalog.open(
        pack(ArraySource(PIXELS[:1], LABELS[:1], fields={"seg.png": [mask]}), tmp_path / "out").train
    )
    refused(text, lambda: list(loader_of(catalog, mask="seg.png")), error=BadSampleError)


def test_colours_are_no_classes(tmp_path):
    from shared.samples import encoded

    data = encoded(np.zeros((8, 8, 3), np.uint8), "PNG")
    catalog = Catalog.open(
        pack(ArraySource(PIXELS[:1], LABELS[:1], fields={"seg.png": [data]}), tmp_path / "out").train
    )
    refused(
        "must have one channel, gray or palette", lambda: list(loader_of(catalog, mask="seg.png")), error=BadSampleError
    )


def test_a_mask_that_does_not_decode_is_a_bad_sample(tmp_path):
    """Its header is right, its pixels are cut short: only the decoder can tell."""
    whole = encoded(PIXELS[0], "PNG")
    at = whole.index(b"IDAT")
    cut = whole[: at + 10] + bytes(len(whole) - at - 10)
    catalog = masked(tmp_path, *[whole] * 5, cut, encoding="png")
    row = int(catalog.rows_of(["00000005"])[0])
    for backend in ("dali", "pillow"):
        asked = {"mask": "seg.png", "backend": backend}
        act = lambda asked=asked: list(loader_of(catalog, **asked))  # noqa: E731
        error = refused("cannot be decoded", act, error=BadSampleError)
        assert "'00000005'" in error
        loader = loader_of(catalog, **asked, reading=Reading(on_bad="substitute"))
        assert row not in torch.cat([batch.ids for batch in loader]) and len(loader.bad_samples) == 1


def test_mixing_refuses_masks_and_boxes(png):
    for mix in (Mixup(), RICAP()):
        for asked in ({"mask": "seg.png"}, {"boxes": "json:objects"}):
            batch = next(iter(loader_of(png, **asked)))
            refused("mixed images have no one geometry that", lambda m=mix, b=batch: m(b, epoch=0, step=0))
        batch = next(iter(loader_of(png, fields=("txt",))))
        mixed, same = mix(batch, epoch=0, step=0), mix(batch.images, batch.labels, epoch=0, step=0)
        assert torch.equal(mixed.images, same.images) and torch.equal(mixed.labels, same.labels)
        refused("mixing needs the labels", lambda m=mix, b=batch: m(b.images, epoch=0, step=0))


def test_fields_without_images(png):
    data = FieldDataset(png, ("txt", "npy"))
    assert data[0]["txt"] == TEXTS[int(png.key(0))]  # files are open
    data = pickle.loads(pickle.dumps(data))
    loader = StreamDataLoader(data, IndexStream(N, seed=1), batch_size=16, collate_fn=list)
    texts = [each["txt"] for batch in loader for each in batch]
    assert texts == [text for batch in loader_of(png, fields=("txt",)) for text in batch.fields["txt"]]
    assert np.array_equal(data[-1]["npy"], ARRAYS[int(png.key(N - 1))]) and len(data) == N
    refused("row 60 of 60", lambda: data[60], error=IndexError)
    refused("has no field 'cap'", FieldDataset, png, ("cap",))


def test_damaged_fields_without_images(damaged):
    catalog, row = damaged("txt", b"X")
    text = r"'00000041'.* bytes of \.txt do not match"
    refused(text, lambda: FieldDataset(catalog, ("txt",))[row], error=BadSampleError)
    assert FieldDataset(catalog, ("json",))[row]["json"] == OBJECTS[41]


def test_a_member_of_joined_catalogs_may_lack_a_field(folders, tmp_path):
    one = ArraySource(PIXELS[:N], LABELS[:N], fields={"txt": ["other"] * N})
    other = pack(one, tmp_path / "other", encoding="png").train
    joined = Catalog.open(folders["png"], other)
    (batch,) = Loader(joined, batch_size=2 * N, fields=("txt", "bin"), mask="seg.png")
    assert batch.fields["txt"][N:] == ["other"] * N and batch.fields["bin"][N:] == [None] * N
    assert batch.fields["txt"][:N] == [TEXTS[int(key)] for key in Catalog.open(folders["png"]).keys]
    assert (batch.fields["seg.png"][N:] == NO_MASK).all() and (batch.fields["seg.png"][:N] >= 0).any()
