# SPDX-License-Identifier: MIT OR Apache-2.0
"""The S3 plugin: signatures as in the examples of AWS' documentation, buckets of a service in this process."""

import hashlib
import os
import time

from fake_setup import PluginCase
from servers import S3

import backstay_s3
import bareosfd as fd
import job

PLUGIN = "backstay_s3"
OLD = 1_600_000_000


class WithService(PluginCase):
    def setUp(self):
        super().setUp()
        self.service = S3()
        self.addCleanup(self.service.end)
        self.objects = self.service.buckets["photos"] = {}
        endpoint = self.service.endpoint.replace(":", "\\:")
        self.options = f"endpoint={endpoint}:bucket=photos:access_key=AK:secret_key=SK:"

    def store(self, key, data, headers=(), changed=OLD):
        self.objects[key] = S3.Stored(data, headers, changed)

    def back_up(self, options="", **more):
        fd.messages.clear()
        return job.back_up(PLUGIN, self.options + options, **more)

    def restore(self, saved, override="", options=""):
        fd.messages.clear()
        target = self.folder / "back"
        refused = job.restore(PLUGIN, self.options + options, saved, str(target), override)
        self.assertEqual(refused, [])
        return target / "@S3" / "photos"

    def content(self):
        return {key: (found.data, found.headers) for key, found in self.objects.items()}


