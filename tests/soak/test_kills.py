"""SIGKILL, SIGTERM and Ctrl-C at random moments: the next start ends as if nothing had happened.

`KILLS` (10) kills of each command; the seed is printed, and `KILL_SEED` repeats a run.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("KILL_SEED", str(time.time_ns() % 1_000_000)))
NAMES = ("pack", "index", "features", "train", "train, tracked", "search swift", "search auto", "report")


def processes_of(session):
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def none_left(session, patience=10):
    """No process of a session lives on."""
    deadline = time.monotonic() + patience
    while (left := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def whole_files(out, expected):
    """What stands under a final name is what the undisturbed run has there."""
    for name, content in out.items():
        base = Path(name).name
        under_way = base.startswith((".", "checkpoint.pt", "progress.json", "schedule.rows")) or "journal" in base
        if name in expected and not under_way and not name.endswith(".json"):
            assert content == expected[name], f"{name} is not whole"


def disturb(soak, undisturbed, name, out, number, how, chance, *, fresh=False):
    """Start the command, send a signal at a random moment, and say how it ended."""
    expected, seconds = undisturbed(name)
    running = soak.start(soak.commands(out)[name], fresh=fresh)
    time.sleep(chance.uniform(0.05, max(0.1, seconds)))
    group = how == "group"
    (running.kill_group if group else running.kill)(number)
    done = running.end()
    assert none_left(running.pid), "processes live on"
    if out.is_dir():
        whole_files(soak.result_of(out), expected)
    return done


@pytest.mark.parametrize("name", [*NAMES, "bench budget"])
def test_killed_and_started_again(soak, undisturbed, tmp_path, name):
    expected, _ = undisturbed(name)
    chance, out = random.Random(f"{SEED} {name}"), tmp_path / "out"
    fresh, ended, finished = name == "bench budget", Counter(), 0
    shared = set(Path("/dev/shm").iterdir())
    for _ in range(soak.kills):
        done = disturb(soak, undisturbed, name, out, signal.SIGKILL, "one", chance, fresh=fresh)
        ended[done.status] += 1
        refused = done.status == 2 and name in ("pack", "index") and out.exists()  # it had been finished before
        assert done.status in (0, -signal.SIGKILL) or refused, done.stderr
        if done.status == 0 or refused:
            finished += 1
            assert soak.result_of(out) == expected
            out = tmp_path / f"out{finished}"
    command = soak.commands(out)[name]
    last = soak.run(command, fresh=fresh)
    if last.status == 2 and name in ("pack", "index"):  # killed just after it had been finished
        assert "--overwrite" in last.told() or "exists already" in last.stderr or "not empty" in last.stderr
    else:
        last.fine()
    assert soak.result_of(out) == expected
    assert soak.leftovers(out) == []
    assert set(Path("/dev/shm").iterdir()) <= shared
    print(f"{name}: {soak.kills} kills, seed {SEED}, {dict(ended)}")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "group"])
@pytest.mark.parametrize("name", [*NAMES, "bench budget"])
def test_stopped_says_so_and_leaves_nothing(soak, undisturbed, tmp_path, name, how):
    """Ctrl-C reaches all processes of the terminal (group) or one; SIGTERM the process that is named."""
    expected, _ = undisturbed(name)
    number = signal.SIGTERM if how == "SIGTERM" else signal.SIGINT
    chance, out = random.Random(f"{SEED} {name} {how}"), tmp_path / "out"
    ended, fresh = Counter(), name == "bench budget"
    shared = set(Path("/dev/shm").iterdir())
    for _ in range(max(1, soak.kills // 4)):
        done = disturb(soak, undisturbed, name, out, number, how, chance, fresh=fresh)
        ended[done.status] += 1
        early = done.status == -number and not done.stdout  # before the command line was there
        refused = done.status == 2 and name in ("pack", "index")
        late = done.status == -number and not early and soak.result_of(out) == expected  # the interpreter was ending
        if late:
            assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
        if done.status == 0 or refused or late:  # it had been finished before
            break
        if not early:
            done.told("terminated" if number == signal.SIGTERM else "interrupted", status=128 + number)
        left = [each for each in soak.leftovers(out) if not each.endswith(".lock")]  # nobody's: the next run takes it
        assert left == []
    if done.status not in (0, 2):
        soak.run(soak.commands(out)[name], fresh=fresh).fine()
    assert soak.result_of(out) == expected
    assert soak.leftovers(out) == []
    assert set(Path("/dev/shm").iterdir()) <= shared
    print(f"{name}: {how}, seed {SEED}, {dict(ended)}")
