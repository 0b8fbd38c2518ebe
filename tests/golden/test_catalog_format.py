"""The catalog formats, pinned: 3, and 1 and 2 which are still read.

WARNING: catalogs, feature tables, samplers and training states refer to these fingerprints. A change here makes every
existing one unreadable: raise ``FORMAT`` and keep reading the old form, never edit the figures to make the test pass.
"""

import json
import re
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from PIL import Image

from drawstream.pipeline import Loader, Transform
from drawstream.pipeline.decoding.image import ImageInfo
from drawstream.pipeline.reading.bad_samples import BadSampleError
from drawstream.pipeline.reading.read import ShardFiles
from drawstream.pipeline.shards.catalog import Catalog, Shard, seal
from drawstream.pipeline.shards.catalog_writer import Draft
from drawstream.pipeline.shards.label_noise import relabel, stratified_order
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource, open_source
from drawstream.pipeline.verify import verify
from drawstream.samplers import Sequential


@pytest.fixture
def packed(tmp_path):
    images = np.arange(12 * 2 * 3, dtype=np.uint8).reshape(12, 2, 3)
    source = ArraySource(images, np.arange(12) % 3, ("a", "b", "ç"))
    return pack(source, tmp_path / "tiny", label_noise=0.5, seed=7, noise_seed=11, shard_rows=5).train


def test_columns_and_metadata(packed):
    table = pq.read_table(packed / "catalog.parquet")
    assert {column.name: str(column.type) for column in table.schema} == {
        "key": "string",
        "shard": "int32",
        "offset": "int64",
        "size": "int64",
        "checksum": "uint32",
        "label": "int64",
        "clean_label": "int64",
        "encoding": "dictionary<values=string, indices=int8, ordered=0>",
        "height": "int32",
        "width": "int32",
    }
    meta = json.loads(table.schema.metadata[b"drawstream"])
    assert meta == {
        "format": 3,
        "fingerprint": "0a0e297d0fc6fa1acd7ca45d61cf5595",
        "checksum": "xxh3_64 of more than 1024 bytes, else xxh32",
        "hash": "xxh3_128",
        "orientation": "exif",
        "label_kind": "class",
        "key_form": "key",
        "fields": [],
        "channels": 1,
        "classes": ["a", "b", "ç"],
        "shards": [
            {
                "path": "shard-000000.tar",
                "size": 20480,
                "hash": "6f0326c273da017556a5d807017afd31",
                "stem": "shard-000000",
            },
            {
                "path": "shard-000001.tar",
                "size": 20480,
                "hash": "48d8d53d0193826ef5a5291c0bdd73c7",
                "stem": "shard-000001",
            },
            {
                "path": "shard-000002.tar",
                "size": 10240,
                "hash": "f64f3766c4b87cfecccec84299cbfa75",
                "stem": "shard-000002",
            },
        ],
        "provenance": {
            "by": "pack",
            "source": "arrays",
            "rows": 12,
            "listing": "a4e9b997e304927e24828dd67e067767",
            "encoding": "keep",
            "quality": 95,
            "limit": None,
            "holdout": 0,
            "seed": 7,
            "noise_seed": 11,
            "shard_rows": 5,
            "shard_bytes": 1 << 30,
            "skip_bad": False,
            "part": "all",
            "label_noise": 0.5,
        },
    }
    assert table.schema.metadata[b"drawstream-hash"] == b"0f2a4044cf806eb0adfe9794cf34461d"


def as_format_2(folder, fingerprint):
    """Rewrite a catalog as the second format was: no stems, orientation, kind of labels, form of keys and fields."""
    table = pq.read_table(folder / "catalog.parquet")
    meta = json.loads(table.schema.metadata[b"drawstream"])
    for name in ("orientation", "label_kind", "key_form", "fields"):
        meta.pop(name, None)
    for each in meta["shards"]:
        each.pop("stem", None)
    names = ["by", "source", "part", "encoding", "quality", "limit", "holdout", "seed", "label_noise", "noise_seed"]
    meta["provenance"] = {name: meta["provenance"][name] for name in names}
    text = json.dumps(meta | {"format": 2, "fingerprint": fingerprint}, ensure_ascii=False).encode()
    clean = table["clean_label"].to_numpy() if "clean_label" in table.column_names else None
    mark = seal(text, table.column_names, clean)
    pq.write_table(
        table.replace_schema_metadata({b"drawstream": text, b"drawstream-hash": mark}), folder / "catalog.parquet"
    )
    return mark


