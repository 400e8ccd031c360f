# SPDX-License-Identifier: MIT OR Apache-2.0
"""Saves the paths listed in a text file through BareosFdPluginLocalFilesBaseclass. Option: filename=LIST."""

from BareosFdPluginLocalFilesBaseclass import *
from BareosFdWrapper import *


@BareosPlugin
class LocalList(BareosFdPluginLocalFilesBaseclass):
    def start_backup_job(self):
        with open(self.options["filename"], errors="surrogateescape") as listing:
            for line in listing:
                self.append_file_to_backup(line.rstrip("\n"))
        return bareosfd.bRC_OK
