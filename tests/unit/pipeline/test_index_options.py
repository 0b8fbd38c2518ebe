"""Which members are image and label, and that nothing is left out in silence."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from drawstream import Catalog, IndexStream, Loader, index, verify
from drawstream.pipeline.decoding import encode
from drawstream.pipeline.shards import Selection, write_idx
from drawstream.tools.cli.app import main
from shared.programs import cli
from shared.samples import CASES, write_tar

PNG = encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), "png", quality=95)[0]
GRAY = encode(np.zeros((4, 5), np.uint8), "png", quality=95)[0]


def indexed(*shards, **options):
    """Index with a selection; give the catalog and what was reported."""
    told = []
    names = {"image", "label", "skip_empty"}
    selection = Selection(**{key: value for key, value in options.items() if key in names})
    rest = {key: value for key, value in options.items() if key not in names}
    path = index(shards[0] if len(shards) == 1 else shards, selection=selection, finish=told.append, **rest)
    catalog = Catalog.open(path)
    assert verify(catalog) == []
    return catalog, told[0]


def refused(*shards, **options):
    with pytest.raises(ValueError) as caught:
        indexed(*shards, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def case(tmp_path):
    return lambda name: Path(shutil.copy(CASES / f"tars/{name}.tar", tmp_path))


def test_a_byte_order_mark_is_no_part_of_a_label(case):
    catalog, _ = indexed(case("cls_bom"))
    assert catalog.label.tolist() == [1] * 4 and catalog.classes == ("0", "1")


def test_negative_labels_name_options_that_exist(case):
    line = refused(case("cls_neg"))
    assert "sample '0000': .cls: class numbers must be at least 0, but got -1" in line and "--label none" in line
    catalog, _ = indexed(case("cls_neg"), label="none")
    assert len(catalog) == 4 and catalog.label_kind == "none"


def test_members_apart_are_called_that(case):
    line = refused(case("gnutar_unsorted"))
    assert "members of key './0003' are not adjacent, other keys stand between './0003.cls' and './0003.jpg'" in line
    assert "tar --sort=name" in line


def test_keys_that_are_looked_for_in_json_are_named(case):
    path = case("json_class")
    line = refused(path)
    assert "an object with label or cls, but its keys are 'class'" in line and "--label json:class" in line
    catalog, _ = indexed(path, label="json:class")
    assert catalog.label.tolist() == [1] * 4 and catalog.provenance == {"by": "index", "label": "json:class"}


def test_a_missing_end_mark_is_noted(case):
    path = case("no_end_mark")
    catalog, told = indexed(path)
    assert len(catalog) == 4 and catalog.label.tolist() == [0, 1, 2, 0]
    assert told.notes == (
        f"{path}: no end-of-archive mark at byte 10240, behind a whole member: taken; if the file was cut there, "
        "copy it again",
    )


@pytest.mark.parametrize(
    ("cut", "text"),
    [(9300, "header at byte 9216"), (9216, "after byte 9216: no end"), (8800, "inside member '0003.jpg'")],
)
def test_what_is_cut_within_a_sample_is_refused(case, cut, text):
    path = case("no_end_mark")
    path.write_bytes(path.read_bytes()[:cut])
    for skip_empty in (False, True):
        line = refused(path, skip_empty=skip_empty)
        assert "truncated" in line and text in line and "copy the shard again" in line


def test_keys_that_restart_and_shards_that_are_the_same(case, tmp_path):
    shutil.copy(case("samekey_a"), tmp_path / "b.tar")
    catalog, told = indexed(tmp_path)
    assert catalog.keys == [f"{stem}/000{i}" for stem in ("b", "samekey_a") for i in range(4)]
    assert catalog.label.tolist() == [0, 1, 2, 0] * 2
    assert told.notes == (
        f"{tmp_path / 'samekey_a.tar'}: has the same bytes as {tmp_path / 'b.tar'}: all its samples come twice",
    )
    assert "shard is given twice" in refused(tmp_path / "b.tar", tmp_path / "." / "b.tar", overwrite=True)


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar.zst", "b.TAR.XZ", "b.tar.bz2"])
def test_compressed_shards_beside_others_are_refused(tmp_path, name):
    write_tar(tmp_path / "a.tar", ("0.cls", "0"), ("0.png", PNG))
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    line = refused(tmp_path)
    assert name in line and "is compressed" in line and "gunzip" in line
    catalog, _ = indexed([tmp_path / "a.tar"])
    assert len(catalog) == 1
    shutil.move(tmp_path / name, tmp_path / "c.tar")
    assert "c.tar: shard is compressed" in refused(tmp_path, overwrite=True)


def test_what_lies_beside_the_shards_is_told(tmp_path):
    for name in ("a.tar", "b.TAR", "c.Tar"):
        write_tar(tmp_path / name, (f"{name[0]}.cls", "0"), (f"{name[0]}.png", PNG))
    (tmp_path / "more" / "deep").mkdir(parents=True)
    shutil.copy(tmp_path / "a.tar", tmp_path / "more" / "deep" / "d.tar")
    for name in ("00000_stats.json", "x.zip", "a.idx", ".hidden.tar", "catalog.json"):
        (tmp_path / name).write_text("{}")
    catalog, told = indexed(tmp_path)
    assert catalog.keys == ["a", "b", "c"]
    assert told.left_out.lines == [
        "2 other files and folders beside the shards: 00000_stats.json, x.zip",
        "1 shards in folders below, give them by name: more/",
    ]


def test_the_layout_of_img2dataset(tmp_path):
    files = []
    for i in range(3):
        meta = {"caption": "a dog", "url": "https://x/y.jpg", "key": f"{i:09d}", "status": "success", "width": 8}
        files += [(f"{i:09d}.jpg", PNG), (f"{i:09d}.txt", "a dog on grass"), (f"{i:09d}.json", json.dumps(meta))]
    path = write_tar(tmp_path / "00000.tar", *files)
    line = refused(path)
    assert "its keys are 'caption', 'url', 'key', 'status', 'width'" in line
    assert "--label json:KEY" in line and "--label none" in line
    catalog, told = indexed(path, label="none")
    assert (catalog.label_kind, catalog.classes, catalog.num_classes) == ("none", (), 0)
    assert told.left_out.lines == ["3 members .txt: 00000.tar, …", "3 members .json: 00000.tar, …"]
    (batch,) = Loader(catalog, IndexStream(3), batch_size=3)
    assert batch.labels.shape == (3, 0) and batch.labels.dtype == torch.int64


def test_captions_are_no_classes(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("0.png", PNG), ("0.txt", "a photo of a dog\n"))
    line = refused(path)
    assert ".txt looks like a caption and no class ('a photo of a dog'): --label txt takes it" in line
    catalog, _ = indexed(path, label="txt")
    assert catalog.classes == ("a photo of a dog",)


def test_many_classes_are_noted(tmp_path):
    files = [(f"{i}.{end}", data) for i in range(6) for end, data in (("txt", f"word{i}"), ("png", PNG))]
    path = write_tar(tmp_path / "a.tar", *files)
    assert "6 classes in 6 samples: are the labels captions" in refused(path)
    assert not (tmp_path / "catalog.parquet").exists()
    _, told = indexed(path, label="txt")
    assert told.notes[0].startswith("6 classes in 6 samples: are the labels captions or numbers of samples?")
    files = [(f"{i}.{end}", data) for i in range(6) for end, data in (("cls", f"{i % 3}"), ("png", PNG))]
    _, told = indexed(write_tar(tmp_path / "a.tar", *files), overwrite=True)
    assert told.notes == ()


@pytest.mark.parametrize(
    ("member", "content", "expected"),
    [
        ("cls", "\ufeff7\r\n", 7),
        ("cls", " 007 ", 7),
        ("cls", "+3", 3),
        ("cls", "golden retriever", "golden retriever"),
        ("cls", "1_000", "1_000"),
        ("txt", "n01440764", "n01440764"),
        ("txt", "一只狗，在草地上", "looks like a caption"),
        ("txt", "Hund.", "looks like a caption"),
        ("txt", "dog\nbrown", r"'dog\nbrown': give one whole number or a name"),
        ("txt", "x" * 70, "looks like a caption"),
        ("json", "3", 3),
        ("json", '"cat"', "cat"),
        ("json", '{"label": "4", "cls": 9}', 4),
        ("json", '\ufeff{"cls": " cat "}', "cat"),
        ("cls", "0.5", "'0.5': give one whole number or a name"),
        ("cls", "1.0", "but got '1.0'"),
        ("cls", "1e3", "but got '1e3'"),
        ("cls", "3 5", "but got '3 5'"),
        ("cls", "1,2,3", "but got '1,2,3'"),
        ("cls", "a\nb", r"'a\nb': give one whole number or a name"),
        ("cls", b"\xff\xfe7\x00", "is not readable"),
        ("cls", "", "must hold a class number or name, but got b''"),
        ("json", "true", "but got true"),
        ("json", '{"label": [1, 2]}', "'label' in .json must hold a class number or name, but got [1, 2]"),
        ("json", '{"label": {"id": 1}}', 'but got {"id": 1}'),
        ("json", '{"label": 1.0}', "but got 1.0"),
        ("json", '{"label": NaN}', "but got NaN"),
        ("json", "[1]", "but got [1]"),
        ("json", '{"label": 123456789012345678901234567890}', "below 2⁶³"),
        ("json", '{"label": -1}', "class numbers must be at least 0, but got -1"),
        ("json", "{}", "its keys are none"),
    ],
)
def test_labels(tmp_path, member, content, expected):
    path = write_tar(tmp_path / "a.tar", ("0.png", PNG), (f"0.{member}", content))
    if isinstance(expected, str) and expected not in ("golden retriever", "1_000", "n01440764", "cat"):
        line = refused(path)
        assert f"{path}: sample '0': " in line and expected in line
        return
    catalog, _ = indexed(path)
    label = int(catalog.label[0])
    assert (label if isinstance(expected, int) else catalog.classes[label]) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("json:meta.class", 2),
        ("json:a.b", 5),
        ("json:list.1", 7),
        ("json:deep.dotted.key", 6),
        ("json:meta", 'but got {"class": 2}'),
        ("json:none", "must have a key 'none', but its keys are 'meta', 'a.b', 'list', 'deep'"),
        ("json:list.9", "must have a key '9', but there is '[3, 7]'"),
        ("json:meta.class.x", "must have a key 'x', but there is '2'"),
        ("json", "an object with label or cls, but its keys are 'meta'"),
        (
            "other",
            "must have a label (.other), but got .png, .json, .cls, .left.cls: choose its source with --label json",
        ),
        ("left.cls", 4),
        ("CLS", 1),
        (".cls", 1),
    ],
)
def test_where_labels_come_from(tmp_path, path, expected):
    content = {"meta": {"class": 2}, "a.b": 5, "list": [3, 7], "deep": {"dotted.key": 6}}
    tar = write_tar(
        tmp_path / "a.tar", ("0.png", PNG), ("0.json", json.dumps(content)), ("0.cls", "1"), ("0.left.cls", "4")
    )
    if isinstance(expected, str):
        assert expected in refused(tar, label=path)
    else:
        assert indexed(tar, label=path)[0].label.tolist() == [expected]


@pytest.mark.parametrize("label", ["", ":a", "json:", "."])
def test_sources_that_name_nothing_are_refused(label):
    with pytest.raises(ValueError, match=r"label must be cls, txt, json, json:PATH\.TO\.KEY, none"):
        Selection(label=label)
    with pytest.raises(ValueError, match="image must be an extension"):
        Selection(image=("",))


def test_labels_in_two_places_that_differ_are_told(tmp_path):
    files = [("0.png", PNG), ("0.cls", "0"), ("0.json", '{"label": 1}'), ("0.txt", "a caption")]
    files += [("1.png", PNG), ("1.cls", "1"), ("1.json", '{"label": 1}'), ("1.txt", "1")]
    path = write_tar(tmp_path / "a.tar", *files)
    catalog, told = indexed(path)
    assert catalog.label.tolist() == [0, 1]
    line = "1 labels of .json that say something else than the one that was taken (--label json takes them): 0"
    assert line in told.left_out.lines
    catalog, told = indexed(path, label="json", overwrite=True)
    assert catalog.label.tolist() == [1, 1]


def test_images_by_their_extension(tmp_path):
    files = [("a.input.jpg", PNG), ("a.target.png", GRAY), ("a.cls", "0"), ("b.input.jpg", PNG), ("b.cls", "1")]
    path = write_tar(tmp_path / "a.tar", *files)
    line = refused(path)
    assert "must have one image (.jpg, .jpeg, .png, .webp, .pgm, .ppm), but got .input.jpg, .target.png, .cls" in line
    assert "--image" in line and "--skip-empty" in line
    catalog, told = indexed(path, image=("input.jpg",))
    assert catalog.height.tolist() == [8, 8] and catalog.provenance["image"] == ["input.jpg"]
    assert told.left_out.lines == ["1 members .target.png: a.tar"]
    catalog, told = indexed(path, image=(".TARGET.png",), skip_empty=True, overwrite=True)
    assert catalog.keys == ["a"] and (catalog.height[0], catalog.width[0], catalog.channels) == (4, 5, 1)
    assert "1 samples without image or label: a.tar: b" in told.left_out.lines
    two = write_tar(tmp_path / "two.tar", ("0.jpg", PNG), ("0.png", GRAY), ("0.cls", "0"))
    assert "choose one with --image jpg" in refused(two, overwrite=True)
    assert indexed(two, image=("png",), overwrite=True)[0].channels == 1
    assert "choose one with --image jpg" in refused(two, image=("png", "jpg"), overwrite=True)


def test_empty_samples_are_skipped_and_counted(tmp_path):
    files = [("0.png", PNG), ("0.cls", "0"), ("1.cls", "1"), ("2.png", PNG), ("3.png", b""), ("3.cls", "1")]
    files += [
        ("4.png", PNG),
        ("4.cls", ""),
        ("5.png", PNG),
        ("5.cls", "1"),
        ("6.png", PNG),
        ("6.json", '{"label": null}'),
    ]
    path = write_tar(tmp_path / "a.tar", *files)
    empty = write_tar(tmp_path / "b.tar")
    assert "sample '1': must have one image" in refused(path)
    assert "b.tar: no samples in this shard" in refused(empty)
    catalog, told = indexed(tmp_path, skip_empty=True)
    assert catalog.keys == ["0", "5"] and catalog.label.tolist() == [0, 1]
    assert told.left_out.lines[0] == "5 samples without image or label: a.tar: 1, a.tar: 2, a.tar: 3, …"
    write_idx(catalog, 0, tmp_path / "a.idx")
    assert [line.split()[3] for line in (tmp_path / "a.idx").read_text().splitlines()[1:]] == ["0.png", "5.png"]
    names = write_tar(tmp_path / "c.tar", ("c.png", PNG), ("c.cls", "cat"))
    catalog, told = indexed(names, empty, skip_empty=True, overwrite=True)
    assert catalog.classes == ("cat",) and len(catalog.shards) == 1
    only = write_tar(tmp_path / "only.tar", ("1.cls", "1"))
    assert "no sample has an image and a label: 1 samples without" in refused(only, skip_empty=True, overwrite=True)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (tarfile.SYMTYPE, "a symbolic link: store the file itself (tar --dereference"),
        (tarfile.LNKTYPE, "a hard link: store the file itself (tar --dereference"),
        (tarfile.FIFOTYPE, "a pipe: it holds no image or label: write the tar without it (tar --exclude)"),
        (tarfile.CHRTYPE, "a device: it holds no image or label"),
        (b"M", "a part of a file that began in another volume: join the volumes"),
        (b"D", "a folder's listing of an incremental backup"),
        (b"Q", "of type b'Q': it holds no image or label"),
    ],
)
def test_links_and_devices_say_what_to_do(tmp_path, kind, text):
    path = write_tar(tmp_path / "a.tar", ("0.png", PNG), ("0.cls", "0"))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = kind, "0.png"
        tar.addfile(info)
    assert f"member '1.png' is {text}" in refused(path)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_odd_but_sound_tars_are_taken(tmp_path, form):
    path = tmp_path / "a.tar"
    pax = {"comment": "x"} if form == tarfile.PAX_FORMAT else None
    with tarfile.open(path, "w", format=form, pax_headers=pax) as tar:
        for name, kind in (("volume", b"V"), ("./", tarfile.DIRTYPE), ("./cats/", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        names = ["./cats/0.JPG", "./cats/0.CLS", "./cats/1.b.c.cls", "./cats/1.png", "dogs/0.cls", "dogs/0.jpeg"]
        for name in names:
            data = b"1" if name.lower().endswith("cls") else PNG
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))
    assert "sample './cats/1': must have a label" in refused(path)
    catalog, _ = indexed(path, label="none")
    assert catalog.keys == ["./cats/0", "./cats/1", "dogs/0"]


def test_what_is_no_tar_says_so(tmp_path):
    for head, text in (
        (b"PK\x03\x04", "is a zip, 7z or rar archive"),
        (b"<html><body>Not found", "it begins with b'<html><body>Not ', is it a tar?"),
    ):
        (tmp_path / "a.tar").write_bytes(head + bytes(4000))
        assert text in refused(tmp_path / "a.tar")


def test_the_command_tells_and_records(tmp_path, capsys):
    path = write_tar(tmp_path / "a.tar", ("0.png", PNG), ("0.json", '{"y": {"id": 1}}'), ("1.png", PNG))
    report = tmp_path / "r.json"
    options = ["--label", "json:y.id", "--image", "png,jpg", "--skip-empty", "--json", str(report)]
    assert main(["index", str(path), *options, "--dry-run"]) == 0
    out = cli("index", path, *options)
    assert "not taken: 1 samples without image or label: a.tar: 1" in out and "1 images in 1 shards, 2 classes" in out
    assert json.loads(report.read_text())["left_out"] == [
        {"reason": "samples without image or label", "count": 1, "examples": ["a.tar: 1"]}
    ]
    assert "2 images in 1 shards, no labels" in cli("index", path, "--label", "none", "--overwrite")
    assert main(["train", str(tmp_path), "-o", str(tmp_path / "run")]) == 2
    told = (
        "the images have no labels, so there is no loss: give your own (--loss module:factory), or index with --label"
    )
    assert told in capsys.readouterr().err
