# SPDX-License-Identifier: MIT OR Apache-2.0
"""Example plugin: a SQLite database, dumped table by table, and the files of a folder.

It is written to be read and copied: one class against ``bareosfd``, both ways of moving data, both directions.

    python3:module_path=<this folder>:module_name=sqlite_and_folder:database=/srv/app.db:folder=/srv/app/files

Options (at least one of the two; a colon inside a path is written ``\\:``)
    database  a SQLite file. Each table becomes one *virtual* file ``@SQLITE/<database name>/<table>.sql``: it exists
              only in the backup, its text is made while the host reads it (plugin I/O).
    folder    a folder. Its files, folders and symlinks are saved under their own paths; for each file the host gets
              an open descriptor and does the reading and writing itself (direct I/O).

A restore writes the virtual files as ``.sql`` files below the target folder (``sqlite3 new.db < table.sql`` brings a
table back) and the folder's files with owner, mode and times.

The same rows always give the same text: tables by name, rows sorted by their columns. All tables are read in one
transaction, so they fit together even while the application goes on writing. Virtual tables of SQLite (full-text
indexes and the like) are named in a warning and left out.
"""

import os
import sqlite3
import stat
from urllib.parse import quote

import bareosfd
from bareosfd import *

# Gives this module the functions the host calls; each calls the method of the same name of our object.
from BareosFdWrapper import *
from BareosFdPluginBaseclass import BareosFdPluginBaseclass

VIRTUAL_PREFIX = "@SQLITE/"


