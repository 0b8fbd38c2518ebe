"""What users give as weights and numbers: right values from every library, or one line that says what to do."""

import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from drawstream import DLIS, PSGD, IndexStream, InfoBatch, SelectiveBackprop, Sequential, SwiftFit, SwiftParams
from drawstream.samplers import effective_sample_size, to_vector
from drawstream.samplers.weights import check_weights
from shared.refusals import refused

VALUES = [3, 0, 1, 2, 0, 250]
FLOAT64 = np.array(VALUES, np.float64)


class Exported:
    """A column that only knows the DLPack protocol."""

    def __init__(self, values):
        self.values = np.array(values)

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


COLUMNS = {
    "list": VALUES,
    "tuple of mixed numbers": (3.0, False, np.int8(1), Fraction(2), Decimal(0), np.float16(250)),
    "range": range(1, 7),
    "list of scalar tensors": [torch.tensor(float(value)) for value in VALUES],
    "uint8": np.array(VALUES, np.uint8),
    "int64": np.array(VALUES, np.int64),
    "float16": np.array(VALUES, np.float16),
    "big endian": np.array(VALUES, ">f8"),
    "big endian integers": np.array(VALUES, ">i2"),
    "longdouble": np.array(VALUES, np.longdouble),
    "strided": np.repeat(FLOAT64, 2)[::2],
    "objects": np.array(VALUES, object),
    "masked array without a mask": np.ma.array(VALUES),
    "Series": pd.Series(VALUES),
    "nullable Series": pd.Series(VALUES, dtype="Int64"),
    "Arrow Series": pd.Series(VALUES, dtype="float32[pyarrow]"),
    "Series in order by sorting": pd.Series(VALUES[::-1], index=range(5, -1, -1)).sort_index(),
    "polars": pl.Series(VALUES),
    "polars UInt8": pl.Series(VALUES, dtype=pl.UInt8),
    "polars Decimal": pl.Series([Decimal(value) for value in VALUES]),
    "Arrow": pa.array(VALUES, pa.float16()),
    "Arrow chunks": pa.chunked_array([VALUES[:2], VALUES[2:]]),
    "torch int16": torch.tensor(VALUES, dtype=torch.int16),
    "torch half": torch.tensor(VALUES, dtype=torch.half),
    "torch bfloat16": torch.tensor(VALUES, dtype=torch.bfloat16),
    "torch with a gradient": torch.tensor(VALUES, dtype=torch.float64, requires_grad=True),
    "torch bfloat16 parameter": torch.nn.Parameter(torch.tensor(VALUES, dtype=torch.bfloat16)),
    "torch sparse": torch.tensor(VALUES, dtype=torch.float64).to_sparse(),
    "torch strided": torch.tensor(VALUES, dtype=torch.float32).repeat_interleave(2)[::2],
    "DLPack": Exported(VALUES),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_column_draws_as_its_float64_twin(kind):
    twin = np.arange(1.0, 7.0) if kind == "range" else FLOAT64
    column = COLUMNS[kind]
    np.testing.assert_array_equal(check_weights(column), twin)
    stream, expected = IndexStream(column, seed=4, draws=600), IndexStream(twin, seed=4, draws=600)
    assert stream.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(stream.epoch(1)[:], expected.epoch(1)[:])
    np.testing.assert_array_equal(stream.epoch(1).weights(0, 600), expected.epoch(1).weights(0, 600))


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int8, np.int16])
def test_sums_do_not_overflow_the_given_type(dtype):
    counts = np.full(5000, 100, dtype)  # their sum is beyond all of these types
    counts[0] = 0
    stream = IndexStream(counts, seed=1)
    assert stream.fingerprint == IndexStream(counts.astype(np.float64), seed=1).fingerprint
    assert effective_sample_size(counts) == pytest.approx(4999)


def test_a_mask_keeps_its_rows():
    drawn = IndexStream(np.arange(10) % 2 == 0, draws=10).epoch(0)[:]
    assert np.bincount(drawn, minlength=10).tolist() == [2, 0] * 5


