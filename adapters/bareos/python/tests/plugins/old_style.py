# SPDX-License-Identifier: MIT OR Apache-2.0
"""Old-style plugin: no decorator, its own load_bareos_plugin that stores the object in the wrapper.

Saves one virtual file, /old_style, with the text "old style\\n".
"""

import BareosFdWrapper
from BareosFdWrapper import *
from BareosFdPluginBaseclass import *


class OldStyle(BareosFdPluginBaseclass):
    sent = False

    def start_backup_file(self, savepkt):
        savepkt.fname = "/old_style"
        savepkt.type = FT_REG
        savepkt.statp = StatPacket()
        return bRC_OK

    def plugin_io_open(self, IOP):
        if IOP.flags & (os.O_CREAT | os.O_WRONLY):
            return super().plugin_io_open(IOP)
        self.fileType = "virtual"
        return bRC_OK

    def plugin_io_read(self, IOP):
        IOP.buf = bytearray() if self.sent else bytearray(b"old style\n")
        IOP.status = len(IOP.buf)
        self.sent = True
        return bRC_OK


def load_bareos_plugin(plugindef):
    BareosFdWrapper.bareos_fd_plugin_object = OldStyle(plugindef)
    return bRC_OK
