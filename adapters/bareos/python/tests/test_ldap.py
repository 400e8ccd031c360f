# SPDX-License-Identifier: MIT OR Apache-2.0
"""The LDAP plugin against a real slapd: saved, destroyed, restored, compared by search."""

import os
import time

from fake_setup import PluginCase
from servers import Slapd

import backstay_ldap
import bareosfd as fd
import job

PLUGIN = "backstay_ldap"
BASE = Slapd.BASE


def person(number, **more):
    lines = [
        f"dn: uid=person{number},ou=people,{BASE}",
        "objectClass: inetOrgPerson",
        f"uid: person{number}",
        f"cn: Person {number}",
        "sn: Person",
        *(f"{name}: {value}" for name, value in more.items()),
    ]
    return "\n".join(lines) + "\n\n"


TREE = f"""dn: {BASE}
objectClass: domain
dc: example

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: ou=a\\, b/c,{BASE}
objectClass: organizationalUnit
ou: a, b/c
description:: AP/+IGJsYW5rIGF0IHRoZSBlbmQg
description: {"long " * 100}end

dn: cn=under it,ou=a\\, b/c,{BASE}
objectClass: organizationalRole
cn: under it

"""


class WithServer(PluginCase):
    def setUp(self):
        super().setUp()
        (self.folder / "work").mkdir()
        fd.variables[fd.bVarWorkingDir] = str(self.folder / "work")
        self.server = Slapd(self.folder / "server")
        self.addCleanup(self.server.kill)
        self.server.make().start()
        self.server.change("ldapadd", TREE.replace("AP/+", "w7zDvCBj") + "".join(map(person, range(30))))
        uri = self.server.uri.replace(":", "\\:")
        self.options = f"uri={uri}:base={BASE}:bind_dn={Slapd.ADMINISTRATOR}:password={Slapd.PASSWORD}:page=7:"

    def back_up(self, options="", **more):
        fd.messages.clear()
        saved = job.back_up(PLUGIN, self.options + options, **more)
        self.assertEqual(os.listdir(self.folder / "work"), [])
        return saved

    def restore(self, saved, override="", where="back"):
        fd.messages.clear()
        target = self.folder / where
        self.assertEqual(job.restore(PLUGIN, self.options, saved, str(target), override), [])
        self.assertEqual(os.listdir(self.folder / "work"), [])
        return target / "@LDAP"


