# SPDX-License-Identifier: MIT OR Apache-2.0
"""Backup of the objects in S3 buckets, and the way back into a bucket.

    python3:module_path=<this folder>:module_name=backstay_s3:endpoint=https\\://s3.example.net:bucket=photos

Each object becomes a virtual file ``@S3/<bucket>/<key>`` with its metadata as extended attributes. Small objects are
fetched ahead by several threads, verified, and handed to the host as descriptors of memory (direct I/O); large ones are
read through the plugin while they arrive. Only Python's standard library is needed: requests are signed here.

All options, what a restore does, limits: docs/plugins/backstay_s3.md.
"""

import calendar
import collections
import configparser
import datetime
import email.utils
import errno
import fnmatch
import hashlib
import hmac
import http.client
import os
import ssl
import tempfile
import threading
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote_plus, urlsplit

from bareosfd import CF_CREATED, CF_EXTRACT, CF_SKIP, FT_DIREND, FT_NOOPEN, FT_REG, StatPacket, bRC_OK

from BareosFdWrapper import *
from backstay_common import Entry, Option, Plugin, Refused, Vanished

PREFIX = "@S3/"
BLOCK = 1 << 20
EMPTY = hashlib.sha256(b"").hexdigest()
# Headers that belong to an object, beside its own x-amz-meta-... ones.
KEPT = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires")
META = "x-amz-meta-"
ATTRIBUTE = "user.s3."
RETRIED = (429, 500, 502, 503, 504)


# ---------------------------------------------------------------------------------------------------- signatures


def encoded(text, safe="-._~"):
    return quote(text.encode("utf-8", "surrogateescape"), safe=safe)


def query_text(query):
    return "&".join(f"{encoded(name)}={encoded(value)}" for name, value in sorted(query.items()))


def signature(method, path, query, headers, payload, secret_key, region, moment):
    """Signature version 4 of a request, for the service S3: (names of the signed headers, scope, signature).

    ``path`` and ``query`` are encoded already, ``headers`` are all that is signed, ``payload`` is the body's SHA-256,
    ``moment`` is ``YYYYMMDDTHHMMSSZ``.
    """
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in lines)
    canonical = [method, path, query, *(f"{name}:{value}" for name, value in lines), "", names, payload]
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256("\n".join(canonical).encode("utf-8")).hexdigest()
    key = b"AWS4" + secret_key.encode("utf-8")
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode("utf-8"), "sha256")
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    return names, scope, hmac.digest(key, to_sign.encode("utf-8"), "sha256").hex()


# ---------------------------------------------------------------------------------------------------- the service


class Answer(OSError):
    """The service refused a request. An OSError, so that it may leave a read."""

    def __init__(self, status, code, text):
        super().__init__(errno.EIO, f"{code or status}{': ' if text else ''}{text}")
        self.status = status
        self.code = code