def test_format_2_still_opens(packed):
    mark = as_format_2(packed, "84f927e853af16f659d6566e0b28d8d0")
    assert mark == "84081d7228420a567cdc0f24358e5df5"
    catalog = Catalog.open(packed)
    assert (catalog.version, catalog.orientation, catalog.label_kind) == (2, "exif", "class")
    assert (catalog.key_form, catalog.fields) == ("key", ())
    assert catalog.fingerprint == "84f927e853af16f659d6566e0b28d8d0" and catalog.wide == 1024
    assert verify(catalog) == [] and catalog.rows_of([catalog.key(3), "none"]).tolist() == [3, -1]


def as_format_1(folder, fingerprint):
    """Rewrite a catalog as the first format was: XXH32 of every member, and no hash over the metadata."""
    catalog = Catalog.open(folder)
    data, bounds = ShardFiles(catalog).read(np.arange(len(catalog)))
    marks = [xxhash.xxh32_intdigest(data[a:b]) for a, b in pairwise(bounds.tolist())]
    table = pq.read_table(folder / "catalog.parquet")
    meta = json.loads(table.schema.metadata[b"drawstream"])
    meta |= {"format": 1, "checksum": "xxh32", "fingerprint": fingerprint}
    for name in ("orientation", "label_kind", "key_form", "fields"):
        del meta[name]
    at = table.column_names.index("checksum")
    table = table.set_column(at, "checksum", pa.array(marks, pa.uint32()))
    pq.write_table(table.replace_schema_metadata({b"drawstream": json.dumps(meta)}), folder / "catalog.parquet")


def test_format_1_still_opens(packed):
    as_format_1(packed, "d893aea5ca13c9629ca79846b365276d")
    assert Catalog.open(packed).version == 1


def test_checksums_of_format_1_are_still_held(tmp_path):
    """Members of more than 1024 bytes have another checksum since."""
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 40), np.uint8)
    folder = pack(ArraySource(images, np.arange(6) % 3), tmp_path / "large").train
    as_format_1(folder, "f" * 32)
    with pytest.raises(ValueError, match="the fingerprint of the rows is") as refused:
        Catalog.open(folder)
    fingerprint = re.search(r"of the rows is (\w+)", str(refused.value))[1]
    table = pq.read_table(folder / "catalog.parquet")
    meta = json.loads(table.schema.metadata[b"drawstream"]) | {"fingerprint": fingerprint}
    pq.write_table(table.replace_schema_metadata({b"drawstream": json.dumps(meta)}), folder / "catalog.parquet")
    catalog = Catalog.open(folder)
    data, _ = ShardFiles(catalog).read(np.arange(6))
    order = [int(key) for key in catalog.keys]
    assert data.tobytes() == images[order].tobytes() and verify(catalog) == []
    with catalog.shard_path(0).open("r+b") as file:
        file.seek(int(catalog.offset[2]) + 9)
        file.write(b"\x01\x02\x03")
    with pytest.raises(BadSampleError, match=r"\(row 2\)"):
        ShardFiles(catalog).read(np.arange(6))


def test_rows(packed):
    catalog = Catalog.open(packed)
    assert [int(key) for key in catalog.keys] == [1, 11, 3, 2, 10, 9, 8, 7, 0, 6, 5, 4]
    assert catalog.shard.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert catalog.offset.tolist() == [2571, 5643, 8715, 11787, 14859] * 2 + [2571, 5643]
    assert catalog.size.tolist() == [6] * 12
    assert catalog.checksum.tolist() == [
        1659164874, 2048767210, 2037677060, 1430797132, 2749727690, 561211127,
        2572043639, 2486812863, 2269196767, 605636961, 2906742834, 751241360,
    ]  # fmt: skip
    assert catalog.label.tolist() == [0, 2, 0, 1, 1, 1, 2, 1, 0, 2, 1, 0]
    assert catalog.clean_label.tolist() == [1, 2, 0, 2, 1, 0, 2, 1, 0, 0, 2, 1]


