# SPDX-License-Identifier: MIT OR Apache-2.0
"""Encryption: line 21 of the conformance checklist, and the better container."""

import os
import tarfile
import unittest

import blowfish
from case import Case

VECTORS = (
    ("ab", b"hello", "aabb0b", "00010203040506072c0dd79dc6c09841"),
    ("correct horse", b"12345678", "0102030405060710", "00010203040506075421c9b5411e581d4c7feb836edd55bb"),
    ("pässwörd", b"", "09090909090909f8", "00010203040506071118e0788004027f"),
)


class Containers(Case):
    def test_21_the_test_vectors(self):
        for password, plain, padding, container in VECTORS:
            container, key = bytes.fromhex(container), password.encode("utf-8")
            initial = bytes(range(8))
            self.assertEqual(blowfish.encrypt(plain, key, initial, bytes.fromhex(padding)), container)
            path = self.file("container", container)
            self.bakthat._native.decrypt_file(str(path), str(self.work / "plain"), key)
            self.assertEqual((self.work / "plain").read_bytes(), plain)

    def test_21_own_objects_decrypt_with_an_independent_implementation(self):
        conf, flags, vectors = self.s3(compress=False), set(), set()
        for length in range(0, 24):
            data = os.urandom(length)
            self.file("f", data)
            for password in ("a", "ab", "abc", "x" * 56, "pässwörd", b"\xe4\xff"):
                key = password if isinstance(password, bytes) else password.encode("utf-8")
                out = self.work / "out"
                self.bakthat._native.encrypt_file("f", str(out), key)
                plain, flag = blowfish.decrypt(out.read_bytes(), key)
                self.assertEqual((plain, out.stat().st_size), (data, 8 + length + 8 - length % 8))
                self.assertTrue(1 <= flag <= 248)
                self.assertEqual(flag % 8, (8 - length % 8) % 8)
                flags.add(flag)
                vectors.add(out.read_bytes()[:8])
        self.assertEqual(len(vectors), 24 * 6)
        self.assertGreater(len(flags), 40)
        self.file("f", b"stored")
        record = self.bakthat.backup("f", password=b"\xe4\xff", conf=conf)
        self.assertEqual(blowfish.decrypt(self.data(record.stored_filename), b"\xe4\xff")[0], b"stored")
        os.unlink("f")
        self.bakthat.restore("f", password=b"\xe4\xff", conf=conf)
        self.assertEqual((self.work / "f").read_bytes(), b"stored")

    def test_21_a_password_of_57_bytes_is_refused_before_the_upload(self):
        self.file("f")
        for password in ("x" * 57, "ä" * 29):
            with self.assertRaises(ValueError):
                self.bakthat.backup("f", password=password)
        self.assertEqual((self.objects(), self.bakthat.Backups.select().count()), ([], 0))
        self.assertTrue(self.bakthat.backup("f", password="ä" * 28))

    def test_21_a_container_that_cannot_be_one_is_refused(self):
        for data in (b"", b"x" * 8, b"x" * 15, b"x" * 17):
            with self.assertRaises(Exception):
                self.bakthat._native.decrypt_file(str(self.file("c", data)), "plain", b"key")
            self.assertFalse(os.path.exists("plain"))

    def test_age_is_used_where_the_profile_says_so_and_both_are_recognised(self):
        self.file("data/f", "of age")
        age = self.s3(encryption="age")
        record = self.bakthat.backup("data", password="long " * 20, conf=age)
        self.assertTrue(record.stored_filename.endswith(".tgz.age"))
        self.assertTrue(record.is_encrypted())
        self.assertTrue(self.data(record.stored_filename).startswith(b"age-encryption.org/v1\n"))
        self.assertFalse([line for line in self.texts() if "Blowfish" in line])
        old = self.bakthat.backup("data", password="abc")
        for found, password, conf in ((record, "long " * 20, self.s3()), (old, "abc", age)):
            folder = self.in_folder(f"r{found.id}")
            self.bakthat.restore(found.stored_filename, password=password, conf=conf)
            self.assertEqual((folder / "data/f").read_text(), "of age")
            os.chdir(self.work)
        # By content, where the name says something else.
        name = old.stored_filename.replace("data", "renamed")
        self.backend().store.put(name, self.data(record.stored_filename))
        folder = self.in_folder()
        self.bakthat.restore(name, password="long " * 20)
        self.assertEqual((folder / "data/f").read_text(), "of age")
        with self.assertRaisesRegex(Exception, "age or blowfish"):
            self.bakthat.backup(str(self.work / "data"), password="x", conf=self.s3(encryption="rot13"))

    def test_an_encrypted_object_is_an_archive_without_bakthat(self):
        self.file("data/f", "by hand")
        record = self.bakthat.backup("data", password="abc")
        path = self.file("plain.tgz", blowfish.decrypt(self.data(record.stored_filename), b"abc")[0])
        with tarfile.open(path) as archive:
            self.assertEqual(archive.getnames(), ["data", "data/f"])
            self.assertEqual(archive.extractfile("data/f").read(), b"by hand")


if __name__ == "__main__":
    unittest.main()
