# SPDX-License-Identifier: MIT OR Apache-2.0
"""The MariaDB plugin against a real server: saved while it works, destroyed, restored, compared by query."""

import json
import os
import shutil
import time
from pathlib import Path

from fake_setup import PluginCase
from servers import MariaDb, run

import bareosfd as fd
import job

PLUGIN = "backstay_mariadb"
ROWS = "SELECT COUNT(*), SUM(CRC32(CONCAT_WS(',', n, word))) FROM shop.t"


class WithServer(PluginCase):
    def setUp(self):
        super().setUp()
        fd.variables[fd.bVarWorkingDir] = str(self.folder / "work")
        (self.folder / "work").mkdir()
        self.server = self.new_server("server").make().start()
        self.server.ask("CREATE DATABASE shop")
        self.server.ask("CREATE TABLE shop.t (n INT PRIMARY KEY, word TEXT)")
        self.add_rows(1, 20000)
        self.options = f"socket={self.server.socket}:user=root:"

    def new_server(self, name, data=None):
        server = MariaDb(self.folder / name, data)
        self.addCleanup(server.kill)
        return server

    def add_rows(self, first, last):
        self.server.ask(f"INSERT INTO shop.t SELECT seq, MD5(seq) FROM seq_{first}_to_{last}", database="shop")

    def back_up(self, options="", **more):
        fd.messages.clear()
        fd.variables[fd.bVarJobId] += 1
        time.sleep(1.05 - time.time() % 1)
        saved = job.back_up(PLUGIN, self.options + options, **more)
        self.assertEqual(os.listdir(self.folder / "work"), [])
        return saved

    def restore(self, *jobs, override="", options="", where="back"):
        fd.messages.clear()
        target = self.folder / where
        target.mkdir()
        target.chmod(0o755)
        records = [record for saved in jobs for record in saved]
        self.assertEqual(job.restore(PLUGIN, self.options + options, records, str(target), override), [])
        self.assertEqual(self.told(fd.M_WARNING) + self.told(fd.M_ERROR), [])
        self.assertEqual(os.listdir(self.folder / "work"), [])
        return target / "@MARIADB" / "server"

    def refused(self, *words, options="", **more):
        with self.assertRaises(job.Failed):
            self.back_up(options, **more)
        text = self.told(fd.M_FATAL)[0]
        for word in words:
            self.assertIn(word, text)


