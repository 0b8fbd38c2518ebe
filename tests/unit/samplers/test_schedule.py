"""Schedules: recorded, replayed, counted, compared; damaged and foreign files refused."""

import math
import pickle
import re

import numpy as np
import pyarrow as pa
import pytest

import drawstream.samplers.orders.schedule as schedule_module
from drawstream import IndexStream, Schedule, write_schedule
from drawstream.samplers.orders import count_rows, entropy, histogram
from shared.refusals import refused

WEIGHTS = np.arange(1.0, 101.0)


@pytest.fixture
def stream():
    return IndexStream(WEIGHTS, draws=70, seed=4)


@pytest.fixture
def recorded(tmp_path, stream):
    path = tmp_path / "orders.arrow"
    write_schedule(path, (stream.epoch(epoch) for epoch in range(3)), rows=100, catalog="abc")
    return path


def test_replay_is_exact(recorded, stream):
    replay = IndexStream(Schedule.open(recorded, catalog="abc"), seed=9)
    assert (replay.mode, replay.rows, replay.draws) == ("schedule", 100, 70)
    for epoch in range(3):
        np.testing.assert_array_equal(replay.epoch(epoch)[:], stream.epoch(epoch)[:])
        np.testing.assert_array_equal(replay.epoch(epoch).weights(10, 40), stream.epoch(epoch).weights(10, 40))
    np.testing.assert_array_equal(
        replay.batch(1, 2, global_batch=20, rank=1, world_size=4),
        stream.batch(1, 2, global_batch=20, rank=1, world_size=4),
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(replay)).epoch(2)[:], stream.epoch(2)[:])
    refused(re.escape("0 <= epoch < 3 must hold for schedule"), replay.epoch, 3)


def test_the_file_is_as_documented(recorded, stream):
    """Readers in other languages rely on these names and types."""
    with pa.ipc.open_file(pa.memory_map(str(recorded))) as reader:
        table = reader.read_all()
    assert table.schema.names == ["row", "weight"]
    assert table.schema.types == [pa.int64(), pa.float32()]
    metadata = table.schema.metadata
    assert re.fullmatch(rb"[0-9a-f]{32}", metadata.pop(b"seal"))
    assert metadata == {b"drawstream.schedule": b"2", b"rows": b"100", b"draws": b"70", b"catalog": b"abc"}
    np.testing.assert_array_equal(table["row"].to_numpy()[70:140], stream.epoch(1)[:])


def test_a_row_outside_the_catalog_is_found_on_reading(recorded):
    schedule = Schedule.open(recorded)
    schedule.rows = 50
    with pytest.raises(ValueError, match=r"rows must be in \[0, 50\), but .* the file is damaged"):
        schedule.epoch(0)[:]


