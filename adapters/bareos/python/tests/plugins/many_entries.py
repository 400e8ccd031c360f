"""Announces many small files of a few bytes each, with as little Python for each as the contract allows: what a job of it costs
is what the host costs.

    python3:module_path=<this folder>:module_name=many_entries:count=100000
"""

from bareosfd import FT_REG, IO_READ, StatPacket, bRC_More, bRC_OK, bRC_Stop

CONTENTS = bytearray(b"a few bytes\n")
stat = StatPacket(mode=0o100644, nlink=1, size=len(CONTENTS))
names = iter(())
left = 0


def load_bareos_plugin(options):
    return bRC_OK


def parse_plugin_definition(options):
    global names
    count = int(options.partition("count=")[2].partition(":")[0])
    names = (f"@MANY/{number // 1000}/{number}" for number in range(count))
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
    global left
    if packet.func == IO_READ:
        packet.buf = CONTENTS if left else None
        packet.status = len(CONTENTS) if left else 0
        left = 0
    return bRC_OK


def get_acl(packet):
    return bRC_OK


def get_xattr(packet):
    return bRC_OK
