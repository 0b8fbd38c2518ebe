"""Errors of the system: who is at fault, and what helps."""

import errno
import os
import pickle
import resource

import pytest

from drawstream.samplers.files.system import SystemFault, fault_behind, fault_of, raise_unless_file, system_fault


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


def test_the_limit_and_the_remedy_are_named():
    told = system_fault(OSError(errno.EMFILE, "x"), "/data/a.tar")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert isinstance(told, SystemFault) and told.filename == "/data/a.tar"
    assert f"Too many open files: this process may open {soft}: raise the limit (`ulimit -n " in told.strerror


def test_a_failed_read_names_the_byte():
    told = system_fault(OSError(errno.EIO, "x", "a.tar"), at=4096)
    assert (told.errno, told.filename) == (errno.EIO, "a.tar")
    assert told.strerror.startswith("Input/output error at byte 4096, also when read again: ")


def test_permissions_keep_their_kind():
    assert isinstance(system_fault(OSError(errno.EACCES, "x"), "a"), PermissionError)


def test_it_crosses_processes():
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
        with pytest.raises(SystemFault, match="Input/output error"):
            raise_unless_file(error, "a.parquet")


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
