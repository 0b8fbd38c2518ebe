"""Photographs that are stored smaller: which, how, what is said of it, and what becomes of turns, colours and masks."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin
from sklearn.datasets import load_sample_images

from drawstream import ArraySource, Catalog, IndexStream, Loader, Transform, open_source, pack
from drawstream.pipeline.decoding import Largest, decode, probe, shrink
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import CHINA, encoded, member, turned_exif

PHOTO = load_sample_images().images[0][:300, :400]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.booleans())
def test_sizes(height, width, side, longer):
    largest = Largest(max_side=side) if longer else Largest(short_side=side)
    high, wide = largest.fit(height, width)
    of = max if longer else min
    assert of(high, wide) == min(side, of(height, width)) and (high <= height and wide <= width)
    assert of(height, width) > side or (high, wide) == (height, width)
    scale = side / of(height, width)
    assert scale >= 1 or max(abs(high - height * scale), abs(wide - width * scale)) <= 0.5 or 1 in (high, wide)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpegs_stay_jpegs_and_keep_their_subsampling(subsampling):
    data = encoded(PHOTO, "jpeg", quality=92, subsampling=subsampling)
    small = shrink(data, Largest(short_side=150), quality=90)
    info = probe(small)
    assert (info.encoding, info.height, info.width, info.channels) == ("jpeg", 150, 200, 3)
    with Image.open(io.BytesIO(small)) as image:
        assert JpegImagePlugin.get_sampling(image) == subsampling
    expected = np.asarray(Image.fromarray(PHOTO).resize((200, 150), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(decode(small) - expected).mean() < 4
    assert len(shrink(data, Largest(short_side=150), quality=50)) < len(small) < len(data)


@pytest.mark.parametrize("largest", [Largest(), Largest(short_side=300), Largest(max_side=400), Largest(max_side=9000)])
def test_small_ones_keep_every_byte(largest):
    for data in (encoded(PHOTO, "jpeg"), encoded(PHOTO, "png"), encoded(PHOTO, "webp"), PHOTO):
        assert shrink(data, largest, quality=90) is data


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_other_formats_stay_what_they_are(mode):
    largest = Largest(max_side=100)
    array = PHOTO if mode == "RGB" else PHOTO[..., 1]
    expected = np.asarray(Image.fromarray(array).resize((100, 75), Image.Resampling.LANCZOS))
    assert (decode(shrink(encoded(array, "png"), largest, quality=1)) == expected).all()
    assert (shrink(array, largest, quality=1) == expected).all()
    netpbm = encoded(array, "ppm")
    assert (shrink(netpbm, largest, quality=1) == expected).all()
    lossless = shrink(encoded(PHOTO, "webp", lossless=True), largest, quality=1)
    assert probe(lossless).encoding == "webp"
    assert (decode(lossless) == np.asarray(Image.fromarray(PHOTO).resize((100, 75), Image.Resampling.LANCZOS))).all()
    lossy = shrink(encoded(PHOTO, "webp", quality=80), largest, quality=80)
    assert len(lossy) < len(lossless) / 2 and probe(lossy).width == 100


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("rule", ["exif", "stored"])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_turned_images_show_the_same(turned, rule, kind):
    options = {"quality": 98, "subsampling": 0} if kind == "jpeg" else {}
    data = encoded(PHOTO, kind, exif=turned_exif(turned), **options)
    small = shrink(data, Largest(short_side=150), quality=98, rule=rule)
    for asked in {rule, "exif"}:  # what obeys the tag sees it upright all the same
        shown = decode(data, rule=asked)
        size = (150, 200) if shown.shape[0] == 300 else (200, 150)
        expected = np.asarray(Image.fromarray(shown).resize(size[::-1], Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(decode(small, rule=asked) - expected).mean() < 2
    assert probe(small).orientation == turned and probe(small, rule="stored").orientation == 1


def test_colours_of_printers_and_profiles():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    small = shrink(encoded(PHOTO, "jpeg", icc_profile=profile), Largest(max_side=100), quality=90)
    with Image.open(io.BytesIO(small)) as image:
        assert "icc_profile" not in image.info
    four = encoded(PHOTO, "jpeg", mode="CMYK", quality=95)
    rgb = shrink(four, Largest(max_side=100), quality=95)
    with Image.open(io.BytesIO(rgb)) as image:
        assert image.mode == "RGB"
    expected = np.asarray(Image.fromarray(PHOTO).resize((100, 75), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(decode(rgb) - expected).mean() < 6


def test_large_jpegs_are_decoded_in_less_than_full_size():
    wide = np.kron(PHOTO, np.ones((5, 5, 1), np.uint8))
    small = shrink(encoded(wide, "jpeg", quality=95), Largest(short_side=300), quality=95)
    assert np.abs(decode(small).astype(int) - PHOTO).mean() < 6


@pytest.fixture
def folder(tmp_path):
    """Two large JPEGs, a small one and a large PNG."""
    for name, data in (
        ("a/one.jpg", CHINA),
        ("a/two.jpg", encoded(PHOTO, "jpeg", quality=90, exif=turned_exif(6))),
        ("b/small.jpg", encoded(PHOTO[:90, :120], "jpeg")),
        ("b/plan.png", encoded(PHOTO, "png")),
    ):
        place = tmp_path / "photos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return tmp_path / "photos"


def test_a_quality_that_would_do_nothing_is_refused(folder, tmp_path):
    told = "quality 90 would do nothing, as no JPEG is made anew: store them smaller (--short-side, --max-side)"
    for more in ((), ("--encoding", "png")):
        assert told in cli("pack", folder, tmp_path / "data", "--quality", "90", *more, status=2)
    assert not (tmp_path / "data").exists()


def test_pack_stores_them_smaller_says_so_and_knows_it_again(folder, tmp_path):
    text = cli("pack", folder, tmp_path / "data", "--short-side", "128", "--quality", "90")
    assert "3 images stored smaller: " in text
    catalog = Catalog.open(tmp_path / "data")
    sizes = {catalog.key(row): (int(catalog.height[row]), int(catalog.width[row])) for row in range(4)}
    assert sizes == {"a/one": (128, 192), "a/two": (171, 128), "b/small": (90, 120), "b/plan": (128, 171)}
    assert catalog.provenance["short_side"] == 128 and catalog.provenance["quality"] == 90
    small = next(row for row in range(4) if catalog.key(row) == "b/small")
    assert member(catalog, small) == (folder / "b/small.jpg").read_bytes()
    assert catalog.turn is not None and catalog.turn.max() == 6
    again = cli_json(tmp_path, "pack", folder, tmp_path / "data", "--short-side", "128", "--quality", "90")
    assert not again["ran"] and again["resized"]["images"] == 3
    large = [len(CHINA), *((folder / name).stat().st_size for name in ("a/two.jpg", "b/plan.png"))]
    assert again["resized"]["before"] == sum(large) > again["resized"]["after"]
    for other in ("--max-side=128", "--short-side=129"):
        error = cli("pack", folder, tmp_path / "data", other, "--quality", "90", status=2)
        assert "short_side 128, wanted" in error or "max_side None, wanted 128" in error
    error = cli("pack", folder, tmp_path / "more", "--short-side", "128", "--max-side", "200", status=2)
    assert "max_side or short_side, not both" in error
    loader = Loader(catalog, IndexStream(4), batch_size=4)
    assert next(iter(loader)).images.shape == (4, 3, 224, 224)
    loader.close()


def test_pixels_and_other_encodings(folder, tmp_path):
    images = np.stack([PHOTO[i : i + 90, :120] for i in range(6)])
    done = pack(ArraySource(images, np.arange(6) % 2), tmp_path / "raw", max_side=40)
    catalog = Catalog.open(done.train)
    assert (catalog.height == 30).all() and set(catalog.encodings) == {"raw"}
    assert done.resized.images == 6 and done.resized.before == images.nbytes
    catalog = Catalog.open(pack(open_source(folder), tmp_path / "png", short_side=64, encoding="png").train)
    assert set(catalog.encodings) == {"png"} and (np.minimum(catalog.height, catalog.width) == 64).all()
    assert pack(open_source(folder), tmp_path / "all").resized.images == 0


def test_damaged_images_are_refused(folder, tmp_path):
    (folder / "a/one.jpg").write_bytes(CHINA[:60_000])
    refused("a/one.*does not decode", pack, open_source(folder), tmp_path / "data", short_side=64)
    refused("at least 1 pixel, but got -3", Largest, max_side=-3)


def test_masks_and_boxes_follow_their_images(tmp_path):
    """A loader gives the same places, whether images are stored smaller or not, turned ones too."""
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    mask = np.zeros((300, 400), np.uint8)
    mask[60:180, 100:300] = 7
    boxes = [[100, 60, 300, 180], [0, 0, 400, 300]]
    for name, turned in (("one", 1), ("two", 6)):
        (folder / f"{name}.jpg").write_bytes(encoded(PHOTO, "jpeg", quality=95, exif=turned_exif(turned)))
        palette = Image.fromarray(mask, "P")
        palette.putpalette([0] * 768)
        palette.save(folder / f"{name}.seg.png")
        (folder / f"{name}.json").write_text(json.dumps({"of": {"boxes": boxes}, "text": "a mountain"}))
        np.save(folder / f"{name}.boxes.npy", np.array(boxes))
        Image.fromarray(PHOTO).save(folder / f"{name}.depth.png")
    fields = ("seg.png", "json", "boxes.npy", "depth.png")
    source = open_source(tmp_path / "photos", fields=fields)
    large = Catalog.open(pack(source, tmp_path / "large").train)
    small = Catalog.open(pack(source, tmp_path / "small", short_side=150, boxes="json:of.boxes").train)
    by_default = Catalog.open(pack(source, tmp_path / "default", short_side=150).train)
    for size in ((300, 300), (96, 128)):
        found = []
        for catalog, where in ((large, "json:of.boxes"), (small, "json:of.boxes"), (by_default, "boxes.npy")):
            how = {"mask": "seg.png", "boxes": where, "fields": ("depth.png",), "backend": "pillow"}
            law = Transform(size, (0.0,) * 3, (1.0,) * 3)
            loader = Loader(catalog, batch_size=2, transform=law, **how)
            (batch,) = loader
            loader.close()
            found.append((batch.fields["seg.png"].numpy(), [each.xyxy.numpy() for each in batch.fields[where]]))
            assert batch.fields["depth.png"][0] == (folder / "one.depth.png").read_bytes()
        for masks, places in found[1:]:
            assert set(np.unique(masks)) == {0, 7} and (masks != found[0][0]).mean() < 0.02
            assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(places, found[0][1], strict=True))
    refused("has no field 'box.npy' with boxes", pack, source, tmp_path / "bad", short_side=150, boxes="box.npy")
    refused("only where images are stored smaller", pack, source, tmp_path / "bad", boxes="boxes.npy")
    error = refused("json.*must hold boxes", pack, source, tmp_path / "bad", short_side=150, boxes="json:text")
    assert "a/one" in error
