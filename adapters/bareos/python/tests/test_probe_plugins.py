# SPDX-License-Identifier: MIT OR Apache-2.0
"""The probe plugins do what their texts say: a probe that fails for another reason than the intended proves nothing."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fake_setup import TESTS, PluginCase

import bareosfd as fd
import job

PLUGINS = TESTS / "plugins"


class Probes(PluginCase):
    def test_every_probe_says_what_it_provokes(self):
        for path in PLUGINS.glob("*.py"):
            text = path.read_text()
            if path.name == "syntax_error.py":
                with self.assertRaises(SyntaxError):
                    compile(text, path.name, "exec")
                continue
            self.assertTrue(ast.get_docstring(ast.parse(text)), path.name)

    def test_trace_of_a_minimal_backup_and_restore(self):
        log = self.folder / "log"
        options = f"log={log}:option=value:"
        saved = job.back_up("probe_trace", options)
        self.assertEqual(
            log.read_text().splitlines(),
            [
                "constructor",
                f"parse_plugin_definition({options!r})",
                "handle_plugin_event(16)",
                "handle_plugin_event(3)",
                f"parse_plugin_definition({options!r})",
                "start_backup_file",
                "plugin_io OPEN",
                "plugin_io READ",
                "plugin_io CLOSE",
                "get_acl",
                "get_xattr",
                "end_backup_file",
                "handle_plugin_event(4)",
                "handle_plugin_event(2)",
            ],
        )
        log.unlink()
        job.restore("probe_trace", options, saved, str(self.folder / "where"))
        lines = log.read_text().splitlines()
        self.assertEqual(
            lines[lines.index(f"start_restore_file({options!r})") :],
            [
                f"start_restore_file({options!r})",
                "create_file",
                "plugin_io OPEN",
                "set_file_attributes",
                "plugin_io CLOSE",
                "set_acl",
                "set_xattr",
                "end_restore_file",
                "handle_plugin_event(2)",
            ],
        )

    def test_raises_in_the_callback_it_is_told(self):
        for where in ("load_bareos_plugin", "start_backup_file", "plugin_io_read", "plugin_io", "handle_plugin_event(4)"):
            with self.assertRaisesRegex(ValueError, "raised in"):
                job.back_up("raises", f"where={where}:")
        saved = job.back_up("raises", "where=create_file:")
        self.assertEqual([record.name for record in saved], ["/probe/raises"])
        with self.assertRaisesRegex(ValueError, "raised in create_file"):
            job.restore("raises", "where=create_file:", saved, str(self.folder))

    def test_nonsense_is_answered_where_it_is_told(self):
        module = job.load("nonsense_rc", "callback=end_backup_file:rc=None:")
        self.assertIsNone(module.end_backup_file())
        module = job.load("nonsense_rc", "where=start_backup_file:rc=99999999999999999999:")
        self.assertEqual(module.start_backup_file(fd.SavePacket()), 99999999999999999999)
        self.assertEqual(module.end_backup_file(), fd.bRC_OK)

    def test_exits_end_the_process(self):
        for how, code in (("exit3", 3), ("exit0", 0), ("segv", -11), ("kill", -9), ("null", -11), ("sysexit", 3)):
            script = (
                "import fake_setup, job\n"
                f"job.back_up('exits', 'where=plugin_io_open:how={how}:')\n"
                "raise SystemExit(77)"
            )
            done = subprocess.run([sys.executable, "-c", script], cwd=TESTS, capture_output=True)
            self.assertEqual(done.returncode, code, how)

    def test_sleepers_stay_where_they_are_told(self):
        for how in ("sleep", "busy", "pipe", "deaf", "gil"):
            pid = self.folder / how
            script = f"import fake_setup, job\njob.back_up('sleeps', 'where=plugin_io_read:how={how}:pid={pid}:')"
            with subprocess.Popen([sys.executable, "-c", script], cwd=TESTS) as process:
                try:
                    while not pid.exists() and process.poll() is None:
                        time.sleep(0.01)
                    with self.assertRaises(subprocess.TimeoutExpired, msg=how):
                        process.wait(0.1)
                finally:
                    process.kill()

    def test_printing_leaves_the_data_alone(self):
        script = "import fake_setup, job, sys\nsys.exit(job.back_up('prints', 'long=yes:')[0].data != b'probe data\\n')"
        done = subprocess.run([sys.executable, "-c", script], cwd=TESTS, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        for text in (b"printed in start_backup_file", b"put in plugin_io", b"child in get_xattr", b"\xff\xfe\0garbage"):
            self.assertIn(text, done.stdout)
        self.assertGreater(len(done.stdout), 1_000_000)
        self.assertIn(b"child complains in end_backup_file", done.stderr)

    def test_reads_give_the_same_bytes_in_blocks_of_every_size(self):
        import reads

        wanted = (bytes(range(251)) * 5000)[:1_000_000]
        self.assertEqual(reads.data(250, 3), b"\xfa\x00\x01")
        for case in ("full", "short", "bytes", "bytearray", "reused", "longer_buf"):
            (record,) = job.back_up("reads", f"case={case}:")
            self.assertEqual(record.data, wanted, case)
        (record,) = job.back_up("reads", "case=one_byte:size=1000:")
        self.assertEqual(record.data, wanted[:1000])
        for case in ("eintr", "eintr_forever", "error"):
            with self.assertRaises(job.Failed):
                job.back_up("reads", f"case={case}:")

    def test_a_pipe_is_read_and_written_by_its_descriptor(self):
        for how in ("pipe", "socket"):
            options = f"size=3000000:source=/dev/urandom:how={how}:"
            (record,) = saved = job.back_up("pipe", options)
            self.assertTrue(record.direct)
            self.assertEqual(len(record.data), 3_000_000)
            where = self.folder / how
            job.restore("pipe", options, saved, str(where))
            self.assertEqual((where / "probe/pipe").read_bytes(), record.data)
        self.assertEqual(self.told(fd.M_ERROR), [])

    def test_children_and_threads_are_left_behind(self):
        pids = self.folder / "pids"
        script = f"import fake_setup, job, os\njob.back_up('children', 'pids={pids}:')\nos._exit(0)"
        # Not our own output: what is left behind would hold it open.
        subprocess.run(
            [sys.executable, "-c", script], cwd=TESTS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
        left = [int(pid) for pid in pids.read_text().split()]
        try:
            self.assertEqual(len(left), 4)
            for pid in left:
                self.assertTrue(Path(f"/proc/{pid}").exists(), pid)
        finally:
            for pid in left:
                # Stopped first: the shell among them would start its next sleep.
                os.kill(pid, signal.SIGSTOP)
                for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)

    def test_messages_of_every_kind_and_threads_that_send_them(self):
        job.back_up("messages", "")
        self.assertEqual([kind for kind, _ in fd.messages[::2]], [2, 6, 7, 8, 9, 10, 12, 13, 16, 99])
        fd.reset()
        job.back_up("threads", "")
        self.assertEqual(
            sorted(self.told(fd.M_INFO)), [f"thread {number} of job 7\n" for number in range(9)]
        )
        self.assertEqual(self.told(fd.M_ERROR), [])

    def test_every_kind_of_object_is_announced_and_comes_back(self):
        options = "surrogates=yes:"
        saved = job.back_up("kinds", options)
        names = [record.name for record in saved]
        self.assertEqual(names.count("@KINDS/twice"), 2)
        self.assertIn("/kinds/latin1 \udce4", names)
        ordinary = [
            record for record in saved if "child" not in record.name and "with data" not in record.name
        ]
        self.assertEqual(job.restore("kinds", options, ordinary, str(self.folder)), [])
        self.assertEqual((self.folder / "kinds/second name").read_bytes(), b"text\n")
        self.assertEqual((self.folder / "@KINDS/twice").read_bytes(), b"second\n")
        self.assertEqual((self.folder / "@KINDS/new\nline\\backslash").read_bytes(), b"newline\n")
        acl = [text for text in self.told(fd.M_INFO) if text.startswith("my set_acl() entry point")]
        self.assertEqual(len(acl), 2)

    def test_wrong_types_are_what_their_case_says(self):
        module = job.load("wrong_types", "case=fname_bytes:")
        packet = fd.SavePacket()
        module.start_backup_file(packet)
        self.assertEqual(packet.fname, b"/probe/file")
        with self.assertRaises(TypeError):
            job.load("wrong_types", "case=stat_float:").start_backup_file(fd.SavePacket())
        for case in module.PACKET_CASES:
            self.assertIn(case, module.__doc__)

    def test_big_buffer_is_as_big_as_told(self):
        module = job.load("big_buffer", "size=5000000:")
        module.start_backup_file(fd.SavePacket())
        packet = fd.IoPacket(func=fd.IO_READ, count=262144)
        module.plugin_io(packet)
        self.assertEqual((len(packet.buf), packet.status), (5_000_000, 5_000_000))

    def test_missing_has_two_callbacks_and_empty_none(self):
        module = job.load("missing", "")
        self.assertFalse(callable(module.start_backup_file))
        self.assertFalse(hasattr(module, "plugin_io"))
        module.load_bareos_plugin("only=load:")
        self.assertFalse(hasattr(module, "parse_plugin_definition"))
        with self.assertRaises(AttributeError):
            job.load("empty", "")
        with self.assertRaises(ModuleNotFoundError):
            job.load("raises_on_import", "")
