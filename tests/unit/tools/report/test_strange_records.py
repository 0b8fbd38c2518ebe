"""Records of strangers in report and serve: a bad one is named, all others stay, nothing is fetched unasked."""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from drawstream.tools.cli.app import main
from drawstream.tools.report.board import Board
from drawstream.tools.report.build import write_report
from shared.programs import cli

DEEP = "[" * 1500 + "]" * 1500


@pytest.fixture
def runs(tmp_path: Path, make_run) -> Path:
    make_run(tmp_path / "runs/good")
    (tmp_path / "runs/bad").mkdir()
    return tmp_path / "runs"


def text_of(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def with_entry(entry: str):
    """A record that is sound but for one entry."""

    def write(path: Path) -> None:
        whole = (path.parent.parent / "good/run.json").read_text().rstrip().removesuffix("}")
        path.write_text(f"{whole}, {entry}}}")

    return write


BAD = {
    "deep": (lambda path: text_of(path, DEEP), "levels deep"),
    "deep inside": (with_entry(f'"extra": {DEEP}'), "levels deep"),
    "digits": (with_entry(f'"extra": {"9" * 5000}'), "20 digits"),
    "not UTF-8": (lambda path: text_of(path, b'{"kind": "\xff"}'), "no UTF-8 text"),
    "empty": (lambda path: text_of(path, ""), "Expecting value"),
    "a list": (lambda path: text_of(path, "[]"), ""),
    "a number": (lambda path: text_of(path, "3"), ""),
    "2 GB": (huge, "it may have 67108864 bytes"),
    "a pipe": (os.mkfifo, "it must be a regular file, but is a named pipe"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it must be a regular file, but is a device"),
    "a loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "a socket": (bound, "it must be a regular file, but is a socket"),
}


@pytest.mark.parametrize("name", ["run.json", "search.json", "auto.json", "progress.json"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named_and_all_others_stay(runs: Path, monkeypatch, capsys, kind: str, name: str):
    make, told = BAD[kind]
    monkeypatch.chdir(runs / "bad")  # a socket's path must be short
    make(Path(name)) if kind == "a socket" else make(runs / "bad" / name)
    found = json.loads(json.dumps(Board(runs).state(), allow_nan=False))
    by_folder = {job["folder"]: job for job in found["finished"]}
    assert by_folder["good"]["title"] == "uniform, seed 0"
    assert by_folder["bad"]["title"] == "not readable" and told in by_folder["bad"]["text"]
    out = runs.parent / "report.html"
    status = main(["report", str(runs), "-o", str(out)])
    told_here = capsys.readouterr().err
    assert "uniform" in out.read_text().lower()
    if name == "progress.json":  # a report is about what is finished
        assert status == 0 and not told_here
        return
    assert status == 1 and told_here.count("\n") == 1
    assert told_here.startswith(f"left out: {runs / 'bad' / name}: ") and told in told_here
    assert f"Left out: {runs / 'bad' / name}: " in out.read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_file_and_a_closed_folder_are_named(runs: Path):
    (runs / "bad/run.json").write_text("{}")
    (runs / "bad/run.json").chmod(0)
    (runs / "closed").mkdir(0)
    texts = {job["folder"]: job["text"] for job in Board(runs).state()["finished"]}
    assert texts["bad"] == "damaged record: Permission denied" and texts["closed"] == "folder: Permission denied"
    assert len(cli("report", runs, "-o", runs.parent / "x.html", status=1).splitlines()) == 2
    (runs / "closed").chmod(0o700)


def test_names_cannot_become_markup_or_stop_the_page(runs: Path, make_run):
    make_run(runs / "</script><script>alert(1)", "\ud800<img src=x onerror=alert(1)>", 1)
    state = json.dumps(Board(runs).state())
    assert len(json.loads(state)["finished"]) == 2
    assert write_report(runs, runs / "x.html").lines == []
    page = (runs / "x.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "<script>alert(1)" not in page


STRANGE = ["null", "true", "-1", "1e400", "NaN", str(10**19), '"\ud800</script>"', "[]", "[[1]]", "{}", '{"a": 1}']


def mutations(document: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Places of all values in a document, of lists the first entries."""
    if at:
        yield at
    items = document.items() if isinstance(document, dict) else ()
    items = enumerate(document[:2]) if isinstance(document, list) else items
    for key, value in items:
        yield from mutations(value, (*at, key))


def changed(document: object, at: tuple[object, ...], value: object) -> object:
    if not at:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[at[0]] = changed(copy[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize("name", ["run.json", "search.json"])
def test_a_value_of_any_type_at_any_place_takes_nothing_from_the_others(
    searched: Path, runs: Path, monkeypatch, name: str
):
    """Every value of a record is replaced by each strange one; the page is made of texts here, without plotly's MB."""
    monkeypatch.setattr("drawstream.tools.report.page.document", lambda title, *parts: "".join((title, *parts)))
    monkeypatch.setattr("drawstream.tools.report.pages.search.pictures", lambda *_, **__: [], raising=False)
    if name == "run.json":
        whole = json.loads((runs / "good/run.json").read_text())
        whole |= {"evaluation": {"test": "x"}}
    else:
        whole = json.loads((searched / "search.json").read_text())
        for key in ("catalog", "features", "sampler"):
            whole[key] = str(searched / whole[key])
    places = list(mutations(whole))
    values = STRANGE if name == "run.json" else ["null", "1e400", '"\ud800</script>"', "[[1]]", '{"a": 1}']
    for at in places:
        for value in values:
            text = json.dumps(changed(whole, at, "@")).replace('"@"', value)
            (runs / "bad" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
            state = Board(runs).state()
            assert any(job["folder"] == "good" for job in state["finished"]), (at, value)
            json.dumps(state)
            left = write_report(runs, runs / "x.html")
            assert "Uniform" in (runs / "x.html").read_text(), (at, value)
            for line in left.lines:
                assert str(runs / "bad" / name) in line and "\n" not in line, (at, value)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("catalog", "/dev/zero"),
        ("catalog", "/etc/passwd"),
        ("catalog", "pipe"),
        ("features", "/dev/zero"),
        ("sampler", "/dev/zero"),
        ("sampler", "/etc/passwd"),
        ("sampler", "pipe"),
        ("join", ["pipe"]),
        ("join", ["/etc/passwd"]),
    ],
)
def test_a_record_that_names_other_files_neither_hangs_nor_shows_them(
    searched: Path, runs: Path, key: str, place: object
):
    whole = json.loads((searched / "search.json").read_text())
    for name in ("catalog", "features", "sampler"):
        whole[name] = str(searched / whole[name])
    (runs / "bad/search.json").write_text(json.dumps(whole | {key: place}))
    os.mkfifo(runs / "bad/pipe")
    told = cli("report", runs, "-o", runs / "x.html", status=1)
    assert told.count("\n") == 1 and "bad/search.json: " in told
    assert "root:x:0" not in told + (runs / "x.html").read_text()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked for there."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}/data", asked
        http.shutdown()
        thread.join()


def test_an_address_that_a_record_names_is_asked_with_remote_only(runs: Path, searched: Path, server, capsys):
    address, asked = server
    secret = address.replace("http://", "http://user:SECRET@")
    record = json.loads((runs / "good/run.json").read_text())
    (runs / "good/run.json").write_text(json.dumps(record | {"catalog": secret}))
    whole = json.loads((searched / "search.json").read_text())
    (runs / "bad/search.json").write_text(json.dumps(whole | {"catalog": secret}))
    (runs / "bad/auto.json").write_text(json.dumps({"format": 1, "kind": "auto", "catalog": secret}))
    assert main(["report", str(runs), "-o", str(runs / "x.html")]) == 0
    told, page = capsys.readouterr().err, (runs / "x.html").read_text()
    assert asked == [] and "SECRET" not in told + page
    for name in ("good/run.json", "bad/search.json", "bad/auto.json"):
        line = f"{runs / name}: its data lie at {address} and were not read: --remote allows it"
        assert f"left out: {line}\n" in told and f"Left out: {line}" in page
    assert main(["report", str(runs), "-o", str(runs / "x.html"), "--remote"]) == 1  # the searches need their data
    assert asked and re.search(r"bad/search\.json: .*no such file", capsys.readouterr().err)
