"""The strict walk over tars: it finds what tarfile finds, and never stops early without a word."""

import io
import tarfile

import pytest

from drawstream.pipeline.shards.tar import Remarks, mapped, members, samples

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
            with pytest.raises(
                ValueError, match=r"a\.tar: damaged (header at|or truncated tar after) byte \d+"
            ) as caught:
                walk(path)
            assert str(header) in str(caught.value)
            found += 1
    assert found == 28


def test_a_zeroed_header_is_not_the_end(tmp_path):
    path = write(tmp_path / "a.tar", ["a.cls", "a.png", "b.cls", "b.png"])
    whole = path.read_bytes()
    with mapped(path) as data:
        header = list(members(data, path))[2].offset - 512
    path.write_bytes(whole[:header] + bytes(512) + whole[header + 512 :])
    with pytest.raises(ValueError, match=rf"a\.tar: data after the end-of-archive mark at byte {header}"):
        walk(path)


def test_every_cut_is_found(tmp_path):
    path = write(tmp_path / "a.tar", ["a.cls", "a.png", "b.cls", "b.png"])
    whole = path.read_bytes()
    with mapped(path) as data:
        last = list(members(data, path))[-1]
    end = -(-(last.offset + last.size) // 512) * 512
    assert end - (last.offset + last.size) > 2  # there is padding to cut
    for length in [1, 511, 512, 600, 1025, 1535, last.offset, last.offset + 1, last.offset + last.size - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.tar: (damaged or )?truncated|a\.tar: damaged"):
            walk(path)
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
    with pytest.raises(ValueError, match="data after the end-of-archive mark"):
        walk(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_text("no tar at all " * 100)
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.cls"))
    for name, text in (("empty", "is empty"), ("text", "damaged"), ("zipped", "is compressed.*: decompress it")):
        with pytest.raises(ValueError, match=rf"{name}\.tar: .*{text}"):
            walk(tmp_path / f"{name}.tar")
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such shard"):
        walk(tmp_path / "none.tar")


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
    with pytest.raises(ValueError, match=rf"a\.tar: {text}"):
        group(write(tmp_path / "a.tar", names))
