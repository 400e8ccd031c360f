# SPDX-License-Identifier: MIT OR Apache-2.0
"""The PostgreSQL plugin against a real server: saved while it works, destroyed, restored, compared by query."""

import json
import os
import shutil
import time
from pathlib import Path

from fake_setup import PluginCase
from servers import Postgres, run

import bareosfd as fd
import job

PLUGIN = "backstay_postgresql"
TABLES = "SELECT coalesce(string_agg(relname, ',' ORDER BY relname), '') FROM pg_class WHERE relname LIKE 't\\_%'"


class WithServer(PluginCase):
    def setUp(self):
        super().setUp()
        self.server = self.new_server("server").make().start()
        self.options = f"wal_archive={self.server.archive}:host={self.server.folder}:"
        if os.geteuid() == 0:
            self.options += "os_user=postgres:"

    def new_server(self, name, data=None):
        server = Postgres(self.folder / name, data)
        self.addCleanup(server.kill)
        return server

    def back_up(self, options="", **more):
        fd.messages.clear()
        fd.variables[fd.bVarJobId] += 1
        # Two jobs never start in one second, so that their restore objects are in order.
        time.sleep(1.05 - time.time() % 1)
        return job.back_up(PLUGIN, self.options + options, **more)

    def restore(self, *jobs, override="", options="", where="back"):
        fd.messages.clear()
        target = self.folder / where
        target.mkdir()
        target.chmod(0o755)
        records = [record for saved in jobs for record in saved]
        self.assertEqual(job.restore(PLUGIN, self.options + options, records, str(target), override), [])
        self.assertEqual(self.told(fd.M_WARNING), [])
        return target

    def start_restored(self, target):
        server = self.new_server("second", Path(f"{target}{self.server.data}")).start("archive_mode=off")
        server.wait_until("SELECT pg_is_in_recovery()", "f")
        return server

    def sum_of(self, server, table):
        return server.ask(f"SELECT count(*), sum(hashtext({table}::text)) FROM {table}")


