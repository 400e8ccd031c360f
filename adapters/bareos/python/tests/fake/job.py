# SPDX-License-Identifier: MIT OR Apache-2.0
"""A backup and a restore of one plugin line against the stand-in ``bareosfd``: the calling sequences of a job, small.

``back_up`` returns Saved records, ``restore`` hands them back below a folder. An incremental or differential backup is
given the records of the job that it is based on: their restore objects reach the plugin before the job starts, what
did not change since that job began is not read, and in an accurate job the names that were not mentioned are offered to
``check_file``. A chain is restored by giving ``restore`` the records of all its jobs, oldest first: all restore
objects come before the first file. What a real host must also do (failed jobs, hard links) is left out: this serves
unit tests of plugins.
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
    object_name: str = ""
    object: bytes = b""
    object_index: int = 0
    jobid: int = 0


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


OBJECTS = (fd.FT_RESTORE_FIRST, fd.FT_PLUGIN_CONFIG)


def back_up(module_name, options, level=fd.L_FULL, based_on=(), since=0, known=None):
    """Runs a backup and returns what was saved.

    ``based_on`` are the records of the one job whose restore objects are handed over, ``since`` the second it started
    in. ``known`` are the names of all files that the chain holds so far: given, the job is accurate, and names that
    are gone come back as records of type FT_DELETED. Unchanged files come back as FT_NOCHG, without data.
    """
    fd.variables[fd.bVarLevel] = ord(level)
    fd.variables[fd.bVarSinceTime] = since
    fd.variables[fd.bVarAccurate] = int(known is not None)
    module = load(module_name, options)
    module.handle_plugin_event(fd.bEventEndFileSet)
    hand_over_objects(module, based_on)
    fd.variables[fd.bVarType] = ord("B")
    fd.variables[fd.bVarJobStatus] = ord("R")
    module.handle_plugin_event(fd.bEventStartBackupJob)
    try:
        saved = announced(module, options, incremental=level != fd.L_FULL) if not fatal() else None
        if saved is not None and known is not None:
            mentioned = {record.name for record in saved}
            for name in sorted(set(known) - mentioned):
                if module.check_file(name) != fd.bRC_Seen:
                    saved.append(Saved(name, "", fd.FT_DELETED, None))
    finally:
        fd.variables[fd.bVarJobStatus] = ord("f" if fatal() else "T")
        module.handle_plugin_event(fd.bEventEndBackupJob)
    if saved is None or fatal():
        raise Failed(fd.messages)
    module.handle_plugin_event(fd.bEventJobEnd)
    return saved


def fatal():
    return any(kind == fd.M_FATAL for kind, _ in fd.messages)


def announced(module, options, incremental):
    """The records of one plugin line, or None if the plugin did not come to its end."""
    if module.parse_plugin_definition(options) != fd.bRC_OK:
        return None
    saved = []
    while True:
        packet = fd.SavePacket(fname="", link="", flags=bytearray(b"\0\xc0\0\x08\0"), portable=True, cmd=options)
        rc = module.start_backup_file(packet)
        if fatal():
            return None
        if rc == fd.bRC_Skip:
            continue
        if rc != fd.bRC_OK:
            return saved if rc == fd.bRC_Stop else None
        if not packet.type or not isinstance(packet.statp, fd.StatPacket) or not isinstance(packet.fname, str):
            raise Failed("incomplete packet")
        name = packet.link if packet.type == fd.FT_DIREND else packet.fname
        record = Saved(name, packet.link, packet.type, packet.statp, jobid=fd.variables[fd.bVarJobId])
        if incremental and unchanged(packet):
            record.type = fd.FT_NOCHG
        elif packet.type in OBJECTS:
            take_object(packet, record)
        elif packet.type not in (fd.FT_DELETED, fd.FT_NOSTAT, fd.FT_NOOPEN, fd.FT_NOACCESS, fd.FT_NOFOLLOW):
            save(module, packet, record)
        saved.append(record)
        if module.end_backup_file() != fd.bRC_More:
            return None if fatal() else saved
        if fatal():
            return None


def unchanged(packet):
    since = packet.save_time or fd.variables[fd.bVarSinceTime]
    if not fd.variables[fd.bVarCheckChanges] or not since:
        return False
    return packet.statp.st_mtime < since and packet.statp.st_ctime < since


def take_object(packet, record):
    """What the host insists on when it reads a restore object back."""
    if packet.object_len <= 0 or not isinstance(packet.object_name, str) or not isinstance(packet.object, bytearray):
        raise Failed("incomplete restore object")
    if len(packet.object) < packet.object_len:
        raise Failed("object_len >= len(object)")
    record.name = ""
    record.object_name = packet.object_name
    record.object = bytes(packet.object[: packet.object_len])
    record.object_index = packet.object_index


def hand_over_objects(module, records):
    """All restore objects by their index, then those of type FT_PLUGIN_CONFIG. True if there was one."""
    objects = sorted(
        (record for record in records if record.type in OBJECTS), key=lambda record: (record.type, record.object_index)
    )
    for record in objects:
        module.restore_object_data(
            fd.RestoreObject(
                object_name=record.object_name,
                object=bytearray(record.object),
                object_type=record.type,
                object_len=len(record.object),
                object_full_len=len(record.object),
                object_index=record.object_index,
                jobid=record.jobid,
            )
        )
    return bool(objects)


def save(module, packet, record):
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


def restore(module_name, options, saved, where, override=""):
    """Returns the names that were refused. ``override`` are options that only the restore has: ``key=value:``."""
    fd.variables[fd.bVarLevel] = ord(fd.L_NONE)
    fd.variables[fd.bVarType] = ord("I")
    fd.variables[fd.bVarSinceTime] = 0
    fd.variables[fd.bVarAccurate] = 0
    fd.variables[fd.bVarWhere] = None
    module = load(module_name, override + options)
    objects = hand_over_objects(module, saved)
    fd.variables[fd.bVarType] = ord("R")
    fd.variables[fd.bVarJobStatus] = ord("R")
    fd.variables[fd.bVarWhere] = where
    if objects and fd.bEventStartRestoreJob in fd.registered:
        module.handle_plugin_event(fd.bEventStartRestoreJob)
    refused = []
    files = [record for record in saved if record.type not in (*OBJECTS, fd.FT_NOCHG, fd.FT_DELETED)]
    for index, record in enumerate(files, 1):
        if fatal():
            break
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
    fd.variables[fd.bVarJobStatus] = ord("f" if fatal() else "T")
    if fd.bEventEndRestoreJob in fd.registered:
        module.handle_plugin_event(fd.bEventEndRestoreJob)
    if fatal():
        raise Failed(fd.messages)
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
