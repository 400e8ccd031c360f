# SPDX-License-Identifier: MIT OR Apache-2.0
"""The command line: lines 43 to 46 of the conformance checklist."""

import os
import signal
import subprocess
import sys
import threading
import time
import unittest

import yaml

import servers
from case import Case

OPTIONS = {
    "backup": "filename --destination --prompt --tags --profile --config --key --exclude-file --s3-reduced-redundancy",
    "restore": "filename --destination --profile --config",
    "show": "query --destination --tags --profile --config",
    "delete": "filename --destination --profile --config",
    "delete_older_than": "filename interval --destination --profile --config",
    "rotate_backups": "filename --destination --profile --config --dry-run",
    "configure": "--profile",
    "configure_backups_rotation": "--profile",
    "periodic_backups": "--profile --config",
    "sync": "",
    "reset_sync": "",
    "ls": "--destination --profile --config",
    "info": "filename --destination --profile --config",
    "migrate": "query --destination --profile --config --delete-source --dry-run",
    "rebuild": "--destination --profile --config",
    "sync-server": "--database --users --host --port",
    "show_glacier_inventory": "--profile --config",
    "show_local_glacier_inventory": "--profile --config",
    "backup_glacier_inventory": "--profile --config",
    "restore_glacier_inventory": "--profile --config",
}
PROMPTS = [
    "AWS Access Key: ", "AWS Secret Key: ", "S3 Bucket Name: ", "Glacier Vault Name: ", "Default destination (s3): ",
    "Region Name (us-east-1): ",
]  # fmt: skip


class Usage(Case):
    def test_43_help_and_options(self):
        done = self.succeeds(self.command("--help"))
        self.assertIn("Compress, encrypt and upload files directly to Amazon S3/Glacier/Swift.", done.stdout)
        self.assertIn("Subcommands:", done.stdout)
        for name, options in OPTIONS.items():
            self.assertIn(f"    {name}", done.stdout)
            text = self.succeeds(self.command(name, "--help")).stdout
            for option in options.split():
                self.assertIn(option, text, name)

    def test_43_statuses(self):
        for arguments, status in (
            ([], 2), (["nonsense"], 2), (["restore"], 2), (["delete_older_than", "f"], 2), (["--version"], 0),
            (["restore", "nothing"], 0), (["delete", "nothing"], 0), (["show"], 0), (["periodic_backups"], 0),
            (["show", "-p", "nobody"], 1), (["delete_older_than", "f", "1x"], 1), (["rotate_backups", "f"], 1),
            (["backup", "--prompt=no", "missing"], 1), (["backup", "--prompt=no", "-d", "nowhere", "."], 1),
            (["sync-server", "--users", "u", "--port", "99999"], 2),
        ):  # fmt: skip
            done = self.command(*arguments)
            self.assertEqual(done.returncode, status, (arguments, done.stderr))
            self.assertNotIn("Traceback", done.stderr)
            if status == 1:
                self.assertEqual(len(done.stderr.splitlines()), 1 + done.stderr.startswith("Backing up"), done.stderr)
        self.assertEqual(self.command("--version").stdout, "bakthat 0.6.0\n")

    def test_43_everything_said_goes_to_standard_error(self):
        self.file("f")
        done = self.succeeds(self.command("backup", "--prompt", "no", "f", "--tag", "a b"))
        self.assertEqual(done.stdout, "")
        lines = ["Backing up f", "Compressing...", "Uploading...", "Upload completion: 0%", "Upload completion: 100%"]
        self.assertEqual(done.stderr.splitlines(), lines)
        done = self.succeeds(self.command("show"))
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\ts3      \t\d+ B   \tf\.\d{14}\.tgz \(a b\)\n$")
        self.assertEqual(self.command("restore", "none").stderr, "No file matched.\n")

    def test_43_the_module_is_the_command_too(self):
        done = subprocess.run(
            [sys.executable, "-m", "bakthat", "--version"], env=self.environment(), stdout=subprocess.PIPE, text=True
        )
        self.assertEqual(done.stdout, "bakthat 0.6.0\n")


