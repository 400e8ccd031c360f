# SPDX-License-Identifier: MIT OR Apache-2.0
"""Backup: lines 6 to 14 of the conformance checklist."""

import datetime
import hashlib
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
import unittest
from contextlib import closing
from unittest import mock

import blowfish
import servers
from case import Case

COLUMNS = (
    "id backend backend_hash backup_date filename is_deleted last_updated metadata size stored_filename tags".split()
)


class Records(Case):
    def test_06_the_record_is_returned_and_its_row_is_seen_before_on_backup(self):
        bakthat, seen = self.bakthat, []

        def look(session_id, record):
            with closing(sqlite3.connect(self.home / ".bakthat.sqlite")) as database, database:
                seen.extend(database.execute("SELECT stored_filename, size, is_deleted FROM backups"))

        bakthat.events.on_backup += look
        self.file("data/f")
        record = bakthat.backup("data", password="")
        self.assertIsInstance(record, bakthat.Backups)
        self.assertEqual(repr(record), f"<Backup: {record.stored_filename}>")
        self.assertEqual(sorted(record._data), sorted(COLUMNS))
        self.assertEqual(record["stored_filename"], record.stored_filename)
        self.assertEqual(record["size"], len(self.data(record.stored_filename)))
        self.assertEqual(seen, [(record.stored_filename, record.size, 0)])
        self.assertEqual(record.last_updated, record.backup_date)

    def test_07_stored_names(self):
        self.file("folder/f")
        self.file("a.txt")
        self.file("a.tar.bz2")
        for name in ("x.tgz", "x.tar.gz"):
            with tarfile.open(name, "w:gz") as archive:
                archive.add("a.txt")
        date = r"\.\d{14}"
        for compress, named, expected in (
            (True, "folder", "folder{date}.tgz"),
            (True, "folder/", "folder{date}.tgz"),
            (True, str(self.work / "folder"), "folder{date}.tgz"),
            (True, "a.txt", "a.txt{date}.tgz"),
            (True, "a.tar.bz2", "a.tar.bz2{date}.tgz"),
            (True, "x.tgz", "x{date}.tgz"),
            (True, "x.tar.gz", "x{date}.tgz"),
            (False, "a.txt", "a.txt{date}"),
            (False, "x.tgz", "x.tgz{date}"),
            (False, "folder", "folder{date}.tar"),
        ):
            for password, ending in (("", ""), ("secret", ".enc")):
                with self.subTest(named=named, compress=compress, password=password):
                    conf = self.s3(compress=compress)
                    record = self.bakthat.backup(named, password=password, conf=conf)
                    pattern = re.escape(expected + ending).replace(r"\{date\}", date)
                    self.assertRegex(record.stored_filename, f"^{pattern}$")
                    self.assertEqual(record.filename, os.path.basename(named.rstrip("/")))
                    self.assertEqual(record.metadata["is_enc"], bool(password))
                    self.assertEqual(record.size, len(self.data(record.stored_filename)))

    def test_07_an_archive_that_is_compressed_already_is_stored_as_it_is(self):
        self.file("a.txt")
        with tarfile.open("x.tgz", "w:gz") as archive:
            archive.add("a.txt")
        record = self.bakthat.backup("x.tgz", password="")
        self.assertEqual(self.data(record.stored_filename), (self.work / "x.tgz").read_bytes())
        record = self.bakthat.backup("a.txt", password="", conf=self.s3(compress=False))
        self.assertEqual(self.data(record.stored_filename), b"content\n")

    def test_08_log_lines_in_order(self):
        self.file("folder/f")
        self.file("folder/.gitignore", "nothing\n")
        self.bakthat.backup("folder", password="")
        expected = ["Backing up folder", "Using folder/.gitignore to exclude files.", "Compressing...", "Uploading..."]
        self.assertEqual(self.texts(logger="bakthat"), expected)
        progress = self.texts(logger="bakthat.backends")
        self.assertEqual(progress, ["Upload completion: 0%", "Upload completion: 100%"])
        self.assertEqual(self.texts()[-2:], progress)
        self.lines.records.clear()
        self.bakthat.backup("folder/f", password="abc")
        self.bakthat.backup("folder/f", password="abc")
        lines = self.texts(logger="bakthat")
        weak = [line for line in lines if "Blowfish" in line]
        self.assertEqual(len(weak), 1)
        lines.remove(weak[0])
        self.assertEqual(lines, ["Backing up folder/f", "Compressing...", "Encrypting...", "Uploading..."] * 2)
        self.lines.records.clear()
        self.bakthat.backup("folder/f", password="", conf=self.s3(compress=False))
        self.assertIn("Compression disabled", self.texts())
        (self.work / "y.tgz").write_bytes(self.data(self.bakthat.backup("folder", password="").stored_filename))
        self.bakthat.backup("y.tgz", password="")
        self.assertIn("File already compressed", self.texts())

    def test_08_progress_of_a_large_object_comes_about_ten_times(self):
        self.file("big", os.urandom(24 << 20))
        self.bakthat.backup("big", password="", conf=self.s3(compress=False))
        progress = [int(line.split()[-1][:-1]) for line in self.texts(logger="bakthat.backends")]
        self.assertEqual((progress[0], progress[-1]), (0, 100))
        self.assertEqual(progress, sorted(set(progress)))
        self.assertLessEqual(len(progress), 14)


