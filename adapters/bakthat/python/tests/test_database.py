# SPDX-License-Identifier: MIT OR Apache-2.0
"""Database: lines 28 to 32 of the conformance checklist."""

import os
import re
import sqlite3
import subprocess
import sys
import unittest
from contextlib import closing

from case import ORIGINAL, Case


def schema(path):
    with closing(sqlite3.connect(path)) as database, database:
        rows = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return sorted((kind, name, table, re.sub(r"IF NOT EXISTS ", "", sql)) for kind, name, table, sql in rows)


class Schema(Case):
    def setUp(self):
        super().setUp()
        self.old = self.home / "old.sqlite"
        with closing(sqlite3.connect(self.old)) as database, database:
            database.executescript((ORIGINAL / "database.sql").read_text())

    def test_28_a_new_file_has_exactly_the_originals_schema(self):
        self.bakthat
        self.assertEqual(schema(self.home / ".bakthat.sqlite"), schema(self.old))

    def test_28_the_originals_file_is_opened_and_written_without_a_change_of_schema(self):
        before = schema(self.old)
        os.rename(self.old, self.home / ".bakthat.sqlite")
        self.assertEqual(self.bakthat.Backups.select().count(), 16)
        self.file("f")
        record = self.bakthat.backup("f", password="", tags="t")
        self.bakthat.delete("f")
        self.bakthat.models.Config.set_key("k", {"a": 1})
        self.assertEqual(schema(self.home / ".bakthat.sqlite"), before)
        with closing(sqlite3.connect(self.home / ".bakthat.sqlite")) as database, database:
            row = database.execute(
                f"SELECT is_deleted, metadata, typeof(is_deleted) FROM backups WHERE id = {record.id}"
            ).fetchone()
        self.assertEqual((row[0], row[2]), (1, "integer"))
        self.assertRegex(row[1], r'^\{"is_enc": false, "client": ".*"\}$')

    def test_28_processes_on_one_database_never_find_it_locked(self):
        self.bakthat
        code = (
            "import bakthat, sys\n"
            "for number in range(60):\n"
            "    name = f'{sys.argv[1]}-{number}'\n"
            "    given = dict(backup_date=1, filename=name, last_updated=1, stored_filename=name)\n"
            "    bakthat.Backups.create(backend='s3', **given)\n"
            "    bakthat.models.Config.set_key('shared', name)\n"
            "    bakthat.Backups.upsert(stored_filename=name, size=number)\n"
            "    bakthat.Backups.get(bakthat.Backups.stored_filename == name).set_deleted()\n"
        )
        started = [
            subprocess.Popen([sys.executable, "-c", code, str(n)], env=self.environment(), stderr=subprocess.PIPE)
            for n in range(4)
        ]
        with closing(sqlite3.connect(self.home / ".bakthat.sqlite", timeout=60)) as original, original:
            for number in range(100):
                original.execute("INSERT INTO config (key, value) VALUES (?, '1')", (f"original-{number}",))
                original.commit()
        for process in started:
            self.assertEqual(process.communicate()[1].decode(), "")
            self.assertEqual(process.returncode, 0)
        self.assertEqual(self.bakthat.Backups.select().count(), 240)
        self.assertEqual(self.bakthat.models.Config.select().count(), 101)

    def test_28_a_forked_process_has_a_connection_of_its_own(self):
        done = self.python(
            "import os, bakthat\n"
            "config = bakthat.models.Config\n"
            "config.set_key('parent', 1)\n"
            "if os.fork() == 0:\n"
            "    config.set_key('child', config.get_key('parent') + 1)\n"
            "    os._exit(0)\n"
            "status = os.wait()[1]\n"
            "config.set_key('parent', 3)\n"
            "print(status, config.get_key('child'), config.get_key('parent'))\n"
        )
        self.assertEqual(self.succeeds(done).stdout, "0 2 3\n")