class Service:
    """A client; each thread has a connection of its own."""

    def __init__(self, endpoint, region, keys, *, path_style=True, cacert=None, retries=5, timeout=60):
        self.endpoint = urlsplit(endpoint)
        if self.endpoint.scheme not in ("http", "https") or not self.endpoint.hostname or self.endpoint.path.strip("/"):
            raise Refused(f"endpoint={endpoint} is no address like https://HOST or http://HOST:PORT")
        self.region = region
        self.access_key, self.secret_key, self.session_token = keys
        self.path_style = path_style
        self.retries = retries
        self.timeout = timeout
        self.own = threading.local()
        self.connections = []  # of all threads
        self.cancelled = threading.Event()
        self.context = None
        if self.endpoint.scheme == "https":
            try:
                self.context = ssl.create_default_context(cafile=cacert)
            except OSError as error:
                raise Refused(f"cannot read cacert={cacert}: {error.strerror}") from error

    def place(self, bucket, key):
        """Host and encoded path of an object or, with an empty key, a bucket."""
        host = self.endpoint.netloc.rsplit("@", 1)[-1]
        if self.path_style:
            return host, "/" + encoded(bucket) + ("/" + encoded(key, "-._~/") if key else "")
        return f"{bucket}.{host}", "/" + encoded(key, "-._~/")

    def connection(self, host):
        held = getattr(self.own, "connection", None)
        if held is not None and self.own.host == host:
            return held
        self.hang_up()
        name, port = host, None
        if ":" in host.rsplit("]", 1)[-1]:
            name, _, port = host.rpartition(":")
        if self.context is not None:
            held = http.client.HTTPSConnection(name, port, timeout=self.timeout, context=self.context)
        else:
            held = http.client.HTTPConnection(name, port, timeout=self.timeout)
        self.own.connection, self.own.host = held, host
        self.connections.append(held)
        return held

    def take(self):
        """This thread's connection, for a body that is read slowly: the next request makes a new one."""
        held, self.own.connection = self.own.connection, None
        self.connections.remove(held)
        return held

    def hang_up(self):
        held = getattr(self.own, "connection", None)
        if held is not None:
            self.own.connection = None
            self.connections.remove(held)
            held.close()

    def end(self):
        """Closes what the threads, which are gone, have left open."""
        while self.connections:
            self.connections.pop().close()

    def request(self, method, bucket, key="", query=None, headers=None, body=None, payload=EMPTY):
        """Sends a request, again if that can help, and returns the response, not yet read.

        ``body`` is a function that gives an iterable of bytes and their number. Raises Answer for what the service
        refuses, OSError for a service that is not there.
        """
        attempt = 0
        while True:
            try:
                response = self.once(method, bucket, key, query or {}, headers or {}, body, payload)
                if response.status < 300:
                    return response
                refusal = self.refusal(response)
                if response.status not in RETRIED:
                    raise refusal
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, Answer):
                    raise
                self.hang_up()
                refusal = error if isinstance(error, OSError) else OSError(errno.EIO, f"broken answer: {error!r}")
            attempt += 1
            if attempt > self.retries:
                raise refusal
            if self.cancelled.wait(min(5, 0.1 * 2**attempt)):
                raise OSError(errno.ECANCELED, "cancelled")

    def once(self, method, bucket, key, query, headers, body, payload):
        host, path = self.place(bucket, key)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        signed = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": moment, **headers}
        if self.session_token:
            signed["x-amz-security-token"] = self.session_token
        text = query_text(query)
        names, scope, digest = signature(method, path, text, signed, payload, self.secret_key, self.region, moment)
        credential = f"{self.access_key}/{scope}"
        sent = {
            **signed,
            "authorization": f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={digest}",
        }
        content, length = body() if body is not None else (None, 0)
        if body is not None or method in ("PUT", "POST"):
            sent["content-length"] = str(length)
        connection = self.connection(host)
        connection.request(method, f"{path}?{text}" if text else path, body=content, headers=sent)
        return connection.getresponse()

    def refusal(self, response):
        code = text = ""
        try:
            found = tree(response.read(65536))
            code, text = found.findtext("Code") or "", found.findtext("Message") or ""
        except (OSError, http.client.HTTPException, xml.ParseError):
            pass  # HEAD has no body, and servers before the service answer in HTML
        self.hang_up()
        region = response.getheader("x-amz-bucket-region")
        if region and region != self.region:
            text += f" (the bucket's region is {region})"
        return Answer(response.status, code or f"HTTP status {response.status} {response.reason}", text)

    def list(self, bucket, prefix):
        """Yields (key, size, second of the last change) of every object, in the service's order."""
        query = {"list-type": "2"}
        if prefix:
            query["prefix"] = prefix
        while True:
            try:
                page = tree(self.request("GET", bucket, query=query).read())
            except xml.ParseError:
                # XML has no words for some characters of a key. Not asked for at first: some services say that they
                # encode keys and do not.
                if "encoding-type" in query:
                    raise
                query["encoding-type"] = "url"
                continue
            decoded = page.findtext("EncodingType") == "url"
            for found in page.findall("Contents"):
                key = found.findtext("Key") or ""
                if decoded:
                    key = unquote_plus(key, errors="surrogateescape")
                yield key, int(found.findtext("Size") or 0), seconds_of(found.findtext("LastModified"))
            following = page.findtext("NextContinuationToken")
            if page.findtext("IsTruncated") != "true" or not following:
                return
            query["continuation-token"] = following

    def put(self, bucket, key, file, headers, part_size):
        """Stores what an open file holds. Larger than ``part_size`` bytes, it goes in parts."""
        size = os.fstat(file.fileno()).st_size
        if size <= part_size:
            body, payload = piece_of(file, 0, size)
            self.request("PUT", bucket, key, headers=headers, body=body, payload=payload).read()
            return
        upload = tree(self.request("POST", bucket, key, {"uploads": ""}, headers).read()).findtext("UploadId")
        try:
            parts = xml.Element("CompleteMultipartUpload")
            for number, start in enumerate(range(0, size, part_size), 1):
                body, payload = piece_of(file, start, min(part_size, size - start))
                query = {"partNumber": str(number), "uploadId": upload}
                response = self.request("PUT", bucket, key, query, body=body, payload=payload)
                response.read()
                part = xml.SubElement(parts, "Part")
                xml.SubElement(part, "PartNumber").text = str(number)
                xml.SubElement(part, "ETag").text = response.getheader("etag")
            text = xml.tostring(parts)
            digest = hashlib.sha256(text).hexdigest()
            response = self.request(
                "POST", bucket, key, {"uploadId": upload}, body=lambda: (text, len(text)), payload=digest
            )
            found = tree(response.read())  # a failure may come with status 200
            if found.tag == "Error":
                raise Answer(200, found.findtext("Code") or "", found.findtext("Message") or "")
        except BaseException:
            try:
                self.request("DELETE", bucket, key, {"uploadId": upload}).read()
            except OSError:
                pass  # the first failure says more
            raise


