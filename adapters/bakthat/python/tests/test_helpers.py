# SPDX-License-Identifier: MIT OR Apache-2.0
"""BakHelper and KeyValue: lines 37 and 38 of the conformance checklist."""

import json
import os
import subprocess
import unittest
import urllib.request

import blowfish
import servers
from case import Case


class Helper(Case):
    def setUp(self):
        super().setUp()
        self.BakHelper = self.helper().BakHelper

    def test_37_the_context(self):
        with self.BakHelper("nightly") as helper:
            self.assertEqual(os.path.realpath(os.getcwd()), os.path.realpath(helper.tmpd))
            self.assertTrue(os.path.basename(helper.tmpd).startswith("nightly_"))
            self.assertEqual(helper.tmpd, str(self.tmp / os.path.basename(helper.tmpd)))
            self.assertEqual(os.stat(helper.tmpd).st_mode & 0o777, 0o700)
            self.assertEqual(helper.old_cwd, str(self.work))
            subprocess.run("pwd > here", shell=True, check=True)
            with open("here") as file:
                self.assertEqual(file.read().strip(), helper.tmpd)
        self.assertEqual((os.getcwd(), self.temporary_files()), (str(self.work), []))
        lines = self.texts(logger="bakthat.helper")
        self.assertEqual(lines, [f"New current working directory: {helper.tmpd}.", f"Back to {self.work}"])
        with self.assertRaisesRegex(RuntimeError, "inside"):
            with self.BakHelper("nightly"):
                raise RuntimeError("inside")
        self.assertEqual((os.getcwd(), self.temporary_files()), (str(self.work), []))

    def test_37_attributes(self):
        helper = self.BakHelper("n", password="p", profile="q", conf={"a": 1}, tags=["t"], key="k", destination="swift")
        given = [
            getattr(helper, name)
            for name in "backup_name dir_prefix destination password profile conf tags key syncer".split()
        ]
        self.assertEqual(given, ["n", "n_", "swift", "p", "q", {"a": 1}, ["t"], "k", None])
        helper = self.BakHelper("n")
        given = [getattr(helper, name) for name in "password profile conf tags key syncer".split()]
        self.assertEqual(given, ["", "default", {}, [], None, None])

    def test_37_backup_restore_rotate_and_age(self):
        with self.BakHelper("nightly", tags=["db"], password="abc") as helper:
            self.file(f"{helper.tmpd}/dump.sql", "dump")
            whole = helper.backup()
            one = helper.backup("dump.sql", password="", tags=["one"])
            folder = os.path.basename(helper.tmpd)
        self.assertRegex(whole.stored_filename, rf"^{folder}\.\d{{14}}\.tgz\.enc$")
        self.assertEqual((whole.filename, whole.tags, one.filename, one.tags), ("nightly", "db", "nightly", "one"))
        self.assertRegex(one.stored_filename, r"^dump\.sql\.\d{14}\.tgz$")
        target = self.in_folder()
        self.assertEqual(helper.restore(whole.stored_filename).id, whole.id)
        self.assertEqual((target / folder / "dump.sql").read_text(), "dump")
        with self.assertRaises(ValueError):
            helper.delete_older_than()
        self.assertEqual(helper.delete_older_than(interval="1D"), [])
        self.bakthat.Backups.update(backup_date=1000).where(self.bakthat.Backups.id == one.id).execute()
        self.assertEqual([row.id for row in helper.delete_older_than(interval="1D")], [one.id])
        helper.conf = self.s3(rotation={"days": 1})
        self.assertEqual(helper.rotate(), [])
        self.bakthat.Backups.update(backup_date=1000).execute()
        self.assertEqual([row.id for row in helper.rotate()], [whole.id])

    def test_37_as_a_plain_object_and_without_a_name(self):
        self.file("f")
        helper = self.BakHelper("named")
        record = helper.backup("f")
        self.assertEqual(record.filename, "named")
        self.assertTrue(helper.restore("named"))
        self.assertEqual(helper.rotate("f", conf=self.s3(rotation={"days": 0}))[0].id, record.id)
        with self.assertRaises(AttributeError):
            helper.backup()
        conf = self.s3(s3_bucket=self.s3()["s3_bucket"] + "2")
        with self.BakHelper(conf=conf) as helper:
            self.file(f"{helper.tmpd}/x")
            record = helper.backup("x")
        self.assertEqual(record.filename, "x")
        self.assertEqual(self.bakthat.S3Backend(conf).ls(), [record.stored_filename])

    def test_37_a_subclass_overrides_backup(self):
        class Own(self.BakHelper):
            def backup(self, filename=None, **kwargs):
                return super().backup(filename, tags=["own"], **kwargs)

        self.file("f")
        with Own("n") as helper:
            self.assertEqual(helper.backup(str(self.work / "f")).tags, "own")

    def test_37_sync_at_the_end_of_the_block(self):
        answers = {"/api/clients": {"_id": "c"}, "/api/backups/sync": {"updated": [], "sync_ts": 5}}
        server = servers.Recorder(lambda request: (200, {}, json.dumps(answers[request.path]).encode()))
        self.addCleanup(server.close)
        with self.BakHelper("n") as helper:
            helper.enable_sync(f"{server.url}/api", ("user", "secret"))
        self.assertEqual([request.path for request in server.requests], ["/api/clients", "/api/backups/sync"])
        helper.enable_sync("http://127.0.0.1:1/api")
        helper.sync()
        self.assertTrue(self.texts(level=40, logger="bakthat.helper"))

    def test_37_the_default_destination_of_the_profile(self):
        self.write_config({"default": {"default_destination": "local", "local_path": str(self.home / "kept")}})
        self.file("f")
        self.assertEqual(self.helper().BakHelper("n").backup("f").backend, "local")


