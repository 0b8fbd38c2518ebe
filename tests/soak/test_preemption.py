"""Signals at random moments of `train` on one, two and four ranks: the weights are those of the undisturbed run.

`KILLS` (10) signals for each number of ranks; the seed is printed, and `KILL_SEED` repeats a run.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from shared.preempted import differing
from shared.processes import finish, run, start, torchrun
from shared.samples import pack_digits

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("KILL_SEED", str(time.time_ns() % 1_000_000)))
KILLS = int(os.environ.get("KILLS", "10"))
METHODS = {"p": ["--budget", 0.6], "sb": ["--budget", 0.5], "unif": []}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits") / "data", 221, holdout=40)


def children(pid):
    """Processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in found.read_text().split()] if found.exists() else []


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_signals_at_random_moments_change_nothing(few, tmp_path, ranks):
    """SIGKILL for all processes or for one rank, and SIGTERM for the first one, which torchrun passes on."""
    chance, ended, name = random.Random(f"{SEED} {ranks}"), Counter(), ""

    def command(out):
        words = ["train", few.train, "-o", out, "--held-out", few.holdout, "--model", "mlp", "--epochs", 30]
        words += ["--global-batch", 24, "--sampler", name, *METHODS[name], "--ema", 0.9, "--save-every", 3]
        words = ["-m", "drawstream.tools.cli", *words, "--track", f"{out}-tracked", "--backend", "pillow"]
        return torchrun(ranks, *words) if ranks > 1 else words

    whole = {}
    for number in range(KILLS):
        name = list(METHODS)[number % len(METHODS)]
        out = tmp_path / name
        if name not in whole:
            began = time.monotonic()
            run(*command(tmp_path / f"{name}-whole"))
            whole[name] = load_file(tmp_path / f"{name}-whole" / "last.safetensors"), time.monotonic() - began
        running = start(*command(out))
        time.sleep(chance.uniform(0.3, 1) * whole[name][1])
        how = chance.choice(["all", "rank", "term"])
        if running.poll() is None:
            if how == "all":
                for each in [*children(running.pid), running.pid]:  # ranks have sessions of their own
                    os.kill(each, signal.SIGKILL)
            elif how == "rank" and (alive := children(running.pid)):
                os.kill(chance.choice(alive), signal.SIGKILL)
            else:
                running.send_signal(signal.SIGTERM)
        with running:
            running.communicate(timeout=120)
        ended[how, running.returncode] += 1
        if (out / "run.json").exists():  # it had been finished before
            assert differing(whole[name][0], load_file(out / "last.safetensors")) == []
            out.rename(tmp_path / f"{name}-{number}")
    for name in whole:
        finish(start(*command(tmp_path / name)))
        assert differing(whole[name][0], load_file(tmp_path / name / "last.safetensors")) == [], name
    print(f"{ranks} ranks: {KILLS} signals, seed {SEED}, {dict(ended)}")
