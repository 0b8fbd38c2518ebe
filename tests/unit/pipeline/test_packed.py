"""States as JSON: whatever a sampler keeps comes back as it was."""

import json
import random

import numpy as np
import pytest
import torch

from drawstream.pipeline.packed import packed, unpacked


def back(value):
    return unpacked(json.loads(json.dumps(packed(value), allow_nan=False)))


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


def optimizer():
    weight = torch.nn.Parameter(torch.ones(2))
    made = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    made.step()
    return made.state_dict()


VALUES = [
    ("a", 1, (True, None)),
    [(1,), [2], ()],
    {"tuple": 1},
    {"npy+zlib": [1], "other": 2},
    {"items": {"float": "nan"}},
    {0: "a", "1": "b", (2, 3): "c"},
    {},
    float("nan"),
    float("-inf"),
    2**70,
    np.float32(0.1),
    np.int16(-3),
    np.bool_(True),
    np.datetime64("2020-01-01"),
    np.arange(6).reshape(2, 3)[:, ::2],
    np.array([np.nan, np.inf]),
    np.array(["a", "bc"]),
    np.float16([1.5]),
    torch.arange(4.0).to(torch.bfloat16).reshape(2, 2),
    torch.tensor(1.5, dtype=torch.bfloat16),
    torch.empty(0, 3, dtype=torch.bfloat16),
    torch.ones(2, 2).to(torch.float8_e4m3fn).to(torch.float32),
    torch.tensor([1 + 2j]).conj().resolve_conj(),
    torch.tensor(3),
    random.Random(0).getstate(),
    np.random.RandomState(0).get_state(),
    np.random.default_rng(0).bit_generator.state,
    torch.Generator().manual_seed(0).get_state(),
    optimizer(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_is_saved_comes_back(value):
    assert same(back(value), value)
    assert same(back({"a": [value]}), {"a": [value]})


def test_a_conjugate_comes_back_by_value():
    assert torch.equal(back(torch.tensor([1 + 2j]).conj()), torch.tensor([1 - 2j]))


@pytest.mark.parametrize(
    "value", [torch.eye(3).to_sparse(), np.random.default_rng(0), {1, 2}, object(), [b"a"], np.array([object()])]
)
def test_other_things_are_refused_in_one_line(value):
    with pytest.raises(TypeError, match=r"^a state (is made of|cannot hold) .*: (let|give) .*$") as caught:
        packed({"a": value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        {"tuple": 3},
        {"items": [[1]]},
        {"items": [[[], 1]]},
        {"float": "x"},
        {"tensor bits": ["a", "b"]},
        {"tensor bits": [packed(np.zeros(2, np.uint8))["npy+zlib"], "nothing", [1]]},
        {"tensor bits": [packed(np.zeros(2, np.uint8))["npy+zlib"], "bfloat16", [7]]},
        {"scalar npy+zlib": 5},
    ],
)
def test_damaged_parts_are_refused(value):
    with pytest.raises(ValueError, match="of this state is damaged"):
        unpacked(value)
