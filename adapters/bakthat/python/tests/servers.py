# SPDX-License-Identifier: MIT OR Apache-2.0
"""Servers for the tests, on loopback, ended with the interpreter: S3, Swift, MariaDB, and ones that record and answer by script.

May import: the standard library only.
"""

import atexit
import ctypes
import hashlib
import http.server
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

_s3 = None
_swift = None
# The server must outlive the test that starts it, whose TMPDIR and working directory go with it.
_environment = dict(os.environ)


def s3_settings():
    """Address and keys of an S3 server: the Garage that ``BACKSTAY_TEST_GARAGE`` names the program of, if it does, else the
    server of ``BACKSTAY_TEST_S3``."""
    global _s3
    if _s3 is None:
        garage, program = os.environ.get("BACKSTAY_TEST_GARAGE"), os.environ.get("BACKSTAY_TEST_S3")
        if not garage and not program:
            raise RuntimeError("BACKSTAY_TEST_S3 must name the S3 server of the tests: run scripts/test-bakthat")
        _s3 = _garage(garage) if garage else _in_process(program)
    return dict(_s3)


def is_garage():
    """Whether the S3 server of the tests is a Garage: a real one, and none that plays what a test tells it to."""
    return bool(os.environ.get("BACKSTAY_TEST_GARAGE"))


def _in_process(program):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([program], cwd="/", env=_environment, **pipes)
    atexit.register(process.communicate)
    return {
        "access_key": "MYKEY",
        "secret_key": "MYSECRET",
        "endpoint_url": process.stdout.readline().decode().strip(),
    }


def _garage(program):
    """One node of its own, with a key that may make buckets."""
    folder = tempfile.mkdtemp(prefix="bakthat-garage-", dir=_environment.get("TMPDIR", "/tmp"))
    rpc, api = free_ports(2)
    configuration = os.path.join(folder, "garage.toml")
    with open(configuration, "w", encoding="utf-8") as file:
        file.write(
            f'metadata_dir = "{folder}/meta"\ndata_dir = "{folder}/data"\ndb_engine = "sqlite"\n'
            f'replication_factor = 1\nrpc_bind_addr = "127.0.0.1:{rpc}"\nrpc_public_addr = "127.0.0.1:{rpc}"\n'
            f'rpc_secret = "{os.urandom(32).hex()}"\n'
            f'[s3_api]\ns3_region = "garage"\napi_bind_addr = "127.0.0.1:{api}"\n'
        )
    os.chmod(configuration, 0o600)
    log = os.path.join(folder, "log")
    with open(log, "wb") as out:
        command = [program, "-c", configuration, "server", "--single-node"]
        environment = {**_environment, "RUST_LOG": "garage=warn"}
        process = subprocess.Popen(command, cwd="/", env=environment, stdout=out, stderr=out, preexec_fn=ends_with_us)

    def end():
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)

    def told(*arguments):
        command = [program, "-c", configuration, *arguments]
        return subprocess.run(command, cwd="/", env=_environment, capture_output=True, text=True)

    def ready():
        status = told("status")
        return status.returncode == 0 and "NO ROLE" not in status.stdout

    wait_until(ready, process, log)
    key = told("key", "create", "bakthat").stdout
    allowed = told("key", "allow", "--create-bucket", "bakthat")
    found = [re.search(rf"^{name}:\s+(\S+)$", key, re.MULTILINE) for name in ("Key ID", "Secret key")]
    if None in found or allowed.returncode:
        raise RuntimeError(f"Garage makes no key: {key}{allowed.stderr}")
    names = {"access_key": found[0][1], "secret_key": found[1][1]}
    return {**names, "endpoint_url": f"http://127.0.0.1:{api}", "region_name": "garage"}


