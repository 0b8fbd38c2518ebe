"""Folders of classes: every image that Pillow reads is taken, and what is not taken is counted."""

import io
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawstream import ArraySource, Catalog, open_source, pack, verify
from drawstream.pipeline import BadImagesError
from drawstream.pipeline.decoding import decode
from drawstream.pipeline.sources.convert import looks_like_image
from drawstream.tools.cli.app import main
from shared.processes import run
from shared.programs import cli
from shared.refusals import refused
from shared.samples import encoded, member, write_files

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 16, 3), np.uint8)
GRAY = RNG.integers(0, 256, (12, 16), np.uint8)


def packed(root, out, **options):
    catalog = Catalog.open(pack(open_source(root), out, **options).train)
    assert verify(catalog) == []
    return catalog


def pixels_of(catalog, row):
    return decode(member(catalog, row))


LOSSLESS = {
    "bmp": "BMP", "dib": "DIB", "tif": "TIFF", "tiff": "TIFF", "ppm": "PPM", "pnm": "PPM", "tga": "TGA", "pcx": "PCX",
    "qoi": "QOI", "png": "PNG", "sgi": "SGI",
}  # fmt: skip


@pytest.mark.parametrize("pixels", [PIXELS, GRAY], ids=["colour", "gray"])
def test_other_kinds_are_stored_without_loss(tmp_path, pixels):
    kinds = {ending: kind for ending, kind in LOSSLESS.items() if kind != "QOI" or pixels.ndim == 3}
    root = write_files(
        tmp_path / "in", {f"a/{ending}.{ending}": encoded(pixels, kind) for ending, kind in kinds.items()}
    )
    catalog = packed(root, tmp_path / "out")
    assert len(catalog) == len(kinds) and set(catalog.encodings) == {"png"}
    assert catalog.channels == (3 if pixels.ndim == 3 else 1)
    for row in range(len(catalog)):
        assert (pixels_of(catalog, row) == pixels).all(), catalog.key(row)


def test_kinds_that_lose_give_what_pillow_gives(tmp_path):
    files = {
        "a/x.gif": encoded(PIXELS, "GIF"),
        "a/y.JFIF": encoded(PIXELS, "JPEG"),
        "a/z.jp2": encoded(PIXELS, "JPEG2000"),
    }
    catalog = packed(write_files(tmp_path / "in", files), tmp_path / "out")
    rows = dict(zip(catalog.keys, range(3), strict=True))
    for key, name in (("a/x", "a/x.gif"), ("a/z", "a/z.jp2")):
        with Image.open(io.BytesIO(files[name])) as opened:
            assert (pixels_of(catalog, rows[key]) == np.asarray(opened.convert("RGB"))).all()
    assert catalog.encodings[rows["a/y"]] == "jpeg"


def test_a_file_is_judged_by_its_content(tmp_path):
    files = {
        "a/gif.jpg": encoded(PIXELS, "GIF"), "a/jpeg.png": encoded(PIXELS, "JPEG"), "a/none": encoded(PIXELS, "PNG"),
        "a/note.txt": encoded(PIXELS, "BMP"), "a/real.txt": b"P5 is a word", "a/tool.exe": b"BM" + b"x" * 90,
    }  # fmt: skip
    source = open_source(write_files(tmp_path / "in", files))
    assert [source.key(row) for row in range(4)] == ["a/gif", "a/jpeg", "a/none", "a/note"]
    assert sorted(source.left_out.lines) == [
        "1 files that are no images (.exe): a/tool.exe",
        "1 files that are no images (.txt): a/real.txt",
    ]
    catalog = Catalog.open(pack(source, tmp_path / "out").train)
    assert sorted(zip(catalog.keys, catalog.encodings.tolist(), strict=True)) == [
        ("a/gif", "png"), ("a/jpeg", "jpeg"), ("a/none", "png"), ("a/note", "png"),
    ]  # fmt: skip


