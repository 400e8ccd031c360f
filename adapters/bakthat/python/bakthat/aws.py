# SPDX-License-Identifier: MIT OR Apache-2.0
"""Signed requests to Amazon's services, and a Glacier vault (reference, section 13.3), by the standard library."""

import datetime
import hashlib
import hmac
import json
import os
import urllib.error
import urllib.request
from typing import Any, Dict, Iterable, List, Optional, Tuple
from urllib.parse import quote, urlsplit

from bakthat.conf import BakthatError

MIB = 1 << 20
TIMEOUT = 300  # seconds without an answer


def signed(
    method: str, url: str, keys: Tuple[str, str], region: str, service: str, headers: Dict[str, str], body: bytes = b""
) -> Any:
    """The answer to a request with signature version 4; urllib's HTTPError for a refusal."""
    parts = urlsplit(url)
    payload = hashlib.sha256(body).hexdigest()
    moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {**headers, "host": parts.netloc, "x-amz-date": moment, "x-amz-content-sha256": payload}
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in lines)
    query = "&".join(sorted(part if "=" in part else f"{part}=" for part in parts.query.split("&") if part))
    canonical = [method, parts.path or "/", query, *(f"{name}:{value}" for name, value in lines), "", names, payload]
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256("\n".join(canonical).encode("utf-8")).hexdigest()
    key = b"AWS4" + keys[1].encode("utf-8")
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode("utf-8"), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode("utf-8"), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys[0]}/{scope},SignedHeaders={names},Signature={signature}"
    )
    data = body if method in ("POST", "PUT") else None
    return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=TIMEOUT)


def tree_hash(pieces: Iterable[bytes]) -> str:
    """Glacier's hash of MiBs: a tree of SHA-256, in hex."""
    level = [hashlib.sha256(piece).digest() for piece in pieces] or [hashlib.sha256(b"").digest()]
    while len(level) > 1:
        level = [
            hashlib.sha256(level[i] + level[i + 1]).digest() if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0].hex()


def _mibs(data: bytes) -> Iterable[bytes]:
    return (data[start : start + MIB] for start in range(0, len(data), MIB))


def _mibs_of(path: str) -> Iterable[bytes]:
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(MIB), b"")


class Job:
    """A job of a vault, with the attributes that boto gave it."""

    def __init__(self, vault: "Vault", answer: Dict[str, Any]) -> None:
        self.vault = vault
        self.id = answer["JobId"]
        self.action = answer.get("Action")
        self.status_code = answer.get("StatusCode")
        self.creation_date = answer.get("CreationDate")
        self.completion_date = answer.get("CompletionDate")
        self.completed = bool(answer.get("Completed"))
        self.archive_size = answer.get("ArchiveSizeInBytes")
        self.archive_tree_hash = answer.get("ArchiveSHA256TreeHash")

    def get_output(self, byte_range: Optional[Tuple[int, int]] = None) -> bytes:
        """What the job found: an archive, or a span of it, or the JSON of an inventory."""
        headers = {"range": f"bytes={byte_range[0]}-{byte_range[1]}"} if byte_range else {}
        return self.vault.request("GET", f"/jobs/{self.id}/output", headers)[1]

    def download_to(self, path: str) -> None:
        """The whole archive, by ranges of 4 MiB, checked."""
        step = 4 * MIB
        with open(path, "wb") as out:
            for start in range(0, self.archive_size or 0, step):
                out.write(self.get_output((start, min(start + step, self.archive_size) - 1)))
        if self.archive_tree_hash and tree_hash(_mibs_of(path)) != self.archive_tree_hash:
            raise BakthatError(f"What Glacier's job {self.id} returned is damaged: try again")


class Vault:
    """One vault; it is made where it does not exist."""

    def __init__(self, name: str, keys: Tuple[str, str], region: str, endpoint_url: Optional[str] = None) -> None:
        self.name, self.keys, self.region = name, keys, region
        endpoint = (endpoint_url or f"https://glacier.{region}.amazonaws.com").rstrip("/")
        self.url = f"{endpoint}/-/vaults/{quote(name, safe='-._~')}"
        self.request("PUT", "")

    def request(self, method: str, path: str, headers: Dict[str, str] = {}, body: bytes = b"") -> Tuple[Any, bytes]:
        headers = {"x-amz-glacier-version": "2012-06-01", **headers}
        try:
            with signed(method, self.url + path, self.keys, self.region, "glacier", headers, body) as answer:
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(f"Glacier does not know {path or self.name}") from error
            text = " ".join(error.read().decode("utf-8", "replace").split())
            raise BakthatError(f"Glacier refused {method} {self.name}{path}: {error.code} {text}") from error
        except urllib.error.URLError as error:
            raise BakthatError(f"Glacier cannot be reached at {self.url}: {error.reason}") from error

    def upload(self, path: str, description: str, part_size: int = 64 * MIB) -> str:
        """Stores a file; the archive's id."""
        size = os.path.getsize(path)
        while part_size * 10000 < size:
            part_size *= 2
        described = {"x-amz-archive-description": description}
        whole = tree_hash(_mibs_of(path))
        with open(path, "rb") as file:
            if size <= part_size:
                headers = {**described, "x-amz-sha256-tree-hash": whole}
                return self.request("POST", "/archives", headers, file.read())[0]["x-amz-archive-id"]
            headers = {**described, "x-amz-part-size": str(part_size)}
            started, _ = self.request("POST", "/multipart-uploads", headers)
            upload = f"/multipart-uploads/{started['x-amz-multipart-upload-id']}"
            try:
                for start in range(0, size, part_size):
                    part = file.read(part_size)
                    span = f"bytes {start}-{start + len(part) - 1}/*"
                    self.request(
                        "PUT", upload, {"content-range": span, "x-amz-sha256-tree-hash": tree_hash(_mibs(part))}, part
                    )
                headers = {"x-amz-archive-size": str(size), "x-amz-sha256-tree-hash": whole}
                return self.request("POST", upload, headers)[0]["x-amz-archive-id"]
            except BaseException:
                self.request("DELETE", upload)
                raise

    def delete_archive(self, archive_id: str) -> None:
        self.request("DELETE", f"/archives/{archive_id}")

    def start_job(self, **parameters: str) -> Job:
        return self.get_job(
            self.request("POST", "/jobs", {}, json.dumps(parameters).encode("utf-8"))[0]["x-amz-job-id"]
        )

    def get_job(self, job_id: str) -> Job:
        return Job(self, json.loads(self.request("GET", f"/jobs/{job_id}")[1]))

    def list_jobs(self) -> List[Job]:
        return [Job(self, answer) for answer in json.loads(self.request("GET", "/jobs")[1])["JobList"]]