class Physical(WithServer):
    def round_trip(self, options, direct):
        full = self.back_up(options)
        self.assertEqual(
            [(record.type, record.direct) for record in full], [(fd.FT_REG, direct), (fd.FT_RESTORE_FIRST, False)]
        )
        self.add_rows(20001, 25000)
        first = self.back_up(options, level=fd.L_INCREMENTAL, based_on=full, since=1)
        self.server.ask("UPDATE shop.t SET word = REVERSE(word) WHERE n % 100 = 0")
        second = self.back_up(options, level=fd.L_INCREMENTAL, based_on=first, since=1)
        reached = [json.loads(saved[1].object) for saved in (full, first, second)]
        self.assertEqual([reached[1]["from_lsn"], reached[2]["from_lsn"]], [reached[0]["to_lsn"], reached[1]["to_lsn"]])
        expected = self.server.ask(ROWS)
        self.server.ask("DROP DATABASE shop")
        self.server.stop()
        shutil.rmtree(self.server.data)

        folder = self.restore(full, first, second, options=options)
        self.assertEqual(os.listdir(folder), ["data"])
        back = self.new_server("second", folder / "data").start()
        self.assertEqual(back.ask(ROWS), expected)
        self.assertEqual(back.ask("CHECK TABLE shop.t").split("\t")[-1], "OK")

    def test_a_full_and_two_incrementals_bring_a_destroyed_server_back_by_direct_io(self):
        self.round_trip("", True)

    def test_a_full_and_two_incrementals_bring_a_destroyed_server_back_by_plugin_io(self):
        self.round_trip("io=plugin:", False)

    def test_streams_restored_as_files_are_put_together_with_the_documented_commands(self):
        full = self.back_up()
        self.add_rows(20001, 20010)
        last = self.back_up(level=fd.L_DIFFERENTIAL, based_on=full, since=1)
        expected = self.server.ask(ROWS)
        self.server.stop()
        folder = self.restore(full, last, override="restore=files:")
        streams = sorted(folder.iterdir())
        self.assertEqual([stream.name.split("-")[1] for stream in streams], ["full.xbstream", "differential.xbstream"])
        commands = (
            "set -e; umask 077; mkdir data more; mbstream -x -C data <{}; mbstream -x -C more <{};"
            " mariadb-backup --prepare --target-dir=data;"
            " mariadb-backup --prepare --target-dir=data --incremental-dir=more"
        )
        run(["sh", "-c", commands.format(*streams)], cwd=folder)
        back = self.new_server("second", folder / "data")
        if os.geteuid() == 0:
            run(["chown", "-R", f"{back.user}:", folder / "data"])
        self.assertEqual(back.start().ask(ROWS), expected)

    def test_a_password_never_stands_on_a_command_line(self):
        self.server.ask("CREATE USER saver@localhost IDENTIFIED BY 'a \"secret\\\\ #word'")
        self.server.ask("GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR ON *.* TO saver@localhost")
        program = self.folder / "watched"
        program.write_text(f'#!/bin/sh\necho "$@" >>{self.folder}/arguments\nexec mariadb-backup "$@"\n')
        program.chmod(0o755)
        self.options = f"socket={self.server.socket}:user=saver:"
        self.back_up(f'password=a "secret\\ #word:mariadb_backup={program}:')
        self.assertNotIn("secret", (self.folder / "arguments").read_text())

    def test_the_programs_run_as_another_user_who_cannot_enter_the_working_folder(self):
        if os.geteuid() != 0:
            self.skipTest("only root runs programs as others")
        (self.folder / "work").chmod(0o700)
        self.server.ask("CREATE USER mysql@localhost IDENTIFIED VIA unix_socket")
        self.server.ask("GRANT ALL ON *.* TO mysql@localhost WITH GRANT OPTION")
        self.options = f"socket={self.server.socket}:user=mysql:os_user=mysql:"
        expected = self.server.ask(ROWS)
        full = self.back_up()
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1)
        dump = self.back_up("mode=dump:databases=shop:")
        self.server.ask("DROP DATABASE shop")
        self.restore(dump, options="mode=dump:", override="restore=server:", where="nothing")
        self.assertEqual(self.server.ask(ROWS), expected)
        self.server.stop()
        back = self.new_server("second", self.restore(full, more) / "data").start()
        self.assertEqual(back.ask(ROWS), expected)

    def test_a_backup_that_breaks_off_fails_the_job(self):
        program = self.folder / "breaks"
        program.write_text("#!/bin/sh\nhead -c 100000 /dev/zero\necho no more room >&2\nexit 3\n")
        program.chmod(0o755)
        for io in ("core", "plugin"):
            self.refused("ended with status 3", "no more room", options=f"mariadb_backup={program}:io={io}:")

    def test_another_server_or_an_older_state_is_refused_as_the_next_of_a_chain(self):
        full = self.back_up()
        told = json.loads(full[1].object)
        for change, words in (({"server_uid": "x"}, "not the server"), ({"to_lsn": 1 << 60}, "put back")):
            full[1].object = json.dumps({**told, **change}).encode()
            self.refused(words, "make a full backup", level=fd.L_INCREMENTAL, based_on=full, since=1)
        self.refused("full backup first", level=fd.L_INCREMENTAL, since=1)

    def test_a_server_that_is_not_there_is_refused(self):
        self.server.stop()
        self.refused("socket")

    def test_a_chain_without_its_full_backup_is_refused(self):
        full = self.back_up()
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1)
        with self.assertRaises(job.Failed):
            self.restore(more)
        self.assertIn("one full backup", self.told(fd.M_FATAL)[0])

    def test_a_cancelled_job_ends_the_program(self):
        program = self.folder / "sleeps"
        program.write_text(f"#!/bin/sh\necho $$ >{self.folder}/pid\nexec sleep 1000\n")
        program.chmod(0o755)
        module = job.load(PLUGIN, self.options + f"mariadb_backup={program}:")
        module.handle_plugin_event(fd.bEventStartBackupJob)
        module.start_backup_file(packet := fd.SavePacket(cmd="x"))
        module.plugin_io(fd.IoPacket(func=fd.IO_OPEN, fname=packet.fname))
        while not (self.folder / "pid").exists() or not (self.folder / "pid").read_text():
            time.sleep(0.01)
        module.handle_plugin_event(fd.bEventCancelCommand)
        module.handle_plugin_event(fd.bEventEndBackupJob)
        self.assertFalse(Path(f"/proc/{(self.folder / 'pid').read_text().strip()}").exists())


