# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sync, monitoring, Swift, Glacier: lines 39 to 42 of the conformance checklist."""

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import tempfile
import time
import unittest
import urllib.parse
from contextlib import closing

import servers
from case import Case

COLUMNS = (
    "backend backend_hash backup_date filename id is_deleted last_updated metadata size stored_filename tags".split()
)


class Sync(Case):
    def setUp(self):
        super().setUp()
        self.status, self.updated, self.sync_ts = 200, [], 1000.5
        self.server = servers.Recorder(self.answers)
        self.addCleanup(self.server.close)
        self.profiles = {"default": self.s3()}
        settings = {"url": f"{self.server.url}/api", "username": "user", "password": "secret"}
        self.profiles["sync"] = settings
        self.write_config(self.profiles)

    def answers(self, request):
        if self.status != 200:
            return self.status, {}, b"not today"
        if request.path.endswith("clients"):
            return 200, {}, b'{"_id": "the-id", "name": "x"}'
        return 200, {}, json.dumps({"updated": self.updated, "sync_ts": self.sync_ts}).encode("utf-8")

    def row(self, name, **columns):
        given = {
            "backend": "s3", "backend_hash": "h", "backup_date": 50, "filename": name, "is_deleted": False,
            "last_updated": 50, "metadata": {"is_enc": False}, "size": 5, "tags": "a b",
            "stored_filename": f"{name}.20240101000000.tgz", **columns,
        }  # fmt: skip
        return given

    def test_39_requests_byte_for_byte(self):
        bakthat = self.bakthat
        bakthat.Backups.create(**self.row("kept"))
        bakthat.Backups.create(**self.row("gone", is_deleted=True))
        bakthat.Backups.create(**self.row("swifted", backend="swift"))
        bakthat.sync()
        register, sync = self.server.requests
        login = "Basic " + base64.b64encode(b"user:secret").decode()
        for request, path in ((register, "/api/clients"), (sync, "/api/backups/sync")):
            self.assertEqual((request.method, request.path), ("POST", path))
            headers = [request.headers[name] for name in ("authorization", "content-type", "bakthat-client")]
            self.assertEqual(headers, [login, "application/json", socket.gethostname()])
        self.assertEqual(register.body, b"")
        body = json.loads(sync.body)
        self.assertEqual(sorted(body), ["new", "sync_ts"])
        self.assertEqual(body["sync_ts"], 0)
        self.assertEqual([sorted(row) for row in body["new"]], [COLUMNS] * 3)
        rows = {row["filename"]: row for row in body["new"]}
        self.assertEqual({**rows["gone"], "id": None}, {**self.row("gone", is_deleted=True), "id": None})
        self.assertEqual(rows["swifted"]["backend"], "swift")
        config = bakthat.models.Config
        self.assertEqual((config.get_key("client_id"), config.get_key("sync_ts")), ("the-id", 1000.5))
        bakthat.sync()
        self.assertEqual(len(self.server.requests), 3)
        self.assertEqual(json.loads(self.server.requests[2].body), {"sync_ts": 1000.5, "new": []})

    def test_39_rows_that_are_newer_are_taken(self):
        backups = self.bakthat.Backups
        backups.create(**self.row("a"))
        backups.create(**self.row("b"))
        newer = self.row("a", last_updated=60, is_deleted=True, metadata={"is_enc": False, "other": 1})
        self.updated = [
            {**newer, "id": 99, "unknown": 1},
            self.row("b", last_updated=40, size=1),
            self.row("c"),
            {"size": 1},
        ]
        self.bakthat.sync()
        a, b, c = (backups.get(backups.filename == name) for name in "abc")
        self.assertEqual((a.is_deleted, a.last_updated, a.metadata["other"]), (True, 60, 1))
        self.assertNotEqual(a.id, 99)
        self.assertEqual((b.size, c.size, backups.select().count()), (5, 5, 3))

    def test_39_errors_change_nothing(self):
        self.status = 401
        self.bakthat.sync()
        self.assertEqual(self.texts(level=40), ["An error occured during sync: not today"] * 2)
        self.assertEqual(self.bakthat.models.Config.get_key("sync_ts", "none"), "none")
        with self.assertRaises(OSError):
            self.bakthat.sync(conf={"url": "http://127.0.0.1:1"})
        self.write_config({"default": self.s3()})
        with self.assertRaisesRegex(Exception, "url"):
            self.bakthat.sync()

    def test_39_auto_and_reset(self):
        self.file("f")
        self.bakthat.backup("f", password="")
        self.assertEqual(self.server.requests, [])
        self.profiles["sync"]["auto"] = True
        self.write_config(self.profiles)
        self.bakthat.backup("f", password="")
        self.assertEqual(len(json.loads(self.server.requests[-1].body)["new"]), 2)
        self.bakthat.reset_sync()
        config = self.bakthat.models.Config
        self.assertEqual((config.get_key("sync_ts"), config.get_key("client_id")), (0, None))
        self.profiles["sync"]["url"] = "http://127.0.0.1:1"
        self.write_config(self.profiles)
        self.assertTrue(self.bakthat.backup("f", password=""))
        self.assertTrue([line for line in self.texts(level=40) if line.startswith("An error occured during sync")])

    def test_39_rows_of_a_machine_east_of_greenwich_are_sent_too(self):
        self.sync_ts = time.time()
        self.bakthat.sync()
        os.environ["TZ"] = "Asia/Tokyo"
        time.tzset()
        self.file("f")
        self.bakthat.backup("f", password="")
        self.bakthat.sync()
        self.assertEqual([row["filename"] for row in json.loads(self.server.requests[-1].body)["new"]], ["f"])

    def test_39_two_machines_meet_at_our_own_server(self):
        users = self.file("users", "user:secret\nother:word\n")
        server = self.started("sync-server", "--users", users, "--port", "0", "--database", self.home / "server.sqlite")
        self.addCleanup(server.communicate)
        self.addCleanup(server.send_signal, signal.SIGINT)
        url = server.stderr.readline().split()[-1]
        self.profiles["sync"]["url"] = url
        self.write_config(self.profiles)
        homes = [tempfile.mkdtemp(dir=self.home) for _ in range(2)]
        for home in homes:
            shutil.copy(self.home / ".bakthat.yml", home)
        self.file("f")

        def on(home, code):
            prelude = f"import socket; socket.gethostname = lambda: {os.path.basename(home)!r}\nimport bakthat\n"
            return self.succeeds(self.python(prelude + code, env={"HOME": home})).stdout.split()

        (name,) = on(homes[0], "print(bakthat.backup('f', password='').stored_filename); bakthat.sync()")
        listing = "bakthat.sync(); print(*[(r.stored_filename, r.is_deleted) for r in bakthat.Backups.select()])"
        self.assertEqual(on(homes[1], listing), [f"('{name}',", "False)"])
        on(homes[1], "bakthat.restore('f'); import time; time.sleep(1.1); bakthat.delete('f'); bakthat.sync()")
        self.assertEqual(on(homes[0], listing), [f"('{name}',", "True)"])
        auth = {"content-type": "application/json", "bakthat-client": "c"}
        request = self.bakthat.sync.__globals__["BakSyncer"].__init__.__globals__["request"]
        self.assertEqual(request("POST", f"{url}/clients", ("user", "wrong"), auth, b"")[0], 401)
        self.assertEqual(request("POST", f"{url}/clients", ("user", "secret"), {}, b"")[0], 400)
        row = {"stored_filename": "x", "last_updated": 1}
        for new in ("nonsense", [{}], [{**row, "stored_filename": {}}], [{**row, "last_updated": 10**30}], [row, 5]):
            body = json.dumps({"sync_ts": 0, "new": new}).encode()
            self.assertEqual(request("POST", f"{url}/backups/sync", ("user", "secret"), auth, body)[0], 400)
        self.assertEqual(request("POST", f"{url}/backups/sync", ("user", "secret"), auth, b"no JSON")[0], 400)
        one, again = (request("POST", f"{url}/clients", ("user", "secret"), auth, b"")[1] for _ in range(2))
        self.assertEqual(json.loads(one)["_id"], json.loads(again)["_id"])
        asked = json.dumps({"sync_ts": 0, "new": []}).encode()
        self.assertEqual(
            json.loads(request("POST", f"{url}/backups/sync", ("other", "word"), auth, asked)[1])["updated"], []
        )

    def test_39_the_command_serves_others(self):
        users = self.file("users", "user:sec:ret\n")
        database = self.home / "served.sqlite"
        server = self.started("sync-server", "--users", users, "--port", "0", "--database", database)
        line = server.stderr.readline()
        self.assertRegex(line, r"^Serving on http://127\.0\.0\.1:\d+$")
        self.profiles["sync"].update(url=line.split()[-1], password="sec:ret")
        self.write_config(self.profiles)
        self.file("f")
        self.bakthat.backup("f", password="")
        self.assertEqual(self.succeeds(self.command("sync")).stderr, "")
        server.send_signal(signal.SIGINT)
        self.assertEqual((server.communicate()[1], server.returncode), ("Cancelled by user\n", 1))
        with closing(sqlite3.connect(database)) as served, served:
            self.assertEqual(served.execute("SELECT user, count(*) FROM rows").fetchall(), [("user", 1)])
        self.assertIn("no line name:password", self.command("sync-server", "--users", os.devnull).stderr)


