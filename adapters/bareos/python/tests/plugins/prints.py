# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes to standard output and error in every callback, in every way; the saved file must come out whole all the same.

Python's print, os.write(1) and (2), C's puts, a child process, bytes that are no UTF-8, and what looks like a frame
(length and bytes) of some protocol. With long=yes also a megabyte without an end of line.
"""

import ctypes
import os
import subprocess
import sys

from probe_base import misbehave_in

libc = ctypes.CDLL(None)
seen = set()


def talk(callback, given):
    print(f"printed in {callback}")
    print(f"complained in {callback}", file=sys.stderr)
    sys.stdout.flush()
    os.write(1, f"written in {callback}\n".encode())
    os.write(2, f"written to 2 in {callback}\n".encode())
    if callback in seen:
        return
    seen.add(callback)
    os.write(1, b"\xff\xfe\0garbage\x1b[31m\r\n")
    os.write(1, b"\x10\0\0\0" + bytes(16) + b"\n")
    libc.puts(f"put in {callback}".encode())
    libc.fflush(None)
    subprocess.run(["sh", "-c", f"echo child in {callback}; echo child complains in {callback} >&2"], check=True)
    if given.get("long") == "yes":
        os.write(1, b"x" * 1_000_000)


misbehave_in(globals(), talk, every=True)