class Buckets(WithService):
    def fill(self):
        self.store(
            "plain", b"text", {"content-type": "text/plain", "x-amz-meta-owner": "ann", "cache-control": "no-store"}
        )
        self.store("a/b c/d+e%20\u00fc&<", b"odd key")
        self.store("a/control \x01\r\n", b"a key that XML cannot hold")
        self.store("a/empty", b"")
        self.store("folder/", b"")
        self.store("big", os.urandom(3_000_000), {"x-amz-storage-class": "REDUCED_REDUNDANCY"})
        for number in range(40):
            self.store(f"many/{number:03}", b"x" * number)

    def round_trip(self, options, direct):
        self.fill()
        expected = self.content()
        saved = self.back_up(options + "prefetch_size=1000000:")
        self.assertEqual({record.name for record in saved}, {f"@S3/photos/{key}" for key in expected})
        by_name = {record.name.removeprefix("@S3/photos/"): record for record in saved}
        self.assertEqual(by_name["plain"].direct, direct)
        self.assertFalse(by_name["big"].direct)
        self.assertEqual((by_name["big"].statp.st_size, by_name["big"].statp.st_mtime), (3_000_000, OLD))
        self.assertIn((b"user.s3.meta.owner", b"ann"), by_name["plain"].xattrs)
        self.assertIn((b"user.s3.etag", hashlib.md5(b"text").hexdigest().encode()), by_name["plain"].xattrs)

        self.objects.clear()
        self.restore(saved, override="restore=bucket:", options=options)
        self.assertEqual(fd.messages, [])
        self.assertEqual(self.content(), expected)

    def test_a_bucket_that_was_emptied_is_filled_again_by_direct_io(self):
        self.round_trip("", True)

    def test_a_bucket_that_was_emptied_is_filled_again_by_plugin_io(self):
        self.round_trip("io=plugin:", False)

    def test_objects_come_back_as_files_with_their_metadata(self):
        self.fill()
        folder = self.restore(self.back_up())
        self.assertEqual((folder / "a" / "b c" / "d+e%20\u00fc&<").read_bytes(), b"odd key")
        self.assertEqual((folder / "big").stat().st_mtime, OLD)
        self.assertTrue((folder / "folder").is_dir())
        if not self.told(fd.M_WARNING):
            self.assertEqual(os.getxattr(folder / "plain", "user.s3.content-type"), b"text/plain")

    def test_prefix_and_patterns_choose(self):
        self.fill()
        names = {record.name for record in self.back_up("prefix=many/:include=*1:include=*2:exclude=many/03?:")}
        self.assertEqual(names, {f"@S3/photos/many/0{tens}{ones}" for tens in range(3) for ones in "12"})

    def test_an_incremental_reads_what_changed_and_an_accurate_one_knows_what_is_gone(self):
        self.fill()
        full = self.back_up()
        since = int(time.time())
        self.store("plain", b"new text", changed=since + 5)
        del self.objects["a/empty"]
        self.service.requests.clear()
        more = self.back_up(level=fd.L_INCREMENTAL, since=since, known={record.name for record in full})
        self.assertEqual([record.name for record in more if record.type == fd.FT_REG], ["@S3/photos/plain"])
        self.assertEqual([record.name for record in more if record.type == fd.FT_DELETED], ["@S3/photos/a/empty"])
        read = [path for method, path, _ in self.service.requests if "list-type" not in path]
        self.assertEqual(read, ["/photos/plain"])

    def test_objects_that_vanish_after_they_were_listed_are_left_out(self):
        self.fill()
        real = self.service.page_of

        def page_of(objects, query):
            page = real(objects, query)
            objects.pop("plain", None)
            return page

        self.service.page, self.service.page_of = 1000, page_of
        self.assertNotIn("@S3/photos/plain", {record.name for record in self.back_up()})
        self.assertEqual(fd.messages, [])

    def test_answers_that_fail_or_break_off_are_asked_for_again(self):
        self.store("big", os.urandom(2_000_000))
        self.store("small", b"x" * 5000)
        expected = {key: data for key, (data, _) in self.content().items()}
        # A list that is refused, then bodies that break off: whoever asks first, the large one does so at least once.
        self.service.answers = [503, None, 1000, 700_000, 500_000]
        saved = self.back_up("prefetch_size=10000:threads=1:")
        self.assertEqual({record.name.rsplit("/", 1)[1]: record.data for record in saved}, expected)
        ranges = [headers.get("range") for _, _, headers in self.service.requests if headers.get("range")]
        self.assertTrue(ranges)

    def test_an_object_that_changes_while_it_is_read_fails_and_is_not_patched_together(self):
        self.store("big", b"a" * 2_000_000)
        real = self.service.serve

        def serve(request, method):
            if "range" in request.headers:
                self.store("big", b"b" * 2_000_000)
            return real(request, method)

        self.service.serve = serve
        self.service.answers = [None, 700_000]
        with self.assertRaises(job.Failed) as failed:
            self.back_up("prefetch_size=10000:retries=1:")
        self.assertIn("big", str(failed.exception))

    def test_content_that_does_not_match_its_etag_is_not_saved(self):
        for size, more in ((2000, ""), (2_000_000, "prefetch_size=10000:")):
            self.objects.clear()
            self.store("wrong", b"a" * size)
            self.objects["wrong"].tag = hashlib.md5(b"other").hexdigest()
            try:
                (record,) = self.back_up("retries=0:" + more)
                self.assertEqual(record.type, fd.FT_NOOPEN)
            except job.Failed as failed:
                self.assertIn("wrong", str(failed))
            self.assertIn("ETag", self.told(fd.M_WARNING)[0])

    def test_an_object_that_may_not_be_read_is_announced_as_failed(self):
        self.store("a", b"1")
        self.store("b", b"2")
        self.service.answers = [None, 403]
        saved = self.back_up("threads=1:")
        self.assertEqual([record.type for record in saved], [fd.FT_NOOPEN, fd.FT_REG])
        self.assertIn("SlowDown: later", self.told(fd.M_WARNING)[0])

    def test_a_bucket_that_cannot_be_listed_whole_fails_the_job(self):
        self.fill()
        for answers in ([403], [500] * 2):
            self.service.answers = list(answers)
            with self.assertRaises(job.Failed):
                self.back_up("retries=1:")
            self.assertIn("later", self.told(fd.M_FATAL)[0])
        real = self.service.page_of
        self.service.page_of = lambda objects, query: (
            b"<half" if "continuation-token" in query else real(objects, query)
        )
        with self.assertRaises(job.Failed):
            self.back_up()
        self.assertIn("cannot list", self.told(fd.M_FATAL)[0])
        self.service.page_of = real
        with self.assertRaises(job.Failed):
            self.back_up("bucket=other:")
        self.assertIn("no such bucket", self.told(fd.M_FATAL)[0])

    def test_large_objects_are_put_back_in_parts(self):
        self.store("large", os.urandom(12_000_001), {"x-amz-meta-a": "b"})
        expected = self.content()
        saved = self.back_up()
        self.objects.clear()
        self.restore(saved, override=f"restore=bucket:part_size={5 << 20}:")
        self.assertEqual(self.content(), expected)
        self.assertTrue(self.objects["large"].tag.endswith("-3"))
        self.assertEqual(self.service.uploads, {})

    def test_objects_go_into_another_bucket_when_told_so(self):
        self.store("a", b"1")
        saved = self.back_up()
        self.service.buckets["copy"] = {}
        self.restore(saved, override="restore=bucket:to_bucket=copy:")
        self.assertEqual(self.service.buckets["copy"]["a"].data, b"1")

    def test_an_object_that_cannot_be_put_back_is_told(self):
        self.store("a", b"1")
        saved = self.back_up()
        self.restore(saved, override="restore=bucket:to_bucket=nowhere:")
        self.assertIn("nowhere/a", self.told(fd.M_ERROR)[0])