def swift_itself():
    """The address to log in at of OpenStack's own servers, as Debian has them (``swift_server.py``)."""
    global _swift
    if _swift is None:
        folder = tempfile.mkdtemp(prefix="bakthat-swift-", dir=_folder_with_attributes())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        log = os.path.join(folder, "log")
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "swift_server.py")
        # Not with the Python of the tests: Swift is a package of the system's.
        environment = {name: value for name, value in _environment.items() if not name.startswith("PYTHON")}
        with open(log, "wb") as err:
            process = subprocess.Popen(
                ["/usr/bin/python3", "-B", program, os.path.join(folder, "swift")],
                cwd="/",
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                preexec_fn=ends_with_us,
            )
        atexit.register(process.communicate)
        _swift = process.stdout.readline().decode().strip()
        if not _swift:
            with open(log, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(f"Swift does not start (scripts/setup test installs it): {file.read()[-3000:]}")
    return _swift


def _folder_with_attributes():
    """A folder on a file system that keeps extended attributes of users, as Swift needs it."""
    here = os.path.dirname(os.path.abspath(__file__))
    tried = [_environment.get("TMPDIR", "/tmp"), "/var/tmp", _environment.get("HOME", "/root"), here]
    for folder in tried:
        try:
            with tempfile.TemporaryDirectory(dir=folder) as name:
                os.setxattr(name, "user.bakthat", b"x")
            return folder
        except OSError:
            continue
    raise RuntimeError(f"Swift needs extended attributes of users, which none of {', '.join(tried)} keeps")


def free_ports(count):
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def ends_with_us():
    """Before a server's program starts: the kernel ends it with the tests, whatever ends those."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def wait_until(ready, process, log):
    """Waits until a server that was started is ready, a minute at most."""
    until = time.monotonic() + 60
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            with open(log, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(f"{process.args[0]} does not start: {file.read()[-3000:]}")
        time.sleep(0.05)


class Recorder:
    """An HTTP server that records each request and answers with what ``answers`` returns: (status, headers, body)."""

    def __init__(self, answers):
        self.requests = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                recorder.requests.append(request)
                status, headers, answer = answers(request)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A client that was interrupted has gone before its answer.
        self.server.handle_error = lambda *given: None
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Request:
    def __init__(self, method, path, headers, body):
        self.method, self.path, self.headers, self.body = method, path, headers, body

    def __repr__(self):
        return f"{self.method} {self.path}"


def swift(objects):
    """A Swift proxy with TempAuth (version 1) over a dict of paths; the container's path has an entry too."""

    def answers(request):
        path = request.path.split("?")[0]
        if path == "/auth/v1.0":
            if (request.headers.get("x-auth-user"), request.headers.get("x-auth-key")) != ("account:user", "swiftpass"):
                return 401, {}, b""
            return 200, {"X-Storage-Url": f"{server.url}/v1/AUTH_account", "X-Auth-Token": "token"}, b""
        if request.headers.get("x-auth-token") != "token":
            return 401, {}, b""
        path = urllib.parse.unquote(path).rstrip("/")
        if request.method == "PUT":
            objects[path] = request.body
            return 201, {"ETag": hashlib.md5(request.body).hexdigest()}, b""
        if path not in objects:
            return 404, {}, b""
        if request.method == "DELETE":
            del objects[path]
            return 204, {}, b""
        container = path.count("/") == 3
        if request.method == "GET" and container:
            return _listing(path, objects, urllib.parse.parse_qs(request.path.partition("?")[2]))
        etag = {"ETag": hashlib.md5(objects[path]).hexdigest(), "Last-Modified": "Sat, 03 Feb 2024 04:05:06 GMT"}
        if request.method == "HEAD":
            return (204 if container else 200), {**etag, "Content-Length": str(len(objects[path]))}, b""
        span = re.match(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not span:
            return 200, etag, objects[path]
        first, last = int(span[1]), min(int(span[2] or 10**12), len(objects[path]) - 1)
        data = objects[path][first : last + 1]
        return 206, {**etag, "Content-Range": f"bytes {first}-{last}/{len(objects[path])}"}, data

    def _listing(container, objects, query):
        marker, limit = query.get("marker", [""])[0], int(query.get("limit", ["10000"])[0])
        names = sorted(path[len(container) + 1 :] for path in objects if path.startswith(f"{container}/"))
        names = [name for name in names if name > marker][:limit]
        if query.get("format") != ["json"]:
            return 200, {"Content-Type": "text/plain"}, "".join(f"{name}\n" for name in names).encode("utf-8")
        rows = [
            {
                "name": name,
                "bytes": len(objects[f"{container}/{name}"]),
                "hash": hashlib.md5(objects[f"{container}/{name}"]).hexdigest(),
                "content_type": "application/octet-stream",
                "last_modified": "2024-02-03T04:05:06.000000",
            }
            for name in names
        ]
        return 200, {"Content-Type": "application/json"}, json.dumps(rows).encode("utf-8")

    server = Recorder(answers)
    return server


def _tree_hash(data):
    level = [hashlib.sha256(data[i : i + 2**20]).digest() for i in range(0, len(data), 2**20)] or [
        hashlib.sha256(b"").digest()
    ]
    while len(level) > 1:
        level = [
            hashlib.sha256(b"".join(level[i : i + 2])).digest() if level[i + 1 :] else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0].hex()


class Glacier(Recorder):
    """One account's vaults: archives, parts, jobs that end when ``finish`` is set."""

    def __init__(self):
        self.vaults, self.archives, self.jobs, self.parts, self.finish = set(), {}, {}, {}, False
        super().__init__(self.answer)

    def answer(self, request):
        headers, method = request.headers, request.method
        if "AWS4-HMAC-SHA256 Credential=" not in headers.get("authorization", ""):
            return 403, {}, b'{"message": "no signature"}'
        if headers["x-amz-content-sha256"] != hashlib.sha256(request.body).hexdigest():
            return 400, {}, b'{"message": "hash"}'
        vault, _, rest = request.path[len("/-/vaults/") :].partition("/")
        kind, _, name = rest.partition("/")
        if not rest and method == "PUT":
            self.vaults.add(vault)
            return 201, {}, b""
        if kind == "archives" and method == "POST":
            return self.store(headers, request.body)
        if kind == "archives" and method == "DELETE":
            return (204, {}, b"") if self.archives.pop(name, None) else (404, {}, b"{}")
        if kind == "multipart-uploads":
            return self.part(method, name, headers, request.body)
        if kind == "jobs" and method == "POST":
            job = f"job-{len(self.jobs)}"
            self.jobs[job] = json.loads(request.body)
            return 202, {"x-amz-job-id": job}, b""
        name, _, output = name.partition("/")
        if kind == "jobs" and name in self.jobs:
            return self.output(name, headers) if output else (200, {}, json.dumps(self.job(name)).encode("utf-8"))
        return 404, {}, b'{"message": "unknown"}'

    def store(self, headers, body):
        if headers["x-amz-sha256-tree-hash"] != _tree_hash(body):
            return 400, {}, b'{"message": "tree hash"}'
        archive = f"archive-{len(self.archives)}"
        self.archives[archive] = (headers["x-amz-archive-description"], body)
        return 201, {"x-amz-archive-id": archive}, b""

    def part(self, method, name, headers, body):
        if method == "POST" and not name:
            self.parts["upload"] = [headers["x-amz-archive-description"], b""]
            return 201, {"x-amz-multipart-upload-id": "upload"}, b""
        if method == "PUT":
            if headers["x-amz-sha256-tree-hash"] != _tree_hash(body):
                return 400, {}, b'{"message": "tree hash of a part"}'
            self.parts[name][1] += body
            return 204, {}, b""
        description, data = self.parts.pop(name)
        if method == "DELETE":
            return 204, {}, b""
        if int(headers["x-amz-archive-size"]) != len(data):
            return 400, {}, b'{"message": "size"}'
        return self.store({**headers, "x-amz-archive-description": description}, data)

    def job(self, name):
        asked, done = self.jobs[name], self.finish
        archive = self.archives.get(asked.get("ArchiveId"), ("", b""))[1]
        return {
            "JobId": name,
            "Action": "ArchiveRetrieval" if asked["Type"] == "archive-retrieval" else "InventoryRetrieval",
            "StatusCode": "Succeeded" if done else "InProgress",
            "CreationDate": "2024-02-03T04:05:06.000Z",
            "CompletionDate": "2024-02-03T08:05:06.000Z" if done else None,
            "Completed": done,
            "ArchiveSizeInBytes": len(archive),
            "ArchiveSHA256TreeHash": _tree_hash(archive),
        }

    def output(self, name, headers):
        asked = self.jobs[name]
        if asked["Type"] == "archive-retrieval":
            data = self.archives[asked["ArchiveId"]][1]
        else:
            rows = [{"ArchiveId": key, "ArchiveDescription": value[0]} for key, value in self.archives.items()]
            data = json.dumps({"ArchiveList": rows}).encode("utf-8")
        span = re.match(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
        return (206, {}, data[int(span[1]) : int(span[2]) + 1]) if span else (200, {}, data)


class MariaDb:
    """A MariaDB server on a Unix socket in a folder of its own; whoever runs the tests is its administrator."""

    def __init__(self, folder):
        folder.mkdir()
        for parent in (folder, *folder.parents):
            if str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o111)
        self.socket, data, log = folder / "socket", folder / "data", folder / "log"
        user = "mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        me = pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(folder, "mysql", "mysql")
        install = [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            f"--auth-root-socket-user={me}",
            f"--user={user}",
        ]
        made = subprocess.run(install, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"mariadb-install-db: {made.stdout}{made.stderr}")
        mariadbd = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
        options = [
            f"--datadir={data}",
            f"--socket={self.socket}",
            f"--pid-file={folder}/pid",
            f"--log-error={log}",
            f"--user={user}",
        ]
        command = [mariadbd, "--no-defaults", *options, f"--tmpdir={folder}", "--skip-networking"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.ask("SELECT 1", check=False) == "1", self.process, log)

    def ask(self, sql, check=True, stdin=subprocess.DEVNULL):
        """What the server answers to a statement, or to those of an open file."""
        command = [
            "mariadb",
            "--no-defaults",
            f"--socket={self.socket}",
            "-u",
            "root",
            "-N",
            "-B",
            "--default-character-set=utf8mb4",
        ]
        done = subprocess.run([*command, *(["-e", sql] if sql else [])], stdin=stdin, text=True, capture_output=True)
        if done.returncode and check:
            raise RuntimeError(f"{sql}: {done.stderr}")
        return done.stdout.strip()

    def stop(self):
        self.process.terminate()
        self.process.wait()
