# SPDX-License-Identifier: MIT OR Apache-2.0
"""Fills start_backup_file's packet wrongly, or answers a wrong type; the option case= says how.

fname_bytes fname_none fname_deleted fname_surrogate fname_nul link_none link_int statp_missing statp_deleted
statp_stat_result flags_none flags_bytes flags_short type_missing type_unknown stat_float (all: SavePacket)
buf_str buf_none buf_memoryview buf_list status_none status_float count_less (plugin_io READ)
open_status_only (direct I/O without a descriptor) open_bad_descriptor
acl_str xattr_name_str xattr_value_str
create_status_none create_status_forgotten (restore)
"""

import os

import bareosfd
from bareosfd import bRC_OK
from BareosFdWrapper import *
from probe_base import DATA, OneFile

PACKET_CASES = {
    "fname_bytes": lambda packet: setattr(packet, "fname", b"/probe/file"),
    "fname_none": lambda packet: setattr(packet, "fname", None),
    "fname_deleted": lambda packet: delattr(packet, "fname"),
    "fname_surrogate": lambda packet: setattr(packet, "fname", "/probe/\udcff"),
    "fname_nul": lambda packet: setattr(packet, "fname", "/probe/a\0b"),
    "link_none": lambda packet: setattr(packet, "link", None),
    "link_int": lambda packet: setattr(packet, "link", 5),
    "statp_missing": lambda packet: setattr(packet, "statp", None),
    "statp_deleted": lambda packet: delattr(packet, "statp"),
    "statp_stat_result": lambda packet: setattr(packet, "statp", os.stat("/")),
    "flags_none": lambda packet: setattr(packet, "flags", None),
    "flags_bytes": lambda packet: setattr(packet, "flags", bytes(5)),
    "flags_short": lambda packet: setattr(packet, "flags", bytearray(3)),
    "type_missing": lambda packet: setattr(packet, "type", 0),
    "type_unknown": lambda packet: setattr(packet, "type", 99),
    "stat_float": lambda packet: setattr(packet.statp, "st_mtime", 1.5),
}


@BareosPlugin
class WrongTypes(OneFile):
    name = "/probe/wrong_types"

    def case(self):
        return self.options.get("case", "")

    def start_backup_file(self, savepkt):
        rc = super().start_backup_file(savepkt)
        if rc == bRC_OK and self.case() in PACKET_CASES:
            PACKET_CASES[self.case()](savepkt)
        return rc

    def plugin_io_open(self, IOP):
        rc = super().plugin_io_open(IOP)
        if self.case() == "open_status_only":
            IOP.status = bareosfd.iostat_do_in_core
        if self.case() == "open_bad_descriptor":
            IOP.status = bareosfd.iostat_do_in_core
            IOP.filedes = 999
        return rc

    def plugin_io_read(self, IOP):
        rc = super().plugin_io_read(IOP)
        buf, case = IOP.buf, self.case()
        if not IOP.status:
            return rc
        if case == "buf_str":
            IOP.buf = DATA.decode()
        elif case == "buf_none":
            IOP.buf = None
        elif case == "buf_memoryview":
            IOP.buf = memoryview(buf)
        elif case == "buf_list":
            IOP.buf = list(buf)
        elif case == "status_none":
            IOP.status = None
        elif case == "status_float":
            IOP.status = float(len(buf))
        elif case == "count_less":
            IOP.status = len(buf) + 1
        return rc

    def get_acl(self, acl):
        rc = super().get_acl(acl)
        if self.case() == "acl_str":
            acl.content = "user::rw-"
        return rc

    def get_xattr(self, xattr):
        rc = super().get_xattr(xattr)
        if self.case() == "xattr_name_str":
            xattr.name = "user.first"
        if self.case() == "xattr_value_str":
            xattr.value = "value"
        return rc

    def create_file(self, restorepkt):
        if self.case() == "create_status_none":
            restorepkt.create_status = None
        if self.case() == "create_status_forgotten":
            return bRC_OK
        return super().create_file(restorepkt)
