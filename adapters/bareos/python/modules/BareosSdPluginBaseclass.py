# SPDX-License-Identifier: MIT OR Apache-2.0
"""The class most storage-daemon plugins derive from: options, and the figures of a job when it ends.

Plugins rely on ``from BareosSdPluginBaseclass import *`` for ``bareossd`` and ``time``: that is why this module has no
``__all__``.
"""

import time

import bareossd


class BareosSdPluginBaseclass:
    """A listener that is told of the start and the end of its job."""

    def __init__(self, plugindef):
        bareossd.RegisterEvents([bareossd.bsdEventJobStart, bareossd.bsdEventJobEnd])
        self.jobName = bareossd.GetValue(bareossd.bsdVarJobName)
        self.jobLevel = chr(bareossd.GetValue(bareossd.bsdVarLevel))
        self.jobId = int(bareossd.GetValue(bareossd.bsdVarJobId))
        bareossd.DebugMessage(100, f"{type(self).__name__}: job {self.jobId} ({self.jobName})")

    def __str__(self):
        return f"<{type(self).__name__}: jobId={self.jobId} jobName={self.jobName} level={self.jobLevel}>"

    def parse_plugin_definition(self, plugindef):
        """Options text (``key=value:key=value:``) to ``self.options``, anew at each call. The last value counts."""
        self.options = {}
        for part in plugindef.split(":"):
            key, separator, value = part.partition("=")
            if separator:
                self.options[key] = value
        return bareossd.bRC_OK

    def handle_plugin_event(self, event):
        if event == bareossd.bsdEventJobStart:
            self.jobStartTime = time.time()
        elif event == bareossd.bsdEventJobEnd:
            self.jobEndTime = time.time()
            self.jobBytes = int(bareossd.GetValue(bareossd.bsdVarJobBytes))
            self.jobFiles = int(bareossd.GetValue(bareossd.bsdVarJobFiles))
            self.jobRunningTime = self.jobEndTime - getattr(self, "jobStartTime", self.jobEndTime)
            self.throughput = self.jobBytes / self.jobRunningTime if self.jobRunningTime > 0 else 0
        return bareossd.bRC_OK