def test_text_is_no_image():
    heads = (b"", b"BMW is a car, not a bitmap at all", b"P5", b"P1 driver", b"GIF", b"\x00" * 32, b"RIFF....WAVEfmt ")
    assert not [head for head in heads if looks_like_image(head)]
    for kind in (*set(LOSSLESS.values()) - {"TGA", "PCX", "SGI", "DIB"}, "GIF", "JPEG", "WEBP", "AVIF", "JPEG2000"):
        assert looks_like_image(encoded(PIXELS, kind)[:32]), kind


def test_deeper_folders_are_walked_as_torchvision_does(tmp_path):
    png = encoded(PIXELS, "PNG")
    names = ["b/1", "b/x/1", "b/x/y/1", "b/z v1.2/1", "ä ö/1"]
    root = write_files(tmp_path / "in", {f"{name}.png": png for name in names})
    source = open_source(root)
    assert source.classes == ("b", "ä ö") and source.labels.tolist() == [0, 0, 0, 0, 1]
    assert [source.key(row) for row in range(5)] == ["b/1", "b/x/1", "b/x/y/1", "b/z v1.2/1", "ä ö/1"]
    assert source.notes == ()
    catalog = packed(root, tmp_path / "out")
    assert sorted(catalog.keys) == sorted(source.key(row) for row in range(5))


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    png = encoded(PIXELS, "PNG")
    files = {f"a/{i}.png": png for i in range(3)} | {f"a/{i}.json": b"{}" for i in range(5)}
    files |= {"a/Thumbs.db": b"x", "a/h.png": png, ".git/x.png": png, "top.png": png}
    root = write_files(tmp_path / "in", files)
    (root / "a" / "h.png").rename(root / "a" / ".h.png")
    (root / "a" / "gone.txt").symlink_to("nowhere")
    os.mkfifo(root / "a" / "pipe")
    source = open_source(root)
    counts = {reason: count for reason, (count, _) in source.left_out.reasons.items()}
    assert counts == {
        "hidden files and folders": 2, "files outside the class folders": 1, "files that are no images (.json)": 2,
        "files that are no images (.json), which are not read: the labels are the names of the class folders": 3,
        "files that are no images (.db)": 1, "pipes, devices and links to nowhere": 2,
    }  # fmt: skip
    (root / "a" / "gone.png").symlink_to("nowhere")
    refused(r"gone\.png: an image must be a regular file or a link to one", open_source, root)


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    root = write_files(tmp_path / "in", {"a/1.png": encoded(PIXELS, "PNG")})
    write_files(tmp_path / "else", {"deep/2.png": encoded(PIXELS, "PNG")})
    (root / "b").symlink_to(tmp_path / "else")
    (root / "a" / "2.png").symlink_to(tmp_path / "else/deep/2.png")
    assert sorted(packed(root, tmp_path / "out").keys) == ["a/1", "a/2", "b/deep/2"]
    for target in ("..", "."):
        (root / "a" / "loop").symlink_to(target)
        refused("loop: is a link to a folder that holds it: remove it", open_source, root)
        (root / "a" / "loop").unlink()


def test_empty_class_folders_are_all_named(tmp_path):
    root = write_files(tmp_path / "in", {"a/1.png": encoded(PIXELS, "PNG"), "b/1.txt": b"x"})
    for name in ("c", "d/e"):
        (root / name).mkdir(parents=True)
    refused(r"in/b, .*in/c, .*in/d: class folder without .* images: remove it or fill it", open_source, root)


@pytest.fixture
def spoilt(tmp_path):
    """Nine sound images of three classes, three bad ones."""
    png = encoded(PIXELS, "PNG")
    files = {f"{c}/{i}.png": png for c in "abc" for i in range(3)}
    files |= {"a/bad.jpg": b"<html>", "b/empty.png": b"", "c/cut.bmp": encoded(PIXELS, "BMP")[:80]}
    return write_files(tmp_path / "in", files)


