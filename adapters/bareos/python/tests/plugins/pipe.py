# SPDX-License-Identifier: MIT OR Apache-2.0
"""Direct I/O from and to a child process's pipe.

Backup: ``head -c SIZE SOURCE``; size= (default 10737418240: 10 GiB), source= (default /dev/zero).
Restore: ``cat > NAME``; the child is waited for in IO_CLOSE, which hangs if the host still holds the pipe.
A read or write call is an error: the host has the descriptor. how=socket uses a socket pair in place of a pipe.
"""

import os
import socket
import subprocess

import bareosfd
from bareosfd import bRC_OK
from BareosFdWrapper import *
from probe_base import OneFile


@BareosPlugin
class Pipe(OneFile):
    name = "/probe/pipe"

    def start_backup_file(self, savepkt):
        rc = super().start_backup_file(savepkt)
        if rc == bRC_OK:
            savepkt.statp = bareosfd.StatPacket()  # size unknown
        return rc

    def plugin_io_open(self, IOP):
        self.FNAME = IOP.fname
        reading, writing = self.make_pair()
        if IOP.flags & (os.O_WRONLY | os.O_CREAT):
            os.makedirs(os.path.dirname(IOP.fname), exist_ok=True)
            with open(IOP.fname, "wb") as target:
                self.child = subprocess.Popen(["cat"], stdin=reading, stdout=target)
            os.close(reading)
            self.ours = writing
        else:
            command = ["head", "-c", self.options.get("size", "10737418240"), self.options.get("source", "/dev/zero")]
            self.child = subprocess.Popen(command, stdout=writing)
            os.close(writing)
            self.ours = reading
        IOP.filedes = self.ours
        IOP.status = bareosfd.iostat_do_in_core
        return bRC_OK

    def make_pair(self):
        if self.options.get("how") != "socket":
            return os.pipe()
        left, right = socket.socketpair()
        return left.detach(), right.detach()

    def plugin_io_read(self, IOP):
        raise RuntimeError("IO_READ although the host has the descriptor")

    def plugin_io_write(self, IOP):
        raise RuntimeError("IO_WRITE although the host has the descriptor")

    def plugin_io_close(self, IOP):
        if IOP.filedes != self.ours:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"IO_CLOSE came with {IOP.filedes} in place of {self.ours}\n")
        os.close(self.ours)
        status = self.child.wait()
        if status:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"the child ended with status {status}\n")
        return bRC_OK
