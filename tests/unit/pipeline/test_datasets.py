"""Map-style data sets, and Parquet and Arrow files of Hugging Face, as sources of `pack`."""

import io
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from drawstream import Catalog, Loader, open_source, pack
from drawstream.pipeline import BadImagesError
from drawstream.pipeline.decoding import decode
from drawstream.pipeline.sources import DatasetSource, TableSource
from shared.processes import run
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import CHINA, FLOWER, LABELS, PIXELS, encoded, member, turned_exif

PHOTO = load_sample_images().images[1][:40, :60]


class Rows:
    """A map-style data set of a list of rows."""

    def __init__(self, rows, **stated):
        self.rows = rows
        vars(self).update(stated)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        given = self.rows[row]
        if isinstance(given, Exception):
            raise given
        return given


def by_key(catalog):
    """Image bytes and labels by the key of a row."""
    return {catalog.key(row): (member(catalog, row), catalog.label[row]) for row in range(len(catalog))}


KINDS = {  # what a data set may give, and the pixels that are meant
    "PIL gray": (Image.fromarray(PIXELS[0]), PIXELS[0]),
    "PIL RGB": (Image.fromarray(PHOTO), PHOTO),
    "PIL palette": (Image.fromarray(PHOTO).quantize(16), None),
    "PIL bilevel": (Image.fromarray(PIXELS[0]).convert("1"), None),
    "array gray": (PIXELS[0], PIXELS[0]),
    "array one channel": (PIXELS[0][..., None], PIXELS[0]),
    "array RGB": (PHOTO, PHOTO),
    "tensor": (torch.from_numpy(PHOTO.transpose(2, 0, 1).copy()), PHOTO),
    "tensor gray": (torch.from_numpy(PIXELS[:1].copy()), PIXELS[0]),
    "ToTensor": (torch.from_numpy(PHOTO.transpose(2, 0, 1).copy()).float().div(255), PHOTO),
    "PNG": (encoded(PHOTO, "png"), PHOTO),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_are_stored_without_loss(kind, tmp_path):
    image, pixels = KINDS[kind]
    if pixels is None:
        pixels = np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
    data = Rows([(image, 1), (image, 0)])
    catalog = Catalog.open(pack(data, tmp_path / "data").train)
    assert set(catalog.encodings) == {"png"} and sorted(catalog.label) == [0, 1]
    assert (decode(member(catalog, 0)) == pixels).all()
    raw = Catalog.open(pack(data, tmp_path / "raw", encoding="raw").train)
    assert set(raw.encodings) == {"raw"}


def test_images_that_files_hold_keep_their_bytes(tmp_path):
    turned = encoded(PHOTO, "jpeg", exif=turned_exif(6))
    for name, data in (("a.jpg", CHINA), ("b.jpg", turned), ("c.bmp", encoded(PHOTO, "bmp")), ("d.jpg", FLOWER)):
        (tmp_path / name).write_bytes(data)
    opened = [Image.open(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.bmp")]
    changed = Image.open(tmp_path / "d.jpg")
    changed.thumbnail((64, 64))  # no more what its file holds
    found = by_key(Catalog.open(pack(Rows([(image, 0) for image in (*opened, changed)]), tmp_path / "data").train))
    assert found["00000000"][0] == CHINA and found["00000001"][0] == turned
    assert found["00000002"][0].startswith(b"\x89PNG") and (decode(found["00000002"][0]) == PHOTO).all()
    assert (decode(found["00000003"][0]) == np.asarray(changed)).all()
    folder = Rows([(Image.open(tmp_path / "a.jpg").convert("RGB"), 0)], samples=[(str(tmp_path / "a.jpg"), 0)])
    assert by_key(Catalog.open(pack(folder, tmp_path / "folder").train))["00000000"][0] == CHINA


def test_labels_stated_read_named_and_of_other_kinds(tmp_path):
    images = [Image.fromarray(each) for each in PIXELS[:6]]
    read = DatasetSource.open(Rows([(image, torch.tensor(i % 3)) for i, image in enumerate(images)]))
    assert read.labels.tolist() == [0, 1, 2, 0, 1, 2] and read.classes == ("0", "1", "2") and not read.stated
    named = DatasetSource.open(Rows([(image, "cat" if i % 2 else "dog") for i, image in enumerate(images)]))
    assert named.labels.tolist() == [1, 0, 1, 0, 1, 0] and named.classes == ("cat", "dog")
    marks = DatasetSource.open(Rows([(image, np.array([1, i % 2])) for i, image in enumerate(images)]))
    assert marks.labels.dtype == np.uint8 and marks.labels.shape == (6, 2) and "several classes" in marks.notes[0]
    none = DatasetSource.open(Rows([(image, None) for image in images]), label_kind="none")
    assert none.labels.shape == (6, 0)
    rows = Rows([(None, i % 3) for i in range(6)], targets=torch.arange(6) % 3, classes=["a", "b", "c", "d"])
    stated = DatasetSource.open(rows)  # no image is read
    assert stated.stated and stated.classes == ("a", "b", "c", "d")
    rows.rows = [(image, i % 2) for i, image in enumerate(images)]
    text = refused(
        "2 images of it cannot|row 2: its label is 0, but the data set states 2", pack, stated, tmp_path / "data"
    )
    assert "leave out what changes labels" in text
    drawn = itertools.chain([0] * 6, itertools.repeat(1))  # another label when it is read again

    class Moving:
        def __len__(self):
            return 6

        def __getitem__(self, row):
            return images[row], next(drawn)

    refused("row 2: its label is 1, but it was 0 when first read", pack, Moving(), tmp_path / "moving")


def test_rows_that_are_dicts():
    rows = Rows([{"img": PIXELS[i], "label": i % 2, "caption": "", "fine": i} for i in range(4)])
    assert DatasetSource.open(rows).labels.tolist() == [0, 1, 0, 1]
    assert DatasetSource.open(rows, columns=(None, "fine")).labels.tolist() == [0, 1, 2, 3]
    refused(
        "img, label, caption, fine, but no nothing and label: name them",
        DatasetSource.open,
        rows,
        columns=("nothing", None),
    )
    refused("rows are no dicts", DatasetSource.open, Rows([(PIXELS[0], 0)]), columns=("img", None))


def test_what_is_refused(tmp_path):
    rows = [(Image.fromarray(PIXELS[i]), i % 2) for i in range(4)]
    for bad, text in (
        (KeyError("lost"), "row 3: KeyError: 'lost'"),
        ((PHOTO.astype(float), 0), "an image must be of PIL"),
        ((torch.randn(3, 8, 8), 0), "leave out Normalize"),
        ((Image.fromarray(np.zeros((4, 4), np.int32)), 0), "other than 8 bits"),
        ((b"no image", 0), "not a readable JPEG"),
    ):
        data = Rows([*rows[:3], bad], targets=[0, 1, 0, 0])
        with pytest.raises(BadImagesError, match="00000003") as caught:
            pack(data, tmp_path / "data")
        assert text in str(caught.value)
        assert pack(data, tmp_path / "skipped", skip_bad=True, overwrite=True).rows == 3
    refused("has no rows", DatasetSource.open, Rows([]))
    refused("row 1: KeyError.*--skip-bad", DatasetSource.open, Rows([rows[0], KeyError("lost")]))
    refused("none of its first 2 rows can be read, row 0: KeyError", DatasetSource.open, Rows([KeyError("lost")] * 2))
    refused("needs len", DatasetSource.open, iter(rows))
    refused(r"a row must be \(image, label\) or a dict", DatasetSource.open, Rows([PIXELS[0]]))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rows_that_raise_while_labels_are_read_are_left_out_and_listed(workers, tmp_path):
    names = ["cat", "dog", "cat", "dog"]
    good = [(Image.fromarray(PIXELS[i]), names[i]) for i in range(4)]
    data = Rows([OSError("truncated"), *good[:2], KeyError("lost"), *good[2:], (b"no image", "cat")])
    refused(r"Rows: image '00000000': row 0: OSError.*--skip-bad", pack, data, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    source = open_source(data, skip_bad=True, workers=workers)
    assert [source.key(row) for row in range(len(source))] == [f"{row:08d}" for row in (1, 2, 4, 5, 6)]
    packed = pack(source, tmp_path / "data", skip_bad=True)
    assert packed.rows == 4
    assert {each.key: each.reason.split(":")[0].split(" (")[0] for each in packed.bad} == {
        "00000000": "row 0", "00000003": "row 3", "00000006": "not a readable JPEG, PNG, WebP or Netpbm image"
    }  # fmt: skip
    whole = Catalog.open(packed.train)
    for key, (image, label) in by_key(whole).items():
        row = [1, 2, 4, 5].index(int(key))
        assert (decode(image) == PIXELS[row]).all() and whole.classes[label] == names[row]
    again = pack(data, tmp_path / "data", skip_bad=True)
    assert not again.ran and len(again.bad) == 2


def test_captions_masks_and_boxes_of_rows_are_fields(tmp_path):
    masks = [Image.fromarray((each > 100).astype(np.uint8)) for each in PIXELS[:6]]
    rows = [
        {
            "image": Image.fromarray(PIXELS[i]),
            "caption": None if i == 2 else f"digit {i} 中",
            "mask": masks[i],
            "boxes": torch.tensor([[0.0, 1, 4, 5]] * (i % 3)).reshape(-1, 4),
            "meta": {"row": i},
        }
        for i in range(6)
    ]
    asked = ("caption", "seg.png=mask", "boxes", "meta", "txt=caption")
    source = open_source(Rows(rows), label_kind="none", fields=asked)
    assert source.fields == {
        "caption.txt": "caption", "seg.png": "mask", "boxes.npy": "boxes", "meta.json": "meta", "txt": "caption"
    }  # fmt: skip
    catalog = Catalog.open(pack(source, tmp_path / "data").train)
    assert not source._held._rows
    loader = Loader(
        catalog, batch_size=6, fields=("caption.txt", "meta.json", "txt"), mask="seg.png", boxes="boxes.npy"
    )
    (batch,) = loader
    for at, row in enumerate(int(catalog.key(int(each))) for each in batch.ids):
        found = {name: values[at] for name, values in batch.fields.items()}
        assert found["caption.txt"] == found["txt"] == rows[row]["caption"] and found["meta.json"] == {"row": row}
        assert (found["seg.png"].numpy() == np.asarray(masks[row])).all()
        assert torch.equal(found["boxes.npy"].xyxy, rows[row]["boxes"])
    assert pack(source, tmp_path / "data").ran is False
    other = open_source(Rows(rows), label_kind="none", fields=("caption", "seg.png=mask", "boxes", "meta", "txt=meta"))
    refused("field_columns", pack, other, tmp_path / "data")
    refused("no column 'text' for a field, there are image, caption", open_source, Rows(rows), label_kind="none",
            fields=["text"])  # fmt: skip
    refused("rows have image, caption.*but no image and label", open_source, Rows(rows))


def test_targets_that_are_captions(tmp_path):
    """As torchvision's CocoCaptions and Flickr8k have them: five a picture."""
    rows = [(Image.fromarray(PIXELS[i]), [f"{i}, {word}" for word in "abcde"]) for i in range(4)]
    refused("lists of texts: take captions as a field", DatasetSource.open, Rows(rows))
    source = open_source(Rows(rows), label_kind="none", fields=("target",))
    catalog = Catalog.open(pack(source, tmp_path / "data").train)
    assert catalog.fields == ("target.json",) and catalog.label_kind == "none"
    (batch,) = Loader(catalog, batch_size=4, fields=("target.json",))
    found = {
        int(catalog.key(int(row))): value for row, value in zip(batch.ids, batch.fields["target.json"], strict=True)
    }
    assert found == {i: target for i, (_, target) in enumerate(rows)}
    bad = open_source(Rows([*rows, (rows[0][0], {1, 2})]), label_kind="none", fields=("target",))
    refused("00000004.*cannot hold", pack, bad, tmp_path / "bad", error=BadImagesError)
    assert pack(bad, tmp_path / "bad", skip_bad=True).rows == 4


MODULE = """
import sys
import numpy as np
from sklearn.datasets import load_digits

class Digits:
    classes = list("0123456789")

    def __init__(self, rows):
        data = load_digits()
        self.images, self.labels = (data.images[:rows] * 15.9375).astype(np.uint8), data.target[:rows]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return self.images[row], self.labels[row]

class Unstated(Digits):
    def __init__(self, rows):
        super().__init__(rows)
        self.numbers = self.__dict__.pop("labels")

    def __getitem__(self, row):
        return self.images[row], self.numbers[row]

def digits(split):
    return Digits(60 if split == "train" else 20)

def unstated():
    return Unstated(40)

def broken():
    raise OSError("no such disk")
"""


def test_pack_of_a_factory_in_this_process_and_in_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_of_mine.py").write_text(MODULE)
    one = cli_json(tmp_path, "pack", "digits_of_mine:digits", "one")
    assert one["rows"] == 60
    catalog = Catalog.open("one")
    assert catalog.classes == tuple("0123456789") and catalog.provenance["source"] == "digits_of_mine:digits"
    found = by_key(catalog)
    for row in range(60):
        data, label = found[f"{row:08d}"]
        assert (decode(data) == PIXELS[row]).all() and label == LABELS[row]
    run("-m", "drawstream.tools.cli", "pack", "digits_of_mine:digits", "two", "--workers", "2", cwd=tmp_path)
    assert Catalog.open("two").fingerprint == catalog.fingerprint
    text = cli("pack", "digits_of_mine:unstated", "three", notes=True)
    assert "labels: 40 rows" in text and "pack: 40 images" in text
    assert cli_json(tmp_path, "pack", "digits_of_mine:digits", "test", "--split", "test")["rows"] == 20
    assert not cli_json(tmp_path, "pack", "digits_of_mine:digits", "one")["ran"]
    assert "OSError: no such disk" in cli("pack", "digits_of_mine:broken", "four", status=2)
    assert "no_such" in cli("pack", "no_such_module:f", "four", status=2)
    assert "--workers is for data sets" in cli("pack", tmp_path, "four", "--workers", "2", status=2)
    assert "--labels" in cli("pack", "digits_of_mine:digits", "four", "--labels", "a.csv", status=2)


# Hugging Face


def table(images, labels, names=None, *, metadata=True, **more):
    """A table as Hugging Face writes it; images are bytes, or dicts of bytes and path."""
    values = [{"bytes": each, "path": None} if isinstance(each, bytes) else each for each in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(values, kind), "label": pa.array(labels)} | {k: pa.array(v) for k, v in more.items()}
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    found = pa.table(columns)
    if not metadata:
        return found
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


PNGS = [encoded(each, "png") for each in PIXELS[:20]]
NAMES = list("0123456789")


def write_arrow(path, content, rows=7, *, stream=True):
    with pa.OSFile(str(path), "wb") as sink:
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=rows)


def as_parquet(folder, content):
    """Files of a repository of the hub: two of one split, in small row groups, and one of another."""
    (folder / "data").mkdir(parents=True)
    half = len(content) // 2
    for i, part in enumerate((content[:half], content[half:])):
        pq.write_table(part, folder / "data" / f"train-0000{i}-of-00002.parquet", row_group_size=3)
    pq.write_table(content[:2], folder / "data" / "validation-00000-of-00001.parquet")


def as_arrow(folder, content):
    """A folder of `save_to_disk`."""
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    half = len(content) // 2
    for i, part in enumerate((content[:half], content[half:])):
        write_arrow(folder / f"data-0000{i}-of-00002.arrow", part)


def as_splits(folder, content):
    """A folder of `save_to_disk` of several splits."""
    as_arrow(folder / "train", content)
    as_arrow(folder / "test", content[:2])
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


@pytest.mark.parametrize("write", [as_parquet, as_arrow])
def test_columns_of_hugging_face_are_fields(write, tmp_path):
    captions = [None if i % 5 == 0 else f"digit {i} 中" for i in range(20)]
    masks = [{"bytes": encoded((each > 100).astype(np.uint8), "png"), "path": "m.png"} for each in PIXELS[:20]]
    objects = [{"bbox": [[0.0, 1.0, 4.0, 5.0]] * (i % 3), "name": ["x"] * (i % 3)} for i in range(20)]
    content = table(PNGS, LABELS[:20], NAMES, caption=captions, mask=masks, objects=objects, other=[1] * 20)
    if write is as_parquet:  # the mask might be the image then, but it is asked for as a field
        content = content.replace_schema_metadata(None)
    write(tmp_path / "hub", content)
    words = ("pack", tmp_path / "hub", tmp_path / "data", "--fields", "caption,seg.png=mask,objects", "--holdout", "5")
    assert "not taken: 1 columns beside images and labels: other" in cli(*words)
    for part in ("train", "holdout"):
        catalog = Catalog.open(tmp_path / "data" / part)
        assert catalog.fields == ("caption.txt", "seg.png", "objects.json")
        asked = {"fields": ("caption.txt", "objects.json"), "mask": "seg.png", "boxes": "objects.json:bbox"}
        (batch,) = Loader(catalog, batch_size=len(catalog), **asked)
        for at, row in enumerate(int(catalog.key(int(each))) for each in batch.ids):
            found = {name: values[at] for name, values in batch.fields.items()}
            assert found["caption.txt"] == captions[row] and found["objects.json"] == objects[row]
            assert (found["seg.png"].numpy() == (PIXELS[row] > 100)).all()
            assert found["objects.json:bbox"].xyxy.tolist() == objects[row]["bbox"]
    files = sorted(tmp_path.glob("hub/**/*0-of-*2.*"))
    source = TableSource.open("hub", files, fields=("caption",), columns=("image", None))
    assert source.read_field(3, "caption.txt").decode() == captions[3] and source.read_field(0, "caption.txt") is None
    told = cli("pack", tmp_path / "hub", tmp_path / "x", "--fields", "seg.png=mask,text", status=2)
    assert "no column 'text' for a field, there are image, label, caption" in told


@pytest.mark.parametrize("write", [as_parquet, as_arrow, as_splits])
def test_tables_of_hugging_face(write, tmp_path):
    content = table(PNGS, LABELS[:20], NAMES, caption=[""] * 20)
    write(tmp_path / "hub", content)
    text = cli("pack", tmp_path / "hub", tmp_path / "data")
    assert "not taken: 1 columns beside images and labels: caption" in text
    catalog = Catalog.open(tmp_path / "data")
    assert catalog.classes == tuple(NAMES)
    found = by_key(catalog)
    assert [found[f"{row:08d}"] for row in range(20)] == list(zip(PNGS, LABELS[:20], strict=True))
    split = {"as_parquet": "validation", "as_splits": "test"}.get(write.__name__)
    if split:
        assert cli_json(tmp_path, "pack", tmp_path / "hub", tmp_path / "more", "--split", split)["rows"] == 2
    if write is as_parquet:
        assert "--split train" in cli("pack", tmp_path / "hub", tmp_path / "more", "--split", "test", status=2)
    if write is as_splits:
        assert "give the folder of one" in cli(
            "pack", tmp_path / "hub", tmp_path / "x", "--split", "validation", status=2
        )
    assert [
        each.name for each in (tmp_path / "data").iterdir() if "shard" not in each.name and "cat" not in each.name
    ] == []


@pytest.mark.parametrize("write", [as_parquet, as_arrow])
def test_a_file_that_the_names_count_and_that_is_not_there(write, tmp_path):
    write(tmp_path / "hub", table(PNGS, LABELS[:20], NAMES))
    next((tmp_path / "hub").rglob("*-00001-of-00002*")).unlink()
    error = cli("pack", tmp_path / "hub", tmp_path / "data", status=2)
    assert "has 1 of 2 files" in error and "fetch the others, or give one file" in error


def test_bytes_that_are_elsewhere_or_of_other_formats(tmp_path):
    (tmp_path / "flower.jpg").write_bytes(FLOWER)
    images = [
        {"bytes": None, "path": "flower.jpg"},
        {"bytes": CHINA, "path": "of/no/interest.jpg"},
        {"bytes": encoded(PHOTO, "bmp"), "path": "x.bmp"},
        {"bytes": None, "path": "lost.jpg"},
        {"bytes": None, "path": None},
        {"bytes": b"no image", "path": None},
    ]
    pq.write_table(table(images, [0] * 6, ["a"]), tmp_path / "some.parquet")
    source = open_source(tmp_path / "some.parquet")
    assert isinstance(source, TableSource) and source.read(0) == FLOWER and source.read(1) == CHINA
    refused("row 3 has no bytes, and .*lost.jpg cannot be read", source.read, 3)
    with pytest.raises(BadImagesError, match="neither bytes nor a path") as caught:
        pack(source, tmp_path / "data")
    assert sorted(each.key for each in caught.value.bad) == ["00000003", "00000004", "00000005"]
    found = by_key(Catalog.open(pack(source, tmp_path / "data", skip_bad=True).train))
    assert found["00000000"][0] == FLOWER and (decode(found["00000002"][0]) == PHOTO).all()


def test_columns_and_labels(tmp_path):
    file = tmp_path / "t.parquet"

    def opened(content, **options):
        pq.write_table(content, file)
        return open_source(file, **options)

    plain = table(PNGS[:4], ["dog", "cat", "dog", "eel"], metadata=False)
    assert opened(plain).labels.tolist() == [1, 0, 1, 2] and open_source(file).classes == ("cat", "dog", "eel")
    several = pa.table({"img": pa.array(PNGS[:3]), "label": pa.array([[0, 2], [], [1]])})
    source = opened(several)
    assert source.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]] and source.labels.dtype == np.uint8
    assert opened(pa.table({"img": pa.array(PNGS[:2]), "age": [0.5, 2.25]}), columns=(None, "age")).labels.tolist() == [
        [0.5],
        [2.25],
    ]
    fine = pa.table({"img": pa.array(PNGS[:2]), "fine_label": [0, 1], "coarse_label": [0, 0]})
    features = {each: {"_type": "ClassLabel", "names": ["x", "y"]} for each in ("fine_label", "coarse_label")}
    fine = fine.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    refused(r"several columns may hold them \(fine_label, coarse_label\): name it with --label-column", opened, fine)
    assert opened(fine, columns=(None, "fine_label")).labels.tolist() == [0, 1]
    assert opened(fine, label_kind="none").labels.shape == (2, 0)
    refused("images: no column 'nothing': the columns are img", opened, fine, columns=("nothing", None))
    refused("no column is known to hold them, the columns are label", opened, pa.table({"label": [0, 1]}))
    refused("has 1 nulls", opened, table(PNGS[:2], [0, None], ["a"]))
    refused(r"1 of 2 rows have the label -1", opened, table(PNGS[:2], [-1, 0], ["a"]))
    refused("only Parquet, Arrow and data sets", open_source, tmp_path / "none", columns=("image", None))


def test_damaged_tables(tmp_path):
    pq.write_table(table(PNGS, LABELS[:20], NAMES), tmp_path / "a.parquet", row_group_size=5)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-30])
    refused("a.parquet: not a readable Parquet file", open_source, tmp_path / "a.parquet")
    (tmp_path / "b.arrow").write_bytes(b"ARROW1\0\0nothing")
    refused("b.arrow: not a readable Arrow file", open_source, tmp_path / "b.arrow")
    write_arrow(tmp_path / "c.arrow", table(PNGS, LABELS[:20], NAMES), stream=False)
    assert open_source(tmp_path / "c.arrow").read(13) == PNGS[13]
    folder = tmp_path / "mixed"
    folder.mkdir()
    pq.write_table(table(PNGS[:4], [0] * 4, ["a"]), folder / "1.parquet")
    pq.write_table(table(PNGS[:4], [0] * 4, ["a"], more=[1] * 4), folder / "2.parquet")
    refused("2.parquet: has other columns than 1.parquet", open_source, folder)


def test_a_table_beside_class_folders_is_no_data_set(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(CHINA)
    pq.write_table(
        pa.table({"file": ["a/1.jpg", "b/1.jpg"], "sharp": [0.5, 0.25]}), tmp_path / "photos" / "list.parquet"
    )
    source = open_source(tmp_path / "photos")
    assert source.classes == ("a", "b") and "list.parquet" in source.left_out.lines[0]


def test_photographs_of_a_table_are_stored_smaller(tmp_path):
    pq.write_table(table([CHINA, FLOWER], [0, 1], ["a", "b"]), tmp_path / "a.parquet")
    done = pack(open_source(tmp_path / "a.parquet"), tmp_path / "data", short_side=100)
    assert done.resized.images == 2 and set(Catalog.open(done.train).height.tolist()) == {100}
    with Image.open(io.BytesIO(member(Catalog.open(done.train), 0))) as image:
        assert image.format == "JPEG"