class Searching(Case):
    def setUp(self):
        super().setUp()
        self.number = 0
        self.conf = {"access_key": "MYKEY", "s3_bucket": "b", "glacier_vault": "v"}
        self.config = {"default": self.conf}

    def row(self, name, backend="s3", container="b", **columns):
        self.number += 1
        bakthat = self.bakthat
        stored = f"{name}.2024010100{self.number:04}.tgz"
        given = {
            "backend": backend,
            "backend_hash": bakthat.models.backend_hash(self.conf, container),
            "backup_date": self.number,
            "last_updated": self.number,
            "filename": name,
            "metadata": {},
            "size": 1,
            "stored_filename": stored,
            "tags": "",
        }
        return bakthat.Backups.create(**{**given, **columns})

    def found(self, *arguments, **named):
        return [row.filename for row in self.bakthat.Backups.search(*arguments, **named)]

    def test_29_search(self):
        self.row("alpha")
        self.row("beta", "glacier", "v")
        self.row("gamma", "swift", "b", tags="one two")
        self.row("delta", "s3", "elsewhere", tags="two three")
        self.row("gone", is_deleted=True)
        self.assertEqual(self.found(), ["delta", "gamma", "beta", "alpha"])
        self.assertEqual(self.found("lph"), ["alpha"])
        self.assertEqual(self.found("ALPHA"), [])
        self.assertEqual(self.found("a*ma"), ["gamma"])
        self.assertEqual(self.found(".20240101000001.tgz"), ["alpha"])
        self.assertEqual(self.found("", "glacier"), ["beta"])
        self.assertEqual(self.found("", ["glacier", "swift"]), ["gamma", "beta"])
        self.assertEqual(self.found(profile="default", config=self.config), ["gamma", "beta", "alpha"])
        self.assertEqual(self.found(older_than=3), ["beta", "alpha"])
        self.assertEqual(self.found(backup_date=3), ["gamma"])
        self.assertEqual(self.found(last_updated_gt=3), ["delta", "gamma"])
        self.assertEqual(len(self.found(older_than=0, backup_date=None, last_updated_gt=0)), 4)
        self.assertEqual(self.found(tags="two"), ["delta", "gamma"])
        self.assertEqual(self.found(tags="two one"), ["gamma"])
        self.assertEqual(self.found(tags=["two", "three"]), ["delta"])
        self.assertEqual(self.found("[bx]?ta"), ["beta"])

    def test_29_match_filename(self):
        match = lambda name, destination="s3", **named: getattr(  # noqa: E731
            self.bakthat.Backups.match_filename(name, destination, config=self.config, **named), "id", None
        )
        old, new = self.row("site"), self.row("site")
        longer = self.row("site_old")
        other = self.row("site", "glacier", "v")
        self.row("site", "s3", "elsewhere")
        self.row("site", is_deleted=True)
        self.assertEqual(match("site"), new.id)
        self.assertEqual(match("sit"), longer.id)
        self.assertEqual(match(old.stored_filename), old.id)
        self.assertEqual(match(old.stored_filename[:-4]), old.id)
        self.assertEqual(match("site", "glacier"), other.id)
        self.assertIsNone(match("site", None))
        self.assertIsNone(match("ite"))
        self.assertEqual(match("s?te"), longer.id)
        with self.assertRaisesRegex(Exception, "nobody"):
            match("site", profile="nobody")

    def test_29_glob_characters_in_a_name_are_found_as_they_are(self):
        for name in ("a[1]", "what?", "star*", "[", "a]"):
            row = self.row(name)
            self.row(name.replace("[", "x").replace("?", "x").replace("*", "x") + "x")
            with self.subTest(name):
                matched = self.bakthat.Backups.match_filename(name, "s3", config=self.config)
                self.assertEqual(matched.id, row.id)
                self.assertIn(name, self.found(name))

    def test_29_old_names_without_a_dot_are_matched_by_their_beginning(self):
        row = self.row("name", stored_filename="name20120927.tgz")
        self.assertEqual(self.bakthat.Backups.match_filename("name20120927", "s3", config=self.config).id, row.id)

    def test_29_a_backend_with_a_container_key_of_its_own_is_found(self):
        bakthat = self.bakthat

        class Own(bakthat.backends.BakthatBackend):
            container_key = "own"

        bakthat.STORAGE_BACKEND["own"] = Own
        self.conf["own"] = "place"
        row = self.row("x", "own", "place")
        self.assertEqual(bakthat.Backups.match_filename("x", "own", config=self.config).id, row.id)
        self.assertEqual(self.found("x", profile="default", config=self.config), ["x"])

    def test_30_expressions_of_queries(self):
        backups = self.bakthat.Backups
        rows = [self.row(name) for name in ("a", "b", "c")]
        names = lambda query: sorted(row.filename for row in query)  # noqa: E731
        self.assertEqual(names(backups.select().where(backups.filename == "a", backups.size == 1)), ["a"])
        self.assertEqual(
            names(backups.select().where((backups.filename == "a") | (backups.filename == "b"))), ["a", "b"]
        )
        self.assertEqual(names(backups.select().where((backups.size == 1) & (backups.filename != "b"))), ["a", "c"])
        self.assertEqual(names(backups.select().where(backups.filename << ["a", "c"])), ["a", "c"])
        self.assertEqual(names(backups.select().where(backups.stored_filename % "b.*")), ["b"])
        self.assertEqual(names(backups.select().where(backups.backup_date <= 2, backups.backup_date > 1)), ["b"])
        self.assertEqual(names(backups.select().where(backups.backup_date >= 3)), ["c"])
        self.assertEqual([r.filename for r in backups.select().order_by(backups.filename.desc()).limit(2)], ["c", "b"])
        self.assertEqual(backups.select().where(backups.is_deleted == False).count(), 3)  # noqa: E712
        self.assertEqual(backups.select().order_by(backups.id).get().filename, "a")
        self.assertEqual(backups.get(backups.filename == "b").id, rows[1].id)
        with self.assertRaises(backups.DoesNotExist):
            backups.get(backups.filename == "none")
        backups.update(tags="t").where(backups.filename == "a").execute()
        self.assertEqual(backups.get(backups.filename == "a").tags, "t")
        rows[0].filename = "renamed"
        rows[0].save()
        rows[1].delete_instance()
        backups.delete().where(backups.filename == "c").execute()
        self.assertEqual(names(backups.select()), ["renamed"])
        self.assertEqual(len(rows[0]._data), 11)
        database = self.bakthat.models.database
        database.execute_sql("UPDATE backups SET filename = ? WHERE filename = ?", ("again", "renamed"))
        self.assertEqual(names(backups.select()), ["again"])
        with closing(sqlite3.connect(self.home / ".bakthat.sqlite")) as plain, plain:
            plain.execute("UPDATE backups SET is_deleted = 1, metadata = 'no json'")
        self.assertEqual((backups.get().is_deleted, backups.get().metadata), (True, "no json"))

    def test_30_a_subclass_of_the_same_name_maps_to_the_same_table(self):
        row = self.row("a")

        class Backups(self.bakthat.models.Backups):
            def shout(self):
                return self.filename.upper()

        found = Backups.get(Backups.id == row.id)
        self.assertEqual(found.shout(), "A")
        self.assertEqual((repr(found), str(found)), (f"<Backup: {row.stored_filename}>",) * 2)

        class Told(Backups):
            def __repr__(self):
                return "told"

        self.assertEqual(repr(Told()), "told")

    def test_31_upsert_config_inventory_and_jobs(self):
        models = self.bakthat.models
        backups = models.Backups
        row = self.row("a")
        columns = dict(row._data, id=77, size=9, metadata={"KeyValue": True, "other": 1})
        self.assertIsNone(backups.upsert(**columns))
        self.assertEqual((backups.select().count(), backups.get().size, backups.get().id), (1, 9, row.id))
        self.assertEqual(backups.get().metadata, {"KeyValue": True, "other": 1})
        backups.upsert(**{**columns, "stored_filename": "new", "id": None})
        self.assertEqual(backups.select().count(), 2)
        self.assertEqual(models.Config.get_key("k", 5), 5)
        for value in (12, {"a": [1]}, None, "text"):
            models.Config.set_key("k", value)
            self.assertEqual(models.Config.get_key("k", 5), value)
        models.Inventory.create(filename="f", archive_id="id")
        self.assertEqual(models.Inventory.get_archive_id("f"), "id")
        with self.assertRaisesRegex(
            models.Inventory.DoesNotExist, "g is not in the inventory: bakthat rebuild -d glacier"
        ):
            models.Inventory.get_archive_id("g")
        self.assertIsNone(models.Jobs.get_job_id("f"))
        for job in ("one", "two"):
            self.assertIsNone(models.Jobs.update_job_id("f", job))
            self.assertEqual(models.Jobs.get_job_id("f"), job)
        self.assertEqual(models.Jobs.select().count(), 1)
        self.assertEqual((backups.Sync.pk, models.Inventory.Sync.pk), ("stored_filename", "filename"))

    def test_31_what_a_record_says_of_itself(self):
        row = self.row("a", metadata={"is_gzipped": True})
        self.assertEqual((row.is_encrypted(), row.is_gzipped()), (None, True))
        self.assertTrue(self.row("b", metadata={"is_enc": True}).is_encrypted())
        self.assertTrue(self.row("c", stored_filename="c.20240101000000.tgz.enc").is_encrypted())
        self.assertIsNone(row.set_deleted())
        self.assertTrue(self.bakthat.Backups.get(self.bakthat.Backups.id == row.id).is_deleted)

    def test_32_the_dump_of_a_database_restores_it(self):
        models = self.bakthat.models
        self.row("a", tags="it's")
        path = str(self.home / "dump.sql")
        models.backup_sqlite(path)
        with open(path) as dump:
            text = dump.read()
        self.assertTrue(text.startswith("BEGIN TRANSACTION;") and text.rstrip().endswith("COMMIT;"))
        self.row("b")
        models.restore_sqlite(path)
        self.assertEqual([row.filename for row in models.Backups.select()], ["a"])
        with open(path, "w") as dump:
            dump.write("CREATE nonsense;")
        with self.assertRaises(sqlite3.Error):
            models.restore_sqlite(path)
        self.assertEqual([row.tags for row in models.Backups.select()], ["it's"])
        models.restore_sqlite(str(ORIGINAL / "database.sql"))
        self.assertEqual(models.Backups.select().count(), 16)


if __name__ == "__main__":
    unittest.main()
