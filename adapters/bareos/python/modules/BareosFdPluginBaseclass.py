# SPDX-License-Identifier: MIT OR Apache-2.0
"""The class most file-daemon plugins derive from: options, events, and plain file I/O.

A subclass overrides what it needs. Out of the box nothing is backed up, a restore lets the core create every object
(``CF_CORE``), and ``plugin_io`` reads and writes ordinary files.

Plugins rely on ``from BareosFdPluginBaseclass import *`` for ``os``, ``stat``, ``sys``, ``time``, ``b85decode`` and
all names of ``bareosfd``: that is why this module has no ``__all__`` and keeps imports that it does not use itself.
"""

import errno as _errno
import os
import stat
import sys  # noqa: F401 (re-exported)
import time
from base64 import b85decode

import bareosfd
from bareosfd import *  # noqa: F401,F403 (re-exported)

_USED_CONFIG_PATTERN = "/*/*.conf"
_OPTIONS_FILE_KEYS = ("defaults_file", "overrides_file")


def get_config_path():
    """Folder against which ``defaults_file`` and ``overrides_file`` are resolved; ``/`` when none is known."""
    used_config = bareosfd.GetValue(bareosfd.bVarUsedConfig) or ""
    if used_config.endswith(_USED_CONFIG_PATTERN):
        path = used_config[: 1 - len(_USED_CONFIG_PATTERN)]
    elif os.path.isfile(used_config):
        path = os.path.dirname(used_config)
    else:
        path = "/"
    return path if os.path.isdir(path) else "/"


def transform_value(value, transform):
    """Decodes an option value by the name that follows ``#`` in its key. ``enc`` is base 85 of UTF-8 text."""
    if transform == "enc":
        return b85decode(value).decode("utf-8")
    raise NameError(f"unknown transformation '{transform}'")


def parse_plugindef_string(plugindef, multi_value_options):
    """Options text (``key=value:key=value:``) to a dict. The first value of a key wins.

    Keys in ``multi_value_options`` collect all their values in a list. A backslash before a colon makes the colon
    part of the value.
    """
    multi_value_options = multi_value_options or ()
    options = {}
    parts = iter(plugindef.split(":"))
    for part in parts:
        key, _, value = part.partition("=")
        key = key.strip()
        value = value.strip()
        if not key:
            continue
        if not value:
            bareosfd.JobMessage(bareosfd.M_WARNING, f"ignoring option '{key}' with no value!\n")
            continue
        while value.endswith("\\"):
            following = next(parts, None)
            if following is None:
                break
            value = value[:-1] + ":" + following
        if key in multi_value_options:
            options.setdefault(key, []).append(value)
        else:
            options.setdefault(key, value)
    return options


def parse_options_file(path, multi_value_options):
    """Options file (lines ``key = value``) to a dict. The last value of a key wins; a bad line empties the result.

    Raises OSError or UnicodeDecodeError when the file can't be read.
    """
    multi_value_options = multi_value_options or ()
    options = {}
    with open(path, encoding="utf-8") as file:
        lines = iter(file.read().splitlines())
    for line in lines:
        line = line.strip()
        if not line:
            continue
        key, _, value = line.partition("=")
        key = key.strip()
        value = value.strip()
        if key.startswith(("#", ";", "[")):
            continue
        if not key or not value:
            bareosfd.JobMessage(bareosfd.M_FATAL, f"error parsing '{line}' (found no key or value)!\n")
            return {}
        while value.endswith("\\"):
            following = next(lines, None)
            if following is None:
                break
            value = value[:-1] + following.strip()
        if key in multi_value_options:
            options.setdefault(key, []).append(value)
            continue
        if key in options:
            bareosfd.JobMessage(bareosfd.M_WARNING, f"duplicate option '{key}' overriding previous value!\n")
        options[key] = value
    return options


