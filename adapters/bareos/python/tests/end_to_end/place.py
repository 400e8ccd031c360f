# SPDX-License-Identifier: MIT OR Apache-2.0
"""A folder for one test with a repository and the program ``backstay``, for our plugins against real servers.

``BACKSTAY_TEST_PROGRAM`` names the program, else it is the one that cargo built.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
PLUGINS = TESTS.parent / "plugins"
TOP = TESTS.parents[3]
sys.path.insert(0, str(TESTS))
sys.dont_write_bytecode = True


def backstay():
    target = Path(os.environ.get("CARGO_TARGET_DIR") or TOP / "target")
    found = Path(os.environ.get("BACKSTAY_TEST_PROGRAM") or target / "debug" / "backstay")
    if not found.exists() or not found.with_name("backstay-python").exists():
        raise RuntimeError(f"there is no {found} with backstay-python beside it: run cargo build")
    return found


class Place(unittest.TestCase):
    """A test with a repository; ``self.plugin`` is the module, ``self.options`` the options of its definition."""

    plugin = ""

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="backstay-plugin-", ignore_cleanup_errors=True)
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)
        self.folder.chmod(0o755)
        self.options = ""
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BACKSTAY_", "RESTIC_", "XDG_", "AWS_"))
        }
        self.environment.update(
            BACKSTAY_REPOSITORY=str(self.folder / "repository"),
            BACKSTAY_PASSWORD="a password for a test",
            HOME=str(self.folder),
        )
        self.run_backstay("init")

    def run_backstay(self, *arguments, status=0):
        """Runs the program, which must end with this status; its standard output, or after a failure all it said."""
        done = subprocess.run(
            [backstay(), *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        self.assertEqual(done.returncode, status, told)
        return done.stdout if status == 0 else done.stdout + done.stderr

    def definition(self, options=""):
        return f"python3:module_path={PLUGINS}:module_name={self.plugin}:{self.options}{options}".rstrip(":")

    def back_up(self, *arguments, options=""):
        """A backup that must succeed; its summary."""
        out = self.run_backstay("--json", "backup", "--plugin", self.definition(options), *arguments)
        return next(line for line in map(json.loads, out.splitlines()) if line["message_type"] == "summary")

    def restore(self, where, *arguments, options=None):
        """A restore of the newest snapshot, through the plugin if there are options; the folder."""
        target = self.folder / where
        target.mkdir()
        if options is not None:
            arguments += ("--through-plugin",)
            if options:
                arguments += ("--plugin-options", f"python3:{options}")
        self.run_backstay("restore", "latest", "--target", target, *arguments)
        return target

    def check(self):
        """The repository is sound to restic, to the last byte."""
        environment = {
            **self.environment,
            "RESTIC_REPOSITORY": self.environment["BACKSTAY_REPOSITORY"],
            "RESTIC_PASSWORD": self.environment["BACKSTAY_PASSWORD"],
        }
        subprocess.run(
            ["restic", "check", "--read-data"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def served(self, server):
        """The server, which ends with the test."""
        self.addCleanup(server.kill)
        return server