class Monitoring(Case):
    def setUp(self):
        super().setUp()
        self.answer = 200, {}, b"{}"
        self.server = servers.Recorder(lambda request: self.answer)
        self.addCleanup(self.server.close)
        self.conf = self.s3(bakmanager_token="token", bakmanager_api=f"{self.server.url}/api")

    def test_40_the_form_that_is_posted(self):
        self.file("f")
        record = self.bakthat.backup("f", password="", key="nightly", conf=self.conf)
        (request,) = self.server.requests
        self.assertEqual((request.method, request.path), ("POST", "/api"))
        self.assertEqual(request.headers["authorization"], "Basic " + base64.b64encode(b"token:").decode())
        form = urllib.parse.parse_qs(request.body.decode())
        self.assertEqual(list(form), ["backup"])
        told = {"key": "nightly", "host": socket.gethostname(), "size": record.size}
        self.assertEqual(json.loads(form["backup"][0]), told)

    def test_40_failures_never_break_a_backup(self):
        self.file("f")
        self.answer = 500, {}, b"broken"
        gone = {**self.conf, "bakmanager_api": "http://127.0.0.1:1/"}
        ended = {key: value for key, value in self.conf.items() if key != "bakmanager_api"}
        for conf in (self.conf, gone, ended):
            self.lines.records.clear() if self._module else None
            self.assertTrue(self.bakthat.backup("f", password="", key="k", conf=conf))
            self.assertEqual(self.texts(level=40), ["Error while submitting periodic backup to BakManager."])
        self.lines.records.clear()
        self.assertTrue(self.bakthat.backup("f", password="", key="k"))
        self.assertEqual(self.texts(level=40), ["No bakmanager_token setting for the current profile."])

    def test_40_the_list(self):
        items = [
            {
                "key": "nightly", "status": "LATE", "interval_human": "2D", "total_size_human": "12 MB",
                "latest": {"date_human": "2024/02/03 04:05:06"},
            },
            {"key": "new", "status": "OK", "interval_human": "1D", "total_size_human": "0 B", "latest": None},
        ]  # fmt: skip
        self.answer = 200, {}, json.dumps({"_items": items}).encode()
        self.write_config({"default": self.conf})
        self.bakthat.periodic_backups()
        first = "nightly              status: LATE  interval: 2D     total: 12 MB      latest: 2024/02/03 04:05:06 "
        self.assertEqual(self.texts()[0], first)
        self.assertTrue(self.texts()[1].endswith(" latest: None "))
        self.assertEqual(self.server.requests[0].method, "GET")
        self.answer = 403, {}, b"no"
        with self.assertRaises(Exception):
            self.bakthat.periodic_backups()


