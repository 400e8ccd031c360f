# SPDX-License-Identifier: MIT OR Apache-2.0
"""Ends its process in the callback named by where=.

how=  exit3 (default): os._exit(3); exit0: os._exit(0); segv, kill, abort: that signal to itself;
      sysexit: raises SystemExit(3); null: reads address 0 in C
"""

import ctypes
import os
import signal
import sys

from probe_base import misbehave_in


def leave(callback, given):
    how = given.get("how", "exit3")
    if how == "sysexit":
        sys.exit(3)
    if how == "null":
        ctypes.string_at(0)
    if how.startswith("exit"):
        os._exit(int(how[4:]))
    number = {"segv": signal.SIGSEGV, "kill": signal.SIGKILL, "abort": signal.SIGABRT}[how]
    if number != signal.SIGKILL:
        # A host may have a handler for real faults (Rust has, for stack overflows), which lets the first kill pass.
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


misbehave_in(globals(), leave)
