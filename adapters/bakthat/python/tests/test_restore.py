# SPDX-License-Identifier: MIT OR Apache-2.0
"""Restore: lines 15 to 20 of the conformance checklist, and the archives that bakthat 0.6.0 wrote."""

import io
import os
import re
import shutil
import sqlite3
import tarfile
import unittest
from contextlib import closing
from unittest import mock

import blowfish
import servers
from case import ORIGINAL, Case


class Matching(Case):
    def test_15_what_a_name_matches(self):
        bakthat, fired = self.bakthat, []
        for event in ("before_restore", "on_restore"):
            setattr(bakthat.events, event, getattr(bakthat.events, event).__iadd__(lambda *given: fired.append(given)))
        path = self.file("site", "first")
        first = bakthat.backup("site", password="")
        path.write_text("second")
        second = bakthat.backup("site", password="")
        self.file("site_old", "old")
        old = bakthat.backup("site_old", password="")
        self.assertEqual(bakthat.restore("site").id, second.id)
        self.assertEqual(path.read_text(), "second")
        self.assertEqual(bakthat.restore(first.stored_filename).id, first.id)
        self.assertEqual(path.read_text(), "first")
        self.assertEqual(bakthat.restore("site_").id, old.id)
        self.assertEqual(bakthat.restore(first.stored_filename[:-4]).id, first.id)
        bakthat.delete(second.stored_filename)
        self.assertEqual(bakthat.restore("site").id, first.id)
        fired.clear()
        self.lines.records.clear()
        self.assertIsNone(bakthat.restore("other"))
        self.assertEqual((self.texts(), fired), (["No file matched."], []))
        self.assertIsNone(bakthat.restore(""))
        self.assertEqual(self.texts()[-1], "No file to restore, use -f to specify one.")

    def test_15_log_lines_of_a_restore(self):
        self.file("f")
        record = self.bakthat.backup("f", password="abc")
        self.lines.records.clear()
        self.bakthat.restore("f", password="abc")
        expected = [f"Restoring {record.stored_filename}", "Downloading...", "Decrypting...", "Uncompressing..."]
        self.assertEqual(self.texts(), expected)
        self.bakthat.backup("f", password="", conf=self.s3(compress=False))
        self.lines.records.clear()
        self.bakthat.restore("f")
        self.assertEqual(self.texts()[1:], ["Downloading...", "Backup is not compressed"])

    def test_15_the_password_is_asked_for_or_taken_from_the_environment(self):
        self.file("f")
        self.bakthat.backup("f", password="abc")
        with mock.patch("getpass.getpass", return_value="abc") as asked:
            self.assertTrue(self.bakthat.restore("f", password=""))
        asked.assert_called_once_with("Password: ")
        os.environ["BAKTHAT_PASSWORD"] = "abc"
        self.assertTrue(self.bakthat.restore("f"))

    def test_16_the_tree_is_the_same(self):
        self.file("tree/sub/f", os.urandom(100_000))
        os.chmod("tree/sub/f", 0o4751)
        os.utime("tree/sub/f", (1_000_000_000, 1_234_567_890))
        os.symlink("sub/f", "tree/link")
        os.utime("tree/link", (1, 1_111_111_111), follow_symlinks=False)
        os.utime("tree/sub", (1_000_000_000, 1_222_222_222))
        os.chmod("tree", 0o750)
        for password in ("", "abc"):
            self.bakthat.backup("tree", password=password)
            folder = self.in_folder(f"back{password}")
            self.bakthat.restore("tree", password=password)
            os.chdir(self.work)
            for name in ("tree", "tree/sub", "tree/sub/f", "tree/link"):
                one, other = os.lstat(self.work / name), os.lstat(folder / name)
                self.assertEqual((one.st_mode, int(one.st_mtime)), (other.st_mode, int(other.st_mtime)), name)
            self.assertEqual((self.work / "tree/sub/f").read_bytes(), (folder / "tree/sub/f").read_bytes())

    def test_17_a_wrong_password_is_an_exception_and_leaves_no_file(self):
        self.file("data/f", os.urandom(5000))
        for conf in (self.s3(), self.s3(encryption="age"), self.s3(encryption="age", compress=False)):
            record = self.bakthat.backup("data", password="right", conf=conf)
            folder = self.in_folder(f"wrong-{record.id}")
            told = f"^{re.escape(record.stored_filename)}(:| is damaged, or) the password is wrong$"
            with self.assertRaisesRegex(Exception, told):
                self.bakthat.restore(record.stored_filename, password="wrong", conf=conf)
            self.assertEqual(os.listdir(folder), [])
            self.assertEqual(self.temporary_files(), [])
            os.chdir(self.work)

    def test_17_encrypted_files_of_every_length_come_back_exactly(self):
        conf = self.s3(compress=False)
        for length in (0, 1, 7, 8, 9, *range(4087, 4098), 8192):
            data = os.urandom(length)
            path = self.file(f"f{length}", data)
            record = self.bakthat.backup(path.name, password="abc", conf=conf)
            self.assertEqual(record.size, 8 + length + 8 - length % 8)
            path.unlink()
            self.bakthat.restore(path.name, password="abc", conf=conf)
            self.assertEqual(path.read_bytes(), data)
            path.unlink()

    def test_18_what_was_compressed_is_unpacked_and_what_was_not_gets_its_name(self):
        self.file("inside/f", "inside")
        with tarfile.open("x.tgz", "w:gz") as archive:
            archive.add("inside")
        self.bakthat.backup("x.tgz", password="")
        folder = self.in_folder()
        self.bakthat.restore("x.tgz")
        self.assertEqual((folder / "inside/f").read_text(), "inside")
        self.assertFalse((folder / "x.tgz").exists())
        os.chdir(self.work)
        conf = self.s3(compress=False)
        self.bakthat.backup("inside/f", password="", conf=conf, custom_filename="named")
        self.bakthat.backup("inside", password="", conf=conf)
        os.chdir(folder)
        self.bakthat.restore("named", conf=conf)
        self.assertEqual((folder / "named").read_text(), "inside")
        shutil.rmtree("inside")
        self.bakthat.restore("inside", conf=conf)
        self.assertEqual((folder / "inside/f").read_text(), "inside")

    def test_19_members_that_would_leave_the_folder_are_refused(self):
        def archive(*members):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w:gz") as out:
                for name, kind, link in members:
                    member = tarfile.TarInfo(name)
                    member.type, member.linkname = kind, link
                    out.addfile(member, io.BytesIO(b""))
            return data.getvalue()

        file, symbolic, hard = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
        for number, members in enumerate(
            (
                [("../out", file, "")],
                [(f"{self.home}/out", file, "")],
                [("a/../../out", file, "")],
                [("away", symbolic, str(self.home)), ("away/out", file, "")],
                [("away", symbolic, ".."), ("away/out", file, "")],
                [("hard", hard, "../secret")],
            )
        ):
            record = self.add_row("evil", f"2024-01-01T00:00:{number:02}")
            self.backend().store.put(record.stored_filename, archive(*members))
            self.file("secret", "secret")
            folder = self.in_folder(f"in{number}")
            with self.subTest(members):
                with self.assertRaises(self.bakthat._native.UnsafeMember):
                    self.bakthat.restore(record.stored_filename)
                self.assertFalse((self.home / "out").exists() or (self.work / "out").exists())
                self.assertFalse((folder / "hard").exists())
            os.chdir(self.work)

    def test_19_a_row_cannot_name_a_file_elsewhere(self):
        record = self.add_row("x", "2024-01-01T00:00:00", filename="../../out", stored_filename="x.20240101000000")
        folder = self.in_folder()
        self.bakthat.restore(record.stored_filename)
        self.assertEqual(os.listdir(folder), ["out"])