@pytest.mark.parametrize("kind", ["<i4", "<f2", ">f8"])
def test_a_mapped_file_of_another_type(tmp_path, kind):
    np.save(tmp_path / "w.npy", np.array(VALUES, kind))
    stream = IndexStream(np.load(tmp_path / "w.npy", mmap_mode="r"), seed=2)
    assert stream.fingerprint == IndexStream(FLOAT64, seed=2).fingerprint


FRAME = {"weight": [1.0, 2.0], "key": ["a", "b"]}


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (pd.DataFrame(FRAME), TypeError, r"must be one column, but got pandas\.\S*DataFrame: choose one, as"),
        (pl.DataFrame(FRAME), TypeError, "choose one, as"),
        (pl.LazyFrame(FRAME), TypeError, "choose one, as"),
        (pa.table(FRAME), TypeError, "choose one, as"),
        (np.array([(1.0, 2)], [("a", "f8"), ("b", "i4")]), TypeError, "choose one, as"),
        (pd.Series([1.0, 2.0], index=[1, 0]), ValueError, r"taken by position, but the index .* sort it .* \.to_numpy"),
        (pd.Series([1.0, 2.0], index=["a", "b"]), ValueError, "taken by position"),
        (pd.Series([1.0, 2.0, 3.0])[1:], ValueError, "taken by position"),
        (pd.Series([1, None], dtype="Int64"), ValueError, "row 1 is nan"),
        (pl.Series([1, None]), ValueError, "row 1 is nan"),
        (pa.array([1.0, None]), ValueError, "row 1 is nan"),
        (pa.array([True, None]), ValueError, "row 1 is None"),
        ([1.0, None], ValueError, "must be numeric, but row 1 is None: give a number for each row"),
        ([1.0, "2"], ValueError, "row 1 is '2'"),
        (["0.5", "1"], ValueError, "row 0 is '0.5'"),
        (pl.Series(["a"]), ValueError, "row 0 is 'a'"),
        ([1.0, 2j], ValueError, "their type is complex128"),
        (np.array(["2026-01-01"], "M8[D]"), ValueError, r"their type is datetime64\[D\]"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), ValueError, "row 1 is masked"),
        ([[1.0], [2.0, 3.0]], TypeError, r"cannot be read from a list \(.*inhomogeneous"),
        ([[1.0], [2.0]], ValueError, r"must have shape \(rows,\) .* got \(2, 1\)"),
        (torch.ones(2, 2), ValueError, r"got \(2, 2\)"),
        ([10**400, 1], ValueError, "row 0 is inf"),
        ([1.0, -2.0], ValueError, r"row 1 is -2\.0"),
        (torch.tensor([0, 0]), ValueError, "at least one weight must be > 0, but all 2 are 0"),
        ([], ValueError, r"rows >= 1, but got \(0,\)"),
        (torch.empty(3, device="meta"), TypeError, r"cannot be read from a torch\.Tensor"),
        ((x for x in (1.0, 2.0)), TypeError, "but got generator: give a list or an array"),
        ({"a": 1.0}, TypeError, "but got dict: give a list or an array"),
        ({1.0, 2.0}, TypeError, "but got set"),
        (b"12", TypeError, "but got bytes"),
    ],
)
def test_what_is_no_column_is_refused_in_one_line(given, error, text):
    assert " at 0x" not in refused(text, IndexStream, given, error=error)


@pytest.mark.parametrize("rows", [np.int16(9), np.uint8(9), torch.tensor(9), np.array(9)])
def test_a_number_of_rows_of_any_integer_type(rows):
    assert IndexStream(rows, seed=np.int64(3)).fingerprint == IndexStream(9, seed=3).fingerprint


