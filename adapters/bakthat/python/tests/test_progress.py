# SPDX-License-Identifier: MIT OR Apache-2.0
"""How far long work is: a line on a terminal, which is gone at the end; nothing where there is none."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
import unittest

import servers
from case import Case


def screen(output):
    """The lines that stay on a terminal of what was written to it."""
    lines = []
    for line in output.replace("\r\n", "\n").split("\n"):
        shown, start = "", False
        for piece in re.split(r"(\r|\x1b\[2K|\x1b\[0?K)", line):
            if piece == "\r":
                start = True
            elif piece.startswith("\x1b["):
                shown, start = "", False
            elif piece:
                shown = piece + shown[len(piece) :] if start else shown + piece
                start = False
            else:
                continue
        lines.append(shown.rstrip())
    return lines


class Progress(Case):
    def setUp(self):
        super().setUp()
        server = servers.Recorder(self.answers)
        self.addCleanup(server.close)
        self.write_config({"default": self.s3(endpoint_url=server.url)})
        self.file("f", b"x" * 5000)

    def answers(self, request):
        if request.method == "HEAD":
            return (404 if "/f." in request.path else 200), {}, b""
        time.sleep(1)
        return 200, {"ETag": '"e"'}, b""

    def on_a_terminal(self, *arguments, how=("-m", "bakthat"), **more):
        """What Python writes to standard error where that is a terminal of 100 columns, and its status."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        process = subprocess.Popen(
            [sys.executable, *how, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=theirs,
            env=self.environment(**{"TERM": "xterm", **more}),
        )
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            written += piece
        os.close(ours)
        return written.decode("utf-8"), process.wait()

    def test_a_line_says_what_and_how_far_and_leaves_no_trace(self):
        conf = ["backup", "--prompt=no", "f"]
        written, status = self.on_a_terminal(*conf)
        self.assertEqual(status, 0, written)
        self.assertRegex(written, r"Uploading  \[\S+\] [= >]+ +\d+% of \d+ B, [\d.]+ \w*B/s")
        plain = self.succeeds(self.command(*conf)).stderr
        self.assertNotRegex(plain, r"[\r\x1b]")
        self.assertIn("Uploading...\n", plain)
        self.assertEqual(screen(written), plain.split("\n"))

    def test_a_terminal_that_can_do_nothing_gets_nothing_but_lines(self):
        written, _ = self.on_a_terminal("backup", "--prompt=no", "f", TERM="dumb")
        self.assertNotRegex(written.replace("\r\n", "\n"), r"[\r\x1b]")


    def test_a_script_has_its_terminal_for_itself(self):
        script = "import bakthat; bakthat.backup('f', password='')"
        written, status = self.on_a_terminal(script, how=["-c"])
        self.assertEqual((written, status), ("", 0))


if __name__ == "__main__":
    unittest.main()
