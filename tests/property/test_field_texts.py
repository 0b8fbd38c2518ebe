"""Texts of a run that are decoded at once are those of one after the other, or all are left to that."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from drawstream.pipeline.fields import decode_texts, decode_value

PARTS = st.one_of(
    st.text().map(str.encode), st.binary(max_size=4), st.sampled_from([b"", b"\xef\xbb\xbf", "中".encode()])
)


@given(st.lists(PARTS, max_size=8), st.binary(max_size=3))
@example(["中".encode()[:2], "中".encode()[2:]], b"")  # whole together, and neither by itself
@example([b"\xef\xbb\xbfmarked", b"plain"], b"xy")
@example(["é".encode(), b"", "𐍈".encode()], b"\xff")
def test_decoded_at_once_or_one_by_one(parts, before):
    data = np.frombuffer(before + b"".join(parts) + b"\x80", np.uint8)
    bounds = len(before) + np.cumsum([0, *map(len, parts)])
    try:
        expected = [decode_value("txt", part) for part in parts]
    except ValueError:
        expected = None
    found = decode_texts(data, bounds)
    if expected is None:
        assert found is None
    elif any("\ufeff" in part.decode() for part in parts):
        assert found is None or found == expected
    else:
        assert found == expected
