"""A real web server on loopback that serves a folder by ranges, and can be told to misbehave, stop and come back."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_PIECE = 1 << 14


@dataclass
class Manners:
    """How the server behaves from now on."""

    ranges: bool = True
    etag: bool = True
    length: bool = True
    """False: no Content-Length, the end of the connection is the end of the file."""
    rate: float | None = None
    """Bytes a second."""
    cut_after: int | None = None
    """Bytes of an answer after which the connection is reset."""
    hang_after: int | None = None
    """Bytes of an answer after which nothing comes any more."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers."""
    needs: tuple[str, str] | None = None
    """A header without which the answer is 401."""
    redirect_to: str | None = None
    """Where requests are sent on to."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request, client_address):
        """Say nothing about clients that went away."""


class RangeServer:
    """Serves a folder at `url`; `stop` cuts every connection, `start` comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manners = Manners()
        self.requests: list[tuple[str, int]] = []
        """Path and first byte of every request."""
        self.sent = 0
        self.connections: set[socket.socket] = set()
        self._port = 0
        self._server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"own": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._server = None

    def down_for(self, seconds: float) -> None:
        """Stop, and come back later."""
        self.stop()
        threading.Timer(seconds, self.start).start()


class _Handler(BaseHTTPRequestHandler):
    own: RangeServer
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        # What the system holds of an answer would hide from the client how the server behaves.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        self.own.connections.add(self.connection)

    def finish(self):
        self.own.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        """Keep the terminal quiet."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        manners = self.own.manners
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(match[1]) if match else 0
        self.own.requests.append((self.path, first))
        if manners.refusals:
            status, headers = manners.refusals.pop(0)
            return self._answer(status, headers, b"")
        if manners.needs and self.headers.get(manners.needs[0]) != manners.needs[1]:
            return self._answer(401, {}, b"")
        if manners.redirect_to:
            return self._answer(302, {"Location": manners.redirect_to + self.path}, b"")
        path = self.own.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if path.is_dir():
            links = "".join(f'<a href="{one.name}">{one.name}</a>' for one in sorted(path.iterdir()))
            return self._answer(200, {"Content-Type": "text/html"}, links.encode())
        if not path.is_file():
            return self._answer(404, {}, b"")
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:16]}"'} if manners.etag else {}
        if not (match and manners.ranges):
            return self._answer(200, headers, data)
        if first >= len(data):
            return self._answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        last = min(int(match[2]) if match[2] else len(data) - 1, len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._answer(206, headers, data[first : last + 1])

    def _answer(self, status, headers, body):
        manners = self.own.manners
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if manners.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        sent = 0
        while sent < len(body) and self.command == "GET":
            manners = self.own.manners
            piece = body[sent : sent + _PIECE]
            if manners.rate is not None:
                piece = piece[: max(1, int(manners.rate * 0.02))]
                time.sleep(len(piece) / manners.rate)
            for limit in (manners.cut_after, manners.hang_after):
                piece = piece if limit is None else piece[: max(0, limit - sent)]
            if piece:
                self.wfile.write(piece)
                sent += len(piece)
                self.own.sent += len(piece)
            if manners.cut_after is not None and sent >= manners.cut_after:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            while self.own.manners.hang_after is not None and sent >= self.own.manners.hang_after:
                time.sleep(0.02)
