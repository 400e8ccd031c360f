# SPDX-License-Identifier: MIT OR Apache-2.0
"""Announces one object of each kind; no file on disk is needed. Contents come by plugin I/O.

Files (also empty, also one with data although its stat says size 0), folders, symlinks, a FIFO without reading, a hard
link (FT_LNKSAVED), virtual names (@, colons, blanks, quotes, newlines, non-ASCII, a name that is another one's folder, the
same name twice), 64-bit inode, size and times, ACL, extended attributes. Options: devices=yes adds a character device,
surrogates=yes a name that is not UTF-8, notsaved=yes the types that the core refuses with a message (FT_NOACCESS ...).
"""

import bareosfd
from bareosfd import *
from BareosFdWrapper import *
from probe_base import OneFile

WHEN = 1_100_000_000


def stat(mode, **fields):
    fields = {"uid": 0, "gid": 0, "nlink": 1, "atime": WHEN, "mtime": WHEN, "ctime": WHEN, **fields}
    return StatPacket(mode=mode, **fields)


def objects(options):
    """(name, type, link, stat, data or None for no_read, attributes)"""
    regular = stat(0o100644)
    attributes = [(b"user.text", b"value"), (b"user.binary", bytes(range(256))), (b"user.empty", b"")]
    yield "/kinds/file", FT_REG, "", stat(0o100640, uid=1, gid=2, nlink=2), b"text\n", attributes
    yield "/kinds/setuid", FT_REG, "", stat(0o104755), b"#!/bin/sh\n", []
    yield "/kinds/empty", FT_REGE, "", stat(0o100600, size=0), b"", []
    yield "/kinds/size says 0", FT_REG, "", stat(0o100600, size=0), b"but here is data", []
    yield "/kinds/second name", FT_LNKSAVED, "/kinds/file", stat(0o100640, uid=1, gid=2, nlink=2), None, []
    # Its first name says nothing of a second one.
    yield "/kinds/third name", FT_LNKSAVED, "/kinds/setuid", stat(0o104755), None, []
    yield "/kinds/link", FT_LNK, "file", stat(0o120777), None, []
    yield "/kinds/dangling", FT_LNK, "/nowhere/\u00e4", stat(0o120777), None, []
    yield "/kinds/fifo", FT_FIFO, "", stat(0o010600), None, []
    yield "/kinds/folder", FT_DIREND, "/kinds/folder/", stat(0o040750), None, attributes
    yield "/kinds/folder with data", FT_DIREND, "/kinds/folder with data/", stat(0o040755), b"ignored", []
    yield "@KINDS/virtual", FT_REG, "", regular, b"virtual\n", []
    yield "@KINDS:/bucket/a:b", FT_REG, "", regular, b"colon\n", []
    yield "@KINDS/blank and 'quote' \"s\"", FT_REG, "", regular, b"blank\n", []
    yield "@KINDS/\u00e4\u00f6\u00fc \u2603 \U0001f600", FT_REG, "", regular, b"non-ASCII\n", []
    yield "@KINDS/new\nline\\backslash", FT_REG, "", regular, b"newline\n", []
    yield "@KINDS/virtual/child", FT_REG, "", regular, b"child of a file\n", []
    yield "@KINDS/twice", FT_REG, "", regular, b"first\n", []
    yield "@KINDS/twice", FT_REG, "", regular, b"second\n", []
    yield "relative", FT_REG, "", regular, b"relative\n", []
    yield "/kinds/../kinds/dots/./file", FT_REG, "", regular, b"dots\n", []
    big = stat(0o100600, ino=2**64 - 1, size=2**63 + 5, mtime=WHEN * 10**9 + 123456789, ctime=-1, dev=2**32 - 1)
    yield "/kinds/wide integers", FT_REG, "", big, b"wide\n", []
    yield "/kinds/long " + "n" * 240, FT_REG, "", regular, b"long name\n", []
    if options.get("devices") == "yes":
        yield "/kinds/null", FT_SPEC, "", stat(0o020666, rdev=0x103), None, []
    if options.get("surrogates") == "yes":
        yield "/kinds/latin1 \udce4", FT_REG, "", regular, b"not UTF-8\n", []
    if options.get("notsaved") == "yes":
        for kind in (FT_NOACCESS, FT_NOFOLLOW, FT_NOSTAT, FT_NOOPEN, FT_NOCHG, FT_ISARCH, FT_DIRBEGIN, FT_PLUGIN, 77):
            yield f"/kinds/type {kind}", kind, "", regular, b"never read", []
    yield "/kinds", FT_DIREND, "/kinds/", stat(0o040755), None, []


@BareosPlugin
class Kinds(OneFile):
    announced = None

    def start_backup_file(self, savepkt):
        if self.announced is None:
            self.announced = objects(self.options)
        found = next(self.announced, None)
        if found is None:
            return bRC_Stop
        savepkt.fname, savepkt.type, savepkt.link, savepkt.statp, data, attributes = found
        savepkt.no_read = data is None
        self.data = data or b""
        self.sent = 0
        self.attributes = list(attributes)
        return bRC_OK

    def end_backup_file(self):
        return bRC_More

    def get_acl(self, acl):
        if self.attributes:
            acl.content = bytearray(b"acl\0x")
        return bRC_OK

    def get_xattr(self, xattr):
        return super().get_xattr(xattr) if self.attributes else bRC_OK
