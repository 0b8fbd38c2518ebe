"""Files are whole or not there; what killed writers left is cleared, and errors name the file."""

import errno
import os
import socket

import pytest

from drawstream.samplers.files.atomic import remove_abandoned, temporary_name, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_name_comes_last(tmp_path):
    with write_atomically(tmp_path / "deep/a") as temporary:
        temporary.write_text("whole")
        assert names(tmp_path / "deep") == [temporary.name]
    assert (tmp_path / "deep/a").read_text() == "whole" and names(tmp_path / "deep") == ["a"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("name", [None, "temporary"])
def test_a_full_disk_names_the_file(tmp_path, name):
    path = tmp_path / "a"
    with pytest.raises(OSError, match="No space left") as caught, write_atomically(path) as temporary:
        raise OSError(errno.ENOSPC, "x", *([str(temporary)] if name else []))
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC


def test_errors_of_other_files_and_of_libraries_stay(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, write_atomically(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()
    assert caught.value.filename == str(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="of Arrow"), write_atomically(tmp_path / "a"):
        raise OSError("of Arrow")


def test_what_killed_writers_left_is_cleared_by_the_next(tmp_path):
    path = tmp_path / "a[1]"
    mine = temporary_name(path).name
    dead, other = mine.replace(str(os.getpid()), "4194999", 1), mine.rpartition("-")[0] + "-otherhost"
    alike = dead.replace("a[1]", "b")
    for each in (dead, other, alike):
        (tmp_path / each).write_text("half")
    with write_atomically(path) as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == sorted([other, alike, "a[1]"])
    remove_abandoned(tmp_path, "*")
    assert names(tmp_path) == sorted([other, "a[1]"])


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    target = tmp_path / "target"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("target")
    else:
        os.mkfifo(tmp_path / "pipe")
        target.symlink_to("pipe") if kind.startswith("link") else (tmp_path / "pipe").rename(target)
    before = target.lstat()
    with pytest.raises(ValueError, match="which is not replaced: name a file"), write_atomically(target) as temporary:
        temporary.write_text("x")
    assert target.lstat() == before and not target.is_file()
    assert not list(tmp_path.glob(".target*"))
