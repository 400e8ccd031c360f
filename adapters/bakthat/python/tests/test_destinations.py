# SPDX-License-Identifier: MIT OR Apache-2.0
"""Destinations of our own: a Backstay repository and a folder; archives that are moved into the repository."""

import hashlib
import io
import os
import tarfile
import unittest
from unittest import mock

import servers
from case import Case


class Repository(Case):
    def setUp(self):
        super().setUp()
        self.repository = self.home / "repository"
        self.conf = self.s3(
            repository=str(self.repository), repository_password="of the repository", default_destination="backstay"
        )
        self.write_config({"default": self.conf})

    def names(self, stored):
        with tarfile.open(fileobj=io.BytesIO(self.data(stored, "backstay"))) as archive:
            return archive.getnames()

    def test_a_folder_is_stored_shown_restored_and_deleted(self):
        self.file("data/sub/f", b"in the repository" * 1000)
        os.symlink("sub/f", "data/link")
        self.file("data/.bakthatexclude", "*.log\n")
        self.file("data/x.log")
        with mock.patch("getpass.getpass", side_effect=AssertionError("asked")):
            record = self.bakthat.backup("data", tags=["one", "two"])
        self.assertRegex(record.stored_filename, r"^data\.\d{14}\.tgz$")
        self.assertEqual((record.backend, record.tags, record.metadata["is_enc"]), ("backstay", "one two", False))
        self.assertEqual(record.size % 10240, 0)
        self.assertEqual(self.bakthat.ls(), [record.stored_filename])
        first, again = self.data(record.stored_filename), self.data(record.stored_filename)
        self.assertEqual(first, again)
        names = ["data", "data/.bakthatexclude", "data/link", "data/sub", "data/sub/f"]
        self.assertEqual(sorted(self.names(record.stored_filename)), names)
        folder = self.in_folder()
        self.assertEqual(self.bakthat.restore("data").id, record.id)
        self.assertEqual((folder / "data/link").read_bytes(), b"in the repository" * 1000)
        os.chdir(self.work)
        self.lines.records.clear()
        self.bakthat.show("data", tags="two")
        self.assertEqual(len(self.texts()), 1)
        self.bakthat.delete("data")
        self.assertEqual(self.bakthat.ls(), [])
        self.assertIsNone(self.bakthat.restore(record.stored_filename))

    def test_what_is_stored_again_needs_hardly_any_room(self):
        self.file("data/f", os.urandom(4 << 20))
        self.bakthat.backup("data")
        used = sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())
        self.file("data/g", "more")
        self.bakthat.backup("data")
        more = sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file()) - used
        self.assertLess(more, 200_000)

    def test_files_and_archives(self):
        self.file("f", "one file")
        self.file("inside/g", "of an archive")
        with tarfile.open("x.tgz", "w:gz") as archive:
            archive.add("inside")
        self.file("broken.tgz", "no archive")
        for conf in (self.conf, {**self.conf, "compress": False}):
            for name in ("f", "x.tgz", "broken.tgz"):
                self.assertEqual(self.bakthat.backup(name, conf=conf).filename, name)
            folder = self.in_folder(f"back{conf.get('compress')}")
            for name in ("f", "x.tgz", "broken.tgz"):
                self.bakthat.restore(name)
            self.assertEqual((folder / "f").read_text(), "one file")
            self.assertEqual((folder / "inside/g").read_text(), "of an archive")
            self.assertEqual((folder / "broken.tgz").read_text(), "no archive")
            os.chdir(self.work)

    def test_a_password_is_told_to_be_the_repositorys(self):
        self.file("f")
        record = self.bakthat.backup("f", password="of the backup")
        self.assertIn("The password is not used: the repository encrypts everything with its own", self.texts(level=30))
        self.assertFalse(record.is_encrypted())

    def test_rotation_and_ageing(self):
        self.file("f")
        records = [self.bakthat.backup("f") for _ in range(3)]
        self.assertEqual(len(self.bakthat.rotate_backups("f", conf={**self.conf, "rotation": {"days": 1}})), 2)
        self.assertEqual(self.bakthat.ls(), [records[0].stored_filename])
        self.bakthat.Backups.update(backup_date=1000).execute()
        self.assertEqual(len(self.bakthat.delete_older_than("f", "1D")), 1)
        self.assertEqual(self.bakthat.ls(), [])

    def test_whoever_only_looks_makes_no_repository(self):
        self.file("f")
        for look in (self.bakthat.ls, lambda: self.bakthat.restore("f.20240203040506.tgz")):
            with self.assertRaisesRegex(FileNotFoundError, f"no repository at {self.repository}"):
                look()
        self.assertFalse(self.repository.exists())
        self.assertTrue(self.bakthat.backup("f"))
        self.assertEqual(len(self.bakthat.ls()), 1)

    def test_the_password_comes_from_a_file_and_a_wrong_one_is_told(self):
        self.file("f")
        self.bakthat.backup("f")
        self.file("password", "of the repository\n")
        conf = {key: value for key, value in self.conf.items() if key != "repository_password"}
        self.assertTrue(
            self.bakthat.restore("f", conf={**conf, "repository_password_file": str(self.work / "password")})
        )
        with self.assertRaisesRegex(Exception, "repository_password"):
            self.bakthat.backup("f", conf=conf)
        with self.assertRaisesRegex(Exception, "(?i)password"):
            self.bakthat.backup("f", conf={**conf, "repository_password": "wrong"})

    def test_a_lost_database_is_rebuilt(self):
        self.file("f")
        record = self.bakthat.backup("f")
        self._drop()
        (self.home / ".bakthat.sqlite").unlink()
        self.assertEqual(self.bakthat.restore(record.stored_filename).filename, "f")
        self.assertEqual([row.stored_filename for row in self.bakthat.rebuild()], [record.stored_filename])
        self.assertTrue(self.bakthat.restore("f"))


