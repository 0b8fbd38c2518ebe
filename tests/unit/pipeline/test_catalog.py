"""Opening a catalog: what it gives, and what it refuses."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from sklearn.datasets import load_digits

from drawstream.pipeline.shards.catalog import METADATA, SEAL, Catalog, seal
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "digits"
    return pack(ArraySource(PIXELS, DIGITS.target), out, label_noise=0.4, shard_rows=500).train


@pytest.fixture
def folder(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "digits")


def edit(folder, *, meta=None, **columns):
    """Rewrite a catalog file with other columns (None drops one) or metadata."""
    file = folder / "catalog.parquet"
    table = pq.read_table(file)
    metadata = json.loads(table.schema.metadata[METADATA]) | (meta or {})
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.remove_column(at)
        if values is not None:
            table = table.add_column(at, name, values)
    text = json.dumps(metadata).encode()
    clean = table["clean_label"].to_numpy() if "clean_label" in table.column_names else None
    mark = seal(text, table.column_names, clean)
    pq.write_table(table.replace_schema_metadata({METADATA: text, SEAL: mark}), file)


def test_arrays_describe_every_row(packed):
    catalog = Catalog.open(packed)
    assert len(catalog) == 1797
    assert [len(column) for column in (catalog.label, catalog.clean_label, catalog.keys, catalog.encodings)] == [
        1797
    ] * 4
    dtypes = {
        "shard": "i4",
        "offset": "i8",
        "size": "i8",
        "checksum": "u4",
        "label": "i8",
        "height": "i4",
        "width": "i4",
    }
    assert {name: getattr(catalog, name).dtype for name in dtypes} == dtypes
    assert catalog.channels == 1 and catalog.num_classes == 10 and set(catalog.encodings) == {"raw"}
    assert catalog.key(3) == catalog.keys[3]
    for row in range(0, 1797, 61):
        with catalog.shard_path(catalog.shard[row]).open("rb") as file:
            file.seek(catalog.offset[row])
            data = file.read(catalog.size[row])
        source = int(catalog.key(row))
        assert data == PIXELS[source].tobytes()
        assert xxhash.xxh32_intdigest(data) == catalog.checksum[row]
        assert catalog.clean_label[row] == DIGITS.target[source]


def test_shard_rows_partition_the_catalog(packed):
    catalog = Catalog.open(packed)
    assert [catalog.shard_rows(i) for i in range(4)] == [(0, 500), (500, 1000), (1000, 1500), (1500, 1797)]
    for i in range(4):
        assert set(catalog.shard[slice(*catalog.shard_rows(i))]) == {i}


def test_arrays_are_read_only(packed):
    catalog = Catalog.open(packed)
    with pytest.raises(ValueError, match="read-only"):
        catalog.label[0] = 3


def test_opens_from_the_file_too(packed):
    by_file = Catalog.open(packed / "catalog.parquet")
    assert by_file.fingerprint == Catalog.open(str(packed)).fingerprint
    assert by_file.root == packed
    assert "1797 rows, 4 shards, 10 classes" in repr(by_file)


def test_fingerprint_follows_labels_and_not_the_place(packed, folder, tmp_path):
    first = Catalog.open(packed).fingerprint
    assert Catalog.open(folder).fingerprint == first
    other = pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "n", label_noise=0.4, noise_seed=1, shard_rows=500)
    assert Catalog.open(other.train).fingerprint != first


def test_missing_things_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such catalog: make one with `drawstream pack`"):
        Catalog.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no catalog\.parquet in this folder"):
        Catalog.open(tmp_path / "empty")
    (folder / "shard-000002.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard .*shard-000002\.tar is missing"):
        Catalog.open(folder)


def test_a_folder_of_two_catalogs_says_which(tmp_path):
    pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "two", limit=100, holdout=20)
    with pytest.raises(FileNotFoundError, match=r"two: holds two catalogs: open .*two/train or .*two/holdout"):
        Catalog.open(tmp_path / "two")


@pytest.mark.parametrize("content", [b"", b"no parquet here, just text", "other table"])
def test_not_a_catalog(tmp_path, content):
    file = tmp_path / "catalog.parquet"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pq.write_table(pa.table({"key": ["a"]}), file)
    with pytest.raises(ValueError, match=r"catalog\.parquet: not a catalog: [^\n]*pack or index the data anew$"):
        Catalog.open(file)


def test_truncated_parquet_is_not_a_catalog(folder):
    file = folder / "catalog.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a catalog"):
        Catalog.open(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"meta": {"format": 4}}, "catalog format must be 3, but got 4: upgrade drawstream"),
        ({"meta": {"shards": [{"path": "a.tar"}]}}, "not a catalog: its metadata must hold format, fingerprint"),
        ({"meta": {"classes": None}}, "not a catalog: its metadata must hold"),
        ({"checksum": None}, "column 'checksum' must be there"),
        ({"label": pa.array(["1"] * 1797)}, "column 'label' must be int64, but got string"),
        ({"label": pa.array([0] * 1796 + [None], pa.int64())}, "column 'label' must have no nulls"),
        ({"label": pa.array([0] * 1797)}, "the fingerprint of the rows is [0-9a-f]{32}, the file says [0-9a-f]{32}"),
        ({"encoding": pa.array(["bmp"] * 1797).dictionary_encode()}, "encoding must be one of jpeg, png, webp, raw"),
        ({"meta": {"classes": ["a", "b"]}}, r"labels must lie in 0 … 1"),
        ({"meta": {"channels": 3}}, "a raw image must have height × width × channels bytes"),
    ],
    ids=["format", "shards", "no classes", "missing", "type", "null", "fingerprint", "encoding", "classes", "channels"],
)
def test_altered_catalogs_are_refused(folder, change, text):
    edit(folder, **change)
    with pytest.raises(ValueError, match=f"catalog.parquet: {text}"):
        Catalog.open(folder)


def reseal(folder, metadata, **columns):
    """Rewrite a catalog file with other metadata beside the old hash."""
    file = folder / "catalog.parquet"
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.drop_columns(name) if values is None else table.set_column(6, name, values)
    hashed = {METADATA: metadata(table.schema.metadata[METADATA]), SEAL: table.schema.metadata[SEAL]}
    pq.write_table(table.replace_schema_metadata(hashed), file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"channels": 1', b'"channels": 3'),
        (b'"7"', b'"y"'),
        (b'"seed": 0', b'"seed": 1'),
        (b"000002.tar", b"000001.tar"),
    ],
    ids=["channels", "classes", "provenance", "paths"],
)
def test_the_hash_covers_the_metadata(folder, old, new):
    reseal(folder, lambda text: text.replace(old, new))
    with pytest.raises(
        ValueError, match=r"parquet: the hash of the metadata is [0-9a-f]{32}, the file says b?'[0-9a-f]{32}"
    ):
        Catalog.open(folder)


def test_both_copies_of_the_metadata_count(folder):
    """Arrow reads its own, in base64; other readers see Parquet's."""
    file = folder / "catalog.parquet"
    file.write_bytes(file.read_bytes().replace(b'"channels": 1', b'"channels": 3'))
    with pytest.raises(ValueError, match=r"catalog\.parquet: both copies of the metadata .* must be the same"):
        Catalog.open(folder)


