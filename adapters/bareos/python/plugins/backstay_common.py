# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the plugins in this folder share: options that are checked, a list of entries, files, children, restored files.

A plugin derives from ``Plugin`` and says in ``entries`` what is to be saved, one ``Entry`` after the other; everything
else of the contract is here. Nothing is needed but the standard library of Python 3.9 and the contract's own modules.

* ``Refused`` ends the job with its one sentence, wherever in a callback it is raised.
* ``Vanished`` leaves out an entry that was there when it was listed and is gone now.
* An entry is opened when it is announced, so that what vanishes between the two is left out instead of failing.
"""

import contextlib
import errno
import fcntl
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile

import bareosfd
from bareosfd import (
    CF_CORE,
    CF_ERROR,
    FT_DIREND,
    FT_LNK,
    FT_REG,
    FT_RESTORE_FIRST,
    L_DIFFERENTIAL,
    L_FULL,
    L_INCREMENTAL,
    L_NONE,
    M_ERROR,
    M_FATAL,
    M_INFO,
    M_WARNING,
    bEventCancelCommand,
    bEventEndRestoreJob,
    bRC_Error,
    bRC_More,
    bRC_OK,
    bRC_Stop,
    bVarJobStatus,
    iostat_do_in_core,
    iostat_do_in_plugin,
)
from BareosFdPluginBaseclass import BareosFdPluginBaseclass

# States of a job that has failed: cancelled, ended in error, fatal error.
FAILED = "AEf"

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The job cannot go on; the text says why and what to do."""


class Vanished(Exception):
    """What was listed is not there any more, which is no failure."""


def printable(text):
    """File names may hold bytes that are not UTF-8 (as surrogates); messages may not."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


# ---------------------------------------------------------------------------------------------------- options


class Option:
    """What a plugin's option may be. ``when``: "both", or only "backup" or "restore"."""

    def __init__(self, default=None, *, choices=None, needed=False, number=False, multi=False, when="both"):
        self.default = default
        self.choices = choices
        self.needed = needed
        self.number = number
        self.multi = multi
        self.when = when

    def complaint(self, name, value):
        """What is wrong with this value; None if nothing is."""
        if self.choices and value not in self.choices:
            return f"option {name}={value} is unknown: say {' or '.join(f'{name}={one}' for one in self.choices)}"
        if self.number and not (value.isascii() and value.isdigit()):
            return f"option {name}={value} is not a number"
        return None


# ---------------------------------------------------------------------------------------------------- entries


def stat_packet(found):
    """The contract's form of an ``os.stat_result``: whole seconds, 32 and 16 bits where it has no more."""
    return bareosfd.StatPacket(
        dev=found.st_dev & 0xFFFFFFFF,
        ino=found.st_ino,
        mode=found.st_mode,
        nlink=found.st_nlink & 0xFFFF,
        uid=found.st_uid,
        gid=found.st_gid,
        rdev=found.st_rdev & 0xFFFFFFFF,
        size=found.st_size,
        atime=int(found.st_atime),
        mtime=int(found.st_mtime),
        ctime=int(found.st_ctime),
        blksize=found.st_blksize,
        blocks=found.st_blocks,
    )


def virtual_stat(mode=0o600, owner=None, size=None, changed=None):
    """The stat of something that is no file. Without a size it is "unknown", without a time it is now."""
    fields = {"mode": stat.S_IFREG | mode, "nlink": 1}
    if owner is not None:
        fields.update(uid=owner.st_uid, gid=owner.st_gid)
    if size is not None:
        fields.update(size=size)
    if changed is not None:
        fields.update(atime=changed, mtime=changed, ctime=changed)
    return bareosfd.StatPacket(**fields)


class Entry:
    """One thing to save. A subclass gives its data in ``open`` (a descriptor for the host, or None) and ``read``."""

    type = FT_REG
    link = ""
    no_read = False
    xattrs = ()

    def __init__(self, name, statp=None):
        self.name = name
        self.statp = statp

    def prepare(self):
        """Called just before the entry is announced. May raise Vanished or Refused."""

    def describe(self, savepkt):
        savepkt.fname = self.name
        savepkt.link = self.link
        savepkt.type = self.type
        savepkt.statp = self.statp
        savepkt.no_read = self.no_read

    def open(self, direct):
        """Begins reading; returns the descriptor that the host shall read itself, or None. May raise OSError."""
        return None

    def read(self, count):
        """The next bytes, at most ``count``; none at the end. May raise OSError."""
        return b""

    def close(self):
        """Called after the last read."""

    def done(self):
        """Called when the host has finished with the entry, whether it was read or not."""


