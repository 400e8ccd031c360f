# SPDX-License-Identifier: MIT OR Apache-2.0
"""Backup of a MariaDB server: physical, full and incremental, or one dump for each database.

    python3:module_path=<this folder>:module_name=backstay_mariadb
    python3:module_path=<this folder>:module_name=backstay_mariadb:mode=dump:ignore=test_*

Physical backups are the stream of ``mariadb-backup``, read from its pipe by the host. An incremental one holds the
pages that changed since the job that it is based on. A restore through the plugin unpacks the streams of a chain and
puts them together: what it leaves is a data directory, ready to be started.

All options, what a restore does, limits: docs/plugins/backstay_mariadb.md.
"""

import fnmatch
import os
import re
import shlex
import shutil
import time
from urllib.parse import quote

import bareosfd
from bareosfd import CF_EXTRACT, CF_ERROR, bRC_OK, bRC_Seen, bVarCheckChanges

from BareosFdWrapper import *
from backstay_common import Child, Option, Plugin, Refused, Stream, how_it_ended, output_of, virtual_stat

PREFIX = "@MARIADB/"
NOT_DUMPED = ("information_schema", "performance_schema", "sys")
STREAM = re.compile(r".*/(?P<stem>\d{8}T\d{6}Z-(?P<level>full|incremental|differential))\.xbstream")


