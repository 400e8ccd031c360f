# SPDX-License-Identifier: MIT OR Apache-2.0
"""Never comes back from the callback named by where=.

how=  sleep (default); busy: computes; pipe: blocks in read(2); deaf: sleeps and ignores SIGTERM and SIGINT;
      gil: blocks in C without releasing the interpreter's lock
pid=  a file that gets the process id just before
"""

import ctypes
import os
import signal
import time

from probe_base import misbehave_in


def hang(callback, given):
    if "pid" in given:
        with open(given["pid"], "w") as file:
            file.write(f"{os.getpid()}\n")
    how = given.get("how", "sleep")
    if how == "pipe":
        reading, writing = os.pipe()
        os.read(reading, 1)
    if how == "gil":
        ctypes.PyDLL(None).sleep(86400)
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        if how != "busy":
            time.sleep(3600)


misbehave_in(globals(), hang)
