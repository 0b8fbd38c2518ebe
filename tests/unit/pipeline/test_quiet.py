"""Libraries under DALI print nothing, whatever thread decodes; the rest of the process prints as before."""

import ctypes
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from drawstream.pipeline.decoding import dali_image
from drawstream.pipeline.decoding.quiet import no_warnings
from drawstream.pipeline.shards.pack import pack

CASES = Path(__file__).parents[2] / "cases" / "images"


def test_only_the_decoders_are_silent(capfd):
    plain = (CASES / "plain.jpg").read_bytes()
    for data in (plain[:-20], (CASES / "no_iend.png").read_bytes(), (CASES / "plain.png").read_bytes()[:-4]):
        with pytest.raises(ValueError, match="DALI cannot decode it"):
            dali_image.pixels(data, 3)
    warned = plain[:-60] + b"\xff\xe0" + plain[-58:]  # libjpeg has a word to say of it
    dali_image.pixels(warned, 3)
    thread = threading.Thread(target=dali_image.pixels, args=(warned, 3))
    thread.start()
    thread.join()
    ctypes.CDLL(None).perror(b"C's own line")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("C's own line")


def test_warnings_are_as_before_once_all_have_left():
    before = list(warnings.filters)
    first, second = threading.Event(), threading.Event()

    def inside():
        with no_warnings():
            first.set()
            second.wait(10)
            warnings.warn("nobody hears this", stacklevel=1)

    thread = threading.Thread(target=inside)
    with no_warnings():
        thread.start()
        assert first.wait(10)
    warnings.warn("nor this: one is inside still", stacklevel=1)
    second.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


class Reused:
    """A source of pixels and files that gives its one buffer again and again."""

    name, classes, labels = "reused", ("0",), np.zeros(40, np.int64)

    def __init__(self):
        self.buffer = np.zeros((4, 4), np.uint8)

    def __len__(self):
        return 40

    def key(self, row):
        return str(row)

    def read(self, row):
        self.buffer[:] = row
        return self.buffer


@pytest.mark.parametrize("encoding", ["keep", "png"])
def test_pack_reads_ahead_of_no_buffer(tmp_path, encoding):
    from drawstream.pipeline.decoding.image import decode
    from drawstream.pipeline.shards import Catalog

    catalog = Catalog.open(pack(Reused(), tmp_path / "out", encoding=encoding).train)
    shard = catalog.shard_path(0).read_bytes()
    for row, (key, at, size) in enumerate(zip(catalog.keys, catalog.offset, catalog.size, strict=True)):
        member = shard[at : at + size]
        pixels = decode(member) if encoding == "png" else np.frombuffer(member, np.uint8)
        assert (pixels == int(key)).all(), row


def test_orientation_is_checked_first(tmp_path):
    from drawstream.pipeline.shards.index import index

    with pytest.raises(ValueError, match=r"^orientation must be exif or stored, but got 'xmp'$"):
        pack(Reused(), tmp_path / "out", orientation="xmp")
    with pytest.raises(ValueError, match=r"^orientation must be exif or stored, but got 'xmp'$"):
        index(tmp_path, orientation="xmp")
