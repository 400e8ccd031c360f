# SPDX-License-Identifier: MIT OR Apache-2.0
"""Base class, wrapper and local-files class: attributes, events, input and output, names after star imports."""

import errno
import os
import stat
import sys

from fake_setup import PluginCase

import bareosfd as fd
import BareosFdPluginBaseclass as base
import job
from BareosFdPluginLocalFilesBaseclass import BareosFdPluginLocalFilesBaseclass


class BaseClass(PluginCase):
    def test_the_constructor_knows_the_job_and_leaves_options_alone(self):
        plugin = base.BareosFdPluginBaseclass("a=1:", ["a"])
        self.assertEqual(
            (plugin.fdname, plugin.client, plugin.jobId, plugin.since, plugin.level),
            ("client-fd", "client-fd", 7, 0, ord("F")),
        )
        self.assertEqual(plugin.jobName, "backup.client.2026-11-22_01.02.03_04")
        self.assertEqual(plugin.shortName, "backup.client")
        self.assertEqual((plugin.workingdir, plugin.configdir), ("/var/lib/backstay", "/"))
        self.assertEqual((plugin.FNAME, plugin.filetype, plugin.file), ("undef", "undef", None))
        self.assertEqual(plugin.mandatory_options, ["a"])
        self.assertIsInstance(plugin.startTime, int)
        self.assertFalse(hasattr(plugin, "options"))
        self.assertFalse(hasattr(plugin, "plugindef"))

    def test_it_registers_its_six_events(self):
        base.BareosFdPluginBaseclass("")
        self.assertEqual(fd.registered, {2, 4, 16, 19, 3, 5})

    def test_its_text_names_the_job_in_one_line(self):
        text = str(base.BareosFdPluginBaseclass(""))
        self.assertNotIn("\n", text)
        for part in ("BareosFdPluginBaseclass", "client-fd", "7", "level=F", "backup.client", "/var/lib/backstay"):
            self.assertIn(part, text)

    def test_each_event_reaches_its_method_whose_answer_is_returned(self):
        class Deaf(base.BareosFdPluginBaseclass):
            def end_job(self):
                return 12

            def end_backup_job(self):
                return 14

            def end_fileset(self):
                return 116

            def start_backup_job(self):
                return 13

            def start_restore_job(self):
                return 15

        plugin = Deaf("")
        self.assertEqual([plugin.handle_plugin_event(event) for event in (2, 4, 16, 3, 5)], [12, 14, 116, 13, 15])
        self.assertEqual(plugin.handle_plugin_event(6), fd.bRC_OK)
        self.assertEqual(base.BareosFdPluginBaseclass("").handle_plugin_event(2), fd.bRC_OK)

    def test_answers_of_the_callbacks_that_do_nothing(self):
        plugin = base.BareosFdPluginBaseclass("")
        self.assertEqual(plugin.start_backup_file(fd.SavePacket()), fd.bRC_Stop)
        for answer in (
            plugin.end_backup_file(),
            plugin.start_restore_file("cmd"),
            plugin.end_restore_file(),
            plugin.restore_object_data(fd.RestoreObject()),
            plugin.set_file_attributes(fd.RestorePacket()),
            plugin.check_file("/x"),
            plugin.handle_backup_file(fd.SavePacket()),
            plugin.plugin_io_seek(fd.IoPacket()),
        ):
            self.assertEqual(answer, fd.bRC_OK)
        acl, xattr = fd.AclPacket(), fd.XattrPacket()
        self.assertEqual((plugin.get_acl(acl), plugin.get_xattr(xattr)), (fd.bRC_OK, fd.bRC_OK))
        self.assertEqual((acl.content, xattr.name, xattr.value), (None, None, None))

    def test_create_file_leaves_it_to_the_core(self):
        packet = fd.RestorePacket(ofname="/x")
        self.assertEqual(base.BareosFdPluginBaseclass("").create_file(packet), fd.bRC_OK)
        self.assertEqual(packet.create_status, fd.CF_CORE)

    def test_restored_attributes_are_told(self):
        plugin = base.BareosFdPluginBaseclass("")
        acl = fd.AclPacket(fname="/x", content=bytearray(b"acl"))
        xattr = fd.XattrPacket(fname="/x", name=bytearray(b"n"), value=bytearray(b"v"))
        self.assertEqual((plugin.set_acl(acl), plugin.set_xattr(xattr)), (fd.bRC_OK, fd.bRC_OK))
        self.assertEqual(
            self.told(fd.M_INFO),
            [
                f"my set_acl() entry point in Python called with {acl!r}\n",
                f"my set_xattr() entry point in Python called with {xattr!r}\n",
            ],
        )


