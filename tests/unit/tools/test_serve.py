"""`drawstream serve`: the state of a folder of jobs, read-only, for this machine alone."""

import http.client
import json
import platform
import subprocess
import sys
import threading

import pytest

from drawstream.tools.cli.app import main
from drawstream.tools.report.board import Board
from drawstream.tools.report.serve import make_server, plain_json
from drawstream.tools.runs.hooks import Journal
from shared.programs import cli


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """A finished run, one under way, and a damaged record."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["train", str(digits.train), "-o", str(folder / "done"), "--model", "mlp", "--epochs", "1"]
    assert main([*command, "--held-out", str(digits.held_out)]) == 0
    journal = Journal(folder / "deep/er")
    journal.begin("search", {"seed": 3})
    journal.step(1, 40, {"value": 81.5, "best": 81.5})
    (folder / "bad").mkdir()
    (folder / "bad/run.json").write_text('{"kind": "train"')
    return folder


@pytest.fixture(scope="module")
def ask(runs):
    server = make_server(runs, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def act(path, method="GET", host=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
        connection.request(method, path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    yield act
    server.shutdown()
    server.server_close()


def test_state(runs):
    found = Board(runs).state()
    (running,) = found["running"]
    assert running["folder"] == "deep/er" and running["points"][0][2]["best"] == 81.5 and running["silent"] < 60
    by_folder = {job["folder"]: job for job in found["finished"]}
    assert by_folder["done"]["title"] == "uniform, seed 0" and "best epoch" in by_folder["done"]["text"]
    assert by_folder["bad"]["title"] == "not readable"


def test_the_page_asks_only_its_own_server(ask):
    response, content = ask("/")
    assert response.status == 200 and b"state.json" in content
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in content


def test_state_and_report_over_http(ask, runs):
    response, content = ask("/state.json")
    assert response.status == 200 and json.loads(content)["folder"] == str(runs)
    response, content = ask("/report")
    assert response.status == 200 and b"Uniform" in content  # the sound run is there
    assert b"bad/run.json: not readable as JSON" in content  # and the damaged record is named


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/done/run.json",
        "/serve.py",
        "*",
    ],
)
def test_no_file_is_served(ask, path):
    assert ask(path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(ask, method):
    assert ask("/state.json", method)[0].status == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 403) for host in ("attacker.example:8000", "attacker.example", "localhost.attacker.example")),
        *((host, 403) for host in ("127.0.0.1@attacker.example", "[::1", " ")),
        *((host, 200) for host in ("localhost:8000", "LOCALHOST", "127.0.0.1:9", "[::1]:8000", "[::1]")),
    ],
)
def test_only_names_of_this_machine_are_taken(ask, host, status):
    assert ask("/state.json", host=host)[0].status == status


def test_records_are_read_again_when_they_change_and_only_then(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a/search.json"
    record = {"kind": "search", "winner": "swift", "message": "<b>won</b>", "seconds": float("nan")}
    path.write_text(json.dumps(record))
    reads, board = [], Board(tmp_path)
    read = Board._read
    monkeypatch.setattr(Board, "_read", lambda self, *given: reads.append(given[0]) or read(self, *given))
    assert board.state() == board.state() and len(reads) == 1
    assert board.state()["finished"][0]["text"] == "<b>won</b>"
    path.write_text(json.dumps(record | {"message": "it lost"}))
    assert board.state()["finished"][0]["text"] == "it lost" and len(reads) == 2
    path.unlink()
    assert board.state()["finished"] == [] and board.state()["jobs"] == 0


def test_numbers_that_are_not_finite_reach_the_browser_as_null():
    assert json.loads(plain_json({"x": [float("nan"), float("inf"), 1.5]})) == {"x": [None, None, 1.5]}


def test_a_job_without_a_process_has_ended(tmp_path):
    journal = Journal(tmp_path)
    journal.begin("train", {"seed": 1})
    assert [job["ended"] for job in Board(tmp_path).state()["running"]] == [False]
    found = json.loads((tmp_path / "progress.json").read_text())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process, ended in (
        ({"pid": gone.pid, "host": platform.node()}, True),
        ({"pid": gone.pid, "host": "elsewhere"}, False),  # another machine's number says nothing here
        ({"pid": "x", "host": platform.node()}, False),
        (None, False),  # a journal of 0.1.0
    ):
        (tmp_path / "progress.json").write_text(json.dumps({**found, "process": process}))
        assert [job["ended"] for job in Board(tmp_path).state()["running"]] == [ended]


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1}', '{"format": 1, "points": 3}', '{"format": 99}', "\x00"])
def test_a_damaged_journal_is_no_job(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    assert Board(tmp_path).state()["running"] == []


def test_long_jobs_send_some_of_their_points_and_the_last(tmp_path):
    points = [[float(i), i, {"loss": 1.0}] for i in range(999)]
    journal = {"format": 1, "kind": "train", "title": "t", "step": 998, "total": 999, "updated": 5.0, "points": points}
    (tmp_path / "progress.json").write_text(json.dumps(journal))
    (job,) = Board(tmp_path).state()["running"]
    assert len(job["points"]) <= 200 and job["points"][-1] == points[-1]


def test_bad_input(tmp_path):
    assert "no such folder" in cli("serve", tmp_path / "none", status=2)
    taken = make_server(tmp_path, "127.0.0.1", 0)
    assert "give another --port" in cli("serve", tmp_path, "--port", taken.server_address[1], status=2)
    taken.server_close()
