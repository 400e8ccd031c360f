# SPDX-License-Identifier: MIT OR Apache-2.0
"""Plugin reads of every size and kind. The data are size= bytes (default 1000000): byte number i is i modulo 251.

case=  full (default): blocks of count bytes
       one_byte, short: 1 byte a read; 1, 2, 3 ... bytes a read
       bytes, bytearray, reused: the kind of buffer; reused is one bytearray for all reads
       longer_buf: the buffer is longer than status, but not than count
       eintr: two reads fail with EINTR, the third gives data, and so on; eintr_forever: all do
       error: EIO after half of the data; raise: an exception there
       over_count: more than count bytes; no_data: end of file at once
"""

import errno

import bareosfd
from bareosfd import bRC_Error, bRC_OK
from BareosFdWrapper import *
from probe_base import OneFile


def data(start, length):
    """The bytes from start on; the same formula serves a test that compares."""
    first = start % 251
    pattern = bytes(range(251))
    return (pattern * (length // 251 + 2))[first : first + length]


@BareosPlugin
class Reads(OneFile):
    name = "/probe/reads"
    calls = 0
    buffer = None

    def start_backup_file(self, savepkt):
        rc = super().start_backup_file(savepkt)
        if rc == bRC_OK:
            savepkt.statp.st_size = int(self.options.get("size", 1_000_000))
        return rc

    def plugin_io_read(self, IOP):
        case = self.options.get("case", "full")
        size = int(self.options.get("size", 1_000_000))
        left = 0 if case == "no_data" else size - self.sent
        self.calls += 1

        if case == "eintr_forever" or (case == "eintr" and self.calls % 3):
            return self.fail(IOP, errno.EINTR)
        if case in ("error", "raise") and self.sent >= size // 2:
            if case == "raise":
                raise RuntimeError("raised in the middle of a file")
            return self.fail(IOP, errno.EIO)

        length = min(left, IOP.count)
        if case == "one_byte":
            length = min(left, 1)
        elif case == "short":
            length = min(left, self.calls, IOP.count)
        elif case == "over_count":
            length = IOP.count + 1
        block = data(self.sent, length)
        if case == "reused":
            self.buffer = self.buffer or bytearray(IOP.count)
            self.buffer[:length] = block
            IOP.buf = self.buffer
        elif case == "longer_buf":
            IOP.buf = bytearray(block) + bytes(IOP.count - length)
        elif case == "bytes":
            IOP.buf = block
        else:
            IOP.buf = bytearray(block)
        IOP.status = length
        self.sent += length
        return bRC_OK

    def fail(self, IOP, number):
        IOP.status = -1
        IOP.io_errno = number
        return bRC_Error
