# SPDX-License-Identifier: MIT OR Apache-2.0
"""Configuration and names: lines 1 to 5 of the conformance checklist."""

import unittest

from case import Case

NAMES = """
backup restore delete delete_older_than rotate_backups show configure configure_backups_rotation periodic_backups
sync reset_sync main ls info app log events config load_config CONFIG_FILE DEFAULT_DESTINATION DEFAULT_LOCATION
EXCLUDE_FILES STORAGE_BACKEND Backups BakSyncer bakmanager_hook bakmanager_periodic_backups GlacierBackend S3Backend
SwiftBackend RotationConfig BakthatFilter setup_plugins plugin_setup _get_store_backend _get_exclude _display_backups
_interval_string_to_seconds __version__
backends conf models plugin utils migrate rebuild
""".split()


class Names(Case):
    def test_01_names_import_and_paths_derive_from_home(self):
        bakthat = self.bakthat
        for name in NAMES:
            self.assertTrue(hasattr(bakthat, name), name)
        helper = self.helper()
        self.assertTrue(issubclass(helper.KeyValue, bakthat.S3Backend) and helper.BakHelper)
        self.assertEqual(bakthat.CONFIG_FILE, f"{self.home}/.bakthat.yml")
        self.assertEqual(bakthat.conf.PLUGINS_DIR, f"{self.home}/.bakthat_plugins")
        self.assertEqual(bakthat.conf.DATABASE, f"{self.home}/.bakthat.sqlite")
        self.assertEqual(bakthat.models.DATABASE, bakthat.conf.DATABASE)
        self.assertEqual((bakthat.DEFAULT_LOCATION, bakthat.DEFAULT_DESTINATION), ("us-east-1", "s3"))
        self.assertEqual(bakthat.EXCLUDE_FILES, [".bakthatexclude", ".gitignore"])
        self.assertEqual(bakthat.__version__, "0.6.0")
        self.assertIs(bakthat.events, bakthat.conf.events)
        self.assertIs(bakthat.config, bakthat.conf.config)
        for name in "database JsonField BaseModel SyncedModel History Config Jobs Inventory Backups".split():
            self.assertTrue(hasattr(bakthat.models, name), name)

    def test_01_an_import_makes_the_database_and_loads_no_plugin(self):
        done = self.python(
            "import bakthat, os, sys; print(os.path.exists(os.environ['HOME'] + '/.bakthat.sqlite'),"
            " bakthat.plugin.plugin_setup, bakthat.plugin_setup, callable(bakthat.sync), 'bakthat.sync' in sys.modules)"
        )
        self.assertEqual(self.succeeds(done).stdout.split(), ["True", "False", "False", "True", "True"])

    def test_01_the_old_databases_are_told_of_and_left_alone(self):
        (self.home / ".bakthat.dt").write_bytes(b"old")
        done = self.succeeds(self.python("import bakthat"))
        self.assertIn(".bakthat.dt", done.stderr)
        self.assertEqual((self.home / ".bakthat.dt").read_bytes(), b"old")

    def test_02_a_missing_or_empty_configuration_imports_and_a_call_names_the_profile(self):
        for text in (None, "", "# nothing\n"):
            path = self.home / ".bakthat.yml"
            path.unlink() if text is None and path.exists() else path.write_text(text or "")
            self._drop()
            self.assertEqual(self.bakthat.config, {})
            self.assertEqual(self.bakthat.load_config(), {})
            for call in (
                lambda: self.bakthat.backup(str(self.file("f")), password=""),
                lambda: self.bakthat.restore("f", profile="default"),
                lambda: self.bakthat.show(),
            ):
                with self.assertRaisesRegex(Exception, "default"):
                    call()

    def test_02_an_unreadable_configuration_imports_and_a_call_says_what_is_wrong(self):
        (self.home / ".bakthat.yml").write_text("default: [unclosed\n")
        done = self.command("show")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr.splitlines()[-1], r"\.bakthat\.yml is not valid YAML")
        self.assertNotIn("Traceback", done.stderr)


class Mistakes(Case):
    def test_a_setting_of_another_kind_is_named(self):
        for key, value, wanted in (
            ("default_destination", ["local"], "text"),
            ("local_path", 5, "text"),
            ("plugins", 5, "text or a list of texts"),
            ("plugins", [5], "text or a list of texts"),
            ("plugins_dir", 5, "text"),
            ("repository_options", 5, "text or a list of texts"),
            ("repository_password", 0, "text"),
            ("repository_password_file", ["a"], "text"),
            ("rotation", 5, "a mapping"),
        ):
            with self.subTest(key=key, value=value):
                conf = {"repository": "r", "repository_password": "p", "default_destination": "local", key: value}
                self.write_config({"default": conf})
                done = self.command("backup", "--prompt=no", "-d", "backstay")
                expected = f"The setting {key} of the profile default must be {wanted}\n"
                self.assertEqual((done.returncode, done.stderr), (1, expected))

    def test_a_profile_that_is_no_mapping_or_has_a_number_for_a_name(self):
        self.write_config({"default": 5, 2012: {"local_path": str(self.home / "there")}})
        done = self.command("ls")
        self.assertEqual((done.returncode, done.stderr), (1, "The profile default must be a mapping of settings\n"))
        self.assertEqual(self.bakthat.ls("local", "2012"), [])

    def test_settings_that_are_unset_and_one_option_of_a_repository_as_text(self):
        conf = {"repository": str(self.home / "r"), "repository_password": "p", "repository_options": "foo=bar"}
        self.write_config({"default": {**conf, "plugins": False, "plugins_dir": None, "rotation": ""}})
        with self.assertRaises(self.bakthat._native.NativeError) as caught:
            self.bakthat.ls("backstay")
        self.assertIn("foo", str(caught.exception))