def tree(text):
    """An XML document without its name spaces."""
    top = xml.fromstring(text)
    for element in top.iter():
        element.tag = element.tag.rsplit("}", 1)[-1]
    return top


def seconds_of(text):
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return calendar.timegm(moment.utctimetuple())


def piece_of(file, start, length):
    """A body of a request, which may have to be sent again, and its SHA-256."""

    def blocks():
        position = start
        while position < start + length:
            block = os.pread(file.fileno(), min(BLOCK, start + length - position), position)
            if not block:
                raise OSError(errno.EIO, "the file became shorter")
            position += len(block)
            yield block

    digest = hashlib.sha256()
    for block in blocks():
        digest.update(block)
    return lambda: (blocks(), length), digest.hexdigest()


def plain_md5(response):
    """The MD5 that the service promises for a body; None if its ETag is something else."""
    tag = (response.getheader("etag") or "").strip('"').lower()
    encrypted = response.getheader("x-amz-server-side-encryption", "") not in ("", "AES256")
    other_key = response.getheader("x-amz-server-side-encryption-customer-algorithm")
    if len(tag) != 32 or encrypted or other_key or any(letter not in "0123456789abcdef" for letter in tag):
        return None
    return tag


# ---------------------------------------------------------------------------------------------------- objects


class Fetched:
    """A small object that was loaded ahead: verified, in memory behind a descriptor."""

    def __init__(self, service, bucket, key):
        self.response = service.request("GET", bucket, key)
        self.descriptor = os.memfd_create("object", os.MFD_CLOEXEC)
        try:
            wanted, digest = plain_md5(self.response), hashlib.md5(usedforsecurity=False)
            length = self.response.getheader("content-length")
            while block := self.response.read(BLOCK):
                digest.update(block)
                left = memoryview(block)
                while left:
                    left = left[os.write(self.descriptor, left) :]
            if length is not None and os.lseek(self.descriptor, 0, os.SEEK_CUR) != int(length):
                raise OSError(errno.EIO, "the answer ended early")
            if wanted is not None and wanted != digest.hexdigest():
                raise OSError(errno.EIO, "what came does not match the object's ETag")
            os.lseek(self.descriptor, 0, os.SEEK_SET)
        except BaseException:
            os.close(self.descriptor)
            raise


def fetch(service, bucket, key):
    """Runs in a thread of its own: a Fetched, or what went wrong."""
    for attempt in range(service.retries + 1):
        try:
            return Fetched(service, bucket, key)
        except (OSError, http.client.HTTPException) as error:
            service.hang_up()
            if isinstance(error, Answer) or attempt == service.retries or service.cancelled.is_set():
                return error if isinstance(error, OSError) else OSError(errno.EIO, f"broken answer: {error!r}")


