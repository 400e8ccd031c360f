# SPDX-License-Identifier: MIT OR Apache-2.0
"""What every test of bakthat stands on: a home of its own, a bakthat imported anew from it, an S3 server, the log.

May import: the standard library, PyYAML.
"""

import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import yaml

import servers

HERE = Path(__file__).resolve().parent
ORIGINAL = HERE / "original"


class Lines(logging.Handler):
    """The lines that were logged, with their loggers and levels."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def texts(self, level=logging.INFO, logger=None):
        return [r.getMessage() for r in self.records if r.levelno >= level and logger in (None, r.name)]


class Case(unittest.TestCase):
    """A test in a home of its own; ``self.bakthat`` is imported anew when it is first asked for."""

    maxDiff = None
    destination = None

    def setUp(self):
        self._before = dict(os.environ), os.getcwd(), list(sys.path)
        self.home = Path(tempfile.mkdtemp(prefix="bakthat-test-")).resolve()
        self.work = self.home / "work"
        self.tmp = self.home / "tmp"
        self.work.mkdir()
        self.tmp.mkdir()
        os.environ.update(HOME=str(self.home), TMPDIR=str(self.tmp), TZ="UTC")
        os.environ.pop("BAKTHAT_PASSWORD", None)
        importlib.import_module("time").tzset()
        tempfile.tempdir = None
        os.chdir(self.work)
        self._module = None
        self.addCleanup(self._clean)
        self.configure()

    def _clean(self):
        self._drop()
        environ, cwd, path = self._before
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        importlib.import_module("time").tzset()
        tempfile.tempdir = None
        os.chdir(cwd)
        subprocess.run(["chmod", "-R", "u+rwx", self.home], check=False)
        shutil.rmtree(self.home, ignore_errors=True)

    def _drop(self):
        if self._module is not None:
            self._module.log.removeHandler(self.lines)
            self._module.models.database.close()
        for name in [name for name in sys.modules if name.split(".")[0] == "bakthat" and name != "bakthat._native"]:
            del sys.modules[name]
        self._module = None

    # ------------------------------------------------------------------------------------------- configuration

    def s3(self, **more):
        """Settings of a profile in the S3 server of the tests, in a bucket that no other test has."""
        name = f"bucket-{self.home.name.lower().replace('_', '-').strip('-')}"
        return {**servers.s3_settings(), "s3_bucket": name, **more}

    def configure(self, profiles=None):
        """Writes the configuration; bakthat is imported anew after it."""
        self.write_config({"default": self.s3()} if profiles is None else profiles)

    def write_config(self, profiles, path=None):
        Path(path or self.home / ".bakthat.yml").write_text(yaml.safe_dump(profiles), encoding="utf-8")
        if path is None:
            self._drop()

    @property
    def bakthat(self):
        if self._module is None:
            self._module = importlib.import_module("bakthat")
            self.lines = Lines()
            self._module.log.addHandler(self.lines)
            self._module.log.setLevel(logging.DEBUG)
            self._module.log.propagate = False
        return self._module

    def texts(self, **which):
        return self.lines.texts(**which)

    def helper(self):
        self.bakthat
        return importlib.import_module("bakthat.helper")

    # --------------------------------------------------------------------------------------------- data to save

    def file(self, name, data=b"content\n"):
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
        return path

    def backend(self, destination=None, profile="default"):
        return self.bakthat._get_store_backend(str(self.home / ".bakthat.yml"), destination, profile)[0]

    def objects(self, destination=None, profile="default"):
        return sorted(self.backend(destination, profile).ls())

    def data(self, name, destination=None, profile="default"):
        """The bytes of a stored object."""
        with self.backend(destination, profile).download(name) as file:
            return file.read()

    def row(self, stored_filename):
        return self.bakthat.Backups.get(self.bakthat.Backups.stored_filename == stored_filename)

    def add_row(self, name, date, **columns):
        """A row and its object, of a backup that was made at a date of the UTC clock."""
        import datetime

        backups = self.bakthat.Backups
        clock = date if isinstance(date, datetime.datetime) else datetime.datetime.fromisoformat(date)
        backend = self.backend(columns.get("backend"))
        stored = columns.pop("stored_filename", f"{name}.{clock:%Y%m%d%H%M%S}.tgz")
        shifted = int(clock.timestamp())
        path = self.home / "object"
        path.write_bytes(stored.encode("utf-8"))
        backend.upload(stored, str(path))
        return backups.create(
            **{
                "backend": "s3",
                "backend_hash": self.bakthat.models.hash_of_backend(backend),
                "backup_date": shifted,
                "last_updated": shifted,
                "filename": name,
                "metadata": {"is_enc": False, "client": "here"},
                "size": path.stat().st_size,
                "stored_filename": stored,
                "tags": "",
                **columns,
            }
        )

    def in_folder(self, name="restored"):
        """Goes into a new folder."""
        folder = self.work / name
        folder.mkdir()
        os.chdir(folder)
        return folder

    def temporary_files(self):
        return sorted(os.listdir(self.tmp))

    # -------------------------------------------------------------------------------------- other interpreters

    def environment(self, **more):
        return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **{name: str(value) for name, value in more.items()}}

    def python(self, code, *arguments, **more):
        """Runs code in an interpreter of its own, in the same home."""
        return self._run([sys.executable, "-c", code, *map(str, arguments)], more)

    def command(self, *arguments, **more):
        """Runs the command ``bakthat`` in the same home, without a terminal."""
        installed = Path(sys.executable).parent / "bakthat"
        program = [str(installed)] if installed.exists() else [sys.executable, "-m", "bakthat"]
        return self._run([*program, *map(str, arguments)], more)

    def started(self, *arguments):
        """The command, running, with its standard error at hand; signals reach it however the tests were started."""

        def heeds_signals():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

        return subprocess.Popen(
            [sys.executable, "-m", "bakthat", *map(str, arguments)],
            env=self.environment(),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heeds_signals,
        )

    def _run(self, arguments, more):
        given = {"stdin": subprocess.DEVNULL} if "input" not in more else {"input": more["input"]}
        return subprocess.run(
            arguments,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=more.get("cwd"),
            env=self.environment(**more.get("env", {})),
            timeout=300,
            **given,
        )

    def succeeds(self, done):
        self.assertEqual(done.returncode, 0, done.stderr)
        return done
