"""The live page: it follows a job, says when one died, fits a phone, and asks nobody but its own server."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drawstream.tools.report.build import write_report
from drawstream.tools.report.serve import make_server
from drawstream.tools.runs.hooks import JOURNAL, Journal

HOSTILE = "<img src=x onerror=alert(1)>"
RUNNING = "document.querySelectorAll('article').length"


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    server = make_server(folder, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def check(opened, address):
    assert opened.complaints() == []
    assert opened.requests
    assert all(url.startswith((address, "data:")) for url in opened.requests)
    assert opened.sideways() <= 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_a_job_is_followed_to_its_end(served, open_page, make_run, width, dark):
    folder, address = served
    make_run(folder / "earlier", "uniform", 3, 71.25)
    journal = Journal(folder / "now")
    journal.begin("train", {"method": "swift", "seed": 7})
    journal.step(1, 9, {"accuracy/test": 61.5, "loss": 2.25})
    journal.step(2, 9, {"accuracy/test": 64.5, "loss": 2.0})
    opened = open_page(address, width, dark=dark)
    opened.until(f"{RUNNING} == 1")
    text = opened.page.inner_text("body")
    assert "swift seed 7" in text and "1 of 9" in text
    assert "uniform, seed 3" in text and "last 71.25 %" in text
    time.sleep(0.6)
    journal.step(3, 9, {"accuracy/test": 66.5, "loss": 1.5})
    opened.until("document.body.innerText.includes('3 of 9')")
    assert opened.page.evaluate("document.querySelector('polyline').getAttribute('points').split(' ').length") == 3
    journal.end(make_run(folder / "now", "swift", 7, 88.0))
    opened.until(f"{RUNNING} == 0")
    opened.until("document.body.innerText.includes('swift, seed 7')")
    check(opened, address)


@pytest.mark.slow
def test_a_killed_job_is_told_from_a_running_one(served, open_page):
    folder, address = served
    told = "from drawstream.tools.runs.hooks import Journal; from pathlib import Path; import sys, time; "
    told += (
        "j = Journal(Path(sys.argv[1])); j.begin('train', {'seed': 1}); j.step(1, 9, {'loss': 2.0}); time.sleep(600)"
    )
    job = subprocess.Popen([sys.executable, "-c", told, str(folder / "job")])
    opened = open_page(address, 360)
    opened.until("document.body.innerText.includes('1 running')", 60)
    job.send_signal(signal.SIGKILL)
    job.wait()
    opened.until("document.body.innerText.includes('its process is gone')")
    assert "0 running, 1 ended too early" in opened.page.inner_text("body")
    check(opened, address)


@pytest.mark.slow
def test_a_thousand_runs_and_hostile_names(served, open_page, make_run):
    folder, address = served
    record = make_run(folder / "0000", HOSTILE, 0, 70.0)
    for i in range(1, 1000):
        (folder / f"{i:04}").mkdir()
        (folder / f"{i:04}/run.json").write_text(json.dumps(record))
    hostile = folder / HOSTILE
    hostile.mkdir()
    points = [[1.0, 1, {HOSTILE: 1.0}], [2.0, 2, {HOSTILE: float("nan")}]]
    process = {"pid": os.getpid(), "host": platform.node()}
    journal = {"format": 1, "kind": HOSTILE, "title": HOSTILE, "step": 1, "total": 2, "points": points}
    (hostile / JOURNAL).write_text(json.dumps({**journal, "updated": time.time(), "process": process}))
    for name, text in {"a": "[]", "b": '{"format": 1}', "c": "{", "d": '{"format": 1, "points": 3}'}.items():
        (folder / name).mkdir()
        (folder / name / JOURNAL).write_text(text)
    opened = open_page(address, 360)
    opened.page.on("dialog", lambda dialog: opened.uncaught.append(dialog.message))
    opened.until("document.querySelectorAll('tbody tr').length == 500", 60)
    opened.page.wait_for_timeout(2500)
    text = opened.page.inner_text("body")
    assert "1000 finished (the newest 500 are shown)" in text
    assert HOSTILE in text and opened.page.evaluate("document.images.length") == 0
    check(opened, address)


@pytest.mark.slow
def test_the_report_comes_from_the_server_too(served, open_page, make_run, demo):
    folder, address = served
    opened = open_page(address)
    opened.page.click("text=report of the finished jobs")
    assert "no report yet" in opened.page.inner_text("body")
    for seed in (0, 1):
        make_run(folder / f"u{seed}", "uniform", seed, 70.0)
    opened.page.goto(f"{address}report")
    opened.until("document.querySelector('.plot .main-svg') !== null")
    check(opened, address)


@pytest.mark.slow
def test_a_damaged_record_is_named_on_the_live_page(served, open_page, make_run):
    folder, address = served
    make_run(folder / "good", "uniform", 0, 70.0)
    (folder / "bad").mkdir()
    (folder / "bad/run.json").write_text('{"kind": "train"')
    opened = open_page(address, 360)
    opened.until("document.body.innerText.includes('not readable')")
    assert "uniform, seed 0" in opened.page.inner_text("body")
    check(opened, address)
    (line,) = write_report(folder, Path(folder / "page.html")).damaged
    assert "bad/run.json: not readable as JSON" in line
