# SPDX-License-Identifier: MIT OR Apache-2.0
"""Saves and restores one folder: as little Python per file as the contract allows.

    python3:module_path=<this folder>:module_name=tree_lister:path=/srv/data
    python3:module_path=<this folder>:module_name=tree_lister:path=/srv/data:io=plugin

Options
    path  the folder (mandatory; a colon in it is written ``\\:``)
    io    ``core`` (default): the host reads and writes the descriptors that we open (direct I/O);
          ``plugin``: every block goes through ``plugin_io`` here

Regular files, folders, symlinks, FIFOs, sockets and device nodes are listed with mode, owner, times (whole seconds:
the contract knows no smaller unit) and extended attributes (POSIX ACLs are extended attributes too). Names of a hard
link are listed as files of their own. A folder comes after its contents, so that a restore sets its times last.

What is different from other plugins: no class. The callbacks are functions of this module, because the host looks
them up here anyway, and one Python call less for each of them is felt with many thousand files.
"""

import os
import stat

from bareosfd import (
    CF_CREATED,
    CF_ERROR,
    CF_EXTRACT,
    FT_DIREND,
    FT_FIFO,
    FT_LNK,
    FT_LNKSAVED,
    FT_NOFOLLOW,
    FT_NOOPEN,
    FT_NOSTAT,
    FT_RAW,
    FT_REG,
    FT_REGE,
    FT_SPEC,
    IO_CLOSE,
    IO_OPEN,
    IO_READ,
    IO_WRITE,
    L_NONE,
    M_ERROR,
    M_FATAL,
    M_WARNING,
    GetValue,
    JobMessage,
    StatPacket,
    bRC_Error,
    bRC_More,
    bRC_OK,
    bRC_Stop,
    bVarLevel,
    iostat_do_in_core,
    iostat_do_in_plugin,
)
from BareosFdPluginBaseclass import parse_plugindef_string

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC

# Module state is job state: every job has a fresh interpreter.
options = {}
extra = {}  # options that came by themselves (overrides of a backup)
entries = None  # iterator over what is still to be saved; None before the first call of a plugin line
directory = None  # descriptor of the folder that is being read
leaf = ""  # name there of the object being saved
current = ""  # path of the object being saved or restored
attributes = None  # its extended attributes that the host has not taken yet
direct = True
descriptor = -1
buffer = bytearray()
restored = None  # StatPacket of the object being restored; None if there is nothing to set


