"""Programs in processes of their own, on one thread each: started, waited for, killed."""

import os
import signal
import socket
import subprocess
import sys
import time


def start(*words, env=None, **options):
    """Start Python with these arguments; its output is text in pipes."""
    command = [sys.executable, *map(str, words)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, **options)


def finish(process, *, status=0, timeout=300):
    """Wait for the end: what the process printed on both streams."""
    with process:
        out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, err
    return out, err


def run(*words, status=0, timeout=300, **options):
    """Run Python with these arguments to its end: what it printed on both streams."""
    return finish(start(*words, **options), status=status, timeout=timeout)


def torchrun(processes, *words):
    """Arguments of Python that start so many ranks of a program."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]


def kill(process, number=signal.SIGKILL):
    """Send a signal and wait for the end."""
    process.send_signal(number)
    with process:
        return process.communicate(timeout=60)


def wait_until(holds, seconds=60):
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def free_port():
    """A port of this machine that nothing listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
