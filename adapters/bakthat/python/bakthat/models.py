# SPDX-License-Identifier: MIT OR Apache-2.0
"""The database of backups, shared with bakthat 0.6.0 (reference, sections 10 and 12).

Statements wait for other processes, the original among them, by SQLite's busy timeout and are tried again: the journal
mode of the file is left as it is, since it belongs to the file and the original uses it too.
"""

import hashlib
import json
import logging
import os
import random
import re
import sqlite3
import time
from typing import Any, Dict, List, Optional, Tuple

import peewee
from peewee import CharField, IntegerField, Model, SmallIntegerField, TextField, fn

from bakthat.conf import DATABASE, profile_of, profiles_of
from bakthat.utils import parse_stored_name, shifted, utc_clock

log = logging.getLogger(__name__)

PATIENCE = 120  # seconds until a statement gives up waiting for another process


class Database(peewee.SqliteDatabase):
    """SQLite that keeps the original's column types and never fails because another process is writing."""

    field_types = {**peewee.SqliteDatabase.field_types, "SMALLINT": "SMALLINT"}

    def execute_sql(self, sql: str, *arguments: Any, **named: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return super().execute_sql(sql, *arguments, **named)
            except peewee.OperationalError as error:
                if "locked" not in str(error) or self.in_transaction() or time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.01, 0.1))


database = Database(DATABASE, timeout=30)


def _forget_connection() -> None:
    # A connection of SQLite must not be used, nor closed, in a forked process.
    _inherited.append(getattr(database._state, "conn", None))
    database._state.reset()


_inherited: List[Any] = []
os.register_at_fork(after_in_child=_forget_connection)


class JsonField(CharField):
    """JSON in a text column; a value that is not JSON is returned as it is."""

    def db_value(self, value: Any) -> str:
        return json.dumps(value)

    def python_value(self, value: Any) -> Any:
        try:
            return json.loads(value)
        except (TypeError, ValueError):
            return value


class FlagField(SmallIntegerField):
    """A bool as the original stores it."""

    def db_value(self, value: Any) -> Optional[int]:
        return None if value is None else int(bool(value))

    def python_value(self, value: Any) -> Optional[bool]:
        return None if value is None else bool(value)


class BaseModel(Model):
    class Meta:
        database = database

    @property
    def _data(self) -> Dict[str, Any]:
        return self.__data__

    def __getitem__(self, column: str) -> Any:
        return self.__data__[column]


class SyncedModel(BaseModel):
    """A table whose rows travel between machines; ``Sync.pk`` names them there."""

    class Sync:
        pk: Optional[str] = None


class History(BaseModel):
    data = JsonField()
    ts = IntegerField(index=True)
    action = CharField(index=True)
    model = CharField(index=True)
    pk = CharField(index=True)


def backend_hash(conf: Dict[str, Any], container: Any) -> str:
    """The hash that ties a row to an account and a container."""
    return hashlib.sha512(f"{conf.get('access_key') or ''}{container}".encode("utf-8")).hexdigest()


def hash_of_backend(backend: Any) -> str:
    """The hash of the rows that a backend, ours or a plugin's, makes."""
    container = getattr(backend, "hash_container", None) or backend.conf.get(backend.container_key) or ""
    return backend_hash(backend.conf, container)


def columns_of(backend: Any, destination: str, date: int, **columns: Any) -> Dict[str, Any]:
    """The columns of a new row of the backups that a backend has."""
    named = {"backend": destination, "backend_hash": hash_of_backend(backend), "is_deleted": False}
    return {**named, "backup_date": date, "last_updated": date, **columns}


def profile_hashes(conf: Dict[str, Any], profile: str, backend: Any = None) -> List[str]:
    """Every hash that rows of a profile may have: of both buckets, of the backends known, of the one in use."""
    import bakthat

    containers = [conf.get("s3_bucket"), conf.get("glacier_vault")]
    for known in bakthat.STORAGE_BACKEND.values():
        if hasattr(known, "container_of"):
            containers.append(known.container_of(conf, profile))
        elif isinstance(getattr(known, "container_key", None), str):
            containers.append(conf.get(known.container_key))
    hashes = {backend_hash(conf, container) for container in containers if container}
    return sorted(hashes | ({hash_of_backend(backend)} if backend is not None else set()))


