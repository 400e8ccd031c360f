# SPDX-License-Identifier: MIT OR Apache-2.0
"""The class most director plugins derive from: options, and what there is to say about a job when it ends.

Plugins rely on ``from BareosDirPluginBaseclass import *`` for ``bareosdir`` and ``time``: that is why this module has no
``__all__``.
"""

import time

import bareosdir


class BareosDirPluginBaseclass:
    """A listener that is told of the four events of its job."""

    def __init__(self, plugindef):
        bareosdir.RegisterEvents(
            [
                bareosdir.bDirEventJobStart,
                bareosdir.bDirEventJobEnd,
                bareosdir.bDirEventJobInit,
                bareosdir.bDirEventJobRun,
            ]
        )
        self.jobName = bareosdir.GetValue(bareosdir.bDirVarJobName)
        self.jobLevel = chr(bareosdir.GetValue(bareosdir.bDirVarLevel))
        self.jobType = bareosdir.GetValue(bareosdir.bDirVarType)
        self.jobId = int(bareosdir.GetValue(bareosdir.bDirVarJobId))
        self.jobClient = bareosdir.GetValue(bareosdir.bDirVarClient)
        self.jobStatus = bareosdir.GetValue(bareosdir.bDirVarJobStatus)
        self.Priority = bareosdir.GetValue(bareosdir.bDirVarPriority)
        bareosdir.DebugMessage(100, f"{type(self).__name__}: job {self.jobId} ({self.jobName})")

    def __str__(self):
        return (
            f"<{type(self).__name__}: jobId={self.jobId} jobName={self.jobName} client={self.jobClient} "
            f"level={self.jobLevel} type={chr(self.jobType)} priority={self.Priority}>"
        )

    def parse_plugin_definition(self, plugindef):
        """Options text (``key=value:key=value:``) to ``self.options``, anew at each call. The last value counts."""
        self.options = {}
        for part in plugindef.split(":"):
            key, separator, value = part.partition("=")
            if separator:
                self.options[key] = value
        return bareosdir.bRC_OK

    def handle_plugin_event(self, event):
        now = time.time()
        if event == bareosdir.bDirEventJobStart:
            self.jobStartTime = now
            self.jobStatus = chr(bareosdir.GetValue(bareosdir.bDirVarJobStatus))
        elif event == bareosdir.bDirEventJobInit:
            self.jobInitTime = now
            self.jobStatus = chr(bareosdir.GetValue(bareosdir.bDirVarJobStatus))
        elif event == bareosdir.bDirEventJobRun:
            self.jobRunTime = now
        elif event == bareosdir.bDirEventJobEnd:
            self._end(now)
        return bareosdir.bRC_OK

    def _end(self, now):
        def number(variable):
            return int(bareosdir.GetValue(variable))

        self.jobEndTime = now
        self.jobLevel = chr(number(bareosdir.bDirVarLevel))
        self.jobStatus = chr(number(bareosdir.bDirVarJobStatus))
        self.jobErrors = number(bareosdir.bDirVarJobErrors)
        self.jobBytes = number(bareosdir.bDirVarJobBytes)
        self.jobFiles = number(bareosdir.bDirVarJobFiles)
        self.jobNumVols = number(bareosdir.bDirVarNumVols)
        self.jobPool = bareosdir.GetValue(bareosdir.bDirVarPool)
        self.jobStorage = bareosdir.GetValue(bareosdir.bDirVarStorage)
        self.jobMediaType = bareosdir.GetValue(bareosdir.bDirVarMediaType)
        # A job that another plugin ended early has no such moments.
        self.jobTotalTime = now - getattr(self, "jobInitTime", now)
        self.jobRunningTime = now - getattr(self, "jobRunTime", now)
        self.throughput = self.jobBytes / self.jobRunningTime if self.jobRunningTime > 0 else 0
