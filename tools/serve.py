"""`drawstream serve`: a page about the jobs of a folder while they run; read-only, on this machine alone by default."""

import json
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from drawstream.tools.hooks import JOURNAL, read_journal

RECORDS = {"run.json": "train", "search.json": "search", "auto.json": "auto"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
MOST = 500  # jobs on the page, the newest


def serve(
    runs: Annotated[Path, typer.Argument(help="Folder with runs and searches, at any depth.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets everybody on the network read the page.")
    ] = LOOPBACK[0],
) -> None:
    """Follow trainings and searches in the browser: progress, curves, the best so far; Ctrl-C ends it.

    Example: drawstream serve runs
    """
    if not runs.is_dir():
        raise ValueError(f"{runs}: no such folder; give the folder that jobs write to")
    try:
        server = make_server(runs, host, port)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}: give another --port") from None
    print(f"http://{host}:{server.server_address[1]}/ shows {runs}; Ctrl-C ends it", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def make_server(runs: Path, host: str, port: int, /) -> ThreadingHTTPServer:
    """A server that is bound and does not answer yet."""

    class Handler(_Handler):
        folder = runs
        local = host in LOOPBACK

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """GET of the page, of the state and of the report; all else is refused."""

    folder: Path
    local: bool
    server_version, sys_version = "drawstream", ""

    def do_GET(self) -> None:
        """Answer."""
        name = (self.headers.get("Host") or "").rsplit(":", 1)[0].strip("[]")
        if self.local and name not in LOOPBACK:  # a page of elsewhere whose name was pointed at this machine
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        match self.path.partition("?")[0]:
            case "/":
                self._send(files("drawstream.tools").joinpath("serve.html").read_bytes(), "text/html", POLICY)
            case "/state.json":
                self._send(json.dumps(state(self.folder)).encode(), "application/json", POLICY)
            case "/report":
                self._report()
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _report(self) -> None:
        from drawstream.tools.report.build import write_report

        with TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            try:
                write_report(self.folder, page)
            except (ValueError, FileNotFoundError) as error:
                self._send(f"no report yet: {error}".encode(), "text/plain", POLICY)
                return
            self._send(page.read_bytes(), "text/html", None)

    def _send(self, content: bytes, kind: str, policy: str | None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if policy is not None:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the page asks every two seconds."""


def state(folder: Path, /) -> dict[str, Any]:
    """Jobs below a folder as JSON: those under way with their points, the finished ones with their results."""
    running: list[dict[str, Any]] = []
    finished: list[dict[str, Any]] = []
    for path in folder.rglob(JOURNAL):
        journal = read_journal(path)
        if journal is not None:
            running.append({"folder": _name(path, folder), **journal, "silent": time.time() - journal["updated"]})
    for path in (path for name in RECORDS for path in folder.rglob(name)):
        entry = {"folder": _name(path, folder), "kind": RECORDS[path.name], "when": _changed(path)}
        try:
            finished.append(entry | _result(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            finished.append(entry | {"title": "not readable", "text": f"{type(error).__name__}: {error}"})
    finished.sort(key=lambda entry: -entry["when"])
    running.sort(key=lambda entry: entry["silent"])
    return {"folder": str(folder), "running": running[:MOST], "finished": finished[:MOST]}


def _name(path: Path, folder: Path) -> str:
    return path.parent.relative_to(folder).as_posix()


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # replaced just now
        return time.time()


def _result(record: dict[str, Any]) -> dict[str, Any]:
    """Title, one line of result, and the seconds of a finished record."""
    match record["kind"]:
        case "train":
            result = record.get("result")
            text = (
                "not evaluated"
                if result is None
                else f"{result['set']} top-1: last {result['last']:.2f} %, best epoch {result['best']:.2f} %"
            )
            return {"title": f"{record['method']}, seed {record['seed']}", "text": text, "seconds": record["seconds"]}
        case "search":
            return {"title": record["winner"], "text": record["message"], "seconds": record["seconds"]}
        case _:
            intervals = len(record["winners"])
            text = f"{intervals} intervals; {Path(record['schedule']).name}"
            return {"title": record["auto"]["exploration"], "text": text, "seconds": record["wall_seconds"]}