class Migration(Case):
    def setUp(self):
        super().setUp()
        self.conf = self.s3(repository=str(self.home / "repository"), repository_password="r")
        self.write_config({"default": self.conf})
        self.file("data/f", os.urandom(50_000))
        os.symlink("f", "data/link")
        os.link("data/f", "data/hard")
        self.file("one", "one file")
        with tarfile.open("x.tgz", "w:gz") as archive:
            archive.add("data")
        backup, raw = self.bakthat.backup, {**self.conf, "compress": False}
        self.records = [
            backup("data", password="", tags="a b", custom_filename="nightly"),
            backup("data", password="abc"),
            backup("one", password="abc", conf={**raw, "encryption": "age"}),
            backup("one", password="", conf=raw),
            backup("data", password="", conf=raw),
            backup("x.tgz", password=""),
        ]
        self.helper().KeyValue().set_key("key", 1)

    def test_every_form_is_moved_and_restores_as_before(self):
        self.assertEqual(len(self.bakthat.migrate(password="abc", dry_run=True)), 6)
        self.assertEqual(len(self.objects("s3")), 7)
        moved = self.bakthat.migrate(password="abc")
        self.assertEqual(sorted(row.id for row in moved), sorted(row.id for row in self.records))
        self.assertEqual(len(self.objects("s3")), 7)
        self.assertEqual(len(self.objects("backstay")), 6)
        self.assertEqual((self.bakthat.migrate(password="abc"), self.temporary_files()), ([], []))
        for record in self.records:
            row = self.bakthat.Backups.get(self.bakthat.Backups.id == record.id)
            self.assertEqual((row.backend, row.filename, row.tags), ("backstay", record.filename, record.tags))
            self.assertEqual((row.backup_date, row.metadata["client"]), (record.backup_date, record.metadata["client"]))
            self.assertFalse(row.is_encrypted())
            folder = self.in_folder(f"back{record.id}")
            self.assertEqual(self.bakthat.restore(row.stored_filename, "backstay").id, record.id)
            if record.filename == "one":
                self.assertEqual((folder / "one").read_text(), "one file")
            else:
                self.assertEqual((folder / "data/f").read_bytes(), (self.work / "data/f").read_bytes())
                self.assertTrue(os.path.samefile(folder / "data/f", folder / "data/hard"))
                self.assertEqual(os.readlink(folder / "data/link"), "f")
            os.chdir(self.work)
        self.assertEqual(self.helper().KeyValue().get_key("key"), 1)

    def test_what_was_interrupted_goes_on(self):
        migrate, stored = self.bakthat.migrate, []
        save = self.bakthat.Backups.save

        def fails(record, *arguments, **named):
            if len(stored) == 2:
                raise KeyboardInterrupt
            stored.append(record.id)
            return save(record, *arguments, **named)

        with mock.patch.object(self.bakthat.Backups, "save", fails):
            with self.assertRaises(KeyboardInterrupt):
                migrate(password="abc", delete_source=True)
        self.assertEqual((len(self.objects("backstay")), len(self.objects("s3"))), (3, 5))
        self.assertEqual(len(migrate(password="abc", delete_source=True)), 4)
        self.assertEqual((len(self.objects("backstay")), self.objects("s3"), self.temporary_files()), (6, ["key"], []))

    def test_old_objects_of_an_earlier_migration_are_deleted_on_request_and_never_rebuilt(self):
        self.bakthat.migrate(password="abc")
        self.assertEqual((self.bakthat.rebuild(), len(self.objects("s3"))), ([], 7))
        stays = self.bakthat.Backups.get(self.bakthat.Backups.id == self.records[0].id)
        self.backend("backstay").delete(stays.stored_filename)
        other = self.bakthat.Backups.get(self.bakthat.Backups.id == self.records[1].id)
        other.metadata = {**other.metadata, "migrated_hash": "of another bucket"}
        other.save()
        self.bakthat.migrate(delete_source=True, dry_run=True)
        self.assertEqual(len(self.objects("s3")), 7)
        self.assertEqual(self.bakthat.migrate(delete_source=True), [])
        kept = [record.stored_filename for record in self.records[:2]]
        self.assertEqual(self.objects("s3"), sorted([*kept, "key"]))

    def test_a_wrong_password_moves_nothing_of_it(self):
        with self.assertRaisesRegex(Exception, r"^data\.\d{14}\.tgz\.enc is damaged, or the password is wrong$"):
            self.bakthat.migrate("data", password="wrong", delete_source=True)
        rows = self.bakthat.Backups
        kept = rows.select().where(rows.stored_filename == self.records[1].stored_filename, rows.backend == "s3")
        self.assertEqual(kept.count(), 1)
        self.assertIn(self.records[1].stored_filename, self.objects("s3"))

    def test_what_does_not_come_back_the_same_stays_where_it_is(self):
        with mock.patch.object(self.bakthat.recover, "_differing_members", return_value="data/f"):
            with self.assertRaisesRegex(Exception, "data/f"):
                self.bakthat.migrate("nightly", delete_source=True)
        self.assertEqual((self.objects("backstay"), len(self.objects("s3"))), ([], 7))

    def test_the_command(self):
        done = self.succeeds(self.command("migrate", "nightly", "--delete-source"))
        self.assertEqual(done.stderr, f"Moving {self.records[0].stored_filename}\n")
        self.assertEqual(len(self.objects("s3")), 6)
        self.assertEqual(self.command("migrate", "-d", "backstay").returncode, 1)