class BaseClassInputAndOutput(PluginCase):
    def setUp(self):
        super().setUp()
        self.plugin = base.BareosFdPluginBaseclass("")

    def open(self, name, flags=os.O_RDONLY):
        packet = fd.IoPacket(func=fd.IO_OPEN, fname=str(name), flags=flags)
        return self.plugin.plugin_io(packet), packet

    def close(self):
        return self.plugin.plugin_io(fd.IoPacket(func=fd.IO_CLOSE))

    def read(self, count):
        packet = fd.IoPacket(func=fd.IO_READ, count=count)
        return self.plugin.plugin_io(packet), packet

    def replace_descriptor(self, path, flags):
        """Lets the plugin's open file object stand on something else."""
        other = os.open(path, flags)
        os.dup2(other, self.plugin.file.fileno())
        os.close(other)

    def test_what_is_written_in_blocks_is_read_back(self):
        name = self.folder / "new" / "folder" / "file"
        data = os.urandom(700_000)
        rc, packet = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.assertEqual((rc, packet.status, packet.filedes), (fd.bRC_OK, fd.iostat_do_in_plugin, -1))
        for start in range(0, len(data), 262144):
            block = bytearray(data[start : start + 262144])
            written = fd.IoPacket(func=fd.IO_WRITE, count=len(block), buf=block)
            self.assertEqual((self.plugin.plugin_io(written), written.status), (fd.bRC_OK, len(block)))
        self.assertEqual(self.close(), fd.bRC_OK)
        self.assertEqual(self.plugin.FNAME, str(name))

        self.open(name)
        read = b""
        while True:
            rc, packet = self.read(262144)
            self.assertEqual((rc, packet.io_errno), (fd.bRC_OK, 0))
            if packet.status == 0:
                break
            read += bytes(packet.buf[: packet.status])
        self.close()
        self.assertEqual(read, data)

    def test_folders_symlinks_and_fifos_are_not_opened_and_read_as_empty(self):
        os.symlink("nowhere", self.folder / "link")
        os.mkfifo(self.folder / "fifo")
        for name, kind in ((self.folder, "FT_DIR"), (self.folder / "link", "FT_LNK"), (self.folder / "fifo", "FT_FIFO")):
            rc, packet = self.open(name)
            self.assertEqual((rc, packet.status, self.plugin.fileType), (fd.bRC_OK, 0, kind))
            rc, packet = self.read(10)
            self.assertEqual((rc, packet.status, packet.buf), (fd.bRC_OK, 0, bytearray()))
            self.assertEqual(self.close(), fd.bRC_OK)
        self.assertIsNone(self.plugin.file)

    def test_a_failed_open_gives_the_error_number(self):
        rc, packet = self.open(self.folder / "missing")
        self.assertEqual((rc, packet.status, packet.io_errno), (fd.bRC_Error, -1, errno.ENOENT))

    def test_a_failed_read_is_an_error_and_not_the_end_of_the_file(self):
        (self.folder / "file").write_text("text")
        self.open(self.folder / "file")
        self.replace_descriptor(self.folder, os.O_RDONLY)
        rc, packet = self.read(10)
        self.assertEqual((rc, packet.status, packet.io_errno), (fd.bRC_Error, -1, errno.EISDIR))
        self.close()
        self.assertEqual(len(self.told(fd.M_ERROR)), 1)

    def test_a_failed_write_writes_nothing(self):
        self.open("/dev/full", os.O_WRONLY)
        packet = fd.IoPacket(func=fd.IO_WRITE, count=262144, buf=bytearray(262144))
        self.assertEqual(self.plugin.plugin_io(packet), fd.bRC_Error)
        self.assertEqual((packet.status, packet.io_errno), (0, errno.ENOSPC))
        self.assertEqual(len(self.told(fd.M_ERROR)), 1)
        # What is left in the buffer has to go somewhere when the file is closed.
        self.replace_descriptor("/dev/null", os.O_WRONLY)
        self.close()

    def test_a_disk_that_fills_up_at_the_close_is_told(self):
        self.open("/dev/full", os.O_WRONLY)
        packet = fd.IoPacket(func=fd.IO_WRITE, count=3, buf=bytearray(b"abc"))
        self.assertEqual((self.plugin.plugin_io(packet), packet.status), (fd.bRC_OK, 3))
        self.assertEqual(self.close(), fd.bRC_Error)
        self.assertEqual(len(self.told(fd.M_ERROR)), 1)
        self.assertTrue(self.plugin.file.closed)


