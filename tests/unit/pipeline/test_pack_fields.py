"""Packing images with captions, masks and boxes beside them."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from drawstream import ArraySource, Catalog, IndexStream, Loader, Transform, index, open_source, pack, verify
from drawstream.pipeline.fields import decode_value, encode_value
from drawstream.pipeline.shards import Selection
from shared.programs import cli
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, encoded, turned_exif, write_files

N = 30
BOXES = [None if i % 3 == 0 else np.full((i % 3, 4), i, np.float32) for i in range(N)]
FIELDS = {
    "txt": [f"digit {label}, Bild {i}" for i, label in enumerate(LABELS[:N])],
    "boxes.npy": BOXES,
    "seg.png": (PIXELS[:N] > 100).astype(np.uint8),
    "json": [{"row": i} for i in range(N)],
}


def stored(catalog, row, name):
    """The value of a field as its shard has it."""
    columns = catalog.field_columns[name]
    if columns.offset[row] < 0:
        return None
    data = catalog.shard_path(catalog.shard[row]).read_bytes()[columns.offset[row] :][: columns.size[row]]
    return np.asarray(Image.open(io.BytesIO(data))) if name == "seg.png" else decode_value(name, data)


def test_arrays_with_fields(tmp_path):
    source = ArraySource(PIXELS[:N], LABELS[:N], fields=FIELDS)
    result = pack(source, tmp_path / "out", holdout=10, shard_rows=7)
    for part in (result.train, result.holdout):
        catalog = Catalog.open(part)
        assert catalog.fields == tuple(FIELDS) and verify(catalog) == []
        for row, key in enumerate(map(int, catalog.keys)):
            for name, values in FIELDS.items():
                found = stored(catalog, row, name)
                assert found is None if values[key] is None else np.array_equal(found, values[key]), (name, key)
        with tarfile.open(catalog.shard_path(0)) as tar:
            names = tar.getnames()
        assert names == sorted(names, key=lambda name: (names.index(f"{name.partition('.')[0]}.cls"), name))
        other = index(part, out=tmp_path / f"index-{part.name}", selection=Selection(fields=tuple(FIELDS)))
        for name, columns in Catalog.open(other).field_columns.items():
            assert all(np.array_equal(*pair) for pair in zip(columns, catalog.field_columns[name], strict=True))
    assert not pack(source, tmp_path / "out", holdout=10, shard_rows=7).ran
    refused(
        "holds a pack with fields",
        lambda: pack(ArraySource(PIXELS[:N], LABELS[:N]), tmp_path / "out", holdout=10, shard_rows=7),
    )


@pytest.fixture
def photos(tmp_path):
    """Class folders: an image with all fields, one with dots in its name and a caption, one without fields."""
    image, mask = encoded(PIXELS[0], "PNG"), encoded(PIXELS[1], "PNG")
    files = {
        "a/one.png": image, "a/one.txt": b"one", "a/one.seg.png": mask,
        "a/x.y.jpg": encoded(PIXELS[2], "JPEG"), "a/x.y.txt": b"two", "b/three.png": image,
        "b/lost.seg.png": mask, "b/notes.md": b"#",
    }  # fmt: skip
    return write_files(tmp_path / "photos", files)


def test_sidecars_of_class_folders(photos, tmp_path):
    source = open_source(photos, fields=("txt", ".seg.png"))
    assert [source.key(row) for row in range(len(source))] == ["a/one", "a/x_y", "b/three"]
    lines = source.left_out.lines
    assert any("1 files .seg.png without an image of their name: b/lost.seg.png" in line for line in lines)
    assert not any(".txt" in line for line in lines)
    catalog = Catalog.open(pack(source, tmp_path / "out").train)
    found = {
        key: (stored(catalog, row, "txt"), stored(catalog, row, "seg.png")) for row, key in enumerate(catalog.keys)
    }
    assert found["a/one"][0] == "one" and (found["a/one"][1] == PIXELS[1]).all()
    assert (found["a/x_y"], found["b/three"]) == (("two", None), (None, None))
    assert not pack(open_source(photos, fields=("txt", "seg.png")), tmp_path / "out").ran
    (photos / "a" / "x.y.txt").write_bytes(b"other")
    refused("holds a pack with other files", pack, open_source(photos, fields=("txt", "seg.png")), tmp_path / "out")


def test_without_fields_masks_are_images_as_before(photos):
    source = open_source(photos)
    assert len(source) == 5 and any(".txt" in line for line in source.left_out.lines)


def test_the_command_packs_sidecars(photos, tmp_path):
    cli("pack", photos, tmp_path / "out", "--fields", "txt,seg.png")
    assert Catalog.open(tmp_path / "out").fields == ("txt", "seg.png")
    assert r"no image has a file .cap of its name beside it" in cli(
        "pack", photos, tmp_path / "other", "--fields", "cap", status=2
    )


def test_fields_that_cannot_be_read_count_as_bad_images(photos, tmp_path):
    (photos / "a" / "one.txt").write_bytes(b"caf\xe9")
    source = open_source(photos, fields=("txt",))
    with pytest.raises(ValueError, match=r"'a/one'.*\.txt must be UTF-8, but has byte 0xe9 at 3"):
        pack(source, tmp_path / "out")
    assert pack(source, tmp_path / "out", skip_bad=True).bad[0].key == "a/one"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"txt": ["a"]}, "field 'txt' must have a value for each of 30 images, but got 1"),
        ({"png": PIXELS[:N]}, r"field \.png would have the name of an image or a label"),
        ({"cls": ["1"] * N}, r"field \.cls would have the name of an image or a label"),
    ],
)
def test_fields_of_arrays_that_cannot_be(tmp_path, fields, text):
    refused(text, lambda: pack(ArraySource(PIXELS[:N], LABELS[:N], fields=fields), tmp_path / "out"))


def test_other_sources_have_no_fields(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS[:N], labels=LABELS[:N])
    refused("fields are files beside the images of class folders", open_source, tmp_path / "a.npz", fields=("txt",))


@pytest.mark.parametrize("options", [{"encoding": "jpeg"}, {"short_side": 20}, {"encoding": "jpeg", "short_side": 20}])
def test_masks_and_boxes_follow_images_that_are_stored_otherwise(tmp_path, options):
    """Whatever EXIF says and however the image is stored, its bright part, its mask and its box stay together."""
    image = np.zeros((40, 60), np.uint8)
    image[4:20, 8:32] = 255
    for turned in range(1, 9):
        files = {
            f"a/{turned}.png": encoded(image, "PNG", exif=turned_exif(turned)),
            f"a/{turned}.seg.png": encoded(image > 0, "PNG"),
            f"a/{turned}.json": encode_value("json", {"boxes": [[8, 4, 32, 20]]}),
        }
        write_files(tmp_path / "photos", files)
    source = open_source(tmp_path / "photos", fields=("seg.png", "json"))
    catalog = Catalog.open(pack(source, tmp_path / "out", boxes="json:boxes", **options).train)
    for row in range(len(catalog)):
        size = int(catalog.height[row]), int(catalog.width[row])
        one = Transform(size, (0.0,), (255.0,))
        loader = Loader(
            catalog, IndexStream(len(catalog)), transform=one, batch_size=8, mask="seg.png", boxes="json:boxes"
        )
        batch = next(iter(loader))
        i = batch.ids.tolist().index(row)
        (x0, y0, x1, y1), mask = batch.fields["json:boxes"][i].xyxy[0].tolist(), batch.fields["seg.png"][i].numpy()
        boxed = np.zeros(size)
        boxed[round(y0) : round(y1), round(x0) : round(x1)] = 1
        assert (mask == boxed).all() and ((batch.images[i, 0].numpy() > 0.5) == mask).mean() > 0.97, catalog.key(row)
