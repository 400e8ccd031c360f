# SPDX-License-Identifier: MIT OR Apache-2.0
"""bakthat: compress, encrypt and store files, with the names and the behaviour of bakthat 0.6.0.

The functions here are the contract (reference, section 4). They look up ``STORAGE_BACKEND`` and ``Backups`` in this
module whenever they are called, because plugins put their own in their place. The heavy work is in ``bakthat._native``.
"""

import contextlib
import functools
import getpass
import logging
import os
import socket
import time
import uuid
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import peewee

from bakthat import _native, backends, conf, models, plugin, utils  # noqa: F401, attributes of the package
from bakthat.backends import BackstayBackend, BakthatBackend, GlacierBackend, LocalBackend
from bakthat.backends import RotationConfig, S3Backend, SwiftBackend
from bakthat.conf import CONFIG_FILE, DEFAULT_DESTINATION, DEFAULT_LOCATION, EXCLUDE_FILES, BadValue, BakthatError
from bakthat.conf import Maybe, MissingKey, config, events, load_config, profile_of, profiles_of
from bakthat.models import Backups, Config, columns_of
from bakthat.plugin import plugin_setup, setup_plugins
from bakthat.rotation import reasons_to_keep, settings_of
from bakthat.sync import BakSyncer, bakmanager_hook, bakmanager_periodic_backups
from bakthat.utils import _interval_string_to_seconds, safe_text, shifted, size_text, temporary_folder, utc_clock

__version__ = "0.6.0"

log = logging.getLogger("bakthat")

STORAGE_BACKEND: Dict[str, Any] = {
    known.name: known for known in (S3Backend, GlacierBackend, SwiftBackend, BackstayBackend, LocalBackend)
}


