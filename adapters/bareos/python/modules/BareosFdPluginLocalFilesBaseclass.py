# SPDX-License-Identifier: MIT OR Apache-2.0
"""Base class of plugins that save a list of local files, folders, symlinks and FIFOs.

A subclass fills ``self.files_to_backup`` (usually in ``start_backup_job``); names are taken from the end of the list.
A restore recreates each object, its owner, mode and times.

``os``, ``re``, ``stat`` and ``sys`` are part of what ``from BareosFdPluginLocalFilesBaseclass import *`` gives.
"""

import os
import re  # noqa: F401 (re-exported)
import stat
import sys  # noqa: F401 (re-exported)

import bareosfd
from BareosFdPluginBaseclass import BareosFdPluginBaseclass


class BareosFdPluginLocalFilesBaseclass(BareosFdPluginBaseclass):
    """Saves and restores the local files named in ``self.files_to_backup``."""

    def __init__(self, plugindef, mandatory_options=None):
        if mandatory_options is None:
            mandatory_options = ["filename"]
        super().__init__(plugindef, mandatory_options)
        self.files_to_backup = []
        self.file_to_backup = ""
        # Output name to StatPacket, for the second round in end_restore_file.
        self.statp = {}
        self.allow = None
        self.deny = None
        self._warned_about = None

    def append_file_to_backup(self, filename):
        self.files_to_backup.append(filename)

    def start_backup_file(self, savepkt):
        if not self.files_to_backup:
            return bareosfd.bRC_Stop
        self.file_to_backup = self.files_to_backup.pop()
        try:
            self.file_to_backup.encode("utf-8")
        except UnicodeEncodeError:
            readable = self.file_to_backup.encode("utf-8", "backslashreplace").decode("utf-8")
            bareosfd.JobMessage(bareosfd.M_ERROR, f"Skipping {readable}: its name is not valid UTF-8\n")
            return bareosfd.bRC_Skip

        try:
            without_slash = self.file_to_backup.rstrip("/") or "/"
            if os.path.islink(without_slash):
                self.file_to_backup = without_slash
                found = os.lstat(without_slash)
                savepkt.link = os.readlink(without_slash)
            else:
                found = os.stat(self.file_to_backup)
        except OSError as error:
            # Announced all the same, so that the core counts one failed object: a message alone would not.
            bareosfd.JobMessage(bareosfd.M_WARNING, f"Could not examine {self.file_to_backup}: {error}\n")
            savepkt.type = bareosfd.FT_NOSTAT
            savepkt.fname = self.file_to_backup
            savepkt.statp = bareosfd.StatPacket()
            savepkt.no_read = True
            return bareosfd.bRC_OK

        if stat.S_ISLNK(found.st_mode):
            savepkt.type = bareosfd.FT_LNK
        elif stat.S_ISREG(found.st_mode):
            savepkt.type = bareosfd.FT_REG
        elif stat.S_ISDIR(found.st_mode):
            savepkt.type = bareosfd.FT_DIREND
            savepkt.link = self.file_to_backup
        elif stat.S_ISFIFO(found.st_mode):
            savepkt.type = bareosfd.FT_FIFO
        else:
            bareosfd.JobMessage(
                bareosfd.M_WARNING, f"Skipping {self.file_to_backup}: neither file, folder, symlink nor FIFO\n"
            )
            return bareosfd.bRC_Skip

        statp = bareosfd.StatPacket()
        statp.st_mode = found.st_mode
        statp.st_ino = found.st_ino
        statp.st_dev = found.st_dev & 0xFFFFFFFF
        statp.st_nlink = found.st_nlink & 0xFFFF
        statp.st_uid = found.st_uid
        statp.st_gid = found.st_gid
        statp.st_size = found.st_size
        statp.st_atime = int(found.st_atime)
        statp.st_mtime = int(found.st_mtime)
        statp.st_ctime = int(found.st_ctime)
        savepkt.statp = statp
        savepkt.fname = self.file_to_backup
        return bareosfd.bRC_OK

    def end_backup_file(self):
        return bareosfd.bRC_More if self.files_to_backup else bareosfd.bRC_OK

    def create_file(self, restorepkt):
        """Creates the object at ``ofname`` with its missing parents; data of regular files follows by IO_WRITE."""
        name = restorepkt.ofname
        if not name:
            return bareosfd.bRC_Error
        try:
            self._create(restorepkt, name)
        except OSError as error:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"Could not create {name}: {error}\n")
            restorepkt.create_status = bareosfd.CF_ERROR
        return bareosfd.bRC_OK

    def _create(self, restorepkt, name):
        parent = os.path.dirname(name.rstrip("/"))
        if parent:
            os.makedirs(parent, exist_ok=True)
        kind = restorepkt.type
        if kind in (bareosfd.FT_REG, bareosfd.FT_REGE):
            if os.path.islink(name):
                # Else the data would go to wherever the old link points.
                os.unlink(name)
            open(name, "wb").close()
            restorepkt.create_status = bareosfd.CF_EXTRACT
        elif kind == bareosfd.FT_LNK:
            if not os.path.islink(name.rstrip("/")):
                os.symlink(restorepkt.olname, name.rstrip("/"))
            restorepkt.create_status = bareosfd.CF_CREATED
        elif kind == bareosfd.FT_LNKSAVED:
            if not (os.path.lexists(name) and os.path.samefile(restorepkt.olname, name)):
                if os.path.lexists(name):
                    os.unlink(name)
                os.link(restorepkt.olname, name)
            restorepkt.create_status = bareosfd.CF_CREATED
        elif kind == bareosfd.FT_DIREND:
            os.makedirs(name, exist_ok=True)
            restorepkt.create_status = bareosfd.CF_CREATED
        elif kind == bareosfd.FT_FIFO:
            if not (os.path.lexists(name) and stat.S_ISFIFO(os.lstat(name).st_mode)):
                os.mkfifo(name, 0o600)
            restorepkt.create_status = bareosfd.CF_CREATED
        else:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"Could not create {name}: unknown file type {kind}\n")

    def set_file_attributes(self, restorepkt):
        # The core calls this before it closes the file, so end_restore_file does it once more.
        self.statp[restorepkt.ofname] = restorepkt.statp
        self._apply_attributes(restorepkt.ofname, restorepkt.statp)
        return bareosfd.bRC_OK

    def end_restore_file(self):
        statp = self.statp.get(self.FNAME)
        if statp is not None:
            self._apply_attributes(self.FNAME, statp)
        return bareosfd.bRC_OK

    def _apply_attributes(self, name, statp):
        # Through a restored symlink the calls below would change some other file, perhaps outside the target.
        follow = not os.path.islink(name.rstrip("/"))
        path = name if follow else name.rstrip("/")
        steps = [lambda: os.chown(path, statp.st_uid, statp.st_gid, follow_symlinks=follow)]
        if follow:
            steps.append(lambda: os.chmod(path, stat.S_IMODE(statp.st_mode)))
        steps.append(lambda: os.utime(path, (statp.st_atime, statp.st_mtime), follow_symlinks=follow))
        failures = []
        for step in steps:
            try:
                step()
            except OSError as error:
                failures.append(str(error))
        if failures and name != self._warned_about:
            # Both rounds fail alike: one warning is enough.
            self._warned_about = name
            bareosfd.JobMessage(
                bareosfd.M_WARNING, f"Could not set owner, mode or times of {name}: {'; '.join(failures)}\n"
            )
