"""Checkpoints are whole, or the error is clear; so is that of a study whose database fails."""

import errno
import resource

import pytest
import torch
from sqlalchemy.exc import OperationalError

from drawstream.search.swift.study import StorageError, open_study
from drawstream.search.tensor_file import load_tensors, save_tensors

CONTENT = {"a": torch.arange(4000.0), "b": [1, "x"]}


def test_values_come_back(tmp_path):
    save_tensors(tmp_path / "c.pt", CONTENT)
    found = load_tensors(tmp_path / "c.pt")
    assert torch.equal(found["a"], CONTENT["a"]) and found["b"] == [1, "x"]


def test_a_full_disk_is_an_error_of_the_system_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "c.pt"
    save_tensors(path, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_tensors(path, CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert load_tensors(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_of_a_tensor_and_code_are_refused(tmp_path):
    path = tmp_path / "c.pt"
    save_tensors(path, CONTENT)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"c\.pt: not a readable checkpoint"):
        load_tensors(path)
    torch.save({"a": test_values_come_back}, path)
    with pytest.raises(ValueError, match=r"c\.pt: not a readable checkpoint"):
        load_tensors(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="no table of values"):
        load_tensors(path)


def fail(text):
    raise OperationalError("UPDATE", {}, Exception(text))


def test_a_failing_database_is_one_line(tmp_path):
    storage = f"sqlite:///{tmp_path / 's.db'}"
    with (
        pytest.raises(StorageError, match=r"s\.db' cannot be read or written: .*: is it whole"),
        open_study(storage, "s", {}),
    ):
        fail("disk I/O error")
    with pytest.raises(OSError, match="No space left") as caught, open_study(storage, "s", {}):
        fail("database or disk is full")
    assert caught.value.filename == str(tmp_path / "s.db")
    with pytest.raises(KeyError), open_study(storage, "s", {}):
        raise KeyError("ours")