class File(Entry):
    """A regular file under its own path."""

    def __init__(self, path):
        super().__init__(path)
        self.descriptor = None

    def prepare(self):
        try:
            self.descriptor = os.open(self.name, READ_FLAGS)
            self.statp = stat_packet(os.fstat(self.descriptor))
        except FileNotFoundError:
            raise Vanished(self.name) from None
        except OSError as error:
            raise Refused(f"cannot read {printable(self.name)}: {error.strerror}") from error

    def open(self, direct):
        return self.descriptor if direct else None

    def read(self, count):
        return os.read(self.descriptor, count)

    def done(self):
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Folder(Entry):
    """A folder itself. Give it after its contents, so that a restore sets its times last."""

    type = FT_DIREND
    no_read = True

    def __init__(self, path):
        path = path.rstrip("/")
        super().__init__(path)
        self.link = path + "/"

    def prepare(self):
        try:
            self.statp = stat_packet(os.stat(self.name))
        except FileNotFoundError:
            raise Vanished(self.name) from None
        except OSError as error:
            raise Refused(f"cannot examine {printable(self.name)}: {error.strerror}") from error


class Symlink(Entry):
    """A symbolic link."""

    type = FT_LNK
    no_read = True

    def prepare(self):
        try:
            self.link = os.readlink(self.name)
            self.statp = stat_packet(os.lstat(self.name))
        except OSError:
            raise Vanished(self.name) from None


class Text(Entry):
    """Bytes that are in memory already, under a name of their own."""

    def __init__(self, name, data, statp):
        super().__init__(name, statp)
        self.data = data
        self.position = 0

    def read(self, count):
        piece = self.data[self.position : self.position + count]
        self.position += len(piece)
        return piece


class Remembered(Entry):
    """A restore object: JSON that the next job and the restore get before anything else."""

    type = FT_RESTORE_FIRST
    no_read = True

    def __init__(self, name, value, index):
        super().__init__(name, bareosfd.StatPacket())
        self.object = bytearray(json.dumps(value, sort_keys=True).encode("utf-8"))
        self.index = index

    def describe(self, savepkt):
        super().describe(savepkt)
        savepkt.object_name = self.name
        savepkt.object = self.object
        savepkt.object_len = len(self.object)
        savepkt.object_index = self.index


# ---------------------------------------------------------------------------------------------------- children


def as_user(name):
    """Arguments of Popen that run a child as this user of the system; none if the name is None."""
    if name is None:
        return {}
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"there is no user {name} on this system") from None
    if user.pw_uid == os.geteuid():
        return {}
    if os.geteuid() != 0:
        raise Refused(f"only root can run programs as {name}")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": os.getgrouplist(name, user.pw_gid)}


