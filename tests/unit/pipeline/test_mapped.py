"""Columns of large catalogs are mapped: in memory once for all processes, and never trusted without a look."""

import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawstream import ArraySource, Catalog, Loader, pack
from drawstream.pipeline.fields import ABSENT
from drawstream.pipeline.shards import AlteredCatalogError, catalog
from shared.refusals import refused
from shared.samples import LABELS, PIXELS
from shared.vast import vast_catalog

ROWS, ROWS_HELD = 30_000, int(os.environ.get("DRAWSTREAM_TEST_ROWS", 4_000_000))


@pytest.fixture(scope="module")
def vast(tmp_path_factory):
    return vast_catalog(tmp_path_factory.mktemp("vast"), ROWS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the columns, in a cache of its own; catalogs of 10 000 rows are mapped."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "LARGE", 10_000)
    return tmp_path / "cache/drawstream/columns"


def same(one, other):
    names = ("shard", "offset", "size", "checksum", "label", "height", "width", "encoding_codes")
    for name in names:
        mine, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype and not mine.flags.writeable
    assert one.keys == other.keys and one.fingerprint == other.fingerprint and one.classes == other.classes


def mapped_files():
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".arrow")}


def test_mapped_columns_are_those_of_the_file(vast, cache, monkeypatch):
    first, again = Catalog.open_rows(vast), Catalog.open_rows(vast)
    (folder,) = [each for each in cache.iterdir() if each.is_dir()]
    assert (folder / "checked").exists() and {Path(each).parent for each in mapped_files()} >= {folder}
    monkeypatch.setattr(catalog, "LARGE", 1 << 40)
    plain = Catalog.open_rows(vast)
    for each in (first, again):
        same(each, plain)
        assert each.rows_of(["17", "x"]).tolist() == [17, -1] and each.shard_rows(0) == (0, ROWS)


@pytest.mark.parametrize("number", range(9))
def test_a_damaged_column_is_written_anew(vast, cache, number):
    before = Catalog.open_rows(vast)
    (folder,) = [each for each in cache.iterdir() if each.is_dir()]
    file = folder / f"{number:03d}.arrow"
    data = bytearray(file.read_bytes())
    at = len(data) // 2
    data[at : at + 8] = bytes(value ^ 0x15 for value in data[at : at + 8])
    file.unlink()  # `before` keeps the old one
    file.write_bytes(data)
    same(Catalog.open_rows(vast), before)
    assert file.read_bytes() != bytes(data)
    file.unlink()
    same(Catalog.open_rows(vast), before)
    file.write_bytes(data[: len(data) // 2])
    same(Catalog.open_rows(vast), before)


def test_an_altered_catalog_is_refused_as_ever_and_leaves_no_columns(vast, cache, tmp_path):
    path = tmp_path / "altered/catalog.parquet"
    path.parent.mkdir()
    table = pq.read_table(vast / "catalog.parquet")
    labels = table["label"].to_numpy().copy()
    labels[7] += 1
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(labels)), path)
    refused("altered", Catalog.open_rows, path.parent, error=AlteredCatalogError)
    assert not [each for each in cache.glob("*") if each.is_dir()]