class Configure(Case):
    def written(self):
        return yaml.safe_load((self.home / ".bakthat.yml").read_text())

    def test_43_configure_asks_and_keeps_other_profiles_and_keys(self):
        self.write_config({"default": {"own": 1, "access_key": "old"}, "other": {"x": 2}, "sync": {"url": "u"}})
        answers = ["key", "secret", "bucket", "vault", "nonsense", "", ""]
        done = self.succeeds(self.command("configure", input="\n".join(answers) + "\n"))
        self.assertEqual(done.stdout, "".join(PROMPTS[:5]) + "".join(PROMPTS[4:]))
        lines = [
            "Invalid default_destination, should be s3 or glacier, swift, try again.",
            f"Config written in {self.home}/.bakthat.yml",
            "Run bakthat configure_backups_rotation if needed.",
        ]
        self.assertEqual(done.stderr.splitlines(), lines)
        profile = {"access_key": "key", "secret_key": "secret", "s3_bucket": "bucket", "glacier_vault": "vault"}
        profile.update(default_destination="s3", region_name="us-east-1", own=1)
        self.assertEqual(self.written(), {"default": profile, "other": {"x": 2}, "sync": {"url": "u"}})
        self.assertEqual(os.stat(self.home / ".bakthat.yml").st_mode & 0o777, 0o600)
        self.assertIn("\n  access_key: key\n", (self.home / ".bakthat.yml").read_text())

    def test_43_configure_of_a_new_profile_proposes_age(self):
        for more, expected in (("", "age"), ("\n", "age"), ("what\nblowfish\n", "blowfish")):
            (self.home / ".bakthat.yml").unlink()
            answers = "k\ns\nb\n\nSWIFT\n\n1\nhttp://auth\n"
            done = self.succeeds(self.command("configure", "-p", "new", input=answers + more))
            start = "".join(PROMPTS) + "Swift Auth Version: Swift Auth URL: "
            self.assertTrue(done.stdout.startswith(start), done.stdout)
            new = self.written()["new"]
            self.assertEqual(
                (new["default_destination"], new["auth_version"], new["auth_url"]), ("swift", "1", "http://auth")
            )
            self.assertEqual(new["encryption"], expected)

    def test_43_configure_asks_for_our_own_destinations(self):
        (self.home / ".bakthat.yml").unlink()
        self.succeeds(self.command("configure", input="\n\n\n\nbackstay\n\n/srv/repository\n/root/password\n"))
        new = self.written()["default"]
        self.assertEqual((new["repository"], new["repository_password_file"]), ("/srv/repository", "/root/password"))
        self.succeeds(self.command("configure", "-p", "two", input="\n\nb\n\nlocal\n\n/srv/backups\n"))
        self.assertEqual(self.written()["two"]["local_path"], "/srv/backups")

    def test_43_configure_that_is_interrupted_changes_nothing(self):
        before = (self.home / ".bakthat.yml").read_bytes()
        done = self.python(
            "import builtins, bakthat\n"
            "def interrupted(prompt): raise KeyboardInterrupt\n"
            "builtins.input = interrupted\n"
            "import sys; sys.argv = ['bakthat', 'configure']; bakthat.main()"
        )
        self.assertEqual((done.returncode, done.stderr), (0, "Cancelled by user\n"))
        self.assertEqual((self.home / ".bakthat.yml").read_bytes(), before)

    def test_43_configure_backups_rotation(self):
        answers = "7\n4\n12\nsomeday\nSunday\n"
        done = self.succeeds(self.command("configure_backups_rotation", input=answers))
        question = "First week day (to calculate wich weekly backup keep, saturday by default): "
        prompts = "Number of days to keep: Number of weeks to keep: Number of months to keep: " + question * 2
        self.assertEqual(done.stdout, prompts)
        wrong = "Invalid first_week_day, please choose from sunday to saturday."
        self.assertEqual(done.stderr.splitlines(), [wrong, f"Config written in {self.home}/.bakthat.yml"])
        rotation = {"days": 7, "weeks": 4, "months": 12, "first_week_day": 6}
        self.assertEqual(self.written()["default"]["rotation"], rotation)
        self.assertEqual(self.written()["default"]["s3_bucket"], self.s3()["s3_bucket"])
        self.succeeds(self.command("configure_backups_rotation", input="7\n4\n12\n\n"))
        self.assertEqual(self.written()["default"]["rotation"]["first_week_day"], 5)
        before = (self.home / ".bakthat.yml").read_bytes()
        for arguments, answers in ((["-p", "nobody"], "1\n1\n1\n\n"), ([], "many\n-1\n")):
            done = self.command("configure_backups_rotation", *arguments, input=answers)
            self.assertEqual(done.returncode, 1)
            self.assertEqual((self.home / ".bakthat.yml").read_bytes(), before)
        wrong = "Invalid number, it should be 0 or more, try again."
        nobody = "There was no answer to Number of days to keep: nothing was written"
        self.assertEqual(done.stderr.splitlines(), [wrong, wrong, nobody])

    def test_configure_refuses_the_section_of_the_sync_server_and_needs_answers(self):
        before = (self.home / ".bakthat.yml").read_bytes()
        done = self.command("configure", "-p", "sync", input="\n" * 9)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertIn("The section sync", done.stderr)
        done = self.command("configure")
        self.assertEqual((done.returncode, done.stdout), (1, PROMPTS[0] + "\n"))
        self.assertEqual(done.stderr, "There was no answer to AWS Access Key: nothing was written\n")
        self.assertEqual((self.home / ".bakthat.yml").read_bytes(), before)