def environment_of(user, more):
    """The environment of a child: ours, messages in English, the user's own home folder."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    if user is not None:
        environment["HOME"] = pwd.getpwnam(user).pw_dir
    return {**environment, **(more or {})}


class Child:
    """A program whose standard output is a pipe of ours, or its input (``reads``), or both (``talks``).

    What it says on standard error is kept aside; so is its standard output if that is no pipe.
    """

    def __init__(self, arguments, *, user=None, environment=None, reads=False, talks=False, cwd="/"):
        self.program = os.path.basename(arguments[0])
        rights = as_user(user)
        self.log = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE if reads or talks else subprocess.DEVNULL,
                stdout=self.log if reads else subprocess.PIPE,
                stderr=self.log,
                env=environment_of(user, environment),
                cwd=cwd,
                bufsize=0,
                **rights,
            )
        except OSError as error:
            self.log.close()
            raise Refused(f"cannot start {arguments[0]}: {error.strerror}") from error
        self.pipe = self.process.stdin if reads or talks else self.process.stdout

    def end(self):
        """Closes the pipe, waits, and returns the exit status (negative: the signal that ended it)."""
        try:
            self.pipe.close()
        except BrokenPipeError:
            pass  # the exit status says more
        return self.process.wait()

    def interrupt(self):
        """Kills it from another thread: whoever reads from it sees the end."""
        if self.process.poll() is None:
            self.process.kill()

    def kill(self):
        self.interrupt()
        self.end()
        self.forget()

    def forget(self):
        """Closes what is still open. Not before everything it said was looked at."""
        self.log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def log_length(self):
        return self.log.seek(0, os.SEEK_END)

    def said(self, lines=4, since=0):
        """The last lines that the program said on standard error, in one line."""
        self.log.seek(max(since, self.log.seek(0, os.SEEK_END) - 8192))
        text = self.log.read().decode("utf-8", "backslashreplace")
        return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])


def how_it_ended(status):
    return f"was ended by signal {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def output_of(arguments, *, user=None, environment=None):
    """Runs a program to its end and returns what it printed. Refused if it fails."""
    child = Child(arguments, user=user, environment=environment)
    output = child.pipe.read()
    while piece := child.pipe.read():
        output += piece
    status = child.end()
    said = child.said()
    child.forget()
    if status:
        raise Refused(f"{child.program} {how_it_ended(status)}: {said}")
    return output


class Stream(Entry):
    """What a program prints, as a file. ``start`` makes the Child; ``finish`` judges its end."""

    def __init__(self, name, statp):
        super().__init__(name, statp)
        self.child = None

    def start(self):
        raise NotImplementedError

    def finish(self, status, child):
        """Called with the exit status when everything was read."""
        raise NotImplementedError

    def open(self, direct):
        self.child = self.start()
        with contextlib.suppress(OSError, AttributeError):
            # Fewer turns between the program and whoever reads.
            fcntl.fcntl(self.child.pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
        return self.child.pipe.fileno() if direct else None

    def interrupt(self):
        """The job is cancelled, on another thread."""
        child = self.child
        if child is not None:
            child.interrupt()

    def read(self, count):
        return self.child.pipe.read(count)

    def close(self):
        child, self.child = self.child, None
        try:
            self.finish(child.end(), child)
        finally:
            child.forget()

    def done(self):
        if self.child is not None:
            self.child.kill()
            self.child = None


# ---------------------------------------------------------------------------------------------------- the plugin


class Plugin(BareosFdPluginBaseclass):
    """One object per job. A subclass has NAME and OPTIONS and gives ``entries``."""

    NAME = ""
    OPTIONS = {}

    def __init__(self, plugindef):
        super().__init__(plugindef)
        bareosfd.RegisterEvents([bEventCancelCommand, bEventEndRestoreJob])
        self.restoring = self.level == ord(L_NONE)
        self.started = False  # an estimate never starts a job: nothing is listed in it
        self.cancelled = False
        self.definition = None
        self.listed = None  # iterator over the entries
        self.current = None  # the entry between start_backup_file and end_backup_file
        self.attributes = None  # iterator over its extended attributes
        self.descriptor = None  # of the file being restored
        self.remembered = []  # (object_index, value) of each restore object that came
        self.folder_of_job = None

    # Options

    def parse_plugin_definition(self, plugindef, multi_value_options=None):
        multi = [name for name, option in self.OPTIONS.items() if option.multi]
        return super().parse_plugin_definition(plugindef, multi)

    def check_options(self, mandatory_options=None):
        complaint = self.complaint()
        if complaint is None:
            return bRC_OK
        self.fatal(complaint)
        return bRC_Error

    def complaint(self):
        """What is wrong with the options; None if nothing is. A subclass adds what it knows."""
        for name, given in self.options.items():
            option = self.OPTIONS.get(name)
            if option is None:
                return f"there is no option {printable(name)}: the options are {', '.join(sorted(self.OPTIONS))}"
            if option.when == "restore" and not self.restoring:
                return f"option {name} is for restores: give it there, in the plugin options"
            for value in given if isinstance(given, list) else [given]:
                complaint = option.complaint(name, value)
                if complaint is not None:
                    return complaint
        for name, option in self.OPTIONS.items():
            if option.needed and name not in self.options:
                return f"option {name} is missing"
        return None

    def option(self, name):
        value = self.options.get(name)
        if value is None:
            return self.OPTIONS[name].default
        return int(value) if self.OPTIONS[name].number else value

    # Messages

    def fatal(self, text):
        bareosfd.JobMessage(M_FATAL, f"{self.NAME}: {printable(text)}\n")

    def error(self, text):
        bareosfd.JobMessage(M_ERROR, f"{self.NAME}: {printable(text)}\n")

    def warning(self, text):
        bareosfd.JobMessage(M_WARNING, f"{self.NAME}: {printable(text)}\n")

    def info(self, text):
        bareosfd.JobMessage(M_INFO, f"{self.NAME}: {printable(text)}\n")

    # What the job is

    def is_full(self):
        return chr(self.level) not in (L_INCREMENTAL, L_DIFFERENTIAL)

    def level_name(self):
        return {L_INCREMENTAL: "incremental", L_DIFFERENTIAL: "differential"}.get(chr(self.level), "full")

    def temporary_folder(self):
        """A folder that only its owner can enter; it goes away with the job."""
        if self.folder_of_job is None:
            # Another user, as whom programs run, may not be able to enter the working folder.
            ours = os.path.isdir(self.workingdir or "") and self.options.get("os_user") is None
            top = self.workingdir if ours else None
            self.folder_of_job = tempfile.mkdtemp(prefix=f"{self.NAME}-", dir=top)
        return self.folder_of_job

    def private_file(self, name, text):
        """Writes a file into the temporary folder that nobody but we and ``os_user`` can read; its path."""
        path = os.path.join(self.temporary_folder(), name)
        if not os.path.exists(path):
            # The mode from the first moment, and no change of it: a sandbox allows none.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            self.hand_over(path)
        return path

    def hand_over(self, path):
        """Makes the job's folder and this file in it the user's, as whom the programs run."""
        user = self.options.get("os_user")
        if user is None:
            return
        try:
            for owned in (self.temporary_folder(), path):
                shutil.chown(owned, user)
        except (LookupError, OSError) as error:
            raise Refused(f"cannot give {path} to the user {user}: {error}") from error

    def restore_object_data(self, ROP):
        if ROP.object_name != self.NAME:
            return bRC_OK
        try:
            value = json.loads(bytes(ROP.object).decode("utf-8"))
        except ValueError:
            self.fatal("a restore object of an earlier job cannot be read: make a full backup")
            return bRC_Error
        self.remembered.append((ROP.object_index, value))
        self.remembered.sort(key=lambda pair: pair[0])
        return bRC_OK

    def last_remembered(self):
        """What the job left behind that this one goes on from."""
        if not self.remembered:
            raise Refused(f"an {self.level_name()} backup needs an earlier one to go on from: make a full backup first")
        return self.remembered[-1][1]

    def remember(self, value):
        # Indexes grow from job to job, so that a restore gets the objects in the order of the jobs.
        return Remembered(self.NAME, value, self.startTime & 0x7FFFFFFF)

    # Events

    def handle_plugin_event(self, event):
        if event == bEventCancelCommand:
            self.cancelled = True
            self.cancel()
            return bRC_OK
        if event == bEventEndRestoreJob:
            return self.end_restore_job()
        return super().handle_plugin_event(event)

    def start_backup_job(self):
        self.started = True
        try:
            self.begin()
        except Refused as refusal:
            self.fatal(refusal)
            return bRC_Error
        return bRC_OK

    def end_backup_job(self):
        """Comes always, also after a failure."""
        self.end_entry()
        if self.listed is not None:
            self.listed.close()
        self.clean_up()
        return bRC_OK

    def end_restore_job(self):
        """Comes always, also after a failure."""
        try:
            if chr(bareosfd.GetValue(bVarJobStatus)) not in FAILED:
                self.finish_restore()
        except Refused as refusal:
            self.fatal(refusal)
            return bRC_Error
        finally:
            self.clean_up()
        return bRC_OK

    # For the subclass

    def begin(self):
        """The backup starts. May raise Refused."""

    def entries(self):
        """A generator of what is to be saved. May raise Refused."""
        raise NotImplementedError

    def finish_restore(self):
        """Everything was restored. May raise Refused."""

    def cancel(self):
        """The user cancels the job; comes on a thread of its own."""

    def clean_up(self):
        """The job is over, however it went."""
        if self.folder_of_job is not None:
            shutil.rmtree(self.folder_of_job, ignore_errors=True)
            self.folder_of_job = None

    # Backup

    def start_backup_file(self, savepkt):
        if not self.started:
            return bRC_Stop
        if self.listed is None:
            self.definition = savepkt.cmd
            self.listed = self.entries()
        elif savepkt.cmd != self.definition:
            # This same object gets a second definition too, and the base class keeps the options of the first.
            self.fatal("one definition in a job: save the other one in a job of its own")
            return bRC_Error
        try:
            for entry in self.listed:
                try:
                    entry.prepare()
                except Vanished:
                    entry.done()
                    continue
                self.current = entry
                entry.describe(savepkt)
                self.attributes = None
                return bRC_OK
        except Refused as refusal:
            self.fatal(refusal)
            return bRC_Error
        return bRC_Stop

    def end_backup_file(self):
        self.end_entry()
        return bRC_More

    def end_entry(self):
        if self.current is not None:
            self.current.done()
            self.current = None

    def get_xattr(self, xattr):
        if self.attributes is None:
            self.attributes = iter(self.current.xattrs)
        pair = next(self.attributes, None)
        if pair is None:
            return bRC_OK
        xattr.name, xattr.value = bytearray(pair[0]), bytearray(pair[1])
        return bRC_More

    # Restore

    def create_file(self, restorepkt):
        restorepkt.create_status = CF_ERROR
        try:
            restorepkt.create_status = self.create(restorepkt)
        except Refused as refusal:
            self.fatal(refusal)
        return bRC_OK

    def create(self, restorepkt):
        """Who makes this object; by default the host. May raise Refused."""
        if not restorepkt.ofname.startswith("/"):
            self.error(f"{restorepkt.ofname} needs a target folder to be restored into")
            return CF_ERROR
        return CF_CORE

    def set_file_attributes(self, restorepkt):
        """The host never sets owner, mode or times. Nothing is written after this: we keep no buffers."""
        name = restorepkt.ofname.rstrip("/")
        wanted = restorepkt.statp
        try:
            present = os.lstat(name)
            if (present.st_uid, present.st_gid) != (wanted.st_uid, wanted.st_gid):
                os.lchown(name, wanted.st_uid, wanted.st_gid)
            if not stat.S_ISLNK(present.st_mode):
                os.chmod(name, stat.S_IMODE(wanted.st_mode))
            os.utime(name, (wanted.st_atime, wanted.st_mtime), follow_symlinks=False)
        except OSError as error:
            self.warning(f"could not set owner, mode and times of {name}: {error.strerror}")
        return bRC_OK

    def set_acl(self, acl):
        return bRC_OK

    def set_xattr(self, xattr):
        return bRC_OK

    # Data

    def plugin_io_open(self, IOP):
        direct = self.options.get("io", "core") == "core"
        try:
            if IOP.flags & (os.O_WRONLY | os.O_CREAT):
                descriptor = self.open_restored(IOP.fname)
            else:
                descriptor = self.current.open(direct)
        except OSError as error:
            return self.io_failed(IOP, error)
        except Refused as refusal:
            self.fatal(refusal)
            IOP.status = -1
            IOP.io_errno = errno.EIO
            return bRC_Error
        if descriptor is not None and direct:
            IOP.filedes = descriptor
            IOP.status = iostat_do_in_core
        else:
            IOP.status = iostat_do_in_plugin
        return bRC_OK

    def open_restored(self, name):
        """Opens what is restored under this name for writing; the descriptor."""
        self.descriptor = os.open(name, WRITE_FLAGS, 0o600)
        return self.descriptor

    def close_restored(self):
        descriptor, self.descriptor = self.descriptor, None
        os.close(descriptor)

    def plugin_io_read(self, IOP):
        try:
            IOP.buf = bytearray(self.current.read(IOP.count))
        except OSError as error:
            return self.io_failed(IOP, error)
        IOP.status = len(IOP.buf)
        return bRC_OK

    def plugin_io_write(self, IOP):
        left = memoryview(IOP.buf)
        try:
            while left:
                left = left[os.write(self.descriptor, left) :]
        except OSError as error:
            return self.io_failed(IOP, error)
        IOP.status = IOP.count
        return bRC_OK

    def plugin_io_seek(self, IOP):
        os.lseek(self.descriptor, IOP.offset, IOP.whence)
        return bRC_OK

    def plugin_io_close(self, IOP):
        try:
            if self.descriptor is not None:
                self.close_restored()
            elif self.current is not None:
                self.current.close()
        except OSError as error:
            return self.io_failed(IOP, error)
        except Refused as refusal:
            self.fatal(refusal)
            IOP.status = -1
            return bRC_Error
        return bRC_OK

    def io_failed(self, IOP, error):
        IOP.status = -1
        IOP.io_errno = error.errno or errno.EIO
        return bRC_Error


__all__ = [
    "Child",
    "Entry",
    "File",
    "Folder",
    "L_FULL",
    "Option",
    "Plugin",
    "Refused",
    "Stream",
    "Symlink",
    "Text",
    "Vanished",
    "how_it_ended",
    "output_of",
    "printable",
    "stat_packet",
    "virtual_stat",
]