def test_draws():
    assert stratified_order(np.repeat([0, 1], [6, 3]), seed=0).tolist() == [7, 4, 5, 1, 2, 8, 6, 0, 3]
    assert relabel(np.repeat([0, 1, 2], 4), rate=0.5, classes=3, seed=0).tolist() == [
        1,
        0,
        0,
        1,
        0,
        1,
        2,
        1,
        2,
        2,
        0,
        1,
    ]


@pytest.fixture
def unlabelled(tmp_path):
    """A catalog without labels, images as they are stored, keys in two shards, and a column of a newer version."""
    draft = Draft()
    for shard in (0, 1):
        part = Draft()
        for row in range(3):
            part.add(f"{row}", 0, 512 * row, b"x" * (8 + row), ImageInfo("png", 4, 5, 3))
        draft.append(part, shard)
    shards = [Shard(f"{name}.tar", 2048, 32 * digit) for name, digit in (("a", "0"), ("ß", "f"))]
    for shard in shards:
        (tmp_path / shard.path).write_bytes(bytes(2048))
    file = tmp_path / "catalog.parquet"
    draft.save(file, None, None, shards=shards, classes=(), provenance={}, orientation="stored")
    return file


def test_without_labels(unlabelled):
    catalog = Catalog.open(unlabelled)
    assert catalog.fingerprint == "22b32bf195e341f7839baf671f5549ae"
    assert "label" not in pq.read_schema(unlabelled).names
    assert (catalog.label_kind, catalog.orientation, catalog.classes) == ("none", "stored", ())
    assert catalog.label.tolist() == [0] * 6 and catalog.label.dtype == np.int64
    assert catalog.keys == ["a/0", "a/1", "a/2", "ß/0", "ß/1", "ß/2"] and catalog.key_form == "stem/key"
    assert catalog.member_key(4) == "1"


def with_columns(file, **columns):
    """Add columns to a catalog, sealed, as a later version will write them."""
    table = pq.read_table(file)
    text = table.schema.metadata[b"drawstream"]
    for name, values in columns.items():
        table = table.append_column(name, values)
    mark = seal(text, table.column_names, None, [(name, table[name]) for name in columns])
    pq.write_table(table.replace_schema_metadata({b"drawstream": text, b"drawstream-hash": mark}), file)
    return mark


FURTHER = {
    "txt.offset": pa.array([1, None, 3, 4, 5, 6], pa.int64()),
    "txt": pa.array(["a", None, "", "ß", "x", "y"]),
    "boxes": pa.array([[[1.0, 2.0]], None, [], [[3.0]], [[None]], []], pa.list_(pa.list_(pa.float32()))),
    "kind": pa.array(["a", "b", None, "a", "a", "b"]).dictionary_encode(),
    "easy": pa.array([True, None, False, True, True, False]),
}


def test_further_columns_are_sealed_and_read_past(unlabelled):
    before = Catalog.open(unlabelled).fingerprint
    assert with_columns(unlabelled, **FURTHER) == "3b60be62d9e9e58125b8284f7383709b"
    assert Catalog.open(unlabelled).fingerprint == before
    for name, values in FURTHER.items():
        table = pq.read_table(unlabelled)
        other = values.take(pa.array([0, 1, 2, 3, 4, 3]))
        at = table.column_names.index(name)
        pq.write_table(table.set_column(at, name, other).replace_schema_metadata(table.schema.metadata), unlabelled)
        with pytest.raises(ValueError, match="the hash of the metadata is"):
            Catalog.open(unlabelled)
        pq.write_table(table, unlabelled)
        Catalog.open(unlabelled)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label_kind": "multi"}, "label_kind of a catalog must be one of class, none, but got 'multi': upgrade"),
        ({"orientation": "xmp"}, "orientation of a catalog must be one of exif, stored, but got 'xmp': upgrade"),
        ({"key_form": "uuid"}, "key_form of a catalog must be one of key, stem/key, but got 'uuid': upgrade"),
        ({"fields": None}, "its metadata must hold format, .*fields"),
        ({"label_kind": "class"}, "column 'label' must be there"),
        ({"key_form": "key", "shards": []}, "fingerprint of the rows"),
        ({"orientation": "exif"}, "fingerprint of the rows"),
    ],
)
def test_what_a_later_version_may_say_is_refused(unlabelled, change, text):
    table = pq.read_table(unlabelled)
    meta = json.dumps(json.loads(table.schema.metadata[b"drawstream"]) | change).encode()
    mark = seal(meta, table.column_names, None)
    pq.write_table(table.replace_schema_metadata({b"drawstream": meta, b"drawstream-hash": mark}), unlabelled)
    with pytest.raises(ValueError, match=text) as refused:
        Catalog.open(unlabelled)
    assert "\n" not in str(refused.value)


