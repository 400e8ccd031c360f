# SPDX-License-Identifier: MIT OR Apache-2.0
"""Physical backups of a MariaDB server through the whole program, full and incremental, compared by query."""

from test_mariadb_live import ROWS, WithServer

from servers import MariaDb, run


class Physical(WithServer):
    def round_trip(self, options):
        self.back_up(options=options)
        self.add_rows(50001, 60000)
        self.back_up("--level", "incremental", options=options)
        self.server.ask("UPDATE shop.t SET word = REVERSE(word) WHERE n % 100 = 0")
        self.back_up("--level", "incremental", "--accurate", options=options)
        expected = self.server.ask(ROWS)
        self.server.ask("DROP DATABASE shop")
        self.check()
        self.server.stop()

        data = self.restore("through", options="") / "@MARIADB" / "server" / "data"
        back = self.served(MariaDb(self.folder / "second", data)).start()
        self.assertEqual(back.ask(ROWS), expected)
        return expected

    def test_a_destroyed_server_comes_back_by_direct_io(self):
        expected = self.round_trip("")

        # The same from plain files, with the documented commands.
        folder = self.restore("plain") / "@MARIADB" / "server"
        first, *more = sorted(folder.glob("*.xbstream"))
        steps = ["set -e", "umask 077", "mkdir data", f"mbstream -x -C data <{first}"]
        steps.append("mariadb-backup --prepare --target-dir=data")
        for number, stream in enumerate(more):
            steps += [f"mkdir {number}", f"mbstream -x -C {number} <{stream}"]
            steps.append(f"mariadb-backup --prepare --target-dir=data --incremental-dir={number}")
        run(["sh", "-c", "\n".join(steps)], cwd=folder)
        third = MariaDb(self.folder / "third", folder / "data")
        run(["chown", "-R", f"{third.user}:", third.data])
        self.assertEqual(self.served(third).start().ask(ROWS), expected)

    def test_a_destroyed_server_comes_back_by_plugin_io(self):
        self.round_trip("io=plugin:")

    def test_a_differential_stands_on_the_full_backup_alone(self):
        self.back_up()
        self.add_rows(50001, 50010)
        self.back_up("--level", "incremental")
        self.add_rows(50011, 50020)
        self.back_up("--level", "differential")
        expected = self.server.ask(ROWS)
        self.server.stop()
        folder = self.restore("through", options="") / "@MARIADB" / "server"
        self.assertEqual(self.served(MariaDb(self.folder / "second", folder / "data")).start().ask(ROWS), expected)

    def test_a_chain_is_saved_and_restored_in_a_sandbox(self):
        self.back_up("--sandbox")
        self.add_rows(50001, 50010)
        self.back_up("--sandbox", "--level", "incremental")
        expected = self.server.ask(ROWS)
        self.server.stop()
        folder = self.restore("through", "--sandbox", options="") / "@MARIADB" / "server"
        self.assertEqual(self.served(MariaDb(self.folder / "second", folder / "data")).start().ask(ROWS), expected)

    def test_a_stream_that_breaks_off_leaves_no_snapshot(self):
        program = self.folder / "breaks"
        program.write_text("#!/bin/sh\nhead -c 300000 /dev/urandom\necho no more room >&2\nexit 3\n")
        program.chmod(0o755)
        definition = self.definition(f"mariadb_backup={program}")
        told = self.run_backstay("backup", "--plugin", definition, status=1)
        self.assertIn("no more room", told)
        self.assertEqual(self.run_backstay("--json", "snapshots").strip(), "")