class Dump(WithServer):
    def setUp(self):
        super().setUp()
        self.options += "mode=dump:"
        self.server.ask("CREATE DATABASE `odd/name`")
        self.server.ask("CREATE TABLE `odd/name`.t SELECT 1 AS n")
        self.server.ask("CREATE DATABASE test_a")
        self.server.ask("CREATE PROCEDURE shop.twice(IN n INT) SELECT n * 2")

    def names(self, options=""):
        return [record.name.rsplit("/", 1)[1] for record in self.back_up(options)]

    def test_each_database_is_a_file_and_lists_choose(self):
        self.assertEqual(self.names(), ["mysql.sql", "odd%2Fname.sql", "shop.sql", "test_a.sql"])
        self.assertEqual(self.names("ignore=mysql,test_*:"), ["odd%2Fname.sql", "shop.sql"])
        self.assertEqual(self.names("databases=shop, test_*:"), ["shop.sql", "test_a.sql"])
        self.refused("no database nowhere", options="databases=nowhere:")

    def round_trip(self, io):
        saved = self.back_up(f"{io}ignore=mysql:")
        expected = self.server.ask(ROWS)
        for database in ("shop", "`odd/name`"):
            self.server.ask(f"DROP DATABASE {database}")
        self.restore(saved, override="restore=server:", options=io, where=f"nothing{len(io)}")
        self.assertEqual(self.server.ask(ROWS), expected)
        self.assertEqual(self.server.ask("CALL shop.twice(21)"), "42")
        self.assertEqual(self.server.ask("SELECT n FROM `odd/name`.t"), "1")

    def test_dropped_databases_come_back_into_the_server(self):
        self.round_trip("")
        self.round_trip("io=plugin:")

    def test_users_come_back_with_the_database_that_holds_them(self):
        self.server.ask("CREATE USER ann@localhost IDENTIFIED BY 'x'")
        self.server.ask("GRANT SELECT ON shop.* TO ann@localhost")
        expected = self.server.ask("SHOW GRANTS FOR ann@localhost")
        saved = self.back_up("databases=mysql:")
        self.server.ask("DROP USER ann@localhost")
        self.restore(saved, override="restore=server:")
        self.assertEqual(self.server.ask("SHOW GRANTS FOR ann@localhost"), expected)

    def test_dumps_come_back_as_files(self):
        folder = self.restore(self.back_up("databases=shop:"))
        self.assertIn("INSERT INTO `t`", (folder / "shop.sql").read_text())

    def test_a_dump_that_breaks_off_is_told(self):
        program = self.folder / "breaks"
        program.write_text("#!/bin/sh\necho half\nexit 2\n")
        program.chmod(0o755)
        self.back_up(f"databases=shop:mariadb_dump={program}:")
        self.assertIn("shop.sql is not whole", self.told(fd.M_ERROR)[0])

    def test_text_that_the_server_refuses_fails_the_restore(self):
        saved = self.back_up("databases=shop:")
        saved[0].data = b"CREATE NONSENSE;\n"
        with self.assertRaises(job.Failed):
            self.restore(saved, override="restore=server:")
        self.assertIn("NONSENSE", self.told(fd.M_FATAL)[0])

    def test_dropped_databases_leave_an_accurate_chain(self):
        full = self.back_up()
        self.server.ask("DROP DATABASE test_a")
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1, known={record.name for record in full})
        gone = [record.name for record in more if record.type == fd.FT_DELETED]
        self.assertEqual(gone, ["@MARIADB/server/test_a.sql"])


class Options(PluginCase):
    def test_wrong_options_are_named(self):
        for options, words in (
            ("mode=quick:", "mode=physical or mode=dump"),
            ("databases=x:", "does not go with mode=physical"),
            ("mode=dump:backup_options=x:", "does not go with mode=dump"),
            ("restore=files:", "for restores"),
            ("name=a/b:", "slash"),
        ):
            fd.reset()
            with self.assertRaises(job.Failed):
                job.back_up(PLUGIN, options)
            self.assertIn(words, self.told(fd.M_FATAL)[0])
