# SPDX-License-Identifier: MIT OR Apache-2.0
"""Puts the stand-in ``bareosfd``, the helper modules, our plugins, the examples and the probes on the import path."""

import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PYTHON = TESTS.parent
for folder in (TESTS / "plugins", PYTHON / "examples", PYTHON / "plugins", PYTHON / "modules", TESTS / "fake"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
sys.dont_write_bytecode = True

import bareosfd  # noqa: E402


class PluginCase(unittest.TestCase):
    """Fresh job state and a folder of its own (``self.folder``) for each test."""

    def setUp(self):
        bareosfd.reset()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)

    def told(self, kind):
        """Texts of the job messages of one kind."""
        return [text for its_kind, text in bareosfd.messages if its_kind == kind]
