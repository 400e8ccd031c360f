# SPDX-License-Identifier: MIT OR Apache-2.0
"""Assigns a buffer of size= bytes (default 1 GiB) to iop.buf, with status= all (default: that many bytes) or count."""

import bareosfd
from BareosFdWrapper import *
from probe_base import OneFile


@BareosPlugin
class BigBuffer(OneFile):
    name = "/probe/big_buffer"

    def plugin_io_read(self, IOP):
        if self.sent:
            IOP.status = 0
            return bareosfd.bRC_OK
        self.sent = int(self.options.get("size", 1 << 30))
        IOP.buf = bytearray(self.sent)
        IOP.status = IOP.count if self.options.get("status") == "count" else min(self.sent, 2**31 - 1)
        return bareosfd.bRC_OK
