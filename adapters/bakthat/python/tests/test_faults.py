# SPDX-License-Identifier: MIT OR Apache-2.0
"""What goes wrong ends in one clear line, status 1, no half object, no row for what is not there."""

import io
import os
import subprocess
import tarfile
import unittest

import servers
from case import Case


class Faults(Case):
    def fails(self, *arguments, **more):
        done = self.command(*arguments, **more)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(self.temporary_files(), [])
        return done.stderr.splitlines()[-1]

    def nothing_stored(self):
        self.assertEqual((self.objects(), self.bakthat.Backups.select().count()), ([], 0))

    def test_a_wrong_password(self):
        self.file("f")
        self.bakthat.backup("f", password="right")
        os.unlink("f")
        self.assertRegex(self.fails("restore", "f", env={"BAKTHAT_PASSWORD": "wrong"}), "password is wrong")
        self.assertFalse(os.path.exists("f"))

    def test_a_missing_profile(self):
        self.assertEqual(
            self.fails("backup", "-p", "nobody"),
            "No nobody profile defined in the configuration: run bakthat configure -p nobody",
        )

    def test_a_missing_setting(self):
        self.write_config({"default": {"access_key": "a", "secret_key": "b"}})
        self.file("f")
        self.assertRegex(self.fails("backup", "--prompt=no", "f"), "The default profile has no s3_bucket")
        self.assertRegex(self.fails("backup", "--prompt=no", "f", "-d", "local"), "has no local_path")
        self.assertRegex(self.fails("backup", "--prompt=no", "f", "-d", "backstay"), "has no repository")

    def test_a_bucket_that_may_not_be_used(self):
        refusing = servers.Recorder(
            lambda request: (403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
        )
        self.addCleanup(refusing.close)
        self.write_config({"default": self.s3(endpoint_url=refusing.url)})
        self.file("f")
        self.assertRegex(self.fails("backup", "--prompt=no", "f"), "(?i)denied|permission|403")
        self.assertEqual(self.bakthat.Backups.select().count(), 0)

    def test_no_network(self):
        self.file("f")
        for conf in (
            self.s3(endpoint_url="http://127.0.0.1:1"),
            self.s3(auth_url="http://127.0.0.1:1/auth", default_destination="swift"),
        ):
            self.write_config({"default": conf})
            self.fails("backup", "--prompt=no", "f")
            self.assertEqual(self.bakthat.Backups.select().count(), 0)
        glacier = self.s3(glacier_vault="v", endpoint_url="http://127.0.0.1:1", default_destination="glacier")
        self.write_config({"default": glacier})
        done = self.command("backup", "--prompt=no", "f")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\A[^\n]*nobody answers there[^\n]*\n\Z")

    def test_an_upload_that_fails_half_way_leaves_nothing(self):
        self.file("big", os.urandom(1 << 20))

        def answers(request):
            looks = request.method == "HEAD"
            return (404 if looks and "big" in request.path else 200 if looks else 403), {}, b""

        broken = servers.Recorder(answers)
        self.addCleanup(broken.close)
        self.write_config({"default": self.s3(endpoint_url=broken.url)})
        self.fails("backup", "--prompt=no", "big")
        self.assertEqual(self.bakthat.Backups.select().count(), 0)
        self.assertEqual(self.bakthat.models.Config.select().count(), 0)

    def test_a_member_that_climbs_out(self):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo("../../climbs"))
        record = self.add_row("evil", "2024-01-01T00:00:00")
        self.backend().store.put(record.stored_filename, data.getvalue())
        self.assertIn("climbs", self.fails("restore", "evil"))

    def test_a_full_disk(self):
        self.file("f", os.urandom(3 << 20))
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.tmp]).returncode:
            self.skipTest("a full disk needs the right to mount one")
        self.addCleanup(subprocess.run, ["umount", self.tmp])
        self.assertRegex(self.fails("backup", "--prompt=no", "f"), "No space left on device")
        self.nothing_stored()

    def test_a_full_disk_under_the_database(self):
        self.file("f")
        code = (
            "import bakthat, sys\n"
            "bakthat.models.database.execute_sql('PRAGMA max_page_count = 1')\n"
            "sys.argv = ['bakthat', 'backup', '--prompt=no', '--tags', 'x' * 100000, 'f']; bakthat.main()\n"
        )
        done = self.python(code)
        self.assertEqual(
            (done.returncode, done.stderr.splitlines()[-1]), (1, "OperationalError: database or disk is full")
        )
        self.assertEqual(self.bakthat.Backups.select().count(), 0)

    def test_a_plugins_own_traceback_is_shown_whole(self):
        folder = self.home / ".bakthat_plugins"
        folder.mkdir()
        (folder / "own.py").write_text(
            "from bakthat.plugin import Plugin\n"
            "class Own(Plugin):\n"
            "    def activate(self):\n"
            "        self.before_backup += self.fails\n"
            "    def fails(self, session_id):\n"
            "        raise LookupError('of the plugin')\n"
        )
        self.write_config({"default": self.s3(plugins=["own.Own"])})
        self.file("f")
        done = self.command("backup", "--prompt=no", "f")
        self.assertEqual(done.returncode, 1)
        self.assertIn("Traceback", done.stderr)
        self.assertIn("own.py", done.stderr)
        self.assertTrue(done.stderr.endswith("LookupError: of the plugin\n"))
        self.nothing_stored()

    def test_a_plugin_that_python_cannot_read_is_shown_with_its_place(self):
        folder = self.home / ".bakthat_plugins"
        folder.mkdir()
        (folder / "own.py").write_text("class Own(:\n")
        self.write_config({"default": self.s3(plugins=["own.Own"])})
        done = self.command("ls")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f'File "{folder / "own.py"}", line 1', done.stderr)

    def test_control_characters_never_reach_the_terminal(self):
        self.file("a\x1b[2Jb\x9b")
        done = self.command("backup", "--prompt=no", "a\x1b[2Jb\x9b")
        self.assertIn("Backing up a\\x1b[2Jb\\x9b\n", done.stderr)
        self.assertEqual(self.bakthat.Backups.get().filename, "a\x1b[2Jb\x9b")
        self.assertNotIn("\x1b", done.stderr + self.succeeds(self.command("show")).stderr)

    def test_nothing_to_back_up_or_to_exclude_by(self):
        self.file("f")
        self.assertRegex(self.fails("backup", "--prompt=no", ""), "^No file to back up was named")
        missing = self.fails("backup", "--prompt=no", "--exclude-file", "absent", "f")
        self.assertEqual(missing, "absent: No such file or directory")
        code = "import bakthat, os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        done = self.python(code + "sys.argv = ['bakthat', 'backup', '--prompt=no']; bakthat.main()")
        expected = "The working directory is there no more: name a file or a directory\n"
        self.assertEqual((done.returncode, done.stderr), (1, expected))
        self.nothing_stored()

    def test_an_unusable_database(self):
        (self.home / ".bakthat.sqlite").write_bytes(b"no database" * 1000)
        done = self.command("show")
        self.assertEqual(done.returncode, 1)
        self.assertNotIn("Traceback", done.stderr)
        self.assertIn("not a database", done.stderr)

    def test_where_it_happened_is_told_on_request(self):
        done = self.command("show", "-p", "nobody", env={"BAKTHAT_DEBUG": "1"})
        self.assertIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
