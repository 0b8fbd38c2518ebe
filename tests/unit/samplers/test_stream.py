"""IndexStream: defaults, bad input, row samplers, fingerprints, batches."""

import math
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

from drawstream import IndexStream, Sequential, effective_sample_size
from drawstream.samplers.orders.multinomial import Multinomial
from shared.refusals import refused

WEIGHTS = np.array([0.0, 1.0, 2.0, 3.0, 0.0, 4.0])


def test_defaults():
    assert IndexStream(7).mode == "permutation"
    assert IndexStream(WEIGHTS).mode == "stratified"
    stream = IndexStream(WEIGHTS, mode="multinomial", seed=5, draws=11)
    assert (stream.rows, stream.draws, stream.seed) == (6, 11, 5)
    assert len(stream.epoch(0)) == 11
    assert repr(stream) == "IndexStream(rows=6, mode='multinomial', seed=5, draws=11)"


def test_a_number_of_rows_is_uniform_in_every_mode():
    for mode in ("permutation", "stratified", "subset"):
        assert sorted(IndexStream(40, mode=mode).epoch(1)[:]) == list(range(40))
    counts = np.bincount(IndexStream(40, mode="multinomial", draws=4000).epoch(1)[:], minlength=40)
    assert counts.min() > 50


def test_dtypes_and_views():
    order = IndexStream(WEIGHTS, draws=20).epoch(0)
    rows, weights = order[3:9], order.weights(3, 9)
    assert rows.dtype == np.int64
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, (WEIGHTS.sum() / WEIGHTS[rows] / 6).astype(np.float32), rtol=1e-6)
    assert order[4] == rows[1]
    assert isinstance(order[4], int)
    assert order[-1] == order[19]
    assert order[5:5].size == order[9:3].size == 0
    rows[:] = -1
    assert order[4] != -1


@pytest.mark.parametrize("at", [20, -21])
def test_position_out_of_range(at):
    with pytest.raises(IndexError, match=r"position must be in \[0, 20\), but got"):
        IndexStream(WEIGHTS, draws=20).epoch(0)[at]


def test_order_refuses_strides_and_bad_ranges():
    order = IndexStream(WEIGHTS, draws=20).epoch(0)
    with pytest.raises(ValueError, match="step 1, but got 2"):
        order[::2]
    refused(re.escape("0 <= start <= stop <= 20 must hold, but got start=3 and stop=21"), order.weights, 3, 21)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([1.0, math.nan, math.nan], "row 1 is nan (2 such of 3 rows)"),
        ([1.0, 2.0, -0.5], "row 2 is -0.5 (1 such of 3 rows)"),
        ([math.inf, 1.0], "row 0 is inf (1 such of 2 rows)"),
        ([0.0, 0.0], "at least one weight must be > 0, but all 2 are 0"),
        ([[1.0]], "weights must have shape (rows,) with rows >= 1, but got (1, 1)"),
        (np.empty(0), "but got (0,)"),
    ],
)
@pytest.mark.parametrize("mode", ["stratified", "multinomial", "subset"])
def test_bad_weights(weights, text, mode):
    refused(re.escape(text), IndexStream, weights, mode=mode)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (0, {}, "rows >= 1 must hold, but got 0"),
        (5, {"draws": 0}, "draws >= 1 must hold, but got 0"),
        (1 << 61, {}, f"rows < 2**61 must hold, but got {1 << 61}"),
        (5, {"draws": 1 << 61}, f"draws < 2**61 must hold, but got {1 << 61}"),
        (5, {"seed": -1}, "0 <= seed < 2**64 must hold, but got -1"),
        (5, {"mode": "shuffled"}, "permutation, stratified, multinomial, subset, but got 'shuffled'"),
        (WEIGHTS, {"mode": "permutation"}, "takes a number of rows, but got weights"),
        (WEIGHTS, {"mode": "subset"}, "but got 6 draws and 4 such rows (of 6)"),
        (np.ones(8), {"draws": 1 << 62}, "draws < 2**61 must hold, but got 4611686018427387904"),
    ],
)
def test_bad_values(arguments, options, text):
    refused(re.escape(text), IndexStream, arguments, **options)


def test_multinomial_refuses_more_rows_than_its_columns_can_number():
    with pytest.raises(ValueError, match=r"rows < 2\*\*32 must hold in mode 'multinomial', but got 4294967296"):
        Multinomial(np.broadcast_to(np.float64(1), 1 << 32), 5)