class Wrapper(PluginCase):
    def fresh(self):
        for name in ("BareosFdWrapper", "probe_trace", "old_style"):
            sys.modules.pop(name, None)
        import BareosFdWrapper

        return BareosFdWrapper

    def test_the_decorator_remembers_the_class_and_load_makes_the_object(self):
        wrapper = self.fresh()

        @wrapper.BareosPlugin
        class Mine:
            def __init__(self, plugindef):
                self.plugindef = plugindef

            def parse_plugin_definition(self, plugindef):
                return ("parsed", plugindef)

        self.assertIsInstance(Mine, type)
        self.assertIsNone(wrapper.bareos_fd_plugin_object)
        self.assertEqual(wrapper.load_bareos_plugin("a=1:"), fd.bRC_OK)
        self.assertIsInstance(wrapper.bareos_fd_plugin_object, Mine)
        self.assertEqual(wrapper.bareos_fd_plugin_object.plugindef, "a=1:")
        self.assertEqual(wrapper.parse_plugin_definition("a=2:"), ("parsed", "a=2:"))

    def test_a_callback_before_loading_has_no_object_to_go_to(self):
        with self.assertRaises(AttributeError):
            self.fresh().end_backup_file()

    def test_loading_without_a_class_says_what_is_missing(self):
        with self.assertRaisesRegex(RuntimeError, "@BareosPlugin"):
            self.fresh().load_bareos_plugin("")

    def test_every_callback_reaches_the_method_of_its_name(self):
        wrapper = self.fresh()

        class Recorder:
            def __getattr__(self, name):
                return lambda *arguments: (name, arguments)

        wrapper.bareos_fd_plugin_object = Recorder()
        one = object()
        for name in (
            "parse_plugin_definition", "handle_plugin_event", "start_backup_file", "start_restore_file",
            "restore_object_data", "plugin_io", "create_file", "set_file_attributes", "check_file", "get_acl",
            "set_acl", "get_xattr", "set_xattr", "handle_backup_file",
        ):  # fmt: skip
            self.assertEqual(getattr(wrapper, name)(one), (name, (one,)))
        for name in ("end_backup_file", "end_restore_file"):
            self.assertEqual(getattr(wrapper, name)(), (name, ()))

    def test_an_old_style_script_sets_the_object_itself(self):
        self.fresh()
        import old_style

        self.assertEqual(old_style.load_bareos_plugin(""), fd.bRC_OK)
        self.assertEqual(old_style.parse_plugin_definition("a=1:"), fd.bRC_OK)
        self.assertEqual(old_style.BareosFdWrapper.bareos_fd_plugin_object.options, {"a": "1"})

    def test_star_imports_give_what_scripts_expect(self):
        self.fresh()
        names = {}
        exec("from BareosFdWrapper import *", names)
        for name in ("BareosPlugin", "bareos_fd_plugin_object", "load_bareos_plugin", "get_xattr"):
            self.assertIn(name, names)
        self.assertNotIn("PLUGIN_CLASS", names)
        self.assertNotIn("bRC_OK", names)

        names = {}
        exec("from BareosFdPluginBaseclass import *", names)
        for name in (
            "BareosFdPluginBaseclass", "parse_plugindef_string", "parse_options_file", "get_config_path",
            "transform_value", "os", "stat", "sys", "time", "b85decode", "bareosfd", "bRC_OK", "GetValue",
            "StatPacket", "M_INFO", "FT_REG", "bRCs",
        ):  # fmt: skip
            self.assertIn(name, names)

        names = {}
        exec("from BareosFdPluginLocalFilesBaseclass import *", names)
        for name in (
            "BareosFdPluginLocalFilesBaseclass", "BareosFdPluginBaseclass", "bareosfd", "os", "re", "stat", "sys",
        ):  # fmt: skip
            self.assertIn(name, names)
        self.assertIsInstance(names["BareosFdPluginBaseclass"], type)