@BareosPlugin
class SqliteAndFolder(BareosFdPluginBaseclass):
    """One object per job."""

    def __init__(self, plugindef):
        # The base class registers the usual events and knows the job (self.jobId, self.since, self.workingdir ...).
        super().__init__(plugindef)
        self.objects = None  # iterator over what is still to be saved
        self.definition = None  # the line of the job that we serve
        self.current = None  # the object between start_backup_file and end_backup_file
        self.descriptor = None  # open file of the folder, or the .sql file being restored
        self.text = None  # iterator over the pieces of a table's text
        self.pending = bytearray()  # text that was made but not yet read

    # ---------------------------------------------------------------------------------------------- options

    def check_options(self, mandatory_options=None):
        """Called by the base class when it has put the options into self.options."""
        if "database" not in self.options and "folder" not in self.options:
            JobMessage(M_FATAL, "sqlite_and_folder: give database=FILE or folder=FOLDER, or both.\n")
            return bRC_Error
        return bRC_OK

    # ---------------------------------------------------------------------------------------------- backup

    def start_backup_file(self, savepkt):
        """The host asks for the next object. bRC_OK: here it is. bRC_Stop: there is none."""
        if self.objects is None:
            self.objects = self.list_objects()
            self.definition = savepkt.cmd
        elif savepkt.cmd != self.definition:
            # A second definition reaches this same object, and the base class keeps the options of the first.
            JobMessage(M_FATAL, "sqlite_and_folder: one definition per job: start another job for the other one.\n")
            return bRC_Error
        self.current = next(self.objects, None)
        if self.current is None:
            return bRC_Stop
        try:
            self.current.describe(savepkt)
        except OSError as error:
            Unreadable(self.current.name, FT_NOSTAT, error).describe(savepkt)
        return bRC_OK

    def end_backup_file(self):
        # bRC_More: "ask me again". start_backup_file ends the job's list.
        return bRC_More

    def list_objects(self):
        """A generator: nothing is listed before the host asks for it, so memory stays small."""
        if "database" in self.options:
            yield from list_tables(self.options["database"])
        if "folder" in self.options:
            yield from list_folder(os.path.abspath(self.options["folder"]))

    # ---------------------------------------------------------------------------------------------- restore

    def create_file(self, restorepkt):
        """Says who makes the object. CF_CORE: the host does (parents included), and calls IO_OPEN for files."""
        if not restorepkt.ofname.startswith("/"):
            # A virtual name, and no target folder to put it below.
            JobMessage(M_ERROR, f"{restorepkt.ofname} needs a target folder to be restored into\n")
            restorepkt.create_status = CF_ERROR
            return bRC_OK
        restorepkt.create_status = CF_CORE
        return bRC_OK

    def set_file_attributes(self, restorepkt):
        """The host never sets owner, mode or times of what a plugin saved: that is done here.

        It is called when all data was written, before IO_CLOSE. We write without buffers, so nothing touches the
        times afterwards; with a buffered file do this in end_restore_file instead.
        """
        name = restorepkt.ofname.rstrip("/")
        wanted = restorepkt.statp
        try:
            present = os.lstat(name)
            if (present.st_uid, present.st_gid) != (wanted.st_uid, wanted.st_gid):
                os.lchown(name, wanted.st_uid, wanted.st_gid)
        except OSError as error:
            JobMessage(M_WARNING, f"Could not set the owner of {printable(name)}: {error}\n")
        try:
            if not stat.S_ISLNK(wanted.st_mode):
                os.chmod(name, stat.S_IMODE(wanted.st_mode))
            os.utime(name, (wanted.st_atime, wanted.st_mtime), follow_symlinks=False)
        except OSError as error:
            JobMessage(M_WARNING, f"Could not set mode and times of {printable(name)}: {error}\n")
        return bRC_OK

    # ---------------------------------------------------------------------------------------------- data
    # plugin_io of the base class calls one of these five. `IOP.status` is the answer; -1 with `IOP.io_errno` is a
    # failure of this one object, and the job goes on. An exception that leaves a callback ends the whole job.

    def plugin_io_open(self, IOP):
        try:
            if IOP.flags & (os.O_WRONLY | os.O_CREAT):
                # A restore: always direct I/O, also for the tables' texts.
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                self.descriptor = os.open(IOP.fname, flags, 0o600)
            elif isinstance(self.current, Table):
                # Plugin I/O: the host will call plugin_io_read for every block.
                self.text = self.current.text()
                self.pending = bytearray()
                IOP.status = iostat_do_in_plugin
                return bRC_OK
            else:
                self.descriptor = os.open(IOP.fname, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            IOP.status = -1
            IOP.io_errno = error.errno
            return bRC_Error
        # Direct I/O: the host reads or writes this descriptor itself. It stays ours: we close it in plugin_io_close.
        IOP.filedes = self.descriptor
        IOP.status = iostat_do_in_core
        return bRC_OK

    def plugin_io_read(self, IOP):
        """Fills one block of at most IOP.count bytes. Status 0 is the end; a short block is not."""
        try:
            while len(self.pending) < IOP.count:
                piece = next(self.text, None)
                if piece is None:
                    break
                self.pending += piece
        except sqlite3.Error as error:
            JobMessage(M_ERROR, f"Could not read {self.current.name}: {error}\n")
            IOP.status = -1
            IOP.io_errno = 5  # EIO
            return bRC_Error
        IOP.buf = self.pending[: IOP.count]
        IOP.status = len(IOP.buf)
        del self.pending[: IOP.count]
        return bRC_OK

    def plugin_io_seek(self, IOP):
        """Comes in a restore before data that follows a hole."""
        os.lseek(self.descriptor, IOP.offset, IOP.whence)
        return bRC_OK

    def plugin_io_close(self, IOP):
        self.text = None
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        return bRC_OK


# -------------------------------------------------------------------------------------------------- the database


def list_tables(path):
    """Yields a Table for each table and view. Errors are told to the job and end the list of tables."""
    try:
        # mode=ro: a wrong path is an error instead of a new empty database.
        connection = sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        JobMessage(M_FATAL, f"Could not open the database {path}: {error}\n")
        return
    # SQLite does not insist on UTF-8: what is not is kept as surrogates and written as bytes by `literal`.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        # One read transaction for all tables, held until the last one was read.
        connection.execute("BEGIN")
        tables = connection.execute(
            "SELECT s.name, s.type, s.sql, l.type FROM sqlite_schema s JOIN pragma_table_list(s.name) l"
            " WHERE l.schema = 'main' AND s.type IN ('table', 'view') AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            " ORDER BY s.name"
        ).fetchall()
        changed = database_changed(path)
        for name, kind, sql, kind_of_table in tables:
            if kind_of_table == "virtual":
                JobMessage(M_WARNING, f"{path}: the virtual table {printable(name)} is left out\n")
            elif kind_of_table != "shadow":  # shadow tables are the inside of virtual ones
                yield Table(connection, path, changed, name, kind, sql)
    except (sqlite3.Error, OSError) as error:
        JobMessage(M_FATAL, f"Could not read the database {path}: {error}\n")
    finally:
        connection.close()


def database_changed(path):
    """When the database last changed. With a write-ahead log that is the log's time, not the file's."""
    times = [os.stat(path)]
    try:
        times.append(os.stat(path + "-wal"))
    except FileNotFoundError:
        pass
    newest = max(times, key=lambda found: found.st_mtime)
    return int(newest.st_mtime)


class Table:
    """One table or view as a virtual file."""

    def __init__(self, connection, path, changed, table, kind, sql):
        self.connection = connection
        self.path = path
        self.changed = changed
        self.table = table
        self.kind = kind
        self.sql = sql
        # A table's name may hold any character, a file's name may not.
        safe = quote(table.encode("utf-8", "surrogateescape"), safe=" @+,;=()[]{}!$&'")
        self.name = f"{VIRTUAL_PREFIX}{os.path.basename(path)}/{safe}.sql"

    def describe(self, savepkt):
        """Fills the packet of start_backup_file: name, type and stat are needed."""
        owner = os.stat(self.path)
        savepkt.fname = self.name
        savepkt.type = FT_REG
        # Fields that are left out have defaults; `size` then means "unknown", as the text is not made yet.
        savepkt.statp = StatPacket(
            mode=stat.S_IFREG | stat.S_IMODE(owner.st_mode),
            uid=owner.st_uid,
            gid=owner.st_gid,
            nlink=1,
            atime=self.changed,
            mtime=self.changed,
            ctime=self.changed,
        )

    def text(self):
        """Yields the SQL text in pieces of bytes, one row each: a big table is never in memory as a whole."""
        if self.kind == "view":
            yield encode(f"{self.sql};\n")
            return
        # One transaction: else the database that reads this text would write to disk after every row.
        yield encode(f"BEGIN;\n{self.sql};\n")
        table = identifier(self.table)
        # Columns that SQLite computes (hidden <> 0) can't be inserted.
        columns = [
            identifier(name)
            for name, hidden in self.connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (self.table,))
            if hidden == 0
        ]
        names = ", ".join(columns)
        # By every column, byte by byte whatever collation the column has: the same rows always come in the same order.
        order = ", ".join(f"{number + 1} COLLATE BINARY" for number in range(len(columns)))
        for row in self.connection.execute(f"SELECT {names} FROM {table} ORDER BY {order}"):
            yield encode(f"INSERT INTO {table} ({names}) VALUES ({', '.join(map(literal, row))});\n")
        # After the rows, so that they are filled at once and no trigger fires while rows come in.
        for (sql,) in self.connection.execute(
            "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL"
            " ORDER BY type, name",
            (self.table,),
        ):
            yield encode(f"{sql};\n")
        yield b"COMMIT;\n"


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


