"""Files are whole or not there, foreign JSON and TOML is refused in one line, errors of the system say whose."""

import errno
import json
import os
import pickle
import re
import resource
import socket
from pathlib import Path

import numpy as np
import pytest

from drawstream.samplers.files.atomic import remove_abandoned, temporary_name, write_atomically
from drawstream.samplers.files.documents import DEPTH, parse_json, read_json, read_regular, read_toml
from drawstream.samplers.files.system import SystemFault, fault_behind, fault_of, raise_unless_file, system_fault
from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler
from shared.refusals import refused


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


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.EMFILE, "process"), (errno.ENFILE, "process"), (errno.ENOMEM, "process"), (errno.EAGAIN, "process"),
        (errno.EIO, "device"), (errno.ENODEV, "device"),
        (errno.ESTALE, "network"), (errno.ETIMEDOUT, "network"), (errno.ENOTCONN, "network"),
        (errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EACCES, "access"), (errno.EROFS, "access"),
        (errno.ENOENT, "file"), (errno.EISDIR, "file"), (None, "file"), (errno.EADDRINUSE, "other"),
    ],
)  # fmt: skip
def test_who_is_at_fault(number, fault):
    error = OSError("of Arrow") if number is None else OSError(number, "text")
    assert fault_of(error) == fault


def test_the_place_the_limit_and_the_remedy_are_named_in_every_process():
    told = system_fault(OSError(errno.EMFILE, "x"), "/data/a.tar")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert isinstance(told, SystemFault) and told.filename == "/data/a.tar"
    assert f"Too many open files: this process may open {soft}: raise the limit (`ulimit -n " in told.strerror
    told = system_fault(OSError(errno.EIO, "x", "a.tar"), at=4096)
    assert (told.errno, told.filename) == (errno.EIO, "a.tar")
    assert told.strerror.startswith("Input/output error at byte 4096, also when read again: ")
    assert isinstance(system_fault(OSError(errno.EACCES, "x"), "a"), PermissionError)
    told = pickle.loads(pickle.dumps(system_fault(OSError(errno.ESTALE, "x"), "a.tar")))
    assert isinstance(told, SystemFault) and told.filename == "a.tar" and "mount it again" in told.strerror


def test_errors_behind_others_count():
    try:
        try:
            os.close(os.open("/proc/self/mem", os.O_RDONLY))
            raise OSError(errno.EIO, "x")
        except OSError as error:
            raise ValueError("damaged") from error
    except ValueError as error:
        refused("Input/output error", raise_unless_file, error, "a.parquet", error=SystemFault)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "Cannot allocate memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "Cannot allocate"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_limits_without_a_number(error, text):
    assert text in fault_behind(error).strerror


def test_a_file_s_own_fault_is_left_to_its_reader():
    for error in (FileNotFoundError(2, "x", "a"), OSError("Parquet magic bytes not found"), ValueError("x")):
        raise_unless_file(error, "a")


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (nested(DEPTH + 1), f"lists and objects may lie {DEPTH} levels deep"),
        (nested(1500), f"lists and objects may lie {DEPTH} levels deep"),
        ('{"a":' * 300_000, f"lists and objects may lie {DEPTH} levels deep"),
        ("[1e400]", "numbers must be finite, but one is 1e400"),
        ("[-Infinity]", "numbers must be finite, but one is -Infinity"),
        ("[NaN]", "numbers must be finite, but one is NaN"),
        (f"[{'1' * 5000}]", "an integer may have 20 digits, but one has 5000"),
        (f"[-{'1' * 21}]", "an integer may have 20 digits, but one has 21"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' comes twice in one object"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (b"\xff\xfe\xff", "it is no UTF-8 text"),
        (b'{"a": "\xe9"}', "it is no UTF-8 text (byte 7)"),
    ],
)
def test_what_is_no_document_is_refused_in_one_line(tmp_path: Path, text: str | bytes, told: str):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    message = refused(re.escape(told), read_json, path, remedy="write it again")
    assert message.startswith(f"{path}: not readable as JSON: ") and message.endswith(": write it again")


def test_sound_documents_come_as_they_are():
    assert parse_json(nested(DEPTH).encode()) == eval(nested(DEPTH))
    assert parse_json(b'{"a": [1, -2.5, "]]]", 18446744073709551615], "b": {}}') == {
        "a": [1, -2.5, "]]]", 18446744073709551615],
        "b": {},
    }
    assert parse_json(('"' + "[" * 1000 + '"').encode()) == "[" * 1000  # brackets in a text are no levels
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):  # as editors of Windows write
        assert parse_json('{"ä": 1}'.encode(encoding)) == {"ä": 1}
    found = parse_json(b"[NaN, Infinity, 1e400]", finite=False)
    assert found[0] != found[0] and found[1:] == [float("inf"), float("inf")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a = {nested(1500)}", "levels deep"),
        (f"a = {nested(DEPTH + 1)}", "levels deep"),
        (".".join(["a"] * 1500) + " = 1", "levels deep"),
        (f"a = {'1' * 5000}", "an integer may have 20 digits"),
        ("a = ", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
        (b"a = '\xff'", "it is no UTF-8 text"),
    ],
)
def test_toml_likewise(tmp_path: Path, text: str | bytes, told: str):
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    message = refused(re.escape(told), read_toml, path, remedy="mend the file")
    assert message.startswith(f"{path}: ") and message.endswith(": mend the file")


def test_toml_with_a_mark_of_its_encoding_is_read(tmp_path: Path):
    (tmp_path / "x.toml").write_bytes("a = 'ä'".encode("utf-8-sig"))
    assert read_toml(tmp_path / "x.toml", remedy="") == {"a": "ä"}


def test_only_regular_files_are_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path, kind in (
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path / "socket", "a socket"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        refused(f"it must be a regular file, but is {kind}", read_regular, path)
    (tmp_path / "loop").symlink_to("loop")
    refused("symbolic links", read_regular, tmp_path / "loop", error=OSError)


def test_the_size_is_bounded(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text(" " * 10)
    refused("it may have 9 bytes, but has 10", read_regular, path, most=9)
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a hole: nothing of it is read
    refused("it may have 67108864 bytes, but has 2147483648", read_json, path, remedy="")


@pytest.mark.parametrize(
    "change",
    [
        {"features": 3},
        {"coefficients": ["a"]},
        {"coefficients": []},
        {"ends": None},
        {"values": [[1]]},
        {"tables": [3]},
        {"tables": [{"dtype": "float32", "knots": [1, 2], "counts": [10**19, 1]}]},
        {"tables": [{"dtype": "object", "knots": [1, 2], "counts": [1, 1]}]},
        {"tables": [{"dtype": "float32", "knots": [], "counts": []}]},
        {"balance": []},
        {"provenance": 3},
        {"transform": {}},
        {"version": 10**19},
    ],
)
def test_a_sampler_with_strange_values_is_refused_in_one_line(tmp_path: Path, change: dict):
    rng = np.random.default_rng(0)
    columns = {"loss": rng.random(20, np.float32), "entropy": rng.random(20, np.float32)}
    path = tmp_path / "sampler.json"
    SwiftFit(columns, mass=None, transform="cdf").sampler(SwiftParams.uniform()).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(re.escape(str(path)), SwiftSampler.load, path)
