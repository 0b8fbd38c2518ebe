"""What stops a command ends it with one line and the right status."""

import errno
import os
import signal
import sys
import time

import pytest

from drawstream.tools import cli, start
from drawstream.tools.ending import of_system
from drawstream.tools.hooks import load_hooks
from drawstream.tools.runs import files_below


@pytest.fixture
def python_hears_signals():
    """Ray, started by an earlier test, hears SIGTERM itself; a command's process begins without."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stop(number):
    def command(*_, **__):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not heard")

    return command


def test_sigterm_is_heard_and_forgotten(monkeypatch, capsys, python_hears_signals):
    monkeypatch.setattr(cli, "app", stop(signal.SIGTERM))
    assert cli.main(["train"]) == 143
    assert capsys.readouterr().err == "drawstream: terminated; start the same command again to go on\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("error", [ImportError("initialization failed"), RuntimeError("Error calling __set_name__")])
def test_a_signal_is_heard_where_an_error_is_made_of_it(
    monkeypatch, capsys, python_hears_signals, number, status, word, error
):
    def command(*_, **__):
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal was not heard")
        except (SystemExit, KeyboardInterrupt):
            raise error from None

    monkeypatch.setattr(cli, "app", command)
    assert cli.main(["train"]) == status
    assert capsys.readouterr().err == f"drawstream: {word}; start the same command again to go on\n"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


COMPILING = """
def compiling(interrupt):
    global locked
    locked = True
    interrupt()
    locked = False
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["finalizer", "compiler"])
def test_a_signal_waits_for_what_must_be_finished(monkeypatch, capsys, python_hears_signals, number, place):
    """An exception in a finalizer is lost; one in Numba's compiler leaves a lock taken that all threads need."""
    finished, module = [], {"__name__": "numba.core.lock", "locked": None}
    exec(COMPILING, module)

    def interrupt():
        os.kill(os.getpid(), number)
        for _ in range(1000):
            pass

    class Finalized:
        def __del__(self):
            interrupt()
            finished.append(True)

    def command(*_, **__):
        if place == "finalizer":
            Finalized()
        else:
            module["compiling"](interrupt)
            finished.append(not module["locked"])
        time.sleep(60)
        finished.append("the signal was not heard")

    monkeypatch.setattr(cli, "app", command)
    assert cli.main(["train"]) == (130 if number == signal.SIGINT else 143)
    assert finished == [True]
    assert "Exception ignored" not in capsys.readouterr().err


def test_a_signal_that_waits_is_forgotten_where_the_command_ends(monkeypatch, capsys, python_hears_signals):
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli, "app", lambda *_, **__: Finalized() and None)
    assert cli.main(["train"]) == 0
    time.sleep(0.1)  # twice the time after which it would be heard again
    assert capsys.readouterr().err == ""


def test_ctrl_c_in_a_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("drawstream.tools.report.build.write_report", stop(signal.SIGINT))
    assert cli.main(["report", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "drawstream: interrupted; start the same command again to go on\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a b"), "a b: No space left on device: free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), "temporary file: No space left on device: free"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: Read-only file system: name a place that you may"),
        (PermissionError(errno.EACCES, "Permission denied", b"x"), "x: Permission denied: name a place"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), "x: Too many levels of symbolic links"),
        (FileNotFoundError("x: no such file: make it"), "x: no such file: make it"),
    ],
)
def test_errors_of_the_system_are_one_line(monkeypatch, capsys, error, line):
    def command(*_, **__):
        raise error

    monkeypatch.setattr(cli, "app", command)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.startswith(f"drawstream: {line}")


def test_an_error_that_says_neither_where_nor_what_is_a_fault_of_ours(monkeypatch):
    assert of_system(OSError(errno.EBADF, "Bad file descriptor")) is None

    def command(*_, **__):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main(["train"])


def test_a_folder_that_cannot_be_read_is_not_left_out(monkeypatch, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    assert files_below(tmp_path, "run.json") == [tmp_path / "a/run.json", tmp_path / "b/run.json"]
    scan = os.scandir

    def closed(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError):
        files_below(tmp_path, "run.json")


def test_a_hook_that_raises_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"--hook json:JSONDecoder: TypeError: .*: it is called with the folder"):
        load_hooks(tmp_path, ["json:JSONDecoder"])


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("error", [None, ImportError("initialization failed")])
def test_a_signal_while_the_command_line_is_imported(
    monkeypatch, capsys, python_hears_signals, number, status, word, error
):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "drawstream.tools.cli":
                try:
                    os.kill(os.getpid(), number)
                except (KeyboardInterrupt, SystemExit):
                    if error is None:
                        raise
                    raise error from None

    monkeypatch.delitem(sys.modules, "drawstream.tools.cli")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert start.main() == status
    assert signal.signal(signal.SIGINT, signal.default_int_handler) == signal.SIG_DFL  # nothing is left to interrupt
    assert capsys.readouterr().err == f"drawstream: {word}; start the same command again to go on\n"
