"""A server on loopback that speaks the routes of the Hugging Face hub for data sets that lie in a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HubServer:
    """Serves `folder/OWNER/NAME/REVISION/...`; a branch is a name for a revision."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.branches: dict[str, str] = {}
        """Commit by `OWNER/NAME@BRANCH`."""
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.trouble: list[tuple[str, int | str]] = []
        """What goes wrong next, one request each: a word of its address, and a status, `drop` or `cut`."""
        handler = type("Handler", (_Handler,), {"own": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Write a data set as a new commit of a branch, and return the commit's hash."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        for path, data in files.items():
            target = self.folder / name / sha / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        self.branches[f"{name}@{branch}"] = sha
        return sha

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    own: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep the terminal quiet."""

    def do_GET(self):
        self._serve()

    def do_HEAD(self):
        self._serve()

    def do_POST(self):
        self._serve(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    def _serve(self, posted=None):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.own.requests.append(f"{self.command} {self.path}")
        self._cut = False
        if (what := self._trouble()) is not None:
            if isinstance(what, int):
                return self._json({"error": "busy"}, what, {"Retry-After": "1"} if what == 429 else {})
            self._cut = self.close_connection = True
            if what == "drop":
                return None
        api = parts[0] == "api"
        kind, owner, name, *rest = parts[1:] if api else [*parts, "", ""]
        if (kind if api else parts[0]) != "datasets":
            return self._json({"error": "not here"}, 404)
        if not api:
            kind, owner, name, *rest = parts
        repo = f"{owner}/{name}"
        if not (self.own.folder / repo).is_dir():
            return self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        if repo in self.own.gated and self.headers.get("Authorization") != "Bearer let-me-in":
            return self._json({"error": "Access is restricted"}, 403, {"X-Error-Code": "GatedRepo"})
        route, revision, inner = (rest[0] if rest else "info"), (rest[1] if len(rest) > 1 else "main"), rest[2:]
        sha = self.own.branches.get(f"{repo}@{revision}", revision)
        root = self.own.folder / repo / sha
        if not root.is_dir():
            return self._json({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if not api:
            return self._file(root / "/".join(inner), sha)
        return self._listing(route, root, sha, repo, "/".join(inner), posted)

    def _trouble(self):
        at = next((at for at, (word, _) in enumerate(self.own.trouble) if word in self.path), None)
        return None if at is None else self.own.trouble.pop(at)[1]

    def _listing(self, route, root, sha, repo, inner, posted):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        if route in ("info", "revision"):
            siblings = [{"rfilename": path.relative_to(root).as_posix()} for path in files]
            return self._json(
                {"id": repo, "sha": sha, "siblings": siblings, "private": False, "tags": [], "gated": False}
            )
        entries = [_entry(path, root) for path in sorted(root.rglob("*"))]
        if route == "paths-info":
            return self._json([entry for entry in entries if entry["path"] in posted["paths"]])
        if route == "tree":
            return self._json([entry for entry in entries if not inner or entry["path"].startswith(f"{inner}/")])
        return self._json({"error": "no such route"}, 404)

    def _file(self, path, sha):
        if not path.is_file():
            return self._json(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
            )
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        status, (first, last) = 200, (0, len(data) - 1)
        if asked := self.headers.get("Range"):
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            status, (first, last) = 206, (int(begin or 0), min(int(end or last), last))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._answer(status, headers, data[first : last + 1])

    def _json(self, value, status=200, headers=None):
        named = {"X-Error-Message": value["error"]} if isinstance(value, dict) and "error" in value else {}
        body = json.dumps(value).encode()
        self._answer(status, {"Content-Type": "application/json", **named, **(headers or {})}, body)

    def _answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self._cut else body)


def _entry(path, root):
    where = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": where, "oid": hashlib.sha1(where.encode()).hexdigest(), "size": 0}
    data = path.read_bytes()
    return {"type": "file", "path": where, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