class BakthatFilter(logging.Filter):
    """Lets through what bakthat and the root logger say, and warnings of others."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.startswith("bakthat") or record.name == "root" or record.levelno >= logging.WARNING


# --------------------------------------------------------------------------------------------- what all functions share


def _get_store_backend(conf: Any, destination: Maybe = None, profile: str = "default") -> Tuple[Any, str, Any]:
    """The backend of a destination, its name, and the profile; plugins are loaded before the backend is looked up."""
    conf = profile_of(profiles_of(conf), profile)
    setup_plugins(conf)
    destination = _destination(destination, conf)
    try:
        backend = STORAGE_BACKEND[destination]
    except KeyError:
        raise MissingKey(f"Unknown destination {destination}: known are {', '.join(sorted(STORAGE_BACKEND))}") from None
    return backend(conf, profile), destination, conf


def _destination(destination: Optional[str], conf: Dict[str, Any]) -> str:
    return destination or conf.get("default_destination") or DEFAULT_DESTINATION


def _get_exclude(exclude_file: str) -> Callable[[str], bool]:
    """A function that tells whether a path is excluded by the patterns of a file."""
    return _native.Excludes(exclude_file)


def _display_backups(rows: Any) -> None:
    """Logs a line for each row."""
    for row in rows:
        date = datetime.fromtimestamp(float(row.backup_date)).isoformat()
        tags = f"({row.tags})" if row.tags else ""
        log.info("%s\t%-8s\t%-8s\t%s %s", date, row.backend, size_text(row.size), row.stored_filename, tags)


def _remove(backend: Any, record: Any) -> None:
    log.info("Deleting %s", record.stored_filename)
    backend.delete(record.stored_filename)
    record.set_deleted()


def _finish_deletions(backend: Any) -> None:
    """Lets a backend make room; what goes wrong there is told, since the backups are deleted already."""
    try:
        getattr(backend, "after_deletions", lambda: None)()
    except (_native.NativeError, OSError) as error:
        log.error("The room of deleted backups was not given back: %s", error)


# --------------------------------------------------------------------------------------------------------------- backup


@contextlib.contextmanager
def _reserved_name(backend: Any, parts: Tuple[str, str]) -> Iterator[Tuple[str, datetime]]:
    """A stored name that no backup has, in this second or in a later one, and its UTC clock.

    A row of the table ``config`` holds the name against other processes until the backup has its own row.
    """
    while True:
        clock = utc_clock()
        stored_filename = f"{parts[0]}.{clock:{utils.DATE}}{parts[1]}"
        key = f"reserved:{stored_filename}"
        Config.delete().where(Config.key.startswith("reserved:"), Config.value < int(time.time()) - 86400).execute()
        try:
            Config.create(key=key, value=int(time.time()))
        except peewee.IntegrityError:
            time.sleep(0.1)
            continue
        try:
            if not _taken(backend, stored_filename):
                yield stored_filename, clock
                return
        finally:
            Config.delete().where(Config.key == key).execute()
        time.sleep(0.1)


def _taken(backend: Any, stored_filename: str) -> bool:
    if Backups.select().where(Backups.stored_filename == stored_filename).count():
        return True
    try:
        return hasattr(backend, "stored_size") and backend.stored_size(stored_filename) is not None
    except (_native.NativeError, OSError):
        return False  # Accounts that may only write cannot ask; the upload says what is wrong beyond that.


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise BakthatError("The working directory is there no more: name a file or a directory") from None


def _ask_password() -> Optional[str]:
    """A password from the terminal; None if its confirmation differs."""
    missing = "set BAKTHAT_PASSWORD or use --prompt no"
    password = utils.asked(getpass.getpass, "Password (blank to disable encryption): ", missing)
    if password and password != utils.asked(getpass.getpass, "Password confirmation: ", missing):
        log.error("Password confirmation doesn't match")
        return None
    return password


def _tag_text(tags: Any) -> str:
    """Tags as a row has them."""
    try:
        return safe_text(tags if isinstance(tags, str) else " ".join(tags or []))
    except TypeError:
        raise BadValue("tags must be text or a list of texts") from None


def backup(
    filename: Any = None,
    destination: Maybe = None,
    profile: str = "default",
    config: Any = CONFIG_FILE,
    prompt: str = "yes",
    tags: Any = [],
    key: Maybe = None,
    exclude_file: Maybe = None,
    s3_reduced_redundancy: bool = False,
    **kwargs: Any,
) -> Any:
    """Stores a file or a folder; the new record, or None if the password's confirmation differs.

    filename: what to store, by default the working directory.
    destination: s3, glacier, swift, backstay, local or a plugin's; by default the profile's.
    profile, config: a section of the configuration, and its file or a dict of profiles; ``conf`` is one profile itself.
    password: encrypts; empty for none. Without it BAKTHAT_PASSWORD holds, else it is asked for, unless ``prompt`` is "no".
    tags: text, or a list of texts. custom_filename: the name in the row, in the place of the file's own.
    key: tells the monitoring service of it. exclude_file: the patterns of what is left out of a folder.
    """
    backend, destination, conf = _get_store_backend(
        profiles_of(config, kwargs.get("conf"), profile), destination, profile
    )
    session_id = str(uuid.uuid4())
    events.before_backup(session_id)

    filename = _working_directory() if filename is None else os.fsdecode(filename)
    if not filename:
        raise BadValue("No file to back up was named: without a name it is the working directory")
    if exclude_file:
        os.stat(os.path.expanduser(exclude_file))
    log.info("Backing up %s", safe_text(filename))
    as_tree = hasattr(backend, "restore_into")
    excluding: Dict[str, Any] = {"exclude_file": exclude_file or None, "exclude_files": EXCLUDE_FILES}
    source = _native.Source(filename, conf, log, as_tree=as_tree, **excluding)
    named, tag_text = safe_text(kwargs.get("custom_filename") or source.arcname), _tag_text(tags)
    password = kwargs["password"] if "password" in kwargs else os.environ.get("BAKTHAT_PASSWORD")
    if password is None and not as_tree and str(prompt).lower() != "no":
        password = _ask_password()
        if password is None:
            return None
    encrypted, client = source.container_ending(password), socket.gethostname()
    metadata = {"is_enc": bool(encrypted), "client": client}

    with _reserved_name(backend, (safe_text(source.base), source.kind + encrypted)) as (stored_filename, clock):
        # Nothing is stored before all that its row says is known to fit.
        columns = columns_of(backend, destination, shifted(clock), filename=named, stored_filename=stored_filename)
        if as_tree:
            log.info("Uploading...")
            moment = clock.replace(tzinfo=timezone.utc).timestamp()
            size = source.save(backend.repository, stored_filename, tag_text.split(), client, moment)
        else:
            with temporary_folder() as folder:
                payload = source.payload(folder, password if encrypted else None, _tell_of_blowfish)
                size = os.path.getsize(payload)
                log.info("Uploading...")
                backend.upload(stored_filename, payload, s3_reduced_redundancy=bool(s3_reduced_redundancy))
        try:
            record = Backups.create(**columns, metadata=metadata, size=size, tags=tag_text)
        except Exception:
            log.error("%s is deleted again: its row could not be written", stored_filename)
            backend.delete(stored_filename)
            raise
    BakSyncer(conf).sync_auto()
    if key:
        bakmanager_hook(conf, record, key)
    events.on_backup(session_id, record)
    return record


@functools.lru_cache(maxsize=None)
def _tell_of_blowfish() -> None:
    """Logs it once in a process."""
    log.info("Blowfish, as bakthat 0.6.0 had it, is weak: encryption: age in the profile is the better setting")


# -------------------------------------------------------------------------------------------------------------- restore


def restore(
    filename: str, destination: Maybe = None, profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any
) -> Any:
    """Restores the newest match into the current folder; its record, or None if nothing matched or is there yet."""
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    backend, destination, conf = _get_store_backend(profiles, destination, profile)
    if not filename:
        log.error("No file to restore, use -f to specify one.")
        return None
    filename = safe_text(filename)
    record = Backups.match_filename(filename, destination, profile=profile, config=profiles, backend=backend)
    record = record or _unrecorded(backend, destination, filename)
    if record is None:
        log.error("No file matched.")
        return None
    session_id = str(uuid.uuid4())
    events.before_restore(session_id)
    log.info("Restoring %s", record.stored_filename)
    password = kwargs.get("password")
    if record.is_encrypted() and not password:
        password = os.environ.get("BAKTHAT_PASSWORD") or utils.asked(getpass.getpass, "Password: ")
        if not password:
            raise BakthatError(f"{record.stored_filename} is encrypted: it needs a password")

    log.info("Downloading...")
    if hasattr(backend, "restore_into"):
        backend.restore_into(record.stored_filename, os.getcwd())
    else:
        job_check = {"job_check": kwargs["job_check"]} if kwargs.get("job_check") else {}
        if job_check:
            log.info("Job Check: %s", job_check)
        found = backend.download(record.stored_filename, **job_check)
        if job_check:
            log.info("Job Check Request")
            return found
        if found is None:
            return None
        with found, temporary_folder() as folder:
            _native.put_in_place(record, found, password, folder, os.getcwd(), log)
    events.on_restore(session_id, record)
    return record


def _unrecorded(backend: Any, destination: str, stored_filename: str) -> Any:
    """A record made from the full stored name of a backup that the database does not know but the storage holds."""
    record = Backups.from_stored_name(stored_filename, backend, destination)
    if record is None:
        return None
    if hasattr(backend, "stored_size"):
        return record if backend.stored_size(stored_filename) is not None else None
    return record if stored_filename in backend.ls() else None


# --------------------------------------------------------------------------------------------- delete, ageing, rotation


def delete(
    filename: str, destination: Maybe = None, profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any
) -> Any:
    """Deletes the newest match; its record, or None if nothing matched."""
    if not filename:
        log.error("No file to delete, use -f to specify one.")
        return None
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    destination = _destination(destination, profile_of(profiles, profile))
    known = destination in STORAGE_BACKEND
    backend = None if known else _get_store_backend(profiles, destination, profile)[0]
    record = Backups.match_filename(safe_text(filename), destination, profile=profile, config=profiles, backend=backend)
    if record is None:
        log.error("No file matched.")
        return None
    backend = backend or _get_store_backend(profiles, destination, profile)[0]
    session_id = str(uuid.uuid4())
    events.before_delete(session_id)
    _remove(backend, record)
    _finish_deletions(backend)
    events.on_delete(session_id, record)
    return record


def _named_set(filename: str, conf: Dict[str, Any], found: Any) -> List[Any]:
    """The rows of a search that belong to a name, or all with the setting ``wide_match``."""
    rows = list(found) if filename else []
    if conf.get("wide_match"):
        return rows
    named = [row for row in rows if row.belongs_to(filename)]
    if len(named) < len(rows):
        log.info("%d backups of other names contain %s and are not touched", len(rows) - len(named), filename)
    return named


def delete_older_than(
    filename: Maybe,
    interval: str,
    profile: str = "default",
    config: Any = CONFIG_FILE,
    destination: Maybe = None,
    **kwargs: Any,
) -> List[Any]:
    """Deletes the backups of a name that are older than an interval; their records."""
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    backend, destination, conf = _get_store_backend(profiles, destination, profile)
    session_id = str(uuid.uuid4())
    events.before_delete_older_than(session_id)
    limit = shifted(utc_clock()) - _interval_string_to_seconds(interval)
    named = {"older_than": limit, "profile": profile, "config": profiles, "backend": backend}
    filename = safe_text(filename or "")
    deleted = []
    for record in _named_set(filename, conf, Backups.search(filename, destination, **named)):
        _remove(backend, record)
        deleted.append(record)
    if deleted:
        _finish_deletions(backend)
    events.on_delete_older_than(session_id, deleted)
    return deleted


def rotate_backups(
    filename: Maybe, destination: Maybe = None, profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any
) -> List[Any]:
    """Deletes the backups of a name that the profile's rotation does not keep; their records.

    With ``dry_run=True`` nothing is deleted and no event is fired: what would go is logged and returned.
    """
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    backend, destination, conf = _get_store_backend(profiles, destination, profile)
    settings = settings_of(RotationConfig(conf, profile).conf)
    dry_run, session_id = bool(kwargs.get("dry_run")), str(uuid.uuid4())
    if not dry_run:
        events.before_rotate_backups(session_id)
    filename = safe_text(filename or "")
    found = Backups.search(filename, destination, profile=profile, config=profiles, backend=backend)
    by_date: Dict[datetime, Any] = {}
    for record in _named_set(filename, conf, found):
        by_date.setdefault(datetime.fromtimestamp(float(record.backup_date)), record)
    kept = reasons_to_keep(by_date, utc_clock(), settings)
    deleted = []
    for date, record in sorted(by_date.items()):
        if dry_run:
            gone = "delete: outside of every window, or not the oldest in it"
            reason = f"keep: {kept[date]}" if date in kept else gone
            log.info("%s\t%s\t%s", date.isoformat(), record.stored_filename, reason)
        if date in kept:
            continue
        if not dry_run:
            try:
                _remove(backend, record)
            except Exception:
                log.exception("Error when deleting %s", record)
                continue
        deleted.append(record)
    if dry_run:
        return deleted
    if deleted:
        _finish_deletions(backend)
    events.on_rotate_backups(session_id, deleted)
    return deleted


# -------------------------------------------------------------------------------------------------------------- looking


def show(
    query: str = "",
    destination: Any = "",
    tags: Any = "",
    profile: str = "default",
    config: Any = CONFIG_FILE,
    **kwargs: Any,
) -> None:
    """Logs a line for each backup found."""
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    _display_backups(Backups.search(safe_text(query or ""), destination, profile=profile, tags=tags, config=profiles))


def ls(destination: Maybe = None, profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any) -> List[str]:
    """Logs and returns the names of the stored objects."""
    backend, _, _ = _get_store_backend(profiles_of(config, kwargs.get("conf"), profile), destination, profile)
    log.info("%s", backend.container)
    names = list(backend.ls())
    for name in names:
        log.info("%s", name)
    return names


def info(
    filename: Any = None, destination: Maybe = None, profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any
) -> Any:
    """Logs when a file was last backed up; the newest record, or None."""
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    name = safe_text(filename or _working_directory()).rstrip("/").split("/")[-1]
    destination = _destination(destination, profile_of(profiles, profile))
    record = Backups.match_filename(name, destination, profile=profile, config=profiles)
    if record is None:
        log.info("No matching backup found for %s", name)
        return None
    rows = Backups.search(record.filename, destination, profile=profile, config=profiles)
    versions = sum(row.filename == record.filename for row in rows)
    date = datetime.fromtimestamp(float(record.backup_date)).isoformat()
    log.info("Last backup date: %s (%d versions)", date, versions)
    return record


def periodic_backups(config: Any = CONFIG_FILE, profile: str = "default", **kwargs: Any) -> None:
    """Logs what the monitoring service knows of the keys."""
    bakmanager_periodic_backups(profile_of(profiles_of(config, kwargs.get("conf"), profile), profile))


def sync(**kwargs: Any) -> None:
    """Exchanges rows with the sync server."""
    BakSyncer(kwargs.get("conf")).sync()


def reset_sync(**kwargs: Any) -> None:
    """Forgets the sync server's client id and the time of the last exchange."""
    BakSyncer(kwargs.get("conf")).reset_sync()


from bakthat.command import app, configure, configure_backups_rotation, main  # noqa: E402, needs the functions above
from bakthat.recover import backup_glacier_inventory, migrate, rebuild, restore_glacier_inventory  # noqa: E402
from bakthat.recover import show_glacier_inventory, show_local_glacier_inventory  # noqa: E402
