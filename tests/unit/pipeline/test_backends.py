"""The Pillow backend against DALI's, row by row, and a process in which DALI cannot be imported."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from drawstream import Catalog, IndexStream, Loader, Reading, Transform, open_source, pack
from drawstream.pipeline.images.operations import operations
from shared.processes import run
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import PIXELS, array_catalog, digits_catalog, overwrite, pack_digits, turned_exif

PHOTOS = load_sample_images().images
N = 24
KINDS = [("raw", 1), ("raw", 3), ("png", 1), ("png", 3), ("jpeg", 1), ("jpeg", 3)]
EACH = [pytest.param(kind, marks=[] if kind in KINDS[:1] + KINDS[3:6:2] else pytest.mark.slow) for kind in KINDS]
LEVEL = 1.001  # of 255: both round to whole levels, what lies between two by another way


def patches(channels, height=61, width=80):
    rng = np.random.default_rng(channels)
    images = []
    for i in range(N):
        photo = PHOTOS[i % 2]
        y, x = rng.integers(0, photo.shape[0] - height), rng.integers(0, photo.shape[1] - width)
        images.append(photo[y : y + height, x : x + width])
    return np.stack(images)[..., 1] if channels == 1 else np.stack(images)


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """Catalogs of the same patches, by encoding and channels; and photographs of many sizes, turned and gray ones."""
    folder = tmp_path_factory.mktemp("backends")
    found = {
        (kind, c): array_catalog(folder / f"{kind}{c}", patches(c), np.arange(N) % 3, encoding=kind)
        for kind, c in KINDS
    }
    photos = folder / "photos" / "all"
    photos.mkdir(parents=True)
    for i in range(N):
        patch = Image.fromarray(PHOTOS[i % 2][: 70 + 13 * i, : 380 - 9 * i])
        patch = patch.convert("L") if i % 5 == 0 else patch
        patch.save(photos / f"{i:02d}.{'png' if i % 3 == 0 else 'jpg'}", exif=turned_exif(i % 8 + 1))
    found["photos", 3] = Catalog.open(pack(open_source(folder / "photos"), folder / "packed").train)
    return found


def both(catalog, transform, rows=None, **options):
    """All batches of an epoch by DALI and by Pillow, joined: images in levels of 0 … 255."""
    found = []
    for backend in ("dali", "pillow"):
        n = len(catalog) if rows is None else len(rows.sample_id)
        how = {"transform": transform, "rows": rows, "batch_size": 7, "backend": backend, **options}
        loader = Loader(catalog, IndexStream(n, seed=5), **how)
        loader.set_epoch(2)
        batches = list(loader)
        loader.close()
        images = torch.cat([batch.images for batch in batches])
        assert images.dtype == torch.float32 and images.shape[1:] == (len(transform.mean), *transform.size)
        shape = (1, -1, 1, 1)
        levels = images * torch.tensor(transform.std).view(shape) + torch.tensor(transform.mean).view(shape)
        found.append(
            [levels.numpy(), *(torch.cat([getattr(b, n) for b in batches]) for n in ("ids", "labels", "weights"))]
        )
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.equal(one, other)
    return found[0][0], found[1][0]


def agree(catalog, transform, most=LEVEL, rows=None):
    ours, theirs = both(catalog, transform, rows)
    difference = np.abs(ours - theirs)
    assert difference.max() <= most
    assert difference.mean() < 0.05
    assert ours.std() > 10


def plain(channels, **options):
    return Transform(mean=(10.0, 20.0, 30.0)[:channels], std=(50.0, 60.0, 70.0)[:channels], **options)


GEOMETRIES = {
    "whole": {"size": (61, 80)},
    "resized": {"size": (32, 41)},
    "enlarged": {"size": (97, 130), "flip": True},
    "pad": {"size": (61, 80), "crop": "pad", "pad": 6, "flip": True},
    "padded, resized": {"size": (40, 40), "crop": "pad", "pad": 50, "flip": True},
    "random": {"size": (24, 24), "crop": "random", "flip": True},
    "center": {"size": (24, 25), "crop": "center", "resize": 31},
}


@pytest.mark.parametrize("kind", EACH, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries(catalogs, kind, geometry):
    agree(catalogs[kind], plain(kind[1], **GEOMETRIES[geometry]))


@pytest.mark.parametrize("change", [{"crop": "random", "flip": True}, {"crop": "center", "resize": 71}, {}], ids=str)
def test_photographs_of_many_sizes_turned_and_gray(catalogs, change):
    agree(catalogs["photos", 3], plain(3, size=(64, 64), **change))


@pytest.mark.parametrize("kind", [("raw", 1), ("png", 1)], ids=str)
def test_gray_images_become_rgb(catalogs, kind):
    for change in ({}, {"jitter": (0.4, 0.4, 0.4, 0.2)}):  # contrasts stretch what resizing has rounded
        agree(catalogs[kind], plain(3, size=(48, 48), crop="random", flip=True, **change), 3)
    agree(catalogs[kind], plain(3, size=(61, 80), crop="pad", randaugment=(1, 9)))


@pytest.mark.parametrize("kind", EACH, ids=str)
def test_jitter(catalogs, kind):
    for ranges in ((0.4, 0.3, 0.5, 0.2), (0.0, 0.9, 0.0, 0.0), (1.5, 0.0, 0.0, 0.0)):
        ranges = ranges if kind[1] == 3 else (*ranges[:2], 0.0, 0.0)
        agree(catalogs[kind], plain(kind[1], size=(61, 80), jitter=ranges))


class Crops:
    """A row table: each sample at three windows, the second one mirrored."""

    fingerprint = "crops"

    def __init__(self, catalog):
        rng = np.random.default_rng(1)
        low = rng.random((3 * len(catalog), 2)) * 0.5
        self.windows = np.hstack([low, low + 0.1 + 0.4 * rng.random(low.shape)]).astype(np.float32)
        self.flip = np.arange(len(self.windows)) % 3 == 1
        self.sample_id = np.repeat(np.arange(len(catalog)), 3)

    def check(self, fingerprint, where):
        pass


@pytest.mark.parametrize("kind", [("raw", 3), ("jpeg", 3), ("photos", 3)], ids=str)
def test_stored_windows(catalogs, kind):
    agree(catalogs[kind], plain(3, size=(24, 32)), rows=Crops(catalogs[kind]))


@pytest.mark.parametrize("kind", [("raw", 1), ("jpeg", 3)], ids=str)
@pytest.mark.parametrize(("suite", "magnitude"), [(None, 9), (None, 30), ("bt", 4), ("bt", 30)])
def test_randaugment(catalogs, kind, suite, magnitude, monkeypatch):
    """Position i of the epoch gets operation i, in turn, with either sign."""
    names = operations(kind[1], suite)
    signs = np.random.default_rng(0).integers(0, 2, N)

    def draws(seed, epoch, start, count, layers, choices):
        at = np.arange(start, start + count)
        return np.stack([at % choices, signs[at % N]], 1)[:, :, None].astype(np.int32)

    monkeypatch.setattr("drawstream.pipeline.images.inputs.draw_operations", draws)
    change = {"randaugment": (1, magnitude), "suite": suite, "flip": True}
    ours, theirs = both(catalogs[kind], plain(kind[1], size=(61, 80), **change))
    for i, difference in enumerate(np.abs(ours - theirs)):
        name = names[i % len(names)]
        if name in ("rotate", "shear_x", "shear_y") and suite == "bt":  # nearest pixels, halves may round elsewhere
            assert (difference > LEVEL).mean() < 0.02, name
        else:
            assert difference.max() <= LEVEL, name


def test_two_layers_of_randaugment_and_all_else(catalogs):
    for suite in (None, "bt"):
        options = {"randaugment": (2, 4), "suite": suite, "jitter": (0.2, 0.2, 0.2, 0.05)}
        ours, theirs = both(catalogs["png", 3], plain(3, size=(40, 48), crop="random", flip=True, **options))
        assert (np.abs(ours - theirs) > 4).mean() < 0.01


@pytest.mark.parametrize("device_of_state", ["dali", "pillow"])
def test_a_state_of_one_backend_is_resumed_by_the_other(catalogs, device_of_state):
    other = "pillow" if device_of_state == "dali" else "dali"
    loaders = {
        name: Loader(
            catalogs["jpeg", 3], IndexStream(N, seed=1), transform=plain(3, size=(32, 32)), batch_size=5, backend=name
        )
        for name in ("dali", "pillow")
    }
    batches = iter(loaders[device_of_state])
    first = next(batches)
    state = loaders[device_of_state].state_dict()
    loaders[other].load_state_dict(state)
    rest = list(loaders[other])
    for mine, theirs in zip(batches, rest, strict=True):
        assert torch.equal(mine.ids, theirs.ids)
        assert (mine.images - theirs.images).abs().max() * 50 <= LEVEL
    assert sorted(torch.cat([first.ids, *(batch.ids for batch in rest)]).tolist()) == list(range(N))
    for loader in loaders.values():
        loader.close()


@pytest.mark.parametrize("damage", ["checksum", "no image", "header"])
def test_bad_images_are_replaced_by_the_same_others(tmp_path, damage):
    catalog = array_catalog(tmp_path / "data", patches(3), np.arange(N) % 3, encoding="jpeg", shard_rows=10)
    overwrite(catalog, 3, b"\x00" * 40, at={"checksum": 300, "no image": 0, "header": 2}[damage])
    reading = Reading(on_bad="substitute", checksum="always" if damage == "checksum" else "never")
    found = []
    for backend in ("dali", "pillow"):
        loader = Loader(
            catalog, IndexStream(N, seed=2), transform=plain(3, size=(32, 32)), backend=backend, reading=reading
        )
        found.append(torch.cat([batch.ids for batch in loader]).tolist())
        assert [bad.sample_id for bad in loader.bad_samples] == [3]
        loader.close()
    assert found[0] == found[1] and 3 not in found[0]


def test_an_image_that_pillow_refuses_is_named_and_the_batches_before_it_come(tmp_path):
    """A scan that is cut short; its bytes have the checksum of the catalog, for none is compared."""
    catalog = array_catalog(tmp_path / "data", patches(3), np.arange(N) % 3, encoding="png")
    overwrite(catalog, 10, b"\x00" * 60, at=200)
    loader = Loader(
        catalog, batch_size=4, transform=plain(3, size=(61, 80)), backend="pillow", reading=Reading(checksum="never")
    )
    batches = []
    with pytest.raises(RuntimeError, match=r"row 10.*cannot be decoded"):
        for batch in loader:
            batches.append(batch)
    assert len(batches) == 2
    assert [len(batch.ids) for _, batch in zip(range(2), loader, strict=False)] == [4, 4]  # once more
    loader.close()


def test_passes_that_end_early_and_several_at_once(tmp_path):
    catalog = digits_catalog(tmp_path / "data", 200)
    loader = Loader(catalog, batch_size=8, backend="pillow")
    for _ in range(3):
        next(iter(loader))
    for one, other in zip(loader, loader, strict=True):
        assert torch.equal(one.ids, other.ids) and torch.equal(one.images, other.images)
    images = torch.cat([batch.images for batch in loader])[:, 0].numpy()
    expected = PIXELS[[int(catalog.key(row)) for row in range(len(catalog))]].astype(np.float32)
    assert np.abs(images * 127.5 + 127.5 - expected).max() < 1e-4
    loader.close()
    refused("closed", list, loader)


def test_backends_that_there_are_not(tmp_path):
    catalog = digits_catalog(tmp_path / "data", 20)
    refused("`backend` must be dali or pillow.*'pil'", Loader, catalog, backend="pil")
    assert Loader(catalog).backend == "dali"


def test_a_training_goes_on_with_the_other_backend_and_a_feature_table_does_not(tmp_path):
    data = pack_digits(tmp_path / "data", 60).train
    words = ("train", data, "-o", tmp_path / "run", "--model", "mlp", "--epochs", "1")
    first = cli_json(tmp_path, *words, "--backend", "pillow")
    assert first["backend"] == "pillow" and "pillow" in first["versions"]
    again = cli_json(tmp_path, *words, "--backend", "dali")
    assert again["finished"] == first["finished"] and again["history"] == first["history"]
    words = (
        "features",
        data,
        "-o",
        tmp_path / "features",
        "--model",
        "mlp",
        "--weights",
        tmp_path / "run/last.safetensors",
    )
    found = cli_json(tmp_path, *words, "--backend", "pillow")
    assert found["provenance"]["backend"] == "pillow"
    assert "backend" in cli(*words, status=2)
    assert cli_json(tmp_path, *words, "--backend", "pillow")["rows"] == 60
    other = cli_json(tmp_path, *words[:3], tmp_path / "others", *words[4:], "--backend", "dali")
    assert "backend" not in other["provenance"]


WITHOUT = """
import importlib.abc, sys, warnings
class NoDali(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nvidia":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoDali())
from pathlib import Path
import numpy as np
from drawstream import Catalog, IndexStream, Loader, Transform, ArraySource, pack
folder = Path(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (40, 20, 24, 3), np.uint8)
for encoding in ("raw", "jpeg"):
    catalog = Catalog.open(pack(ArraySource(images, np.arange(40) % 4), folder / encoding, encoding=encoding).train)
    transform = Transform((16, 16), (0, 0, 0), (1, 1, 1), crop="random", flip=True, randaugment=(2, 9))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaders = [Loader(catalog, IndexStream(40), transform=transform, batch_size=16) for _ in range(2)]
    print(len(caught), *(each.message for each in caught))
    assert loaders[0].backend == "pillow"
    assert sum(len(batch.ids) for batch in loaders[0]) == 40
try:
    Loader(catalog, backend="dali").__iter__().__next__()
except ImportError as error:
    print(error)
"""


def test_where_dali_cannot_be_imported(tmp_path):
    out, err = run("-c", WITHOUT, tmp_path)
    lines = out.splitlines()
    assert lines[0].startswith("1 DALI is not installed, so images are decoded by Pillow") and lines[1] == "0"
    assert "drawstream[cuda13]" in lines[2] and not err