class Unattended(Case):
    def test_44_without_a_terminal(self):
        self.file("f", "kept")
        self.succeeds(self.command("backup", "--prompt=no", "f"))
        self.succeeds(self.command("backup", "f", env={"BAKTHAT_PASSWORD": "abc"}))
        done = self.succeeds(self.command("backup", "f", input="abc\nabc\n"))
        self.assertRegex(done.stderr, "(?s)Password \\(blank to disable encryption\\): .*Password confirmation: ")
        (self.work / "f").unlink()
        done = self.succeeds(self.command("restore", "f", input="abc\n"))
        self.assertIn("Password: ", done.stderr)
        self.assertEqual((self.work / "f").read_text(), "kept")
        done = self.succeeds(self.command("backup", "f", input="abc\nother\n"))
        self.assertIn("Password confirmation doesn't match", done.stderr)
        hint = "There was no answer to Password: set BAKTHAT_PASSWORD"
        for arguments, expected in ((["restore", "f"], hint), (["backup", "f"], f"{hint} or use --prompt no")):
            done = self.command(*arguments)
            self.assertEqual((done.returncode, done.stderr.splitlines()[-1]), (1, expected))
            self.assertNotIn("Traceback", done.stderr)

    def test_44_the_current_folder_by_default(self):
        self.file("f")
        self.assertIn(f"Backing up {self.work}", self.succeeds(self.command("backup", "--prompt", "no")).stderr)
        self.assertEqual([row.filename for row in self.bakthat.Backups.select()], ["work"])


