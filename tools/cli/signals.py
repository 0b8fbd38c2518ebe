"""Ends of a command: one line and an exit status, never a traceback.

Ctrl-C gives 130 and SIGTERM 143, after open work was closed and cleared; a training that saved at SIGUSR1 or at its
time limit 75; bad input, no room and no permission give 2; a
reader that is gone gives 1.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from traceback import extract_tb
from types import FrameType
from typing import Any

import typer

from drawstream.samplers.files import fault_behind, fault_of, system_fault

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
RETRY = 0.05  # seconds after which a signal comes again that met code which must finish
COMPILER = ("numba.core.", "llvmlite.")


def open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams: the next file would get their number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115 (stays)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: no summary is lost to a narrow encoding


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM as exceptions in the block, so that temporary files, locks and workers go with it.

    Also where the interrupted code turned the exception into another error, as imports of extension modules do.
    """
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number, handler in usual.items() if main and signal.getsignal(number) == handler]
    received: list[int] = []
    timers: list[threading.Timer] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if not must_be_finished(frame):
            raise _exception(number)
        timer = threading.Timer(RETRY, signal.pthread_kill, (threading.main_thread().ident, number))
        timer.daemon = True
        timers.append(timer)
        timer.start()

    for number in taken:
        signal.signal(number, receive)
    try:
        yield
    except Exception as error:
        if not received:
            raise
        raise _exception(received[0]) from error
    finally:
        for timer in timers:
            timer.cancel()
        for number in taken:
            signal.signal(number, usual[number])


def must_be_finished(frame: FrameType | None) -> bool:
    """Return whether an exception would be lost here, in a finalizer, or leave the lock of Numba's compiler taken."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__", "").startswith(COMPILER):
            return True
        frame = frame.f_back
    return False


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED)


def report_stop(status: int, stand: str = "", /) -> int:
    """Print a line if a signal ended the command, or where it `stand`s if it saved; return the status."""
    if status in (INTERRUPTED, TERMINATED) or stand:
        how = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}.get(status, "stopped before its end")
        how += f": {stand}" if stand else ""
        again = "" if {"serve", "report"} & set(sys.argv[1:]) else "; start the same command again to go on"
        print(f"drawstream: {how}{again}", file=sys.stderr)
    return status


def user_exit_line(ended: SystemExit, /) -> str | None:
    """Return one line on the user's code that ended the process; None for SIGTERM or typer."""
    last = extract_tb(ended.__traceback__)[-1]
    if ended.code == TERMINATED or Path(last.filename).is_relative_to(Path(typer.__file__).parent):  # completion
        return None
    place = f"{last.filename}:{last.lineno}"
    return f"{place} ended the process (SystemExit {ended.code}): let it return, or raise an error"


def silence_output() -> None:
    """Redirect output to /dev/null after a broken pipe."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def system_error_line(error: BaseException, /) -> str | None:
    """Return one line on an error of the system that the user can mend; None if it says neither where nor what."""
    fault = fault_behind(error)
    if fault is None and isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        fault = system_fault(error)
    if fault is None:
        told = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
        return str(error) if isinstance(error, told) else None
    kind, where, text = fault_of(fault), fault.filename, fault.strerror
    if kind == "other" and where is None:
        return None
    if kind == "full":
        return f"{where or 'output or temporary file'}: {text}: free some space and start the same command again"
    if kind == "access":
        text = f"{text}: name a place that you may read and write" if where else str(error)
    return f"{where}: {text}" if where else text
