"""The rehearsal: every stage runs, is counted rightly, and is not run twice; laws say what was measured."""

import json
import os
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.tools.bench.rehearsal import bench as rehearsal
from drawstream.tools.bench.rehearsal import process as rehearsal_process
from drawstream.tools.bench.rehearsal.images import BLOCK, make_block, make_prototypes, write_images
from drawstream.tools.bench.rehearsal.laws import BILLION, IMAGENET, duration, extrapolate, fit
from drawstream.tools.bench.rehearsal.process import Measured, measure, tree_memory
from drawstream.tools.cli.app import main
from shared.programs import cli

WAY = [
    "images", "pack", "index", "verify", "train uniform", "features", "search", "train swift", "fit",
    "stream show", "stream count", "stream export", "report",
]  # fmt: skip
ROWS = 2000


class InProcess:
    """Stands for `measure`: the same commands, in this process; two hundred imports of torch would take minutes."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.commands = monkeypatch, []

    def __call__(self, command, *, cwd, environment):
        assert environment == {"PYTHONUNBUFFERED": "1"} and command[0] == sys.executable
        self.commands.append(command)
        self.monkeypatch.chdir(cwd)
        begin, code = time.perf_counter(), 0
        if command[2].endswith("rehearsal.images"):
            write_images(cwd / command[3], rows=int(command[4]), classes=int(command[5]), seed=int(command[6]))
        else:
            code = main(list(command[3:]))
        return Measured(code, time.perf_counter() - begin, 0.5, 10**8, 2 * 10**8, 10**8, 0.1, ["said"])


def test_a_small_rehearsal_has_every_stage_and_is_not_run_twice(tmp_path, monkeypatch, capsys):
    runner = InProcess(monkeypatch)
    monkeypatch.setattr(rehearsal, "measure", runner)
    folder, path = tmp_path / "r", tmp_path / "r.json"
    command = ["bench", "rehearsal", "--rows", str(ROWS), "--photos", "0", "-o", str(folder), "--json", str(path)]
    assert main(command) == 0
    result = json.loads(path.read_text())
    stages = result["stages"]
    assert [(each["part"], each["stage"]) for each in stages] == [(p, n) for p in ("eighth", "full") for n in WAY]
    assert len(runner.commands) == 2 * len(WAY)
    for part, rows, held in (("eighth", ROWS // 8, ROWS // 80), ("full", ROWS, ROWS // 10)):
        counted = {each["stage"]: each["rows"] for each in stages if each["part"] == part}
        assert counted["images"] == counted["pack"] == rows + held
        assert {counted[name] for name in WAY if name not in ("images", "pack", "search")} == {rows}
        assert json.loads((folder / part / "runs/uniform/run.json").read_text())["forward"] == rows
        shown = json.loads((folder / part / "show.json").read_text())
        assert (shown["rows"], shown["draws"]) == (rows, rows) and 0.5 * rows < shown["ess"] < 0.9 * rows
        searched = json.loads((folder / part / "search/search.json").read_text())
        runs = len(searched["confirmation"])
        assert counted["search"] == round(rows * (len(searched["trials"]) * rehearsal.SHARE + runs))
    assert all(each["written"] > 0 and each["seconds"] > 0 and each["measured"] for each in stages)
    assert [law["stage"] for law in result["laws"]] == WAY == [each["stage"] for each in result["billion"]]
    assert all(each["law"] and each["measured"] is False for each in result["billion"] + result["imagenet"])
    assert {each["rows"] for each in result["billion"]} == {BILLION}
    assert [each["stage"] for each in result["imagenet"]] == [*WAY[8:]]  # nothing is said of photographs unseen
    assert result["machine"]["cores"] > 0 and result["versions"]["torch"]
    text = capsys.readouterr().out
    assert all(f"full {name}" in text for name in WAY) and "computed: 10^9 rows" in text

    (folder / "figures/full/report.json").unlink()  # a killed rehearsal
    assert main(command) == 0 and len(runner.commands) == 2 * len(WAY) + 1
    assert json.loads(path.read_text())["stages"][:-1] == stages[:-1]
    capsys.readouterr()
    command[3] = "2008"
    assert "started with rows 2000, not 2008: give another output folder" in cli(*command, status=2)


def test_a_stage_that_fails_is_one_line_and_leaves_no_figures(tmp_path, monkeypatch, capsys):
    failed = Measured(3, 1.0, 1.0, 1, 1, 1, 0.0, ["first", "disk full", ""])
    monkeypatch.setattr(rehearsal, "measure", lambda *_, **__: failed)
    assert main(["bench", "rehearsal", "--rows", "800", "--photos", "0", "-o", str(tmp_path / "r")]) == 2
    assert "images ended with 3 (disk full): mend it and start again" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "r").rglob("figures/*/*"))


HUNGRY = """
import subprocess, sys, time
hold = bytearray(40 << 20)
print("up", flush=True)
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-S", "-c", sys.argv[1]])
time.sleep(0.4)
sys.exit(7)
"""


def test_memory_is_that_of_the_whole_tree(tmp_path):
    found = measure([sys.executable, "-S", "-c", HUNGRY, HUNGRY], cwd=tmp_path)
    assert (found.code, found.lines) == (7, ["up", "up"])
    assert found.seconds >= found.silent >= 0.3 and found.cpu > 0
    assert 80 << 20 <= found.held <= found.peak < 200 << 20
    assert 40 << 20 <= found.largest < 80 << 20
    assert tree_memory(2**22 + 1) == (0, 0, 0)  # no such process


def test_an_interrupted_stage_leaves_no_process(tmp_path, monkeypatch):
    seen = []

    def interrupt(pid):
        seen.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal_process, "tree_memory", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure([sys.executable, "-S", "-c", "import time; time.sleep(60)"], cwd=tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_images_are_the_same_whatever_their_number(tmp_path):
    write_images(tmp_path / "a", rows=BLOCK + 5, classes=7, seed=3)
    write_images(tmp_path / "b", rows=40, classes=7, seed=3)
    write_images(tmp_path / "b", rows=30, classes=7, seed=3)  # replaces
    large, small = (np.load(tmp_path / name / "images.npy") for name in "ab")
    assert large.shape == (BLOCK + 5, 16, 16) and large.dtype == np.uint8 and small.shape[0] == 30
    assert np.array_equal(large[:30], small) and np.array_equal(np.load(tmp_path / "b/labels.npy"), np.arange(30) % 7)
    prototypes = make_prototypes(7, 3)
    assert np.array_equal(large[BLOCK:], make_block(prototypes, 1, 3)[:5]) and not np.array_equal(large[0], large[7])
    flat = large[:2000].reshape(2000, -1).astype(np.float32)
    near = (flat @ prototypes.T - (prototypes**2).sum(1) / 2).argmax(1)
    assert (near == np.arange(2000) % 7).mean() > 0.9  # there is something to learn
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@given(
    st.floats(0, 1e6), st.floats(1e-3, 1e3), st.integers(100, 10**6), st.integers(2, 20), st.floats(0.1, 10)
)  # fixed, by row, rows, factor, and a second measurement that is off
def test_laws_meet_their_measurements_and_never_fall(fixed, by_row, rows, factor, off):
    law = fit((rows, factor * rows), (fixed + by_row * rows, fixed + by_row * factor * rows))
    assert law.kind == "rows" and law.at(10 * rows) == pytest.approx(fixed + 10 * by_row * rows, rel=1e-3)
    odd = fit((rows, factor * rows), (1.0, off))
    assert odd.fixed >= 0 and odd.by_row >= 0 and odd.at(factor * rows) >= off * (1 - 1e-9)
    assert (odd.kind == "fixed") == (off <= 1)


def test_photographs_bring_their_own_rates_and_what_does_not_scale_is_said():
    def stage(part, name, rows, seconds, cpu, held):
        found = {"part": part, "stage": name, "rows": rows, "written": 10 * rows}
        return found | {"seconds": seconds, "cpu": cpu, "held": held}

    measured = [stage("eighth", "index", 100, 2.0, 1.0, 2e6), stage("full", "index", 800, 9.0, 64.0, 9e6)]
    measured += [stage("eighth", "search", 420, 2.0, 1.0, 2e6), stage("full", "search", 3360, 9.0, 4.0, 9e6)]
    measured += [stage("photos", "index", 50, 6.0, 6.0, 1e6), stage("photos", "load", 50, 6.0, 6.0, 1e9)]
    found = extrapolate(measured, photos_per_second=500.0)
    laws = {law["stage"]: law for law in found["laws"]}
    assert laws["index"]["seconds"] == {"fixed": 1.0, "by_row": 0.01, "kind": "rows"}
    assert laws["index"]["steep"] and laws["index"]["growth"] == pytest.approx(2) and not laws["search"]["steep"]
    imagenet = {each["stage"]: each for each in found["imagenet"]}
    assert imagenet["index"]["seconds"] == pytest.approx(1 + IMAGENET * 5 / 50)  # by what a photograph takes
    assert imagenet["search"]["seconds"] == pytest.approx(1 + 4.2 * IMAGENET / 500)
    assert imagenet["search, by default"]["seconds"] == pytest.approx(1 + 34 * IMAGENET / 500)
    assert imagenet["search"]["held"] == pytest.approx(1e6 + 1e4 * IMAGENET + 1e9)
    billion = {each["stage"]: each for each in found["billion"]}
    assert billion["index"]["held"] == pytest.approx(1e13) and not billion["index"]["fits"]
    assert [duration(s) for s in (1.0, 120.0, 7200.0, 1e6)] == ["1.0 s", "2.0 min", "2.0 h", "11.6 d"]


@pytest.mark.slow
def test_the_real_commands_in_processes_of_their_own(tmp_path):
    """As `make rehearsal`, photographs included."""
    pytest.importorskip("skimage")
    result = rehearsal.run(tmp_path / "r", rows=800, photos=8)
    assert [each["stage"] for each in result["imagenet"]] == [*WAY[1:], "search, by default"]
    assert all(each["cpu"] > 0.05 and each["largest"] > 1 << 20 for each in result["stages"])
    assert all(each["peak"] >= each["held"] > 1 << 20 for each in result["stages"])