class BareosFdPluginBaseclass:
    """Base of file-daemon plugins: see the module's text."""

    # The constructor must not touch self.options: some plugins set it, to a mapping of their own, before they call us.
    def __init__(self, plugindef, mandatory_options=None):
        bareosfd.RegisterEvents(
            [
                bareosfd.bEventJobEnd,
                bareosfd.bEventEndBackupJob,
                bareosfd.bEventEndFileSet,
                bareosfd.bEventHandleBackupFile,
                bareosfd.bEventStartBackupJob,
                bareosfd.bEventStartRestoreJob,
            ]
        )
        self.mandatory_options = mandatory_options
        self.fdname = bareosfd.GetValue(bareosfd.bVarFDName)
        self.jobId = int(bareosfd.GetValue(bareosfd.bVarJobId))
        self.client = bareosfd.GetValue(bareosfd.bVarClient)
        self.since = int(bareosfd.GetValue(bareosfd.bVarSinceTime))
        self.level = int(bareosfd.GetValue(bareosfd.bVarLevel))
        self.jobName = bareosfd.GetValue(bareosfd.bVarJobName)
        # <job>.<date>_<hour>.<minute>.<second>_<number>
        self.shortName = self.jobName.rsplit(".", 3)[0]
        self.workingdir = bareosfd.GetValue(bareosfd.bVarWorkingDir)
        self.configdir = get_config_path()
        self.startTime = int(time.time())
        self.FNAME = "undef"
        self.filetype = "undef"
        self.file = None

    def __str__(self):
        return (
            f"<{type(self).__name__}: fdname={self.fdname} jobId={self.jobId} client={self.client} since={self.since} "
            f"level={chr(self.level)} jobName={self.jobName} workingDir={self.workingdir}>"
        )

    # Options

    def parse_plugin_definition(self, plugindef, multi_value_options=None):
        """Fills ``self.options`` from the text; values that are already there stay. Called more than once a job."""
        if not hasattr(self, "options"):
            self.options = {}
        multi_value_options = [
            option for option in multi_value_options or () if option not in _OPTIONS_FILE_KEYS
        ]
        given = parse_plugindef_string(plugindef, multi_value_options)
        loaded = {}
        for key in _OPTIONS_FILE_KEYS:
            loaded[key] = {}
            name = given.pop(key, None)
            if name is None:
                continue
            try:
                loaded[key] = parse_options_file(os.path.join(self._options_folder(), name), multi_value_options)
            except (OSError, ValueError) as error:
                bareosfd.JobMessage(bareosfd.M_FATAL, f"While loading options file '{name}': {error}\n")
                return False
        effective = {**loaded["defaults_file"], **given, **loaded["overrides_file"]}

        for key, value in effective.items():
            name, separator, transform = key.partition("#")
            if separator:
                try:
                    if isinstance(value, list):
                        value = [transform_value(item, transform) for item in value]
                    else:
                        value = transform_value(value, transform)
                except Exception as error:
                    bareosfd.JobMessage(
                        bareosfd.M_FATAL,
                        f"Transformation {transform} of value '{value}' for key {name} failed: {error}\n",
                    )
                    return False
            if name not in self.options:
                self.options[name] = value
        return self.check_options(getattr(self, "mandatory_options", None))

    def _options_folder(self):
        if not hasattr(self, "configdir"):
            bareosfd.JobMessage(
                bareosfd.M_WARNING, "Plugin did not call BareosFdPluginBaseclass.__init__()\n"
            )
            self.configdir = get_config_path()
        return self.configdir

    def check_options(self, mandatory_options=None):
        """bRC_OK when every mandatory option is there, else a fatal message that names the first missing one."""
        for option in mandatory_options or ():
            if option not in self.options:
                bareosfd.JobMessage(bareosfd.M_FATAL, f"Mandatory option '{option}' not defined.\n")
                return bareosfd.bRC_Error
        return bareosfd.bRC_OK

    # Events

    def handle_plugin_event(self, event):
        if event == bareosfd.bEventJobEnd:
            return self.end_job()
        if event == bareosfd.bEventEndBackupJob:
            return self.end_backup_job()
        if event == bareosfd.bEventEndFileSet:
            return self.end_fileset()
        if event == bareosfd.bEventStartBackupJob:
            return self.start_backup_job()
        if event == bareosfd.bEventStartRestoreJob:
            return self.start_restore_job()
        return bareosfd.bRC_OK

    def end_job(self):
        return bareosfd.bRC_OK

    def end_backup_job(self):
        return bareosfd.bRC_OK

    def end_fileset(self):
        return bareosfd.bRC_OK

    def start_backup_job(self):
        return bareosfd.bRC_OK

    def start_restore_job(self):
        return bareosfd.bRC_OK

    # Backup

    def start_backup_file(self, savepkt):
        """Nothing to save: a subclass describes its next object in ``savepkt`` and returns bRC_OK."""
        return bareosfd.bRC_Stop

    def end_backup_file(self):
        return bareosfd.bRC_OK

    def check_file(self, fname):
        return bareosfd.bRC_OK

    def handle_backup_file(self, savepkt):
        return bareosfd.bRC_OK

    def get_acl(self, acl):
        return bareosfd.bRC_OK

    def get_xattr(self, xattr):
        return bareosfd.bRC_OK

    # Restore

    def start_restore_file(self, cmd):
        return bareosfd.bRC_OK

    def end_restore_file(self):
        return bareosfd.bRC_OK

    def restore_object_data(self, ROP):
        return bareosfd.bRC_OK

    def create_file(self, restorepkt):
        """Lets the core create the object; regular files are then opened through ``plugin_io_open``."""
        restorepkt.create_status = bareosfd.CF_CORE
        return bareosfd.bRC_OK

    def set_file_attributes(self, restorepkt):
        """Does nothing. The core never sets owner, mode or times of a plugin's file either: override this."""
        return bareosfd.bRC_OK

    def set_acl(self, acl):
        bareosfd.JobMessage(bareosfd.M_INFO, f"my set_acl() entry point in Python called with {acl!r}\n")
        return bareosfd.bRC_OK

    def set_xattr(self, xattr):
        bareosfd.JobMessage(bareosfd.M_INFO, f"my set_xattr() entry point in Python called with {xattr!r}\n")
        return bareosfd.bRC_OK

    # Input and output

    def plugin_io(self, IOP):
        if IOP.func == bareosfd.IO_READ:
            return self.plugin_io_read(IOP)
        if IOP.func == bareosfd.IO_WRITE:
            return self.plugin_io_write(IOP)
        if IOP.func == bareosfd.IO_OPEN:
            return self.plugin_io_open(IOP)
        if IOP.func == bareosfd.IO_CLOSE:
            return self.plugin_io_close(IOP)
        if IOP.func == bareosfd.IO_SEEK:
            return self.plugin_io_seek(IOP)
        return bareosfd.bRC_Error

    def plugin_io_open(self, IOP):
        """Opens a regular file; folders, symlinks and FIFOs are only noted. The descriptor is not handed out."""
        self.FNAME = IOP.fname
        try:
            if os.path.isdir(self.FNAME):
                self.fileType = "FT_DIR"
                return bareosfd.bRC_OK
            if os.path.islink(self.FNAME):
                self.fileType = "FT_LNK"
                return bareosfd.bRC_OK
            if os.path.exists(self.FNAME) and stat.S_ISFIFO(os.stat(self.FNAME).st_mode):
                self.fileType = "FT_FIFO"
                return bareosfd.bRC_OK
            self.fileType = "FT_REG"
            if IOP.flags & (os.O_CREAT | os.O_WRONLY):
                folder = os.path.dirname(self.FNAME)
                if folder:
                    os.makedirs(folder, exist_ok=True)
                self.file = open(self.FNAME, "wb")
            else:
                self.file = open(self.FNAME, "rb")
        except (OSError, ValueError) as error:
            IOP.status = -1
            IOP.io_errno = _error_number(error)
            return bareosfd.bRC_Error
        return bareosfd.bRC_OK

    def plugin_io_close(self, IOP):
        if self.fileType == "FT_REG":
            try:
                self.file.close()
            except OSError as error:
                # The last buffered bytes are written here: a full disk shows up no earlier.
                bareosfd.JobMessage(bareosfd.M_ERROR, f"Could not close {self.FNAME}: {error}\n")
                IOP.status = -1
                IOP.io_errno = _error_number(error)
                return bareosfd.bRC_Error
        return bareosfd.bRC_OK

    def plugin_io_seek(self, IOP):
        return bareosfd.bRC_OK

    def plugin_io_read(self, IOP):
        if self.fileType != "FT_REG":
            IOP.buf = bytearray()
            IOP.status = 0
            IOP.io_errno = 0
            return bareosfd.bRC_OK
        try:
            IOP.buf = bytearray(IOP.count)
            IOP.status = self.file.readinto(IOP.buf)
            IOP.io_errno = 0
        except Exception as error:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"Could not read {IOP.count} bytes from {self.FNAME}: {error}\n")
            # Status 0 would mean end of file, and the rest of the file would be missing without a trace.
            IOP.status = -1
            IOP.io_errno = _error_number(error)
            return bareosfd.bRC_Error
        return bareosfd.bRC_OK

    def plugin_io_write(self, IOP):
        try:
            self.file.write(IOP.buf)
            IOP.status = IOP.count
            IOP.io_errno = 0
        except Exception as error:
            bareosfd.JobMessage(bareosfd.M_ERROR, f"Could not write {IOP.count} bytes to {self.FNAME}: {error}\n")
            IOP.status = 0
            IOP.io_errno = _error_number(error)
            return bareosfd.bRC_Error
        return bareosfd.bRC_OK


def _error_number(error):
    return getattr(error, "errno", None) or _errno.EIO
