# SPDX-License-Identifier: MIT OR Apache-2.0
"""Harms its process, its host or the machine, as how= says. Without how= it is an ordinary plugin of one file.

how=  memory, shared, child_memory: takes size= bytes (default 8 GiB) of its own, of shared memory, in a child process
      threads: starts count= threads (default 1000) that stay
      daemon: starts a daemon: two forks, a session of its own, and an empty environment with bare=yes; pid= gets its number
      closes: closes every descriptor
      holds_pipe: gives a pipe by direct I/O and keeps its other end open
      kernel_log: gives by direct I/O a file that looks like an ordinary empty one and keeps its reader waiting
      chatter, prints: count= job messages (default 1000000), or printed lines
      changes: changes its buffer for ever after it was handed over
      scribbles: writes over the shared memory between it and its host
      stubborn: catches whatever is raised in it, for ever
      negative: negative sizes, statuses and times
      name: announces name_of_length= bytes, or name= as it stands, NUL for a name with a zero byte
      kills_host: sends SIGKILL to its parent
"""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import bareosfd
from bareosfd import bRC_OK
from BareosFdWrapper import *
from probe_base import OneFile

kept = []


def take(size):
    """Memory that is really used."""
    block = bytearray(size)
    block[::4096] = b"\1" * len(block[::4096])
    return block


@BareosPlugin
class Harmful(OneFile):
    name = "/probe/harmful"

    def start_backup_file(self, savepkt):
        rc = super().start_backup_file(savepkt)
        if rc == bRC_OK:
            getattr(self, "in_start_" + self.options.get("how", ""), lambda packet: None)(savepkt)
        return rc

    def plugin_io_open(self, IOP):
        if self.options.get("how") == "holds_pipe" and not IOP.flags & (os.O_WRONLY | os.O_CREAT):
            reading, writing = os.pipe()
            os.write(writing, b"some data\n")
            kept.append(writing)
            IOP.filedes = reading
            IOP.status = bareosfd.iostat_do_in_core
            return bRC_OK
        if self.options.get("how") == "kernel_log":
            IOP.filedes = os.open("/proc/kmsg", os.O_RDONLY)
            IOP.status = bareosfd.iostat_do_in_core
            return bRC_OK
        return super().plugin_io_open(IOP)

    def plugin_io_read(self, IOP):
        action = getattr(self, "in_read_" + self.options.get("how", ""), None)
        if action:
            done = action(IOP)
            if done is not None:
                return done
        return super().plugin_io_read(IOP)

    def size(self):
        return int(self.options.get("size", 8 << 30))

    def in_read_memory(self, IOP):
        kept.append(take(self.size()))

    def in_read_shared(self, IOP):
        block = mmap.mmap(-1, self.size())
        kept.append(block)
        block[:1] = b"\1"

    def in_read_child_memory(self, IOP):
        code = f"x = bytearray({self.size()}); x[::4096] = b'1' * len(x[::4096])"
        subprocess.run([sys.executable, "-c", code], check=True)

    def in_read_threads(self, IOP):
        if not kept:
            for _ in range(int(self.options.get("count", 1000))):
                kept.append(threading.Thread(target=time.sleep, args=(86400,)))
                kept[-1].start()

    def in_read_daemon(self, IOP):
        if kept:
            return
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            with open(self.options["pid"] + ".new", "w") as file:
                file.write(f"{os.getpid()}\n")
            os.rename(self.options["pid"] + ".new", self.options["pid"])
            environment = {} if self.options.get("bare") == "yes" else os.environ
            os.execve("/bin/sleep", ["sleep", "86400"], environment)
        os.waitpid(child, 0)
        while not os.path.exists(self.options["pid"]):
            time.sleep(0.01)
        kept.append(child)

    def in_read_closes(self, IOP):
        os.closerange(0, 1 << 16)

    def in_read_chatter(self, IOP):
        if not kept:
            kept.append(True)
            for number in range(int(self.options.get("count", 1_000_000))):
                bareosfd.JobMessage(bareosfd.M_INFO, f"line {number} of very many\n")

    def in_read_prints(self, IOP):
        if not kept:
            kept.append(True)
            for number in range(int(self.options.get("count", 1_000_000))):
                print(f"line {number} of very many")

    def in_read_changes(self, IOP):
        rounds = 64
        if self.sent >= rounds:
            IOP.status = 0
            return bRC_OK
        self.sent += 1
        block = bytearray(IOP.count)

        def change():
            for value in range(10_000_000):
                block[:] = bytes([value % 256]) * len(block)

        IOP.buf = block
        IOP.status = IOP.count
        if len(kept) < 4:
            kept.append(threading.Thread(target=change, daemon=True))
            kept[-1].start()
        return bRC_OK

    def in_read_scribbles(self, IOP):
        if not kept:
            with open("/proc/self/maps") as file:
                rings = [line.split()[0] for line in file if "memfd:backstay-" in line]
            if not rings:
                raise RuntimeError("there is no shared memory")
            for ring in rings:
                start, end = (int(number, 16) for number in ring.split("-"))
                ctypes.memset(start, 0xA5, end - start)

                def scribble(start=start, end=end):
                    for value in range(10_000_000):
                        ctypes.memset(start, value % 255 + 1, end - start)

                kept.append(threading.Thread(target=scribble, daemon=True))
                kept[-1].start()

    def in_read_stubborn(self, IOP):
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                pass

    def in_read_negative(self, IOP):
        case = self.options.get("case")
        if case == "status":
            IOP.buf = bytearray(b"data")
            IOP.status = -5
            return bRC_OK
        if case == "huge_status":
            IOP.buf = bytearray(b"data")
            IOP.status = 1 << 30
            return bRC_OK
        return None

    def in_start_negative(self, savepkt):
        case = self.options.get("case")
        if case == "size":
            savepkt.statp.st_size = -1
        if case == "times":
            savepkt.statp.st_mtime = -(1 << 62)
            savepkt.statp.st_atime = -1
        if case == "mode":
            savepkt.statp.st_mode = -1
        if case == "block":
            savepkt.statp.st_blksize = -1
            savepkt.statp.st_blocks = -1

    def in_start_name(self, savepkt):
        if "name_of_length" in self.options:
            savepkt.fname = "/probe/" + "x" * (int(self.options["name_of_length"]) - 7)
        else:
            savepkt.fname = self.options["name"].replace("NUL", "\0")

    def in_read_kills_host(self, IOP):
        os.kill(os.getppid(), signal.SIGKILL)
