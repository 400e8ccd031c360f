# SPDX-License-Identifier: MIT OR Apache-2.0
"""An LDAP directory through the whole program: saved, destroyed, restored in both ways, compared by search."""

import time

from place import Place
from servers import Slapd

from test_ldap import TREE, person


class WithServer(Place):
    plugin = "backstay_ldap"

    def setUp(self):
        super().setUp()
        self.server = self.served(Slapd(self.folder / "server").make().start())
        self.server.change("ldapadd", TREE.replace("AP/+", "w7zDvCBj") + "".join(map(person, range(200))))
        uri = self.server.uri.replace(":", "\\:")
        password = self.folder / "password"
        password.write_text(Slapd.PASSWORD + "\n")
        self.options = f"uri={uri}:base={Slapd.BASE}:bind_dn={Slapd.ADMINISTRATOR}:password@file={password}:"

    def empty(self):
        self.server.stop()
        self.server.make().start()


class Directory(WithServer):
    def test_a_destroyed_directory_comes_back_through_the_plugin_and_from_plain_files(self):
        expected = self.server.content()
        self.back_up()
        self.check()
        self.empty()
        self.restore("through", options="restore=server")
        self.assertEqual(self.server.content(), expected)

        folder = self.restore("plain") / "@LDAP"
        self.empty()
        self.server.add_files(folder)
        self.assertEqual(self.server.content(), expected)

    def test_a_directory_is_saved_and_restored_in_a_sandbox(self):
        expected = self.server.content()
        self.back_up("--sandbox")
        self.empty()
        self.restore("through", "--sandbox", options="restore=server")
        self.assertEqual(self.server.content(), expected)

    def test_entries_that_changed_and_went_come_back_as_they_were_at_last(self):
        self.back_up()
        time.sleep(1.1)
        self.server.change("ldapadd", person(500, mail="new@example.com"))
        self.server.change(
            "ldapmodify",
            f"dn: uid=person7,ou=people,{Slapd.BASE}\nchangetype: delete\n\n"
            f"dn: uid=person8,ou=people,{Slapd.BASE}\nchangetype: modify\nreplace: sn\nsn: Other\n",
        )
        expected = self.server.content()
        summary = self.back_up("--level", "incremental", "--accurate")
        self.assertEqual(summary["entries"]["saved"], 2, summary)
        self.empty()
        self.restore("through", options="restore=server")
        self.assertEqual(self.server.content(), expected)
