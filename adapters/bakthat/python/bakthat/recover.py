# SPDX-License-Identifier: MIT OR Apache-2.0
"""Moving archives into a Backstay repository, and rows that were lost back out of a storage."""

import getpass
import json
import logging
import os
from datetime import timedelta
from typing import Any, Dict, List

import bakthat
from bakthat import _native
from bakthat.conf import CONFIG_FILE, BakthatError, Maybe, profile_of, profiles_of
from bakthat.models import Backups, hash_of_backend, profile_hashes
from bakthat.utils import DATE, asked, parse_stored_name, safe_text, shifted, temporary_folder, true_epoch, utc_clock

log = logging.getLogger("bakthat")


def rebuild(destination: Maybe = None, profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any) -> List[Any]:
    """Makes the rows that the database lacks out of the names of the stored objects; the new records."""
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    backend, destination, _ = bakthat._get_store_backend(profiles, destination, profile)
    if hasattr(backend, "rebuild_inventory") and not backend.rebuild_inventory():
        log.info("Glacier has not completed its inventory yet: try again later")
        return []
    made, known = [], {name for row in Backups.select() for name in (row.stored_filename, row.migrated_from[0])}
    for name in dict.fromkeys(backend.ls()):
        if name in known:
            continue
        size = backend.stored_size(name) if hasattr(backend, "stored_size") else 0
        record = Backups.from_stored_name(name, backend, destination, size or 0)
        if record is None:
            log.info("%s is not the name of a backup", name)
            continue
        record.save(force_insert=True)
        log.info("Rebuilt %s", name)
        made.append(record)
    return made


def migrate(
    query: str = "",
    destination: Maybe = None,
    profile: str = "default",
    config: Any = CONFIG_FILE,
    delete_source: bool = False,
    dry_run: bool = False,
    **kwargs: Any,
) -> List[Any]:
    """Moves archives of a destination into the profile's Backstay repository; their records.

    Each is verified member by member before its row names the repository; the old object stays unless
    ``delete_source``, which deletes those of backups moved earlier too. What was moved is not moved again.
    """
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    source, destination, conf = bakthat._get_store_backend(profiles, destination, profile)
    target = bakthat._get_store_backend(profiles, "backstay", profile)[0]
    if destination == "backstay":
        raise BakthatError("These backups are in a repository already: name the destination to migrate from, with -d")
    rows = Backups.search(safe_text(query), destination, profile=profile, config=profiles, backend=source)
    there, moved, password = set(target.repository.names(make=not dry_run)), [], kwargs.get("password")
    if delete_source:
        earlier = Backups.search(safe_text(query), "backstay", profile=profile, config=profiles, backend=target)
        _delete_moved(earlier, there, source, profile_hashes(conf, profile, source), dry_run)
    for record in list(rows):
        parsed = parse_stored_name(record.stored_filename)
        if (record.metadata or {}).get("KeyValue") or parsed is None:
            log.info("%s stays where it is: it is no archive", record.stored_filename)
            continue
        log.info("%s %s", "Would move" if dry_run else "Moving", record.stored_filename)
        if record.is_encrypted() and not (password or dry_run):
            password = os.environ.get("BAKTHAT_PASSWORD") or asked(getpass.getpass, "Password: ")
        if dry_run or _move(record, parsed, source, target, password, there):
            moved.append(record)
            if delete_source and not dry_run:
                source.delete(record.migrated_from[0])
    return moved


def _delete_moved(rows: Any, there: Any, source: Any, hashes: List[str], dry_run: bool) -> None:
    """Deletes the old objects of backups that a repository has since an earlier migration."""
    held = set(source.ls())
    for record in rows:
        old_name, old_hash = record.migrated_from
        if old_name in held and old_hash in hashes and record.stored_filename in there:
            log.info("%s %s, which was moved", "Would delete" if dry_run else "Deleting", old_name)
            if not dry_run:
                source.delete(old_name)


def _move(record: Any, parsed: Any, source: Any, target: Any, password: Any, there: Any) -> bool:
    """Stores one backup's contents as a snapshot, reads them back, and lets the row name it."""
    old_name, (name, clock, kind, container) = record.stored_filename, parsed
    found = source.download(old_name)
    if found is None:
        log.info("%s is not available yet: try again later", old_name)
        return False
    with found, temporary_folder() as folder:
        moment = true_epoch(record.backup_date)
        path = _native.as_archive(record, found, password, folder, moment)
        new_name = old_name.removesuffix(container)
        # A name that another backup has (of that second, without the password) makes way for one of the next second.
        while _is_other(new_name, record, target, path, there):
            clock += timedelta(seconds=1)
            new_name = f"{name}.{clock:{DATE}}{kind}"
        if new_name not in there:
            named = {"tags": (record.tags or "").split(), "time": moment}
            target.repository.backup_tar(path, new_name, host=(record.metadata or {}).get("client"), **named)
            differing = _differing_members(path, target, new_name)
            if differing:
                target.delete(new_name)
                raise BakthatError(f"{old_name} did not come back the same from the repository: {differing}")
    moved = {"is_enc": False, "migrated_from": old_name, "migrated_hash": record.backend_hash}
    record.metadata = {**(record.metadata or {}), **moved}
    record.stored_filename = new_name
    record.size = target.stored_size(new_name)
    record.backend = "backstay"
    record.backend_hash = hash_of_backend(target)
    record.last_updated = shifted(utc_clock())
    record.save()
    return True


def _is_other(name: str, record: Any, target: Any, path: str, there: Any) -> bool:
    """Whether a stored name belongs to another backup: it has a row, or a snapshot that this archive did not make."""
    row = Backups.get_or_none(Backups.stored_filename == name)
    if row is not None and row.id != record.id:
        return True
    return name in there and bool(_differing_members(path, target, name))


def _differing_members(path: str, target: Any, name: str) -> str:
    """The names of members that an archive and a snapshot do not have alike, or nothing."""
    with target.download(name) as stored:
        return ", ".join(_native.differing_members(path, stored)[:5])


def _glacier(profile: str, config: Any, kwargs: Dict[str, Any]) -> Any:
    profiles = profiles_of(config, kwargs.get("conf"), profile)
    return bakthat.STORAGE_BACKEND["glacier"](profile_of(profiles, profile), profile)


def show_glacier_inventory(profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any) -> None:
    """Logs the inventory that was saved in the S3 bucket."""
    log.info("%s", json.dumps(_glacier(profile, config, kwargs).load_archives_from_s3(), indent=4))


def show_local_glacier_inventory(profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any) -> None:
    """Logs the names that the local inventory has."""
    for name in _glacier(profile, config, kwargs).ls():
        log.info("%s", name)


def backup_glacier_inventory(profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any) -> None:
    """Saves the local inventory in the S3 bucket."""
    _glacier(profile, config, kwargs).backup_inventory()


def restore_glacier_inventory(profile: str = "default", config: Any = CONFIG_FILE, **kwargs: Any) -> None:
    """Fills the local inventory from the S3 bucket."""
    _glacier(profile, config, kwargs).restore_inventory()