def _matches(column: Any, text: str, contains: bool) -> Any:
    """A GLOB as the original does, or the text itself where it holds what GLOB takes for wildcards."""
    condition = column % (f"*{text}*" if contains else f"{text}*")
    if any(letter in text for letter in "*?["):
        place = fn.INSTR(column, text)
        condition |= (place > 0) if contains else (place == 1)
    return condition


class Backups(SyncedModel):
    """A row for each backup, deleted ones too, of every profile and destination (reference, section 12)."""

    backend = CharField(index=True)
    backend_hash = CharField(index=True, null=True)
    backup_date = IntegerField(index=True)
    filename = TextField(index=True)
    is_deleted: Any = FlagField(default=False)
    last_updated = IntegerField()
    metadata: Any = JsonField(default=dict)
    size = IntegerField(default=0)
    stored_filename = TextField(unique=True)
    tags = CharField(default="")

    class Sync:
        pk = "stored_filename"

    def __repr__(self) -> str:
        return f"<Backup: {self.stored_filename}>"

    __str__ = __repr__

    @classmethod
    def validate_model(cls) -> None:
        super().validate_model()
        if cls.__repr__.__module__ == "peewee":  # It gives each subclass one of its own.
            cls.__repr__ = cls.__str__  # type: ignore

    @classmethod
    def search(cls, query: str = "", destination: Any = "", **kwargs: Any) -> Any:
        """The rows that hold a text in a name and meet every condition given, last updated first."""
        profile = kwargs.get("profile")
        conditions = [cls.is_deleted == False]  # noqa: E712, an expression of SQL
        if query:
            conditions.append(_matches(cls.filename, query, True) | _matches(cls.stored_filename, query, True))
        if destination:
            conditions.append(cls.backend << ([destination] if isinstance(destination, str) else list(destination)))
        if profile:
            conf = profile_of(profiles_of(kwargs.get("config"), kwargs.get("conf"), profile), profile)
            conditions.append(cls.backend_hash << profile_hashes(conf, profile, kwargs.get("backend")))
        limit, date, since, tags = map(kwargs.get, ("older_than", "backup_date", "last_updated_gt", "tags"))
        conditions += [cls.backup_date < limit] if limit else []
        conditions += [cls.backup_date == date] if date else []
        conditions += [cls.last_updated >= since] if since else []
        conditions += [_matches(cls.tags, tag, True) for tag in (tags.split() if isinstance(tags, str) else tags or [])]
        return cls.select().where(*conditions).order_by(cls.last_updated.desc())

    @classmethod
    def match_filename(cls, filename: str, destination: Optional[str], **kwargs: Any) -> Optional["Backups"]:
        """The newest row of exactly this name, else the newest whose name begins with it."""
        if not destination:
            return None
        profile = kwargs.get("profile") or "default"
        conf = profile_of(profiles_of(kwargs.get("config"), kwargs.get("conf"), profile), profile)
        rows = (
            cls.select()
            .where(cls.backend == destination, cls.is_deleted == False)  # noqa: E712
            .where(cls.backend_hash << profile_hashes(conf, profile, kwargs.get("backend")))
            .order_by(cls.backup_date.desc(), cls.id.desc())
        )
        exact = (cls.filename == filename) | (cls.stored_filename == filename)
        begins = _matches(cls.filename, filename, False) | _matches(cls.stored_filename, filename, False)
        return rows.where(exact).first() or rows.where(begins).first()

    @classmethod
    def upsert(cls, **columns: Any) -> None:
        """Inserts a row, or updates the one of that ``stored_filename``."""
        known = cls.get_or_none(cls.stored_filename == columns["stored_filename"])
        columns.pop("id", None)
        if known is None:
            cls.create(**columns)
        else:
            cls.update(**columns).where(cls.id == known.id).execute()

    def set_deleted(self) -> None:
        self.is_deleted = True
        self.last_updated = shifted(utc_clock())
        self.save()

    def is_encrypted(self) -> Optional[bool]:
        return self.stored_filename.endswith((".enc", ".age")) or (self.metadata or {}).get("is_enc")

    def is_gzipped(self) -> Optional[bool]:
        return (self.metadata or {}).get("is_gzipped")

    @property
    def migrated_from(self) -> Tuple[Any, Any]:
        """The stored name that this had before it was moved into a repository, and the hash; None where it was not."""
        metadata = self.metadata if isinstance(self.metadata, dict) else {}
        return metadata.get("migrated_from"), metadata.get("migrated_hash")

    def belongs_to(self, name: str) -> bool:
        """Whether rotation and ageing of a name may touch this row: the name itself, not one that contains it."""
        if not name:
            return False
        parsed = re.match(re.escape(name) + r"\.[0-9]{14}(?:\.|$)", self.stored_filename)
        return bool(parsed) or name in (self.filename, self.stored_filename)

    @classmethod
    def from_stored_name(cls, stored_name: str, backend: Any, destination: str, size: int = 0) -> Optional["Backups"]:
        """The row, not yet saved, that a stored name alone tells of; None for names of another kind."""
        parsed = parse_stored_name(stored_name)
        if parsed is None:
            return None
        name, clock, _, container = parsed
        columns = columns_of(backend, destination, shifted(clock), filename=name, stored_filename=stored_name)
        return cls(**columns, metadata={"is_enc": bool(container)}, size=size)