@pytest.mark.parametrize("rows", [True, 2.0, np.float32(3), "abc", None, {"a": 1.0}, {1.0, 2.0}])
def test_bad_types(rows):
    with pytest.raises(TypeError):
        IndexStream(rows)
    with pytest.raises(TypeError):
        IndexStream(4, seed=0.5)


@pytest.mark.parametrize("epoch", [-1, 1 << 64])
def test_epoch_out_of_range(epoch):
    refused("0 <= epoch < ", lambda: IndexStream(4).epoch(epoch))


def test_batches_split_the_global_batch():
    stream = IndexStream(WEIGHTS, draws=22)
    whole = stream.epoch(3)[:]
    parts = [stream.batch(3, 1, global_batch=8, rank=rank, world_size=4) for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[8:16])
    assert {part.size for part in parts} == {2}
    short = [stream.batch(3, 2, global_batch=8, rank=rank, world_size=4) for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate(short), whole[16:])
    assert [part.size for part in short] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("step", "options", "text"),
    [
        (0, {"global_batch": 8, "rank": 4, "world_size": 4}, "0 <= rank < world_size must hold, but got rank=4"),
        (0, {"global_batch": 8, "rank": 0, "world_size": 0}, "world_size=0"),
        (0, {"global_batch": 9, "world_size": 4}, "positive multiple of world_size, but got global_batch=9"),
        (0, {"global_batch": 0}, "but got global_batch=0"),
        (3, {"global_batch": 8}, "0 <= step < 3 must hold for 22 draws, but got step=3"),
        (-1, {"global_batch": 8}, "but got step=-1"),
    ],
)
def test_bad_batches(step, options, text):
    refused(re.escape(text), lambda: IndexStream(WEIGHTS, draws=22).batch(0, step, **options))


def test_fingerprint_follows_every_argument():
    base = {"mode": "stratified", "seed": 1, "draws": 5}
    variants = [base, base | {"mode": "multinomial"}, base | {"seed": 2}, base | {"draws": 6}]
    prints = [IndexStream(np.arange(1.0, 9.0), **options).fingerprint for options in variants]
    prints += [
        IndexStream(np.arange(2.0, 10.0), **base).fingerprint,
        IndexStream(np.arange(1.0, 10.0), **base).fingerprint,
    ]
    prints += [IndexStream(8).fingerprint, IndexStream(9).fingerprint, Sequential(0, 8).fingerprint]
    assert len(set(prints)) == len(prints)
    assert IndexStream(np.arange(1.0, 9.0) * 4, **base).fingerprint == prints[0]


class Learner:
    """A row sampler whose weights change at will."""

    def __init__(self, weights):
        self.weights = np.asarray(weights, dtype=np.float64)

    def probabilities(self, epoch):
        return self.weights


@pytest.mark.parametrize("mode", ["stratified", "multinomial", "subset"])
def test_row_sampler_is_asked_every_epoch(mode):
    learner = Learner([1, 1, 0, 0])
    stream = IndexStream(learner, mode=mode, draws=2)
    mark = stream.fingerprint
    first = stream.epoch(0)
    before = first[:]
    learner.weights = np.array([0.0, 0.0, 1.0, 3.0])
    assert set(stream.epoch(1)[:]) <= {2, 3}
    np.testing.assert_array_equal(stream.epoch(0)[:], before)  # an epoch keeps the order it was given
    np.testing.assert_array_equal(first[:], before)
    np.testing.assert_array_equal(stream.epoch(1)[:], IndexStream(learner.weights, mode=mode, draws=2).epoch(1)[:])
    assert stream.fingerprint == mark


def test_row_sampler_must_keep_its_rows():
    learner = Learner([1, 1, 1])
    stream = IndexStream(learner)
    learner.weights = np.ones(4)
    refused("must keep its 3 rows, but gave 4 in epoch 1", stream.epoch, 1)
    learner.weights = np.array([1.0, np.nan, 1.0])
    refused("row 1 is nan", stream.epoch, 1)


