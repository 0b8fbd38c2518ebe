"""What `index` says and does of images that no loader decodes, labels that are none, and compressed shards."""

import bz2
import gzip
import io
import json
import lzma

import numpy as np
import pytest
from PIL import Image

from drawstream.pipeline.decoding.image import encode
from drawstream.pipeline.left_out import BadImagesError
from drawstream.pipeline.shards import Catalog, RemoteError
from drawstream.pipeline.shards.index import index
from drawstream.pipeline.shards.labels import Selection
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource, open_source
from drawstream.pipeline.verify import verify
from drawstream.tools.cli.app import main

PNG = encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), "png", quality=95)[0]


def image(form):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def spoilt(tmp_path, shard):
    """Two shards: four sound samples, labels 1 0 1 0, and four whose image no loader decodes."""
    first = [("0.png", PNG), ("0.cls", "1"), ("1.jpg", b"<html>"), ("1.cls", "0"), ("2.png", PNG), ("2.cls", "0")]
    second = [("3.cls", "1"), ("3.gif", image("GIF")), ("4.cls", "1"), ("4.png", PNG), ("5.tif", image("TIFF"))]
    second += [("5.cls", "0"), ("6.png", PNG[:40]), ("6.cls", "0"), ("7.png", PNG), ("7.cls", "0")]
    shard(tmp_path / "a.tar", *first)
    shard(tmp_path / "b.tar", *second)
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2])
def test_all_bad_images_are_named(spoilt, capsys, workers):
    with pytest.raises(BadImagesError) as refused:
        index(spoilt, workers=workers)
    found = [(each.path, each.key) for each in refused.value.bad]
    assert found == [(str(spoilt / f"{tar}.tar"), key) for tar, key in ("a1", "b3", "b5", "b6")]
    line = str(refused.value)
    assert line.startswith(f"{spoilt}: 4 images cannot be read: {spoilt / 'a.tar'}: sample '1': not a readable JPEG")
    assert "sample '3': must have one image (.jpg, .jpeg, .png, .webp, .pgm, .ppm), but got .cls, .gif" in line
    assert line.endswith(
        "replace them by .jpg, .png or .webp members, or leave such samples out (--skip-bad LIST.json)"
    )
    assert "unpack" not in line and "\n" not in line and not (spoilt / "catalog.parquet").exists()
    if workers == 1:
        assert main(["index", str(spoilt), "--json", str(spoilt / "r.json")]) == 2
        assert "4 images cannot be read" in capsys.readouterr().err
        assert [each["key"] for each in json.loads((spoilt / "r.json").read_text())["bad"]] == ["1", "3", "5", "6"]


def test_twenty_bad_images_are_shown_and_the_rest_counted(tmp_path, shard):
    files = [(f"{i}.{end}", data) for i in range(30) for end, data in (("bmp", image("BMP")), ("cls", "0"))]
    path = shard(tmp_path / "a.tar", *files)
    with pytest.raises(BadImagesError, match=r"30 images cannot be read: .*; and 10 others: replace them") as refused:
        index(path)
    assert str(refused.value).count("a.tar: sample '") == 20 and len(refused.value.bad) == 30
    with pytest.raises(BadImagesError, match=r"no sample is left: 30 images .*: replace them by .* members$"):
        index(path, selection=Selection(skip_bad=True))


def test_bad_images_are_left_out_and_listed(spoilt, capsys, shard):
    listed = spoilt / "bad.json"
    assert main(["index", str(spoilt), "--skip-bad", str(listed), "--json", str(spoilt / "r.json")]) == 0
    assert f"4 images in 2 shards, 2 classes: {spoilt}" in (out := capsys.readouterr().out)
    assert f"4 that cannot be read were left out: {listed}" in out
    content = json.loads(listed.read_text())["bad"]
    assert [(each["key"], each["path"]) for each in content] == [
        (key, str(spoilt / f"{tar}.tar")) for tar, key in ("a1", "b3", "b5", "b6")
    ]
    assert "it is an HTML page" in content[0]["reason"] and "but got .cls, .gif" in content[1]["reason"]
    assert json.loads((spoilt / "r.json").read_text())["bad"] == content
    catalog = Catalog.open(spoilt)
    assert catalog.keys == ["0", "2", "4", "7"] and catalog.label.tolist() == [1, 0, 1, 0]
    assert catalog.provenance == {"by": "index", "skip_bad": True} and verify(catalog) == []
    shard(spoilt / "c.tar", ("x.png", PNG), ("x.cls", "1"), ("y.png", PNG))  # what else is wrong is still refused
    with pytest.raises(ValueError, match=r"sample 'y': must have a label"):
        index(spoilt, selection=Selection(skip_bad=True), overwrite=True)