class Directory(WithServer):
    def empty(self):
        self.server.stop()
        self.server.make().start()

    def test_a_directory_that_was_destroyed_is_filled_again(self):
        expected = self.server.content()
        self.assertEqual(len(expected), 34)
        saved = self.back_up()
        self.assertEqual(len(saved), 34)
        self.empty()
        # Whatever order they come in: parents are added first.
        self.restore(saved[::-1], override="restore=server:")
        self.assertEqual(self.told(fd.M_ERROR), [])
        self.assertEqual(self.server.content(), expected)

    def test_names_show_the_tree_and_files_are_added_by_the_documented_command(self):
        expected = self.server.content()
        saved = self.back_up()
        names = {record.name for record in saved}
        self.assertIn(f"@LDAP/{BASE}.ldif", names)
        self.assertIn(f"@LDAP/{BASE}/ou=people/uid=person3.ldif", names)
        self.assertIn(f"@LDAP/{BASE}/ou=a\\2C b%2Fc/cn=under it.ldif", names)
        folder = self.restore(saved)
        self.empty()
        self.server.add_files(folder)
        self.assertEqual(self.server.content(), expected)

    def test_entries_that_are_there_become_what_was_saved(self):
        self.server.change("ldapadd", person(50, mail="old@example.com", title="boss"))
        expected = self.server.content()
        saved = self.back_up()
        self.server.change(
            "ldapmodify",
            f"dn: uid=person50,ou=people,{BASE}\nchangetype: modify\nreplace: mail\nmail: new@example.com\n-\n"
            f"delete: title\n-\nadd: description\ndescription: new\n-\n\n"
            f"dn: uid=person1,ou=people,{BASE}\nchangetype: delete\n",
        )
        self.assertNotEqual(self.server.content(), expected)
        self.restore(saved, override="restore=server:")
        self.assertEqual(self.told(fd.M_ERROR), [])
        self.assertEqual(self.server.content(), expected)
        self.assertIn("1 entries were added; of those that were there 1 had", self.told(fd.M_INFO)[0])

    def test_an_incremental_saves_what_changed_and_an_accurate_one_knows_what_is_gone(self):
        full = self.back_up()
        time.sleep(1.1)
        since = int(time.time())
        self.server.change("ldapadd", person(60))
        self.server.change("ldapmodify", f"dn: uid=person2,ou=people,{BASE}\nchangetype: delete\n")
        more = self.back_up(level=fd.L_INCREMENTAL, since=since, known={record.name for record in full})
        changed = [record.name for record in more if record.type == fd.FT_REG]
        gone = [record.name for record in more if record.type == fd.FT_DELETED]
        self.assertEqual(changed, [f"@LDAP/{BASE}/ou=people/uid=person60.ldif"])
        self.assertEqual(gone, [f"@LDAP/{BASE}/ou=people/uid=person2.ldif"])

    def test_of_a_chain_the_newest_version_of_an_entry_counts(self):
        full = self.back_up()
        self.server.change(
            "ldapmodify", f"dn: uid=person3,ou=people,{BASE}\nchangetype: modify\nadd: mail\nmail: a@example.com\n"
        )
        expected = self.server.content()
        more = self.back_up(level=fd.L_INCREMENTAL, since=int(time.time()) - 1)
        self.empty()
        self.restore(full + more, override="restore=server:")
        self.assertEqual(self.server.content(), expected)

    def test_what_the_server_refuses_is_told_and_the_rest_comes_back(self):
        saved = self.back_up()
        for record in saved:
            if "person4" in record.name:
                record.data += b"unheardOf: attribute\n"
        self.empty()
        self.restore(saved, override="restore=server:")
        (text,) = self.told(fd.M_ERROR)
        self.assertIn(f"refused uid=person4,ou=people,{BASE}", text)
        self.assertEqual(len(self.server.content()), 33)

    def test_a_filter_chooses(self):
        names = [record.name for record in self.back_up("filter=(uid=person1*):")]
        self.assertEqual(len(names), 11)

    def test_a_password_never_stands_on_a_command_line(self):
        program = self.folder / "watched"
        program.write_text(f'#!/bin/sh\necho "$@" >>{self.folder}/arguments\nexec ldapsearch "$@"\n')
        program.chmod(0o755)
        self.back_up(f"ldapsearch={program}:")
        self.assertNotIn(Slapd.PASSWORD, (self.folder / "arguments").read_text())

    def test_the_programs_run_as_another_user_who_cannot_enter_the_working_folder(self):
        if os.geteuid() != 0:
            self.skipTest("only root runs programs as others")
        (self.folder / "work").chmod(0o700)
        self.options += "os_user=nobody:"
        expected = self.server.content()
        saved = self.back_up()
        self.server.change("ldapmodify", f"dn: uid=person1,ou=people,{BASE}\nchangetype: delete\n")
        self.restore(saved, override="restore=server:")
        self.assertEqual(self.server.content(), expected)

    def refused(self, words, options="", swap=None):
        if swap:
            self.options = self.options.replace(*swap)
        with self.assertRaises(job.Failed):
            self.back_up(options)
        self.assertIn(words, self.told(fd.M_FATAL)[0])

    def test_a_wrong_password_fails_the_job(self):
        self.refused("Invalid credentials", swap=(Slapd.PASSWORD, "wrong"))

    def test_a_base_that_is_not_there_fails_the_job(self):
        self.refused("No such object", options=f"base=ou=nowhere,{BASE}:")

    def test_a_list_that_breaks_off_fails_the_job(self):
        program = self.folder / "breaks"
        program.write_text(
            '#!/bin/sh\ncase "$*" in *"-s sub"*) ldapsearch "$@" | head -n 8; exit 4;; esac\nexec ldapsearch "$@"\n'
        )
        program.chmod(0o755)
        self.refused("ended with status 4", options=f"ldapsearch={program}:")

    def test_wrong_options_are_named(self):
        for options, words in (
            ("", "base is missing"),
            (f"base={BASE}:bind_dn=x:", "go together"),
            (f"base={BASE}:restore=server:", "for restores"),
        ):
            fd.reset()
            with self.assertRaises(job.Failed):
                job.back_up(PLUGIN, options)
            self.assertIn(words, self.told(fd.M_FATAL)[0])


class Names(PluginCase):
    def test_commas_that_are_protected_do_not_part_a_name(self):
        self.assertEqual(backstay_ldap.relative_names(r"cn=a\, b,ou=c\\,dc=d"), [r"cn=a\, b", r"ou=c\\", "dc=d"])