@pytest.mark.parametrize("mode", ["stratified", "multinomial", "subset"])
def test_pickle_and_threads_give_the_same_rows(mode):
    stream = IndexStream(np.arange(1.0, 3001.0), mode=mode, draws=2000)
    expected = stream.epoch(4)[:]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stream)).epoch(4)[:], expected)
    out = np.empty(2000, dtype=np.int64)

    def draw(part):
        out[part * 500 : (part + 1) * 500] = stream.epoch(4)[part * 500 : (part + 1) * 500]

    threads = [threading.Thread(target=draw, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(out, expected)


def test_permutation_laps_differ_and_each_holds_every_row():
    rows = IndexStream(50, draws=120).epoch(0)[:]
    assert sorted(rows[:50]) == sorted(rows[50:100]) == list(range(50))
    assert list(rows[:50]) != list(rows[50:100])
    assert len(set(rows[100:])) == 20


def test_sequential():
    stream = Sequential(3, 10)
    assert (stream.rows, stream.draws, stream.mode, stream.seed) == (10, 7, "sequential", 0)
    np.testing.assert_array_equal(stream.epoch(5)[2:], [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(stream.epoch(0).weights(1, 3), np.ones(2, dtype=np.float32))
    np.testing.assert_array_equal(stream.batch(0, 1, global_batch=4, rank=1, world_size=2), [8, 9])
    assert stream.epoch(0)[-1] == 9
    refused("0 <= start < stop must hold, but got start=4 and stop=4", Sequential, 4, 4)


def test_effective_sample_size():
    assert effective_sample_size(np.full(10, 0.1)) == pytest.approx(10)
    assert effective_sample_size([0.0, 3.0]) == pytest.approx(1)
    assert effective_sample_size([1e-200, 1e-200, 0.0]) == pytest.approx(2)
    refused("all 2 are 0", effective_sample_size, [0.0, 0.0])


class SlowLearner(Learner):
    """Answers for epoch 1 only once it is allowed to."""

    def __init__(self, weights):
        super().__init__(weights)
        self.allowed = threading.Event()

    def probabilities(self, epoch):
        if epoch == 1:
            assert self.allowed.wait(10)
        return self.weights


def test_the_next_epoch_is_prepared_while_one_runs():
    learner = SlowLearner([1, 1, 2, 2])
    stream = IndexStream(learner, draws=4)
    running = stream.epoch(0)[:]
    coming = stream.prepare(1)
    np.testing.assert_array_equal(stream.epoch(0)[:], running)  # not held up
    assert not coming.done()
    learner.allowed.set()
    assert coming.result(timeout=10) is stream.epoch(1)


def test_a_failed_preparation_shows_and_can_be_repeated():
    learner = Learner([1, 1, 1])
    stream = IndexStream(learner)
    learner.weights = np.array([1.0, np.nan, 1.0])
    refused("row 1 is nan", lambda: stream.prepare(1).result(timeout=10))
    learner.weights = np.ones(3)
    assert sorted(stream.epoch(1)[:]) == [0, 1, 2]


def test_samplers_import_with_numpy_and_numba_alone():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'pyarrow', 'scipy', 'pandas', 'sklearn', 'nvidia']));"
        "from drawstream import IndexStream; assert sorted(IndexStream(5).epoch(0)[:]) == [0, 1, 2, 3, 4]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (10**12, {}),
        (10**12, {"window": 10**6}),
        (WEIGHTS, {"draws": 10**12}),
        (WEIGHTS, {"draws": 10**12, "window": 4096}),
        (WEIGHTS, {"draws": 10**12, "mode": "multinomial"}),
    ],
)
def test_an_epoch_is_never_held_as_a_list(rows, options):
    order = IndexStream(rows, **options).epoch(7)
    order[:10]  # compiles, or reads what was compiled
    tracemalloc.start()
    part = order[999_999_999_000:]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(order) == 10**12
    assert part.size == 1000
    assert order[999_999_999_500] == part[500]
    assert peak < 1_000_000


def test_stratified_counts_in_a_part_of_a_very_long_epoch():
    order = IndexStream(WEIGHTS, draws=10**12).epoch(0)
    counts = np.bincount(order[10**11 : 10**11 + 100_000], minlength=6)
    np.testing.assert_allclose(counts, 100_000 * WEIGHTS / WEIGHTS.sum(), atol=800)


@pytest.mark.parametrize(
    ("mode", "bound"), [("permutation", 0), ("stratified", 9.1), ("multinomial", 12), ("subset", 8)]
)
def test_bytes_per_row(mode, bound):
    rows = 100_000
    stream = IndexStream(rows if mode == "permutation" else np.random.default_rng(0).random(rows), mode=mode)
    assert stream.nbytes <= bound * rows


@pytest.mark.parametrize(("mode", "bound"), [("stratified", 9.6), ("multinomial", 12.1), ("subset", 8.2)])
def test_set_up_holds_hardly_more_than_the_tables(mode, bound):
    weights = np.random.default_rng(0).random(1 << 20, dtype=np.float32)
    IndexStream(weights[:100], mode=mode)
    tracemalloc.start()
    IndexStream(weights, mode=mode)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= bound * weights.size