class Extending(Case):
    def test_45_a_script_adds_commands(self):
        script = self.file(
            "script.py",
            "import bakthat\n"
            "from bakthat import app\n"
            "@app.cmd(help='Say it.', alias='tell', name='say')\n"
            "@app.cmd_arg('what')\n"
            "@app.cmd_arg('times', type=int)\n"
            "@app.cmd_arg('-l', '--loud', action='store_true')\n"
            "def speak(what, times, loud): print(*[what.upper() if loud else what] * times)\n"
            "@app.cmd\n"
            "def plain(): print('plain')\n"
            "app.cmd_defaults(word='x')\n"
            "@app.cmd()\n"
            "@app.cmd_defaults(word='y')\n"
            "def defaulted(word): print(word)\n"
            "@app.cmd(help='Fail.')\n"
            "def fail(): raise LookupError('of the script')\n"
            "assert callable(speak) and speak('a', 1, False) is None\n"
            "if __name__ == '__main__': bakthat.main()\n",
        )
        run = lambda *arguments: subprocess.run(  # noqa: E731
            [sys.executable, str(script), *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.assertEqual(run("say", "hi", "2", "-l").stdout, "a\nHI HI\n")
        self.assertEqual(run("tell", "hi", "1").stdout, "a\nhi\n")
        self.assertEqual((run("plain").stdout, run("defaulted").stdout), ("a\nplain\n", "a\ny\n"))
        self.assertEqual(run("--version").returncode, 0)
        done = run("fail")
        self.assertEqual(done.returncode, 1)
        self.assertIn("Traceback", done.stderr)
        self.assertIn("in fail", done.stderr)

    def test_45_run_returns_the_value(self):
        app = self.bakthat.command.App(description="d")
        app.arg("--everywhere", default="here")
        app.cmd(lambda everywhere: everywhere, name="c")
        self.assertEqual(app.run(["--everywhere", "there", "c"]), "there")
        self.assertEqual(self.bakthat.app.run(["ls"]), [])


class LostDatabase(Case):
    def test_46_restore_by_stored_name_and_rebuild(self):
        self.file("f", "kept")
        names = [self.bakthat.backup("f", password=password).stored_filename for password in ("", "abc")]
        names.append(self.bakthat.backup("f", password="", conf=self.s3(compress=False)).stored_filename)
        self.backend().store.put("some-key", b"{}")
        self._drop()
        (self.home / ".bakthat.sqlite").unlink()
        (self.work / "f").unlink()
        self.assertEqual(self.bakthat.restore(names[0]).stored_filename, names[0])
        self.assertEqual((self.work / "f").read_text(), "kept")
        self.assertEqual(self.bakthat.restore(names[1], password="abc").metadata, {"is_enc": True})
        self.assertTrue(self.bakthat.restore(names[2]))
        self.assertIsNone(self.bakthat.restore("f.20200101000000.tgz"))
        self.assertIsNone(self.bakthat.restore("f"))
        self.assertEqual(self.bakthat.Backups.select().count(), 0)
        done = self.succeeds(self.command("rebuild"))
        self.assertEqual(
            sorted(line for line in done.stderr.splitlines() if line.startswith("Rebuilt")),
            sorted(f"Rebuilt {name}" for name in names),
        )
        self.assertEqual(self.succeeds(self.command("rebuild")).stderr, "some-key is not the name of a backup\n")
        rows = {row.stored_filename: row for row in self.bakthat.Backups.select()}
        self.assertEqual(sorted(rows), sorted(names))
        for name, row in rows.items():
            self.assertEqual((row.filename, row.backend, row.size), ("f", "s3", len(self.data(name))))
            self.assertEqual(time.strftime("%Y%m%d%H%M%S", time.gmtime(row.backup_date)), name.split(".")[1])
        self.assertIn(self.bakthat.restore("f", password="abc").stored_filename, names)

    def test_46_the_old_forms_of_names(self):
        for name, filename in (
            ("name20120927.tgz", "name"),
            ("name20120927010203.tgz.enc", "name"),
            ("a.b.20240101000000", "a.b"),
        ):
            row = self.bakthat.Backups.from_stored_name(name, self.backend(), "s3")
            self.assertEqual((row.filename, row.metadata["is_enc"]), (filename, name.endswith(".enc")))
        for name in ("key", "name.tgz", "x.99999999999999.tgz"):
            self.assertIsNone(self.bakthat.Backups.from_stored_name(name, self.backend(), "s3"))


class Interrupted(Case):
    def test_an_interrupt_in_the_middle_is_one_line_and_leaves_nothing(self):
        with open(self.work / "huge", "wb") as file:
            noise = os.urandom(1 << 20)
            for _ in range(400):
                file.write(noise)
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process = self.started("backup", "--prompt=no", "huge")
            self.assertEqual(process.stderr.readline(), "Backing up huge\n")
            self.assertEqual(process.stderr.readline(), "Compressing...\n")
            while not any(path.is_file() and path.stat().st_size for path in self.tmp.rglob("*")):
                time.sleep(0.01)
            process.send_signal(how)
            rest = process.communicate()[1]
            self.assertEqual(rest, "Cancelled by user\n" if how == signal.SIGINT else "")
            self.assertEqual(process.returncode, 1 if how == signal.SIGINT else 128 + how)
            self.assertEqual(
                (self.temporary_files(), self.objects(), self.bakthat.Backups.select().count()), ([], [], 0)
            )
            self.assertEqual(self.bakthat.models.Config.select().count(), 0)

    def test_nohup_is_heeded(self):
        code = (
            "import bakthat, signal, sys\n"
            "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            "sys.argv = ['bakthat', 'show']; bakthat.main()\n"
            "print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
        )
        self.assertEqual(self.succeeds(self.python(code)).stdout, "True\n")

    def test_an_interrupt_during_a_transfer_is_one_line_and_leaves_nothing(self):
        stalled, goes_on = threading.Event(), threading.Event()
        self.addCleanup(goes_on.set)

        def answers(request):
            if request.method == "HEAD":
                there = request.path.count("/") < 2 or "20240101000000" in request.path
                return (200 if there else 404), {"Content-Length": "100"}, b""
            stalled.set()
            goes_on.wait(60)
            return 500, {}, b""

        server = servers.Recorder(answers)
        self.addCleanup(server.close)
        self.write_config({"default": self.s3(endpoint_url=server.url)})
        self.file("f")
        for arguments in (["backup", "--prompt=no", "f"], ["restore", "f.20240101000000.tgz"]):
            stalled.clear()
            folder = self.in_folder(arguments[0])
            (folder / "f").write_text("as it was")
            process = self.started(*arguments)
            self.assertTrue(stalled.wait(60))
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.communicate()[1].splitlines()[-1], "Cancelled by user")
            self.assertEqual((process.returncode, self.temporary_files(), os.listdir(folder)), (1, [], ["f"]))
            self.assertEqual((folder / "f").read_text(), "as it was")
            self.assertEqual(self.bakthat.Backups.select().count(), 0)


if __name__ == "__main__":
    unittest.main()
