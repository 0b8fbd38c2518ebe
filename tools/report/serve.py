"""`drawstream serve`: a page about the jobs of a folder while they run; read-only, on this machine alone by default."""

import json
import socket
import sys
from errno import EADDRNOTAVAIL
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from drawstream.pipeline import without_secrets
from drawstream.tools.report.board import Board
from drawstream.tools.report.page import template

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def serve_jobs(runs: Path, port: int, host: str, /) -> None:
    """Serve the page about the jobs below a folder until Ctrl-C; port 0 takes a free one.

    Raises:
        ValueError: No such folder, or the address cannot be listened on.
    """
    if not runs.is_dir():
        raise ValueError(f"{runs}: no such folder; give the folder that jobs write to")
    try:
        server = make_server(runs, host, port)
    except OSError as error:
        other = "--host" if isinstance(error, socket.gaierror) or error.errno == EADDRNOTAVAIL else "--port"
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}: give another {other}") from None
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{server.server_address[1]}/ shows {runs}; Ctrl-C ends it", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def make_server(runs: Path, host: str, port: int, /) -> ThreadingHTTPServer:
    """Return a server that is bound and does not answer yet."""

    class Handler(_Handler):
        folder, board, asking = runs, Board(runs), Lock()
        local = host in LOOPBACK

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server((host, port), Handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of the page, the state and the report; refuses all else."""

    folder: Path
    board: Board
    asking: Lock  # one reading of the folder at a time
    local: bool
    server_version, sys_version = "drawstream", ""

    def do_GET(self) -> None:
        """Answer."""
        if self.local and self._name() not in LOOPBACK:  # a foreign page under a name that points here
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        match self.path.partition("?")[0]:
            case "/":
                self._send(template("serve.html").render().encode(), "text/html", POLICY)
            case "/state.json":
                with self.asking:
                    found = self.board.state()
                self._send(plain_json(found).encode(), "application/json", POLICY)
            case "/report":
                self._report()
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _name(self) -> str | None:
        """Return the host name of the request."""
        try:
            return urlsplit(f"//{self.headers.get('Host') or ''}").hostname
        except ValueError:
            return None

    def _report(self) -> None:
        from drawstream.tools.report.build import write_report
        from drawstream.tools.report.left_out import DAMAGED

        with TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            try:
                write_report(self.folder, page)
            except DAMAGED as error:
                self._send(f"no report yet: {error}".encode(errors="replace"), "text/plain", POLICY)
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
        """Log nothing: the page asks every two seconds."""


def plain_json(found: dict[str, Any]) -> str:
    """Return JSON that browsers read; numbers that are not finite become null."""
    found = without_secrets(found)
    try:
        return json.dumps(found, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(found), parse_constant=lambda _: None))
