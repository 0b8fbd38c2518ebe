"""The strict walk over tars: it finds what tarfile finds, reads headers as it does, never stops early in silence."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.shards.tar import BLOCK, NAME, Remarks, mapped, members, read_ustar, samples
from drawstream.pipeline.shards.tar_writer import write_ustar
from drawstream.pipeline.sources import ArraySource
from shared.refusals import refused

LONG = "very/" * 30 + "long-" * 30 + "name"
NAMES = [
    "a.cls",
    "a.png",
    f"{LONG}.cls",
    f"{LONG}.png",
    "süß/日本.cls",
    "süß/日本.png",
    "dir.d/b.left.png",
    "dir.d/b.JPG",
]


def write(path, names=NAMES, *, form=tarfile.PAX_FORMAT, extra=()):
    with tarfile.open(path, "w", format=form) as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = bytes([i + 1]) * (100 + 700 * i)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return path


def walk(path):
    with mapped(path) as data:
        return [(m.name, bytes(data[m.offset : m.offset + m.size])) for m in members(data, path)]


def group(path):
    with mapped(path) as data:
        return [(sample.key, list(sample.members)) for sample in samples(data, path)]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_every_kind(tmp_path, form):
    path = write(tmp_path / "a.tar", form=form)
    assert walk(path) == [(name, bytes([i + 1]) * (100 + 700 * i)) for i, name in enumerate(NAMES)]
    assert group(path) == [
        ("a", ["cls", "png"]),
        (LONG, ["cls", "png"]),
        ("süß/日本", ["cls", "png"]),
        ("dir.d/b", ["left.png", "jpg"]),
    ]


def test_folders_hidden_files_and_meta_names_are_passed_over(tmp_path):
    folder = tarfile.TarInfo("data")
    folder.type = tarfile.DIRTYPE
    path = write(
        tmp_path / "a.tar",
        ["__meta__/index.json", "__meta__", "data/.hidden", "README", "data/x.png", "data/x.cls"],
        extra=[folder],
    )
    assert group(path) == [("data/x", ["png", "cls"])]


def test_every_flipped_header_byte_is_found(tmp_path):
    path = write(tmp_path / "a.tar", ["a.cls", "a.png", "b.cls", "b.png"])
    whole = path.read_bytes()
    with mapped(path) as data:
        headers = [member.offset - 512 for member in members(data, path)]
    found = 0
    for header in headers:
        for at in (0, 100, 124, 130, 148, 156, 257):
            path.write_bytes(whole[: header + at] + bytes([whole[header + at] ^ 0x11]) + whole[header + at + 1 :])
            message = refused(r"a\.tar: damaged (header at|or truncated tar after) byte \d+", walk, path)
            assert str(header) in message
            found += 1
    assert found == 28


def test_a_zeroed_header_is_not_the_end(tmp_path):
    path = write(tmp_path / "a.tar", ["a.cls", "a.png", "b.cls", "b.png"])
    whole = path.read_bytes()
    with mapped(path) as data:
        header = list(members(data, path))[2].offset - 512
    path.write_bytes(whole[:header] + bytes(512) + whole[header + 512 :])
    refused(rf"a\.tar: data after the end-of-archive mark at byte {header}", walk, path)


def test_every_cut_is_found(tmp_path):
    path = write(tmp_path / "a.tar", ["a.cls", "a.png", "b.cls", "b.png"])
    whole = path.read_bytes()
    with mapped(path) as data:
        last = list(members(data, path))[-1]
    end = -(-(last.offset + last.size) // 512) * 512
    assert end - (last.offset + last.size) > 2  # there is padding to cut
    for length in [1, 511, 512, 600, 1025, 1535, last.offset, last.offset + 1, last.offset + last.size - 1]:
        path.write_bytes(whole[:length])
        refused(r"a\.tar: (damaged or )?truncated|a\.tar: damaged", walk, path)
    path.write_bytes(whole[: end + 512])  # one block of zeros is a mark
    assert len(walk(path)) == 4


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_missing_end_mark_behind_a_whole_member_is_noted(tmp_path, form):
    for names in (["a.cls", "a.png"], ["a.cls", f"{LONG}.png"]):
        path = write(tmp_path / "a.tar", names, form=form)
        whole = path.read_bytes()
        with mapped(path) as data:
            first, last = members(data, path)
        stop = last.offset + last.size
        end = -(-stop // 512) * 512
        for length in (stop, stop + 1, end - 1, end, end + 1, end + 511):
            path.write_bytes(whole[:length])
            remarks = Remarks()
            with mapped(path) as data:
                assert list(members(data, path, remarks=remarks)) == [first, last]
            assert remarks.unended == end
        path.write_bytes(whole[: end + 512])
        remarks = Remarks()
        with mapped(path) as data:
            assert len(list(members(data, path, remarks=remarks))) == 2
        assert remarks.unended is None


def test_what_is_passed_over_is_counted(tmp_path):
    path = write(tmp_path / "a.tar", ["__meta__/index.json", "data/.hidden", "README", "x.png", "x.cls", "LICENSE"])
    remarks = Remarks()
    with mapped(path) as data:
        assert [sample.key for sample in samples(data, path, remarks)] == ["x"]
    text = "4 members that belong to no sample: '__meta__/index.json', 'data/.hidden', 'README', …"
    assert remarks.passed.lines == [text]


def test_two_tars_in_a_row_are_refused(tmp_path):
    path = write(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes() * 2)
    refused("data after the end-of-archive mark", walk, path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_text("no tar at all " * 100)
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.cls"))
    for name, text in (("empty", "is empty"), ("text", "damaged"), ("zipped", "is compressed.*: decompress it")):
        refused(rf"{name}\.tar: .*{text}", walk, tmp_path / f"{name}.tar")
    refused(r"none\.tar: no such shard", walk, tmp_path / "none.tar", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["a.cls", "a.png", "b.cls", "b.png", "a.json"],
            "members of key 'a' are not adjacent, other keys stand between 'a.cls' and 'a.json': unpack it",
        ),
        (["a.cls", "a.png", "b.cls", "a.png"], r"key 'a' comes twice, with a member \.png each: rename or remove"),
        (["a.cls", "a.png", "a.PNG"], r"key 'a' has two members \.png"),
    ],
)
def test_duplicates_are_named(tmp_path, names, text):
    refused(rf"a\.tar: {text}", lambda: group(write(tmp_path / "a.tar", names)))


ANY_NAME = st.one_of(st.text("ab1./_-~ ", min_size=1, max_size=NAME + 20), st.text("aü雪./", min_size=1, max_size=40))


def by_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.PAX_FORMAT)


@given(ANY_NAME, st.one_of(st.integers(0, 10**6), st.integers(8**11 - 2, 8**11 + 2)))
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


@given(st.lists(st.tuples(ANY_NAME, st.integers(0, 2000)), min_size=1, max_size=6))
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
