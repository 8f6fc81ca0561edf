"""A model hub on this machine: the part of the hub's HTTP interface that huggingface_hub really calls.

Serves folders as repositories. Large files are redirected to a "storage" under another host name, as the real
hub does, with the headers the client resumes and verifies by. Faults can be ordered.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, what was asked, and what is to go wrong.

    `cut_after` closes the connection after so many bytes of a large file, as often as `cuts` says; `broken`
    lists large files whose content is altered on the way; `gated` repositories answer 403.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    cut_after: int = 0
    cuts: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self, method: str = "GET") -> list[str]:
        """What was asked for with a method, without queries."""
        return [path for way, path, _ in self.asked if way == method]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the server in a thread for as long as the block lasts."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", hub.port), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        words = path.strip("/").split("/")
        if words[0] == "storage":
            self._storage("/".join(words[1:]))
        elif words[:2] == ["api", "models"]:
            self._info("/".join(words[2:4]), words[5] if words[4:5] == ["revision"] else "main")
        elif len(words) > 4 and words[2] == "resolve":
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            self._fail(404, "EntryNotFound")

    def _repository(self, repo_id: str, revision: str) -> Path | None:
        if repo_id in self.served.gated:
            self._fail(403, "GatedRepo")
        elif repo_id not in self.served.repositories:
            self._fail(401, "RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self._fail(404, "RevisionNotFound")
        else:
            return self.served.repositories[repo_id]
        return None

    def _info(self, repo_id: str, revision: str) -> None:
        folder = self._repository(repo_id, revision)
        if folder is None:
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        siblings = [{"rfilename": p.relative_to(folder).as_posix(), "size": p.stat().st_size} for p in files]
        self._send(json.dumps({"id": repo_id, "sha": COMMIT, "siblings": siblings}).encode(), {})

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        folder = self._repository(repo_id, revision)
        if folder is None:
            return
        path = folder / name
        if not path.is_file():
            self._fail(404, "EntryNotFound")
            return
        data = path.read_bytes()
        if path.suffix != ".safetensors":
            etag = hashlib.sha1(data).hexdigest()
            self._send(data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            return
        headers = {
            "Location": f"http://localhost:{self.served.port}/storage/{repo_id}/{name}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
        }
        self._send(b"", headers, status=302)

    def _storage(self, name: str) -> None:
        owner, repo, *rest = name.split("/")
        data = (self.served.repositories[f"{owner}/{repo}"] / "/".join(rest)).read_bytes()
        if name in self.served.broken:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = (
            int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        )
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._send(data[start:], headers, status=206 if start else 200, cuttable=True)

    def _send(
        self, data: bytes, headers: dict[str, str], *, status: int = 200, cuttable: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cuttable and self.served.cuts and len(data) > self.served.cut_after:
            self.served.cuts -= 1
            self.wfile.write(data[: self.served.cut_after])
            self.wfile.flush()
            self.connection.shutdown(2)
            self.close_connection = True
            return
        self.wfile.write(data)

    def _fail(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=status)
