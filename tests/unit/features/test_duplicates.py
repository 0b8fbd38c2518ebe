"""Duplicates: bytes, pixels and near images that were put there are found, across catalogs, and nothing else."""

import importlib.util
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from drawstream import ArraySource, Catalog, pack
from drawstream.features import KINDS, find_duplicates, thumbnails
from drawstream.features.duplicates import cosine_pairs
from drawstream.features.duplicates.find import _hash_pairs, _hashes
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import CHINA, FLOWER, PIXELS, digits_catalog


def png(image, level):
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=level)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders: two photographs, one of them again as it is, as other bytes, brighter, and turned upside down."""
    folder = tmp_path_factory.mktemp("photos")
    flower = Image.open(io.BytesIO(FLOWER))
    files = {
        "a/china.jpg": CHINA,
        "a/flower.png": png(flower, 6),
        "b/copy.png": png(flower, 6),
        "b/other-bytes.png": png(flower, 1),
        "b/brighter.png": png(flower.point(lambda value: min(255, value + 3)), 6),
        "c/upside-down.png": png(flower.transpose(Image.Transpose.ROTATE_180), 6),
    }
    for name, data in files.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)
    return Catalog.open(pack(folder / "images", folder / "data").train)


def test_copies_are_told_from_other_bytes_and_from_alike_images(photos):
    found = find_duplicates(photos)
    kinds = {photos.key(row): KINDS[level] if level >= 0 else "first" for row, level in enumerate(found.kind.tolist())}
    group = {photos.key(row): number for row, number in enumerate(found.group.tolist())}
    same = [key for key, number in group.items() if number == 0]
    assert found.groups == 1 and len(same) == 4 and not any("china" in key or "upside" in key for key in same)
    assert sorted(kinds[key] for key in same) == ["bytes", "first", "near", "pixels"]  # whichever comes first
    exact = find_duplicates(photos, near=False)
    assert sorted(np.bincount(exact.group[exact.group >= 0]).tolist()) == [3]
    weights = exact.weights()
    assert sorted(weights.tolist()) == pytest.approx([1 / 3] * 3 + [1.0] * 3)


def test_drawings_that_differ_in_transparency_alone_are_not_equal(tmp_path):
    """Black on nothing, as clip art is stored: what the loader gives of all of them is a black square."""
    shapes = np.zeros((3, 20, 20, 4), np.uint8)
    shapes[0, 2:9, :, 3], shapes[1, :, 4:16, 3], shapes[2, ..., 3] = 255, 200, 255
    for number, shape in enumerate(shapes):
        for level in (1, 9):
            path = tmp_path / "images" / f"{level}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(Image.fromarray(shape), level))
    (tmp_path / "images/9/opaque.png").write_bytes(png(Image.fromarray(shapes[2, ..., :3]), 6))
    catalog = Catalog.open(pack(tmp_path / "images", tmp_path / "data").train)
    found = find_duplicates(catalog, near=False)
    groups = [sorted(catalog.key(row) for row in np.flatnonzero(found.group == group)) for group in range(3)]
    assert sorted(groups) == [["1/0", "9/0"], ["1/1", "9/1"], ["1/2", "9/2", "9/opaque"]] and found.groups == 3


def test_thumbnails_are_those_of_pillow_and_pairs_those_of_all_against_all(tmp_path):
    catalog = digits_catalog(tmp_path / "d", 300)
    small = thumbnails(catalog)
    image = Image.fromarray(PIXELS[int(catalog.key(17))]).resize((9, 8), Image.Resampling.BILINEAR)
    assert np.abs(small[17].astype(int) - np.asarray(image, int).ravel()).max() <= 2
    small = np.concatenate(
        [small, np.clip(small[:40].astype(int) + np.arange(40)[:, None] // 2, 0, 255).astype(np.uint8)]
    )
    hashes = _hashes(small)
    apart = np.array([[bin(int(a ^ b)).count("1") for b in hashes] for a in hashes])
    levels = np.abs(small[:, None].astype(int) - small[None].astype(int)).max(2)
    for distance in (0, 3, 8):
        expected = {(a, b) for a, b in zip(*np.nonzero((apart <= distance) & (levels <= 12)), strict=True) if a < b}
        found = {tuple(sorted(pair)) for pair in _hash_pairs(hashes, small, distance).tolist()}
        assert found == expected and len(expected) > 15


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_cosines_are_exact_also_across_blocks(monkeypatch, dtype):
    """Groups are those of all pairs, which also join through others."""
    monkeypatch.setattr("drawstream.features.duplicates.neighbours._TALL", 24)
    monkeypatch.setattr("drawstream.features.duplicates.neighbours._WIDE", 32)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(100, 16)).astype(np.float32)
    embeddings[70] = 3 * embeddings[5] + 0.01
    embeddings[8] = 0  # points nowhere
    embeddings = embeddings.astype(dtype)
    units = embeddings.astype(float)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-9)
    expected = connected_components(units @ units.T >= 0.6)[1]
    pairs = cosine_pairs(embeddings, 0.6)
    found = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(100, 100)))[1]
    assert found.tolist() == expected.tolist() and found[5] == found[70] and len(set(found)) == 100 - len(pairs) < 90
    refused("embeddings must be finite, but one of rows 0 to 2", cosine_pairs, np.array([[1], [np.nan], [1]]), 0.9)


def test_more_rows_than_are_compared_with_all_need_faiss(monkeypatch):
    monkeypatch.setattr("drawstream.features.duplicates.neighbours.EXACT_ROWS", 1500)
    embeddings = np.repeat(np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32), 2, axis=0)
    if importlib.util.find_spec("faiss") is None:
        refused("pip install 'drawstream\\[faiss\\]'", cosine_pairs, embeddings, 0.99)
    else:
        assert cosine_pairs(embeddings, 0.99).tolist() == cosine_pairs(embeddings, 0.99, search="exact").tolist()
    assert len(cosine_pairs(embeddings, 0.99, search="exact")) == 1000


def test_stored_embeddings_find_what_the_model_itself_finds(tmp_path):
    folders = [digits_catalog(tmp_path / name, rows).path.parent for name, rows in (("a", 120), ("b", 60))]
    assert cli_json(tmp_path, "train", folders[0], "-o", tmp_path / "run", "--model", "mlp", "--epochs", 1)
    model = ("--model", "mlp", "--weights", tmp_path / "run/last.safetensors")
    stored = [tmp_path / f"table-{each.name}" for each in folders]
    for folder, table in zip(folders, stored, strict=True):
        cli_json(tmp_path, "features", folder, "-o", table, *model, "--embedding")
    least = ("--threshold", 0.9995)  # float16 moves cosines by less
    by_model = cli_json(tmp_path, "duplicates", *folders, "-o", tmp_path / "one", *model, *least)
    tables = [part for table in stored for part in ("--embedding", table)]
    by_table = cli_json(tmp_path, "duplicates", *folders, "-o", tmp_path / "two", *tables, *least)
    assert by_model["duplicates"] == by_table["duplicates"] and by_table["leaks"] == 60
    rows = [pq.read_table(tmp_path / "two" / f"columns-{number}.parquet") for number in (0, 1)]
    group, copy = (np.concatenate([each[name].to_numpy() for each in rows]) for name in ("group", "copy"))
    assert (group >= 0).sum() - len(set(group[group >= 0])) == (copy > 0).sum() >= 60
    for folder, text in ((stored[0], "is of 2 catalogs"), (tmp_path / "one", "no feature table there")):
        assert text.split()[0] in cli("duplicates", *folders, "-o", tmp_path / "x", "--embedding", folder, status=2)
    told = cli("duplicates", folders[0], "-o", tmp_path / "x", "--embedding", stored[0], *model, status=2)
    assert "leave out --model and --weights" in told


def test_leaks_between_catalogs_are_counted_and_weights_are_of_each(tmp_path):
    train = digits_catalog(tmp_path / "train", 200)
    test = digits_catalog(tmp_path / "test", 40)  # the first of the same
    command = ["duplicates", train.path.parent, test.path.parent, "--near", "none", "-o", tmp_path / "out"]
    record = cli_json(tmp_path, *command)
    assert record["leaks"] == record["groups"] == 40 and record["duplicates"]["bytes"] == 40
    assert record["several_labels"] == 0 and record["largest"] == 2
    assert (tmp_path / "out/weights-0.parquet").exists() and (tmp_path / "out/weights-1.parquet").exists()
    text = (tmp_path / "out/duplicates.csv").read_text().splitlines()
    assert text[0] == '"group","kind","source","key","shard","row","label"' and len(text) == 1 + 80
    cli("report", tmp_path / "out", "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "40 groups in 240 images: 40 of equal bytes" in page and "40 groups lie in several of the catalogs" in page
    assert page.count('alt="') == 24 and "1: bytes" in page


def test_catalogs_of_any_labels_and_encodings_are_compared(tmp_path, monkeypatch):
    wide = np.repeat(PIXELS[:30, :, :, None], 3, axis=3)
    large = PIXELS[:20].repeat(3, axis=1).repeat(3, axis=2)
    given = {
        "raw": (ArraySource(PIXELS[:30], np.arange(30) % 3), {"encoding": "raw"}),
        "marks": (ArraySource(PIXELS[10:40], 1 - np.eye(2, 3, dtype=np.uint8)[np.arange(30) % 2]), {"encoding": "png"}),
        "values": (ArraySource(wide, np.linspace(0.0, 1.5, 30)), {"encoding": "raw"}),
        "large": (ArraySource(large, np.zeros(20, int), label_kind="none"), {"encoding": "raw"}),
    }
    places = [pack(source, tmp_path / name, **how).train for name, (source, how) in given.items()]
    refused("labels of one kind", Catalog.open, *places)
    whole = Catalog.open(*places, classes="none")
    assert whole.label_kind == "none" and whole.label.shape == (110, 0) and whole.clean_label is None
    assert len({Catalog.open(*pair, classes="none").fingerprint for pair in (places[:2], places[:2][::-1])}) == 2
    small = {name: thumbnails(whole)[whole.source == g] for g, name in enumerate(given)}
    own = {name: np.array([int(key) for key in whole.part(g).keys]) for g, name in enumerate(given)}
    in_order = {name: rows[np.argsort(own[name])] for name, rows in small.items()}
    assert np.abs(in_order["raw"].astype(int) - in_order["values"]).max() <= 1
    assert np.abs(in_order["raw"][10:].astype(int) - in_order["marks"][:20]).max() <= 1
    monkeypatch.setattr("drawstream.features.duplicates.find._one_graph", lambda catalog: False)
    assert np.abs(thumbnails(whole).astype(int) - np.concatenate(list(small.values()))).max() <= 5
    monkeypatch.undo()
    record = cli_json(tmp_path, "duplicates", *places, "-o", tmp_path / "out")
    assert record["leaks"] >= 30 and record["duplicates"]["pixels"] >= 20 and record["several_labels"] is None
    header = (tmp_path / "out/duplicates.csv").read_text().splitlines()[0]
    assert header == '"group","kind","source","key","shard","row"'


def test_a_chain_of_alike_images_warns(tmp_path):
    catalog = digits_catalog(tmp_path / "d", 60)
    turns = np.linspace(0, 2, 60)
    embeddings = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    with pytest.warns(UserWarning, match=r"the largest group has 60 of 60 images.*raise --threshold \(0.95\)"):
        assert find_duplicates(catalog, embeddings=embeddings).groups == 1
    assert find_duplicates(catalog, embeddings=embeddings, threshold=0.9999).groups == 0
    same = Catalog.open(pack(ArraySource(PIXELS[:1].repeat(60, 0), np.zeros(60, int)), tmp_path / "same").train)
    assert find_duplicates(same).sizes.tolist() == [60]  # equal bytes: no chain


def test_arguments_that_do_not_fit_are_one_line(tmp_path):
    catalog = digits_catalog(tmp_path / "d", 60)
    refused("0 <= distance <= 16", find_duplicates, catalog, distance=17)
    refused(r"embeddings must be \(60, D\)", find_duplicates, catalog, embeddings=np.zeros((3, 2), np.float32))
    command = ["duplicates", catalog.path.parent, "-o", tmp_path / "out"]
    assert "--model goes with --near embedding" in cli(*command, "--model", "mlp", "--near", "hash", status=2)
    assert "give --model and --weights" in cli(*command, "--model", "mlp", status=2)
    assert "give --model and --weights" in cli(*command, "--near", "embedding", status=2)