class OfTheOriginal(Case):
    """Objects, database and configuration that release 0.6.0 wrote; made with ``TZ=UTC``."""

    def setUp(self):
        super().setUp()
        with closing(sqlite3.connect(self.home / ".bakthat.sqlite")) as database, database:
            database.executescript((ORIGINAL / "database.sql").read_text())
        text = (ORIGINAL / "bakthat.yml").read_text()
        address = servers.s3_settings()["endpoint_url"]
        # The one change: where the S3 server of the tests is.
        text = text.replace("  s3_bucket: mybucket\n", f"  s3_bucket: mybucket\n  endpoint_url: {address}\n")
        (self.home / ".bakthat.yml").write_text(text)
        self._drop()
        store = self.backend().store
        for path in (ORIGINAL / "storage/mybucket").iterdir():
            store.upload(path.name, str(path))

    def restored(self, name, password="", **more):
        folder = self.in_folder(f"back-{name}")
        record = self.bakthat.restore(name, password=password, **more)
        self.assertIsNotNone(record)
        os.chdir(self.work)
        return folder

    def test_20_a_plain_tree(self):
        tree = self.restored("plain") / "plain"
        self.assertEqual((tree / "a.txt").read_text(), "content of a\n")
        self.assertEqual((tree / "a.txt").stat().st_mode & 0o7777, 0o640)
        self.assertEqual(int((tree / "a.txt").stat().st_mtime), 1380000000)
        self.assertTrue(os.path.samefile(tree / "a.txt", tree / "hard"))
        self.assertEqual(os.readlink(tree / "link"), "a.txt")
        self.assertEqual((tree / "sub" / "ä.bin").read_bytes(), bytes(range(256)))
        self.assertEqual((tree / ("n" * 120)).read_text(), "long name")
        self.assertEqual((tree / "sub" / "empty").stat().st_mode & 0o7777, 0o700)

    def test_20_passwords_of_every_length_and_alphabet(self):
        passwords = {"pw1": "a", "pw2": "ab", "pw3": "abc", "pw56": "x" * 56, "pwutf": "pässwörd"}
        for name, password in passwords.items():
            self.assertEqual((self.restored(name, password) / name).read_text(), f"secret of {name}\n")
        self.assertEqual((self.restored("pwutf.", "pässwörd".encode()) / "pwutf").read_text(), "secret of pwutf\n")

    def test_20_uncompressed_and_compressed_before(self):
        self.assertEqual((self.restored("bare") / "bare").read_text(), "bare bytes\n")
        self.assertEqual((self.restored("bare_enc", "abc") / "bare_enc").read_text(), "bare secret\n")
        self.assertEqual((self.restored("packed.tgz") / "packed/a.txt").read_text(), "content of a\n")
        self.assertEqual((self.restored("second.tar.gz", "abc") / "packed/a.txt").read_text(), "content of a\n")

    def test_20_key_value_in_four_forms(self):
        keys = self.helper().KeyValue()
        for name, password in (("kv_gz", None), ("kv_raw", None), ("kv_gz_enc", "abc"), ("kv_raw_enc", "abc")):
            self.assertEqual(keys.get_key(name, password=password), {"my": "data", "n": [1, 2]})
            folder = self.restored(name, password)
            self.assertEqual((folder / name).read_text(), '{"my": "data", "n": [1, 2]}')

    def test_20_objects_on_swift_and_glacier(self):
        stored = {path.name: path.read_bytes() for path in (ORIGINAL / "storage/mycontainer").iterdir()}
        swift = servers.swift(
            {"/v1/AUTH_account/mycontainer": b"", **{f"/v1/AUTH_account/mycontainer/{k}": v for k, v in stored.items()}}
        )
        self.addCleanup(swift.close)
        profiles = self.bakthat.load_config()
        profiles["swift"]["auth_url"] = f"{swift.url}/auth/v1.0"
        folder = self.restored("swifted", profile="swift", config=profiles)
        self.assertEqual((folder / "swifted").read_text(), "on swift\n")
        glacier = servers.Glacier()
        self.addCleanup(glacier.close)
        (path,) = (ORIGINAL / "storage/myvault").iterdir()
        glacier.archives[f"archive-{path.name}"] = (path.name, path.read_bytes())
        glacier.finish = True
        profiles["default"]["endpoint_url"] = glacier.url
        folder = self.restored("frozen", destination="glacier", config=profiles)
        self.assertEqual((folder / "frozen").read_text(), "on glacier\n")

    def test_20_objects_on_swift_itself(self):
        profiles = self.bakthat.load_config()
        profiles["swift"]["auth_url"] = servers.swift_itself()
        store = self.bakthat.SwiftBackend(profiles["swift"]).store
        for path in (ORIGINAL / "storage/mycontainer").iterdir():
            store.upload(path.name, str(path))
        folder = self.restored("swifted", profile="swift", config=profiles)
        self.assertEqual((folder / "swifted").read_text(), "on swift\n")

    def test_20_the_objects_decrypt_with_an_independent_implementation(self):
        for path in (ORIGINAL / "storage/mybucket").glob("pw2.*"):
            self.assertTrue(blowfish.decrypt(path.read_bytes(), b"abab")[0].startswith(b"\x1f\x8b"))


if __name__ == "__main__":
    unittest.main()
