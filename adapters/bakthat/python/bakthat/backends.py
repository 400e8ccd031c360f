# SPDX-License-Identifier: MIT OR Apache-2.0
"""Where backups are kept: S3, Glacier, Swift, a Backstay repository, a folder (reference, section 13)."""

import io
import json
import logging
import os
import shutil
import tempfile
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple
from urllib.parse import quote

from bakthat import _native
from bakthat.aws import Job, Vault, signed
from bakthat.conf import CONFIG_FILE, DEFAULT_LOCATION, BakthatError, config
from bakthat.models import Inventory, Jobs

log = logging.getLogger(__name__)


class Downloaded(io.BufferedReader):
    """A downloaded file, open for reading and removed when it is closed; ``name`` is its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(io.FileIO(path))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.unlink(self.path)


def downloaded(fetch: Callable[[str], Any]) -> Optional[BinaryIO]:
    """The file that ``fetch`` writes, or None if it says False; nothing is left where it fails."""
    descriptor, path = tempfile.mkstemp(prefix="bakthat_")
    os.close(descriptor)
    try:
        if fetch(path) is not False:
            return Downloaded(path)
    except BaseException:
        os.unlink(path)
        raise
    os.unlink(path)
    return None


class BakthatBackend:
    """What every backend derives from, those of plugins too."""

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

    def keys(self) -> Tuple[str, str]:
        return str(self.conf.get("access_key") or ""), str(self.conf.get("secret_key") or "")

    def region(self) -> str:
        return str(self.conf.get("region_name") or DEFAULT_LOCATION)


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
        access_key, secret_key = self.keys()
        self.store = _native.ObjectStore.s3(
            self.container,
            access_key=access_key,
            secret_key=secret_key,
            region=self.region(),
            endpoint_url=self.conf.get("endpoint_url"),
            storage_class=self.conf.get("storage_class"),
        )
        self.store.ensure()
        self.bucket = Bucket(self)

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        last = -1

        def cb(complete: int, total: int) -> None:
            nonlocal last
            percent = int(complete * 100 / total) if total else 100
            if percent > last:
                last = percent
                log.info("Upload completion: %d%%", percent)

        cb(0, 1)
        reduced = "REDUCED_REDUNDANCY" if kwargs.get("s3_reduced_redundancy") else None
        self.store.upload(keyname, filename, progress=cb, storage_class=reduced)
        cb(1, 1)

    def download(self, keyname: str) -> Optional[BinaryIO]:
        try:
            return super().download(keyname)
        except (_native.NativeError, OSError) as error:
            if "InvalidObjectState" not in str(error):
                raise
        status = self.store.restore_request(keyname, int(self.conf.get("restore_days") or 7))
        log.info("%s is in an archive class of S3: its restore is %s, try again later", keyname, status)
        return None


class Key:
    """An object of a bucket, with what public plugins use of boto's keys."""

    def __init__(self, bucket: "Bucket", name: Optional[str] = None) -> None:
        self.bucket, self.name = bucket, name
        self.key = name

    @property
    def size(self) -> Optional[int]:
        return self.bucket.store.size(self.name)

    @property
    def last_modified(self) -> Optional[str]:
        return self.bucket.request("HEAD", self.name).headers["last-modified"]

    def exists(self) -> bool:
        return self.size is not None

    def delete(self) -> None:
        self.bucket.store.delete(self.name)

    def set_acl(self, acl: str) -> None:
        if acl != "private":  # What every object is from the start.
            self.bucket.request("PUT", self.name, "?acl", {"x-amz-acl": acl}).close()

    def generate_url(self, expires: int, method: str = "GET") -> str:
        return self.bucket.store.presign(self.name, int(expires), method)

    def set_contents_from_filename(self, filename: str, **kwargs: Any) -> None:
        self.bucket.store.upload(self.name, filename)

    def set_contents_from_string(self, data: Any, **kwargs: Any) -> None:
        self.bucket.store.put(self.name, data.encode("utf-8") if isinstance(data, str) else data)

    def set_contents_from_file(self, file: BinaryIO, **kwargs: Any) -> None:
        with tempfile.NamedTemporaryFile(prefix="bakthat_") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            self.bucket.store.upload(self.name, copy.name)

    def get_contents_to_filename(self, filename: str, **kwargs: Any) -> None:
        if not self.bucket.store.download(self.name, filename):
            raise BakthatError(f"{self.bucket.name} holds no {self.name}")

    def get_contents_to_file(self, file: BinaryIO, **kwargs: Any) -> None:
        with downloaded(self.get_contents_to_filename) as copy:
            shutil.copyfileobj(copy, file)

    def get_contents_as_string(self, **kwargs: Any) -> bytes:
        data = self.bucket.store.get(self.name)
        if data is None:
            raise BakthatError(f"{self.bucket.name} holds no {self.name}")
        return data