def test_all_bad_images_are_named_and_nothing_stays(spoilt, tmp_path, capsys):
    with pytest.raises(BadImagesError) as refused:
        pack(open_source(spoilt), tmp_path / "out")
    assert sorted(each.key for each in refused.value.bad) == ["a/bad", "b/empty", "c/cut"]
    assert sorted(each.path for each in refused.value.bad) == [
        str(spoilt / name) for name in ("a/bad.jpg", "b/empty.png", "c/cut.bmp")
    ]
    line = str(refused.value)
    assert "3 images cannot be read: image '" in line and "--skip-bad" in line and "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert main(["pack", str(spoilt), str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]) == 2
    assert len(json.loads((tmp_path / "r.json").read_text())["bad"]) == 3
    assert "3 images cannot be read" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "r.json"]


def test_twenty_bad_images_are_shown_and_the_rest_counted(tmp_path):
    root = write_files(tmp_path / "in", {f"a/{i}.png": b"" for i in range(30)})
    with pytest.raises(BadImagesError, match="and 10 others: repair or remove them") as refused:
        pack(open_source(root), tmp_path / "out")
    assert str(refused.value).count("image 'a/") == 20 and len(refused.value.bad) == 30
    with pytest.raises(BadImagesError, match="no image is left for the catalog"):
        pack(open_source(root), tmp_path / "out", skip_bad=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bad_images_are_left_out_and_listed(spoilt, tmp_path, capsys):
    for listed in (tmp_path / "bad.json", tmp_path / "out" / "bad.json"):
        command = [
            "pack",
            str(spoilt),
            str(tmp_path / "out"),
            "--skip-bad",
            str(listed),
            "--holdout",
            "3",
            "--overwrite",
        ]
        assert f"3 that cannot be read were left out: {listed}" in cli(*command)
        content = json.loads(listed.read_text())
        assert sorted(each["key"] for each in content["bad"]) == ["a/bad", "b/empty", "c/cut"]
        assert all(each["reason"] for each in content["bad"])
        train, holdout = Catalog.open(tmp_path / "out" / "train"), Catalog.open(tmp_path / "out" / "holdout")
        assert sorted(train.keys + holdout.keys) == [f"{c}/{i}" for c in "abc" for i in range(3)]
        assert all(catalog.classes[label] == key[0] for catalog in (train, holdout)
                   for label, key in zip(catalog.label, catalog.keys, strict=True))  # fmt: skip
        assert verify(train) == [] and verify(holdout) == []
    listed.unlink()
    assert main(command[:-1]) == 0  # finished before: the list is written again
    assert "finished before at 20" in capsys.readouterr().out and len(json.loads(listed.read_text())["bad"]) == 3


def test_noise_keeps_to_its_rows_where_bad_ones_are_left_out(spoilt, tmp_path):
    result = pack(open_source(spoilt), tmp_path / "out", skip_bad=True, label_noise=0.5)
    catalog = Catalog.open(result.train)
    assert [catalog.classes[c] for c in catalog.clean_label] == [key[0] for key in catalog.keys]
    assert verify(catalog) == [] and result.relabelled == (catalog.label != catalog.clean_label).sum() > 0


def test_the_parts_of_one_pack_have_the_same_channels(tmp_path):
    files = {f"a/{i}.png": encoded(GRAY, "PNG") for i in range(9)} | {"b/0.png": encoded(PIXELS, "PNG")}
    files |= {"b/1.png": encoded(GRAY, "PNG")}
    for seed in range(4):
        source = open_source(write_files(tmp_path / "in", files))
        result = pack(source, tmp_path / f"out{seed}", holdout=2, seed=seed)
        assert [Catalog.open(part).channels for part in (result.train, result.holdout)] == [3, 3]
    gray = {name: data for name, data in files.items() if name != "b/0.png"}
    result = pack(open_source(write_files(tmp_path / "gray", gray)), tmp_path / "out", holdout=2)
    assert [Catalog.open(part).channels for part in (result.train, result.holdout)] == [1, 1]


KILLED = """
import os, signal, sys
from drawstream.pipeline.shards import staging
from drawstream.tools.cli.app import main
rename = staging._rename
def killed(partial, target):
    rename(partial, target)
    os.kill(os.getpid(), signal.SIGKILL)
staging._rename = killed
main(sys.argv[1:])
"""


@pytest.mark.parametrize("holdout", ["0", "2"])
def test_a_pack_killed_behind_its_rename_is_recognised(tmp_path, holdout):
    root = write_files(tmp_path / "in", {f"{c}/{i}.png": encoded(PIXELS, "PNG") for c in "ab" for i in range(4)})
    command = ["pack", str(root), str(tmp_path / "out"), "--holdout", holdout]
    run("-c", KILLED, *command, status=-signal.SIGKILL)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "finished before at 20" in cli(*command, "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == 8 - int(holdout)
    assert {path: path.read_bytes() for path in before} == before
    for options, text in (
        (["--encoding", "raw"], "it holds a pack with encoding 'keep', wanted 'raw'"),
        (["--seed", "1"], "seed 0, wanted 1"),
        (["--limit", "6"], "limit None, wanted 6"),
        (["--label-noise", "0.5"], "label_noise 0.0, wanted 0.5"),
    ):
        line = cli(*command, *options, status=2)
        assert "folder is not empty" in line and text in line and "--overwrite" in line
    (root / "a" / "new.png").write_bytes(encoded(PIXELS, "PNG"))
    assert "rows 8, wanted 9" in cli(*command, status=2)
    (root / "a" / "0.png").unlink()
    assert "it holds a pack with other files" in cli(*command, status=2)
    assert "wanted" in cli(*command[:3], "--holdout", "2" if holdout == "0" else "0", status=2)
    shutil.rmtree(tmp_path / "out")


def test_arrays_in_the_wrong_kind_of_file(tmp_path):
    np.save(tmp_path / "lone", np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "lone.npy").rename(tmp_path / "lone.npz")
    line = cli("pack", tmp_path / "lone.npz", tmp_path / "out", status=2)
    assert (
        line.count("\n") == 1
        and "lone.npz: holds one array, as np.save writes it: np.savez('lone.npz', images=" in line
    )
    np.savez(tmp_path / "images", images=np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "images.npz").rename(tmp_path / "images.npy")
    np.save(tmp_path / "labels", np.zeros(4, int))
    refused(r"images\.npy: is an archive, as np\.savez writes it", open_source, tmp_path)


def test_pack_in_python_twice(tmp_path):
    source = ArraySource(np.zeros((6, 2, 2), np.uint8), np.arange(6) % 2)
    first = pack(source, tmp_path / "a", shard_rows=4)
    again = pack(source, tmp_path / "a", shard_rows=4)
    assert first.ran and not again.ran
    assert (again.rows, again.bytes, again.train) == (first.rows, first.bytes, first.train)
    refused("shard_rows 4, wanted 5", pack, source, tmp_path / "a", shard_rows=5)
    assert Path(first.train / "catalog.parquet").is_file()


def test_a_pack_does_not_go_into_its_source(tmp_path):
    root = write_files(tmp_path / "in", {"a/1.png": encoded(PIXELS, "PNG")})
    with pytest.raises(ValueError, match="lies in the folder that is packed, where it would be a class"):
        pack(open_source(root), root / "out")
    assert not (root / "out").exists()


def test_what_lies_beside_arrays_is_told(tmp_path, capsys):
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.zeros(4, int)}
    np.savez(tmp_path / "a.npz", **arrays, images_test=np.zeros(3), names=np.zeros(2))
    assert main(["pack", str(tmp_path / "a.npz"), str(tmp_path / "out")]) == 0
    assert "not taken: 2 files or arrays beside images and labels: images_test, names" in capsys.readouterr().out
    (tmp_path / "b" / "cats").mkdir(parents=True)
    for name, array in arrays.items():
        np.save(tmp_path / "b" / name, array)
    assert open_source(tmp_path / "b").left_out.lines == ["1 files or arrays beside images and labels: cats"]