class LocalFiles(PluginCase):
    """Drives a small plugin, tests/plugins/local_list.py, that lists the lines of a file."""

    def setUp(self):
        super().setUp()
        self.source = self.folder / "source"
        (self.source / "sub").mkdir(parents=True)
        (self.source / "file").write_bytes(os.urandom(300_000))
        (self.source / "empty").write_bytes(b"")
        os.symlink("file", self.source / "link")
        os.symlink("sub", self.source / "link to folder")
        os.mkfifo(self.source / "fifo", 0o640)
        os.chmod(self.source / "file", 0o4751)
        for name in ("file", "empty", "sub"):
            os.utime(self.source / name, (1_000_000_000, 1_100_000_000))

    def list_file(self, *names):
        listing = self.folder / "list"
        listing.write_text("".join(f"{name}\n" for name in names), errors="surrogateescape")
        return f"filename={listing}:"

    def test_without_the_option_filename_it_refuses(self):
        plugin = BareosFdPluginLocalFilesBaseclass("")
        self.assertEqual(plugin.parse_plugin_definition(""), fd.bRC_Error)
        self.assertEqual(self.told(fd.M_FATAL), ["Mandatory option 'filename' not defined.\n"])
        self.assertEqual(
            (plugin.files_to_backup, plugin.file_to_backup, plugin.statp, plugin.allow, plugin.deny),
            ([], "", {}, None, None),
        )

    def test_an_empty_list_stops_and_names_are_taken_from_the_end(self):
        plugin = BareosFdPluginLocalFilesBaseclass("")
        self.assertEqual(plugin.start_backup_file(fd.SavePacket()), fd.bRC_Stop)
        plugin.append_file_to_backup(str(self.source / "file"))
        plugin.append_file_to_backup(str(self.source / "empty"))
        packet = fd.SavePacket()
        self.assertEqual(plugin.start_backup_file(packet), fd.bRC_OK)
        self.assertEqual(packet.fname, str(self.source / "empty"))
        self.assertEqual(plugin.end_backup_file(), fd.bRC_More)
        self.assertEqual(plugin.start_backup_file(packet), fd.bRC_OK)
        self.assertEqual(plugin.end_backup_file(), fd.bRC_OK)

    def test_files_folders_links_and_fifos_come_back_with_mode_and_times(self):
        names = [f"{self.source}/{name}" for name in ("sub/", "file", "empty", "link", "link to folder/", "fifo")]
        options = self.list_file(*names)
        saved = job.back_up("local_list", options)
        self.assertEqual(
            {record.name: record.type for record in saved},
            {
                f"{self.source}/sub/": fd.FT_DIREND,
                f"{self.source}/file": fd.FT_REG,
                f"{self.source}/empty": fd.FT_REG,
                f"{self.source}/link": fd.FT_LNK,
                f"{self.source}/link to folder": fd.FT_LNK,
                f"{self.source}/fifo": fd.FT_FIFO,
            },
        )
        where = self.folder / "where"
        self.assertEqual(job.restore("local_list", options, saved, str(where)), [])
        self.assertEqual(fd.messages, [])
        restored = where / str(self.source)[1:]
        self.assertEqual((restored / "file").read_bytes(), (self.source / "file").read_bytes())
        self.assertEqual(os.readlink(restored / "link"), "file")
        self.assertEqual(os.readlink(restored / "link to folder"), "sub")
        self.assertTrue(stat.S_ISFIFO(os.lstat(restored / "fifo").st_mode))
        for name in ("file", "empty", "sub", "fifo"):
            wanted, found = os.lstat(self.source / name), os.lstat(restored / name)
            self.assertEqual((found.st_mode, found.st_uid, found.st_gid), (wanted.st_mode, wanted.st_uid, wanted.st_gid))
            self.assertEqual(int(found.st_mtime), int(wanted.st_mtime))

    def test_a_restored_link_does_not_pass_its_attributes_on_to_its_target(self):
        options = self.list_file(self.source / "link")
        saved = job.back_up("local_list", options)
        restored = self.folder / "where" / str(self.source)[1:]
        restored.mkdir(parents=True)
        (restored / "file").write_text("untouched")
        os.chmod(restored / "file", 0o600)
        job.restore("local_list", options, saved, str(self.folder / "where"))
        self.assertEqual(stat.S_IMODE(os.stat(restored / "file").st_mode), 0o600)

    def test_a_hard_link_is_made_to_the_restored_first_name(self):
        first = self.folder / "first"
        first.write_text("data")
        plugin = BareosFdPluginLocalFilesBaseclass("")
        packet = fd.RestorePacket(type=fd.FT_LNKSAVED, ofname=str(self.folder / "second"), olname=str(first))
        self.assertEqual(plugin.create_file(packet), fd.bRC_OK)
        self.assertEqual(packet.create_status, fd.CF_CREATED)
        self.assertTrue(os.path.samefile(first, self.folder / "second"))

    def test_what_can_not_be_saved_is_told_and_left_out_or_announced_as_failed(self):
        import socket

        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.folder / "socket"))
        names = [self.folder / "missing", self.folder / "socket", os.fsdecode(b"/tmp/bad \xff name"), self.source / "file"]
        saved = job.back_up("local_list", self.list_file(*names))
        self.assertEqual(
            [(record.name, record.type) for record in saved],
            [(str(self.source / "file"), fd.FT_REG), (str(self.folder / "missing"), fd.FT_NOSTAT)],
        )
        self.assertEqual(len(self.told(fd.M_ERROR)), 1)
        self.assertEqual(len(self.told(fd.M_WARNING)), 2)

    def test_refused_restores(self):
        plugin = BareosFdPluginLocalFilesBaseclass("")
        self.assertEqual(plugin.create_file(fd.RestorePacket(ofname="")), fd.bRC_Error)
        packet = fd.RestorePacket(type=fd.FT_RAW, ofname=str(self.folder / "raw"))
        self.assertEqual(plugin.create_file(packet), fd.bRC_OK)
        self.assertEqual(packet.create_status, fd.CF_ERROR)
        self.assertEqual(len(self.told(fd.M_ERROR)), 1)

    def test_the_end_of_a_file_that_was_never_opened_is_harmless(self):
        self.assertEqual(BareosFdPluginLocalFilesBaseclass("").end_restore_file(), fd.bRC_OK)