def test_small_integers_do_not_overflow_in_a_batch():
    stream = IndexStream(100_000, seed=np.uint8(1), draws=np.int32(100_000))
    plain = IndexStream(100_000, seed=1)
    small = {"global_batch": np.int16(200), "rank": np.int8(3), "world_size": np.uint8(4)}
    mine = stream.batch(np.int16(2), np.int16(300), **small)
    np.testing.assert_array_equal(mine, plain.epoch(2)[60_150:60_200])
    span = stream.span(np.int16(300), **small)
    assert span == (60_150, 60_200) and json.dumps(span)
    np.testing.assert_array_equal(stream.epoch(np.uint8(2))[np.int32(5) : np.int32(9)], plain.epoch(2)[5:9])
    assert stream.epoch(2)[np.int8(7)] == plain.epoch(2)[7]
    np.testing.assert_array_equal(stream.epoch(2).weights(np.int8(0), np.int8(3)), np.ones(3))
    assert Sequential(np.int8(100), np.int16(300)).batch(0, np.int8(1), global_batch=np.int8(100))[-1] == 299


@pytest.mark.parametrize("wrong", [2.0, np.float64(2), True, np.True_, torch.tensor(True), "2", None, np.array([2])])
def test_no_whole_number_is_refused(wrong):
    stream = IndexStream(10)
    for call in (
        lambda: stream.epoch(wrong),
        lambda: stream.prepare(wrong),
        lambda: stream.batch(0, wrong, global_batch=4),
        lambda: stream.batch(0, 0, global_batch=wrong),
        lambda: stream.batch(0, 0, global_batch=4, rank=wrong, world_size=4),
        lambda: stream.batch(0, 0, global_batch=4, world_size=wrong),
        lambda: stream.epoch(0).weights(0, wrong),
        lambda: IndexStream(10, seed=wrong),
        lambda: IndexStream(np.ones(2048), window=2048.0 if wrong is None else wrong),
        lambda: Sequential(0, wrong),
        lambda: PSGD(wrong),
        lambda: InfoBatch(4, epochs=wrong),
        lambda: SelectiveBackprop(budget=0.5, history=wrong),
        lambda: DLIS(factor=wrong),
    ):
        refused("must be a whole number, but got", call, error=TypeError)


def test_states_of_numpy_arguments_are_json():
    three = np.int64(3)
    for state in (
        DLIS(factor=three, memory=np.float32(0.5), seed=three).state_dict(),
        PSGD(three, uniform_epochs=three, paper=np.True_).state_dict(),
        InfoBatch(three, epochs=three, ratio=np.float32(0.5), share=np.float32(0.5), seed=three).state_dict(),
        SelectiveBackprop(budget=np.float32(0.5), history=three, seed=three).state_dict(),
    ):
        json.dumps({key: value for key, value in state.items() if not isinstance(value, np.ndarray)})


def test_a_row_sampler_may_answer_with_any_column():
    class Learner:
        def probabilities(self, epoch):
            return torch.tensor(VALUES, dtype=torch.bfloat16, requires_grad=True)

    np.testing.assert_array_equal(IndexStream(Learner()).epoch(1)[:], IndexStream(FLOAT64).epoch(1)[:])


@pytest.mark.parametrize("kind", [list, torch.tensor, pl.Series, pd.Series, pa.array])
def test_scores_of_a_sampler_are_columns_of_any_library(kind):
    loss = [0.5, 2.0, 1.0, 4.0]
    fit = SwiftFit({"loss": kind(loss)}, features=["loss"], transform="cdf")
    params = SwiftParams((1.0,), (0.25, 0.5, 0.75), (1.0, 1.0, 0.5, 0.0, 0.0))
    expected = SwiftFit({"loss": np.array(loss)}, features=["loss"], transform="cdf").probabilities(params)
    np.testing.assert_array_equal(fit.probabilities(params), expected)


def test_a_vector_keeps_its_type_and_is_not_copied():
    for dtype in (np.float32, np.float64, np.int16, np.bool_):
        array = np.ones(4, dtype)
        assert to_vector(array, "values").dtype == dtype
        assert np.shares_memory(to_vector(array, "values"), array)