def test_turned_images(tmp_path):
    """The column `turn` is there only where an image is turned; the seal covers it."""
    cases = Path(__file__).parents[1] / "cases" / "images"
    for name in ("jpeg_two_6.jpg", "webp_prefix_6.webp", "plain.png"):
        (tmp_path / "photos" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "a" / name).write_bytes((cases / name).read_bytes())
    marks = {}
    for rule, turn in (("exif", [6, 1, 6]), ("stored", None)):
        folder = pack(open_source(tmp_path / "photos"), tmp_path / rule, orientation=rule).train
        table = pq.read_table(folder / "catalog.parquet")
        assert table.column_names == [
            "key",
            "shard",
            "offset",
            "size",
            "checksum",
            "label",
            "encoding",
            "height",
            "width",
            *(["turn"] if turn else []),
        ]
        catalog = Catalog.open(folder)
        order = np.argsort(catalog.keys)  # jpeg_two_6, plain, webp_prefix_6
        assert (None if catalog.turn is None else catalog.turn[order].tolist()) == turn
        sizes = [(96, 48), (48, 64), (96, 48)] if turn else [(48, 96), (48, 64), (48, 96)]
        assert list(zip(catalog.height[order].tolist(), catalog.width[order].tolist(), strict=True)) == sizes
        assert catalog.orientation == rule and verify(catalog) == []
        marks[rule] = catalog.fingerprint
    assert marks == {"exif": "b5435bd98791b39d949a678d5131c510", "stored": "ac78124bb2436e8d984323eb57dab6cd"}
    table = pq.read_table(tmp_path / "exif" / "catalog.parquet")
    at = table.column_names.index("turn")
    other = table.set_column(at, "turn", pa.array([8, 8, 8], pa.int8()))
    pq.write_table(other, tmp_path / "exif" / "catalog.parquet")
    with pytest.raises(ValueError, match=r"the hash of the metadata is .*: the catalog was altered"):
        Catalog.open(tmp_path / "exif")


def test_format_2_leaves_turning_to_the_decoder(tmp_path):
    """Loaded as ever; an image of several EXIF blocks, for which that decoder may end, is refused."""
    for name, values in (("turned", [6]), ("several", [6, 3])):
        (tmp_path / name / "a").mkdir(parents=True)
        pixels = np.zeros((48, 96, 3), np.uint8)
        pixels[:, :48] = 200
        plain = tmp_path / name / "a" / "0.jpg"
        Image.fromarray(pixels).save(plain, quality=95)
        data = plain.read_bytes()
        blocks = [
            b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHH", 0x0112, 3, 1, value, 0) + bytes(4)
            for value in values
        ]
        segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks)
        plain.write_bytes(data[:2] + segments + data[2:])
        folder = pack(open_source(tmp_path / name), tmp_path / f"{name} packed").train
        table = pq.read_table(folder / "catalog.parquet").drop_columns("turn")
        pq.write_table(table, folder / "catalog.parquet")
        as_format_2(folder, "f" * 32)
        with pytest.raises(ValueError, match="the fingerprint of the rows is") as refused:
            Catalog.open(folder)
        as_format_2(folder, re.search(r"of the rows is (\w+)", str(refused.value))[1])
        catalog = Catalog.open(folder)
        assert (catalog.version, catalog.turn) == (2, None)
        loader = Loader(catalog, Sequential(0, 1), transform=Transform((96, 48), (0.0,) * 3, (1.0,) * 3, crop="none"))
        if name == "several":
            with pytest.raises(BadSampleError, match=r"it has several EXIF blocks, .*: index or pack it anew"):
                list(loader)
            (finding,) = verify(catalog)
            assert finding.kind == "size" and "it has several EXIF blocks" in finding.message
        else:
            (batch,) = loader
            (image,) = batch.images.numpy()
            assert image[:, 5].mean() > 190 and image[:, -5].mean() < 10 and verify(catalog) == []
        loader.close()
