"""`drawstream serve`: the state of a folder of jobs, read-only, for this machine alone."""

import http.client
import json
import threading

import pytest

from drawstream.tools.board import Board
from drawstream.tools.cli import main
from drawstream.tools.hooks import Journal
from drawstream.tools.serve import make_server


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
    assert response.status == 200 and b"no report yet" in content  # the damaged record is named
    assert b"bad/run.json" in content


@pytest.mark.parametrize("path", ["/etc/passwd", "/../../etc/passwd", "/done/run.json", "/serve.py"])
def test_no_file_is_served(ask, path):
    assert ask(path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(ask, method):
    assert ask("/state.json", method)[0].status == 501


def test_another_name_for_this_machine_is_refused(ask):
    assert ask("/state.json", host="attacker.example:8000")[0].status == 403
    assert ask("/state.json", host="localhost:8000")[0].status == 200


def test_bad_input(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    taken = make_server(tmp_path, "127.0.0.1", 0)
    assert main(["serve", str(tmp_path), "--port", str(taken.server_address[1])]) == 2
    assert "give another --port" in capsys.readouterr().err
    taken.server_close()
