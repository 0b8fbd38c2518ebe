"""The catalog format, pinned.

WARNING: catalogs, feature tables, samplers and training states refer to these fingerprints. A change here makes every
existing one unreadable: never edit the figures to make the test pass.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawstream import ArraySource, Catalog, open_source, pack, verify
from drawstream.pipeline.decoding import ImageInfo
from drawstream.pipeline.shards import stratified_order
from drawstream.pipeline.shards.catalog import Shard, seal
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.label_noise import relabel
from shared.refusals import refused


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
    draft = CatalogWriter()
    for shard in (0, 1):
        part = CatalogWriter()
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
    assert catalog.label.shape == (6, 0) and catalog.label.dtype == np.int64
    assert catalog.keys == ["a/0", "a/1", "a/2", "ß/0", "ß/1", "ß/2"] and catalog.key_form == "stem/key"
    assert catalog.member_key(4) == "1"


def test_fields(tmp_path):
    """Format 4 is format 3 with columns of fields; the fingerprint, which features refer to, is that without them."""
    draft = CatalogWriter(fields=("txt", "seg.png"))
    for shard in (0, 1):
        part = CatalogWriter(fields=("txt", "seg.png"))
        for row in range(2):
            members = [(1024 + row, b"two" if row else b""), (1536, b"mask") if shard else None]
            part.add(f"{row}{shard}", 0, 512 * row, b"x" * (8 + row), ImageInfo("png", 4, 5, 3), members)
        draft.append(part, shard)
    shards = [Shard(f"{name}.tar", 2048, 32 * digit) for name, digit in (("a", "0"), ("b", "f"))]
    for shard in shards:
        (tmp_path / shard.path).write_bytes(bytes(2048))
    file = tmp_path / "catalog.parquet"
    draft.save(file, None, None, shards=shards, classes=(), provenance={})
    table = pq.read_table(file)
    assert {column.name: str(column.type) for column in table.schema if "." in column.name} == {
        f"{name}.{part}": kind
        for name in ("txt", "seg.png")
        for part, kind in (("offset", "int64"), ("size", "int64"), ("checksum", "uint32"))
    }
    meta = json.loads(table.schema.metadata[b"drawstream"])
    assert (meta["format"], meta["fields"]) == (4, ["txt", "seg.png"])
    assert table.schema.metadata[b"drawstream-hash"] == b"2a9abc1f3e896e6dbbaecfcbfb44fba9"
    catalog = Catalog.open(file)
    assert catalog.fields == ("txt", "seg.png") and catalog.fingerprint == "dc5f330f5c118943e1c03a551a7b840f"
    text, mask = (catalog.field_columns[name] for name in catalog.fields)
    assert text.offset.tolist() == [1024, 1025] * 2 and text.size.tolist() == [0, 3] * 2
    assert text.checksum.tolist() == [46947589, 2513953524] * 2
    assert mask.offset.tolist() == [-1, -1, 1536, 1536] and mask.size.tolist() == [0, 0, 4, 4]
    draft.fields, draft.members = (), draft.members[:0]
    draft.save(tmp_path / "without.parquet", None, None, shards=shards, classes=(), provenance={})
    assert Catalog.open(tmp_path / "without.parquet").fingerprint == catalog.fingerprint
    without = json.loads(pq.read_schema(tmp_path / "without.parquet").metadata[b"drawstream"])
    assert (without["format"], without["fields"]) == (3, [])
    at = table.column_names.index("txt.size")
    other = table.set_column(at, "txt.size", pa.array([0, 4, 0, 3]))
    pq.write_table(other, file)
    refused("the hash of the metadata is .*: the catalog was altered", Catalog.open, file)


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
        refused("the hash of the metadata is", Catalog.open, unlabelled)
        pq.write_table(table, unlabelled)
        Catalog.open(unlabelled)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label_kind": "box"}, "label_kind of a catalog must be one of class, multi, value, none, but got 'box': upg"),
        ({"label_kind": "multi"}, "column 'label' must be there"),
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
    refused(r"the hash of the metadata is .*: the catalog was altered", Catalog.open, tmp_path / "exif")


LABELS = {
    "multi": (np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.uint8), "fixed_size_list<element: uint8>[3]"),
    "value": (np.array([[0.5], [-1.25], [3e30]], np.float32), "fixed_size_list<element: float>[1]"),
}
MARKS = {
    "multi": ("51a94ac152007429710b0a81336a57f1", "7c800c11031c547cece5ea432aa39703"),
    "value": ("cb09a4d75a5c70a4192d41860d9d4f87", "b92496c2bb4f0f35b5d8bf85d0497f21"),
}


@pytest.fixture(params=sorted(LABELS))
def kind(request, tmp_path):
    """A catalog whose labels are no classes; gives the kind and the file."""
    labels, _ = LABELS[request.param]
    draft = CatalogWriter()
    for row in range(3):
        draft.add(f"{row}", 0, 512 * row, b"x" * (8 + row), ImageInfo("png", 4, 5, 3))
    shards = [Shard("a.tar", 2048, 32 * "0")]
    (tmp_path / "a.tar").write_bytes(bytes(2048))
    names = ("a", "b", "ç")[: labels.shape[1]]
    draft.save(tmp_path / "catalog.parquet", labels, None, shards=shards, classes=names, provenance={})
    return request.param, tmp_path / "catalog.parquet"


def test_labels_of_other_kinds(kind):
    """They have format 4, which a drawstream of classes alone refuses; a catalog of classes stays in format 3."""
    name, file = kind
    labels, column = LABELS[name]
    table, catalog = pq.read_table(file), Catalog.open(file)
    assert str(table.schema.field("label").type).replace("item", "element") == column
    meta = json.loads(table.schema.metadata[b"drawstream"])
    assert (meta["format"], meta["label_kind"]) == (4, name)
    assert (catalog.fingerprint, table.schema.metadata[b"drawstream-hash"].decode()) == MARKS[name]
    assert catalog.label_kind == name and catalog.num_classes == labels.shape[1]
    assert catalog.label.dtype == labels.dtype and np.array_equal(catalog.label, labels)
    assert not catalog.label.flags.writeable


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([[0, 1], [0, 0], [1, 0]], "the fingerprint of the rows is"),
        ([[0, 1, 2], [0, 0, 0], [1, 0, 0]], "the fingerprint of the rows is"),
        ([[0, 1, None], [0, 0, 0], [1, 0, 0]], "column 'label' must have no nulls"),
        ([None, [0, 0, 0], [1, 0, 0]], "column 'label' must have no nulls"),
    ],
)
def test_altered_labels_of_other_kinds_are_refused(kind, values, text):
    name, file = kind
    table = pq.read_table(file)
    at, size = table.column_names.index("label"), len(values[1])
    item = pa.uint8() if name == "multi" else pa.float32()
    other = table.set_column(at, "label", pa.array(values, pa.list_(item, size)))
    pq.write_table(other.replace_schema_metadata(table.schema.metadata), file)
    refused(text, Catalog.open, file)
    wrong = table.set_column(at, "label", pa.array(values, pa.list_(pa.int32(), size)))
    pq.write_table(wrong.replace_schema_metadata(table.schema.metadata), file)
    refused("column 'label' must be fixed-size lists of (uint8|float), but got", Catalog.open, file)
