"""Messages of `index` about bad images, labels that are none, compressed shards, and tars as others write them."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from webdataset.writer import TarWriter

from drawstream import ArraySource, Catalog, RemoteError, index, open_source, pack, verify
from drawstream.pipeline import BadImagesError
from drawstream.pipeline.decoding import encode
from drawstream.pipeline.shards import Selection
from drawstream.tools.cli.app import main
from shared.processes import kill, start, wait_until
from shared.programs import cli
from shared.refusals import refused
from shared.samples import CHINA, encoded, write_tar

PNG = encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), "png", quality=95)[0]


def image(form):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def spoilt(tmp_path):
    """Two shards: four sound samples, labels 1 0 1 0, and four whose image no loader decodes."""
    first = [("0.png", PNG), ("0.cls", "1"), ("1.jpg", b"<html>"), ("1.cls", "0"), ("2.png", PNG), ("2.cls", "0")]
    second = [("3.cls", "1"), ("3.gif", image("GIF")), ("4.cls", "1"), ("4.png", PNG), ("5.tif", image("TIFF"))]
    second += [("5.cls", "0"), ("6.png", PNG[:40]), ("6.cls", "0"), ("7.png", PNG), ("7.cls", "0")]
    write_tar(tmp_path / "a.tar", *first)
    write_tar(tmp_path / "b.tar", *second)
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2])
def test_all_bad_images_are_named(spoilt, workers):
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
        assert "4 images cannot be read" in cli("index", spoilt, "--json", spoilt / "r.json", status=2)
        assert [each["key"] for each in json.loads((spoilt / "r.json").read_text())["bad"]] == ["1", "3", "5", "6"]


def test_twenty_bad_images_are_shown_and_the_rest_counted(tmp_path):
    files = [(f"{i}.{end}", data) for i in range(30) for end, data in (("bmp", image("BMP")), ("cls", "0"))]
    path = write_tar(tmp_path / "a.tar", *files)
    with pytest.raises(BadImagesError, match=r"30 images cannot be read: .*; and 10 others: replace them") as refused:
        index(path)
    assert str(refused.value).count("a.tar: sample '") == 20 and len(refused.value.bad) == 30
    with pytest.raises(BadImagesError, match=r"no sample is left: 30 images .*: replace them by .* members$"):
        index(path, selection=Selection(skip_bad=True))


def test_bad_images_are_left_out_and_listed(spoilt, capsys):
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
    write_tar(spoilt / "c.tar", ("x.png", PNG), ("x.cls", "1"), ("y.png", PNG))  # what else is wrong is still refused
    refused(r"sample 'y': must have a label", lambda: index(spoilt, selection=Selection(skip_bad=True), overwrite=True))


def test_a_dry_run_names_the_shard_itself(spoilt):
    assert f"{spoilt / 'a.tar'}: sample '1': not a readable" in cli("index", spoilt, "--dry-run", status=2)
    assert main(["index", str(spoilt), "--dry-run", "--skip-bad", str(spoilt / "bad.json")]) == 0
    assert not (spoilt / "bad.json").exists()


def test_nothing_that_can_be_followed_loses_labels(tmp_path):
    for names, text in (
        (("0.npy", "0.cls"), r"but got \.npy, \.cls: leave such samples out \(--skip-empty\)"),
        (("0.tar",), r"but got \.tar: unpack it and index the tars in it, or leave such samples out"),
    ):
        path = write_tar(tmp_path / "a.tar", *((name, "1") for name in names), ("1.png", PNG), ("1.cls", "2"))
        refused(text, index, path, overwrite=True)
        catalog = Catalog.open(index(path, selection=Selection(skip_empty=True), overwrite=True))
        assert catalog.keys == ["1"] and catalog.label.tolist() == [2]
    only = write_tar(tmp_path / "only.tar", ("0.npy", "1"), ("0.cls", "1"))
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
    refused(
        "samples with labels beside them are indexed: write the samples as a sorted tar", open_source, tmp_path / "flat"
    )
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
def test_missing_values_are_no_classes(tmp_path, member, text):
    content = json.dumps({"label": text}) if member == "json" else f" {text}\n"
    path = write_tar(
        tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content), ("1.png", PNG), (f"1.{member}", '"cat"')
    )
    refused(r"sample '0': .* a missing value: repair it .* leave such samples out", index, path)
    path = write_tar(tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content), ("1.png", PNG), ("1.cls", "cat"))
    catalog = Catalog.open(index(path, selection=Selection(skip_empty=True)))
    assert catalog.keys == ["1"] and catalog.classes == ("cat",) and verify(catalog) == []


@pytest.mark.parametrize("text", VALUES)
def test_structured_values_are_no_classes(tmp_path, text):
    for member, content in (("cls", text), ("json", json.dumps(text)), ("json", json.dumps({"cls": f" {text} "}))):
        path = write_tar(tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content))
        refused(r"must hold a class number or name, but got .*: give one whole number", index, path)


def test_names_that_look_alike_are_classes(tmp_path):
    files = [(f"{i}.{end}", data) for i, name in enumerate(NAMES) for end, data in (("png", PNG), ("cls", name))]
    catalog = Catalog.open(index(write_tar(tmp_path / "a.tar", *files)))
    assert [catalog.classes[label] for label in catalog.label] == NAMES


def test_two_labels_in_one_object_that_differ_are_told(tmp_path):
    told = []
    for i, selection in enumerate((Selection(), Selection(label="json"))):
        files = [("0.png", PNG), ("0.json", '{"label": 0, "cls": 1}'), ("1.png", PNG), ("1.json", '{"label": 1}')]
        files += [("2.png", PNG), ("2.json", '{"label": 1, "cls": 1}'), ("3.png", PNG), ("3.json", "0")]
        path = write_tar(tmp_path / f"{i}.tar", *files)
        catalog = Catalog.open(index(path, selection=selection, overwrite=True, finish=told.append))
        assert catalog.label.tolist() == [0, 1, 1, 0]
    line = "1 labels of .json:cls that say something else than the one that was taken (--label json:cls takes them): 0"
    assert [each.left_out.lines for each in told] == [[line], [line]]


@pytest.mark.parametrize("text", ["a\0b", "a\rb", "a\x1b[1m", "x" * 5000])
def test_a_label_is_repaired_and_not_renamed(tmp_path, text):
    with pytest.raises(ValueError, match=r"sample '0': .cls .*: repair it, or choose another source with --label"):
        index(write_tar(tmp_path / "a.tar", ("0.png", PNG), ("0.cls", text)))


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xef\xbb\xbf", b"null", b"NaN"])
@pytest.mark.parametrize("member", ["json", "cls", "clean.cls"])
def test_empty_labels_are_left_out(tmp_path, member, content):
    files = [("0.png", PNG), (f"0.{member}", content), ("1.png", PNG), ("1.cls", "2"), ("1.clean.cls", "0")]
    files += [("0.cls", "1")] if member == "clean.cls" else []
    files.sort()
    path = write_tar(tmp_path / "a.tar", *files)
    refused(r"sample '0': .*\(--skip-empty\)", index, path)
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
def test_compressed_shards_are_known_by_their_content(tmp_path, compress):
    path = write_tar(tmp_path / "a.tar", ("0.png", PNG), ("0.cls", "1"))
    path.write_bytes(compress(path.read_bytes()))
    refused(r"a\.tar: shard is compressed, .*: decompress it", index, path)
    refused("shard is compressed", index, [path])


def test_compressed_shards_are_known_by_their_name_too(tmp_path):
    (tmp_path / "a.tar.br").write_bytes(bytes(range(200)) * 9)
    refused("shard is compressed", index, tmp_path / "a.tar.br")
    plain = write_tar(tmp_path / "a.tar.gz", ("0.png", PNG), ("0.cls", "1"))  # its name is wrong, it is a tar
    assert len(Catalog.open(index(plain))) == 1


@pytest.mark.parametrize("key", ["BZh91", "LZIP", "]", "PK"])
def test_a_name_that_begins_like_a_compressed_file_is_no_such_file(tmp_path, key):
    catalog = Catalog.open(index(write_tar(tmp_path / "a.tar", (f"{key}.png", PNG), (f"{key}.cls", "1"))))
    assert catalog.keys == [key]


def test_a_server_that_does_not_answer_is_no_bad_image(tmp_path):
    class Far(ArraySource):
        def read(self, row):
            raise RemoteError("http://far: does not answer")

    source = Far(np.zeros((4, 2, 2), np.uint8), np.zeros(4, np.int64))
    refused("does not answer", pack, source, tmp_path / "out", error=RemoteError, skip_bad=True)
    assert not (tmp_path / "out").exists()


PIXELS = np.arange(108, dtype=np.uint8).reshape(6, 6, 3)
DRAWING = encode(PIXELS, "png", quality=95)[0]
PHOTO = CHINA


SAMPLES = {  # key → image, its extension, label member
    "plain": (PHOTO, "jpg", "cls"),
    "UPPER": (PHOTO, "JPG", "CLS"),
    "Mixed": (PHOTO, "Jpeg", "Txt"),
    "drawing": (DRAWING, "PNG", "json"),
    "web": (encoded(PIXELS, "webp", lossless=True), "webp", "txt"),
    "train/n01440764/n01440764_10026": (PHOTO, "JPEG", "cls"),
    "deep/" * 20 + "name-of-a-picture-that-was-found-in-the-end": (DRAWING, "png", "cls"),
    "名前/süß, „quoted“ – 50 %": (DRAWING, "png", "cls"),
    "v1.2/a folder with dots and spaces/x": (DRAWING, "png", "cls"),
    "./dotted": (DRAWING, "png", "cls"),
}
EXTRA = (("caption.txt", "a temple"), ("mask.png", DRAWING), ("meta.json", '{"author": "x"}'), ("npy", bytes(20)))


def files():
    for i, (key, (image, extension, label)) in enumerate(SAMPLES.items()):
        yield f"{key}.{extension}", image
        yield f"{key}.{label}", json.dumps({"label": i, "caption": "a temple"}) if label == "json" else f"{i}\n"
        for end, data in EXTRA:
            yield f"{key}.{end}", data
    yield "deep/._hidden.jpg", b"what macOS leaves behind"
    yield "__meta__/info.json", "{}"
    yield "README", "no sample"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its shards open
@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
def test_every_format_and_name(tmp_path, form):
    path = write_tar(tmp_path / "a.tar", *files(), form=form)
    catalog = Catalog.open(index(path))
    assert catalog.keys == list(SAMPLES) and catalog.label.tolist() == list(range(len(SAMPLES)))
    data = path.read_bytes()
    for row, (image, *_) in enumerate(SAMPLES.values()):
        assert data[catalog.offset[row] : catalog.offset[row] + catalog.size[row]] == image
    theirs = [sample["__key__"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert theirs == [*catalog.keys, "deep/"]  # webdataset takes the hidden file for a sample without a name
    assert verify(catalog) == []


def test_shards_of_webdatasets_own_writer(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file, TarWriter(file) as writer:
        for i, key in enumerate(("a", "deep/" * 30 + "b", "süß")):
            writer.write({"__key__": key, "png": PIXELS, "cls": i, "json": {"caption": "x"}, "txt": "a caption"})
    catalog = Catalog.open(index(path))
    assert catalog.keys == ["a", "deep/" * 30 + "b", "süß"] and catalog.label.tolist() == [0, 1, 2]
    assert verify(catalog) == []


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data, at: data[:at] + b"\xff" * 512 + data[at + 512 :], r"damaged .*byte \d+"),
        (lambda data, at: data[:at] + bytes(512) + data[at + 512 :], r"data after the end-of-archive mark at byte \d+"),
        (lambda data, at: data[: at + 1024], r"damaged or truncated tar after byte \d+: no end-of-archive mark"),
        (lambda data, at: data + data, r"data after the end-of-archive mark at byte \d+"),
    ],
    ids=["header", "zeros", "cut within a sample", "two in a row"],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_where_webdataset_stops_without_a_word_we_say_so(tmp_path, damage, text):
    content = [(f"{i}.{end}", data) for i in range(20) for end, data in (("cls", "0"), ("png", DRAWING))]
    path = write_tar(tmp_path / "a.tar", *content, form=tarfile.USTAR_FORMAT)
    with tarfile.open(path) as tar:
        at = tar.getmember("10.cls").offset
    whole = path.read_bytes()
    path.write_bytes(damage(whole, at))
    theirs = len(list(webdataset.WebDataset(str(path), shardshuffle=False)))
    assert theirs in (10, 11) or (theirs == 20 and len(path.read_bytes()) > len(whole))
    refused(rf"a\.tar: .*{text}", index, path)


def test_names_that_lead_elsewhere_write_nothing(tmp_path):
    """Nothing is ever unpacked: a name is only a key."""
    names = ["../../evil", "/tmp/evil-absolute", "a/../../b"]
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    content = [(f"{name}.{end}", data) for name in names for end, data in (("cls", "0"), ("png", DRAWING))]
    catalog = Catalog.open(index(write_tar(folder / "a.tar", *content)))
    assert catalog.keys == names and verify(catalog) == []
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == [
        "deep/er/a.tar",
        "deep/er/catalog.parquet",
    ]
    assert not Path("/tmp/evil-absolute.png").exists()


ENDLESS = """
import sys, time
from pathlib import Path
from drawstream.pipeline.shards.index import index
def slow(done, total, samples):
    print("ready", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    index(sys.argv[1], workers=int(sys.argv[2]), progress=slow)
"""


@pytest.mark.slow  # processes take seconds to start
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_killed_index_leaves_nothing(tmp_path):
    for i in range(4):
        write_tar(tmp_path / f"{i}.tar", (f"{i}.cls", "0"), (f"{i}.png", DRAWING))
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    process = start(script, tmp_path, 2)
    assert process.stdout.readline() == "ready\n"
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    kill(process)
    assert len(workers) >= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.tar", "1.tar", "2.tar", "3.tar", "endless.py"]
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
