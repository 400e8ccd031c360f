# SPDX-License-Identifier: MIT OR Apache-2.0
"""A stand-in for the built-in module ``bareosfd``, for unit tests of plugins and helper modules without a host.

Constants and packet fields are those of the contract; the checks on field types are left out. ``variables`` is what
GetValue answers, ``messages`` collects what JobMessage was given, ``registered`` the events: a test looks at them and
calls ``reset()`` between cases.
"""

import time as _time

bRC_OK, bRC_Stop, bRC_Error, bRC_More, bRC_Term, bRC_Seen, bRC_Core, bRC_Skip, bRC_Cancel = range(9)

CF_SKIP, CF_ERROR, CF_EXTRACT, CF_CREATED, CF_CORE = range(1, 6)

(
    FT_LNKSAVED, FT_REGE, FT_REG, FT_LNK, FT_DIREND, FT_SPEC, FT_NOACCESS, FT_NOFOLLOW, FT_NOSTAT, FT_NOCHG,
    FT_DIRNOCHG, FT_ISARCH, FT_NORECURSE, FT_NOFSCHG, FT_NOOPEN, FT_RAW, FT_FIFO, FT_DIRBEGIN, FT_INVALIDFS,
    FT_INVALIDDT, FT_REPARSE, FT_PLUGIN, FT_DELETED, FT_BASE, FT_RESTORE_FIRST, FT_JUNCTION, FT_PLUGIN_CONFIG,
    FT_PLUGIN_CONFIG_FILLED,
) = range(1, 29)  # fmt: skip

IO_OPEN, IO_READ, IO_WRITE, IO_CLOSE, IO_SEEK = range(1, 6)
iostat_error, iostat_do_in_plugin, iostat_do_in_core = -1, 0, 1

L_FULL, L_INCREMENTAL, L_DIFFERENTIAL, L_SINCE, L_BASE, L_NONE, L_VIRTUAL_FULL = "F", "I", "D", "S", "B", " ", "f"
L_VERIFY_CATALOG, L_VERIFY_INIT, L_VERIFY_VOLUME_TO_CATALOG, L_VERIFY_DISK_TO_CATALOG, L_VERIFY_DATA = "CVOdA"

(
    M_ABORT, M_DEBUG, M_FATAL, M_ERROR, M_WARNING, M_INFO, M_SAVED, M_NOTSAVED, M_SKIPPED, M_MOUNT, M_ERROR_TERM,
    M_TERM, M_RESTORED, M_SECURITY, M_ALERT, M_VOLMGMT,
) = range(1, 17)  # fmt: skip

(
    bVarJobId, bVarFDName, bVarLevel, bVarType, bVarClient, bVarJobName, bVarJobStatus, bVarSinceTime, bVarAccurate,
    bVarFileSeen, bVarVssClient, bVarWorkingDir, bVarWhere, bVarRegexWhere, bVarExePath, bVarVersion, bVarDistName,
    bVarPrevJobName, bVarPrefixLinks, bVarCheckChanges, bVarUsedConfig,
) = range(1, 22)  # fmt: skip
bVarAccurateOptions = 23

(
    bEventJobStart, bEventJobEnd, bEventStartBackupJob, bEventEndBackupJob, bEventStartRestoreJob,
    bEventEndRestoreJob, bEventStartVerifyJob, bEventEndVerifyJob, bEventBackupCommand, bEventRestoreCommand,
    bEventEstimateCommand, bEventLevel, bEventSince, bEventCancelCommand, bEventRestoreObject, bEventEndFileSet,
    bEventPluginCommand, bEventOptionPlugin, bEventHandleBackupFile, bEventNewPluginOptions,
) = range(1, 21)  # fmt: skip

# The dictionaries have bytes as keys.
bRCs = {name.encode(): value for name, value in list(globals().items()) if name.startswith("bRC_")}
bCFs = {name.encode(): value for name, value in list(globals().items()) if name.startswith("CF_")}
bFileType = {name.encode(): value for name, value in list(globals().items()) if name.startswith("FT_")}
bIOPS = {name.encode(): value for name, value in list(globals().items()) if name.startswith("IO_")}
bIOPstatus = {name.encode(): value for name, value in list(globals().items()) if name.startswith("iostat_")}
bLevels = {name.encode(): value.encode() for name, value in list(globals().items()) if name.startswith("L_")}
bVariable = {name.encode(): value for name, value in list(globals().items()) if name.startswith("bVar")}
bEventType = {name.encode(): value for name, value in list(globals().items()) if name.startswith("bEvent")}
bJobMessageType = {name.encode(): value for name, value in list(globals().items()) if name.startswith("M_")}