class Swift(Case):
    def test_41_a_container_of_swift(self):
        objects = {}
        server = servers.swift(objects)
        self.addCleanup(server.close)
        profile = {
            "access_key": "account:user",
            "secret_key": "swiftpass",
            "s3_bucket": "box",
            "default_destination": "swift",
        }
        self.write_config({"default": {**profile, "auth_url": f"{server.url}/auth/v1.0", "auth_version": "1"}})
        self.file("data/f", "on swift")
        record = self.bakthat.backup("data", password="")
        self.assertEqual(self.texts(logger="bakthat.backends"), [])
        self.assertEqual(record.backend, "swift")
        self.assertEqual(sorted(objects), ["/v1/AUTH_account/box", f"/v1/AUTH_account/box/{record.stored_filename}"])
        self.assertEqual(self.bakthat.ls(), [record.stored_filename])
        folder = self.in_folder()
        self.bakthat.restore("data")
        self.assertEqual((folder / "data/f").read_text(), "on swift")
        self.lines.records.clear()
        self.bakthat.show()
        self.assertEqual(len(self.texts()), 1)
        self.bakthat.delete("data")
        self.assertEqual(list(objects), ["/v1/AUTH_account/box"])


class SwiftItself(Case):
    """OpenStack's own servers."""

    def setUp(self):
        super().setUp()
        self.conf = {
            "access_key": "account:user",
            "secret_key": "swiftpass",
            "s3_bucket": f"box {self.id()}",
            "default_destination": "swift",
            "auth_url": servers.swift_itself(),
        }
        self.write_config({"default": self.conf})

    def test_41_the_life_of_a_backup(self):
        self.file("data/f", "on swift")
        for name in (None, "ä b"):
            record = self.bakthat.backup("data", password="abc", custom_filename=name)
            self.assertEqual(record.backend, "swift")
            self.assertEqual(self.bakthat.ls(), [record.stored_filename])
            self.assertEqual(self.backend().stored_size(record.stored_filename), record.size)
            folder = self.in_folder(f"back {name}")
            self.bakthat.restore(name or "data", password="abc")
            self.assertEqual((folder / "data/f").read_text(), "on swift")
            os.chdir(self.work)
            self.bakthat.delete(name or "data")
            self.assertEqual(self.bakthat.ls(), [])
        self.assertEqual(self.temporary_files(), [])

    def test_41_a_large_object_lies_in_segments_which_go_with_it(self):
        path = self.file("big", os.urandom((33 << 20) + 17))
        record = self.bakthat.backup("big", password="", conf={**self.conf, "compress": False})
        segments = self.bakthat.SwiftBackend({**self.conf, "s3_bucket": f"{self.conf['s3_bucket']}_segments"})
        self.assertEqual((self.bakthat.ls(), len(segments.ls())), ([record.stored_filename], 3))
        folder = self.in_folder()
        self.bakthat.restore("big")
        self.assertEqual((folder / "big").read_bytes(), path.read_bytes())
        os.chdir(self.work)
        self.bakthat.delete("big")
        self.assertEqual((self.bakthat.ls(), segments.ls()), ([], []))

    def test_41_many_objects_and_values_of_keys(self):
        store = self.backend().store
        names = sorted(f"key/{number}%" for number in range(120))
        for name in names:
            store.put(name, name.encode())
        self.assertEqual(store.list(), names)
        self.assertEqual((store.get(names[7]), store.get("none"), store.size("none")), (names[7].encode(), None, None))
        store.put(names[7], b"other")
        self.assertEqual(store.get(names[7]), b"other")
        store.delete("none")

    def test_41_rotation_and_a_wrong_key(self):
        self.file("f")
        for _ in range(3):
            self.bakthat.backup("f", password="")
        self.assertEqual(len(self.bakthat.rotate_backups("f", conf={**self.conf, "rotation": {"days": 1}})), 2)
        self.assertEqual(len(self.bakthat.ls()), 1)
        with self.assertRaisesRegex(Exception, "(?i)cannot log in"):
            self.bakthat.backup("f", password="", conf={**self.conf, "secret_key": "wrong"})