class StorageClasses(Case):
    """What S3 is asked for: a server that records, since those of tests know one class only."""

    def setUp(self):
        super().setUp()
        self.there = self.restoring = False
        self.server = servers.Recorder(self.answers)
        self.addCleanup(self.server.close)
        self.file("f", "frozen")

    def answers(self, request):
        if request.method == "GET" and "f." in request.path:
            error = b"<Error><Code>InvalidObjectState</Code><Message>not valid for the class</Message></Error>"
            return 403, {"Content-Type": "application/xml"}, error
        if request.method == "POST":
            status, self.restoring = 409 if self.restoring else 202, True
            code = b"<Error><Code>RestoreAlreadyInProgress</Code><Message>m</Message></Error>"
            return status, {"Content-Type": "application/xml"}, code if status == 409 else b""
        if request.method == "HEAD" and "f." in request.path:
            archived = {"x-amz-storage-class": "GLACIER", "Content-Length": "9"}
            if self.restoring:
                archived["x-amz-restore"] = 'ongoing-request="true"'
            return (200, archived, b"") if self.there else (404, {}, b"")
        self.there = self.there or "f." in request.path
        return 200, {"ETag": '"e"'}, b""

    def stored(self, **more):
        conf = self.s3(endpoint_url=self.server.url, **more)
        record = self.bakthat.backup("f", password="", conf=conf, s3_reduced_redundancy=not more)
        (put,) = [r for r in self.server.requests if r.method == "PUT" and record.stored_filename in r.path]
        return record, put, conf

    def test_15_of_the_faults_reduced_redundancy_reaches_the_storage(self):
        self.assertEqual(self.stored()[1].headers["x-amz-storage-class"], "REDUCED_REDUNDANCY")

    def test_an_archive_class_is_asked_back_and_restored_later(self):
        record, put, conf = self.stored(storage_class="GLACIER", restore_days=3)
        self.assertEqual(put.headers["x-amz-storage-class"], "GLACIER")
        self.lines.records.clear()
        for status in ("requested", "ongoing"):
            self.assertIsNone(self.bakthat.restore(record.stored_filename, conf=conf))
            line = f"{record.stored_filename} is in an archive class of S3: its restore is {status}, try again later"
            self.assertEqual(self.texts()[-1], line)
        asked = [request for request in self.server.requests if request.method == "POST"]
        self.assertIn(b"<Days>3</Days>", asked[0].body)
        self.assertEqual(self.temporary_files(), [])


