# SPDX-License-Identifier: MIT OR Apache-2.0
"""The examples, run: a script against a real MariaDB, a plugin; and those that the original's documentation shows."""

import json
import shutil
import subprocess
import sys
import unittest

import servers
from case import HERE, Case

EXAMPLES = HERE.parents[1] / "examples"


class Ours(Case):
    def test_the_script_backs_a_database_up_and_it_comes_back(self):
        server = servers.MariaDb(self.home / "mariadb")
        self.addCleanup(server.stop)
        server.ask(
            "CREATE DATABASE shop; CREATE TABLE shop.goods (name TEXT); INSERT INTO shop.goods VALUES ('ä'), ('b')"
        )
        self.file("my.cnf", f"[client]\nsocket={server.socket}\nuser=root\ndefault-character-set=utf8mb4\n")
        self.write_config({"default": self.s3(rotation={"days": 1, "weeks": 1})})
        script = [sys.executable, EXAMPLES / "mysql_backup.py", "--defaults-file", self.work / "my.cnf", "shop"]
        for _ in range(2):
            done = subprocess.run(
                script, env=self.environment(BAKTHAT_PASSWORD="abc"), stderr=subprocess.PIPE, text=True
            )
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((len(self.objects()), self.temporary_files()), (1, []))
        server.ask("DROP DATABASE shop")
        folder = self.in_folder()
        record = self.bakthat.restore("mysql-shop", password="abc")
        self.assertEqual((record.filename, record.tags), ("mysql-shop", "mysql"))
        with open(folder / "shop.sql", "rb") as dump:
            server.ask(None, stdin=dump)
        self.assertEqual(sorted(server.ask("SELECT name FROM shop.goods").split()), ["b", "ä"])
        done = subprocess.run([*script, "missing"], env=self.environment(), stderr=subprocess.PIPE)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.bakthat.Backups.search("mysql-missing").count(), 0)

    def test_the_plugin_writes_its_journal(self):
        folder = self.home / ".bakthat_plugins"
        folder.mkdir()
        shutil.copy(EXAMPLES / "journal.py", folder)
        self.write_config({"default": self.s3(plugins=["journal.Journal"], journal=str(self.home / "journal"))})
        self.file("f")
        for arguments in (["backup", "--prompt=no", "f"], ["delete", "f"]):
            self.succeeds(self.command(*arguments))
        lines = [json.loads(line) for line in (self.home / "journal").read_text().splitlines()]
        self.assertEqual([line["what"] for line in lines], ["stored", "deleted"])
        self.assertEqual(len({line["name"] for line in lines}), 1)


class Documented(Case):
    """The shapes that the documentation of the original shows, in Python 3."""

    def run_script(self, text):
        script = self.file("script.py", text)
        return self.succeeds(self.python(f"exec(compile(open({str(script)!r}).read(), 'script.py', 'exec'))")).stdout

    def test_the_module(self):
        self.file("mydir/f")
        out = self.run_script(
            "import bakthat, os, logging\n"
            "logging.basicConfig(level=logging.INFO)\n"
            "record = bakthat.backup('mydir', 's3', password='mypassword', tags=['tag1', 'tag2'])\n"
            "print(record.filename, record.tags, record['stored_filename'] == record.stored_filename)\n"
            "bakthat.restore('mydir', 's3', password='mypassword')\n"
            "bakthat.show()\n"
            "print(bakthat.delete_older_than('mydir', '1s') is not None, bakthat.delete('mydir') is None)\n"
        )
        self.assertEqual(out.split(), ["mydir", "tag1", "tag2", "True", "True", out.split()[-1]])

    def test_a_flat_configuration(self):
        conf = {**self.s3(), "glacier_vault": "", "rotation": {"days": 7, "weeks": 4, "months": 2, "first_week_day": 5}}
        self.file("f")
        out = self.run_script(
            "import bakthat\n"
            f"conf = {conf!r}\n"
            "bakthat.backup('f', conf=conf, password='')\n"
            "print(len(bakthat.rotate_backups('f', conf=conf)), bakthat.restore('f', conf=conf).filename)\n"
        )
        self.assertEqual(out, "0 f\n")

    def test_the_helper_with_programs_started_inside(self):
        program = self.file("dump", "#!/bin/sh\necho dumped\n")
        program.chmod(0o755)
        out = self.run_script(
            "import logging, subprocess\n"
            "from bakthat.helper import BakHelper\n"
            "logging.basicConfig(level=logging.INFO)\n"
            "with BakHelper('mybackup', tags=['mysql'], password='') as bh:\n"
            f"    subprocess.run([{str(program)!r}], stdout=open('dump.sql', 'w'), check=True)\n"
            "    bh.backup()\n"
            f"    bh.rotate(conf={self.s3(rotation={'days': 1})!r})\n"
            "    print(bh.backup('dump.sql').filename)\n"
        )
        self.assertEqual(out, "mybackup\n")
        folder = self.in_folder()
        self.bakthat.restore("mybackup")
        self.assertEqual((folder / "dump.sql").read_text(), "dumped\n")

    def test_keys_and_values(self):
        out = self.run_script(
            "from bakthat.helper import KeyValue\n"
            "kv = KeyValue()\n"
            "kv.set_key('mykey', {'my': 'data'})\n"
            "print(kv.get_key('mykey'), kv.get_key('other', default='nothing'))\n"
            "kv.set_key('mykey', 'secret', password='p')\n"
            "print(kv.get_key('mykey', password='p'), kv.delete_key('mykey'), kv.get_key('mykey'))\n"
        )
        self.assertEqual(out, "{'my': 'data'} nothing\nsecret True None\n")

    def test_events_and_queries(self):
        self.file("f")
        out = self.run_script(
            "import bakthat\n"
            "from bakthat.models import Backups\n"
            "def on_backup(session_id, backup): print('backed up', backup.filename, len(session_id))\n"
            "bakthat.events.on_backup += on_backup\n"
            "bakthat.backup('f', password='', tags='web')\n"
            "for backup in Backups.select().where(Backups.filename % 'f*', Backups.tags % '*web*'): print(backup)\n"
            "print(Backups.search('f', 's3', tags='web').count(), Backups.match_filename('f', 's3').is_encrypted())\n"
        )
        lines = out.splitlines()
        self.assertEqual((lines[0], lines[2]), ("backed up f 36", "1 False"))
        self.assertRegex(lines[1], r"^<Backup: f\.\d{14}\.tgz>$")


if __name__ == "__main__":
    unittest.main()