def test_epochs_of_several_batches(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(schedule_module, "_PIECE", 16)
    write_schedule(tmp_path / "a", [stream.epoch(0), stream.epoch(1)], rows=100)
    replay = Schedule.open(tmp_path / "a")
    assert replay.epochs == 2
    np.testing.assert_array_equal(replay.epoch(1)[5:66], stream.epoch(1)[5:66])
    np.testing.assert_array_equal(replay.epoch(1).weights(5, 66), stream.epoch(1).weights(5, 66))


def test_counts_histogram_entropy(recorded, stream):
    schedule = Schedule.open(recorded)
    expected = np.bincount(stream.epoch(1)[:], minlength=100)
    np.testing.assert_array_equal(schedule.counts(1), expected)
    assert schedule.counts().sum() == 210
    np.testing.assert_array_equal(histogram(schedule.counts(1)), np.bincount(expected))
    assert entropy(np.full(8, 3)) == pytest.approx(math.log(8))
    assert entropy(np.array([0, 7, 0])) == 0
    refused("at least one draw", entropy, np.zeros(3, dtype=np.int64))
    refused("rows must be in \\[0, 50\\), but row 50 is drawn", lambda: count_rows(IndexStream(51).epoch(0), 50))


def test_diff(tmp_path, recorded, stream):
    mine = Schedule.open(recorded)
    assert mine.diff(mine).first is None
    changed = [stream.epoch(epoch)[:] for epoch in range(3)]
    changed[1][33] = (changed[1][33] + 1) % 100
    write_schedule(tmp_path / "b", changed, rows=100)
    diff = mine.diff(Schedule.open(tmp_path / "b"))
    assert (diff.first, diff.positions) == ((1, 33), 1)
    assert diff.variation == pytest.approx((0, 1 / 70, 0))
    write_schedule(tmp_path / "c", changed[:2], rows=100)
    refused(re.escape("but got (100, 70, 3) and (100, 70, 2)"), lambda: mine.diff(Schedule.open(tmp_path / "c")))


def test_fingerprints_follow_the_rows(tmp_path, recorded, stream):
    write_schedule(tmp_path / "d", [stream.epoch(epoch)[:][::-1] for epoch in range(3)], rows=100)
    here, there = (IndexStream(Schedule.open(path)).fingerprint for path in (recorded, tmp_path / "d"))
    assert here != there


def test_arrays_have_unit_weights(tmp_path):
    write_schedule(tmp_path / "e", [np.array([2, 0, 2])], rows=3)
    np.testing.assert_array_equal(Schedule.open(tmp_path / "e").epoch(0).weights(0, 3), np.ones(3, dtype=np.float32))


def test_refusals(tmp_path, recorded, stream):
    refused("was recorded on abc and this is xyz", Schedule.open, recorded, catalog="xyz")
    with pytest.raises(
        ValueError, match="a schedule fixes mode, window and its 70 draws, but got mode=None, window=None"
    ):
        IndexStream(Schedule.open(recorded), draws=10)
    with pytest.raises(FileNotFoundError):
        Schedule.open(tmp_path / "none")
    (tmp_path / "text").write_text("no arrow")
    refused("must be an Arrow IPC file", Schedule.open, tmp_path / "text")
    (tmp_path / "cut").write_bytes(recorded.read_bytes()[:-300])
    refused("must be an Arrow IPC file", Schedule.open, tmp_path / "cut")


@pytest.mark.parametrize(
    ("orders", "text"),
    [
        ([], "at least one epoch"),
        ([np.array([1, 5])], "rows must be in [0, 5), but epoch 0 holds 1 … 5"),
        ([np.array([1, 2]), np.array([1])], "epoch 0 has 2 draws and 1 has 1"),
    ],
)
def test_bad_orders_leave_no_file(tmp_path, orders, text):
    refused(re.escape(text), write_schedule, tmp_path / "bad", orders, rows=5)
    assert list(tmp_path.iterdir()) == []


def test_provenance_is_kept_and_may_be_missing(tmp_path, recorded, stream):
    told = {"auto": {"population": 4, "beta": 1.5}, "model": "cnn"}
    write_schedule(tmp_path / "told.arrow", [stream.epoch(0)], rows=100, provenance=told)
    assert Schedule.open(tmp_path / "told.arrow").provenance == told
    assert Schedule.open(recorded).provenance == {}  # files of before have none
    assert b"provenance" not in pa.ipc.open_file(pa.memory_map(str(recorded))).schema.metadata


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_refused_or_changes_nothing(tmp_path, step):
    path, copy = tmp_path / "orders.arrow", tmp_path / "copy.arrow"
    write_schedule(
        path, (IndexStream(WEIGHTS[:5], draws=4, seed=1).epoch(e) for e in range(2)), rows=5, provenance={"by": "me"}
    )
    whole = path.read_bytes()

    def content(file):
        found = Schedule.open(file)
        epochs = [found.epoch(epoch) for epoch in range(found.epochs)]
        return (
            (found.rows, found.draws, found.catalog, found.provenance),
            [(order[:].tolist(), order.weights(0, len(order)).tolist()) for order in epochs],
        )

    expected, refused = content(path), 0
    for bit in range(0, 8 * len(whole), step):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(damaged)
        try:
            assert content(copy) == expected, bit
        except ValueError as error:
            assert "copy.arrow" in str(error), error
            refused += 1
    assert refused > 8 * 2 * 4 * 12 // step  # every bit of the rows and weights at least


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_file_that_lost_epochs_or_its_seal_is_refused(tmp_path, recorded, epochs):
    with pa.ipc.open_file(recorded) as reader:
        batches, schema = [reader.get_batch(i) for i in range(epochs)], reader.schema
    with pa.ipc.new_file(tmp_path / "short.arrow", schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with pytest.raises(ValueError, match=r"short\.arrow: its content has the hash \w{32}, but it says '\w{32}'"):
        Schedule.open(tmp_path / "short.arrow")
    metadata = {key: value for key, value in schema.metadata.items() if key != b"seal"}
    with pa.ipc.new_file(tmp_path / "bare.arrow", schema.with_metadata(metadata)) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    refused("it says None", Schedule.open, tmp_path / "bare.arrow")
