# SPDX-License-Identifier: MIT OR Apache-2.0
"""Leaves things behind at the end of its job: child processes, threads, open pipes.

A child that holds standard output and error, one in a session of its own, a grandchild without parent, one that ignores
SIGTERM, a thread that never ends (not a daemon thread), and a pipe full of data. pids= names a file for their process ids.
"""

import os
import subprocess
import threading
import time

import bareosfd
from BareosFdWrapper import *
from probe_base import OneFile

kept = []


@BareosPlugin
class Children(OneFile):
    name = "/probe/children"

    def start_backup_job(self):
        pids = [
            subprocess.Popen(["sleep", "86400"]),
            subprocess.Popen(["sleep", "86401"], start_new_session=True),
            subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 86402; done"]),
        ]
        kept.extend(pids)
        pids = [child.pid for child in pids]
        orphan = subprocess.run(
            ["sh", "-c", "setsid sleep 86403 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, check=True
        )
        pids.append(int(orphan.stdout))
        if "pids" in self.options:
            with open(self.options["pids"], "w") as file:
                file.writelines(f"{pid}\n" for pid in pids)
        threading.Thread(target=time.sleep, args=(86400,)).start()
        reading, writing = os.pipe()
        os.write(writing, b"unread")
        kept.append((reading, writing))
        return bareosfd.bRC_OK
