# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reaches for things that a sandbox may keep from it, and says in a job message what came of each.

do=  what to do, several with ";" between them, an argument behind "=": read=PATH, write=PATH, append=PATH, truncate=PATH,
     remove=PATH, rename=FROM>TO, chmod=PATH, touch=PATH, child_write=PATH, list=PATH, tcp, child_tcp, unix, signal_host,
     trace_host, host_environment, mount, namespace, device=PATH, temporary, working, memory_of_host, thread=PATH, limits_of_host,
     switch_user, who
in=  the callback: start_backup_job (default), create_file
Each result is one message, ``reach <what>: <OK, a name of errno, or a text>``.
"""

import ctypes
import errno
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading

import bareosfd
from BareosFdWrapper import *
from probe_base import OneFile

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if function(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(path, mode="w"):
    with open(path, mode) as file:
        file.write("reached\n")


def child(code):
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    return "OK" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def in_thread(path):
    found = []

    def work():
        try:
            write(path)
            found.append("OK")
        except OSError as error:
            found.append(errno.errorcode[error.errno])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def host_environment():
    """Opening it may succeed where reading it does not: what counts is what comes out."""
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        if not file.read():
            raise OSError(errno.EACCES, "it is empty")


def own_working_file():
    path = os.path.join(bareosfd.GetValue(bareosfd.bVarWorkingDir), "reached")
    write(path)
    os.rename(path, path + " twice")
    os.remove(path + " twice")


def own_temporary_file():
    with tempfile.TemporaryDirectory() as folder:
        write(os.path.join(folder, "reached"))
    return "OK in " + os.path.dirname(folder)


def who():
    done = subprocess.run(["id"], stdout=subprocess.PIPE, text=True)
    return f"{os.getresuid()} {os.getresgid()} {sorted(os.getgroups())} {os.environ.get('HOME')} child {done.stdout.strip()}"


ACTS = {
    "read": lambda path: open(path, "rb").close(),
    "list": lambda path: os.listdir(path) and None,
    "write": write,
    "append": lambda path: write(path, "a"),
    "truncate": lambda path: os.truncate(path, 0),
    "truncate_open": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "remove": os.remove,
    "rename": lambda pair: os.rename(*pair.split(">")),
    "chmod": lambda path: os.chmod(path, 0o777),
    "touch": lambda path: os.utime(path, (1, 1)),
    "child_write": lambda path: child(f"open({path!r}, 'w').write('reached')"),
    "thread": in_thread,
    "tcp": lambda _: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "child_tcp": lambda _: child("import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"),
    "unix": lambda _: [end.close() for end in socket.socketpair()] and None,
    "signal_host": lambda _: os.kill(os.getppid(), 0),
    "trace_host": lambda _: call(libc.ptrace, 16, os.getppid(), 0, 0),
    "host_environment": lambda _: host_environment(),
    "memory_of_host": lambda _: open(f"/proc/{os.getppid()}/mem", "rb").close(),
    "limits_of_host": lambda _: resource.prlimit(os.getppid(), resource.RLIMIT_CORE) and None,
    "mount": lambda _: call(libc.mount, b"none", b"/mnt", b"tmpfs", 0, None),
    "namespace": lambda _: call(libc.unshare, 0x20000),
    "device": lambda path: os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 0)),
    "working": lambda _: own_working_file(),
    "temporary": lambda _: own_temporary_file(),
    "switch_user": lambda _: subprocess.run(["su", "nobody", "-s", "/bin/sh", "-c", "true"], check=True) and None,
    "who": lambda _: who(),
}


@BareosPlugin
class Reaches(OneFile):
    name = "/probe/reaches"

    def start_backup_job(self):
        if self.options.get("in", "start_backup_job") == "start_backup_job":
            self.reach()
        return bareosfd.bRC_OK

    def create_file(self, restorepkt):
        if self.options.get("in") == "create_file":
            self.reach()
        return super().create_file(restorepkt)

    def reach(self):
        for what in self.options["do"].split(";"):
            name, _, argument = what.partition("=")
            try:
                result = ACTS[name](argument) or "OK"
            except OSError as error:
                result = errno.errorcode[error.errno]
            bareosfd.JobMessage(bareosfd.M_INFO, f"reach {what}: {result}\n")
