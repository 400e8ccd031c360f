# SPDX-License-Identifier: MIT OR Apache-2.0
"""A MariaDB server through the whole program: saved, destroyed, restored in both ways, compared by query."""

from place import Place
from servers import MariaDb

ROWS = "SELECT COUNT(*), SUM(CRC32(CONCAT_WS(',', n, word))) FROM shop.t"


class WithServer(Place):
    plugin = "backstay_mariadb"

    def setUp(self):
        super().setUp()
        self.server = self.served(MariaDb(self.folder / "server").make().start())
        self.server.ask("CREATE DATABASE shop")
        self.server.ask("CREATE TABLE shop.t (n INT PRIMARY KEY, word TEXT)")
        self.add_rows(1, 50000)
        self.options = f"socket={self.server.socket}:user=root:"

    def add_rows(self, first, last):
        self.server.ask(f"INSERT INTO shop.t SELECT seq, MD5(seq) FROM seq_{first}_to_{last}", database="shop")


class Dump(WithServer):
    def round_trip(self, options):
        expected = self.server.ask(ROWS)
        self.back_up(options=f"mode=dump:ignore=mysql:{options}")
        self.check()
        self.server.ask("DROP DATABASE shop")
        self.restore("through", options="restore=server")
        self.assertEqual(self.server.ask(ROWS), expected)

        folder = self.restore("plain") / "@MARIADB" / "server"
        self.server.ask("DROP DATABASE shop")
        self.server.ask(f"source {folder}/shop.sql")
        self.assertEqual(self.server.ask(ROWS), expected)

    def test_a_dropped_database_comes_back_by_direct_io(self):
        self.round_trip("")

    def test_a_dropped_database_comes_back_by_plugin_io(self):
        self.round_trip("io=plugin:")

    def test_a_dump_that_breaks_off_is_listed(self):
        program = self.folder / "breaks"
        program.write_text("#!/bin/sh\necho half\nexit 2\n")
        program.chmod(0o755)
        definition = self.definition(f"mode=dump:databases=shop:mariadb_dump={program}")
        told = self.run_backstay("backup", "--plugin", definition, status=3)
        self.assertIn("shop.sql is not whole", told)
        self.assertIn("with errors", told)
