# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the probe plugins share: a plugin of one small file that uses every callback, and a way to misbehave in one.

Options of every probe that calls ``misbehave_in``:
    where    (or callback) name of a callback; for input and output also plugin_io_open, _read, _write, _seek, _close;
             handle_plugin_event(N) for one event
The saved file is ``/probe/<module name>``; its text is ``probe data\\n``, it has an ACL and two attributes.
"""

import os

import bareosfd
import BareosFdWrapper
from BareosFdPluginBaseclass import BareosFdPluginBaseclass, parse_plugindef_string

DATA = b"probe data\n"

IO_NAMES = {
    bareosfd.IO_OPEN: "plugin_io_open",
    bareosfd.IO_READ: "plugin_io_read",
    bareosfd.IO_WRITE: "plugin_io_write",
    bareosfd.IO_SEEK: "plugin_io_seek",
    bareosfd.IO_CLOSE: "plugin_io_close",
}

CALLBACKS = [name for name in BareosFdWrapper.__all__ if name not in ("BareosPlugin", "bareos_fd_plugin_object")]


class OneFile(BareosFdPluginBaseclass):
    """Saves ``name`` with ``data`` by plugin I/O; a restore writes an ordinary file through the base class."""

    name = "/probe/file"
    data = DATA
    sent = 0
    done = False

    def start_backup_file(self, savepkt):
        if self.done:
            return bareosfd.bRC_Stop
        self.sent = 0
        savepkt.fname = self.name
        savepkt.type = bareosfd.FT_REG
        savepkt.statp = bareosfd.StatPacket(mode=0o100640, nlink=1, size=len(self.data))
        return bareosfd.bRC_OK

    def end_backup_file(self):
        self.done = True
        return bareosfd.bRC_OK

    def plugin_io_open(self, IOP):
        if IOP.flags & (os.O_WRONLY | os.O_CREAT):
            return super().plugin_io_open(IOP)
        self.fileType = "virtual"
        return bareosfd.bRC_OK

    def plugin_io_read(self, IOP):
        IOP.buf = bytearray(self.data[self.sent : self.sent + IOP.count])
        IOP.status = len(IOP.buf)
        self.sent += IOP.status
        return bareosfd.bRC_OK

    def get_acl(self, acl):
        acl.content = bytearray(b"user::rw-\0acl")
        return bareosfd.bRC_OK

    def get_xattr(self, xattr):
        self.attributes = getattr(self, "attributes", [(b"user.second", b""), (b"user.first", b"\0\xff")])
        name, value = self.attributes.pop()
        xattr.name = bytearray(name)
        xattr.value = bytearray(value)
        return bareosfd.bRC_More if self.attributes else bareosfd.bRC_OK


def misbehave_in(namespace, action, every=False):
    """Gives a plugin module (its ``globals()``) all callbacks of a OneFile plugin, with ``action(name)`` in one.

    Before the callback that the option ``where`` names (with ``every``: before each callback) the action runs; if it
    returns a tuple of one value, the callback answers that without doing anything else.
    """
    given = {}

    @BareosFdWrapper.BareosPlugin
    class Probe(OneFile):
        name = "/probe/" + namespace["__name__"]

    def wrap(name):
        ordinary = getattr(BareosFdWrapper, name)

        def callback(*arguments):
            if name in ("load_bareos_plugin", "parse_plugin_definition"):
                for key, value in parse_plugindef_string(arguments[0], None).items():
                    given.setdefault(key, value)
            names = {name}
            if name == "plugin_io":
                names.add(IO_NAMES.get(arguments[0].func))
            if name == "handle_plugin_event":
                names.add(f"{name}({arguments[0]})")
            if every or given.get("where", given.get("callback")) in names:
                answer = action(name, given)
                if answer is not None:
                    return answer[0]
            return ordinary(*arguments)

        return callback

    for name in CALLBACKS:
        namespace[name] = wrap(name)
