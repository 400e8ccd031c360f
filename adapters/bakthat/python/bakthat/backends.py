# SPDX-License-Identifier: MIT OR Apache-2.0
"""Where backups are kept: S3, Glacier, Swift, a Backstay repository, a folder (reference, section 13)."""

import contextlib
import json
import logging
import os
from functools import partial
from typing import Any, BinaryIO, Callable, Dict, List, Optional

from bakthat import _native
from bakthat._native import Bucket, GlacierJob, Key
from bakthat.conf import CONFIG_FILE, BakthatError, config
from bakthat.models import Inventory, Jobs
from bakthat.utils import temporary_folder

__all__ = ["Bucket", "Key"]

log = logging.getLogger(__name__)


def downloaded(fetch: Callable[[str], Any]) -> Optional[BinaryIO]:
    """The file that ``fetch`` writes, open and without a name: it goes when it is closed. None if ``fetch`` says False."""
    with temporary_folder() as folder:
        path = os.path.join(folder, "object")
        return None if fetch(path) is False else open(path, "rb")


class BakthatBackend:
    """What every backend derives from, those of plugins too."""

    name: str
    container_key: Any = None
    container: Any = None
    needs_keys = True

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        self.profile = profile
        self.conf = conf or config.get(profile) or {}
        if not self.conf:
            log.error("No %s profile defined in %s.", profile, CONFIG_FILE)
        elif self.needs_keys and not (self.conf.get("access_key") and self.conf.get("secret_key")):
            log.error("Missing access_key/secret_key in %s profile (%s).", profile, CONFIG_FILE)

    def need(self, key: str) -> str:
        """A setting as text; a clear error where it is missing."""
        value = self.conf.get(key)
        if value in (None, ""):
            raise BakthatError(f"The {self.profile} profile has no {key}: add it to {CONFIG_FILE}")
        return str(value)


class RotationConfig(BakthatBackend):
    """The rotation settings of a profile."""

    needs_keys = False

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.conf = self.conf.get("rotation") or {}


class ObjectBackend(BakthatBackend):
    """What backends with one object for each backup share."""

    store: Any

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        self.store.upload(keyname, filename)

    def download(self, keyname: str) -> Optional[BinaryIO]:
        found = downloaded(lambda path: self.store.download(keyname, path))
        if found is None:
            raise BakthatError(f"{self.container} holds no {keyname}")
        return found

    def delete(self, keyname: str) -> None:
        self.store.delete(keyname)

    def ls(self) -> List[str]:
        return self.store.list()

    def stored_size(self, keyname: str) -> Optional[int]:
        return self.store.size(keyname)


class S3Backend(ObjectBackend):
    name = "s3"
    container_key = "s3_bucket"

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.container = self.need(self.container_key)
        self.store = _native.ObjectStore.s3(self.container, self.conf)
        self.store.ensure()
        self.bucket = Bucket(self.store, self.container)

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        reduced = "REDUCED_REDUNDANCY" if kwargs.get("s3_reduced_redundancy") else None
        told = partial(log.info, "Upload completion: %d%%")
        self.store.upload(keyname, filename, percent=told, storage_class=reduced)

    def download(self, keyname: str) -> Optional[BinaryIO]:
        try:
            return super().download(keyname)
        except (_native.NativeError, OSError) as error:
            if "InvalidObjectState" not in str(error):
                raise
        status = self.store.restore_request(keyname, int(self.conf.get("restore_days") or 7))
        log.info("%s is in an archive class of S3: its restore is %s, try again later", keyname, status)
        return None


class SwiftBackend(ObjectBackend):
    name = "swift"
    container_key = "s3_bucket"

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.container = self.need(self.container_key)
        self.need("auth_url")
        self.store = _native.ObjectStore.swift(self.container, self.conf)
        self.store.ensure()


class LocalBackend(ObjectBackend):
    name = "local"
    container_key = "local_path"
    needs_keys = False

    @classmethod
    def container_of(cls, conf: Dict[str, Any], profile: str) -> Optional[str]:
        path = conf.get(cls.container_key)
        return os.path.join(os.path.expanduser(path), str(conf.get("s3_bucket") or profile)) if path else None

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.need(self.container_key)
        self.container = self.hash_container = self.container_of(self.conf, profile)
        self.store = _native.ObjectStore.local(self.container)
        self.store.ensure()


