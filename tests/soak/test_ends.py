"""Two writers of one folder, clocks that jump, outputs that nobody reads, and places with odd names."""

import json
import os
import shutil
import signal
import time

import pytest

pytestmark = pytest.mark.slow
EXCLUSIVE = ("pack", "train", "search auto")
SHARED = ("index", "features", "search swift", "fit", "report", "stream export")
CLOCK = """
import time
real, calls = time.time, [0]
def jumping():
    calls[0] += 1
    return real() + ({jump} if calls[0] > {after} else 0.0)
time.time = jumping
"""
YEARS = 10 * 365 * 86400
CLOCKS = {"forward": (YEARS, 2), "back": (-YEARS, 2), "back an hour": (-3600, 3)}
NAMES = ("pack", "features", "train", "search swift", "search auto", "report")


def _named(lock):
    """Whether the file of a lock names its owner, who has it by then."""
    try:
        return bool(lock.read_bytes())
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("name", EXCLUSIVE)
def test_a_second_writer_is_refused(soak, undisturbed, tmp_path, name):
    expected, seconds = undisturbed(name)
    out, refused = tmp_path / "out", 0
    lock = out.with_name(".out.lock") if name == "pack" else out / ".lock"
    for _ in range(3):
        shutil.rmtree(out, ignore_errors=True)
        first = soak.start(soak.commands(out)[name])
        while first.alive and not _named(lock):
            time.sleep(0.001)
        first.kill(signal.SIGSTOP)
        held = _named(lock)
        second = soak.start(soak.commands(out)[name])
        done = second.end() if held else None
        first.kill(signal.SIGCONT)
        first.end().fine()
        if held:
            done.told("another process", first.pid, out)
            refused += 1
        else:
            second.end()
        assert soak.result_of(out) == expected
        assert soak.leftovers(out) == []
    assert refused
    print(f"{name}: {refused} of 3 second writers refused, {seconds:.1f} s each")


@pytest.mark.parametrize("name", SHARED)
def test_two_writers_at_once_give_the_result(soak, undisturbed, tmp_path, name):
    """They share the work, or write the same file whole; the later of two may be told that it is there."""
    expected, seconds = undisturbed(name)
    ended = []
    for pause in (0.0, seconds / 3, seconds / 2):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        first = soak.start(soak.commands(out)[name])
        time.sleep(pause)
        done = [soak.run(soak.commands(out)[name]), first.end()]
        for each in done:
            assert "Traceback" not in each.stderr
            assert each.status == 0 or "exists already" in each.told()
        ended += [each.status for each in done]
        assert soak.result_of(out) == expected
        assert soak.leftovers(out) == []
    print(f"{name}: two writers, {ended}")


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_clock_that_jumps_changes_nothing(soak, undisturbed, tmp_path, name, clock):
    expected, _ = undisturbed(name)
    jump, after = CLOCKS[clock]
    out = tmp_path / "out"
    soak.run(soak.commands(out)[name], before=CLOCK.format(jump=jump, after=after)).fine()
    assert soak.result_of(out) == expected


@pytest.mark.parametrize("name", ["train", "search auto", "features"])
def test_files_of_the_future_are_gone_on_with(soak, undisturbed, tmp_path, name):
    expected, seconds = undisturbed(name)
    out = tmp_path / "out"
    killed = soak.start(soak.commands(out)[name])
    time.sleep(0.7 * seconds)
    killed.kill(signal.SIGKILL)
    killed.end()
    for path in out.rglob("*"):
        os.utime(path, (time.time() + YEARS,) * 2)
    soak.run(soak.commands(out)[name], before=CLOCK.format(jump=-YEARS, after=0)).fine()
    assert soak.result_of(out) == expected


def test_serve_shows_no_negative_silence(soak, tmp_path):
    from drawstream.tools.report.board import Board

    journal = {"format": 1, "kind": "train", "title": "t", "step": 1, "total": 2, "points": []}
    for updated in (0.0, time.time() + YEARS):
        (tmp_path / "progress.json").write_text(json.dumps({**journal, "began": updated, "updated": updated}))
        (running,) = Board(tmp_path).state()["running"]
        assert running["silent"] >= 0


READERS = {
    "help": ["--help"],
    "info": ["features", "info", "{features}"],
    "describe": ["features", "describe", "{features}"],
    "stream": ["stream", "show", "{weights}", "--column", "weight"],
    "report": ["report", "{root}", "-o", "{out}"],
}


@pytest.mark.parametrize("name", READERS)
def test_output_that_nobody_reads(soak, tmp_path, name):
    places = {"features": soak.inputs.features, "weights": soak.inputs.auto / "distribution.parquet"}
    command = [each.format(root=soak.root, out=tmp_path / "r.html", **places) for each in READERS[name]]
    closed = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)"
    done = soak.run(command, before=closed, fresh=True)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert done.status in (0, 1)
    done = soak.run(command, before="import os, sys; os.close(1); sys.stdout = None", fresh=True)
    assert "Traceback" not in done.stderr and done.status == 0, (done.status, done.stderr)


PLACES = {
    "blanks and quotes": "a b 'c' \"d\" $e",
    "letters": "größe-図",
    "pattern": "run[1]*?",
    "percent": "100%20%{x}",
    "dash": "-o",
    "long": "n" * 200,
}
COMMANDS = ("pack", "index", "features", "train, tracked", "fit", "search swift", "search auto", "report", "json")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", COMMANDS)
def test_odd_names(soak, undisturbed, tmp_path, name, place):
    expected, _ = undisturbed(name)
    out = tmp_path / PLACES[place]
    done = soak.run(soak.commands(out)[name], env={"LC_ALL": "C", "LANG": "C"})
    done.fine()
    assert soak.result_of(out).keys() == expected.keys()
    assert soak.leftovers(tmp_path) == []


def test_no_home_and_no_folder_for_temporary_files(soak, undisturbed, tmp_path):
    gone = {"HOME": str(tmp_path / "gone"), "TMPDIR": str(tmp_path / "gone"), "XDG_CACHE_HOME": str(tmp_path / "gone")}
    for name in NAMES:
        out = tmp_path / "out"
        soak.run(soak.commands(out)[name], env=gone).fine()
        assert soak.result_of(out) == undisturbed(name)[0], name
        shutil.rmtree(out)
    soak.run(soak.commands(tmp_path / "out")["train"], env=gone, fresh=True).fine()


@pytest.mark.parametrize("name", [*EXCLUSIVE, "features", "search swift", "report", "json"])
def test_an_output_that_is_a_link_or_a_file(soak, undisturbed, tmp_path, name):
    expected, _ = undisturbed(name)
    target, link, file = tmp_path / "target", tmp_path / "link", tmp_path / "file"
    target.mkdir()
    link.symlink_to(target)
    file.write_text("mine")
    soak.run(soak.commands(link)[name]).fine()
    assert soak.result_of(link).keys() == expected.keys()
    soak.run(soak.commands(file)[name]).told(file)
    assert file.read_text() == "mine"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    soak.run(soak.commands(loop)[name]).told("loop")