def test_without_room_each_process_holds_its_own_and_says_so(vast, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(catalog, "LARGE", 10_000)
    with pytest.warns(UserWarning, match="XDG_CACHE_HOME"):
        assert len(Catalog.open_rows(vast)) == ROWS


def test_many_that_open_at_once_write_the_columns_once(vast, cache):
    opened, written = [], []
    write = catalog.MappedColumns.write

    def count(mapped):
        written.append(mapped)
        write(mapped)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog.MappedColumns, "write", count)
        threads = [threading.Thread(target=lambda: opened.append(Catalog.open_rows(vast))) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(opened) == 4 and len(written) == 1


def pss():
    """Memory of this process in bytes, a page of n processes counted as one n-th."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10


def hold(folder, small, barrier, results):
    """Open a catalog and look at all rows; report what memory that took, while all others hold theirs."""
    Catalog.open_rows(small)  # imports
    before = pss()
    opened = Catalog.open_rows(folder)
    barrier.wait()
    for _ in range(2):  # the first look counts pages of processes that have not looked yet
        assert opened.label.sum() + opened.offset.sum() + opened.size.sum() > 0
        barrier.wait()
    results.put(pss() - before)
    barrier.wait()


def memory_of(folder, small, count):
    """Bytes that so many processes take together for one catalog."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(count), spawn.Queue()
    processes = [spawn.Process(target=hold, args=(folder, small, barrier, results)) for _ in range(count)]
    for each in processes:
        each.start()
    total = sum(results.get(timeout=600) for _ in processes)
    for each in processes:
        each.join()
    return total


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no PSS on this system")
def test_four_processes_hold_the_columns_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = vast_catalog(tmp_path / "vast", ROWS_HELD)
    small = vast_catalog(tmp_path / "small", 1000)
    Catalog.open_rows(folder)
    one, four = memory_of(folder, small, 1), memory_of(folder, small, 4)
    print(f"one process {one / 1e6:.0f} MB, four {four / 1e6:.0f} MB, {four / one:.2f}×")
    assert one > ROWS_HELD * 40 and four <= 1.2 * one


def test_columns_of_several_catalogs_are_mapped_too(vast, cache, tmp_path, monkeypatch):
    other = vast_catalog(tmp_path / "other", 12_345, seed=3)
    whole = Catalog.open_rows(vast, other)
    folder = cache / whole.fingerprint
    assert folder.is_dir() and str(folder / "000.arrow") in mapped_files()
    monkeypatch.setattr(catalog, "LARGE", 1 << 40)
    plain = Catalog.open_rows(vast, other)
    same(whole, plain)
    np.testing.assert_array_equal(whole.source, plain.source)
    assert whole.source.dtype == np.int16 and whole.clean_label is None and whole.turn is None
    monkeypatch.setattr(catalog, "LARGE", 10_000)
    for number in range(10):
        file = folder / f"{number:03d}.arrow"
        data = bytearray(file.read_bytes())
        at = len(data) // 2
        data[at : at + 8] = bytes(value ^ 0x15 for value in data[at : at + 8])
        file.unlink()
        file.write_bytes(data)
        same(Catalog.open_rows(vast, other), plain)
        assert file.read_bytes() != bytes(data)


def in_mapped_file(array):
    """Whether the values of an array lie in a file of columns that this process has mapped."""
    at = array.__array_interface__["data"][0]
    regions = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".arrow")]
    return any(
        begin <= at < end for begin, end in ([int(x, 16) for x in each.split()[0].split("-")] for each in regions)
    )


def test_columns_of_fields_that_some_rows_lack_are_mapped_too(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "LARGE", 50)
    texts = [None if i % 3 == 0 else f"number {i}" for i in range(60)]
    places = [
        pack(ArraySource(PIXELS[:60], LABELS[:60], fields={name: texts}), tmp_path / name, shard_rows=25).train
        for name in ("txt", "json")
    ]
    one, several = Catalog.open(places[0]), Catalog.open(*places)
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "LARGE", 1 << 40)
        plain, both = Catalog.open(places[0]), Catalog.open(*places)
    for mapped, held in ((one, plain), (several, both)):
        assert mapped.fields == held.fields and mapped.fingerprint == held.fingerprint
        for name, columns in mapped.field_columns.items():
            for column, expected in zip(columns, held.field_columns[name], strict=True):
                np.testing.assert_array_equal(column, expected)
                assert in_mapped_file(column) and not in_mapped_file(expected) and not column.flags.writeable
                assert column.dtype == expected.dtype
    at = several.field_columns["json"].offset
    assert (at[:60] == ABSENT).all() and (at[60:] == ABSENT).sum() == 20
    loader = Loader(several, batch_size=120, fields=("txt", "json"))
    (batch,) = loader
    own = [texts[int(several.key(row))] for row in range(120)]
    assert batch.fields["txt"] == own[:60] + [None] * 60 and batch.fields["json"] == [None] * 60 + own[60:]


def test_values_under_nulls_that_were_changed_do_not_count(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "LARGE", 50)
    texts = [None if i % 2 else "text" for i in range(60)]
    place = pack(ArraySource(PIXELS[:60], LABELS[:60], fields={"txt": texts}), tmp_path / "data").train
    expected = Catalog.open(place).field_columns["txt"].offset.copy()
    (folder,) = [each for each in cache.iterdir() if each.is_dir()]
    wrong = int(np.int64(-1).view(np.uint64)).to_bytes(8, "little")
    for file in sorted(folder.glob("*.arrow")):
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data.replace(wrong, (77).to_bytes(8, "little")))
    np.testing.assert_array_equal(Catalog.open(place).field_columns["txt"].offset, expected)
