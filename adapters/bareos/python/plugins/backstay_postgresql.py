# SPDX-License-Identifier: MIT OR Apache-2.0
"""Physical backup of a PostgreSQL server: a base backup and its write-ahead log (WAL), restored to any point in time.

    python3:module_path=<this folder>:module_name=backstay_postgresql:wal_archive=/srv/wal:os_user=postgres

A full backup is a non-exclusive base backup: the server goes on working while its files are read. An incremental or
differential one is the WAL since the job that it is based on, from the folder where the server archives it; without
such a folder every backup is a full one, and a slot makes the server keep the WAL that it needs. Everything that has
to be asked of the server goes through one ``psql`` that lives as long as the backup, because the backup ends with the
session that began it.

All options, what a restore does, limits: docs/plugins/backstay_postgresql.md.
"""

import os
import re
import shlex
import stat
import time
import uuid
from json import loads

import bareosfd
from bareosfd import bRC_Seen, bVarCheckChanges

from BareosFdWrapper import *
from backstay_common import (
    Child,
    File,
    Folder,
    Option,
    Plugin,
    Refused,
    Symlink,
    Text,
    Vanished,
    how_it_ended,
    printable,
    stat_packet,
    virtual_stat,
)

# Of these folders in the data directory only the folder itself is part of a base backup.
EMPTY_FOLDERS = frozenset(
    ("pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans")
)
# Files at its top that belong to the running server, or to another backup.
LEFT_OUT = frozenset(
    (
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "backup_manifest",
        "backup_manifest.tmp",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "recovery.signal",
        "standby.signal",
    )
)
UNLOGGED = re.compile(r"(\d+)_init")
RELATION = re.compile(r"(\d+)(?:_(?:fsm|vm))?(?:\.\d+)?")
TEMPORARY = re.compile(r"t\d+_\d+(?:_(?:fsm|vm))?(?:\.\d+)?")
# A segment in the archive; archive commands that compress add a suffix.
SEGMENT = re.compile(r"([0-9A-F]{24})(\.(?:gz|bz2|xz|zst|lz4))?")
HISTORY = re.compile(r"([0-9A-F]{8})\.history(?:\.(?:gz|bz2|xz|zst|lz4))?")
DECOMPRESS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}

TARGETS = ("recovery_target_time", "recovery_target_lsn", "recovery_target_xid", "recovery_target_name")


# ---------------------------------------------------------------------------------------------------- positions


