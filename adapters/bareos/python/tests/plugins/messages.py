# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sends one job message of each type given by kinds= (numbers with commas; default: all but ABORT, FATAL, ERROR,
WARNING, ERROR_TERM, ALERT and SECURITY), a type that does not exist (99), none at all, and some debug messages.

Text: ``message of type <n>: 100% %s %n`` and a newline; the second one sent for each type has non-ASCII text and no newline.
"""

import bareosfd
from BareosFdWrapper import *
from probe_base import OneFile


@BareosPlugin
class Messages(OneFile):
    name = "/probe/messages"

    def start_backup_job(self):
        kinds = self.options.get("kinds", "2,6,7,8,9,10,12,13,16,99")
        for kind in kinds.split(","):
            bareosfd.JobMessage(int(kind), f"message of type {kind}: 100% %s %n\n")
            bareosfd.JobMessage(int(kind), f"zweite Nachricht {kind}: \u00e4\u00f6\u00fc \u2603")
            bareosfd.JobMessage(int(kind))
            bareosfd.JobMessage(int(kind), None)
        for level in (0, 50, 100, 250, 1000):
            bareosfd.DebugMessage(level, f"debug message of level {level}\n")
        bareosfd.DebugMessage(100, None)
        return bareosfd.bRC_OK
