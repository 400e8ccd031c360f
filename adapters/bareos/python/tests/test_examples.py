# SPDX-License-Identifier: MIT OR Apache-2.0
"""The example plugins, driven through a backup and a restore of the stand-in job."""

import errno
import os
import sqlite3
import stat
from unittest import mock

from fake_setup import PluginCase

import bareosfd as fd
import job


def describe(root):
    """Everything below a folder that a restore must bring back, by relative name."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files, "."]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            else:
                content = None
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in xattrs_of(path)}
            times = int(status.st_mtime)
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_uid, times, content, xattrs)
    return found


def xattrs_of(path):
    return [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]


def make_tree(root):
    (root / "a folder" / "inside").mkdir(parents=True)
    (root / "a folder" / "inside" / "big").write_bytes(os.urandom(600_000))
    (root / "a folder" / "read only").write_text("fixed")
    (root / "empty").write_bytes(b"")
    (root / "\u00fcmlaut: blank").write_text("name")
    os.symlink("missing target", root / "dangling")
    os.symlink("a folder", root / "link to folder")
    os.chmod(root / "a folder" / "read only", 0o444)
    os.chmod(root / "a folder" / "inside", 0o750)
    for number, (folder, _, files) in enumerate(os.walk(root, topdown=False)):
        for name in [*files, "."]:
            os.utime(os.path.join(folder, name), (1_000_000_000, 1_100_000_000 + number), follow_symlinks=False)


class TreeLister(PluginCase):
    def setUp(self):
        super().setUp()
        self.tree = self.folder / "tree"
        make_tree(self.tree)

    def round_trip(self, options, direct):
        saved = job.back_up("tree_lister", options)
        self.assertEqual({record.direct for record in saved if record.type == fd.FT_REG}, {direct})
        where = self.folder / "where"
        self.assertEqual(job.restore("tree_lister", options, saved, str(where)), [])
        self.assertEqual(fd.messages, [])
        self.assertEqual(describe(where / str(self.tree)[1:]), describe(self.tree))
        return saved

    def test_a_tree_comes_back_by_direct_io(self):
        self.round_trip(f"path={self.tree}:", True)

    def test_a_tree_comes_back_by_plugin_io(self):
        self.round_trip(f"path={self.tree}:io=plugin:", False)

    def test_extended_attributes_come_back(self):
        try:
            os.setxattr(self.tree / "a folder" / "read only", "user.one", b"1\0x")
            os.setxattr(self.tree / "a folder" / "read only", "user.two", b"")
        except OSError:
            os.chmod(self.tree / "a folder" / "read only", 0o644)
            try:
                os.setxattr(self.tree / "a folder" / "read only", "user.one", b"1\0x")
            except OSError:
                self.skipTest("this file system has no user attributes")
        saved = self.round_trip(f"path={self.tree}:", True)
        (record,) = [record for record in saved if record.name.endswith("read only")]
        self.assertIn((b"user.one", b"1\0x"), record.xattrs)

    def test_a_folder_comes_after_its_contents(self):
        names = [record.name for record in job.back_up("tree_lister", f"path={self.tree}:")]
        self.assertEqual(names[-1], f"{self.tree}/")
        self.assertGreater(
            names.index(f"{self.tree}/a folder/"), names.index(f"{self.tree}/a folder/inside/big")
        )

    def test_what_can_not_be_listed_or_examined_is_announced_as_failed(self):
        folder = str(self.tree / "a folder")
        with self.opened_at_most(folder, 0):
            saved = job.back_up("tree_lister", f"path={self.tree}:")
        found = [(record.name, record.type) for record in saved if record.name.startswith(folder)]
        self.assertEqual(found, [(folder, fd.FT_NOOPEN), (folder + "/", fd.FT_DIREND)])
        self.assertEqual(len(self.told(fd.M_WARNING)), 1)
        self.assertEqual(len(saved), 7)

    def test_a_folder_that_is_closed_to_us_halfway_is_announced_as_failed(self):
        folder = str(self.tree / "a folder")
        with self.opened_at_most(folder, 1):
            saved = job.back_up("tree_lister", f"path={self.tree}:")
        found = [(record.name, record.type) for record in saved if record.name.startswith(folder)]
        self.assertIn((folder, fd.FT_NOOPEN), found)
        self.assertEqual(found[-1], (folder + "/", fd.FT_DIREND))
        self.assertIn((folder + "/inside/big", fd.FT_REG), found)
        self.assertEqual(saved[-1].name, f"{self.tree}/")

    def opened_at_most(self, folder, times):
        """A patch: so often the folder can be opened, and then no more."""
        really, left = os.open, [times]

        def open_(path, *arguments, **named):
            if path == folder:
                left[0] -= 1
                if left[0] < 0:
                    raise PermissionError(errno.EACCES, "Permission denied")
            return really(path, *arguments, **named)

        return mock.patch("os.open", open_)

    def test_no_descriptor_stays_open(self):
        before = set(os.listdir("/proc/self/fd"))
        job.back_up("tree_lister", f"path={self.tree}:")
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)

    def test_each_plugin_line_lists_its_own_folder(self):
        import tree_lister

        (self.folder / "other").mkdir()
        (self.folder / "other" / "file").write_text("x")
        names = []
        module = job.load("tree_lister", f"path={self.tree}:")
        module.parse_plugin_definition(f"path={self.folder}/other:")
        for options in (f"path={self.tree}/a folder/inside:", f"path={self.folder}/other:"):
            module.parse_plugin_definition(options)
            while module.start_backup_file(packet := fd.SavePacket()) == fd.bRC_OK:
                names.append(os.path.relpath(packet.fname, self.folder))
        self.assertEqual(names, ["tree/a folder/inside/big", "tree/a folder/inside", "other/file", "other"])
        del tree_lister

    def test_an_override_in_a_restore_changes_the_way_of_io(self):
        fd.variables[fd.bVarLevel] = ord(" ")
        module = job.load("tree_lister", "io=plugin:path=/x:io=core:")
        self.assertFalse(module.direct)
        module.parse_plugin_definition("path=/x:io=core:")
        self.assertFalse(module.direct)

    def test_missing_and_wrong_options_are_named(self):
        for options, word in (("", "'path'"), ("path=/x:io=fast:", "io='fast'")):
            fd.reset()
            with self.assertRaises(job.Failed):
                job.back_up("tree_lister", options)
            self.assertIn(word, self.told(fd.M_FATAL)[0])
        fd.reset()
        with self.assertRaises(job.Failed):
            job.back_up("tree_lister", f"path={self.folder}/missing:")
        self.assertIn("missing", self.told(fd.M_FATAL)[0])


class SqliteAndFolder(PluginCase):
    def setUp(self):
        super().setUp()
        self.database = self.folder / "app.db"
        connection = sqlite3.connect(self.database)
        connection.executescript(
            """
            CREATE TABLE plain (id INTEGER PRIMARY KEY, word TEXT, number REAL, raw BLOB);
            INSERT INTO plain VALUES (2, 'it''s', 0.1, X'00ff'), (1, NULL, 1e300, NULL), (3, '', -9e999, X'');
            CREATE TABLE "odd/name ""%" ("a b" TEXT COLLATE NOCASE, twice AS ("a b" || "a b"));
            INSERT INTO "odd/name ""%" VALUES ('b'), ('B'), ('a'), (CAST(X'41ff00' AS TEXT)), ('\u00e4');
            CREATE INDEX by_word ON plain (word);
            CREATE TRIGGER no_delete BEFORE DELETE ON plain BEGIN SELECT RAISE(ABORT, 'no'); END;
            CREATE VIEW words AS SELECT word FROM plain;
            """
        )
        connection.close()

    def tables_of(self, path):
        connection = sqlite3.connect(path)
        connection.text_factory = bytes
        schema = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
        plain = connection.execute("SELECT *, typeof(number) FROM plain ORDER BY id").fetchall()
        odd = connection.execute('SELECT CAST("a b" AS BLOB) FROM "odd/name ""%" ORDER BY 1').fetchall()
        connection.close()
        return schema, plain, odd

    def test_a_database_can_be_made_again_from_its_restored_tables(self):
        options = f"database={self.database}:"
        saved = job.back_up("sqlite_and_folder", options)
        self.assertEqual(
            [record.name for record in saved],
            ["@SQLITE/app.db/odd%2Fname %22%25.sql", "@SQLITE/app.db/plain.sql", "@SQLITE/app.db/words.sql"],
        )
        self.assertEqual({record.direct for record in saved}, {False})
        where = self.folder / "where"
        self.assertEqual(job.restore("sqlite_and_folder", options, saved, str(where)), [])
        again = sqlite3.connect(self.folder / "again.db")
        for record in saved:
            again.executescript((where / record.name).read_text())
        again.close()
        self.assertEqual(self.tables_of(self.folder / "again.db"), self.tables_of(self.database))

    def test_the_same_rows_give_the_same_text_whatever_order_they_came_in(self):
        first = job.back_up("sqlite_and_folder", f"database={self.database}:")
        connection = sqlite3.connect(self.database)
        connection.executescript(
            """
            CREATE TEMP TABLE t AS SELECT "a b" AS x FROM "odd/name ""%";
            DELETE FROM "odd/name ""%";
            INSERT INTO "odd/name ""%" SELECT x FROM t ORDER BY x DESC;
            """
        )
        connection.close()
        second = job.back_up("sqlite_and_folder", f"database={self.database}:")
        self.assertEqual([record.data for record in first], [record.data for record in second])

    def test_a_big_table_comes_in_full_blocks(self):
        connection = sqlite3.connect(self.database)
        connection.execute("CREATE TABLE big AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 30000)"
                           " SELECT i, hex(randomblob(20)) AS h FROM n")
        connection.commit()
        connection.close()
        (record,) = [r for r in job.back_up("sqlite_and_folder", f"database={self.database}:") if "big" in r.name]
        self.assertGreater(len(record.data), 4 * job.BLOCK)
        self.assertEqual(record.data.count(b"\nINSERT INTO"), 30000)
        self.assertTrue(record.data.endswith(b"COMMIT;\n"))

    def test_a_folder_comes_back_by_direct_io_with_mode_and_times(self):
        tree = self.folder / "tree"
        make_tree(tree)
        options = f"database={self.database}:folder={tree}:"
        saved = job.back_up("sqlite_and_folder", options)
        self.assertEqual(
            {record.direct for record in saved if record.type == fd.FT_REG and record.name.startswith("/")}, {True}
        )
        where = self.folder / "where"
        self.assertEqual(job.restore("sqlite_and_folder", options, saved, str(where)), [])
        self.assertEqual(fd.messages, [])
        self.assertEqual(describe(where / str(tree)[1:]), describe(tree))

    def test_what_can_not_be_listed_or_examined_is_announced_as_failed(self):
        tree = self.folder / "tree"
        make_tree(tree)
        listdir, lstat = os.listdir, os.lstat

        def refuse(path, *arguments):
            raise PermissionError(errno.EACCES, "Permission denied", path)

        with (
            mock.patch("os.listdir", lambda path: refuse(path) if path.endswith("inside") else listdir(path)),
            mock.patch("os.lstat", lambda path: refuse(path) if path.endswith("empty") else lstat(path)),
        ):
            saved = job.back_up("sqlite_and_folder", f"folder={tree}:")
        types = {os.path.relpath(record.name, tree): record.type for record in saved}
        self.assertEqual((types["a folder/inside"], types["empty"]), (fd.FT_NOOPEN, fd.FT_NOSTAT))
        self.assertEqual(len(self.told(fd.M_WARNING)), 2)

    def test_virtual_files_without_a_target_folder_are_refused(self):
        options = f"database={self.database}:"
        saved = job.back_up("sqlite_and_folder", options)
        self.assertEqual(job.restore("sqlite_and_folder", options, saved, ""), [record.name for record in saved])
        self.assertEqual(len(self.told(fd.M_ERROR)), len(saved))

    def test_a_full_text_index_is_left_out_with_a_warning(self):
        connection = sqlite3.connect(self.database)
        try:
            connection.execute("CREATE VIRTUAL TABLE search USING fts5(text)")
        except sqlite3.OperationalError:
            self.skipTest("this SQLite has no fts5")
        connection.close()
        saved = job.back_up("sqlite_and_folder", f"database={self.database}:")
        self.assertEqual(len(saved), 3)
        self.assertEqual(len(self.told(fd.M_WARNING)), 1)

    def test_a_missing_database_or_no_option_is_fatal_and_creates_nothing(self):
        with self.assertRaises(job.Failed):
            job.back_up("sqlite_and_folder", f"database={self.folder}/missing.db:")
        self.assertIn("missing.db", self.told(fd.M_FATAL)[0])
        self.assertFalse((self.folder / "missing.db").exists())
        fd.reset()
        with self.assertRaises(job.Failed):
            job.back_up("sqlite_and_folder", "")
        self.assertIn("database=FILE", self.told(fd.M_FATAL)[0])

    def test_a_second_definition_in_the_same_job_is_refused(self):
        module = job.load("sqlite_and_folder", f"database={self.database}:")
        self.assertEqual(module.start_backup_file(fd.SavePacket(cmd="first")), fd.bRC_OK)
        self.assertEqual(module.start_backup_file(fd.SavePacket(cmd="second")), fd.bRC_Error)
        self.assertEqual(len(self.told(fd.M_FATAL)), 1)