class Folder(Case):
    def test_a_folder_of_stored_names(self):
        self.write_config({"default": {"local_path": str(self.home / "kept"), "default_destination": "local"}})
        self.file("data/f", "kept")
        record = self.bakthat.backup("data", password="abc")
        path = self.home / "kept/default" / record.stored_filename
        self.assertEqual(path.stat().st_size, record.size)
        self.assertEqual(self.bakthat.ls(), [record.stored_filename])
        folder = self.in_folder()
        self.bakthat.restore("data", password="abc")
        self.assertEqual((folder / "data/f").read_text(), "kept")
        self.bakthat.delete("data")
        self.assertFalse(path.exists())

    def test_a_name_that_leads_out_of_the_folder_is_refused(self):
        self.write_config({"default": {"local_path": str(self.home / "kept"), "default_destination": "local"}})
        (self.home / "secret").write_text("secret")
        for name in ("../../secret", str(self.home / "secret")):
            with self.assertRaises(Exception):
                self.backend().download(name)
            with self.assertRaises(Exception):
                self.backend().upload(name, str(self.file("f")))
        self.assertEqual((self.home / "secret").read_text(), "secret")

    def test_profiles_of_one_folder_are_kept_apart(self):
        profile = {"local_path": str(self.home / "kept"), "default_destination": "local"}
        self.write_config({"default": {**profile, "s3_bucket": "box"}, "other": profile})
        self.file("f")
        first, second = self.bakthat.backup("f", password=""), self.bakthat.backup("f", password="", profile="other")
        hashed = hashlib.sha512(str(self.home / "kept/box").encode()).hexdigest()
        self.assertEqual(first.backend_hash, hashed)
        self.assertTrue((self.home / "kept/box" / first.stored_filename).exists())
        self.assertTrue((self.home / "kept/other" / second.stored_filename).exists())
        self.assertEqual(self.bakthat.restore("f").id, first.id)
        self.assertEqual(self.bakthat.restore("f", profile="other").id, second.id)


if __name__ == "__main__":
    unittest.main()
