"""A search killed with SIGKILL, three times, ends as if it had never been killed."""

import json
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, signal, sys
import numpy as np
from drawstream import Proposals, Study, search_swift

storage, agent, journal, kill_at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
rng = np.random.default_rng(0)
loss = rng.exponential(size=300).astype(np.float32)
columns = {"loss": loss, "entropy": rng.random(300, np.float32), "grad_norm": loss}

def objective(p, trial):
    with open(journal, "a") as file:
        file.write(f"{trial.stage} {trial.seed}\\n")
    if sum(1 for _ in open(journal)) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(p[loss < 0.9].sum()) + 0.02 * np.random.default_rng(trial.seed).standard_normal()

result = search_swift(columns, objective, proposals=Proposals(7, agent), study=Study(storage or None))
print(json.dumps({
    "params": [r.params.values for r in result.trials if r.state == "complete"],
    "values": [r.value for r in result.trials if r.state == "complete"],
    "failed": [[r.number, r.note] for r in result.trials if r.state == "failed"],
    "confirmation": [[r.seed, r.value] for r in result.confirmation],
    "winner": result.sampler.params.values,
}))
"""


def life(tmp_path, storage, agent, journal, kill_at):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-W", "error::UserWarning", str(program), storage, agent, str(journal), str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("agent", ["random", pytest.param("gp", marks=pytest.mark.slow)])
def test_killed_and_started_again(tmp_path, agent):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    journal = tmp_path / "journal"
    for kill_at in (2, 7, 12):  # at a designed start, at a proposal, in the confirmation
        killed = life(tmp_path, storage, agent, journal, kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = life(tmp_path, storage, agent, journal, 0)
    assert last.returncode == 0, last.stderr
    assert last.stderr == ""
    resumed = json.loads(last.stdout)
    whole = life(tmp_path, "", agent, tmp_path / "journal of the whole", 0)
    expected = json.loads(whole.stdout)
    assert [number for number, _ in resumed["failed"]] == [1, 5]
    assert all(note == "the process was killed while this trial ran" for _, note in resumed["failed"])
    for key in ("params", "values", "confirmation", "winner"):
        assert resumed[key] == expected[key]
    runs = len((tmp_path / "journal of the whole").read_text().splitlines())
    assert len(journal.read_text().splitlines()) == runs + 3  # each kill cost one run and no more