class Glacier(Case):
    def setUp(self):
        super().setUp()
        self.server = servers.Glacier()
        self.addCleanup(self.server.close)
        profile = {"access_key": "MYKEY", "secret_key": "s", "glacier_vault": "vault", "region_name": "eu-west-1"}
        self.conf = {**profile, "endpoint_url": self.server.url, "default_destination": "glacier"}
        self.write_config({"default": self.conf})

    def test_42_the_life_of_a_job(self):
        bakthat, fired = self.bakthat, []
        bakthat.events.on_restore += lambda *given: fired.append(given)
        self.file("data/f", "frozen" * 1000)
        record = bakthat.backup("data", password="")
        self.assertEqual((record.backend, self.server.vaults, len(self.server.archives)), ("glacier", {"vault"}, 1))
        ((description, data),) = self.server.archives.values()
        self.assertEqual((description, len(data)), (record.stored_filename, record.size))
        self.assertEqual(self.texts(logger="bakthat.backends"), [])
        folder = self.in_folder()
        self.lines.records.clear()
        self.assertIsNone(bakthat.restore("data"))
        line = "Job ArchiveRetrieval: InProgress (2024-02-03T04:05:06.000Z/None)"
        self.assertEqual(self.texts(logger="bakthat.backends"), [line, "Not completed yet"])
        self.assertEqual((fired, list(folder.iterdir()), self.temporary_files()), ([], [], []))
        self.assertEqual(bakthat.models.Jobs.get_job_id(record.stored_filename), "job-0")
        self.lines.records.clear()
        job = bakthat.restore("data", job_check=True)
        given = (job.id, job.action, job.status_code, job.completed, job.archive_size)
        self.assertEqual(given, ("job-0", "ArchiveRetrieval", "InProgress", False, len(data)))
        self.assertIn("Job Check: {'job_check': True}", self.texts(logger="bakthat"))
        self.assertEqual(self.texts(logger="bakthat")[-1], "Job Check Request")
        self.assertEqual((fired, len(self.server.jobs)), ([], 1))
        self.server.finish = True
        self.assertEqual(bakthat.restore("data").id, record.id)
        self.assertEqual((folder / "data/f").read_text(), "frozen" * 1000)
        self.assertEqual(len(fired), 1)
        self.server.jobs.clear()
        self.server.finish = False
        self.assertIsNone(bakthat.restore("data"))
        self.assertEqual(len(self.server.jobs), 1)
        bakthat.delete("data")
        self.assertEqual((self.server.archives, bakthat.models.Inventory.select().count()), ({}, 0))
        with self.assertRaises(bakthat.models.Inventory.DoesNotExist):
            self.backend().delete("unknown")

    def test_42_an_archive_in_parts(self):
        path = self.file("big", os.urandom((5 << 20) + 12345))
        backend = self.backend()
        archive = backend.vault.upload(str(path), "big", part_size=1 << 20)
        self.assertEqual(self.server.archives[archive], ("big", path.read_bytes()))
        self.server.finish = True
        self.bakthat.models.Inventory.create(filename="big", archive_id=archive)
        with backend.download("big") as file:
            self.assertEqual(file.read(), path.read_bytes())
        self.assertEqual(self.temporary_files(), [])

    def test_42_job_check_is_for_glacier_only(self):
        self.write_config({"default": self.s3()})
        self.file("f")
        self.bakthat.backup("f", password="")
        with self.assertRaises(TypeError):
            self.bakthat.restore("f", job_check=True)

    def test_42_a_lost_database_is_rebuilt_from_the_vaults_inventory(self):
        self.file("data/f", "frozen")
        record = self.bakthat.backup("data", password="")
        self._drop()
        (self.home / ".bakthat.sqlite").unlink()
        self.assertEqual(self.bakthat.rebuild(), [])
        self.server.finish = True
        self.assertEqual([row.stored_filename for row in self.bakthat.rebuild()], [record.stored_filename])
        folder = self.in_folder()
        self.bakthat.restore("data")
        self.assertEqual((folder / "data/f").read_text(), "frozen")

    def test_42_the_inventory_is_kept_in_s3(self):
        self.file("f")
        settings = self.s3()
        record = self.bakthat.backup("f", password="")
        backend = self.backend()
        backend.conf = {**settings}
        backend.backup_inventory()
        rows = [{"filename": record.stored_filename, "archive_id": "archive-0"}]
        self.assertEqual(backend.load_archives_from_s3(), rows)
        inventory = self.bakthat.models.Inventory
        for saved in (rows, {record.stored_filename: "archive-0"}):
            inventory.delete().execute()
            self.bakthat.S3Backend(settings).store.put("bakthat_glacier_inventory", json.dumps(saved).encode())
            backend.restore_inventory()
            backend.restore_inventory()
            self.assertEqual(backend.ls(), [record.stored_filename])
        self.assertEqual((backend.load_archives(), backend.backup_key), ([], "bakthat_glacier_inventory"))


if __name__ == "__main__":
    unittest.main()
