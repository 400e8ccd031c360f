"""Announces many small files, with as little Python for each as the contract allows: what a job of it costs is what the host costs.

    python3:module_path=<this folder>:module_name=many_entries:count=100000
    python3:module_path=<this folder>:module_name=many_entries:folder=/srv/many

Options
    count   so many files of a few bytes, which come from this module (I/O in Python)
    folder  the files in the folders in this one, by descriptor (direct I/O)
"""

import os

from bareosfd import FT_REG, IO_CLOSE, IO_OPEN, IO_READ, StatPacket, bRC_More, bRC_OK, bRC_Stop, iostat_do_in_core

CONTENTS = bytearray(b"a few bytes\n")
stat = StatPacket(mode=0o100644, nlink=1, size=len(CONTENTS))
names = iter(())
direct = False
left = 0
descriptor = -1


def load_bareos_plugin(options):
    return bRC_OK


def files_in(folder):
    for inner in os.scandir(folder):
        for name in os.listdir(inner.path):
            yield f"{inner.path}/{name}"


def parse_plugin_definition(options):
    global names, direct
    key, _, value = options.rstrip(":").partition("=")
    direct = key == "folder"
    names = files_in(value) if direct else (f"@MANY/{number // 1000}/{number}" for number in range(int(value)))
    return bRC_OK


def handle_plugin_event(event):
    return bRC_OK


def start_backup_file(packet):
    global left
    name = next(names, None)
    if name is None:
        return bRC_Stop
    packet.fname = name
    packet.type = FT_REG
    packet.statp = stat
    left = 1
    return bRC_OK


def end_backup_file():
    return bRC_More


def plugin_io(packet):
    global left, descriptor
    func = packet.func
    if func == IO_READ:
        packet.buf = CONTENTS if left else None
        packet.status = len(CONTENTS) if left else 0
        left = 0
    elif direct and func == IO_OPEN:
        descriptor = packet.filedes = os.open(packet.fname, os.O_RDONLY)
        packet.status = iostat_do_in_core
    elif direct and func == IO_CLOSE:
        os.close(descriptor)
    return bRC_OK


def get_acl(packet):
    return bRC_OK


def get_xattr(packet):
    return bRC_OK
