"""What stops a command ends it with one line and the right status."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from drawstream.tools.cli import __main__ as program
from drawstream.tools.cli import app as cli
from drawstream.tools.cli.app import main
from drawstream.tools.cli.signals import report_stop, system_error_line
from drawstream.tools.runs import files_below, load_hooks
from shared.refusals import refused


@pytest.fixture
def python_hears_signals():
    """Ray, started by an earlier test, hears SIGTERM itself; a command's process begins without."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stop(number):
    def command(*_, **__):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not heard")

    return command


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("error", [None, ImportError("failed"), RuntimeError("Error calling __set_name__")])
def test_a_signal_is_heard_also_where_an_error_is_made_of_it_and_forgotten(
    monkeypatch, capsys, python_hears_signals, number, status, word, error
):
    def command(*_, **__):
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal was not heard")
        except (SystemExit, KeyboardInterrupt):
            if error is None:
                raise
            raise error from None

    monkeypatch.setattr(cli, "app", command)
    assert cli.main(["train"]) == status
    assert capsys.readouterr().err == f"drawstream: {word}; start the same command again to go on\n"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


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


@pytest.fixture
def raising(monkeypatch):
    """Make the command line raise an error."""

    def act(error):
        def command(*_, **__):
            raise error

        monkeypatch.setattr(cli, "app", command)

    return act


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a b"), "a b: No space left on device: free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), "output or temporary file: No space left on device: free"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: Read-only file system: name a place that you may"),
        (PermissionError(errno.EACCES, "Permission denied", b"x"), "x: Permission denied: name a place"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), "x: Too many levels of symbolic links"),
        (FileNotFoundError("x: no such file: make it"), "x: no such file: make it"),
        (MemoryError(), "Cannot allocate memory: free memory"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EIO, "Input/output error", "a.tar"), "a.tar: Input/output error: the device"),
        (OSError(errno.ESTALE, "Stale file handle", "a.tar"), "a.tar: Stale file handle: the network file system"),
        (RuntimeError("cannot cache function 'f': no locator available for file 'x'"), "let NUMBA_CACHE_DIR name one"),
    ],
)
def test_errors_of_the_system_are_one_line(raising, capsys, error, line):
    raising(error)
    assert cli.main(["train"]) == 2
    found = capsys.readouterr().err
    assert found.startswith("drawstream: ") and line in found and found.count("\n") == 1


def test_an_error_that_says_neither_where_nor_what_is_a_fault_of_ours(raising):
    assert system_error_line(OSError(errno.EBADF, "Bad file descriptor")) is None

    raising(OSError(errno.EBADF, "Bad file descriptor"))
    refused("Bad file descriptor", cli.main, ["train"], error=OSError)


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
            if name == "drawstream.tools.cli.app":
                try:
                    os.kill(os.getpid(), number)
                except (KeyboardInterrupt, SystemExit):
                    if error is None:
                        raise
                    raise error from None

    monkeypatch.delitem(sys.modules, "drawstream.tools.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert program.main() == status
    assert signal.signal(signal.SIGINT, signal.default_int_handler) == signal.SIG_DFL  # nothing is left to interrupt
    assert capsys.readouterr().err == f"drawstream: {word}; start the same command again to go on\n"


def in_shell(command, tmp_path, **environment):
    """Run a shell's line with this Python's `drawstream` as $D."""
    program = f"{shlex.quote(sys.executable)} -m drawstream.tools.cli"
    environment = {**os.environ, **environment}
    line = f"D={shlex.quote(program)}; {command}"
    return subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120
    )


def test_a_page_that_was_ended_is_not_started_again_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["drawstream", "serve", "runs"])
    assert report_stop(143) == 143 and capsys.readouterr().err == "drawstream: terminated\n"


def test_a_wrong_setting_of_the_compiler_is_one_line(tmp_path):
    done = in_shell("$D stream show --rows 10", tmp_path, NUMBA_OPT="x")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "'NUMBA_OPT'" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_replaced(closed, tmp_path):
    code = "import os; from drawstream.tools.cli.signals import open_standard_streams as f; f(); "
    code += (
        "print('out'); os.write(2, b'x'); g = open('data', 'wb'); print(g.fileno() > 2, file=g.raw and open('n', 'w'))"
    )
    done = in_shell(f'{sys.executable} -c "{code}" {closed}', tmp_path)
    assert (done.returncode, (tmp_path / "n").read_text()) == (0, "True\n")
    assert (tmp_path / "data").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_commands_work_with_closed_streams(closed, digits, tmp_path):
    done = in_shell(f"$D train {digits.train} -o run --model mlp --epochs 1 {closed}", tmp_path)
    assert done.returncode == 0 and (tmp_path / "run/run.json").is_file()
    assert in_shell(f"$D train nowhere -o other {closed}", tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("command", "environment", "text"),
    [
        ("stream show --rows 10", {"NUMBA_DISABLE_JIT": "1"}, "unset NUMBA_DISABLE_JIT"),
        pytest.param(
            "train DATA -o run --model mlp", {"PYTHONOPTIMIZE": "2"}, "DALI needs docstrings", marks=pytest.mark.slow
        ),
    ],
)
def test_environments_that_cannot_work_are_one_line(command, environment, text, digits, tmp_path):
    done = in_shell(f"$D {command.replace('DATA', str(digits.train))}", tmp_path, **environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and text in done.stderr


def test_a_narrow_encoding_loses_no_summary(tmp_path):
    code = "from drawstream.tools.cli.signals import open_standard_streams as f; f(); print('a → b')"
    done = in_shell(f'{sys.executable} -c "{code}"', tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "a \\u2192 b\n")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["timm", "lightning", "accelerate"])
def test_an_example_without_its_package_is_one_line(package, tmp_path):
    code = f"import sys, runpy; sys.modules['{package}'] = None; sys.argv = ['x', '--help']; "
    code += f"runpy.run_module('drawstream.tools.examples.{package}_loop', run_name='__main__')"
    done = in_shell(f'{sys.executable} -c "{code}"', tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"this example needs {package} (") and f"pip install {package}" in done.stderr


def test_a_path_that_is_not_utf8_is_named(digits, tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"d\xe4ta")
    shutil.copytree(digits.train, folder)
    assert main(["verify", str(folder)]) == 2
    assert "a path must be UTF-8 for Arrow, but this one is not: rename it" in capsys.readouterr().err
