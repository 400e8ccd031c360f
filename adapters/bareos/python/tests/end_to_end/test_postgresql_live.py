# SPDX-License-Identifier: MIT OR Apache-2.0
"""A PostgreSQL server through the whole program: saved while it works, destroyed, restored, compared by query."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

from place import Place, backstay
from servers import Postgres, run


class Server(Place):
    plugin = "backstay_postgresql"

    def setUp(self):
        super().setUp()
        self.server = self.served(Postgres(self.folder / "server").make().start())
        self.options = f"wal_archive={self.server.archive}:host={self.server.folder}:"
        if os.geteuid() == 0:
            self.options += "os_user=postgres:"

    def destroy(self):
        self.server.stop()
        shutil.rmtree(self.server.folder)

    def started(self, target):
        server = self.served(Postgres(self.folder / f"second {target.name}", Path(f"{target}{self.server.data}")))
        server.start("archive_mode=off").wait_until("SELECT pg_is_in_recovery()", "f")
        return server

    def round_trip(self, options):
        ask = self.server.ask
        space = self.server.own(self.folder / "space")
        ask(f"CREATE TABLESPACE space LOCATION '{space}'")
        ask("CREATE TABLE t (n int PRIMARY KEY, word text)")
        ask("CREATE TABLE moved TABLESPACE space AS SELECT n FROM generate_series(1, 9000) AS n")
        rows = "SELECT count(*), sum(hashtext(t::text)) FROM t"
        done = threading.Event()

        def work():
            """The server is written to while it is being saved."""
            number = 0
            while not done.is_set():
                ask(f"INSERT INTO t SELECT n, md5(n::text) FROM generate_series({number}, {number + 999}) AS n")
                number += 1000

        worker = threading.Thread(target=work)
        worker.start()
        try:
            self.back_up(options=options)
            self.back_up("--level", "incremental", options=options)
        finally:
            done.set()
            worker.join()
        self.back_up("--level", "incremental", options=options)
        moment = ask("SELECT date_trunc('second', clock_timestamp()) + interval '1 second'")
        time.sleep(2.1)
        expected = ask(rows)
        ask("DROP TABLE t")
        ask("DROP TABLE moved")
        self.back_up("--level", "incremental", "--accurate", options=options)
        self.check()
        self.destroy()
        shutil.rmtree(space)

        escaped = moment.replace(":", "\\:")
        back = self.started(self.restore("through", options=f"recovery_target_time={escaped}"))
        self.assertEqual(back.ask(rows), expected)
        self.assertEqual(back.ask("SELECT count(*) FROM moved"), "9000")
        back.stop()
        run([back.programs / "pg_checksums", "--check", "-D", back.data], user=back.user, cwd="/")
        return moment, rows, expected, space

    def test_a_destroyed_server_comes_back_to_a_second_by_direct_io(self):
        moment, rows, expected, space = self.round_trip("")

        # The same from plain files, by hand as documented.
        target = self.restore("plain")
        data = Path(f"{target}{self.server.data}")
        (data / "recovery.signal").touch()
        with open(data / "postgresql.auto.conf", "a", encoding="utf-8") as file:
            file.write(f"restore_command = 'cp {target}{self.server.archive}/%f %p'\n")
            file.write(f"recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n")
        map = data / "tablespace_map"
        map.write_text(map.read_text().replace(str(space), f"{target}{space}"))
        back = self.started(target)
        self.assertEqual(back.ask(rows), expected)

    def test_a_destroyed_server_comes_back_to_a_second_by_plugin_io(self):
        self.round_trip("io=plugin:")

    def test_a_server_restored_in_its_own_place_goes_on_and_so_does_the_chain(self):
        ask = self.server.ask
        space = self.server.own(self.folder / "space")
        ask(f"CREATE TABLESPACE space LOCATION '{space}'")
        ask("CREATE TABLE t TABLESPACE space AS SELECT 1 AS n")
        self.back_up()
        ask("INSERT INTO t VALUES (2)")
        self.back_up("--level", "incremental")
        self.server.stop()
        for folder in (self.server.data, self.server.archive, space):
            shutil.rmtree(folder)
        self.run_backstay("restore", "latest", "--target", "/", "--overwrite", "always", "--through-plugin")
        self.server.start().wait_until("SELECT pg_is_in_recovery()", "f")
        self.assertEqual(ask("SELECT sum(n) FROM t"), "3")

        ask("INSERT INTO t VALUES (3)")
        self.back_up("--level", "incremental")
        self.destroy()
        shutil.rmtree(space)
        back = self.started(self.restore("through", options=""))
        self.assertEqual(back.ask("SELECT sum(n) FROM t"), "6")
        self.assertEqual(back.ask("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), "00000003")

    def test_a_differential_stands_on_the_full_backup_alone(self):
        ask = self.server.ask
        ask("CREATE TABLE t AS SELECT 1 AS n")
        self.back_up()
        ask("INSERT INTO t VALUES (2)")
        self.back_up("--level", "incremental")
        ask("INSERT INTO t VALUES (3)")
        self.back_up("--level", "differential")
        self.destroy()
        back = self.started(self.restore("through", options=""))
        self.assertEqual(back.ask("SELECT sum(n) FROM t"), "6")

    def test_a_chain_is_saved_and_restored_in_a_sandbox(self):
        ask = self.server.ask
        ask("CREATE TABLE t AS SELECT 1 AS n")
        self.back_up("--sandbox")
        ask("INSERT INTO t VALUES (2)")
        self.back_up("--sandbox", "--level", "incremental")
        self.destroy()
        back = self.started(self.restore("through", "--sandbox", options=""))
        self.assertEqual(back.ask("SELECT sum(n) FROM t"), "3")

    def test_a_chain_that_lost_a_segment_is_refused(self):
        self.back_up()
        before = set(os.listdir(self.server.archive))
        for _ in range(3):
            self.server.ask("CREATE TABLE x AS SELECT 1")
            self.server.ask("DROP TABLE x")
            segment = self.server.ask("SELECT pg_walfile_name(pg_switch_wal())")
        self.server.wait_until(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver", "t")
        lost = sorted(name for name in set(os.listdir(self.server.archive)) - before if len(name) == 24)[1]
        (self.server.archive / lost).unlink()
        (self.server.data / "pg_wal" / lost).unlink(missing_ok=True)
        told = self.run_backstay("backup", "--level", "incremental", "--plugin", self.definition(), status=1)
        self.assertIn("make a full backup", told)

    def test_an_interrupted_backup_leaves_no_session_and_no_snapshot(self):
        self.server.ask("ALTER SYSTEM SET archive_command = 'false'")
        self.server.ask("SELECT pg_reload_conf()")
        process = subprocess.Popen(
            [backstay(), "backup", "--plugin", self.definition()],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backstay_postgresql'"
        # It waits for a segment that is never archived.
        self.server.wait_until("SELECT failed_count > 0 FROM pg_stat_archiver", "t")
        self.assertEqual(self.server.ask(sessions), "1")
        process.terminate()
        told, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, told)
        self.server.wait_until(sessions, "0")
        self.assertEqual(self.run_backstay("--json", "snapshots").strip(), "")