class Object(Entry):
    """One object of a bucket."""

    def __init__(self, plugin, bucket, key, size, changed):
        super().__init__(f"{PREFIX}{bucket}/{key}")
        self.plugin = plugin
        self.bucket = bucket
        self.key = key
        self.size = size
        self.changed = changed
        self.ahead = None  # a Future of Fetched
        self.fetched = None
        self.response = None
        self.connection = None
        self.position = 0
        if key.endswith("/") and size == 0:
            self.type, self.link, self.no_read = FT_DIREND, self.name, True
            self.name = self.name.rstrip("/")

    def wanted(self):
        """False for what the host will most likely call unchanged: that is not fetched ahead."""
        return self.plugin.is_full() or self.changed >= self.plugin.since

    def prepare(self):
        self.describe_as(self.size, self.changed)
        if not self.wanted():
            return
        try:
            self.get()
        except Answer as answer:
            if answer.status == 404 and answer.code != "NoSuchBucket":
                raise Vanished(self.name) from None
            self.unreadable(answer)
        except OSError as error:
            self.unreadable(error)

    def unreadable(self, error):
        # Announced as what it is: the host counts it as failed, and the snapshot says so.
        self.plugin.warning(f"{self.name} cannot be read: {error.strerror or error}")
        self.type = FT_NOOPEN

    def describe_as(self, size, changed):
        kind = 0o040755 if self.type == FT_DIREND else 0o100644
        self.statp = StatPacket(mode=kind, nlink=1, size=size, atime=changed, mtime=changed, ctime=changed)

    def get(self):
        """Asks for the object, or takes what was asked for ahead."""
        if self.ahead is not None:
            ahead, self.ahead = self.ahead, None
            found = ahead.result()
            if isinstance(found, OSError):
                raise found
            self.fetched = found
            response = found.response
            size = os.fstat(found.descriptor).st_size
        else:
            response = self.response = self.plugin.service.request("GET", self.bucket, self.key)
            self.connection = self.plugin.service.take()
            size = int(response.getheader("content-length") or self.size)
            self.digest, self.promised = hashlib.md5(usedforsecurity=False), plain_md5(response)
        self.size = size
        modified = response.getheader("last-modified")
        if modified:
            self.changed = int(email.utils.parsedate_to_datetime(modified).timestamp())
        self.describe_as(size, self.changed)
        pairs = [("etag", (response.getheader("etag") or "").strip('"'))]
        for name, value in response.getheaders():
            name = name.lower()
            if name in KEPT:
                pairs.append((name, value))
            elif name.startswith(META):
                pairs.append(("meta." + name[len(META) :], value))
            elif name == "x-amz-storage-class":
                pairs.append(("storage-class", value))
        self.xattrs = [((ATTRIBUTE + name).encode(), value.encode("latin-1")) for name, value in pairs if value]

    def open(self, direct):
        if self.fetched is None and self.response is None:
            self.get()
        return self.fetched.descriptor if direct and self.fetched is not None else None

    def read(self, count):
        if self.fetched is not None:
            return os.read(self.fetched.descriptor, count)
        attempt = 0
        while True:
            try:
                block = self.response.read(count)
                if not block and self.position < self.size:
                    raise OSError(errno.EIO, "the answer ended early")
                break
            except (OSError, http.client.HTTPException) as error:
                attempt += 1
                if attempt > self.plugin.service.retries or self.plugin.cancelled:
                    self.plugin.warning(f"{self.name} broke off after {self.position} bytes: {error}")
                    raise OSError(errno.EIO, str(error)) from error
                self.go_on()
        self.position += len(block)
        self.digest.update(block)
        if not block and self.promised is not None and self.digest.hexdigest() != self.promised:
            self.plugin.warning(f"{self.name}: what came does not match the object's ETag")
            raise OSError(errno.EIO, "ETag")
        return block

    def go_on(self):
        """Asks for the rest of the same object, which must not have changed."""
        tag = self.response.getheader("etag")
        self.hang_up()
        headers = {"range": f"bytes={self.position}-", **({"if-match": tag} if tag else {})}
        self.response = self.plugin.service.request("GET", self.bucket, self.key, headers=headers)
        self.connection = self.plugin.service.take()
        if self.position and self.response.status != 206:
            raise OSError(errno.EIO, "the service gives no part of an object")

    def hang_up(self):
        if self.connection is not None:
            self.response.close()
            self.connection.close()
            self.connection = None

    def done(self):
        if self.ahead is not None:
            if not self.ahead.cancel():
                found = self.ahead.result()
                if isinstance(found, Fetched):
                    os.close(found.descriptor)
            self.ahead = None
        if self.fetched is not None:
            os.close(self.fetched.descriptor)
            self.fetched = None
        self.hang_up()