@BareosPlugin
class MariaDb(Plugin):
    """One object per job."""

    NAME = "backstay_mariadb"
    OPTIONS = {
        "mode": Option("physical", choices=("physical", "dump")),
        "name": Option("server"),
        "mycnf": Option(),
        "host": Option(),
        "port": Option(number=True),
        "socket": Option(),
        "user": Option(),
        "password": Option(),
        "os_user": Option(),
        "io": Option("core", choices=("core", "plugin")),
        "mariadb_backup": Option("mariadb-backup"),
        "mbstream": Option("mbstream"),
        "mariadb": Option("mariadb"),
        "mariadb_dump": Option("mariadb-dump"),
        "backup_options": Option(),
        "dump_options": Option(),
        "databases": Option(),
        "ignore": Option(),
        "restore": Option(choices=("prepared", "files", "server"), when="restore"),
        "prepare_options": Option(when="restore"),
    }

    def __init__(self, plugindef):
        super().__init__(plugindef)
        self.facts = None
        self.client = None  # the program a restored file is being piped into
        self.unpacked = {}  # stem of a restored stream: (its folder, its stat)
        self.into_server = False
        self.users_changed = False

    def complaint(self):
        complaint = super().complaint()
        if complaint is None and "/" in self.option("name"):
            complaint = f"option name={self.option('name')} must not hold a slash"
        only = ("databases", "ignore", "dump_options") if self.option("mode") == "physical" else ("backup_options",)
        for name in only:
            if complaint is None and name in self.options:
                complaint = f"option {name} does not go with mode={self.option('mode')}"
        return complaint

    # ------------------------------------------------------------------------------------------------ the server

    def defaults(self):
        """The option with which each client program finds the server: a file, as others can read command lines."""
        lines = [f"!include {os.path.abspath(self.option('mycnf'))}"] if self.option("mycnf") else []
        lines.append("[client]")
        for name in ("host", "port", "socket", "user", "password"):
            value = self.option(name)
            if value is not None:
                escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
                lines.append(f'{name} = "{escaped}"')
        path = self.private_file("my.cnf", "\n".join(lines) + "\n")
        return f"--defaults-file={path}" if self.option("mycnf") else f"--defaults-extra-file={path}"

    def ask(self, sql):
        """The rows that the server answers, as lists of texts."""
        arguments = [self.option("mariadb"), self.defaults(), "--batch", "--skip-column-names", "--execute", sql]
        text = output_of(arguments, user=self.option("os_user")).decode("utf-8", "surrogateescape")
        return [line.split("\t") for line in text.splitlines()]

    # ------------------------------------------------------------------------------------------------ backup

    def begin(self):
        # Everything that is announced is made anew: times decide nothing.
        bareosfd.SetValue(bVarCheckChanges, False)
        if self.option("mode") == "dump":
            return
        ((directory, version),) = self.ask("SELECT @@datadir, @@version")
        status = dict(self.ask("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'"))
        identity = dict(self.ask("SHOW GLOBAL VARIABLES LIKE 'server_uid'"))
        self.facts = {
            "data_directory": directory,
            "server_version": version,
            "server_uid": identity.get("server_uid"),
        }
        if not os.path.isdir(directory):
            raise Refused(f"the server's data directory {directory} is not on this system")
        if not self.is_full():
            before = self.last_remembered()
            if before["server_uid"] != self.facts["server_uid"]:
                raise Refused("this is not the server that was saved before: make a full backup")
            now = int(status.get("Innodb_lsn_current", before["to_lsn"]))
            if now < before["to_lsn"]:
                raise Refused("the server was put back to a time before the last backup: make a full backup")

    def entries(self):
        if self.option("mode") == "dump":
            for database in self.databases():
                yield Dump(self, database)
            return
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.startTime))
        stream = Physical(self, f"{PREFIX}{self.option('name')}/{stamp}-{self.level_name()}.xbstream")
        yield stream
        if stream.reached is None:
            raise Refused("the stream of mariadb-backup was not read to its end")
        yield self.remember({**self.facts, **stream.reached, "level": chr(self.level), "stream": stream.name})

    def databases(self):
        found = [row[0] for row in self.ask("SHOW DATABASES") if row[0] not in NOT_DUMPED]
        wanted = self.listed_option("databases")
        for name in wanted:
            if not any(character in name for character in "*?[") and name not in found:
                raise Refused(f"there is no database {name}")
        chosen = [name for name in found if not wanted or matches(name, wanted)]
        return sorted(name for name in chosen if not matches(name, self.listed_option("ignore")))

    def listed_option(self, name):
        return [part.strip() for part in (self.option(name) or "").split(",") if part.strip()]

    def check_file(self, fname):
        # A physical incremental adds to what the jobs before it saved; a database that was dropped has no dump now.
        return bRC_Seen if self.option("mode") == "physical" else bRC_OK

    def cancel(self):
        if isinstance(self.current, Stream):
            self.current.interrupt()

    # ------------------------------------------------------------------------------------------------ restore

    def create(self, restorepkt):
        stream = STREAM.fullmatch(restorepkt.original_file_name)
        way = self.option("restore") or ("prepared" if stream else "files")
        if way == "files":
            return super().create(restorepkt)
        if stream and way == "server":
            raise Refused("restore=server is for dumps: say restore=prepared or restore=files")
        if not stream and way == "prepared":
            raise Refused("restore=prepared is for physical backups: say restore=server or restore=files")
        if way == "server":
            self.into_server = True
            self.users_changed |= restorepkt.original_file_name.endswith("/mysql.sql")
            return CF_EXTRACT
        if not restorepkt.ofname.startswith("/"):
            self.error(f"{restorepkt.ofname} needs a target folder to be restored into")
            return CF_ERROR
        name = "data" if stream["level"] == "full" else stream["stem"]
        folder = os.path.join(os.path.dirname(restorepkt.ofname), name)
        try:
            os.makedirs(folder, exist_ok=True)
            if os.listdir(folder):
                raise Refused(f"{folder} is not empty")
            if name == "data":
                os.chmod(folder, 0o700)
        except OSError as error:
            raise Refused(f"cannot make {folder}: {error.strerror}") from error
        self.unpacked[stream["stem"]] = (folder, restorepkt.statp)
        return CF_EXTRACT

    def open_restored(self, name):
        stream = STREAM.fullmatch(name)
        if stream and stream["stem"] in self.unpacked:
            arguments = [self.option("mbstream"), "-x", "-C", self.unpacked[stream["stem"]][0]]
            self.client = Child(arguments, reads=True)
        elif self.into_server:
            self.client = Child([self.option("mariadb"), self.defaults()], user=self.option("os_user"), reads=True)
        else:
            return super().open_restored(name)
        self.descriptor = self.client.pipe.fileno()
        return self.descriptor

    def close_restored(self):
        if self.client is None:
            return super().close_restored()
        client, self.client, self.descriptor = self.client, None, None
        status = client.end()
        said = client.said()
        client.forget()
        if status:
            raise Refused(f"{client.program} {how_it_ended(status)}: {said}")

    def set_file_attributes(self, restorepkt):
        return bRC_OK if self.client is not None else super().set_file_attributes(restorepkt)

    def finish_restore(self):
        if self.users_changed:
            self.ask("FLUSH PRIVILEGES")
        if not self.unpacked:
            return
        (first, *more) = sorted(self.unpacked)
        if not first.endswith("-full") or any(stem.endswith("-full") for stem in more):
            raise Refused("a data directory is made of one full backup and those that go on from it")
        data, owner = self.unpacked[first]
        prepare = [self.option("mariadb_backup"), *self.own_settings(), "--prepare", f"--target-dir={data}"]
        prepare += shlex.split(self.option("prepare_options") or "")
        output_of(prepare)
        for stem in more:
            folder = self.unpacked[stem][0]
            output_of([*prepare, f"--incremental-dir={folder}"])
            shutil.rmtree(folder)
        try:
            for folder, _, files in os.walk(data):
                for path in (folder, *(os.path.join(folder, name) for name in files)):
                    os.lchown(path, owner.st_uid, owner.st_gid)
        except OSError as error:
            self.warning(f"could not set the owner of {data} and what is in it: {error.strerror}")
        self.info(f"the data directory {data} is ready to be started")

    def own_settings(self):
        return [f"--defaults-file={os.path.abspath(self.option('mycnf'))}"] if self.option("mycnf") else []

    def clean_up(self):
        if self.client is not None:
            self.client.kill()
            self.client = None
        super().clean_up()


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


