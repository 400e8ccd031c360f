# SPDX-License-Identifier: MIT OR Apache-2.0
"""BakHelper for backup scripts, and KeyValue for small values in a bucket (reference, sections 16 and 17)."""

import gzip
import json
import logging
import os
import shutil
import tempfile
import time
from typing import Any, Optional, Tuple

import bakthat
from bakthat import _native
from bakthat.backends import S3Backend
from bakthat.conf import BadValue
from bakthat.models import columns_of, hash_of_backend
from bakthat.sync import BakSyncer

log = logging.getLogger(__name__)


class BakHelper:
    """A script's backups under one name; as a context manager inside a temporary folder, its working directory."""

    def __init__(self, backup_name: Optional[str] = None, **kwargs: Any) -> None:
        self.backup_name = backup_name
        self.dir_prefix = f"{backup_name or 'bakthat'}_"
        self.destination = kwargs.get("destination")
        self.password = kwargs.get("password", "")
        self.profile = kwargs.get("profile", "default")
        self.conf = kwargs.get("conf", {})
        self.tags = kwargs.get("tags", [])
        self.key = kwargs.get("key")
        self.syncer: Optional[BakSyncer] = None

    def __enter__(self) -> "BakHelper":
        self.old_cwd = os.getcwd()
        self.tmpd = tempfile.mkdtemp(prefix=self.dir_prefix)
        os.chdir(self.tmpd)
        log.info("New current working directory: %s.", self.tmpd)
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            os.chdir(self.old_cwd)
            log.info("Back to %s", self.old_cwd)
        finally:
            shutil.rmtree(self.tmpd, ignore_errors=True)
        if self.syncer is not None:
            self.sync()

    def _named(self, kwargs: Any, *names: str) -> Any:
        return {name: kwargs.get(name, getattr(self, name)) for name in ("destination", "profile", "conf", *names)}

    def backup(self, filename: Any = None, **kwargs: Any) -> Any:
        """Stores a file or folder, by default the temporary folder, under the helper's name."""
        named = {"custom_filename": self.backup_name, **kwargs, **self._named(kwargs, "password", "tags", "key")}
        return bakthat.backup(self.tmpd if filename is None else filename, **named)

    def restore(self, filename: str, **kwargs: Any) -> Any:
        return bakthat.restore(filename, **{**kwargs, **self._named(kwargs, "password")})

    def delete_older_than(self, filename: Optional[str] = None, interval: Optional[str] = None, **kwargs: Any) -> Any:
        """Deletes what is older than an interval, by default of the helper's own backups."""
        if not interval:
            raise BadValue("delete_older_than needs an interval such as 1M")
        filename = self.backup_name if filename is None else filename
        return bakthat.delete_older_than(filename, interval, **{**kwargs, **self._named(kwargs)})

    def rotate(self, filename: Optional[str] = None, **kwargs: Any) -> Any:
        """Deletes what the profile's rotation does not keep, by default of the helper's own backups."""
        filename = self.backup_name if filename is None else filename
        return bakthat.rotate_backups(filename, **{**kwargs, **self._named(kwargs)})

    def enable_sync(self, api_url: str, auth: Optional[Tuple[str, str]] = None) -> None:
        """Exchanges rows with a sync server when the block ends."""
        username, password = auth or (None, None)
        self.syncer = BakSyncer({"url": api_url, "username": username, "password": password})

    def sync(self) -> None:
        if self.syncer is not None:
            try:
                self.syncer.sync()
            except Exception:
                log.exception("The rows were not synchronised")


class KeyValue(S3Backend):
    """JSON values in the profile's bucket, each under its key."""

    def _row(self, keyname: str) -> Any:
        """The row of a key in this bucket; a key of the same name in another bucket has another hash."""
        rows = bakthat.Backups
        mine = rows.backend_hash == hash_of_backend(self)
        return rows.get_or_none(rows.stored_filename == keyname, rows.backend == "s3", mine)

    def set_key(self, keyname: str, value: Any, compress: bool = True, password: Any = None) -> None:
        """Stores a value as JSON, in gzip unless ``compress`` is false, encrypted if there is a password."""
        data = json.dumps(value).encode("ascii")
        if compress:
            data = gzip.compress(data)
        if password:
            data = _native.encrypt(data, password, container=self.conf.get("encryption") or "blowfish")
        columns = columns_of(self, "s3", int(time.time()), filename=keyname, stored_filename=keyname)
        self.store.put(keyname, data)
        metadata = {"KeyValue": True, "is_enc": bool(password), "is_gzipped": bool(compress)}
        bakthat.Backups.upsert(**columns, metadata=metadata, size=len(data), tags="")

    def get_key(self, keyname: str, default: Any = None, password: Any = None) -> Any:
        data = self.store.get(keyname)
        if data is None:
            return default
        row = self._row(keyname)
        if row.is_encrypted() if row else password:
            if not password:
                raise TypeError(f"{keyname} is encrypted: get_key needs its password")
            data = _native.decrypt(data, password)
        if row.is_gzipped() if row else data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return json.loads(data)

    def delete_key(self, keyname: str) -> Optional[bool]:
        self.store.delete(keyname)
        row = self._row(keyname)
        if row is None or row.is_deleted:
            return None
        row.set_deleted()
        return True

    def get_key_url(self, keyname: str, expires_in: int, method: str = "GET") -> str:
        return self.store.presign(keyname, int(expires_in), method)