class Values(Case):
    def setUp(self):
        super().setUp()
        self.keys = self.helper().KeyValue()

    def test_38_four_forms(self):
        value = {"my": "data", "ä": [1, None, True]}
        for compress in (True, False):
            for password in (None, "abc"):
                name = f"key-{compress}-{password}"
                self.assertIsNone(self.keys.set_key(name, value, compress=compress, password=password))
                self.assertEqual(self.keys.get_key(name, password=password), value)
                data = self.data(name)
                if password:
                    data = blowfish.decrypt(data, b"abc")[0]
                self.assertEqual(data.startswith(b"\x1f\x8b"), compress)
                if not compress:
                    self.assertEqual(data, b'{"my": "data", "\\u00e4": [1, null, true]}')
                row = self.row(name)
                self.assertEqual(row.metadata, {"KeyValue": True, "is_enc": bool(password), "is_gzipped": compress})
                self.assertEqual(
                    (row.filename, row.backend, row.tags, row.size), (name, "s3", "", len(self.data(name)))
                )
                self.assertEqual(row.backup_date, row.last_updated)
                folder = self.in_folder(name)
                self.bakthat.restore(name, password=password)
                self.assertEqual((folder / name).read_text(), '{"my": "data", "\\u00e4": [1, null, true]}')
                os.chdir(self.work)
        self.assertEqual(len(self.objects()), 4)
        self.lines.records.clear()
        self.bakthat.show("key-")
        self.assertEqual(len(self.texts()), 4)

    def test_38_defaults_and_passwords(self):
        self.assertIsNone(self.keys.get_key("none"))
        self.assertEqual(self.keys.get_key("none", default=7), 7)
        self.keys.set_key("secret", 1, password="abc")
        with self.assertRaises(TypeError):
            self.keys.get_key("secret")
        with self.assertRaises(Exception):
            self.keys.get_key("secret", password="wrong")

    def test_38_a_key_is_set_again_with_other_options(self):
        self.keys.set_key("k", 1, password="abc")
        self.keys.set_key("k", 2, compress=False)
        self.assertEqual(self.keys.get_key("k"), 2)
        self.assertTrue(self.keys.delete_key("k"))
        self.assertIsNone(self.keys.delete_key("k"))
        self.assertIsNone(self.keys.get_key("k"))
        self.keys.set_key("k", 3)
        self.assertEqual(self.keys.get_key("k"), 3)
        self.lines.records.clear()
        self.bakthat.show("k")
        self.assertEqual(len(self.texts()), 1)

    def test_38_odd_names_and_only_exact_ones(self):
        names = ["[a]", "b*", "c?", "d", "dd", "with blank", "ü"]
        for number, name in enumerate(names):
            self.keys.set_key(name, number)
        self.assertEqual([self.keys.get_key(name) for name in names], list(range(7)))
        self.assertTrue(self.keys.delete_key("d"))
        self.assertEqual(self.keys.get_key("dd"), 4)
        self.assertFalse(self.row("dd").is_deleted)
        self.assertTrue(self.keys.delete_key("[a]"))
        self.assertIsNone(self.keys.get_key("[a]"))

    def test_38_one_name_in_two_buckets(self):
        other = self.helper().KeyValue(self.s3(s3_bucket=self.s3()["s3_bucket"] + "2"))
        self.keys.set_key("same", "one")
        other.set_key("same", "two", compress=False)
        self.assertEqual((self.keys.get_key("same"), other.get_key("same")), ("one", "two"))

    def test_38_the_address_of_a_key_delivers_its_json(self):
        self.keys.set_key("k", {"my": "data"}, compress=False)
        with urllib.request.urlopen(self.keys.get_key_url("k", 60)) as answer:
            self.assertEqual(answer.read(), b'{"my": "data"}')
        self.assertTrue(self.keys.get_key_url("missing", 60))

    def test_38_a_flat_configuration_and_the_better_container(self):
        keys = self.helper().KeyValue(conf=self.s3(encryption="age"))
        keys.set_key("k", 1, password="abc")
        self.assertTrue(self.data("k").startswith(b"age-encryption.org"))
        self.assertEqual(keys.get_key("k", password="abc"), 1)


if __name__ == "__main__":
    unittest.main()
