# SPDX-License-Identifier: MIT OR Apache-2.0
"""Logs every callback in order: one line each, appended to the file given by the option log=. Saves one empty file.

Lines: ``constructor``, ``parse_plugin_definition('<text>')``, ``handle_plugin_event(<number>)``,
``start_backup_file``, ``plugin_io OPEN|READ|WRITE|SEEK|CLOSE``, ``get_acl``, ``get_xattr``,
``end_backup_file``, ``check_file('<name>')``, ``start_restore_file('<definition>')``, ``create_file``,
``set_file_attributes``, ``set_acl``, ``set_xattr``, ``end_restore_file``, ``restore_object_data``.
"""

import bareosfd
from bareosfd import bRC_OK
from BareosFdPluginBaseclass import parse_plugindef_string
from BareosFdWrapper import *
from probe_base import OneFile

IO = {bareosfd.IO_OPEN: "OPEN", bareosfd.IO_READ: "READ", bareosfd.IO_WRITE: "WRITE", bareosfd.IO_CLOSE: "CLOSE",
      bareosfd.IO_SEEK: "SEEK"}  # fmt: skip


@BareosPlugin
class Trace(OneFile):
    name = "/probe/trace"
    data = b""

    def __init__(self, plugindef):
        self.log_name = parse_plugindef_string(plugindef, None)["log"]
        self.note("constructor")
        super().__init__(plugindef)

    def note(self, line):
        with open(self.log_name, "a") as log:
            log.write(line + "\n")

    def parse_plugin_definition(self, plugindef, multi_value_options=None):
        self.note(f"parse_plugin_definition({plugindef!r})")
        return super().parse_plugin_definition(plugindef, multi_value_options)

    def handle_plugin_event(self, event):
        self.note(f"handle_plugin_event({event})")
        return super().handle_plugin_event(event)

    def start_restore_file(self, cmd):
        self.note(f"start_restore_file({cmd!r})")
        return super().start_restore_file(cmd)

    def check_file(self, fname):
        self.note(f"check_file({fname!r})")
        return super().check_file(fname)

    def plugin_io(self, IOP):
        self.note(f"plugin_io {IO[IOP.func]}")
        return super().plugin_io(IOP)

    def get_xattr(self, xattr):
        # One attribute only, so that the trace has one line.
        self.note("get_xattr")
        xattr.name = bytearray(b"user.first")
        xattr.value = bytearray(b"value")
        return bRC_OK


def noting(name):
    ordinary = getattr(OneFile, name)

    def method(self, *arguments):
        self.note(name)
        return ordinary(self, *arguments)

    return method


for name in ("start_backup_file", "end_backup_file", "end_restore_file", "restore_object_data", "create_file",
             "set_file_attributes", "get_acl", "set_acl", "set_xattr", "handle_backup_file"):  # fmt: skip
    setattr(Trace, name, noting(name))