class Signatures(PluginCase):
    """The examples of "Authenticating Requests: Using the Authorization Header" in AWS' documentation of S3."""

    SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

    def sign(self, method, path, query, headers, payload=backstay_s3.EMPTY):
        headers = {
            "Host": "examplebucket.s3.amazonaws.com",
            "x-amz-date": "20130524T000000Z",
            "x-amz-content-sha256": payload,
            **headers,
        }
        return backstay_s3.signature(
            method, path, query, headers, payload, self.SECRET, "us-east-1", "20130524T000000Z"
        )[2]

    def test_known_requests_get_the_known_signatures(self):
        self.assertEqual(
            self.sign("GET", "/test.txt", "", {"Range": "bytes=0-9"}),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        )
        self.assertEqual(
            self.sign(
                "PUT",
                "/test%24file.text",
                "",
                {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
                hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        )
        self.assertEqual(
            self.sign("GET", "/", backstay_s3.query_text({"prefix": "J", "max-keys": "2"}), {}),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        )


class Credentials(WithService):
    def test_keys_come_from_options_environment_or_file(self):
        self.store("a", b"1")
        bare = self.options.replace("access_key=AK:secret_key=SK:", "")
        path = self.folder / "credentials"
        path.write_text(
            "[default]\naws_access_key_id = FILE\naws_secret_access_key = x\n"
            "[two]\naws_access_key_id = TWO\naws_secret_access_key = y\naws_session_token = token\n"
        )
        saved = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(saved)))
        for name in list(os.environ):
            if name.startswith("AWS_"):
                del os.environ[name]
        os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(path)
        for more, key in (("", "FILE"), ("profile=two:", "TWO")):
            job.back_up(PLUGIN, bare + more)
            self.assertIn(f"Credential={key}/", self.service.requests[-1][2]["authorization"])
        self.assertEqual(self.service.requests[-1][2]["x-amz-security-token"], "token")
        os.environ.update(AWS_ACCESS_KEY_ID="ENV", AWS_SECRET_ACCESS_KEY="z")
        job.back_up(PLUGIN, bare)
        self.assertIn("Credential=ENV/", self.service.requests[-1][2]["authorization"])
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE"):
            del os.environ[name]
        os.environ["HOME"] = str(self.folder)
        with self.assertRaises(job.Failed):
            job.back_up(PLUGIN, bare)
        self.assertIn("no access key", self.told(fd.M_FATAL)[0])

    def test_wrong_options_are_named(self):
        for options, words in (
            ("access_key=a:secret_key=b:", "bucket is missing"),
            ("bucket=x:access_key=a:secret_key=b:endpoint=nowhere:", "no address"),
            ("bucket=x:threads=0:", "fetches nothing"),
            ("bucket=x:restore=bucket:", "for restores"),
        ):
            fd.reset()
            with self.assertRaises(job.Failed):
                job.back_up(PLUGIN, options)
            self.assertIn(words, self.told(fd.M_FATAL)[0])
