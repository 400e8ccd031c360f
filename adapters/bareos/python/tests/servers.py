# SPDX-License-Identifier: MIT OR Apache-2.0
"""Real servers for tests: each on a data folder of its own, reachable on loopback only, ended with the test.

May import: the standard library only.
"""

import atexit
import email.utils
import hashlib
import http.server
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from xml.sax.saxutils import escape

_made = {}  # kind of server: a folder of its data as it was installed

WAIT = 60  # seconds until a server must have answered


def program(name, *folders):
    """Where a server's program is; a clear line if its package is missing."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        raise RuntimeError(f"{name} is not installed: run scripts/setup test")
    return found


def user_for(name):
    """The user a server runs as: servers refuse to run as root."""
    return name if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def rights(user):
    entry = pwd.getpwnam(user)
    if entry.pw_uid == os.geteuid():
        return {}
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(arguments, user=None, **more):
    """Runs a program that must succeed; its standard output as text."""
    done = subprocess.run(
        arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **(rights(user) if user else {}), **more
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """A process that is started, waited for and ended."""

    def __init__(self, folder, user):
        self.folder = Path(folder)
        self.user = user
        self.process = None
        # The way to the folder must be open for the server's user.
        for parent in (self.folder, *self.folder.parents):
            if parent.exists() and parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o111 if parent != Path("/tmp") else 0o1777)
        self.own(self.folder)

    def own(self, folder):
        """Makes a folder that belongs to the server's user."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        entry = pwd.getpwnam(self.user)
        if entry.pw_uid != os.geteuid():
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        return folder

    def copy_of(self, kind, install):
        """Fills the data folder with what ``install`` makes; it takes long, so it is done once in a run of tests."""
        if kind not in _made:
            holder = tempfile.TemporaryDirectory(prefix="backstay-test-")
            os.chmod(holder.name, 0o755)
            atexit.register(holder.cleanup)
            install(self.own(Path(holder.name) / kind))
            _made[kind] = Path(holder.name) / kind
        run(["cp", "-a", _made[kind], self.data])

    def launch(self, arguments, log):
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
                **rights(self.user),
            )
        until = time.monotonic() + WAIT
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"{arguments[0]} does not start: {Path(log).read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def answers(self):
        raise NotImplementedError

    def stop(self, how=signal.SIGTERM):
        """Ends the server in good order; after a minute by force."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self):
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None


class Postgres(Server):
    """PostgreSQL on a Unix socket in its folder, with WAL archiving to ``wal`` there.

    ``BACKSTAY_TEST_POSTGRESQL`` names the folder of its programs, else they are those of the newest release installed.
    """

    def __init__(self, folder, data=None):
        super().__init__(folder, user_for("postgres"))
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        usual = versions[-1] if versions else Path("/usr/bin")
        self.programs = Path(os.environ.get("BACKSTAY_TEST_POSTGRESQL") or usual)
        self.data = Path(data or self.folder / "data")
        self.archive = self.folder / "wal"

    def make(self):
        """A new empty server, with checksums and small segments."""
        self.own(self.archive)
        self.copy_of("postgresql", self.install)
        file = f"{self.archive}/%f"
        command = f"test ! -f {file} && cp %p {file}.part && mv {file}.part {file}"
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(
                "listen_addresses = ''\nwal_level = replica\narchive_mode = on\nfsync = off\n"
                f"archive_command = '{command}'\n"
            )
        return self

    def install(self, data):
        initdb = program("initdb", self.programs)
        run(
            [initdb, "-D", data, "--auth=peer", "-k", "--wal-segsize=1", "--no-sync", "-E", "UTF8", "--locale=C"],
            user=self.user,
            cwd="/",
        )

    def start(self, *settings):
        options = [part for setting in settings for part in ("-c", setting)]
        self.launch(
            [program("postgres", self.programs), "-D", self.data, "-k", self.folder, *options], self.folder / "log"
        )
        return self

    def answers(self):
        return self.ask("SELECT 1", check=False) == "1"

    def stop(self):
        super().stop(signal.SIGINT)

    def ask(self, sql, check=True, dbname="postgres"):
        """What psql prints for this statement, without the last line break."""
        done = subprocess.run(
            [
                program("psql"),
                "-X",
                "-q",
                "-A",
                "-t",
                "-w",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                self.folder,
                "-d",
                dbname,
                "-c",
                sql,
            ],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            **rights(self.user),
        )
        if done.returncode and check:
            raise RuntimeError(f"{sql}: {done.stderr}")
        return done.stdout.strip()

    def wait_until(self, sql, answer):
        until = time.monotonic() + WAIT
        while (found := self.ask(sql, check=False)) != answer:
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"{sql} answers {found}: {(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)


class MariaDb(Server):
    """MariaDB on a Unix socket in its folder. The user who runs the tests is its administrator."""

    def __init__(self, folder, data=None):
        super().__init__(folder, user_for("mysql"))
        self.data = Path(data or self.folder / "data")
        self.socket = self.folder / "socket"

    def make(self):
        """A new empty server."""
        self.copy_of("mariadb", self.install)
        return self

    def install(self, data):
        me = pwd.getpwuid(os.geteuid()).pw_name
        run(
            [
                program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={data}",
                "--skip-test-db",
                f"--auth-root-socket-user={me}",
            ],
            user=self.user,
            cwd="/",
        )

    def start(self, *options):
        self.launch(
            [
                program("mariadbd"),
                "--no-defaults",
                f"--datadir={self.data}",
                f"--socket={self.socket}",
                f"--pid-file={self.folder / 'pid'}",
                # Two servers with one folder for temporary tables take each other's away.
                f"--tmpdir={self.folder}",
                "--skip-networking",
                "--innodb-flush-log-at-trx-commit=2",
                *options,
            ],
            self.folder / "log",
        )
        return self

    def answers(self):
        return self.ask("SELECT 1", check=False) == "1"

    def ask(self, sql, check=True, database=None):
        """What the server answers, columns with tabs between them, without the last line break."""
        command = [program("mariadb"), "--no-defaults", f"--socket={self.socket}", "-u", "root", "-N", "-B"]
        if database:
            command += ["-D", database]
        done = subprocess.run([*command, "-e", sql], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode and check:
            raise RuntimeError(f"{sql}: {done.stderr}")
        return done.stdout.strip()


class S3:
    """A small S3 service in this process: buckets as dictionaries of key to Stored; it can be told to misbehave."""

    class Stored:
        def __init__(self, data, headers=(), changed=None):
            self.data = data
            self.headers = dict(headers)
            self.changed = time.time() if changed is None else changed
            self.tag = hashlib.md5(data, usedforsecurity=False).hexdigest()

    def __init__(self):
        self.buckets = {}
        self.uploads = {}
        self.requests = []
        # For the next requests: a status from 300 to 599, a number of bytes above it after which the body ends, None.
        self.answers = []
        self.page = 3  # keys in a page of a list
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def __getattr__(self, name):
                if name.startswith("do_"):
                    return lambda: service.serve(self, name[3:])
                raise AttributeError(name)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def end(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def serve(self, request, method):
        url = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        self.requests.append((method, request.path, dict(request.headers)))
        if not request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential="):
            return self.reply(request, 403, b"<Error><Code>AccessDenied</Code></Error>")
        if hashlib.sha256(body).hexdigest() != request.headers["x-amz-content-sha256"]:
            return self.reply(request, 400, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
        if self.answers and self.answers[0] is not None and self.answers[0] < 600:
            return self.reply(
                request, self.answers.pop(0), b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
            )
        _, bucket, key = (urllib.parse.unquote(url.path) + "/").split("/", 2)
        key = key[:-1]
        if bucket not in self.buckets:
            return self.reply(
                request, 404, b"<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>"
            )
        objects = self.buckets[bucket]
        if method == "GET" and not key:
            return self.reply(request, 200, self.page_of(objects, query))
        if method == "POST" and "uploads" in query:
            self.uploads[name := f"upload {len(self.uploads)}"] = ({}, self.kept(request))
            return self.reply(request, 200, f"<R><UploadId>{name}</UploadId></R>".encode())
        if method == "POST":
            parts, headers = self.uploads.pop(query["uploadId"])
            objects[key] = self.Stored(b"".join(parts[number] for number in sorted(parts)), headers)
            objects[key].tag += f"-{len(parts)}"
            return self.reply(request, 200, b"<CompleteMultipartUploadResult/>")
        if method == "PUT" and "uploadId" in query:
            self.uploads[query["uploadId"]][0][int(query["partNumber"])] = body
            return self.reply(request, 200, b"", {"etag": f'"{len(body)}"'})
        if method == "PUT":
            objects[key] = self.Stored(body, self.kept(request))
            return self.reply(request, 200, b"", {"etag": f'"{objects[key].tag}"'})
        if method == "DELETE":
            self.uploads.pop(query.get("uploadId"), None)
            return self.reply(request, 204, b"")
        found = objects.get(key)
        if found is None:
            return self.reply(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        headers = {
            **found.headers,
            "etag": f'"{found.tag}"',
            "last-modified": email.utils.formatdate(found.changed, usegmt=True),
        }
        start = int((request.headers.get("range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if request.headers.get("if-match", headers["etag"]) != headers["etag"]:
            return self.reply(request, 412, b"<Error><Code>PreconditionFailed</Code></Error>")
        status = 206 if "range" in request.headers else 200
        return self.reply(request, status, found.data[start:], headers, body=method == "GET")

    def kept(self, request):
        return {
            name.lower(): value
            for name, value in request.headers.items()
            if name.lower() in ("content-type", "cache-control", "x-amz-storage-class")
            or name.lower().startswith("x-amz-meta-")
        }

    def page_of(self, objects, query):
        keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")))
        after = bytes.fromhex(query.get("continuation-token", "")).decode()
        keys = [key for key in keys if key > after]
        url = query.get("encoding-type") == "url"
        text = (
            "<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            + "<EncodingType>url</EncodingType>" * url
        )
        for key in keys[: self.page]:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(objects[key].changed))
            shown = urllib.parse.quote_plus(key) if url else character_references(key)
            text += (
                f"<Contents><Key>{shown}</Key><Size>{len(objects[key].data)}</Size>"
                f"<LastModified>{moment}</LastModified></Contents>"
            )
        more = len(keys) > self.page
        text += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            text += f"<NextContinuationToken>{keys[self.page - 1].encode().hex()}</NextContinuationToken>"
        return (text + "</ListBucketResult>").encode()

    def reply(self, request, status, data, headers=None, body=True):
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        if body:
            broken = self.answers.pop(0) if self.answers and data and status < 300 else None
            request.wfile.write(data if broken is None else data[:broken])
            if broken is not None:
                request.wfile.flush()
                request.connection.shutdown(socket.SHUT_RDWR)
                request.close_connection = True


class Slapd(Server):
    """OpenLDAP's server on a Unix socket in its folder, with the directory ``dc=example,dc=com``."""

    BASE = "dc=example,dc=com"
    ADMINISTRATOR = "cn=admin,dc=example,dc=com"
    PASSWORD = "a secret"

    def __init__(self, folder):
        super().__init__(folder, user_for("openldap"))
        self.socket = self.folder / "socket"
        self.uri = "ldapi://" + urllib.parse.quote(str(self.socket), safe="")

    def make(self):
        """A new server without an entry."""
        data = self.folder / "data"
        if data.exists():
            shutil.rmtree(data)
        self.own(data)
        schema = "".join(f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
        (self.folder / "slapd.conf").write_text(
            f"{schema}modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {self.folder}/pid\n"
            f'database mdb\nsuffix "{self.BASE}"\nrootdn "{self.ADMINISTRATOR}"\nrootpw "{self.PASSWORD}"\n'
            f"directory {data}\nmaxsize 100000000\ndbnosync\n"
        )
        return self

    def start(self):
        self.launch(
            [program("slapd"), "-f", self.folder / "slapd.conf", "-h", self.uri, "-d", "0"], self.folder / "log"
        )
        return self

    def client(self, name, *more):
        return [program(name), "-H", self.uri, "-x", "-D", self.ADMINISTRATOR, "-w", self.PASSWORD, *more]

    def answers(self):
        done = subprocess.run(self.client("ldapwhoami"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done.returncode == 0

    def change(self, name, ldif):
        """Runs ldapadd or ldapmodify."""
        run(self.client(name), input=ldif)

    def add_files(self, folder):
        """Adds the entries of all files below a folder with the command that the plugin's page names."""
        command = (
            "find . -name '*.ldif' -printf '%d %p\\n' | sort -n | cut -d' ' -f2-"
            ' | while IFS= read -r f; do cat "$f"; echo; done | '
        )
        run(["sh", "-c", command + shlex.join(map(str, self.client("ldapadd")))], cwd=folder)

    def content(self):
        """Every entry as a set of lines, by name."""
        text = run(self.client("ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-b", self.BASE))
        entries = [record.splitlines() for record in text.split("\n\n") if record.strip()]
        return {lines[0]: set(lines[1:]) for lines in entries}


def character_references(text):
    """Text for XML as AWS writes it, with references for control characters: a parser refuses most of them."""
    return "".join(f"&#{ord(letter)};" if letter < " " else escape(letter) for letter in text)