def test_a_dry_run_names_the_shard_itself(spoilt, capsys):
    assert main(["index", str(spoilt), "--dry-run"]) == 2
    assert f"{spoilt / 'a.tar'}: sample '1': not a readable" in capsys.readouterr().err
    assert main(["index", str(spoilt), "--dry-run", "--skip-bad", str(spoilt / "bad.json")]) == 0
    assert not (spoilt / "bad.json").exists()


def test_nothing_that_can_be_followed_loses_labels(tmp_path, shard):
    for names, text in (
        (("0.npy", "0.cls"), r"but got \.npy, \.cls: leave such samples out \(--skip-empty\)"),
        (("0.tar",), r"but got \.tar: unpack it and index the tars in it, or leave such samples out"),
    ):
        path = shard(tmp_path / "a.tar", *((name, "1") for name in names), ("1.png", PNG), ("1.cls", "2"))
        with pytest.raises(ValueError, match=text):
            index(path, overwrite=True)
        catalog = Catalog.open(index(path, selection=Selection(skip_empty=True), overwrite=True))
        assert catalog.keys == ["1"] and catalog.label.tolist() == [2]
    only = shard(tmp_path / "only.tar", ("0.npy", "1"), ("0.cls", "1"))
    with pytest.raises(ValueError, match=r"no sample has an image and a label: .*: give other shards, or choose the"):
        index(only, selection=Selection(skip_empty=True), overwrite=True)
    (tmp_path / "z.tar").write_bytes(b"PK\x03\x04" + bytes(600))
    with pytest.raises(
        ValueError, match=r"is a zip, .*: unpack it and write the samples as a sorted tar \(tar --sort=name"
    ):
        index(tmp_path / "z.tar", overwrite=True)


def test_labels_beside_images_of_a_folder_are_told(tmp_path):
    for folder in (tmp_path / "flat", tmp_path / "deep" / "train"):
        folder.mkdir(parents=True)
        (folder / "007.png").write_bytes(PNG)
        (folder / "007.cls").write_text("3")
    with pytest.raises(
        ValueError, match="samples with labels beside them are indexed: write the samples as a sorted tar"
    ):
        open_source(tmp_path / "flat")
    assert open_source(tmp_path / "deep").left_out.lines == [
        "1 files that are no images (.cls), which are not read: the labels are the names of the class folders: "
        "train/007.cls"
    ]


MISSING = ["nan", "NaN", "-nan", "None", "none", "null", "NULL", "nil", "undefined", "NA", "N/A", "<NA>", "NaT"]
VALUES = ["true", "False", "inf", "-Infinity", "0x1", "1:2", "3/4", "5%", "12:30:00", "(1, 2)", "[0,1]", "[1]", '"10"']
VALUES += ['"cat"', "'cat'", "b'7'", "{'label': 1}", '{"label": 1}', "tensor(3)", "np.int64(3)", "[[0, 1], [1, 0]]"]
NAMES = ["nana", "nandu", "infant", "nothing", "truest", "na", "Nile", "0-2", "20-29", "2 CV", "dog (brown)", "50+"]
NAMES += ["'s-Hertogenbosch", "rock'n'roll", "3D", "1st", "c/o", "C#", "ten%", "x86", "0xyz", "v1.0.2"]


@pytest.mark.parametrize("text", MISSING)
@pytest.mark.parametrize("member", ["cls", "json", "txt"])
def test_missing_values_are_no_classes(tmp_path, member, text, shard):
    content = json.dumps({"label": text}) if member == "json" else f" {text}\n"
    path = shard(tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content), ("1.png", PNG), (f"1.{member}", '"cat"'))
    with pytest.raises(ValueError, match=r"sample '0': .* a missing value: repair it .* leave such samples out"):
        index(path)
    path = shard(tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content), ("1.png", PNG), ("1.cls", "cat"))
    catalog = Catalog.open(index(path, selection=Selection(skip_empty=True)))
    assert catalog.keys == ["1"] and catalog.classes == ("cat",) and verify(catalog) == []


@pytest.mark.parametrize("text", VALUES)
def test_structured_values_are_no_classes(tmp_path, text, shard):
    for member, content in (("cls", text), ("json", json.dumps(text)), ("json", json.dumps({"cls": f" {text} "}))):
        path = shard(tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content))
        with pytest.raises(ValueError, match=r"must hold a class number or name, but got .*: give one whole number"):
            index(path)


