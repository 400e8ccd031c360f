# SPDX-License-Identifier: MIT OR Apache-2.0
"""Events and plugins: lines 33 to 36 of the conformance checklist."""

import io
import os
import textwrap
import unittest
import uuid

import servers
from case import Case

PLUGIN = """
from bakthat.plugin import Plugin

class {name}(Plugin):
    def activate(self):
        print("{name} activated", self.conf["own"], self.log.name, self, list(self.__dict__))
        self.on_backup += self.done

    def done(self, session_id, backup):
        print("{name} done", backup.stored_filename.split(".")[0], self.events is __import__("bakthat").events)

    def deactivate(self):
        print("{name} deactivated")
"""


class Events(Case):
    def setUp(self):
        super().setUp()
        self.fired = []
        for name in self.bakthat.hub.EVENTS:
            slot = getattr(self.bakthat.events, name)
            slot += lambda *given, name=name: self.fired.append((name, given))
        self.write = self.file("f")

    def test_33_the_ten_events(self):
        bakthat = self.bakthat
        results = [
            ("backup", bakthat.backup("f", password="")),
            ("restore", bakthat.restore("f")),
            ("delete_older_than", bakthat.delete_older_than("f", "1D")),
            ("rotate_backups", bakthat.rotate_backups("f", conf=self.s3(rotation={"days": 1}))),
            ("delete", bakthat.delete("f")),
        ]
        self.assertEqual(
            [name for name, _ in self.fired], [f"{when}_{what}" for what, _ in results for when in ("before", "on")]
        )
        sessions = set()
        for number, (_, result) in enumerate(results):
            (_, before), (_, after) = self.fired[2 * number : 2 * number + 2]
            self.assertEqual((len(before), len(after)), (1, 2))
            self.assertIs(after[1], result)
            self.assertEqual(before[0], after[0])
            self.assertEqual(uuid.UUID(before[0]).version, 4)
            self.assertIsInstance(before[0], str)
            sessions.add(before[0])
        self.assertEqual(len(sessions), 5)
        self.assertEqual((results[2][1], results[3][1]), ([], []))

    def test_33_nothing_is_fired_where_nothing_matches(self):
        self.assertIsNone(self.bakthat.restore("none"))
        self.assertIsNone(self.bakthat.delete("none"))
        self.assertEqual(self.fired, [])

    def test_34_an_exception_before_prevents_the_action(self):
        bakthat, later = self.bakthat, []

        def fails(*given):
            raise RuntimeError("not today")

        self.bakthat.backup("f", password="")
        for what, call in (
            ("backup", lambda: bakthat.backup("f", password="")),
            ("restore", lambda: bakthat.restore("f")),
            ("delete", lambda: bakthat.delete("f")),
            ("delete_older_than", lambda: bakthat.delete_older_than("f", "1s")),
            ("rotate_backups", lambda: bakthat.rotate_backups("f", conf=self.s3(rotation={"days": 0}))),
        ):
            slot = getattr(bakthat.events, f"before_{what}")
            slot += fails
            slot += later.append
            self.fired.clear()
            with self.assertRaisesRegex(RuntimeError, "not today"):
                call()
            self.assertEqual([name for name, _ in self.fired], [f"before_{what}"])
        self.assertEqual((later, len(self.objects()), bakthat.Backups.select().count()), ([], 1, 1))

    def test_34_an_exception_afterwards_leaves_the_work_done(self):
        later = []

        def fails(*given):
            raise RuntimeError("too late")

        self.bakthat.events.on_backup += fails
        self.bakthat.events.on_backup += lambda *given: later.append(given)
        with self.assertRaisesRegex(RuntimeError, "too late"):
            self.bakthat.backup("f", password="")
        self.assertEqual((later, len(self.objects()), self.bakthat.Backups.select().count()), ([], 1, 1))

    def test_34_slots(self):
        hub = type(self.bakthat.events)()
        called = []
        hub.anything += called.append
        hub.anything += called.append
        hub.other += called.append
        hub.anything(1)
        self.assertEqual(called, [1, 1])
        self.assertEqual(
            (len(hub.anything), list(hub.anything), hub.anything[1]), (2, [called.append] * 2, called.append)
        )
        self.assertEqual(
            (str(hub.anything), len(hub), [str(slot) for slot in hub]),
            ("event 'anything'", 2, ["event 'anything'", "event 'other'"]),
        )
        hub.anything -= called.append
        hub.anything -= print
        self.assertEqual(len(hub.anything), 0)
        hub.anything(2)
        self.assertEqual(called, [1, 1])

        def once(value):
            hub.loop -= once
            called.append(value)

        hub.loop += once
        hub.loop += called.append
        hub.loop(3)
        self.assertEqual(called, [1, 1, 3, 3])