@pytest.mark.parametrize("values", [None, pa.array([0] * 1797)], ids=["dropped", "changed"])
def test_the_hash_covers_clean_labels(folder, values):
    reseal(folder, lambda text: text, clean_label=values)
    with pytest.raises(ValueError, match="the catalog was altered: pack or index the data anew"):
        Catalog.open(folder)


def test_rows_open_whatever_has_become_of_the_shards(folder):
    (folder / "shard-000000.tar").unlink()
    (folder / "shard-000001.tar").write_bytes(b"")
    assert len(Catalog.open_rows(folder)) == 1797
    with pytest.raises(FileNotFoundError, match=r"shard .*shard-000000\.tar is missing"):
        Catalog.open(folder)


def test_clean_label_is_optional(folder):
    edit(folder, clean_label=None)
    assert Catalog.open(folder).clean_label is None


def test_shard_of_another_length_is_refused(folder):
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(
        ValueError, match=r"shard-000001\.tar: shard has \d+ bytes, its catalog says \d+: copy it again"
    ):
        Catalog.open(folder)


def test_no_flipped_byte_changes_a_row(packed, folder):
    whole = Catalog.open(packed)
    data = (folder / "catalog.parquet").read_bytes()
    refused = 0
    for at in range(5, len(data), 97):
        (folder / "catalog.parquet").write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            catalog = Catalog.open(folder)
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error) and str(folder) in str(error)
            refused += 1
        else:
            for name in ("shard", "offset", "size", "checksum", "label", "encoding_codes", "height", "width"):
                assert (getattr(catalog, name) == getattr(whole, name)).all()
            assert catalog.keys == whole.keys and (catalog.clean_label == whole.clean_label).all()
            assert (catalog.classes, catalog.channels) == (whole.classes, whole.channels)
            assert (catalog.shards, catalog.provenance) == (whole.shards, whole.provenance)
    assert refused > 200  # the rest lies in page statistics, which nobody reads