def number_of(lsn):
    """A position in the WAL, ``16/B374D848``, as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def segment_name(timeline, number, size):
    in_file = (1 << 32) // size
    return f"{timeline:08X}{number // in_file:08X}{number % in_file:08X}"


def segment_number(name, size):
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:24], 16)


def last_segment(lsn, size):
    """The number of the segment that holds the byte before this position."""
    return (number_of(lsn) - 1) // size


def ancestors(history, timeline):
    """The timelines that lead to this one, oldest first, as (timeline, position at which it was left or None)."""
    found = []
    for line in history.splitlines():
        fields = line.split("#")[0].split()
        if len(fields) >= 2 and fields[0].isdigit():
            found.append((int(fields[0]), number_of(fields[1])))
    return [*found, (timeline, None)]


# ---------------------------------------------------------------------------------------------------- the server


class Psql:
    """One session with the server, held by one ``psql``. Each answer is JSON, a row a line."""

    def __init__(self, plugin):
        option = plugin.option
        environment = {
            "PGAPPNAME": "backstay_postgresql",
            "PGCLIENTENCODING": "UTF8",
            "PGDATABASE": option("dbname"),
        }
        for name, variable in (("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER"), ("password", "PGPASSWORD")):
            if option(name) is not None:
                environment[variable] = str(option(name))
        arguments = [option("psql"), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]
        self.child = Child(arguments, user=option("os_user"), environment=environment, talks=True)
        self.output = self.child.process.stdout
        self.pending = b""
        self.run("SET standard_conforming_strings = on")
        self.run("SET statement_timeout = 0")
        self.run("SET lock_timeout = 0")
        if option("role") is not None:
            self.run(f"SET ROLE {identifier(option('role'))}")

    def run(self, sql):
        """Runs a statement; the lines it printed."""
        token = uuid.uuid4().hex
        said = self.child.log_length()
        try:
            self.child.pipe.write(f"{sql};\n\\echo {token} :ERROR\n".encode())
        except OSError:
            raise self.lost() from None
        lines = []
        while True:
            line = self.line()
            if line.startswith(token):
                break
            lines.append(line)
        if line != f"{token} false":
            raise Refused(f"the server refused: {self.child.said(since=said)}")
        return lines

    def line(self):
        while b"\n" not in self.pending:
            piece = self.output.read(65536)
            if not piece:
                raise self.lost()
            self.pending += piece
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode("utf-8")

    def lost(self):
        status = self.child.end()
        said = self.child.said()
        self.child.forget()
        return Refused(f"no session with the server: {self.child.program} {how_it_ended(status)}: {said}")

    def rows(self, sql):
        return [loads(line) for line in self.run(f"SELECT row_to_json(answer) FROM ({sql}) AS answer") if line]

    def row(self, sql):
        return self.rows(sql)[0]

    def end(self):
        """Ends the session, and with it a backup that was not stopped."""
        self.child.kill()


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


# ---------------------------------------------------------------------------------------------------- entries


class Control(Text):
    """``global/pg_control``, which the server writes again and again: read until two looks agree."""

    def __init__(self, path):
        super().__init__(path, b"", None)

    def prepare(self):
        try:
            before = None
            for _ in range(100):
                with open(self.name, "rb") as file:
                    self.data = file.read()
                    self.statp = stat_packet(os.fstat(file.fileno()))
                if self.data == before:
                    return
                before = self.data
        except OSError as error:
            raise Refused(f"cannot read {self.name}: {error.strerror}") from error
        raise Refused(f"{self.name} is never at rest")


@BareosPlugin
class Postgresql(Plugin):
    """One object per job."""

    NAME = "backstay_postgresql"
    OPTIONS = {
        "wal_archive": Option(),
        "host": Option(),
        "port": Option(number=True),
        "user": Option(),
        "password": Option(),
        "dbname": Option("postgres"),
        "role": Option(),
        "os_user": Option(),
        "psql": Option("psql"),
        "fast": Option("yes", choices=("yes", "no")),
        "archive_wait": Option(300, number=True),
        "io": Option("core", choices=("core", "plugin")),
        "recovery": Option("yes", choices=("yes", "no"), when="restore"),
        "restore_command": Option(when="restore"),
        "recovery_target": Option(choices=("immediate",), when="restore"),
        "recovery_target_time": Option(when="restore"),
        "recovery_target_lsn": Option(when="restore"),
        "recovery_target_xid": Option(when="restore"),
        "recovery_target_name": Option(when="restore"),
        "recovery_target_inclusive": Option(choices=("on", "off"), when="restore"),
        "recovery_target_timeline": Option(when="restore"),
        "recovery_target_action": Option("promote", choices=("promote", "pause", "shutdown"), when="restore"),
    }

    def __init__(self, plugindef):
        super().__init__(plugindef)
        self.server = None
        self.facts = None
        self.where = None  # what a restore puts before every name; None if that is not so simple
        self.restored_data = None  # the data directory, if a base backup was restored
        self.restored_archives = set()  # (folder, suffix) of the segments that were restored
        self.restored_map = None

    # ------------------------------------------------------------------------------------------------ backup

    def begin(self):
        archive = self.option("wal_archive")
        if archive is None and not self.is_full():
            raise Refused(f"a {self.level_name()} backup needs the option wal_archive")
        if archive is not None and not os.path.isdir(archive):
            raise Refused(f"wal_archive={archive} is no folder")
        self.server = Psql(self)
        self.facts = facts = self.server.row(
            "SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby,"
            " current_setting('archive_mode') AS archive_mode, current_setting('wal_level') AS wal_level,"
            " current_setting('data_directory') AS data_directory,"
            " ARRAY[current_setting('config_file'), current_setting('hba_file'),"
            " current_setting('ident_file')]"
            # Files that those include, as far as a setting of theirs is in force.
            " || ARRAY(SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL) AS files,"
            " pg_size_bytes(current_setting('wal_segment_size')) AS segment_size,"
            " system_identifier::text AS system, catalog_version_no AS catalog FROM pg_control_system()"
        )
        if facts["version"] < 100000:
            raise Refused("the server is older than PostgreSQL 10")
        if facts["version"] >= 140000:
            self.server.run("SET idle_session_timeout = 0")
        if facts["standby"]:
            raise Refused("the server is a standby: save the primary")
        if facts["wal_level"] == "minimal" or (archive is not None and facts["archive_mode"] == "off"):
            raise Refused("the server archives no WAL: set wal_level, archive_mode and archive_command (see the page)")
        if not os.path.isdir(facts["data_directory"]):
            raise Refused(f"the server's data directory {facts['data_directory']} is not on this system")
        facts["timeline"] = int(
            self.server.row("SELECT pg_walfile_name(pg_current_wal_insert_lsn()) AS name")["name"][:8], 16
        )
        # What belongs to a base backup is decided here and not by the times of files.
        bareosfd.SetValue(bVarCheckChanges, False)

    def cancel(self):
        if self.server is not None:
            self.server.child.interrupt()

    def clean_up(self):
        if self.server is not None:
            self.server.end()
            self.server = None
        super().clean_up()

    def check_file(self, fname):
        # An incremental backup adds to what the jobs before it saved and takes nothing away.
        return bRC_Seen

    def entries(self):
        if self.is_full():
            yield from self.base_backup()
        else:
            yield from self.wal_since(self.last_remembered())

    def base_backup(self):
        facts, server = self.facts, self.server
        data = facts["data_directory"]
        if self.option("wal_archive") is None:
            # It ends with the session.
            slot = literal(f"backstay_{os.getpid()}_{self.jobId}")
            server.row(f"SELECT pg_create_physical_replication_slot({slot}, true, true)::text AS slot")
        label, fast = literal(f"backstay {self.jobName}"), "true" if self.option("fast") == "yes" else "false"
        if facts["version"] >= 150000:
            start = server.row(f"SELECT pg_backup_start({label}, {fast})::text AS lsn")["lsn"]
        else:
            start = server.row(f"SELECT pg_start_backup({label}, {fast}, false)::text AS lsn")["lsn"]
        tablespaces = {
            str(row["oid"]): row["path"]
            for row in server.rows(
                "SELECT oid::bigint, pg_tablespace_location(oid) AS path FROM pg_tablespace ORDER BY oid"
            )
            if row["path"].startswith("/")
        }
        yield File(os.path.join(data, "PG_VERSION"))
        yield from self.data_directory(data)
        for path in tablespaces.values():
            yield from self.tablespace(path)
        yield Control(os.path.join(data, "global/pg_control"))

        if facts["version"] >= 150000:
            stop = server.row("SELECT lsn::text AS lsn, labelfile, spcmapfile FROM pg_backup_stop(false)")
        else:
            stop = server.row("SELECT lsn::text AS lsn, labelfile, spcmapfile FROM pg_stop_backup(false, false)")
        for name, text in (("backup_label", stop["labelfile"]), ("tablespace_map", stop["spcmapfile"])):
            if text:
                text = text.encode("utf-8")
                owner = os.stat(data)
                yield Text(os.path.join(data, name), text, virtual_stat(0o600, owner, len(text)))
        yield Folder(data)
        for path in sorted({os.path.realpath(path) for path in facts["files"] if path}):
            if not path.startswith(os.path.realpath(data) + "/"):
                yield File(path)

        size, timeline = facts["segment_size"], facts["timeline"]
        first, last = number_of(start) // size, last_segment(stop["lsn"], size)
        needed = [segment_name(timeline, number, size) for number in range(first, last + 1)]
        if self.option("wal_archive") is None:
            for name in needed:
                yield Segment(os.path.join(data, "pg_wal", name))
        else:
            yield from self.archived(needed)
        yield self.memory(stop["lsn"], needed[-1], start_lsn=start, tablespaces=tablespaces)

    def data_directory(self, data):
        """Everything in the data directory but the folder itself, PG_VERSION and what is saved last."""
        for child in listed(data):
            if child.name in LEFT_OUT or child.name == "PG_VERSION":
                continue
            if child.name in EMPTY_FOLDERS:
                # pg_wal may be a link to another disk: it comes back as a folder.
                yield Folder(child.path)
                if child.name == "pg_wal":
                    yield Folder(os.path.join(child.path, "archive_status"))
            else:
                yield from self.contents(child, data)

    def tablespace(self, path):
        """The part of a tablespace that belongs to this server (others may share the folder), and the folder."""
        version = self.facts["version"] // 10000
        own = f"PG_{version}_{self.facts['catalog']}"
        for child in listed(path):
            if child.name == own:
                yield from self.contents(child, path)
        yield Folder(path)

    def contents(self, child, data):
        """Entries of one name in a folder, and of all below it."""
        if child.name.startswith(("pgsql_tmp", "pg_internal.init")):
            return
        if child.is_symlink():
            if os.path.basename(os.path.dirname(child.path)) == "pg_tblspc":
                return  # the server makes these links anew, from tablespace_map
            if child.is_dir():
                self.warning(f"{child.path} is a link to a folder: the link is saved, what it points to is not")
            yield Symlink(child.path)
        elif child.is_dir():
            children = listed(child.path)
            unlogged = {match[1] for match in (UNLOGGED.fullmatch(one.name) for one in children) if match}
            for one in children:
                relation = RELATION.fullmatch(one.name)
                if relation and relation[1] in unlogged:
                    continue  # a recovery empties these relations, by their init fork
                if not TEMPORARY.fullmatch(one.name):
                    yield from self.contents(one, data)
            yield Folder(child.path)
        elif child.is_file(follow_symlinks=False):
            if child.path != os.path.join(data, "global/pg_control"):
                yield File(child.path)

    # ------------------------------------------------------------------------------------------------ WAL

    def wal_since(self, before):
        """The WAL from where the earlier job ended up to now."""
        facts = self.facts
        size, timeline = facts["segment_size"], facts["timeline"]
        if before["system"] != facts["system"] or before["segment_size"] != size:
            raise Refused("this is not the server that was saved before: make a full backup")
        stop = self.server.row("SELECT pg_switch_wal()::text AS lsn")["lsn"]
        line = ancestors(self.history(timeline), timeline)
        left = dict(line).get(before["timeline"], -1)
        if left is not None and left < number_of(before["stop_lsn"]):
            raise Refused("the server was put back to a time before the last backup: make a full backup")
        begins = [(line[0][0], 0)]
        begins += [(line[index + 1][0], line[index][1] // size) for index in range(len(line) - 1)]
        first = min(
            [segment_number(before["stop_wal"], size) + 1]
            + [begin for number, begin in begins if number > before["timeline"]]
        )
        needed = []
        for number in range(first, last_segment(stop, size) + 1):
            on = max(timeline for timeline, begin in begins if begin <= number)
            needed.append(segment_name(on, number, size))
        yield from self.archived(needed)
        before_tablespaces = before.get("tablespaces", {})
        for row in self.server.rows(
            "SELECT oid::bigint, spcname, pg_tablespace_location(oid) AS path FROM pg_tablespace ORDER BY oid"
        ):
            if row["path"].startswith("/") and str(row["oid"]) not in before_tablespaces:
                self.warning(
                    f"the tablespace {row['spcname']} is newer than the last full backup, and a restore needs its"
                    f" folder {row['path']}: make a full backup"
                )
        last = needed[-1] if needed else before["stop_wal"]
        yield self.memory(stop if needed else before["stop_lsn"], last, tablespaces=before_tablespaces)

    def history(self, timeline):
        """The text of the timeline's history file."""
        if timeline == 1:
            return ""
        name = f"{timeline:08X}.history"
        for folder in (os.path.join(self.facts["data_directory"], "pg_wal"), self.option("wal_archive")):
            try:
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    return file.read()
            except FileNotFoundError:
                continue
        raise Refused(f"{name} is neither in pg_wal nor in the WAL archive: make a full backup")

    def archived(self, needed):
        """Entries of these segments, of all history files, and of the archive's folder."""
        archive = self.option("wal_archive")
        found, histories = self.wait_for(needed)
        for name in sorted(histories):
            yield File(os.path.join(archive, name))
        for name in needed:
            yield Segment(os.path.join(archive, found[name]))
        yield Folder(archive)

    def wait_for(self, needed):
        """Waits until the server has archived these segments; their file names by segment, and the history files."""
        archive = self.option("wal_archive")
        in_server = os.path.join(self.facts["data_directory"], "pg_wal")
        until = time.monotonic() + self.option("archive_wait")
        gone = None
        while True:
            found, histories = {}, []
            try:
                names = os.listdir(archive)
            except OSError as error:
                raise Refused(f"cannot list wal_archive={archive}: {error.strerror}") from error
            for name in names:
                segment, history = SEGMENT.fullmatch(name), HISTORY.fullmatch(name)
                if segment:
                    found[segment[1]] = name
                elif history and int(history[1], 16) <= self.facts["timeline"]:
                    histories.append(name)
            # While .ready is there the server has not heard of the command's success: the file may be half a file.
            missing = [
                name
                for name in needed
                if name not in found or os.path.exists(os.path.join(in_server, "archive_status", name + ".ready"))
            ]
            if not missing:
                return found, histories
            if missing[0] == gone:
                raise Refused(f"{missing[0]} is neither in the WAL archive nor in pg_wal: make a full backup")
            if not os.path.exists(os.path.join(in_server, missing[0])):
                gone = missing[0]  # unless it was archived and removed after we had looked
            if self.cancelled:
                raise Refused("cancelled")
            if time.monotonic() > until:
                state = self.server.row("SELECT last_failed_wal, last_failed_time FROM pg_stat_archiver")
                said = f"; its last failure was at {state['last_failed_time']}" if state["last_failed_wal"] else ""
                raise Refused(
                    f"the server has not archived {missing[0]} within {self.option('archive_wait')} seconds{said}:"
                    " see its log and archive_command"
                )
            time.sleep(0.1)

    def memory(self, stop_lsn, stop_wal, **more):
        """The restore object: where the next job goes on, and what a restore needs to know."""
        facts = self.facts
        return self.remember(
            {
                "level": chr(self.level),
                "system": facts["system"],
                "server_version": facts["version"],
                "segment_size": facts["segment_size"],
                "timeline": int(stop_wal[:8], 16),
                "stop_lsn": stop_lsn,
                "stop_wal": stop_wal,
                "data_directory": facts["data_directory"],
                "wal_archive": self.option("wal_archive"),
                **more,
            }
        )

    # ------------------------------------------------------------------------------------------------ restore

    def create(self, restorepkt):
        name, saved_as = restorepkt.ofname, restorepkt.original_file_name
        if self.remembered:
            data = self.remembered[-1][1]["data_directory"]
            if saved_as == os.path.join(data, "PG_VERSION"):
                self.refuse_data_directory(os.path.dirname(name))
            elif saved_as == os.path.join(data, "global/pg_control"):
                self.restored_data = os.path.dirname(os.path.dirname(name))
                self.where = name[: -len(saved_as)] if name.endswith(saved_as) else None
            elif saved_as == os.path.join(data, "tablespace_map"):
                self.restored_map = name
        segment = SEGMENT.fullmatch(os.path.basename(name))
        if segment and os.path.basename(os.path.dirname(name)) != "pg_wal":
            self.restored_archives.add((os.path.dirname(name), segment[2] or ""))
        return super().create(restorepkt)

    def refuse_data_directory(self, data):
        """A base backup comes into an empty folder: files of another state beside it would ruin both."""
        try:
            if os.listdir(data):
                raise Refused(f"the data directory {data} is not empty: end its server and empty it first")
        except FileNotFoundError:
            pass

    def finish_restore(self):
        if self.restored_data is None or self.option("recovery") == "no":
            return
        if self.restored_map is not None:
            self.move_tablespaces()
        version, archive = (self.remembered[-1][1][name] for name in ("server_version", "wal_archive"))
        settings = [("restore_command", self.option("restore_command") or self.restore_command())]
        chosen = [(name, self.option(name)) for name in ("recovery_target", *TARGETS) if self.option(name) is not None]
        if len(chosen) > 1:
            raise Refused(f"{chosen[0][0]} and {chosen[1][0]} cannot both be the target of the recovery")
        if archive is None and not self.option("restore_command"):
            if chosen:
                raise Refused(f"{chosen[0][0]} needs a backup with a WAL archive: this one has its own WAL only")
            self.info(f"the data directory {self.restored_data} is ready to be started")
            return
        settings += chosen
        for name in ("recovery_target_inclusive", "recovery_target_timeline"):
            if self.option(name) is not None:
                settings.append((name, self.option(name)))
        if chosen:
            settings.append(("recovery_target_action", self.option("recovery_target_action")))
        lines = "".join(f"{name} = '{setting_text(value)}'\n" for name, value in settings)
        if version >= 120000:
            self.write_beside("postgresql.auto.conf", "ab", f"\n# Added by a restore.\n{lines}")
            self.write_beside("recovery.signal", "wb", "")
        else:
            self.write_beside("recovery.conf", "wb", lines)
        self.info(
            f"the data directory {self.restored_data} is ready: started, the server recovers from the WAL archive"
        )

    def restore_command(self):
        steps = []
        for folder, suffix in sorted(self.restored_archives):
            name = shlex.quote(folder.replace("%", "%%") + "/%f" + suffix)
            copy = f'{DECOMPRESS[suffix]} -dc {name} > "%p"' if suffix else f'cp {name} "%p"'
            steps.append(f"{{ test -f {name} && {copy}; }}")
        return " || ".join(steps) or "false"

    def move_tablespaces(self):
        """tablespace_map names the folders that were saved: a server must find those that were restored."""
        if self.where is None:
            self.warning(f"{self.restored_map} names the folders of the saved server: put the restored ones there")
            return
        if self.where in ("", "/"):
            return
        prefix = self.where.replace("\\", "\\\\").replace("\n", "\\\n")
        with open(self.restored_map, encoding="utf-8") as file:
            text = file.read()
        moved = re.sub(r"(?m)^(\d+) (?=/)", lambda match: f"{match[1]} {prefix}", text)
        with open(self.restored_map, "w", encoding="utf-8") as file:
            file.write(moved)

    def write_beside(self, name, mode, text):
        path = os.path.join(self.restored_data, name)
        try:
            owner = os.stat(os.path.join(self.restored_data, "PG_VERSION"))
            with open(path, mode) as file:
                file.write(text.encode("utf-8"))
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(owner.st_mode))
        except OSError as error:
            raise Refused(f"could not write {path}: {error.strerror}") from error


class Segment(File):
    """A segment of the WAL, which must be there: without it the backup is worth nothing."""

    def prepare(self):
        try:
            super().prepare()
        except Vanished:
            raise Refused(f"{self.name}, which the backup needs, was removed while it was being saved") from None


def listed(folder):
    """The children of a folder, sorted; none if it is gone."""
    try:
        with os.scandir(folder) as children:
            return sorted(children, key=lambda child: child.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Refused(f"cannot list {printable(folder)}: {error.strerror}") from error


def setting_text(value):
    return value.replace("\\", "\\\\").replace("'", "''")