class Jobs(SyncedModel):
    filename = CharField(index=True)
    job_id = CharField()

    @classmethod
    def get_job_id(cls, filename: str) -> Optional[str]:
        row = cls.get_or_none(cls.filename == filename)
        return row.job_id if row else None

    @classmethod
    def update_job_id(cls, filename: str, job_id: str) -> None:
        if not cls.update(job_id=job_id).where(cls.filename == filename).execute():
            cls.create(filename=filename, job_id=job_id)


class Inventory(SyncedModel):
    archive_id = CharField(unique=True)
    filename = CharField(index=True)

    class Sync:
        pk = "filename"

    @classmethod
    def get_archive_id(cls, filename: str) -> str:
        row = cls.get_or_none(cls.filename == filename)
        if row is None:
            raise cls.DoesNotExist(f"{filename} is not in the inventory: bakthat rebuild -d glacier asks the vault")
        return row.archive_id


class Config(BaseModel):
    key = CharField(unique=True)
    value = JsonField()

    @classmethod
    def get_key(cls, key: str, default: Any = None) -> Any:
        row = cls.get_or_none(cls.key == key)
        return row.value if row else default

    @classmethod
    def set_key(cls, key: str, value: Any = None) -> None:
        if not cls.update(value=value).where(cls.key == key).execute():
            cls.create(key=key, value=value)


TABLES = [Backups, Jobs, Inventory, Config, History]


def create_tables() -> None:
    """Makes what is missing; an existing file keeps its tables as they are."""
    database.connect(reuse_if_open=True)
    database.create_tables(TABLES, safe=True)


def backup_sqlite(path: str) -> None:
    """Writes the whole database as SQL text."""
    with open(path, "w", encoding="utf-8") as dump:
        for line in database.connection().iterdump():
            dump.write(f"{line}\n")


def restore_sqlite(path: str) -> None:
    """Puts what such a text describes in the place of the whole database, or leaves that as it is."""
    with open(path, encoding="utf-8") as dump:
        script = dump.read()
    restored = sqlite3.connect(":memory:")
    restored.executescript(script)
    restored.backup(database.connection())
    restored.close()
    create_tables()


try:
    create_tables()
except peewee.DatabaseError as unusable:
    # An import must not fail for it; the first call that needs the database says it again.
    log.error("%s: %s", DATABASE, unusable)
for legacy in ("~/.bakthat.dt", "~/.bakthat.db"):
    if os.path.exists(os.path.expanduser(legacy)):
        log.warning("%s, written before bakthat 0.4.2, is not read: bakthat rebuild finds what it names", legacy)