class Physical(Stream):
    """The stream of ``mariadb-backup``."""

    def __init__(self, plugin, name):
        super().__init__(name, virtual_stat(0o600, os.stat(plugin.facts["data_directory"])))
        self.plugin = plugin
        self.reached = None  # positions in the log, known when the stream has ended

    def start(self):
        option, top = self.plugin.option, self.plugin.temporary_folder()
        arguments = [option("mariadb_backup"), self.plugin.defaults(), "--backup", "--stream=xbstream"]
        arguments += [f"--target-dir={top}/work", f"--extra-lsndir={top}/reached"]
        if not self.plugin.is_full():
            arguments.append(f"--incremental-lsn={self.plugin.last_remembered()['to_lsn']}")
        arguments += shlex.split(option("backup_options") or "")
        return Child(arguments, user=option("os_user"))

    def finish(self, status, child):
        if status:
            raise Refused(f"{child.program} {how_it_ended(status)}: {child.said()}")
        folder = os.path.join(self.plugin.temporary_folder(), "reached")
        for name in ("mariadb_backup_checkpoints", "xtrabackup_checkpoints"):
            try:
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    pairs = dict(line.split("=", 1) for line in file if "=" in line)
            except FileNotFoundError:
                continue
            values = {key.strip(): value.strip() for key, value in pairs.items()}
            self.reached = {key: int(values[key]) for key in ("from_lsn", "to_lsn", "last_lsn")}
            return
        raise Refused(f"{child.program} did not say how far it came")


class Dump(Stream):
    """A database as SQL text."""

    def __init__(self, plugin, database):
        # A database's name may hold any character, a file's name may not.
        safe = quote(database.encode("utf-8", "surrogateescape"), safe=" @+,;=()[]{}!$&'")
        super().__init__(f"{PREFIX}{plugin.option('name')}/{safe}.sql", virtual_stat(0o600))
        self.plugin = plugin
        self.database = database

    def start(self):
        option = self.plugin.option
        arguments = [option("mariadb_dump"), self.plugin.defaults()]
        arguments += ["--single-transaction", "--quick", "--routines", "--events", "--triggers", "--hex-blob"]
        arguments += [*shlex.split(option("dump_options") or ""), "--databases", self.database]
        return Child(arguments, user=option("os_user"))

    def finish(self, status, child):
        if status:
            self.plugin.error(f"{self.name} is not whole: {child.program} {how_it_ended(status)}: {child.said()}")