class BackstayBackend(ObjectBackend):
    """A Backstay repository: each backup is a snapshot, deduplicated and encrypted with the repository's password."""

    name = "backstay"
    container_key = "repository"
    needs_keys = False

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.container = self.need(self.container_key)
        self.store = self.repository = _native.Repository.of_profile(profile, self.container, self.conf)

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        self.repository.backup(filename, os.path.basename(filename), keyname, time=os.path.getmtime(filename))

    def restore_into(self, keyname: str, folder: str) -> None:
        if not self.repository.restore(keyname, folder):
            raise BakthatError(f"{self.container} holds no {keyname}")

    def after_deletions(self) -> None:
        """Gives the room of deleted backups back, unless the profile says ``prune: false``."""
        if self.conf.get("prune", True):
            self.repository.prune()


class GlacierBackend(BakthatBackend):
    name = "glacier"
    container_key = "glacier_vault"
    backup_key = "bakthat_glacier_inventory"

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.container = self.need(self.container_key)
        self.vault = _native.GlacierVault(self.container, self.conf)

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        archive_id = self.vault.upload(filename, keyname)
        Inventory.create(filename=keyname, archive_id=archive_id)

    def download(self, keyname: str, job_check: bool = False) -> Any:
        archive_id = Inventory.get_archive_id(keyname)
        job = self._job(keyname, lambda: self.retrieve_archive(archive_id, None))
        if job.completed and job.status_code == "Failed":
            self.delete_job(keyname)
            raise BakthatError(f"Glacier could not retrieve {keyname}: try again, which starts a new job")
        if job.completed:
            log.info("Downloading...")
            return downloaded(job.download_to)
        log.info("Not completed yet")
        return job if job_check else None

    def delete(self, keyname: str) -> None:
        archive_id = Inventory.get_archive_id(keyname)
        self.vault.delete_archive(archive_id)
        Inventory.delete().where(Inventory.archive_id == archive_id).execute()

    def ls(self) -> List[str]:
        return [row.filename for row in Inventory.select()]

    def _job(self, filename: str, start: Callable[[], GlacierJob]) -> GlacierJob:
        """The job that is under way for a name; a new one in the place of one that the service has forgotten."""
        job_id, job = self.get_job_id(filename), None
        if job_id:
            with contextlib.suppress(FileNotFoundError):
                job = self.vault.get_job(job_id)
        if job is None:
            job = start()
            Jobs.update_job_id(filename, job.id)
        log.info("Job %s: %s (%s/%s)", job.action, job.status_code, job.creation_date, job.completion_date)
        return job

    def get_job_id(self, filename: str) -> Optional[str]:
        return Jobs.get_job_id(filename)

    def delete_job(self, filename: str) -> None:
        Jobs.delete().where(Jobs.filename == filename).execute()

    def retrieve_inventory(self, jobid: Optional[str]) -> GlacierJob:
        return self.vault.get_job(jobid) if jobid else self.vault.retrieve_inventory()

    def retrieve_archive(self, archive_id: str, jobid: Optional[str]) -> GlacierJob:
        return self.vault.get_job(jobid) if jobid else self.vault.retrieve_archive(archive_id)

    def rebuild_inventory(self) -> bool:
        """Fills the inventory from the vault's own; False while Glacier is still making it up."""
        job = self._job(self.backup_key, lambda: self.retrieve_inventory(None))
        if not job.completed:
            return False
        archives = json.loads(job.get_output())["ArchiveList"]
        self._fill_inventory((entry["ArchiveDescription"], entry["ArchiveId"]) for entry in archives)
        self.delete_job(self.backup_key)
        return True

    def _fill_inventory(self, entries: Any) -> None:
        for filename, archive_id in entries:
            if Inventory.get_or_none(Inventory.archive_id == archive_id) is None:
                Inventory.create(filename=filename, archive_id=archive_id)

    def load_archives(self) -> List[Any]:
        return []

    def load_archives_from_s3(self) -> Any:
        data = S3Backend(self.conf, self.profile).store.get(self.backup_key)
        return json.loads(data) if data else {}

    def backup_inventory(self) -> None:
        rows = [{"filename": row.filename, "archive_id": row.archive_id} for row in Inventory.select()]
        S3Backend(self.conf, self.profile).store.put(self.backup_key, json.dumps(rows).encode("utf-8"))

    def restore_inventory(self) -> None:
        archives = self.load_archives_from_s3()
        if isinstance(archives, dict):
            self._fill_inventory(archives.items())
        else:
            self._fill_inventory((entry["filename"], entry["archive_id"]) for entry in archives)

    def upgrade_from_shelve(self) -> None:
        raise BakthatError(
            "The shelve of releases before 0.4 is not read: bakthat rebuild -d glacier asks the vault instead"
        )
