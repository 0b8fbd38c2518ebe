"""Images that are converted: the right pixels, or a bad image that is named; no decoder's own line, no silence."""

import json
import os
import struct

import numpy as np
import pytest
from PIL import Image

from drawstream import Catalog, open_source, pack
from drawstream.pipeline import BadImagesError, describe_bytes
from drawstream.pipeline.decoding import decode, encode, probe
from drawstream.pipeline.sources.convert import as_known
from drawstream.samplers.files.system import SystemFault
from drawstream.tools.cli.app import main
from shared.refusals import refused
from shared.samples import encoded, member, turned_exif, write_files

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
BITS = (np.random.default_rng(1).integers(0, 2, (40, 64)) * 255).astype(np.uint8)


def put(data, at, part):
    return data[:at] + part + data[at + len(part) :]


def turned(pixels, value):
    """The turn of an EXIF orientation, from its table."""
    return {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).swapaxes(0, 1), 8: np.rot90(pixels),
    }[value]  # fmt: skip


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("rule", ["exif", "stored"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["raw", "lzw"])
def test_the_rule_of_orientation_holds_for_tiff(value, rule, options):
    xmp = b'<x tiff:Orientation="8"/>'
    plain = as_known(encoded(PIXELS, "TIFF", tiffinfo={0x0112: value, 700: xmp}, **options))
    expected = turned(PIXELS, value) if rule == "exif" else PIXELS
    assert (decode(plain, rule=rule) == expected).all()
    again = encode(plain, "png", quality=95, rule=rule)[0]
    assert (decode(again, rule=rule) == expected).all()
    raw, info = encode(plain, "raw", quality=95, rule=rule)
    assert (decode(raw) == expected).all() and info.orientation == 1


@pytest.mark.parametrize("value", [1, 3, 6, 8])
def test_the_rule_of_orientation_holds_for_avif(value):
    data = encoded(np.full((6, 4, 3), 90, np.uint8), "AVIF", exif=turned_exif(value))
    assert probe(as_known(data)).orientation == value
    assert decode(as_known(data), rule="stored").shape == (6, 4, 3)
    assert decode(as_known(data)).shape == ((4, 6, 3) if value >= 5 else (6, 4, 3))


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "AVIF"])
def test_xmp_turns_nothing(kind):
    xmp = b'<x tiff:Orientation="6"/>'
    options = {"tiffinfo": {700: xmp}} if kind == "TIFF" else {"xmp": xmp}
    assert probe(as_known(encoded(PIXELS, kind, **options))).orientation == 1


AVIF = encoded(np.tile(PIXELS, (9, 9, 1)), "AVIF")
DAMAGED = {
    "avif": AVIF.replace(AVIF[AVIF.index(b"mdat") + 6 :][:12], b"\xff" * 12),
    "dds": put(encoded(PIXELS, "DDS"), 80, struct.pack("<I", 0x400000)),
    "g4": put(encoded(BITS, "TIFF", "1", compression="group4"), 12, bytes(6)),
    "g3": put(encoded(BITS, "TIFF", "1", compression="group3"), 60, bytes(6)),
    "jpeg": encoded(PIXELS, "TIFF", compression="jpeg"),
    "samples": encoded(PIXELS, "TIFF").replace(*(struct.pack("<HHIH", 277, 3, 1, samples) for samples in (3, 2048))),
    "lzw": put(encoded(PIXELS, "TIFF", compression="tiff_lzw"), 20, b"\xff" * 20),
    "deflate": put(encoded(PIXELS, "TIFF", compression="tiff_deflate"), 20, bytes(20)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_decoded_for_certain_is_a_bad_image(tmp_path, name, capfd):
    good = encoded(PIXELS, "PNG")
    root = write_files(tmp_path / "in", {"a/1.png": good, "a/2.png": good, "a/3.png": good})
    ending = {"avif": "avif", "dds": "dds"}.get(name, "tif")
    (root / "a" / f"bad.{ending}").write_bytes(DAMAGED[name])
    assert main(["pack", str(root), str(tmp_path / "out")]) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "image 'a/bad'" in line and "--skip-bad" in line
    assert main(["pack", str(root), str(tmp_path / "out"), "--skip-bad", str(tmp_path / "bad.json")]) == 0
    said = capfd.readouterr().err
    assert said.startswith("pack: 4 images in ") and said.count("\n") == 1 and len(Catalog.open(tmp_path / "out")) == 3
    assert [each["key"] for each in json.loads((tmp_path / "bad.json").read_text())["bad"]] == ["a/bad"]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "zstd", "lzma"])
def test_tiffs_whose_damage_is_seen_are_taken(compression):
    assert (decode(as_known(encoded(PIXELS, "TIFF", compression=compression))) == PIXELS).all()


