"""Plain tar headers are those of tarfile, byte for byte, and are read as it reads them."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.shards.tar import BLOCK, NAME, mapped, members, read_ustar, samples
from drawstream.pipeline.shards.tar_writer import write_ustar
from drawstream.pipeline.sources import ArraySource

NAMES = st.one_of(st.text("ab1./_-~ ", min_size=1, max_size=NAME + 20), st.text("aü雪./", min_size=1, max_size=40))


def by_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.PAX_FORMAT)


@given(NAMES, st.one_of(st.integers(0, 10**6), st.integers(8**11 - 2, 8**11 + 2)))
def test_what_is_plain_is_what_tarfile_writes(name, size):
    written = write_ustar(name, size)
    if not name.isascii() or len(name) > NAME or size >= 8**11:
        assert written is None
        return
    assert written == by_tarfile(name, size)
    assert read_ustar(written) == (None if name.endswith("/") else (name, size))


@given(st.text("abc/.", min_size=1, max_size=30), st.integers(0, 10**6), st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_a_changed_header_is_not_plain_or_reads_as_tarfile_reads_it(name, size, at, change):
    assert_read_alike(by_tarfile(name, size), at, change)


def test_every_change_of_a_byte_is_not_plain_or_reads_as_tarfile_reads_it():
    block = by_tarfile("a.png", 7)
    read = sum(assert_read_alike(block, at, change) for at in range(BLOCK) for change in range(1, 256))
    assert read > 64 * 255  # the names of owner and group are free


def assert_read_alike(block, at, change):
    """Whether the header with this change was read here."""
    block = bytearray(block)
    block[at] ^= change
    assert read_ustar(bytes(block)) is None or 148 <= at < 156
    total = sum(block) - sum(block[148:156]) + 256
    block[148:156] = b"%06o\0 " % total  # a forger mends the sum
    found = read_ustar(bytes(block))
    if found is not None:
        info = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
        assert (info.name, info.size) == found and info.isreg() and not info.issparse()
    return found is not None


def test_every_kind_of_header_but_files_is_left_to_tarfile():
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_SPARSE):
        info = tarfile.TarInfo("a")
        info.type = kind
        assert read_ustar(info.tobuf(tarfile.GNU_FORMAT)) is None
    assert read_ustar(bytes(BLOCK)) is None and read_ustar(by_tarfile("a", 1)[:-1]) is None
    gnu = tarfile.TarInfo("a.cls")
    gnu.size, gnu.mtime, gnu.uname = 7, 1_700_000_000, "me"
    assert read_ustar(gnu.tobuf(tarfile.GNU_FORMAT)) == read_ustar(gnu.tobuf(tarfile.USTAR_FORMAT)) == ("a.cls", 7)


class Named(ArraySource):
    """Keys of every kind: plain, too long, not ASCII."""

    def key(self, row, /):
        return ["plain", "a/" * 45 + "name", "n" * 300, "größe/雪", "b/" * 60 + "ü"][row % 5] + f"-{row}"


@pytest.mark.parametrize("side", [16, 300])
def test_pack_writes_the_bytes_of_webdatasets_writer(tmp_path, side):
    images = np.random.default_rng(0).integers(0, 256, (10, side, side), np.uint8)
    pack(Named(images, np.arange(10)), tmp_path / "a", label_noise=0.5)
    shard = tmp_path / "a" / "shard-000000.tar"
    theirs = io.BytesIO()
    writer = TarWriter(theirs, user="", group="", mode=0o444, encoder=False, mtime=0)
    with mapped(shard) as data:
        for sample in samples(data, shard):
            files = {name: data[m.offset : m.offset + m.size] for name, m in sample.members.items()}
            writer.write({"__key__": sample.key, **files})
    writer.close()
    assert shard.read_bytes() == theirs.getvalue()


@given(st.lists(st.tuples(NAMES, st.integers(0, 2000)), min_size=1, max_size=6))
def test_members_are_the_same_with_and_without_the_short_way(tmp_path_factory, files):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, size in files:
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    path.write_bytes(buffer.getvalue())
    with mapped(path) as data, pytest.MonkeyPatch.context() as patch:
        short = _walk(data, path)
        patch.setattr("drawstream.pipeline.shards.tar.read_ustar", lambda _: None)
        assert short == _walk(data, path)


def _walk(data, path):
    found = []
    try:
        found.extend(members(data, path))
    except ValueError as error:
        found.append(str(error))
    return found
