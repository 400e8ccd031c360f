# SPDX-License-Identifier: MIT OR Apache-2.0
"""A sync server: the protocol of section 18.1 of the reference, by HTTP, over a database of its own."""

import base64
import hmac
import http.server
import json
import sqlite3
import threading
import time
import uuid
from typing import Any, Dict, Optional, Tuple

from bakthat.conf import BakthatError

LIMIT = 256 << 20  # bytes of a request
SCHEMA = """
CREATE TABLE IF NOT EXISTS clients (user TEXT, name TEXT, id TEXT, PRIMARY KEY (user, name));
CREATE TABLE IF NOT EXISTS rows (user TEXT, stored_filename TEXT, ts REAL, client TEXT, last_updated INTEGER, data TEXT,
    PRIMARY KEY (user, stored_filename));
CREATE INDEX IF NOT EXISTS rows_ts ON rows (user, ts);
"""


def read_users(path: str) -> Dict[str, str]:
    """The users of a file with a line ``name:password`` for each."""
    with open(path, encoding="utf-8") as file:
        users = dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
    if not users:
        raise BakthatError(f"{path} has no line name:password")
    return users


class SyncServer(http.server.ThreadingHTTPServer):
    """Serves until it is shut down. Users see their own rows only."""

    daemon_threads = True

    def __init__(self, address: Tuple[str, int], database: str, users: Dict[str, str]) -> None:
        self.users, self.turn = users, threading.Lock()
        self.database = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self.database.executescript(SCHEMA)
        super().__init__(address, SyncHandler)

    def server_close(self) -> None:
        super().server_close()
        self.database.close()

    def client(self, user: str, name: str) -> Dict[str, str]:
        """The client of that name, made when it is new."""
        with self.turn, self.database:
            self.database.execute("INSERT OR IGNORE INTO clients VALUES (?, ?, ?)", (user, name, uuid.uuid4().hex))
            found = self.database.execute("SELECT id FROM clients WHERE user = ? AND name = ?", (user, name)).fetchone()
        return {"_id": found[0], "name": name}

    def exchange(self, user: str, client: str, since: float, new: Any) -> Dict[str, Any]:
        """Takes the rows that are newer than ours; returns those that changed since, but for this client's own."""
        with self.turn, self.database:
            self.database.execute("BEGIN IMMEDIATE")
            now = max(time.time(), (self.database.execute("SELECT max(ts) FROM rows").fetchone()[0] or 0) + 0.001)
            # A client that begins anew gets its own rows too: its database may be lost.
            found = self.database.execute(
                "SELECT data FROM rows WHERE user = ? AND ts > ? AND (client != ? OR ? = 0)",
                (user, since, client, since),
            )
            updated = [json.loads(row[0]) for row in found]
            for row in new:
                row = {name: value for name, value in row.items() if name != "id"}
                self.database.execute(
                    "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user, stored_filename) DO UPDATE "
                    "SET ts = excluded.ts, client = excluded.client, last_updated = excluded.last_updated, "
                    "data = excluded.data WHERE excluded.last_updated > rows.last_updated",
                    (user, row["stored_filename"], now, client, int(row["last_updated"]), json.dumps(row)),
                )
        return {"updated": updated, "sync_ts": now}


class SyncHandler(http.server.BaseHTTPRequestHandler):
    """One request of a client."""

    server: SyncServer
    timeout = 60

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self, status: int, what: Any, **headers: str) -> None:
        body = json.dumps(what).encode("utf-8")
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def user(self) -> Optional[str]:
        """The user whose login the request has."""
        kind, _, login = self.headers.get("Authorization", "").partition(" ")
        try:
            name, _, password = base64.b64decode(login).decode("utf-8").partition(":")
        except ValueError:
            return None
        known = self.server.users.get(name, "")
        right = hmac.compare_digest(known.encode("utf-8"), password.encode("utf-8"))
        return name if kind.lower() == "basic" and known and right else None

    def do_POST(self) -> None:
        user, client = self.user(), self.headers.get("bakthat-client")
        length = self.headers.get("Content-Length") or "0"
        if user is None:
            return self.answer(401, {"error": "wrong login"}, WWW_Authenticate='Basic realm="bakthat"')
        if not client or not length.isdigit() or int(length) > LIMIT:
            return self.answer(400, {"error": "no bakthat-client header, or a body that is too long"})
        body = self.rfile.read(int(length))
        if self.path.endswith("/clients"):
            return self.answer(200, self.server.client(user, client))
        if not self.path.endswith("/backups/sync"):
            return self.answer(404, {"error": "no such address"})
        try:
            asked = json.loads(body)
            answer = self.server.exchange(user, client, float(asked["sync_ts"]), asked["new"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, sqlite3.Error) as error:
            return self.answer(400, {"error": f"not a request to sync: {error}"})
        self.answer(200, answer)