class Profiles(Case):
    def everything(self, bucket, **how):
        """All functions with one way to name a profile; each must have worked in that bucket."""
        bakthat = self.bakthat
        self.file(f"{bucket}/f")
        settings = self.s3(s3_bucket=bucket)
        record = bakthat.backup(bucket, password="", **how)
        self.assertEqual(record.backend_hash, bakthat.models.backend_hash(settings, bucket))
        store = bakthat.S3Backend(settings)
        self.assertEqual(store.ls(), [record.stored_filename])
        self.assertEqual(bakthat.restore(bucket, **how).stored_filename, record.stored_filename)
        self.lines.records.clear()
        bakthat.show(bucket, **{key: value for key, value in how.items()})
        self.assertEqual(len(self.texts()), 1)
        self.assertEqual(bakthat.rotate_backups(bucket, **how), [])
        bakthat.Backups.update(backup_date=1).execute()
        self.assertEqual(
            [r.stored_filename for r in bakthat.delete_older_than(bucket, "1h", **how)],
            store.ls() or [record.stored_filename],
        )
        self.assertEqual(store.ls(), [])
        other = bakthat.backup(bucket, password="", **how)
        self.assertEqual(bakthat.delete(bucket, **how).stored_filename, other.stored_filename)
        self.assertEqual(store.ls(), [])

    def bucket(self, name):
        return self.s3(s3_bucket=f"{name}-{self.s3()['s3_bucket'][-8:].strip('-')}", rotation={"days": 2})

    def test_03_profile_config_and_conf_select_the_bucket_in_every_function(self):
        profiles = {name: self.bucket(name) for name in ("first", "second", "third", "fourth", "fifth")}
        self.write_config({"default": profiles["first"], "other": profiles["second"]})
        self.write_config({"default": profiles["third"]}, self.home / "other.yml")
        self.everything(profiles["first"]["s3_bucket"])
        self.everything(profiles["first"]["s3_bucket"], conf={})
        self.everything(profiles["first"]["s3_bucket"], conf=None)
        self.everything(profiles["second"]["s3_bucket"], profile="other")
        self.everything(profiles["third"]["s3_bucket"], config=str(self.home / "other.yml"))
        self.everything(profiles["fourth"]["s3_bucket"], config={"default": profiles["fourth"]})
        self.everything(profiles["fifth"]["s3_bucket"], conf=profiles["fifth"])

    def test_03_p_and_c_select_the_bucket_in_commands(self):
        profiles = {name: self.bucket(name) for name in ("first", "second")}
        self.write_config({"default": profiles["first"], "other": profiles["first"]})
        self.write_config({"other": profiles["second"]}, self.home / "c.yml")
        self.file("f")
        which = ["-p", "other", "-c", self.home / "c.yml"]
        self.succeeds(self.command("backup", "--prompt", "no", "f", *which))
        self.assertEqual(len(self.bakthat.S3Backend(profiles["second"]).ls()), 1)
        self.assertEqual(self.bakthat.S3Backend(profiles["first"]).ls(), [])
        self.assertIn("f.", self.succeeds(self.command("show", *which)).stderr)
        self.assertEqual(self.succeeds(self.command("show")).stderr, "")
        self.assertIn("No file matched.", self.command("delete", "f").stderr)
        self.assertIn("Deleting", self.succeeds(self.command("delete", "f", *which)).stderr)

    def test_04_region_and_vault_may_be_missing_or_blank(self):
        for more in ({}, {"region_name": "", "glacier_vault": ""}, {"region_name": None, "glacier_vault": None}):
            with self.subTest(more):
                self.write_config({"default": self.s3(**more)})
                self.file("blank", "x")
                self.assertTrue(self.bakthat.backup("blank", password=""))
                self.bakthat.show("blank")
                self.assertTrue(self.bakthat.restore("blank"))
                self.assertTrue(self.bakthat.delete("blank"))

    def test_05_the_default_destination_holds_everywhere(self):
        local = {"default_destination": "local", "local_path": str(self.home / "kept"), "rotation": {"days": 1}}
        self.write_config({"default": local})
        bakthat = self.bakthat
        self.file("thing")
        self.assertEqual(bakthat.backup("thing", password="").backend, "local")
        self.assertEqual(bakthat.restore("thing").backend, "local")
        self.assertEqual(bakthat.info("thing").backend, "local")
        self.assertEqual(len(bakthat.ls()), 1)
        self.assertEqual(bakthat.rotate_backups("thing"), [])
        self.assertEqual(bakthat.delete_older_than("thing", "1h"), [])
        self.assertEqual(bakthat.delete("thing").backend, "local")
        for arguments in (["backup", "--prompt=no", "thing"], ["restore", "thing"], ["delete", "thing"]):
            self.succeeds(self.command(*arguments))
        self.assertEqual(bakthat.Backups.select().where(bakthat.Backups.backend != "local").count(), 0)


if __name__ == "__main__":
    unittest.main()