def complain(severity, text):
    # File names may hold bytes that are not UTF-8 (as surrogates); messages may not.
    JobMessage(severity, text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


# Options


def load_bareos_plugin(plugindef):
    return bRC_OK


def parse_plugin_definition(plugindef):
    """Called twice per plugin line of a backup, the second time just before its files, and once per restored file."""
    global options, entries, direct
    given = parse_plugindef_string(plugindef, None)
    if GetValue(bVarLevel) == ord(L_NONE):
        # In a restore only the first text holds the user's overrides, in front: the first value of an option stays.
        options = {**given, **options}
    elif "path" in given:
        options = {**extra, **given}
        entries = None
    else:
        extra.update(given)
        options = {**extra, **options}
    if "path" not in options:
        complain(M_FATAL, "tree_lister: option 'path' is missing: which folder shall be saved?")
        return bRC_Error
    io = options.get("io", "core")
    if io not in ("core", "plugin"):
        complain(M_FATAL, f"tree_lister: option io='{io}' is unknown: say io=core or io=plugin")
        return bRC_Error
    direct = io == "core"
    return bRC_OK


def handle_plugin_event(event):
    return bRC_OK


# Backup


def enter(folder, problems):
    """Makes ``folder`` the one whose names are examined and opened from here on; whether that worked."""
    global directory
    leave()
    try:
        directory = os.open(folder, FOLDER_FLAGS)
    except OSError as error:
        complain(M_WARNING, f"tree_lister: can't open {folder}: {error}")
        problems.append((folder, FT_NOOPEN))
    return directory is not None


def leave():
    global directory
    if directory is not None:
        os.close(directory)
        directory = None


def scan(folder, problems):
    if enter(folder, problems):
        try:
            return iter(os.listdir(directory))
        except OSError as error:
            complain(M_WARNING, f"tree_lister: can't list {folder}: {error}")
            problems.append((folder, FT_NOOPEN))
    return iter(())


def walk(top, found):
    """Yields (path, stat result) of everything below the folder ``top``, then of ``top`` itself.

    What can not be listed or examined is announced too, as (path, type of failure): the host counts it as failed. A
    plugin that only sent a message would leave a backup behind that looks whole.

    Names are looked up from their folder's descriptor, which spares the system the way to it. Only the folder that is
    being read is open, however deep it lies.
    """
    global leaf
    problems = []
    stack = [(top, found, scan(top, problems))]
    while stack:
        folder, found, children = stack[-1]
        while problems:
            yield problems.pop()
        prefix = folder if folder == "/" else folder + "/"
        for leaf in children:
            path = prefix + leaf
            try:
                child_found = os.stat(leaf, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                complain(M_WARNING, f"tree_lister: can't examine {path}: {error}")
                yield path, FT_NOSTAT
                continue
            if stat.S_ISDIR(child_found.st_mode):
                stack.append((path, child_found, scan(path, problems)))
                break
            yield path, child_found
        else:
            stack.pop()
            leave()
            yield folder, found
            if stack and not enter(stack[-1][0], problems):
                # It is gone, or closed to us, while it was read: what is left of it counts as failed with it.
                stack[-1] = (*stack[-1][:2], iter(()))


def list_tree():
    """The whole tree, from the option ``path``; runs as far as the host asks."""
    global leaf
    path = os.path.abspath(options["path"])
    try:
        found = os.lstat(path)
    except OSError as error:
        complain(M_FATAL, f"tree_lister: can't examine {path}: {error}")
        return
    if stat.S_ISDIR(found.st_mode):
        yield from walk(path, found)
    else:
        leaf = path
        yield path, found


def start_backup_file(savepkt):
    global entries, current, attributes
    attributes = None
    if entries is None:
        entries = list_tree()
    pair = next(entries, None)
    if pair is None:
        return bRC_Stop
    current, found = pair
    if found.__class__ is int:
        savepkt.fname = current
        savepkt.type = found
        savepkt.statp = StatPacket()
        savepkt.no_read = True
        return bRC_OK
    mode, inode, device, links, uid, gid, size, atime, mtime, ctime = found
    savepkt.fname = current
    # Positional: dev, ino, mode, nlink, uid, gid, rdev, size, atime, mtime, ctime, blksize, blocks.
    savepkt.statp = StatPacket(
        device & 0xFFFFFFFF, inode, mode, links & 0xFFFF, uid, gid, found.st_rdev & 0xFFFFFFFF, size,
        atime, mtime, ctime, found.st_blksize, found.st_blocks,
    )  # fmt: skip
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFREG:
        savepkt.type = FT_REG if size else FT_REGE
        return bRC_OK
    # Nothing else has data: without no_read the host would open and read it all the same.
    savepkt.no_read = True
    if kind == stat.S_IFDIR:
        savepkt.type = FT_DIREND
        # The host stores a folder under `link`, which must end in a slash.
        savepkt.link = current if current == "/" else current + "/"
    elif kind == stat.S_IFLNK:
        savepkt.type = FT_LNK
        try:
            savepkt.link = os.readlink(current)
        except OSError as error:
            complain(M_WARNING, f"tree_lister: can't read the link {current}: {error}")
            savepkt.type = FT_NOFOLLOW
    elif kind == stat.S_IFIFO:
        savepkt.type = FT_FIFO
    else:
        savepkt.type = FT_SPEC
    return bRC_OK


def end_backup_file():
    # "Ask again": start_backup_file says when the tree is done.
    return bRC_More


def check_file(fname):
    return bRC_OK


def handle_backup_file(savepkt):
    return bRC_OK


def get_acl(acl):
    # POSIX ACLs are among the extended attributes.
    return bRC_OK


def attributes_of(file, **named):
    """Names of the extended attributes of a path or a descriptor."""
    try:
        return os.listxattr(file, **named)
    except OSError as error:
        complain(M_WARNING, f"tree_lister: can't list attributes of {current}: {error}")
        return []


def get_xattr(xattr):
    """Called again as long as it answers bRC_More; hands out one attribute a call."""
    global attributes
    if attributes is None:
        # It was not opened.
        attributes = attributes_of(current, follow_symlinks=False)
    if not attributes:
        return bRC_OK
    name = attributes.pop()
    try:
        value = os.getxattr(current, name, follow_symlinks=False)
    except OSError as error:
        complain(M_WARNING, f"tree_lister: can't read attribute {name} of {current}: {error}")
    else:
        xattr.name = bytearray(os.fsencode(name))
        xattr.value = bytearray(value)
    return bRC_More if attributes else bRC_OK


# Restore


def start_restore_file(cmd):
    return bRC_OK


def create_file(restorepkt):
    """Creates the object at the output name. Regular files are opened by the IO_OPEN that follows."""
    global current, restored
    current = name = restorepkt.ofname.rstrip("/") or "/"
    restored = None
    kind = restorepkt.type
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        if kind == FT_REG or kind == FT_REGE:
            if os.path.islink(name):
                os.unlink(name)
            restorepkt.create_status = CF_EXTRACT
            return bRC_OK
        if kind == FT_DIREND:
            os.makedirs(name, exist_ok=True)
        else:
            if os.path.lexists(name):
                os.unlink(name)
            mode = restorepkt.statp.st_mode
            if kind == FT_LNK:
                os.symlink(restorepkt.olname, name)
            elif kind == FT_LNKSAVED:
                os.link(restorepkt.olname, name)
            elif kind in (FT_FIFO, FT_SPEC, FT_RAW):
                os.mknod(name, mode, restorepkt.statp.st_rdev)
            else:
                complain(M_ERROR, f"tree_lister: can't restore {name}: unknown type {kind}")
                restorepkt.create_status = CF_ERROR
                return bRC_OK
        restorepkt.create_status = CF_CREATED
    except OSError as error:
        complain(M_ERROR, f"tree_lister: can't create {name}: {error}")
        restorepkt.create_status = CF_ERROR
    return bRC_OK


def set_file_attributes(restorepkt):
    """Only remembers them: the host closes the file after this call and sets attributes (which a read-only mode could
    forbid) later still."""
    global restored
    restored = restorepkt.statp
    return bRC_OK


def set_acl(acl):
    return bRC_OK


def set_xattr(xattr):
    try:
        os.setxattr(current, bytes(xattr.name), bytes(xattr.value or b""), follow_symlinks=False)
    except OSError as error:
        complain(M_WARNING, f"tree_lister: can't set attribute {bytes(xattr.name)!r} of {current}: {error}")
    return bRC_OK


def end_restore_file():
    global restored
    statp = restored
    restored = None
    if statp is None:
        return bRC_OK
    name = current
    try:
        present = os.lstat(name)
        # Only root may give files away; chown also clears setuid bits, so it comes first.
        if (present.st_uid, present.st_gid) != (statp.st_uid, statp.st_gid):
            os.lchown(name, statp.st_uid, statp.st_gid)
    except OSError as error:
        complain(M_WARNING, f"tree_lister: can't set the owner of {name}: {error}")
    try:
        if not stat.S_ISLNK(statp.st_mode):
            os.chmod(name, stat.S_IMODE(statp.st_mode))
        os.utime(name, (statp.st_atime, statp.st_mtime), follow_symlinks=False)
    except OSError as error:
        complain(M_WARNING, f"tree_lister: can't set mode and times of {name}: {error}")
    return bRC_OK


def restore_object_data(rop):
    return bRC_OK


# Input and output


def plugin_io(iop):
    """Failures are answered with ``status`` -1 and the error number: the host words the message."""
    global attributes, descriptor, buffer
    func = iop.func
    try:
        if func == IO_READ:
            # One buffer for the whole job: the host has copied it when this call has returned.
            if len(buffer) != iop.count:
                buffer = bytearray(iop.count)
            iop.buf = buffer
            iop.status = os.readv(descriptor, (buffer,))
        elif func == IO_WRITE:
            iop.status = write_all(iop.buf)
        elif func == IO_OPEN:
            if iop.flags & (os.O_WRONLY | os.O_CREAT):
                descriptor = os.open(iop.fname, WRITE_FLAGS, 0o600)
            else:
                descriptor = os.open(leaf, READ_FLAGS, dir_fd=directory)
                attributes = attributes_of(descriptor)
            if direct:
                iop.filedes = descriptor
                iop.status = iostat_do_in_core
            else:
                iop.status = iostat_do_in_plugin
        elif func == IO_CLOSE:
            closing, descriptor = descriptor, -1
            os.close(closing)
        else:
            # IO_SEEK comes before data that follows a hole.
            os.lseek(descriptor, iop.offset, iop.whence)
    except OSError as error:
        iop.status = -1
        iop.io_errno = error.errno
        return bRC_Error
    return bRC_OK


def write_all(data):
    written = 0
    with memoryview(data) as view:
        while written < len(view):
            written += os.write(descriptor, view[written:])
    return written
