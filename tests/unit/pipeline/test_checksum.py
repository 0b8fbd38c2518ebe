"""The compiled hashes against the reference implementation."""

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.pipeline.shards.catalog import checksum_of
from drawstream.pipeline.shards.checksum import checksum, xxh3, xxh32


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


@pytest.mark.parametrize("length", [*range(241, 330), 1023, 1024, 1025, 1088, 1089, 2048, 2049, 109_978, 1_000_003])
def test_xxh3_equals_the_reference(length):
    data = np.random.default_rng(length).integers(0, 256, length + 3, np.uint8)
    for shift in range(3):
        assert int(xxh3(data[shift : shift + length])) == xxhash.xxh3_64_intdigest(data[shift : shift + length])


@settings(deadline=None)
@given(st.integers(0, 5000))
def test_members_have_the_checksum_of_their_length(length):
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    reference = xxhash.xxh3_64_intdigest(data) % 2**32 if length > 1024 else xxhash.xxh32_intdigest(data)
    assert int(checksum(data)) == checksum_of(data.tobytes()) == reference