class Bucket:
    """A bucket, with what public plugins use of boto's."""

    def __init__(self, backend: S3Backend) -> None:
        self.backend, self.store, self.name = backend, backend.store, backend.container

    def request(self, method: str, name: str, query: str = "", headers: Dict[str, str] = {}) -> Any:
        endpoint = self.backend.conf.get("endpoint_url") or f"https://s3.{self.backend.region()}.amazonaws.com"
        url = f"{endpoint.rstrip('/')}/{quote(self.name, safe='-._~')}/{quote(name, safe='/-._~')}{query}"
        return signed(method, url, self.backend.keys(), self.backend.region(), "s3", headers)

    def new_key(self, name: Optional[str] = None) -> Key:
        return Key(self, name)

    def get_key(self, name: str) -> Optional[Key]:
        key = Key(self, name)
        return key if key.exists() else None

    def get_all_keys(self) -> List[Key]:
        return [Key(self, name) for name in self.store.list()]

    def list(self) -> Iterator[Key]:
        return iter(self.get_all_keys())

    __iter__ = list

    def delete_key(self, name: Any) -> None:
        self.store.delete(getattr(name, "name", name))


class SwiftBackend(ObjectBackend):
    name = "swift"
    container_key = "s3_bucket"

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.container = self.need(self.container_key)
        user, password = self.keys()
        self.store = _native.ObjectStore.swift(
            self.container,
            auth_url=self.need("auth_url"),
            auth_version=str(self.conf.get("auth_version") or "1"),
            user=user,
            password=password,
            region=self.conf.get("region_name") or None,
            insecure=bool(self.conf.get("insecure")),
        )
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


class BackstayBackend(BakthatBackend):
    """A Backstay repository: each backup is a snapshot, deduplicated and encrypted with the repository's password."""

    name = "backstay"
    container_key = "repository"
    needs_keys = False

    def __init__(self, conf: Dict[str, Any] = {}, profile: str = "default") -> None:
        super().__init__(conf, profile)
        self.container = self.need(self.container_key)
        password = self.conf.get("repository_password")
        if self.conf.get("repository_password_file"):
            with open(os.path.expanduser(self.conf["repository_password_file"]), "rb") as file:
                password = file.read().rstrip(b"\r\n")
        if not password:
            raise BakthatError(f"The {profile} profile has neither repository_password_file nor repository_password")
        password = password if isinstance(password, bytes) else str(password).encode("utf-8")
        options = list(self.conf.get("repository_options") or [])
        self.repository = _native.Repository(os.path.expanduser(self.container), password, options=options)

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        self.repository.backup(filename, os.path.basename(filename), keyname, time=os.path.getmtime(filename))

    def download(self, keyname: str) -> Optional[BinaryIO]:
        found = downloaded(lambda path: self.repository.download(keyname, path))
        if found is None:
            raise BakthatError(f"{self.container} holds no {keyname}")
        return found

    def restore_into(self, keyname: str, folder: str) -> None:
        if not self.repository.restore(keyname, folder):
            raise BakthatError(f"{self.container} holds no {keyname}")

    def delete(self, keyname: str) -> None:
        self.repository.delete(keyname)

    def ls(self) -> List[str]:
        return self.repository.list()

    def stored_size(self, keyname: str) -> Optional[int]:
        return self.repository.size(keyname)

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
        self.vault = Vault(self.container, self.keys(), self.region(), self.conf.get("endpoint_url"))

    def upload(self, keyname: str, filename: str, **kwargs: Any) -> None:
        archive_id = self.vault.upload(filename, keyname)
        Inventory.create(filename=keyname, archive_id=archive_id)

    def download(self, keyname: str, job_check: bool = False) -> Any:
        archive_id = Inventory.get_archive_id(keyname)
        job = self._known_job(keyname)
        if job is None:
            job = self.retrieve_archive(archive_id, None)
            Jobs.update_job_id(keyname, job.id)
        log.info("Job %s: %s (%s/%s)", job.action, job.status_code, job.creation_date, job.completion_date)
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

    def _known_job(self, filename: str) -> Optional[Job]:
        """The job that is under way for a name; one that the service has forgotten is forgotten here too."""
        job_id = self.get_job_id(filename)
        try:
            return self.vault.get_job(job_id) if job_id else None
        except FileNotFoundError:
            self.delete_job(filename)
            return None

    def get_job_id(self, filename: str) -> Optional[str]:
        return Jobs.get_job_id(filename)

    def delete_job(self, filename: str) -> None:
        Jobs.delete().where(Jobs.filename == filename).execute()

    def retrieve_inventory(self, jobid: Optional[str]) -> Job:
        return self.vault.get_job(jobid) if jobid else self.vault.start_job(Type="inventory-retrieval", Format="JSON")

    def retrieve_archive(self, archive_id: str, jobid: Optional[str]) -> Job:
        if jobid:
            return self.vault.get_job(jobid)
        return self.vault.start_job(Type="archive-retrieval", ArchiveId=archive_id)

    def rebuild_inventory(self) -> bool:
        """Fills the inventory from the vault's own; False while Glacier is still making it up."""
        job = self._known_job(self.backup_key)
        if job is None:
            job = self.retrieve_inventory(None)
            Jobs.update_job_id(self.backup_key, job.id)
        log.info("Job %s: %s (%s/%s)", job.action, job.status_code, job.creation_date, job.completion_date)
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
