"""One command in a process of its own, measured: seconds, CPU, memory of its whole tree, how long it was silent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

LOOK = 0.05  # seconds between two looks at the memory, at least
LOOK_SHARE = 20  # a look that takes t is followed by a pause of so many t: at most a twentieth of a core
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured resources and output of a command.

    Attributes:
        code: Exit status; negative: the signal that ended it.
        seconds: Wall clock.
        cpu: Seconds of all cores, user and system, of the command and of the processes that it waited for.
        held: Most bytes that its process tree held at a time without files it maps (PSS, anonymous and shared memory).
        peak: The same with mapped files: what `top` shows, each shared page counted once.
        largest: Most bytes of one process of it at a time, mapped files included, by the kernel's own mark (VmHWM).
        silent: Longest time without a line of output, seconds.
        lines: What it said.
    """

    code: int
    seconds: float
    cpu: float
    held: int
    peak: int
    largest: int
    silent: float
    lines: list[str]


def measure(command: Sequence[str], /, *, cwd: Path, environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end, and pass on what it says to stderr.

    Memory is looked at some times a second, so a peak of the tree that is shorter is missed, but none of a process.
    Without /proc (other systems than Linux) all three are ru_maxrss, which is never below that of this process.
    """
    begin = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 (the rehearsal's own commands)
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    heard = _Heard(process, begin)
    held = peak = largest = 0
    try:
        while True:
            look = time.monotonic()
            now = tree_memory(process.pid)
            held, peak, largest = (max(pair) for pair in zip((held, peak, largest), now, strict=True))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(max(LOOK, LOOK_SHARE * (time.monotonic() - look)))
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: no child of it is left behind
        process.wait()
        raise
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here: Popen must not do so again
    heard.join()
    most = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    memory = (held or most, max(peak, largest) or most, largest or most)
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(process.returncode, seconds, cpu, *memory, heard.silent(begin + seconds), heard.lines)


class _Heard(Thread):
    """Passes on the lines of a process and notes the pauses between them."""

    def __init__(self, process: "subprocess.Popen[str]", begin: float) -> None:
        super().__init__(daemon=True)
        self._process, self._last, self._longest = process, begin, 0.0
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        """Until the process closes its output."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                now = time.monotonic()
                self._longest, self._last = max(self._longest, now - self._last), now
                self.lines.append(line.rstrip("\n"))
                print(f"  {self.lines[-1]}", file=sys.stderr, flush=True)

    def silent(self, end: float) -> float:
        """The longest pause, that before the end included."""
        return max(self._longest, end - self._last)


def tree_memory(root: int, /) -> tuple[int, int, int]:
    """Bytes held by a process and all below it, without mapped files and with them; then the most that one ever held.

    What is unknown is 0.
    """
    held = peak = largest = 0
    for pid in tree(root):
        try:
            text = "".join((PROC / str(pid) / name).read_text() for name in ("smaps_rollup", "status"))
        except OSError:  # it has ended, or /proc has no such file
            continue
        kilobytes = {line[: line.find(":")]: int(line.split()[1]) for line in text.splitlines() if line.endswith(" kB")}
        held += 1024 * (kilobytes.get("Pss_Anon", 0) + kilobytes.get("Pss_Shmem", 0))
        peak += 1024 * kilobytes.get("Pss", 0)
        largest = max(largest, 1024 * kilobytes.get("VmHWM", 0))
    return held, peak, largest


def tree(root: int, /) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:  # grows while it is gone through
        try:
            children = [task / "children" for task in (PROC / str(pid) / "task").iterdir()]
            found += [int(child) for file in children for child in file.read_text().split()]
        except OSError:
            continue
    return found


def bytes_below(path: Path, /) -> int:
    """Bytes of a file, or of all files below a folder; 0 where nothing is."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
