"""The compiled xxHash32 against the reference implementation."""

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.pipeline.checksum import xxh32


@settings(deadline=None)  # the first call compiles
@given(st.binary(max_size=300), st.integers(0, 7))
def test_equals_the_reference_at_any_alignment(data, shift):
    array = np.frombuffer(b"\0" * shift + data, np.uint8)[shift:]
    assert xxh32(array) == xxhash.xxh32_intdigest(data)


@pytest.mark.parametrize("length", [*range(70), 4095, 4096, 4097, 1_000_003])
def test_equals_the_reference_at_every_kind_of_length(length):
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    assert xxh32(data) == xxhash.xxh32_intdigest(data.tobytes())


def test_one_flipped_bit_shows():
    data = np.random.default_rng(0).integers(0, 256, 784, np.uint8)
    whole = xxh32(data)
    for byte in range(784):
        data[byte] ^= 1 << byte % 8
        assert xxh32(data) != whole
        data[byte] ^= 1 << byte % 8
