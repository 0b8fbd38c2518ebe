"""Catalogs: what one gives and refuses, keys and the rows they mean, checksums, and that reading one takes little."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from drawstream.pipeline.shards.catalog import METADATA, SEAL, Catalog, checksum_of, seal
from drawstream.pipeline.shards.checksum import member_checksum
from drawstream.pipeline.shards.keys import find_rows, shard_stems, with_stems, without_stems
from shared.processes import run
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, array_catalog, member, pack_digits


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "digits"
    return pack_digits(out, None, label_noise=0.4, shard_rows=500).train


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
    columns = (catalog.label, catalog.clean_label, catalog.keys, catalog.encodings)
    assert [len(column) for column in columns] == [1797] * 4
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
    assert catalog.key(3) == catalog.keys[3] and not catalog.label.flags.writeable
    for row in range(0, 1797, 61):
        data = member(catalog, row)
        source = int(catalog.key(row))
        assert data == PIXELS[source].tobytes()
        assert xxhash.xxh32_intdigest(data) == catalog.checksum[row]
        assert catalog.clean_label[row] == LABELS[source]


def test_shard_rows_partition_the_catalog(packed):
    catalog = Catalog.open(packed)
    assert [catalog.shard_rows(i) for i in range(4)] == [(0, 500), (500, 1000), (1000, 1500), (1500, 1797)]
    for i in range(4):
        assert set(catalog.shard[slice(*catalog.shard_rows(i))]) == {i}


def test_opens_from_the_file_too(packed):
    by_file = Catalog.open(packed / "catalog.parquet")
    assert by_file.fingerprint == Catalog.open(str(packed)).fingerprint
    assert by_file.root == packed
    assert "1797 rows, 4 shards, 10 classes" in repr(by_file)


def test_fingerprint_follows_labels_and_not_the_place(packed, folder, tmp_path):
    first = Catalog.open(packed).fingerprint
    assert Catalog.open(folder).fingerprint == first
    other = pack_digits(tmp_path / "n", None, label_noise=0.4, noise_seed=1, shard_rows=500)
    assert Catalog.open(other.train).fingerprint != first


def test_missing_things_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such catalog: make one with `drawstream pack`"):
        Catalog.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(r"empty: no catalog\.parquet in this folder", Catalog.open, tmp_path / "empty", error=FileNotFoundError)
    (folder / "shard-000002.tar").unlink()
    refused(r"shard .*shard-000002\.tar is missing", Catalog.open, folder, error=FileNotFoundError)


def test_a_folder_of_two_catalogs_says_which(tmp_path):
    pack_digits(tmp_path / "two", None, limit=100, holdout=20)
    with pytest.raises(FileNotFoundError, match=r"two: holds two catalogs: open .*two/train or .*two/holdout"):
        Catalog.open(tmp_path / "two")


@pytest.mark.parametrize("content", [b"", b"no parquet here, just text", "other table"])
def test_not_a_catalog(tmp_path, content):
    file = tmp_path / "catalog.parquet"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pq.write_table(pa.table({"key": ["a"]}), file)
    refused(r"catalog\.parquet: not a catalog: [^\n]*pack or index the data anew$", Catalog.open, file)


def test_truncated_parquet_is_not_a_catalog(folder):
    file = folder / "catalog.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    refused("not a catalog", Catalog.open, folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"meta": {"format": 5}}, "catalog format must be 3 or 4, but got 5: upgrade drawstream"),
        ({"meta": {"shards": [{"path": "a.tar"}]}}, "not a catalog: its metadata must hold format, fingerprint"),
        ({"meta": {"classes": None}}, "not a catalog: its metadata must hold"),
        ({"checksum": None}, "column 'checksum' must be there"),
        ({"label": pa.array(["1"] * 1797)}, "column 'label' must be int64, but got string"),
        ({"label": pa.array([0] * 1796 + [None], pa.int64())}, "column 'label' must have no nulls"),
        ({"label": pa.array([0] * 1797)}, "the fingerprint of the rows is [0-9a-f]{32}, the file says [0-9a-f]{32}"),
        ({"encoding": pa.array(["bmp"] * 1797).dictionary_encode()}, "encoding must be one of jpeg, png, webp, raw"),
        ({"meta": {"classes": ["a", "b"]}}, r"labels must lie in 0 … 1"),
        ({"meta": {"fields": ["txt"]}}, "column 'txt.offset' must be there, as int64"),
        ({"meta": {"channels": 3}}, "a raw image must have height × width × channels bytes"),
    ],
    ids=[
        "format",
        "shards",
        "none",
        "missing",
        "type",
        "null",
        "fingerprint",
        "encoding",
        "classes",
        "fields",
        "channels",
    ],
)
def test_altered_catalogs_are_refused(folder, change, text):
    edit(folder, **change)
    refused(f"catalog.parquet: {text}", Catalog.open, folder)


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
    refused(r"parquet: the hash of the metadata is [0-9a-f]{32}, the file says b?'[0-9a-f]{32}", Catalog.open, folder)


def test_both_copies_of_the_metadata_count(folder):
    """Arrow reads its own, in base64; other readers see Parquet's."""
    file = folder / "catalog.parquet"
    file.write_bytes(file.read_bytes().replace(b'"channels": 1', b'"channels": 3'))
    refused(r"catalog\.parquet: both copies of the metadata .* must be the same", Catalog.open, folder)


