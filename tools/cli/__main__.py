"""The program `drawstream`: Ctrl-C and SIGTERM are heard while the command line is still being imported."""

import signal
import sys
import warnings
from typing import Any

from drawstream.tools.cli.signals import INTERRUPTED, open_standard_streams, report_stop, signals_as_exceptions


def main() -> int:
    """Run the command line; returns its exit status."""
    open_standard_streams()
    warnings.formatwarning = _in_one_line
    status = _run()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the work is done: no traceback of the interpreter that is ending
    return status


def _in_one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """Return a library's warning in one line, without its source line or the traceback that Numba adds."""
    return f"drawstream: warning: {(str(message).splitlines() or [''])[0]}\n"


def _run() -> int:
    try:
        with signals_as_exceptions():
            from drawstream.tools.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        return report_stop(INTERRUPTED)
    except SystemExit as ended:
        return report_stop(ended.code) if isinstance(ended.code, int) else 1


if __name__ == "__main__":
    sys.exit(main())