def test_names_that_look_alike_are_classes(tmp_path, shard):
    files = [(f"{i}.{end}", data) for i, name in enumerate(NAMES) for end, data in (("png", PNG), ("cls", name))]
    catalog = Catalog.open(index(shard(tmp_path / "a.tar", *files)))
    assert [catalog.classes[label] for label in catalog.label] == NAMES


def test_two_labels_in_one_object_that_differ_are_told(tmp_path, shard):
    told = []
    for i, selection in enumerate((Selection(), Selection(label="json"))):
        files = [("0.png", PNG), ("0.json", '{"label": 0, "cls": 1}'), ("1.png", PNG), ("1.json", '{"label": 1}')]
        files += [("2.png", PNG), ("2.json", '{"label": 1, "cls": 1}'), ("3.png", PNG), ("3.json", "0")]
        path = shard(tmp_path / f"{i}.tar", *files)
        catalog = Catalog.open(index(path, selection=selection, overwrite=True, finish=told.append))
        assert catalog.label.tolist() == [0, 1, 1, 0]
    line = "1 labels of .json:cls that say something else than the one that was taken (--label json:cls takes them): 0"
    assert [each.left_out.lines for each in told] == [[line], [line]]


@pytest.mark.parametrize("text", ["a\0b", "a\rb", "a\x1b[1m", "x" * 5000])
def test_a_label_is_repaired_and_not_renamed(tmp_path, text, shard):
    with pytest.raises(ValueError, match=r"sample '0': .cls .*: repair it, or choose another source with --label"):
        index(shard(tmp_path / "a.tar", ("0.png", PNG), ("0.cls", text)))


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xef\xbb\xbf", b"null", b"NaN"])
@pytest.mark.parametrize("member", ["json", "cls", "clean.cls"])
def test_empty_labels_are_left_out(tmp_path, member, content, shard):
    files = [("0.png", PNG), (f"0.{member}", content), ("1.png", PNG), ("1.cls", "2"), ("1.clean.cls", "0")]
    files += [("0.cls", "1")] if member == "clean.cls" else []
    files.sort()
    path = shard(tmp_path / "a.tar", *files)
    with pytest.raises(ValueError, match=r"sample '0': .*\(--skip-empty\)"):
        index(path)
    catalog = Catalog.open(index(path, selection=Selection(skip_empty=True)))
    assert catalog.keys == ["1"] and catalog.label.tolist() == [2] and catalog.clean_label.tolist() == [0]
    assert verify(catalog) == []


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
        lambda data: b"\x1f\x9d\x90" + data,  # compress
        lambda data: b"\x04\x22\x4d\x18\x64" + data,  # lz4
        lambda data: b"\x02\x21\x4c\x18" + data,  # lz4 -l
        lambda data: b"\x28\xb5\x2f\xfd" + data,  # zstd
        lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0" + data,  # zstd behind a frame that is skipped
        lambda data: b"LZIP\1" + data,
    ],
)
def test_compressed_shards_are_known_by_their_content(tmp_path, compress, shard):
    path = shard(tmp_path / "a.tar", ("0.png", PNG), ("0.cls", "1"))
    path.write_bytes(compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.tar: shard is compressed, .*: decompress it"):
        index(path)
    with pytest.raises(ValueError, match="shard is compressed"):
        index([path])


def test_compressed_shards_are_known_by_their_name_too(tmp_path, shard):
    (tmp_path / "a.tar.br").write_bytes(bytes(range(200)) * 9)
    with pytest.raises(ValueError, match="shard is compressed"):
        index(tmp_path / "a.tar.br")
    plain = shard(tmp_path / "a.tar.gz", ("0.png", PNG), ("0.cls", "1"))  # its name is wrong, it is a tar
    assert len(Catalog.open(index(plain))) == 1


@pytest.mark.parametrize("key", ["BZh91", "LZIP", "]", "PK"])
def test_a_name_that_begins_like_a_compressed_file_is_no_such_file(tmp_path, key, shard):
    catalog = Catalog.open(index(shard(tmp_path / "a.tar", (f"{key}.png", PNG), (f"{key}.cls", "1"))))
    assert catalog.keys == [key]


def test_a_server_that_does_not_answer_is_no_bad_image(tmp_path):
    class Far(ArraySource):
        def read(self, row):
            raise RemoteError("http://far: does not answer")

    source = Far(np.zeros((4, 2, 2), np.uint8), np.zeros(4, np.int64))
    with pytest.raises(RemoteError, match="does not answer"):
        pack(source, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()