_DEFAULTS = {
    bVarJobId: 7,
    bVarFDName: "client-fd",
    bVarLevel: ord(L_FULL),
    bVarType: ord("I"),
    bVarClient: "client-fd",
    bVarJobName: "backup.client.2026-11-22_01.02.03_04",
    bVarJobStatus: ord("C"),
    bVarSinceTime: 0,
    bVarAccurate: 0,
    bVarWorkingDir: "/var/lib/backstay",
    bVarWhere: None,
    bVarCheckChanges: True,
    bVarUsedConfig: "/nonexistent/bareos-fd.d/*/*.conf",
    bVarAccurateOptions: frozenset(),
}

variables = dict(_DEFAULTS)
messages = []
registered = set()


def reset():
    """Back to the state of a fresh job."""
    variables.clear()
    variables.update(_DEFAULTS)
    messages.clear()
    registered.clear()


def GetValue(variable, /):
    return variables.get(variable)


def SetValue(variable, value, /):
    if variable in (bVarSinceTime, bVarCheckChanges):
        variables[variable] = value
        return bRC_OK
    return bRC_Error


def JobMessage(kind, text=None, /):
    if text is not None:
        text.encode("utf-8")  # the real one refuses surrogates
        messages.append((kind, text))


def DebugMessage(level, text=None, /):
    if text is not None:
        text.encode("utf-8")


def RegisterEvents(events, /):
    registered.update(events)
    return bRC_OK if events else bRC_Error


def UnRegisterEvents(events, /):
    registered.difference_update(events)
    return bRC_OK if events else bRC_Error


def GetInstanceCount():
    return 1


class _Packet:
    """Named fields and nothing else, as in the real classes."""

    __slots__ = ()
    _defaults = {}

    def __init__(self, **fields):
        for name, value in self._defaults.items():
            setattr(self, name, fields.pop(name, value))
        if fields:
            raise TypeError(f"unexpected fields {sorted(fields)}")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._defaults)})"


class StatPacket:
    _names = (
        "dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "atime", "mtime", "ctime", "blksize", "blocks",
    )  # fmt: skip
    __slots__ = tuple("st_" + name for name in _names)

    def __init__(self, *values, **named):
        now = int(_time.time())
        fields = dict(zip(self._names, (0, 0, 0o100700, 0, 0, 0, 0, 2**64 - 1, now, now, now, 4096, 1)))
        if len(values) > len(self._names):
            raise TypeError("too many arguments")
        fields.update(zip(self._names, values))
        for name, value in named.items():
            if name not in fields:
                raise TypeError(f"'{name}' is an invalid keyword argument")
            fields[name] = value
        for name, value in fields.items():
            setattr(self, "st_" + name, value)

    def __setattr__(self, name, value):
        if not hasattr(value, "__index__"):
            raise TypeError(f"'{type(value).__name__}' object cannot be interpreted as an integer")
        super().__setattr__(name, value)


class SavePacket(_Packet):
    _defaults = dict(
        fname=None, link=None, statp=None, type=0, flags=None, no_read=False, portable=False, accurate_found=False,
        cmd=None, save_time=0, delta_seq=0, object_name=None, object=None, object_len=0, object_index=0,
    )  # fmt: skip
    __slots__ = tuple(_defaults)


class RestorePacket(_Packet):
    _defaults = dict(
        stream=1, data_stream=2, type=0, file_index=0, linkFI=0, uid=0, statp=None, attrEX="", ofname=None,
        olname=None, where=None, regexwhere=None, replace=97, create_status=CF_ERROR, filedes=-1,
        original_file_name=None, original_link_name=None,
    )  # fmt: skip
    __slots__ = tuple(_defaults)


class IoPacket(_Packet):
    _defaults = dict(
        func=0, count=0, flags=0, mode=0, buf=None, fname=None, status=0, io_errno=0, lerror=0, whence=0, offset=0,
        win32=False, filedes=-1,
    )  # fmt: skip
    __slots__ = tuple(_defaults)


class AclPacket(_Packet):
    _defaults = dict(fname=None, content=None)
    __slots__ = tuple(_defaults)


class XattrPacket(_Packet):
    _defaults = dict(fname=None, name=None, value=None)
    __slots__ = tuple(_defaults)


class RestoreObject(_Packet):
    _defaults = dict(
        object_name=None, object=None, plugin_name=None, object_type=0, object_len=0, object_full_len=0,
        object_index=0, object_compression=0, stream=0, jobid=0,
    )  # fmt: skip
    __slots__ = tuple(_defaults)