@pytest.mark.parametrize("values", [None, pa.array([0] * 1797)], ids=["dropped", "changed"])
def test_the_hash_covers_clean_labels(folder, values):
    reseal(folder, lambda text: text, clean_label=values)
    refused("the catalog was altered: pack or index the data anew", Catalog.open, folder)


def test_rows_open_whatever_has_become_of_the_shards(folder):
    (folder / "shard-000000.tar").unlink()
    (folder / "shard-000001.tar").write_bytes(b"")
    assert len(Catalog.open_rows(folder)) == 1797
    refused(r"shard .*shard-000000\.tar is missing", Catalog.open, folder, error=FileNotFoundError)


def test_clean_label_is_optional(folder):
    edit(folder, clean_label=None)
    assert Catalog.open(folder).clean_label is None


def test_shard_of_another_length_is_refused(folder):
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    refused(r"shard-000001\.tar: shard has \d+ bytes, its catalog says \d+: copy it again", Catalog.open, folder)


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


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["/d/a.tar", "/d/b.TAR"], ["a", "b"]),
        (["/d/a/0.tar", "/d/b/0.tar"], ["a/0", "b/0"]),
        (["/d/0.tar", "/d/b/0.tar", "/d/b/c/1.tar"], ["0", "b/0", "b/c/1"]),
        (["/d/a.tar", "/d/a.TAR"], ["a.tar", "a.TAR"]),
        (["/train.v2-0.tar"], ["train.v2-0"]),
        (["/d/ß.tar", "/d/.tar"], ["ß", ".tar"]),
    ],
)
def test_stems_differ(paths, stems):
    assert shard_stems(paths) == stems


def large(*texts):
    return pa.array(texts, pa.large_string())


def test_stems_come_and_go():
    short, shard, stems = large("0", "1", "0", "ü/b"), np.array([0, 0, 2, 2]), ["a", "none", "ß.1/x"]
    keys = with_stems(short, shard, stems)
    assert keys.to_pylist() == ["a/0", "a/1", "ß.1/x/0", "ß.1/x/ü/b"]
    starts = np.array([0, 2, 2, 4])
    assert without_stems(keys, starts, stems).equals(short)
    refused("every key of shard 'b' must begin with 'b/'", without_stems, keys, starts, ["b", "none", "ß.1/x"])


def test_the_whole_key_goes_before_the_short_one():
    """A short key that looks like another row's whole key: the catalog's own writing is what counts."""
    keys, short = large("a/0", "b/0", "b/a/0"), large("0", "0", "a/0")
    assert find_rows(large("a/0", "b/a/0"), keys, lambda: short).tolist() == [0, 2]


def test_keys_of_every_kind_of_column(tmp_path):
    catalog = array_catalog(tmp_path / "a", np.zeros((6, 2, 2), np.uint8), np.arange(6) % 2)
    keys = catalog.keys
    for column in (keys, tuple(keys), np.array(keys), np.array(keys, object), pa.array(keys), pa.chunked_array([keys])):
        assert catalog.rows_of(column).tolist() == list(range(6))
    assert catalog.rows_of([]).dtype == np.int64 and catalog.rows_of([]).size == 0
    assert catalog.rows_of(pa.array(keys).dictionary_encode()).tolist() == list(range(6))
    assert catalog.rows_of([keys[4], keys[4], None]).tolist() == [4, 4, -1]
    assert catalog.rows_of([f"shard-000000/{key}" for key in keys]).tolist() == list(range(6))
    assert catalog.rows_of([f"shard-000001/{key}" for key in keys]).tolist() == [-1] * 6
    for wrong in ([1, 2], np.arange(3), 7, [["a"]]):
        refused("keys must be texts", catalog.rows_of, wrong, error=TypeError)


@pytest.mark.parametrize("length", [*range(70), *range(241, 250), 1023, 1024, 1025, 1088, 2049, 109_978, 1_000_003])
def test_members_have_the_checksum_of_their_length_at_any_alignment(length):
    data = np.random.default_rng(length).integers(0, 256, length + 7, np.uint8)
    for shift in range(7):
        part = data[shift : shift + length]
        reference = xxhash.xxh3_64_intdigest(part) % 2**32 if length > 1024 else xxhash.xxh32_intdigest(part)
        assert int(member_checksum(part)) == checksum_of(part.tobytes()) == reference


def test_one_flipped_bit_shows():
    data = np.random.default_rng(0).integers(0, 256, 784, np.uint8)
    whole = member_checksum(data)
    for byte in range(784):
        data[byte] ^= 1 << byte % 8
        assert member_checksum(data) != whole
        data[byte] ^= 1 << byte % 8


@pytest.mark.parametrize("module", ["drawstream.pipeline.shards.index", "drawstream.pipeline.verify"])
def test_catalogs_need_neither_torch_nor_dali(module):
    code = f"import {module}, sys; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    assert run("-c", code)[0].strip() == "[]"


def test_the_command_line_starts_with_little():
    heavy = ("torch", "nvidia.dali", "numba", "pyarrow", "scipy", "optuna", "plotly", "sklearn")
    code = f"import drawstream.tools.cli.app, sys; print([m for m in {heavy} if m in sys.modules])"
    assert run("-c", code)[0].strip() == "[]"