class Postgresql(WithServer):
    def round_trip(self, options, direct):
        ask = self.server.ask
        space = self.server.own(self.folder / "a space")
        ask(f"CREATE TABLESPACE space LOCATION '{space}'")
        ask("CREATE TABLE t_first AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n")
        ask("CREATE TABLE t_moved TABLESPACE space AS SELECT n FROM generate_series(1, 5000) AS n")
        ask("CREATE UNLOGGED TABLE t_unlogged AS SELECT n FROM generate_series(1, 100) AS n")
        full = self.back_up(options)
        by_name = {record.name: record for record in full}
        control = by_name[f"{self.server.data}/global/pg_control"]
        self.assertFalse(control.direct)
        self.assertEqual(by_name[f"{self.server.data}/PG_VERSION"].direct, direct)
        self.assertIn(b"START WAL LOCATION", by_name[f"{self.server.data}/backup_label"].data)

        ask("INSERT INTO t_first SELECT n, md5(n::text) FROM generate_series(20001, 30000) AS n")
        first = self.back_up(options, level=fd.L_INCREMENTAL, based_on=full, since=int(time.time()))
        self.assertTrue(all("/data/" not in record.name for record in first), [record.name for record in first])
        ask("UPDATE t_moved SET n = -n")
        ask("CREATE TABLE t_second AS SELECT 'kept'")
        second = self.back_up(options, level=fd.L_INCREMENTAL, based_on=first, since=int(time.time()))
        names = [[record.name for record in saved if len(Path(record.name).name) == 24] for saved in (first, second)]
        self.assertTrue(all(names) and not set(names[0]) & set(names[1]), names)
        expected = {table: self.sum_of(self.server, table) for table in ("t_first", "t_moved", "t_second")}
        ask("DROP TABLE t_first")
        self.server.stop()
        for folder in (self.server.data, self.server.archive, space):
            shutil.rmtree(folder)

        back = self.start_restored(self.restore(full, first, second, options=options))
        self.assertEqual({table: self.sum_of(back, table) for table in expected}, expected)
        self.assertEqual(back.ask("SELECT count(*) FROM t_unlogged"), "0")
        self.assertEqual(
            back.ask("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"),
            f"{self.folder}/back{space}",
        )
        back.stop()
        run([back.programs / "pg_checksums", "--check", "-D", back.data], user=back.user, cwd="/")

    def test_a_full_and_two_incrementals_bring_a_destroyed_server_back_by_direct_io(self):
        self.round_trip("", True)

    def test_a_full_and_two_incrementals_bring_a_destroyed_server_back_by_plugin_io(self):
        self.round_trip("io=plugin:", False)

    def test_a_restore_goes_to_the_second_it_was_told(self):
        ask = self.server.ask
        ask("CREATE TABLE t_kept AS SELECT 1 AS n")
        full = self.back_up()
        ask("INSERT INTO t_kept VALUES (2)")
        moment = ask("SELECT date_trunc('second', clock_timestamp()) + interval '1 second'")
        time.sleep(2.1)
        ask("DROP TABLE t_kept")
        ask("CREATE TABLE t_later AS SELECT 1")
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=int(time.time()))
        self.server.stop()
        shutil.rmtree(self.server.folder)
        escaped = moment.replace(":", "\\:")
        back = self.start_restored(self.restore(full, more, override=f"recovery_target_time={escaped}:"))
        self.assertEqual(back.ask("SELECT string_agg(n::text, ',' ORDER BY n) FROM t_kept"), "1,2")
        self.assertEqual(back.ask(TABLES), "t_kept")

    def test_a_differential_needs_only_the_full_one_and_the_server_may_be_written_to_meanwhile(self):
        ask = self.server.ask
        ask("CREATE TABLE t_busy (n int)")
        full = self.back_up()
        for number in range(3):
            ask(f"INSERT INTO t_busy SELECT {number} FROM generate_series(1, 30000)")
        self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1)
        ask("INSERT INTO t_busy VALUES (99)")
        last = self.back_up(level=fd.L_DIFFERENTIAL, based_on=full, since=1)
        expected = self.sum_of(self.server, "t_busy")
        self.server.stop()
        back = self.start_restored(self.restore(full, last))
        self.assertEqual(self.sum_of(back, "t_busy"), expected)

    def test_without_an_archive_a_full_backup_brings_its_own_wal(self):
        self.server.stop()
        self.server.start("archive_mode=off")
        self.options = self.options.replace(f"wal_archive={self.server.archive}:", "")
        self.server.ask("CREATE TABLE t_alone AS SELECT n FROM generate_series(1, 50000) AS n")
        full = self.back_up()
        expected = self.sum_of(self.server, "t_alone")
        self.assertEqual(self.server.ask("SELECT count(*) FROM pg_replication_slots"), "0")
        self.refused("needs the option wal_archive", level=fd.L_INCREMENTAL, based_on=full, since=1)
        self.server.stop()
        shutil.rmtree(self.server.data)
        back = self.start_restored(self.restore(full))
        self.assertEqual(self.sum_of(back, "t_alone"), expected)
        with self.assertRaises(job.Failed):
            self.restore(full, override="recovery_target_name=x:", where="again")
        self.assertIn("has its own WAL only", self.told(fd.M_FATAL)[0])

    def test_an_archive_of_compressed_segments_is_saved_and_read(self):
        ask, archive = self.server.ask, self.server.archive
        command = f"gzip -c %p >{archive}/part && mv {archive}/part {archive}/%f.gz"
        ask(f"ALTER SYSTEM SET archive_command = '{command}'")
        ask("SELECT pg_reload_conf()")
        ask("CREATE TABLE t_packed AS SELECT n FROM generate_series(1, 1000) AS n")
        full = self.back_up()
        ask("INSERT INTO t_packed SELECT n FROM generate_series(1, 1000) AS n")
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1)
        self.assertTrue(any(record.name.endswith(".gz") for record in more))
        expected = self.sum_of(self.server, "t_packed")
        self.server.stop()
        shutil.rmtree(archive)
        back = self.start_restored(self.restore(full, more, where="b%ack 'it'"))
        self.assertEqual(self.sum_of(back, "t_packed"), expected)

    def test_what_belongs_to_the_running_server_only_is_left_out(self):
        ask = self.server.ask
        ask("CREATE UNLOGGED TABLE t_unlogged AS SELECT n FROM generate_series(1, 1000) AS n")
        path = ask("SELECT pg_relation_filepath('t_unlogged')")
        junk = self.server.data / "base" / "pgsql_tmp"
        self.server.own(junk)
        (junk / "pgsql_tmp1.0").write_bytes(b"sorted rows")
        (self.server.data / "base" / "1" / "t3_16384").write_bytes(b"of a session")
        names = {os.path.relpath(record.name or "/", self.server.data) for record in self.back_up()}
        self.assertIn(f"{path}_init", names)
        for name in (
            path,
            "postmaster.pid",
            "postmaster.opts",
            "base/pgsql_tmp",
            "base/1/t3_16384",
            "base/1/pg_internal.init",
        ):
            self.assertNotIn(name, names)
        self.assertIn("pg_wal", names)
        self.assertEqual([name for name in names if name.startswith("pg_wal/")], ["pg_wal/archive_status"])

    def test_configuration_files_elsewhere_are_saved_too(self):
        self.server.stop()
        elsewhere = self.server.own(self.folder / "etc")
        shutil.move(self.server.data / "pg_hba.conf", elsewhere / "pg_hba.conf")
        (elsewhere / "more.conf").write_text(f"hba_file = '{elsewhere}/pg_hba.conf'\nwork_mem = '5MB'\n")
        with open(self.server.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(f"include '{elsewhere}/more.conf'\n")
        self.server.start()
        names = {record.name for record in self.back_up()}
        self.assertLessEqual({f"{elsewhere}/pg_hba.conf", f"{elsewhere}/more.conf"}, names)

    def test_files_that_vanish_while_they_are_listed_are_left_out(self):
        victim = self.server.data / "base" / "1" / "99999"
        victim.write_bytes(b"dropped meanwhile")
        module = job.load(PLUGIN, self.options)
        module.handle_plugin_event(fd.bEventStartBackupJob)
        names = []
        while module.start_backup_file(packet := fd.SavePacket(cmd="x")) == fd.bRC_OK:
            names.append(packet.fname)
            module.end_backup_file()
            victim.unlink(missing_ok=True)
        module.handle_plugin_event(fd.bEventEndBackupJob)
        self.assertEqual(self.told(fd.M_FATAL), [])
        self.assertNotIn(str(victim), names)

    def test_an_accurate_job_keeps_what_it_does_not_mention(self):
        full = self.back_up()
        known = {record.name for record in full}
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1, known=known)
        self.assertNotIn(fd.FT_DELETED, {record.type for record in more})

    def test_nothing_new_makes_an_empty_incremental_that_the_next_one_goes_on_from(self):
        full = self.back_up()
        run([self.server.programs / "pg_ctl", "-D", self.server.data, "status"], user=self.server.user, cwd="/")
        empty = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1)
        again = self.back_up(level=fd.L_INCREMENTAL, based_on=empty, since=1)
        first, second = (json.loads(saved[-1].object) for saved in (empty, again))
        self.assertLessEqual(first["stop_wal"], second["stop_wal"])

    def test_a_session_that_was_not_ended_ends_the_servers_backup_with_the_job(self):
        module = job.load(PLUGIN, self.options)
        module.handle_plugin_event(fd.bEventStartBackupJob)
        module.start_backup_file(fd.SavePacket(cmd="x"))
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backstay_postgresql'"
        self.assertEqual(self.server.ask(sessions), "1")
        module.handle_plugin_event(fd.bEventEndBackupJob)
        self.server.wait_until(sessions, "0")

    def test_a_role_with_the_documented_rights_is_enough(self):
        ask = self.server.ask
        ask("CREATE ROLE saver")
        ask("GRANT pg_monitor TO saver")
        functions = ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)", "pg_switch_wal()"]
        if int(ask("SHOW server_version_num")) < 150000:
            functions[:2] = ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
        for function in functions:
            ask(f"GRANT EXECUTE ON FUNCTION {function} TO saver")
        full = self.back_up("role=saver:")
        self.back_up("role=saver:", level=fd.L_INCREMENTAL, based_on=full, since=1)

    def refused(self, *words, options="", **more):
        with self.assertRaises(job.Failed):
            self.back_up(options, **more)
        text = self.told(fd.M_FATAL)[0]
        for word in words:
            self.assertIn(word, text)

    def test_a_gap_in_the_archive_is_refused(self):
        full = self.back_up()
        for _ in range(3):
            self.server.ask("CREATE TABLE x AS SELECT 1")
            self.server.ask("DROP TABLE x")
            self.server.ask("SELECT pg_switch_wal()")
        self.server.ask("CHECKPOINT")
        names = set(os.listdir(self.server.archive)) - {Path(record.name).name for record in full}
        lost = sorted(name for name in names if len(name) == 24)
        self.server.wait_until(f"SELECT last_archived_wal >= '{lost[1]}' FROM pg_stat_archiver", "t")
        os.unlink(self.server.archive / lost[1])
        (self.server.data / "pg_wal" / lost[1]).unlink(missing_ok=True)
        self.refused(lost[1], "make a full backup", level=fd.L_INCREMENTAL, based_on=full, since=1)

    def test_another_server_is_refused_as_the_next_of_a_chain(self):
        full = self.back_up()
        for record in full:
            if record.type == fd.FT_RESTORE_FIRST:
                record.object = json.dumps({**json.loads(record.object), "system": "1"}).encode()
        self.refused("not the server", level=fd.L_INCREMENTAL, based_on=full, since=1)

    def test_an_archive_command_that_fails_ends_the_job_with_a_word_about_it(self):
        self.server.ask("ALTER SYSTEM SET archive_command = 'false'")
        self.server.ask("SELECT pg_reload_conf()")
        self.refused("has not archived", "archive_command", options="archive_wait=2:")

    def test_a_server_that_archives_nothing_or_is_not_there_is_refused(self):
        self.server.stop()
        self.refused("no session with the server")
        self.server.start("archive_mode=off")
        self.refused("archives no WAL")

    def test_an_incremental_without_an_earlier_job_is_refused(self):
        self.refused("full backup first", level=fd.L_INCREMENTAL, since=1)

    def test_a_server_goes_on_in_the_same_chain_after_it_was_promoted_onto_a_new_timeline(self):
        ask = self.server.ask
        ask("CREATE TABLE t_old AS SELECT 1 AS n")
        full = self.back_up()
        ask("INSERT INTO t_old VALUES (2)")
        ask("SELECT pg_switch_wal()")
        self.server.stop()
        with open(self.server.data / "postgresql.auto.conf", "a", encoding="utf-8") as file:
            file.write(f"restore_command = 'cp {self.server.archive}/%f %p'\n")
        (self.server.data / "recovery.signal").touch()
        self.server.start()
        self.server.wait_until("SELECT pg_is_in_recovery()", "f")
        ask("INSERT INTO t_old VALUES (3)")
        more = self.back_up(level=fd.L_INCREMENTAL, based_on=full, since=1)
        self.assertEqual(json.loads(more[-1].object)["timeline"], 2)
        self.server.stop()
        back = self.start_restored(self.restore(full, more))
        self.assertEqual(back.ask("SELECT string_agg(n::text, ',' ORDER BY n) FROM t_old"), "1,2,3")

    def test_a_data_directory_that_holds_something_is_not_restored_into(self):
        full = self.back_up()
        target = self.folder / "back"
        data = Path(f"{target}{self.server.data}")
        data.mkdir(parents=True)
        (data / "old").write_text("of another state")
        with self.assertRaises(job.Failed):
            job.restore(PLUGIN, self.options, full, str(target))
        self.assertIn("not empty", self.told(fd.M_FATAL)[0])


class Options(PluginCase):
    def test_wrong_options_are_named(self):
        for options, words in (
            ("wal_archive=/x:colour=red:", "no option colour"),
            ("wal_archive=/x:io=fast:", "io=core or io=plugin"),
            ("wal_archive=/x:archive_wait=soon:", "not a number"),
            ("wal_archive=/x:recovery_target_name=x:", "for restores"),
        ):
            fd.reset()
            with self.assertRaises(job.Failed):
                job.back_up(PLUGIN, options)
            self.assertIn(words, self.told(fd.M_FATAL)[0])

    def test_an_estimate_starts_nothing(self):
        module = job.load(PLUGIN, "wal_archive=/x:")
        self.assertEqual(module.start_backup_file(fd.SavePacket(cmd="x")), fd.bRC_Stop)
