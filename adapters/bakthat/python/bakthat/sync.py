# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rows exchanged with a sync server, and a monitoring service told of backups (reference, section 18)."""

import json
import logging
import socket
import time
import urllib.parse
from typing import Any, Dict, Optional, Tuple

from bakthat._native import request
from bakthat.conf import BakthatError, config
from bakthat.models import Backups, Config
from bakthat.utils import shifted, utc_clock

log = logging.getLogger(__name__)


class BakSyncer:
    """The client of a sync server; settings given win over those of the default file."""

    def __init__(self, conf: Optional[Dict[str, Any]] = None) -> None:
        settings = {**(config.get("sync") or {}), **(conf or {})}
        self.sync_auth = (settings.get("username"), settings.get("password"))
        self.api_url = settings.get("url")
        headers = {"content-type": "application/json", "bakthat-client": socket.gethostname()}
        self.request_kwargs: Dict[str, Any] = {"auth": self.sync_auth, "headers": headers}

    def get_resource(self, name: str) -> str:
        if not self.api_url:
            raise BakthatError("There is no sync server: the section sync of the configuration needs a url")
        return f"{self.api_url}/{name}"

    def _post(self, name: str, body: bytes) -> Optional[Dict[str, Any]]:
        status, text = request("POST", self.get_resource(name), body=body, **self.request_kwargs)
        try:
            answer = json.loads(text) if status == 200 else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            log.error("An error occured during sync: %s", text)
            return None
        return answer

    def register(self) -> None:
        """Makes this machine known to the server, once."""
        if not Config.get_key("client_id"):
            answer = self._post("clients", b"")
            if answer is not None and answer.get("_id"):
                Config.set_key("client_id", answer["_id"])

    def sync(self) -> None:
        """Sends the rows that changed since the last exchange, and takes those that the server has newer."""
        self.register()
        log.debug("Start syncing")
        since = Config.get_key("sync_ts", 0) or 0
        # Rows carry a shifted clock (section 3): east of Greenwich it is behind the server's.
        limit = since + min(0, shifted(utc_clock()) - int(time.time())) if since else 0
        new = [dict(row._data) for row in Backups.select().where(Backups.last_updated >= limit)]
        answer = self._post("backups/sync", json.dumps({"sync_ts": since, "new": new}).encode("utf-8"))
        if answer is None:
            return
        for row in answer.get("updated") or []:
            self._take(row)
        Config.set_key("sync_ts", answer.get("sync_ts", since))
        log.debug("%d rows sent, %d received", len(new), len(answer.get("updated") or []))

    def _take(self, row: Dict[str, Any]) -> None:
        columns = {name: row[name] for name in Backups._meta.fields if name in row and name != "id"}
        if not columns.get("stored_filename") or "last_updated" not in columns:
            log.error("An error occured during sync: a row without a name or a time is left out")
            return
        known = Backups.get_or_none(Backups.stored_filename == columns["stored_filename"])
        if known is None or known.last_updated < columns["last_updated"]:
            Backups.upsert(**columns)

    def sync_auto(self) -> None:
        """Syncs after a backup if the section sync says ``auto``; the backup is stored whatever happens here."""
        if (config.get("sync") or {}).get("auto"):
            try:
                self.sync()
            except Exception as error:
                log.error("An error occured during sync: %s", error)

    def reset_sync(self) -> None:
        Config.set_key("sync_ts", 0)
        Config.set_key("client_id", None)


def _monitoring(conf: Dict[str, Any]) -> Tuple[str, Tuple[str, str]]:
    if not conf.get("bakmanager_api"):
        raise BakthatError(
            "The BakManager service has ended: bakmanager_api must name a service that speaks its protocol"
        )
    return conf["bakmanager_api"], (conf["bakmanager_token"], "")


def bakmanager_hook(conf: Dict[str, Any], backup_data: Any, key: Optional[str] = None) -> None:
    """Tells the monitoring service of a backup; never raises."""
    try:
        if not conf.get("bakmanager_token"):
            log.error("No bakmanager_token setting for the current profile.")
            return
        url, auth = _monitoring(conf)
        told = {"key": key, "host": backup_data["metadata"].get("client"), "size": backup_data["size"]}
        form = urllib.parse.urlencode({"backup": json.dumps(told)}).encode("ascii")
        status, text = request("POST", url, auth, {"content-type": "application/x-www-form-urlencoded"}, form)
        if status >= 400:
            raise BakthatError(f"the service answered {status}: {text}")
    except Exception:
        log.exception("Error while submitting periodic backup to BakManager.")


def bakmanager_periodic_backups(conf: Dict[str, Any]) -> None:
    """Logs a line for each key that the monitoring service knows."""
    if not conf.get("bakmanager_token"):
        log.error("No bakmanager_token setting for the current profile.")
        return
    status, text = request("GET", *_monitoring(conf))
    if status >= 400:
        raise BakthatError(f"The monitoring service answered {status}: {' '.join(text.split())}")
    line = "%-20s status: %-5s interval: %-6s total: %-10s latest: %s "
    for item in json.loads(text)["_items"]:
        latest = (item.get("latest") or {}).get("date_human")
        log.info(line, *map(item.get, ("key", "status", "interval_human", "total_size_human")), latest)
