"""Jobs and pictures on disk: what was accepted survives the server.

SQLite, one file; pictures lie beside it under their ids. Every change is one transaction, so a killed server
leaves each job either before it or after it. Does not know HTTP, threads that run jobs, or models.
"""

from __future__ import annotations

import io
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from PIL import Image

from ssd1b.base.errors import DamagedFileError
from ssd1b.base.files import write_atomic
from ssd1b.generate.canvas import Canvas, read_canvas
from ssd1b.generate.request import Request, request_of
from ssd1b.serve.jobs import Job, KeyReusedError, Order, Picture, QueueFullError, State, UnknownJobError
from ssd1b.serve.limits import Limits

FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, client TEXT NOT NULL, key TEXT,
  digest TEXT NOT NULL, model TEXT NOT NULL, dialect TEXT NOT NULL, requests TEXT NOT NULL,
  state TEXT NOT NULL, error TEXT NOT NULL DEFAULT '', cancel INTEGER NOT NULL DEFAULT 0,
  created REAL NOT NULL, started REAL, finished REAL);
CREATE UNIQUE INDEX IF NOT EXISTS once ON jobs (client, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, number);
CREATE TABLE IF NOT EXISTS pictures (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, job TEXT NOT NULL, request TEXT NOT NULL,
  seconds REAL NOT NULL, created REAL NOT NULL);
CREATE INDEX IF NOT EXISTS of_job ON pictures (job, number);
"""
# The client that was served longest ago goes first; of its jobs, the oldest.
_NEXT = """
SELECT id FROM jobs WHERE state = 'waiting' ORDER BY
  (SELECT COALESCE(MAX(served.started), 0) FROM jobs AS served WHERE served.client = jobs.client), number
