# SPDX-License-Identifier: MIT OR Apache-2.0
"""A backup and a restore of one plugin line against the stand-in ``bareosfd``: the calling sequences of a job, small.

``back_up`` returns Saved records, ``restore`` hands them back below a folder. What a real host must also do (failed
jobs, hard links, change detection) is left out: this serves unit tests of plugins.
"""

import importlib
import os
import sys
from dataclasses import dataclass, field

import bareosfd as fd

BLOCK = 262144


@dataclass
class Saved:
    """One object as the plugin gave it."""

    name: str
    link: str
    type: int
    statp: object
    data: bytes = b""
    direct: bool = False
    acl: bytes = b""
    xattrs: list = field(default_factory=list)


class Failed(Exception):
    """The job ended in error; the messages are in bareosfd.messages."""


def load(module_name, options):
    """A fresh import of the plugin, loaded and parsed; returns the module."""
    for name in (module_name, "BareosFdWrapper"):
        sys.modules.pop(name, None)
    module = importlib.import_module(module_name)
    if module.load_bareos_plugin(options) != fd.bRC_OK or module.parse_plugin_definition(options) != fd.bRC_OK:
        raise Failed(fd.messages)
    return module


def back_up(module_name, options):
    module = load(module_name, options)
    module.handle_plugin_event(fd.bEventEndFileSet)
    module.handle_plugin_event(fd.bEventStartBackupJob)
    if module.parse_plugin_definition(options) != fd.bRC_OK:
        raise Failed(fd.messages)
    saved = []
    while True:
        packet = fd.SavePacket(fname="", link="", flags=bytearray(b"\0\xc0\0\x08\0"), portable=True, cmd=options)
        rc = module.start_backup_file(packet)
        if rc == fd.bRC_Skip:
            continue
        if rc != fd.bRC_OK:
            break
        if not packet.type or not isinstance(packet.statp, fd.StatPacket):
            raise Failed("incomplete packet")
        name = packet.link if packet.type == fd.FT_DIREND else packet.fname
        record = Saved(name, packet.link, packet.type, packet.statp)
        if not packet.no_read:
            record.data, record.direct = read(module, packet.fname)
        if packet.type != fd.FT_LNK:
            acl = fd.AclPacket(fname=packet.fname)
            if module.get_acl(acl) == fd.bRC_OK and acl.content:
                record.acl = bytes(acl.content)
        while True:
            xattr = fd.XattrPacket(fname=packet.fname)
            answer = module.get_xattr(xattr)
            if xattr.name:
                record.xattrs.append((bytes(xattr.name), bytes(xattr.value)))
            if answer != fd.bRC_More:
                break
        saved.append(record)
        if module.end_backup_file() != fd.bRC_More:
            rc = fd.bRC_Stop
            break
    module.handle_plugin_event(fd.bEventEndBackupJob)
    module.handle_plugin_event(fd.bEventJobEnd)
    if rc != fd.bRC_Stop or any(kind == fd.M_FATAL for kind, _ in fd.messages):
        raise Failed(fd.messages)
    return saved


def read(module, name):
    opened = fd.IoPacket(func=fd.IO_OPEN, fname=name, flags=os.O_RDONLY)
    if module.plugin_io(opened) == fd.bRC_Error or opened.status < 0:
        raise Failed(f"open of {name}: errno {opened.io_errno}")
    data = bytearray()
    direct = opened.status == fd.iostat_do_in_core
    while True:
        if direct:
            block = os.read(opened.filedes, BLOCK)
        else:
            packet = fd.IoPacket(func=fd.IO_READ, count=BLOCK, filedes=0)
            module.plugin_io(packet)
            if packet.status < 0:
                raise Failed(f"read of {name}: errno {packet.io_errno}")
            block = bytes(packet.buf[: packet.status]) if packet.status else b""
        if not block:
            break
        data += block
    module.plugin_io(fd.IoPacket(func=fd.IO_CLOSE, filedes=opened.filedes))
    return bytes(data), direct


def restore(module_name, options, saved, where):
    """Returns the names that were refused."""
    fd.variables[fd.bVarLevel] = ord(fd.L_NONE)
    fd.variables[fd.bVarWhere] = where
    module = load(module_name, options)
    refused = []
    for index, record in enumerate(saved, 1):
        module.parse_plugin_definition(options)
        if module.start_restore_file(options) != fd.bRC_OK:
            raise Failed(record.name)
        between = "/" if where and not where.endswith("/") and not record.name.startswith("/") else ""
        packet = fd.RestorePacket(
            type=record.type,
            file_index=index,
            statp=record.statp,
            ofname=where + between + record.name,
            olname=where + record.link if record.type == fd.FT_LNKSAVED else record.link,
            where=where,
            original_file_name=record.name,
            original_link_name=record.link,
        )
        rc = module.create_file(packet)
        status = packet.create_status
        if rc != fd.bRC_OK or status == fd.CF_ERROR:
            refused.append(record.name)
        elif status == fd.CF_CREATED:
            module.set_file_attributes(packet)
            if record.type == fd.FT_DIREND:
                replay_attributes(module, packet, record)
        elif status != fd.CF_SKIP:
            if status == fd.CF_CORE and record.type not in (fd.FT_REG, fd.FT_REGE):
                create_as_core(packet)
                module.set_file_attributes(packet)
                if record.type == fd.FT_DIREND:
                    replay_attributes(module, packet, record)
            else:
                if status == fd.CF_CORE:
                    os.makedirs(os.path.dirname(packet.ofname), exist_ok=True)
                write(module, packet, record.data)
                replay_attributes(module, packet, record)
        module.end_restore_file()
    module.handle_plugin_event(fd.bEventJobEnd)
    return refused


def replay_attributes(module, packet, record):
    if record.acl:
        module.set_acl(fd.AclPacket(fname=packet.ofname, content=bytearray(record.acl)))
    for name, value in record.xattrs:
        module.set_xattr(fd.XattrPacket(fname=packet.ofname, name=bytearray(name), value=bytearray(value)))


def create_as_core(packet):
    name = packet.ofname.rstrip("/")
    os.makedirs(os.path.dirname(name), exist_ok=True)
    if packet.type == fd.FT_DIREND:
        os.makedirs(name, exist_ok=True)
    elif packet.type == fd.FT_LNK:
        os.symlink(packet.olname, name)
    elif packet.type == fd.FT_LNKSAVED:
        os.link(packet.olname, name)
    elif packet.type == fd.FT_FIFO:
        os.mkfifo(name)
    else:
        raise Failed(f"type {packet.type} is not made here")


def write(module, restorepkt, data):
    opened = fd.IoPacket(
        func=fd.IO_OPEN, fname=restorepkt.ofname, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o600
    )
    if module.plugin_io(opened) == fd.bRC_Error or opened.status < 0:
        raise Failed(f"open of {restorepkt.ofname}: errno {opened.io_errno}")
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        if opened.status == fd.iostat_do_in_core:
            os.write(opened.filedes, block)
        else:
            packet = fd.IoPacket(func=fd.IO_WRITE, count=len(block), buf=bytearray(block), filedes=0)
            module.plugin_io(packet)
            if packet.status != len(block):
                raise Failed(f"write to {restorepkt.ofname}: errno {packet.io_errno}")
    module.set_file_attributes(restorepkt)
    module.plugin_io(fd.IoPacket(func=fd.IO_CLOSE, filedes=opened.filedes))