def literal(value):
    """A value as SQL text that reads back as exactly the same value."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
        if "\0" in value or not is_utf8(raw):
            return f"CAST(X'{raw.hex()}' AS TEXT)"
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "9e999" if value > 0 else "-9e999"
    return repr(value)


def is_utf8(raw):
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def encode(text):
    return text.encode("utf-8", "surrogateescape")


# -------------------------------------------------------------------------------------------------- the folder


def list_folder(folder):
    """Yields everything below the folder, sorted; a folder comes after its contents, so that its times stay."""
    try:
        names = sorted(os.listdir(folder))
        found = os.lstat(folder)
    except OSError as error:
        yield Unreadable(folder, FT_NOOPEN, error)
        return
    for name in names:
        path = os.path.join(folder, name)
        try:
            child = os.lstat(path)
        except OSError as error:
            yield Unreadable(path, FT_NOSTAT, error)  # perhaps deleted in the meantime
            continue
        if stat.S_ISDIR(child.st_mode):
            yield from list_folder(path)
        elif stat.S_ISREG(child.st_mode) or stat.S_ISLNK(child.st_mode):
            yield DiskObject(path, child)
        else:
            JobMessage(M_WARNING, f"{printable(path)} is neither file, folder nor symlink: left out\n")
    yield DiskObject(folder, found)


class DiskObject:
    """A file, folder or symlink on disk."""

    def __init__(self, path, found):
        self.name = path
        self.found = found

    def describe(self, savepkt):
        found = self.found
        savepkt.fname = self.name
        savepkt.statp = StatPacket(
            dev=found.st_dev & 0xFFFFFFFF,  # Linux has wider ones
            ino=found.st_ino,
            mode=found.st_mode,
            nlink=found.st_nlink & 0xFFFF,
            uid=found.st_uid,
            gid=found.st_gid,
            size=found.st_size,
            atime=int(found.st_atime),  # whole seconds only
            mtime=int(found.st_mtime),
            ctime=int(found.st_ctime),
            blksize=found.st_blksize,
            blocks=found.st_blocks,
        )
        if stat.S_ISDIR(found.st_mode):
            savepkt.type = FT_DIREND
            savepkt.link = self.name.rstrip("/") + "/"  # a folder is stored under `link`, with a slash at its end
            savepkt.no_read = True  # else the host opens and reads whatever we announce
        elif stat.S_ISLNK(found.st_mode):
            savepkt.type = FT_LNK
            savepkt.link = os.readlink(self.name)
            savepkt.no_read = True
        else:
            savepkt.type = FT_REG


class Unreadable:
    """What should be in the backup and can't: announced with a type that makes the host count it as failed.

    A message alone would leave a backup behind that looks whole.
    """

    def __init__(self, path, kind, error):
        self.name = path
        self.kind = kind
        JobMessage(M_WARNING, f"{printable(path)}: {error}\n")

    def describe(self, savepkt):
        savepkt.fname = self.name
        savepkt.type = self.kind
        savepkt.statp = StatPacket()
        savepkt.no_read = True


def printable(text):
    """Messages are UTF-8; file names need not be."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