# ---------------------------------------------------------------------------------------------------- the plugin


@BareosPlugin
class S3(Plugin):
    """One object per job."""

    NAME = "backstay_s3"
    OPTIONS = {
        "bucket": Option(needed=True, multi=True),
        "endpoint": Option(),
        "region": Option(),
        "access_key": Option(),
        "secret_key": Option(),
        "session_token": Option(),
        "profile": Option(),
        "path_style": Option("yes", choices=("yes", "no")),
        "cacert": Option(),
        "prefix": Option(""),
        "include": Option((), multi=True),
        "exclude": Option((), multi=True),
        "threads": Option(8, number=True),
        "prefetch_size": Option(4 << 20, number=True),
        "retries": Option(5, number=True),
        "timeout": Option(60, number=True),
        "io": Option("core", choices=("core", "plugin")),
        "restore": Option("files", choices=("files", "bucket"), when="restore"),
        "to_bucket": Option(when="restore"),
        "part_size": Option(64 << 20, number=True, when="restore"),
    }

    def __init__(self, plugindef):
        super().__init__(plugindef)
        self.service = None
        self.pool = None
        self.upload = None  # (bucket, key, open file, headers) of the object being put back
        self.uploads = collections.deque()  # (name, Future) of those on their way
        self.no_attributes = False

    def complaint(self):
        complaint = super().complaint()
        if complaint is None and self.option("threads") < 1:
            complaint = "option threads=0 fetches nothing"
        if complaint is None and self.restoring and not 5 << 20 <= self.option("part_size") <= 5 << 30:
            complaint = "option part_size must be between 5 MiB and 5 GiB"
        return complaint

    def connect(self):
        if self.service is not None:
            return
        region = self.option("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        region = region or "us-east-1"
        self.service = Service(
            self.option("endpoint") or f"https://s3.{region}.amazonaws.com",
            region,
            self.keys(),
            path_style=self.option("path_style") == "yes",
            cacert=self.option("cacert"),
            retries=self.option("retries"),
            timeout=self.option("timeout"),
        )
        self.pool = ThreadPoolExecutor(self.option("threads"))

    def keys(self):
        """Access key, secret key and session token: of the options, else the environment, else the credentials file."""
        if self.option("access_key") or self.option("secret_key"):
            found = (self.option("access_key"), self.option("secret_key"), self.option("session_token"))
        elif self.option("profile") is None and os.environ.get("AWS_ACCESS_KEY_ID"):
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            found = tuple(os.environ.get(name) for name in names)
        else:
            path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")
            profile = self.option("profile") or os.environ.get("AWS_PROFILE") or "default"
            parser = configparser.RawConfigParser()
            try:
                parser.read(path, encoding="utf-8")
            except (configparser.Error, OSError, ValueError) as error:
                raise Refused(f"cannot read {path}: {error}") from error
            names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            found = tuple(parser.get(profile, name, fallback=None) for name in names)
        if not found[0] or not found[1]:
            raise Refused("no access key: give access_key and secret_key, or the variables or file of the AWS tools")
        return found

    # Backup

    def begin(self):
        self.connect()

    def entries(self):
        waiting = collections.deque()
        try:
            for bucket in self.option("bucket"):
                for found in self.objects(bucket):
                    if found.wanted() and found.size <= self.option("prefetch_size"):
                        found.ahead = self.pool.submit(fetch, self.service, bucket, found.key)
                    waiting.append(found)
                    if len(waiting) > 2 * self.option("threads"):
                        yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for found in waiting:
                found.done()

    def objects(self, bucket):
        include, exclude = self.option("include"), self.option("exclude")
        try:
            for key, size, changed in self.service.list(bucket, self.option("prefix")):
                if include and not any(fnmatch.fnmatchcase(key, pattern) for pattern in include):
                    continue
                if not any(fnmatch.fnmatchcase(key, pattern) for pattern in exclude):
                    yield Object(self, bucket, key, size, changed)
        except (OSError, http.client.HTTPException, xml.ParseError, ValueError) as error:
            # Half a list must not pass for the whole bucket.
            raise Refused(f"cannot list the bucket {bucket}: {getattr(error, 'strerror', None) or error}") from error

    def cancel(self):
        if self.service is not None:
            self.service.cancelled.set()

    def clean_up(self):
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None
        if self.service is not None:
            self.service.end()
        if self.upload is not None:
            self.upload[2].close()
            self.upload = None
        super().clean_up()

    # Restore

    def create(self, restorepkt):
        if self.option("restore") == "files":
            return super().create(restorepkt)
        self.connect()
        bucket, _, key = restorepkt.original_file_name.removeprefix(PREFIX).partition("/")
        bucket = self.option("to_bucket") or bucket
        if restorepkt.type not in (FT_REG, FT_DIREND) or not key:
            return CF_SKIP
        if not self.may_replace(bucket, key, restorepkt):
            return CF_SKIP
        self.upload = (bucket, key, tempfile.TemporaryFile(dir=self.temporary_folder()), {})
        return CF_CREATED if restorepkt.type == FT_DIREND else CF_EXTRACT

    def may_replace(self, bucket, key, restorepkt):
        how = chr(restorepkt.replace)
        if how == "a":
            return True
        try:
            response = self.service.request("HEAD", bucket, key)
            response.read()
        except Answer as answer:
            if answer.status == 404:
                return True
            raise Refused(f"cannot look at {bucket}/{key}: {answer.strerror}") from answer
        except OSError as error:
            raise Refused(f"cannot look at {bucket}/{key}: {error}") from error
        there = email.utils.parsedate_to_datetime(response.getheader("last-modified")).timestamp()
        saved = restorepkt.statp.st_mtime
        return (how == "w" and saved > there) or (how == "o" and saved < there)

    def open_restored(self, name):
        if self.upload is None:
            return super().open_restored(name)
        self.descriptor = self.upload[2].fileno()
        return self.descriptor

    def close_restored(self):
        if self.upload is None:
            return super().close_restored()
        self.descriptor = None

    def set_file_attributes(self, restorepkt):
        return bRC_OK if self.upload is not None else super().set_file_attributes(restorepkt)

    def set_xattr(self, xattr):
        name, value = bytes(xattr.name).decode("utf-8"), bytes(xattr.value or b"")
        if self.upload is None:
            self.set_attribute(xattr.fname, name, value)
            return bRC_OK
        name, value = name.removeprefix(ATTRIBUTE), value.decode("latin-1")
        headers = self.upload[3]
        if name in KEPT:
            headers[name] = value
        elif name.startswith("meta."):
            headers[META + name.removeprefix("meta.")] = value
        elif name == "storage-class":
            headers["x-amz-storage-class"] = value
        return bRC_OK

    def set_attribute(self, path, name, value):
        if self.no_attributes:
            return
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                self.no_attributes = True
            self.warning(f"could not set the attribute {name} of {path}: {error.strerror}")

    def end_restore_file(self):
        if self.upload is not None:
            (bucket, key, file, headers), self.upload = self.upload, None
            ahead = self.pool.submit(self.put, bucket, key, file, headers, self.option("part_size"))
            self.uploads.append((f"{bucket}/{key}", ahead))
            self.await_uploads(self.option("threads"))
        return bRC_OK

    def put(self, bucket, key, file, headers, part_size):
        with file:
            self.service.put(bucket, key, file, headers, part_size)

    def await_uploads(self, most):
        """Waits until so many are on their way at the most, and tells what went wrong."""
        while len(self.uploads) > most:
            name, ahead = self.uploads.popleft()
            try:
                ahead.result()
            except (OSError, http.client.HTTPException, xml.ParseError) as error:
                self.error(f"could not put {name} back: {getattr(error, 'strerror', None) or error}")

    def end_restore_job(self):
        # Also after a failure: what was restored so far is on its way.
        self.await_uploads(0)
        return super().end_restore_job()