class Passwords(Case):
    def asked(self, answers, *arguments, **named):
        prompts = []

        def getpass(prompt):
            prompts.append(prompt)
            return answers.pop(0)

        with mock.patch("getpass.getpass", getpass):
            return self.bakthat.backup(str(self.file("f")), *arguments, **named), prompts

    def test_09_sources_of_the_password_and_their_order(self):
        question, again = "Password (blank to disable encryption): ", "Password confirmation: "
        record, prompts = self.asked(["one", "one"])
        self.assertEqual((prompts, record.is_encrypted()), ([question, again], True))
        record, prompts = self.asked([""])
        self.assertEqual((prompts, record.is_encrypted()), ([question], False))
        record, prompts = self.asked([], prompt="No")
        self.assertEqual((prompts, record.is_encrypted()), ([], False))
        record, prompts = self.asked([], password="")
        self.assertEqual((prompts, record.is_encrypted()), ([], False))
        os.environ["BAKTHAT_PASSWORD"] = "from the environment"
        record, prompts = self.asked([])
        self.assertEqual((prompts, record.is_encrypted()), ([], True))
        self.assertTrue(
            blowfish.decrypt(self.data(record.stored_filename), b"from the environment")[0].startswith(b"\x1f\x8b")
        )
        record, prompts = self.asked([], password="keyword")
        self.assertTrue(blowfish.decrypt(self.data(record.stored_filename), b"keyword")[0].startswith(b"\x1f\x8b"))
        record, prompts = self.asked([], password="")
        self.assertFalse(record.is_encrypted())
        os.environ["BAKTHAT_PASSWORD"] = ""
        record, prompts = self.asked([])
        self.assertEqual((prompts, record.is_encrypted()), ([], False))

    def test_09_a_confirmation_that_differs_makes_nothing(self):
        fired = []
        self.bakthat.events.on_backup += lambda *given: fired.append(given)
        record, _ = self.asked(["one", "two"])
        self.assertIsNone(record)
        self.assertEqual(self.texts(level=40), ["Password confirmation doesn't match"])
        self.assertEqual((fired, self.objects(), self.bakthat.Backups.select().count()), ([], [], 0))

    def test_10_tags_name_metadata_and_hash(self):
        self.file("f")
        for tags, text in (
            (["one", "two"], "one two"),
            ("three four", "three four"),
            ([], ""),
            (["x" * 400], "x" * 400),
        ):
            self.assertEqual(self.row(self.bakthat.backup("f", password="", tags=tags).stored_filename).tags, text)
        record = self.bakthat.backup("f", password="", custom_filename="nightly")
        self.assertEqual(record.filename, "nightly")
        self.assertRegex(record.stored_filename, r"^f\.\d{14}\.tgz$")
        self.assertEqual(self.bakthat.backup("f", password="", custom_filename=None).filename, "f")
        self.assertEqual(record.metadata, {"is_enc": False, "client": socket.gethostname()})
        conf = self.s3()
        text = (conf["access_key"] + conf["s3_bucket"]).encode()
        self.assertEqual(record.backend_hash, hashlib.sha512(text).hexdigest())
        hashed = self.bakthat.models.backend_hash({"access_key": "MYKEY"}, "mybucket")
        self.assertTrue(hashed.startswith("be4195395e00b90eea82bff5c32fd3a5") and hashed.endswith("cb9eaa906acc13cc"))

    def test_10_what_no_row_can_hold_is_refused_before_anything_is_stored(self):
        self.file("f")
        for tags in (5, [5], b"bytes"):
            with self.assertRaisesRegex(ValueError, "tags must be text or a list of texts"):
                self.bakthat.backup("f", password="", tags=tags)
        with self.assertRaises(UnicodeEncodeError):
            self.bakthat.backup("f", password="", custom_filename="\ud800")
        self.assertEqual((self.objects(), self.bakthat.Backups.select().count()), ([], 0))
        record = self.bakthat.backup("f", password="", custom_filename=5, tags="sur\udcff")
        row = self.row(record.stored_filename)
        self.assertEqual((row.filename, row.tags), ("5", "sur\\xff"))

    def test_10_an_object_whose_row_cannot_be_written_is_deleted_again(self):
        self.file("f")
        full = self.bakthat.peewee.OperationalError("database or disk is full")
        with mock.patch.object(self.bakthat.Backups, "create", side_effect=full):
            with self.assertRaisesRegex(Exception, "disk is full"):
                self.bakthat.backup("f", password="")
        self.assertEqual(self.objects(), [])

    def test_11_no_temporary_file_stays_and_the_users_file_is_untouched(self):
        self.file("folder/f")
        with tarfile.open("x.tgz", "w:gz") as archive:
            archive.add("folder")
        before = (self.work / "x.tgz").read_bytes()
        for name in ("folder", "x.tgz", "folder/f"):
            for password in ("", "abc"):
                record = self.bakthat.backup(name, password=password)
                self.bakthat.backup(name, password=password, conf=self.s3(compress=False))
                self.in_folder(f"r-{name.replace('/', '-')}-{password}")
                self.bakthat.restore(record.stored_filename, password=password)
                os.chdir(self.work)
        self.assertEqual(self.temporary_files(), [])
        self.assertEqual((self.work / "x.tgz").read_bytes(), before)
        with mock.patch.object(self.bakthat.S3Backend, "upload", side_effect=OSError("no way")):
            for name in ("folder", "x.tgz"):
                for password in ("", "abc"):
                    with self.assertRaisesRegex(OSError, "no way"):
                        self.bakthat.backup(name, password=password)
        with self.assertRaises(FileNotFoundError):
            self.bakthat.backup("missing", password="")
        self.assertEqual(self.temporary_files(), [])
        self.assertEqual((self.work / "x.tgz").read_bytes(), before)

    def test_12_two_backups_in_one_second_are_both_kept(self):
        path = self.file("f", "one")
        first = self.bakthat.backup("f", password="")
        path.write_text("two, longer")
        second = self.bakthat.backup("f", password="")
        self.assertNotEqual(first.stored_filename, second.stored_filename)
        self.assertEqual(self.objects(), sorted([first.stored_filename, second.stored_filename]))
        for record, text in ((first, "one"), (second, "two, longer")):
            self.bakthat.restore(record.stored_filename)
            self.assertEqual(path.read_text(), text)

    def test_12_a_name_that_another_machine_took_is_not_overwritten(self):
        self.file("f")
        bakthat = self.bakthat
        now, backend = bakthat.utc_clock(), self.backend()
        taken = [f"f.{now + datetime.timedelta(seconds=n):%Y%m%d%H%M%S}.tgz" for n in range(2)]
        for name in taken:
            backend.store.put(name, b"theirs")
        record = bakthat.backup("f", password="")
        self.assertNotIn(record.stored_filename, taken)
        self.assertEqual([self.data(name) for name in taken], [b"theirs"] * 2)

    def test_12_processes_at_once_take_different_names(self):
        self.file("f")
        code = "import bakthat; [bakthat.backup('f', password='') for _ in range(3)]"
        started = [
            subprocess.Popen([sys.executable, "-c", code], env=self.environment(), stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        for process in started:
            self.assertEqual(process.communicate()[1], b"")
            self.assertEqual(process.returncode, 0)
        self.assertEqual(len(self.objects()), 9)
        self.assertEqual(self.bakthat.Backups.select().count(), 9)
        self.assertEqual(self.bakthat.models.Config.select().count(), 0)


class Contents(Case):
    def there_and_back(self, name, **conf):
        record = self.bakthat.backup(name, password="", conf=self.s3(**conf))
        folder = self.in_folder(f"back{len(list(self.work.iterdir()))}")
        self.bakthat.restore(record.stored_filename, conf=self.s3(**conf))
        os.chdir(self.work)
        return folder / os.path.basename(name)

    def test_13_empty_and_tiny_files(self):
        for data in (b"", b"x"):
            for compress in (True, False):
                self.file("f", data)
                self.assertEqual(self.there_and_back("f", compress=compress).read_bytes(), data)

    def test_13_a_deep_tree_long_names_links_and_modes(self):
        deep = "tree/" + "/".join(["d" * 40] * 20)
        self.file(f"{deep}/end")
        self.file("tree/" + "n" * 240)
        odd = os.fsencode(self.work / "tree") + b"/odd-\xff\xfe"
        with open(odd, "wb") as file:
            file.write(b"odd")
        os.symlink("nowhere", "tree/symbolic")
        os.link(f"{deep}/end", "tree/hard")
        (self.work / "tree/empty").mkdir(mode=0o700)
        os.chmod(f"{deep}/end", 0o640)
        back = self.there_and_back("tree")
        self.assertEqual((back / deep[5:] / "end").read_bytes(), b"content\n")
        self.assertEqual((back / ("n" * 240)).read_bytes(), b"content\n")
        self.assertEqual(os.readlink(back / "symbolic"), "nowhere")
        self.assertTrue(os.path.samefile(back / "hard", back / deep[5:] / "end"))
        self.assertEqual((back / "empty").stat().st_mode & 0o7777, 0o700)
        self.assertEqual((back / "hard").stat().st_mode & 0o7777, 0o640)
        with open(os.fsencode(back) + b"/odd-\xff\xfe", "rb") as file:
            self.assertEqual(file.read(), b"odd")

    def test_13_a_name_that_is_not_utf_8_is_stored_found_and_restored(self):
        name = b"odd-\xff"
        with open(os.fsencode(self.work) + b"/" + name, "wb") as file:
            file.write(b"odd")
        record = self.bakthat.backup(os.fsdecode(name), password="")
        self.assertEqual(record.filename, "odd-\\xff")
        os.unlink(name)
        self.assertEqual(self.bakthat.restore(os.fsdecode(name)).id, record.id)
        with open(name, "rb") as file:
            self.assertEqual(file.read(), b"odd")
        self.assertEqual(self.bakthat.delete(os.fsdecode(name)).id, record.id)

    def test_13_ten_thousand_files(self):
        for folder in range(100):
            os.makedirs(f"many/{folder}")
            for number in range(100):
                with open(f"many/{folder}/{number}", "w") as file:
                    file.write(f"{folder}.{number}")
        back = self.there_and_back("many")
        self.assertEqual(sum(len(files) for _, _, files in os.walk(back)), 10000)
        self.assertEqual((back / "73/21").read_text(), "73.21")

    @unittest.skipIf(servers.is_garage(), "it is small where it is stored: once is enough")
    def test_13_a_file_of_more_than_four_gibibytes(self):
        path, size = self.work / "huge", (4 << 30) + 4097
        if shutil.disk_usage(self.work).free < 2 * size:
            self.skipTest("needs nine gigabytes of room")
        with open(path, "wb") as file:
            file.truncate(size)
            file.seek(size - 3)
            file.write(b"end")
        back = self.there_and_back("huge")
        self.assertEqual(back.stat().st_size, size)
        with open(back, "rb") as file:
            file.seek(size - 4)
            self.assertEqual(file.read(), b"\0end")

    def test_13_excludes(self):
        for name in ("keep", "tmp/x", "sub/tmp", "mytmp", "sub/a.log", "a.log", "build/y", "sub/deep/z"):
            self.file(f"tree/{name}")
        self.file("tree/.gitignore", "keep\n")
        self.file("tree/.bakthatexclude", "tmp\n\n# a comment\n*.log\nbuild/\nsub/deep\n")

        def names(**more):
            record = self.bakthat.backup("tree", password="", **more)
            with tarfile.open(fileobj=io.BytesIO(self.data(record.stored_filename))) as archive:
                return {member.name[5:] for member in archive if not member.isdir()}

        own = {".gitignore", ".bakthatexclude"}
        self.assertEqual(names() - own, {"keep", "mytmp"})
        self.file("here.txt", "mytmp\n")
        everything = {"keep", "tmp/x", "sub/tmp", "mytmp", "sub/a.log", "a.log", "build/y", "sub/deep/z"}
        self.assertEqual(names(exclude_file="here.txt") - own, everything - {"mytmp"})
        self.assertEqual(names() - own, {"keep", "mytmp"})
        self.assertEqual(names(conf=self.s3(wide_exclude=True)) - own, {"keep", "build/y"})
        os.unlink("tree/.bakthatexclude")
        self.assertNotIn("keep", names())
        self.bakthat.EXCLUDE_FILES.remove(".gitignore")
        self.assertIn("keep", names())
        self.assertIn(
            "debug", [r.levelname.lower() for r in self.lines.records if r.getMessage().endswith(" excluded")]
        )
        excluded = self.bakthat._get_exclude("here.txt")
        self.assertEqual([excluded("tree/mytmp"), excluded("tree/xmytmp")], [True, False])

    def test_14_names_and_dates_in_another_zone(self):
        self.file("f")
        for zone in ("America/New_York", "Asia/Tokyo", "UTC"):
            os.environ["TZ"] = zone
            time.tzset()
            record = self.bakthat.backup("f", password="")
            named = datetime.datetime.strptime(record.stored_filename.split(".")[1], "%Y%m%d%H%M%S")
            self.assertEqual(datetime.datetime.fromtimestamp(record.backup_date), named)
            true = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
            self.assertLess(abs(true - named), datetime.timedelta(minutes=5))
            self.lines.records.clear()
            self.bakthat.show(record.stored_filename)
            self.assertEqual(self.texts()[0].split("\t")[0], named.isoformat())
            self.assertEqual(self.bakthat.delete_older_than("f", "1h"), [])
            self.bakthat.delete("f")


class Shown(Case):
    def test_show_prints_the_documented_line(self):
        self.add_row("photos", "2024-02-03T04:05:06", size=4_200_000, stored_filename="photos.20240203040506.tgz.enc")
        self.lines.records.clear()
        self.bakthat.show()
        line = "2024-02-03T04:05:06\ts3      \t4.2 MB  \tphotos.20240203040506.tgz.enc "
        self.assertEqual(self.texts(), [line])
        self.bakthat.Backups.update(tags="a b").execute()
        self.bakthat.show("photos", tags="b a")
        self.assertEqual(self.texts()[-1], line + "(a b)")
        sizes = {
            1: "1 B",
            224: "224 B",
            1000: "1 KB",
            3100: "3.1 KB",
            1001: "1.0 KB",
            999950: "1000.0 KB",
            2 * 10**24: "2 YB",
        }
        self.assertEqual({size: self.bakthat.utils.size_text(size) for size in sizes}, sizes)

    def test_ls_and_info(self):
        self.file("f")
        self.assertIsNone(self.bakthat.info("f"))
        self.assertEqual(self.texts()[-1], "No matching backup found for f")
        record = self.bakthat.backup("f", password="")
        self.assertEqual(self.bakthat.info("/somewhere/f").id, record.id)
        date = datetime.datetime.fromtimestamp(record.backup_date).isoformat()
        self.assertEqual(self.texts()[-1], f"Last backup date: {date} (1 versions)")
        self.lines.records.clear()
        self.assertEqual(self.bakthat.ls(), [record.stored_filename])
        self.assertEqual(self.texts(), [self.s3()["s3_bucket"], record.stored_filename])
        self.assertEqual(json.loads(json.dumps(record._data))["filename"], "f")


if __name__ == "__main__":
    unittest.main()