LIMIT 1
"""


class Store:
    """The queue and the gallery of one server. Safe to use from several threads."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        """Open or make the store in a folder.

        Raises:
            DamagedFileError: the file there is no store of this version.
        """
        self.folder, self.limits = folder, limits or Limits()
        self.pictures_folder, self._canvases = folder / "pictures", folder / "canvases"
        self.pictures_folder.mkdir(parents=True, exist_ok=True)
        self._lock = RLock()
        path = folder / "jobs.sqlite"
        try:
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._base.row_factory = sqlite3.Row
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, FORMAT):
                raise DamagedFileError(f"{path} is of format {version}; this ssd1b reads {FORMAT}.")
            self._base.executescript(_TABLES)
            self._base.execute(f"PRAGMA user_version={FORMAT}")
        except sqlite3.DatabaseError as error:
            raise DamagedFileError(
                f"{path} cannot be read ({error}). Move it away and start again; pictures stay."
            ) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._base.close()

    def recover(self) -> list[str]:
        """Call once at start: what was running when the last server went is interrupted; return the ids."""
        with self._change() as base:
            ids = [row["id"] for row in base.execute("SELECT id FROM jobs WHERE state = 'running'")]
            base.execute(
                "UPDATE jobs SET state = 'interrupted', finished = ?, error = ? WHERE state = 'running'",
                (time.time(), "The server stopped while this was being made."),
            )
        return ids

    def add(self, order: Order, retry_after_s: Callable[[int], int] = lambda waiting: 5) -> Job:
        """Accept a job, or return the one that this client's key already stands for.

        Args:
            order: what is wanted.
            retry_after_s: guesses, from the number of waiting jobs, when there will be room.

        Raises:
            QueueFullError: too many wait already.
            KeyReusedError: the key came before with another request.
        """
        requests = json.dumps([request.model_dump() for request in order.requests], sort_keys=True)
        with self._change() as base:
            known = base.execute(
                "SELECT id, digest FROM jobs WHERE client = ? AND key = ?", (order.client, order.key or None)
            ).fetchone()
            if known is not None:
                if known["digest"] != order.digest:
                    raise KeyReusedError(
                        f"The idempotency key '{order.key}' stood for another request. Take a new key."
                    )
                return self.job(known["id"])
            self._refuse_when_full(base, order.client, retry_after_s)
            name, now = secrets.token_urlsafe(12), time.time()
            said = (order.client, order.key or None, order.digest, order.model, order.dialect, requests)
            base.execute(
                "INSERT INTO jobs (id, client, key, digest, model, dialect, requests, state, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting', ?)",
                (name, *said, now),
            )
            if order.canvas is not None:  # within the lock: `sweep` must not come between
                self._keep_canvas(order.canvas)
        return self.job(name)

    def _refuse_when_full(
        self, base: sqlite3.Connection, client: str, retry_after_s: Callable[[int], int]
    ) -> None:
        every, own = base.execute(
            "SELECT COUNT(*), COALESCE(SUM(client = ?), 0) FROM jobs WHERE state = 'waiting'", (client,)
        ).fetchone()
        if every >= self.limits.waiting or own >= self.limits.waiting_of_client:
            whose = "of yours " if every < self.limits.waiting else ""
            raise QueueFullError(
                f"{own if whose else every} jobs {whose}are waiting, and no more are taken. Try later.",
                retry_after_s(every),
            )

    def canvases(self, request: Request) -> dict[str, Image.Image]:
        """What a request paints over, as `pipeline.sample` takes it.

        Raises:
            MissingFileError, DamagedFileError: its file is gone.
        """
        if not request.image:
            return {}
        mask = self._canvas(request.mask) if request.mask else None
        return read_canvas(self._canvas(request.image), mask).by_digest()

    def sweep(self) -> None:
        """Let go of canvases that no waiting or running job paints over."""
        with self._lock:
            rows = self._base.execute("SELECT requests FROM jobs WHERE state IN ('waiting', 'running')")
            asked = [request for row in rows for request in json.loads(row["requests"])]
            needed = {request.get(part) for request in asked for part in ("image", "mask")}
            for path in self._canvases.glob("*.png"):
                if path.stem not in needed:
                    path.unlink(missing_ok=True)

    def _keep_canvas(self, canvas: Canvas) -> None:
        for digest, image in canvas.by_digest().items():
            if not self._canvas(digest).is_file():
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                write_atomic(self._canvas(digest), buffer.getvalue())

    def _canvas(self, digest: str) -> Path:
        return self._canvases / f"{digest}.png"

    def claim(self) -> Job | None:
        """Take the next job to run: clients take turns, each in its own order. None: nothing waits."""
        with self._change() as base:
            row = base.execute(_NEXT).fetchone()
            if row is None:
                return None
            change = "UPDATE jobs SET state = 'running', started = ? WHERE id = ?"
            base.execute(change, (time.time(), row["id"]))
        return self.job(row["id"])

    def finish(self, name: str, state: State, error: str = "") -> Job:
        """Put an end to a running job; one that already has an end keeps it."""
        assert state.final, "a job ends in a final state"
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET state = ?, error = ?, finished = ? WHERE id = ? AND state = 'running'",
                (state.value, error, time.time(), name),
            )
        return self.job(name)

    def cancel(self, name: str) -> Job:
        """Cancel: a waiting job at once, a running one at its next step; one that ended stays as it is.

        Raises:
            UnknownJobError: no such job.
        """
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'waiting'",
                (time.time(), name),
            )
            base.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (name,))
        return self.job(name)

    def cancel_asked(self, name: str) -> bool:
        """Whether somebody wants this running job to stop."""
        with self._lock:
            row = self._base.execute("SELECT cancel FROM jobs WHERE id = ?", (name,)).fetchone()
        return bool(row and row["cancel"])

    def job(self, name: str) -> Job:
        """One job.

        Raises:
            UnknownJobError: no such job.
        """
        with self._lock:
            row = self._base.execute("SELECT * FROM jobs WHERE id = ?", (name,)).fetchone()
            if row is None:
                raise UnknownJobError("There is no job of this id.")
            return self._job_of(row)

    def jobs(self, states: Sequence[State] = tuple(State), limit: int = 100) -> list[Job]:
        """Jobs in these states, the newest first."""
        marks = ",".join("?" * len(states))
        with self._lock:
            rows = self._base.execute(
                f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY number DESC LIMIT ?",
                (*(state.value for state in states), limit),
            ).fetchall()
            return [self._job_of(row) for row in rows]

    def ahead_of(self, name: str) -> int:
        """How many waiting jobs came before this one; 0 for one that does not wait."""
        with self._lock:
            row = self._base.execute(
                "SELECT COUNT(*) FROM jobs WHERE state = 'waiting' AND number <"
                " (SELECT number FROM jobs WHERE id = ? AND state = 'waiting')",
                (name,),
            ).fetchone()
        return int(row[0])

    def count(self, state: State) -> int:
        """How many jobs are in a state."""
        with self._lock:
            row = self._base.execute("SELECT COUNT(*) FROM jobs WHERE state = ?", (state.value,)).fetchone()
        return int(row[0])

    def keep(self, job: str, request: Request, png: bytes, seconds: float) -> Picture:
        """Put a finished picture into the gallery; the file is there before its entry.

        Raises:
            DiskFullError: no room left.
        """
        name = secrets.token_urlsafe(16)
        write_atomic(self.pictures_folder / f"{name}.png", png)
        with self._change() as base:
            base.execute(
                "INSERT INTO pictures (id, job, request, seconds, created) VALUES (?, ?, ?, ?, ?)",
                (name, job, json.dumps(request.model_dump()), seconds, time.time()),
            )
            old = base.execute(
                "SELECT id FROM pictures ORDER BY number DESC LIMIT -1 OFFSET ?", (self.limits.kept_pictures,)
            ).fetchall()
        for row in old:
            self.remove(row["id"])
        return self.picture(name)

    def picture(self, name: str) -> Picture:
        """One picture's entry.

        Raises:
            UnknownJobError: no such picture.
        """
        with self._lock:
            row = self._base.execute("SELECT * FROM pictures WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise UnknownJobError("There is no picture of this id.")
        return _picture_of(row)

    def png(self, name: str) -> bytes:
        """One picture's file; only ids of the gallery lead to files.

        Raises:
            UnknownJobError: no such picture, or its file is gone.
        """
        path = self.pictures_folder / f"{self.picture(name).id}.png"
        if not path.is_file():
            raise UnknownJobError("The file of this picture is gone.")
        return path.read_bytes()

    def pictures(self, limit: int = 100, before: float | None = None) -> list[Picture]:
        """The gallery, newest first; `before` goes on where an earlier answer ended."""
        with self._lock:
            rows = self._base.execute(
                "SELECT * FROM pictures WHERE created < ? ORDER BY number DESC LIMIT ?",
                (float("inf") if before is None else before, limit),
            ).fetchall()
        return [_picture_of(row) for row in rows]

    def remove(self, name: str) -> None:
        """Take a picture out of the gallery, entry first, then the file.

        Raises:
            UnknownJobError: no such picture.
        """
        known = self.picture(name)
        with self._change() as base:
            base.execute("DELETE FROM pictures WHERE id = ?", (known.id,))
        (self.pictures_folder / f"{known.id}.png").unlink(missing_ok=True)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or, after an error, nothing."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _job_of(self, row: sqlite3.Row) -> Job:
        requests = tuple(request_of(each) for each in json.loads(row["requests"]))
        made = self._base.execute("SELECT * FROM pictures WHERE job = ? ORDER BY number", (row["id"],))
        return Job(
            id=row["id"],
            order=Order(row["client"], row["model"], requests, row["key"] or "", row["dialect"]),
            state=State(row["state"]),
            created=row["created"],
            started=row["started"],
            finished=row["finished"],
            error=row["error"],
            pictures=tuple(_picture_of(each) for each in made),
        )


def _picture_of(row: Any) -> Picture:  # noqa: ANN401, sqlite3.Row has no types
    request = request_of(json.loads(row["request"]))
    return Picture(row["id"], row["job"], request, row["seconds"], row["created"])
