"""Search spaces: bijections between cube and parameters, without favour and without redundancy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers.swift import DegenerateSampler, SwiftParams
from drawstream.search.swift import Space

SHAPES = [(1, 1), (1, 4), (2, 4), (3, 2), (5, 8), (2, 32)]


def test_dimensions_and_names():
    assert len(Space("paper10").names) == 10
    assert Space("reduced").names == (
        "coefficient_2", "end_1", "end_2", "end_3", "value_1", "value_2", "value_3", "value_4",
    )  # fmt: skip
    assert Space("reduced", features=1, segments=1).names == ("value_1",)


@pytest.mark.parametrize("name", ["reduced", "paper10"])
@pytest.mark.parametrize(("features", "segments"), SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_round_trip_through_the_cube(name, features, segments, seed):
    space = Space(name, features, segments)
    point = np.random.default_rng(seed).uniform(0.02, 0.98, len(space.names))
    params = space.decode(point)
    again = space.decode(space.encode(params))
    np.testing.assert_allclose(again.ends, params.ends, rtol=1e-8)
    np.testing.assert_allclose(again.canonical().values, params.canonical().values, atol=1e-7)
    np.testing.assert_allclose(again.canonical().coefficients, params.canonical().coefficients, atol=1e-7)
    if name == "reduced":
        assert params.coefficients[0] >= 0
        assert max(params.values) == 1
        np.testing.assert_allclose(space.encode(params), point, atol=1e-6)


@pytest.mark.parametrize("name", ["reduced", "paper10"])
@pytest.mark.parametrize(("features", "segments"), SHAPES)
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_corners_of_the_cube_are_valid_or_degenerate(name, features, segments, edge):
    space = Space(name, features, segments)
    if name == "paper10" and edge == 0:
        with pytest.raises(DegenerateSampler):
            space.decode(np.full(len(space.names), edge))
    else:
        assert max(space.decode(np.full(len(space.names), edge)).values) == 1


@pytest.mark.parametrize("name", ["reduced", "paper10"])
def test_both_spaces_hold_the_designed_starts(name):
    space = Space(name)
    decoded = [space.decode(point).canonical() for point in space.starts()]
    values = [(1, 1, 1, 1, 1), (1, 0.75, 0.5, 0.25, 0), (1, 1, 1, 0, 0), (0, 0.25, 0.5, 0.75, 1)]
    assert decoded[0] == SwiftParams.uniform()
    for params, expected in zip(decoded, values, strict=True):
        np.testing.assert_allclose(params.values, expected, atol=1e-9)
        np.testing.assert_allclose(params.ends, (0.25, 0.5, 0.75), atol=1e-9)
        assert params.coefficients == (1, 0)


def test_equal_starts_are_given_once():
    assert len(Space("reduced", features=1, segments=1).starts()) == 3  # step and ramp are one with a single segment


def test_a_uniform_cube_favours_no_component():
    rng = np.random.default_rng(0)
    space = Space("reduced", features=3, segments=4)
    params = [space.decode(point) for point in rng.random((4000, len(space.names)))]
    largest = np.bincount([int(np.argmax(p.values)) for p in params], minlength=5) / 4000
    np.testing.assert_allclose(largest, 0.2, atol=0.03)
    squares = np.mean([np.square(p.coefficients) for p in params], axis=0)
    np.testing.assert_allclose(squares, 1 / 3, atol=0.03)
    ends = np.mean([p.ends for p in params], axis=0)
    np.testing.assert_allclose(ends, [0.25, 0.5, 0.75], atol=0.02)  # means of three ordered uniform draws


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Space("full"), "space must be"),
        (lambda: Space(features=0), "features >= 1"),
        (lambda: Space(segments=0), "segments <= 32 must hold, but got 0"),
        (lambda: Space(segments=33), "segments <= 32 must hold, but got 33"),
        (lambda: Space().decode([0.5] * 7), "has 8 coordinates"),
        (lambda: Space().decode([0.5] * 7 + [1.1]), r"must lie in \[0, 1\]"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()