class Plugins(Case):
    folder = ".bakthat_plugins"

    def plugin(self, name, text=None):
        folder = self.home / self.folder
        folder.mkdir(exist_ok=True)
        (folder / f"{name.lower()}.py").write_text(textwrap.dedent(text or PLUGIN.format(name=name)))
        return f"{name.lower()}.{name}"

    def configured(self, *plugins, **more):
        self.write_config({"default": self.s3(plugins=list(plugins), own="of the profile", **more)})

    def test_35_plugins_of_the_default_folder_live_once(self):
        self.configured(self.plugin("First"), self.plugin("Second"))
        self.file("f")
        done = self.python(
            "import bakthat; [bakthat.backup('f', password='') for _ in range(2)]\n"
            "print(bakthat.plugin.plugin_setup, bakthat.plugin_setup)"
        )
        expected = [
            "First activated of the profile bakthat.plugin <Plugin bakthat: First> ['conf']",
            "Second activated of the profile bakthat.plugin <Plugin bakthat: Second> ['conf']",
            *["First done f True", "Second done f True"] * 2,
            "True False",
            "Second deactivated",
            "First deactivated",
        ]
        self.assertEqual(self.succeeds(done).stdout.splitlines(), expected)

    def test_35_plugins_of_another_folder_and_of_the_command(self):
        self.folder = "elsewhere"
        self.configured(self.plugin("Third"), plugins_dir=str(self.home / "elsewhere"))
        self.file("f")
        done = self.succeeds(self.command("backup", "--prompt=no", "f"))
        self.assertIn("Third done f True", done.stdout)
        self.assertTrue(done.stdout.endswith("Third deactivated\n"))
        self.assertNotIn("Third", self.succeeds(self.command("show")).stdout)

    def test_35_an_unknown_attribute_has_its_text(self):
        plugin = self.bakthat.plugin.Plugin({})
        with self.assertRaises(Exception) as caught:
            plugin.on_nothing
        self.assertEqual(str(caught.exception), "Event on_nothing does not exist!")
        self.assertFalse(hasattr(plugin, "on_nothing"))
        with self.assertRaisesRegex(NotImplementedError, "Plugin should implement this!"):
            plugin.activate()

    def test_35_failures_are_the_callers_and_nothing_is_activated_twice(self):
        first = self.plugin("First")
        bad = {
            "nowhere.Bad": "ModuleNotFoundError",
            "first.Missing": "AttributeError",
            "nodot": "BadValue",
            self.plugin("Wrong", "class Wrong: pass"): "Exception",
            self.plugin(
                "Raises",
                "import bakthat.plugin\n"
                "class Raises(bakthat.plugin.Plugin):\n"
                "    def activate(self): raise LookupError('no')",
            ): "LookupError",
            self.plugin(
                "Idle", "import bakthat.plugin\nclass Idle(bakthat.plugin.Plugin): pass"
            ): "NotImplementedError",
        }
        self.file("f")
        for entry, kind in bad.items():
            self.configured(first, entry)
            code = (
                "import bakthat\n"
                "bakthat.events.before_backup += print\n"
                "for _ in range(2):\n"
                "    try: bakthat.backup('f', password='')\n"
                "    except Exception as error: print(type(error).__name__, '|', error)\n"
            )
            lines = self.succeeds(self.python(code)).stdout.splitlines()
            with self.subTest(entry):
                self.assertEqual(len([line for line in lines if line.startswith("First activated")]), 1)
                self.assertEqual(lines.count("First deactivated"), 1)
                told = [line for line in lines if "|" in line]
                self.assertEqual(len(told), 2)
                self.assertTrue(told[0].startswith(kind), told)
                self.assertEqual(len(lines), 4)
        self.assertEqual(self.objects() if self.configure() is None else None, [])

    def test_35_one_plugin_as_plain_text(self):
        self.write_config({"default": self.s3(plugins=self.plugin("First"), own="x")})
        self.file("f")
        self.assertIn("First activated", self.succeeds(self.command("backup", "--prompt=no", "f")).stdout)

    def test_36_a_plugin_adds_a_backend(self):
        self.configured(
            self.plugin(
                "Adder",
                """
            import os, shutil
            import bakthat
            from bakthat.backends import BakthatBackend
            from bakthat.plugin import Plugin

            class Folder(BakthatBackend):
                name = "folder"

                def __init__(self, conf={}, profile="default"):
                    BakthatBackend.__init__(self, conf, profile)
                    self.container, self.container_key = self.conf["own_folder"], "own_folder"

                def upload(self, key, path, **kwargs):
                    shutil.copy(path, os.path.join(self.container, key))

                def download(self, key):
                    return open(os.path.join(self.container, key), "rb")

                def ls(self):
                    return os.listdir(self.container)

                def delete(self, key):
                    os.unlink(os.path.join(self.container, key))

            class Adder(Plugin):
                def activate(self):
                    bakthat.STORAGE_BACKEND["folder"] = Folder
            """,
            ),
            own_folder=str(self.home / "own"),
            default_destination="folder",
        )
        (self.home / "own").mkdir()
        self.file("f")
        for arguments in (["backup", "--prompt=no", "f"], ["restore", "f"], ["ls"], ["delete", "f"]):
            done = self.succeeds(self.command(*arguments))
            self.assertNotIn("No file matched", done.stderr, arguments)
        self.assertEqual(list((self.home / "own").iterdir()), [])
        self.assertEqual([row.backend for row in self.bakthat.Backups.select()], ["folder"])

    def test_36_a_plugin_rebinds_what_the_functions_use(self):
        self.configured(
            self.plugin(
                "Rebinder",
                """
            import bakthat
            from bakthat.plugin import Plugin

            class Own(bakthat.S3Backend):
                def upload(self, keyname, filename, **kwargs):
                    print("own upload", keyname.split(".")[0])
                    bakthat.S3Backend.upload(self, keyname, filename, **kwargs)

            class Backups(bakthat.models.Backups):
                @classmethod
                def create(cls, **columns):
                    print("own create")
                    return super().create(**dict(columns, tags="of the plugin"))

                @classmethod
                def match_filename(cls, *arguments, **named):
                    print("own match")
                    return super().match_filename(*arguments, **named)

            class Rebinder(Plugin):
                def activate(self):
                    bakthat.STORAGE_BACKEND = dict(s3=Own)
                    bakthat.Backups = Backups
            """,
            )
        )
        self.file("f")
        code = "import bakthat; print(bakthat.backup('f', password='').tags); print(bakthat.restore('f').filename)"
        lines = self.succeeds(self.python(code)).stdout.splitlines()
        self.assertEqual(lines, ["own upload f", "own create", "of the plugin", "own match", "f"])

    def test_36_the_surface_of_a_bucket_that_public_plugins_use(self):
        bucket = self.backend().bucket
        self.assertIsNone(bucket.get_key("k"))
        key = bucket.new_key("k")
        key.set_contents_from_string("text")
        self.assertEqual((key.exists(), key.size, key.name, key.get_contents_as_string()), (True, 4, "k", b"text"))
        self.assertTrue(key.last_modified)
        local = self.bakthat.LocalBackend({"local_path": str(self.home), "s3_bucket": "tmp"}).store
        self.file("../tmp/f")
        os.utime(self.tmp / "f", (0, 0))
        self.assertEqual(local.last_modified("f"), "Thu, 01 Jan 1970 00:00:00 GMT")
        self.assertEqual([local.last_modified("g"), self.backend().store.last_modified("g")], [None, None])
        key.set_acl("private")
        key.set_contents_from_filename(str(self.file("f", "of a file")))
        key.get_contents_to_filename(str(self.work / "out"))
        self.assertEqual((self.work / "out").read_text(), "of a file")
        with open("f", "rb") as file:
            bucket.new_key("l").set_contents_from_file(file)
        with open("out2", "wb") as file:
            bucket.get_key("l").get_contents_to_file(file)
        self.assertEqual((self.work / "out2").read_text(), "of a file")
        self.assertEqual(sorted(key.name for key in bucket.get_all_keys()), ["k", "l"])
        self.assertIn("k", key.generate_url(60))
        self.assertEqual([key.name for key in bucket.list(prefix="k")], ["k"])
        self.assertEqual(("k" in bucket, "m" in bucket, bucket.lookup("m")), (True, False, None))
        self.assertEqual(bucket.get_key("m", validate=False).name, "m")
        self.assertEqual((repr(key), key.read()), (f"<Key: {bucket.name},k>", b"of a file"))
        bucket.delete_key("l")
        key.delete()
        self.assertEqual((list(bucket), bucket.name), ([], self.s3()["s3_bucket"]))

    def test_36_a_file_that_stands_at_its_end_is_not_stored_as_nothing(self):
        key = self.backend().bucket.new_key("k")
        file = io.BytesIO()
        key.set_contents_from_file(file)
        self.assertEqual(key.size, 0)
        file.write(b"abc")
        with self.assertRaisesRegex(AttributeError, "rewind"):
            key.set_contents_from_file(file)
        self.assertEqual(key.size, 0)
        key.set_contents_from_file(file, rewind=True)
        self.assertEqual(key.read(), b"abc")
        file.seek(1)
        key.set_contents_from_file(file)
        self.assertEqual(key.read(), b"bc")

    def test_36_a_backend_goes_on_after_a_fork(self):
        code = (
            "import os, bakthat\n"
            "backend = bakthat.S3Backend(bakthat.config['default'])\n"
            "backend.store.put('k', b'x')\n"
            "if os.fork() == 0:\n"
            "    os._exit(0 if backend.ls() == ['k'] else 1)\n"
            "print(os.wait()[1], backend.ls())\n"
        )
        self.assertEqual(self.succeeds(self.python(code)).stdout, "0 ['k']\n")

    def test_36_what_a_store_cannot_do_is_not_tried_again(self):
        server = servers.Recorder(
            lambda request: (501 if "acl" in request.path else 200, {"x-amz-bucket-region": "us-east-1"}, b"")
        )
        self.addCleanup(server.close)
        backend = self.bakthat.S3Backend(self.s3(endpoint_url=server.url, region_name="us-east-1"))
        with self.assertRaisesRegex(self.bakthat._native.NativeError, "501"):
            backend.bucket.new_key("k").set_acl("public-read")
        self.assertEqual(sum("acl" in request.path for request in server.requests), 1)

    def test_36_an_object_is_made_public_by_a_signed_request(self):
        server = servers.Recorder(lambda request: (200, {"x-amz-bucket-region": "us-east-1"}, b""))
        self.addCleanup(server.close)
        settings = self.s3(endpoint_url=server.url, region_name="us-east-1", access_key="MYKEY")
        backend = self.bakthat.S3Backend(settings)
        backend.bucket.new_key("a b").set_acl("public-read")
        request = server.requests[-1]
        self.assertEqual((request.method, request.path), ("PUT", f"/{backend.container}/a%20b?acl"))
        self.assertEqual(request.headers["x-amz-acl"], "public-read")
        self.assertRegex(
            request.headers["authorization"], "^AWS4-HMAC-SHA256 Credential=MYKEY/.*SignedHeaders=host;x-amz-acl;"
        )


if __name__ == "__main__":
    unittest.main()
