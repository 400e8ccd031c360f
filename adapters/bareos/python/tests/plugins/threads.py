# SPDX-License-Identifier: MIT OR Apache-2.0
"""Uses bareosfd from threads that the plugin started: eight at once, and one that goes on while files are read.

Each sends ``thread <n> of job <id>``; an exception in a thread becomes an error message of the job.
"""

import threading

import bareosfd
from BareosFdWrapper import *
from probe_base import OneFile


@BareosPlugin
class Threads(OneFile):
    name = "/probe/threads"

    def start_backup_job(self):
        self.failures = []
        several = [threading.Thread(target=self.guarded, args=(number,)) for number in range(8)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        self.finished = threading.Event()
        self.beside = threading.Thread(target=self.go_on)
        self.beside.start()
        for failure in self.failures:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"in a thread: {failure!r}\n")
        return bareosfd.bRC_OK

    def guarded(self, number):
        try:
            for _ in range(100):
                bareosfd.GetValue(bareosfd.bVarJobName)
                bareosfd.DebugMessage(200, "from a thread\n")
            packet = bareosfd.StatPacket(mode=number)
            bareosfd.JobMessage(
                bareosfd.M_INFO, f"thread {packet.st_mode} of job {bareosfd.GetValue(bareosfd.bVarJobId)}\n"
            )
        except Exception as error:
            self.failures.append(error)

    def go_on(self):
        self.guarded(8)
        while not self.finished.wait(0.001):
            bareosfd.GetValue(bareosfd.bVarJobStatus)

    def end_backup_job(self):
        self.finished.set()
        self.beside.join()
        for failure in self.failures:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"in a thread: {failure!r}\n")
        return bareosfd.bRC_OK
