"""The compiled checksum against the Python side of its library."""

import numpy as np
import pytest
import xxhash

from drawstream.pipeline.shards.catalog import checksum_of
from drawstream.pipeline.shards.checksum import member_checksum


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
