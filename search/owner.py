"""Who runs a trial: machine, process and the process' start; and which trials lost theirs."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState


def owner() -> list[Any]:
    """This process, as JSON: machine, number, and when it started."""
    return [_machine(), os.getpid(), _process_start(os.getpid())]


def fail_orphans(study: optuna.Study, /) -> None:
    """Mark trials whose process is gone as failed; those of other machines and of living processes go on."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        machine, process, start = trial.user_attrs["owner"]
        if machine == _machine() and _process_start(process) != start:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _machine() -> str:
    """Host name and, on Linux, the boot: process numbers mean nothing after a restart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname() + (":" + boot.read_text().strip() if boot.exists() else "")


def _process_start(process: int) -> str | None:
    """When a process started, in the kernel's ticks; "alive" where there is no /proc; None if it is gone."""
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat")
        if not status.exists():
            return "alive"
        fields = status.read_text().rpartition(")")[2].split()
    except (ProcessLookupError, FileNotFoundError):
        return None
    except PermissionError:
        return "alive"  # another user's process
    return None if fields[0] == "Z" else fields[19]