def test_conditions_of_the_process_are_no_bad_images(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    for work in (lambda: as_known(encoded(PIXELS, "BMP")), lambda: probe(encoded(PIXELS, "PNG"))):
        refused("free memory", work, error=SystemFault)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (encoded(PIXELS, "GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), "a GIF of 2 frames"),
        (encoded(PIXELS, "TIFF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), "a TIFF of 2 pages"),
        (encoded(BITS.astype(np.uint16) * 200, "TIFF"), "other than 8 bits a channel"),
        (encoded(BITS.astype(np.float32), "TIFF"), "other than 8 bits a channel"),
        (b"P6\n1 1\n65535\n" + bytes(6), "other than 8 bits a channel"),
        (encoded(PIXELS, "BMP")[:100], "truncated|not enough|broken|cut"),
        (encoded(np.tile(PIXELS, (2, 4, 1)), "TIFF")[:-100], "."),
        (encoded(PIXELS, "PPM") + encoded(PIXELS, "PPM"), "more behind its first picture: store one"),
        (b"P2 2 1 255 1 2\nP2 2 1 255 3 4\n", "more behind its first picture"),
        (encoded(BITS, "PPM", "1") * 2, "more behind its first picture"),
        (encoded(np.zeros((64, 64, 3), np.uint8), "ICO", sizes=[(16, 16), (32, 32), (64, 64)]), "a ICO of 3 pictures"),
        (encoded(PIXELS, "TIFF", tiffinfo={254: 1}), "a TIFF that begins with a preview"),
        (b"P5 1 1 100 \x07", "must have maximum 255, but got maximum 100: scale its values"),
        (b"P3 1 1 15 1 2 3", "must have maximum 255, but got maximum 15"),
        (b"Pf 1 1 -1.0\n" + bytes(4), "other than 8 bits a channel"),
    ],
)
def test_one_picture_of_8_bits_a_file(data, text):
    assert "0x" not in refused(text, as_known, data)


@pytest.mark.parametrize("head", [b"P3\n2 2\n255\n", b"P2 # made by hand\n"])
def test_plain_netpbm_in_a_tar_is_called_so(head):
    assert "plain (ASCII) Netpbm image, of which only the binary kinds P5 and P6" in describe_bytes(head)
    refused("100: scale", probe, b"P5 1 1 100 \x07")


def test_every_file_is_taken_or_counted_under_its_reason(tmp_path):
    taken = {
        "ico.dat": encoded(PIXELS, "ICO", sizes=[(4, 4)]), "dds.dat": encoded(PIXELS, "DDS"),
        "sgi.rgb": encoded(PIXELS, "SGI"), "big.dat": encoded(PIXELS, "TIFF", big_tiff=True),
        "msp.msp": encoded(BITS, "MSP", "1"),
        "pcx.dat": encoded(PIXELS, "PCX"), "blp.blp": encoded(PIXELS, "BLP", mode="P"),
    }  # fmt: skip
    foreign = {"a.pam": b"P7\nWIDTH 1\n", "b.eps": encoded(PIXELS, "EPS"), "c.txt": encoded(PIXELS, "EPS")}
    foreign |= {"f.nef": encoded(PIXELS, "TIFF"), "d.spider": b"x", "e.im": b"x"}
    others = {"a.bin": b"\0", "b.dat": b"\0\0\1\0" + bytes(40), "d.rgb": bytes(300), "e.h": b"#define A 1"}
    files = {f"a/{name}": data for name, data in (taken | foreign | others).items()}
    source = open_source(write_files(tmp_path / "in", files))
    assert {file.name for file in source.files} == set(taken)
    counts = {reason: examples for reason, (_, examples) in source.left_out.reasons.items()}
    for text, names in (("convert them to PNG", foreign), ("are no images", others)):
        found = [name for reason, each in counts.items() if text in reason for name in each]
        assert sorted(found) == sorted(f"a/{name}" for name in names)
    catalog = Catalog.open(pack(source, tmp_path / "out").train)
    rows = {key.removeprefix("a/"): row for row, key in enumerate(catalog.keys)}
    for key in ("sgi", "big", "pcx", "dds", "ico"):
        found = decode(member(catalog, rows[key]))
        assert key == "ico" or (found == PIXELS).all(), key


def test_a_class_that_bad_images_empty_is_refused(tmp_path):
    good = encoded(PIXELS, "PNG")
    root = write_files(tmp_path / "in", {"a/1.png": good, "b/1.png": b"", "b/2.png": b"x"})
    with pytest.raises(BadImagesError, match=r"no image is left of class b: .*: repair them, or remove the class"):
        pack(open_source(root), tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_webdataset_passes_over_is_refused_at_once(tmp_path):
    root = write_files(tmp_path / "in", {"a/1.png": encoded(PIXELS, "PNG")})
    (root / "a").rename(root / "__a__")
    refused(r"two underscores: rename the folder or file", open_source, root)


def test_a_file_that_was_replaced_is_noticed(tmp_path):
    root = write_files(tmp_path / "in", {"a/1.png": encoded(PIXELS, "PNG"), "a/2.png": encoded(255 - PIXELS, "PNG")})
    assert pack(open_source(root), tmp_path / "out").ran
    assert not pack(open_source(root), tmp_path / "out").ran
    data = (root / "a" / "1.png").read_bytes()
    (root / "a" / "1.png").write_bytes(data + b"x")
    refused("it holds a pack with other files", lambda: pack(open_source(root), tmp_path / "out"))
    (root / "a" / "1.png").write_bytes(data)  # of the old size, with a new time
    os.utime(root / "a" / "1.png", ns=(1, 1))
    refused("it holds a pack with other files", lambda: pack(open_source(root), tmp_path / "out"))
    for part, array in (("images", np.zeros((2, 4, 4), np.uint8)), ("labels", np.arange(2))):
        np.save(tmp_path / part, array)
    pack(open_source(tmp_path), tmp_path / "arrays")
    np.save(tmp_path / "images", np.ones((2, 4, 4), np.uint8))
    refused("it holds a pack with other files", lambda: pack(open_source(tmp_path), tmp_path / "arrays"))
