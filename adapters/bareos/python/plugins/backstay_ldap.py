# SPDX-License-Identifier: MIT OR Apache-2.0
"""Backup of an LDAP directory, an LDIF file for each entry, and the way back into the server.

    python3:module_path=<this folder>:module_name=backstay_ldap:base=dc=example,dc=com

The entries come from one ``ldapsearch`` as it prints them; a restore adds them with ``ldapadd``, parents first, and
changes those that are there with ``ldapmodify``. No Python package is needed.

All options, what a restore does, limits: docs/plugins/backstay_ldap.md.
"""

import calendar
import os
import re
import tempfile
import time
from base64 import b64decode
from urllib.parse import quote

from bareosfd import CF_EXTRACT, CF_SKIP, FT_REG, bRC_OK

from BareosFdWrapper import *
from backstay_common import Child, Option, Plugin, Refused, Text, how_it_ended, output_of, virtual_stat

PREFIX = "@LDAP/"
SUFFIX = ".ldif"
# What ldapadd and ldapmodify write before an entry that the server refused.
REFUSAL = re.compile(rb"# Error: (?P<text>.*?\((?P<code>\d+)\).*)")
ALREADY_EXISTS = 68
TOLD = 25


# ---------------------------------------------------------------------------------------------------- LDIF


def value_of(line):
    """The bytes of a line's value: ``name: text`` or ``name:: base 64``."""
    _, _, rest = line.partition(b":")
    return b64decode(rest[1:]) if rest.startswith(b":") else rest.lstrip(b" ")


def records(pieces):
    """The records of an LDIF stream without folded lines, each as a list of lines. Comments are left out."""
    pending, record = b"", []
    for piece in pieces:
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if line and not line.startswith(b"#"):
                record.append(line)
            elif not line and record:
                yield record
                record = []
    if record:
        yield record


def relative_names(dn):
    """The parts of a distinguished name, the entry's own first. A backslash protects a comma."""
    parts, part, protected = [], "", False
    for letter in dn:
        if letter == "," and not protected:
            parts.append(part.strip())
            part = ""
            continue
        protected = letter == "\\" and not protected
        part += letter
    return [*parts, part.strip()]


def attributes(record):
    """The lines of each attribute by its name in small letters, in order, without the entry's name."""
    found = {}
    for line in record[1:]:
        name = line.partition(b":")[0]
        found.setdefault(name.lower(), []).append(line)
    return found


def changes(saved, present):
    """The lines of a change that makes the present entry what was saved; none if it is already."""
    saved_attributes, present_attributes = attributes(saved), attributes(present)
    lines = []
    for name, wanted in saved_attributes.items():
        if sorted(map(value_of, wanted)) != sorted(map(value_of, present_attributes.get(name, []))):
            lines += [b"replace: " + name, *wanted, b"-"]
    for name in present_attributes:
        if name not in saved_attributes:
            lines += [b"delete: " + name, b"-"]
    return [saved[0], b"changetype: modify", *lines] if lines else []


def seconds_of(text):
    """A time of LDAP, ``20261122030405Z``, with or without a fraction, in seconds."""
    return calendar.timegm(time.strptime(text[:14], "%Y%m%d%H%M%S"))


# ---------------------------------------------------------------------------------------------------- the plugin


@BareosPlugin
class Ldap(Plugin):
    """One object per job."""

    NAME = "backstay_ldap"
    OPTIONS = {
        "base": Option(needed=True, multi=True),
        "uri": Option("ldapi:///"),
        "bind_dn": Option(),
        "password": Option(),
        "starttls": Option("no", choices=("yes", "no")),
        "os_user": Option(),
        "filter": Option("(objectClass=*)"),
        "page": Option(500, number=True),
        "ldapsearch": Option("ldapsearch"),
        "ldapadd": Option("ldapadd"),
        "ldapmodify": Option("ldapmodify"),
        "restore": Option("files", choices=("files", "server"), when="restore"),
    }

    def __init__(self, plugindef):
        super().__init__(plugindef)
        self.child = None
        self.spool = None  # restored entries wait here for their parents
        self.spooled = []  # (depth, start, end, whether the entry may be changed if it is there)
        self.arriving = None  # (depth, may be changed) of the one being restored
        self.problems = 0

    def complaint(self):
        complaint = super().complaint()
        if complaint is None and ("bind_dn" in self.options) != ("password" in self.options):
            complaint = "options bind_dn and password go together; without them root is known through ldapi"
        return complaint

    def session(self):
        """The options with which each program finds the server and says who we are."""
        found = ["-H", self.option("uri")]
        if self.option("starttls") == "yes":
            found.append("-ZZ")
        if self.option("bind_dn") is None:
            return [*found, "-Q", "-Y", "EXTERNAL"]
        # Others can read command lines, but not this file.
        path = self.private_file("password", self.option("password"))
        return [*found, "-x", "-D", self.option("bind_dn"), "-y", path]

    def search(self, base, *more):
        return [self.option("ldapsearch"), *self.session(), "-LLL", "-o", "ldif-wrap=no", "-b", base, *more]

    # Backup

    def begin(self):
        # A wrong address or password ends the job before it has begun.
        for base in self.option("base"):
            output_of([*self.search(base), "-s", "base", "(objectClass=*)", "1.1"], user=self.option("os_user"))

    def entries(self):
        for base in self.option("base"):
            yield from self.below(base)

    def below(self, base):
        arguments = [*self.search(base), "-s", "sub"]
        if self.option("page"):
            arguments += ["-E", f"pr={self.option('page')}/noprompt"]
        child = self.child = Child(
            [*arguments, self.option("filter"), "*", "modifyTimestamp"], user=self.option("os_user")
        )
        depth = len(relative_names(base))
        try:
            for record in records(iter(lambda: child.pipe.read(65536), b"")):
                if not record[0].lower().startswith(b"dn:"):
                    continue  # a reference to another server
                yield self.entry(record, depth)
            status = child.end()
            if status:
                # Half a list must not pass for the whole directory.
                raise Refused(f"{child.program} below {base} {how_it_ended(status)}: {child.said()}")
        finally:
            self.child = None
            child.kill()

    def entry(self, record, depth):
        changed = None
        lines = []
        for line in record:
            if line.lower().startswith(b"modifytimestamp:"):
                changed = seconds_of(value_of(line).decode("ascii"))
            else:
                lines.append(line)
        names = relative_names(value_of(record[0]).decode("utf-8", "surrogateescape"))
        parts = [",".join(names[-depth:]), *reversed(names[:-depth])]
        # A name in LDAP may hold any character, a file's name may not.
        safe = [quote(part.encode("utf-8", "surrogateescape"), safe=" @+,;=()[]{}!$&'\\\"#") for part in parts]
        data = b"\n".join(lines) + b"\n"
        return Text(PREFIX + "/".join(safe) + SUFFIX, data, virtual_stat(0o600, size=len(data), changed=changed))

    def cancel(self):
        child = self.child
        if child is not None:
            child.interrupt()

    # Restore

    def create(self, restorepkt):
        if self.option("restore") == "files":
            return super().create(restorepkt)
        if restorepkt.type != FT_REG:
            return CF_SKIP
        if self.spool is None:
            self.spool = tempfile.TemporaryFile(dir=self.temporary_folder(), buffering=0)
        self.arriving = (restorepkt.original_file_name.count("/"), chr(restorepkt.replace) != "n")
        return CF_EXTRACT

    def open_restored(self, name):
        if self.arriving is None:
            return super().open_restored(name)
        self.arriving += (self.spool.seek(0, os.SEEK_END),)
        self.descriptor = self.spool.fileno()
        return self.descriptor

    def close_restored(self):
        if self.arriving is None:
            return super().close_restored()
        depth, may_change, start = self.arriving
        self.spooled.append((depth, start, self.spool.seek(0, os.SEEK_CUR), may_change))
        self.arriving, self.descriptor = None, None

    def set_file_attributes(self, restorepkt):
        return bRC_OK if self.arriving is not None else super().set_file_attributes(restorepkt)

    def finish_restore(self):
        if self.spool is None:
            return
        # Parents first, else as they came.
        self.spooled.sort(key=lambda spooled: spooled[0])
        versions = {}
        for _, start, end, may_change in self.spooled:
            text = os.pread(self.spool.fileno(), end - start, start)
            record = next(records([text, b"\n"]))
            # A chain of jobs brings an entry more than once: the newest counts.
            versions[value_of(record[0])] = (record, may_change)
        there = []
        added = len(versions)
        for text, code, refused in self.feed("ldapadd", (record for record, _ in versions.values())):
            added -= 1
            dn = value_of(refused[0])
            if code != ALREADY_EXISTS:
                self.refused_entry(dn, text)
            elif versions[dn][1]:
                there.append(versions[dn][0])
        modifications = []
        for record in there:
            dn = value_of(record[0]).decode("utf-8")
            found = output_of([*self.search(dn), "-s", "base", "(objectClass=*)", "*"], user=self.option("os_user"))
            change = changes(record, next(records([found, b"\n"])))
            if change:
                modifications.append(change)
        for text, _, refused in self.feed("ldapmodify", modifications):
            self.refused_entry(value_of(refused[0]), text)
        if self.problems > TOLD:
            self.error(f"{self.problems - TOLD} more entries were refused")
        self.info(f"{added} entries were added; of those that were there {len(modifications)} had to be changed")

    def refused_entry(self, dn, text):
        self.problems += 1
        if self.problems <= TOLD:
            self.error(f"the server refused {dn.decode('utf-8', 'surrogateescape')}: {text}")

    def feed(self, program, wanted):
        """Hands records to ldapadd or ldapmodify; what the server refused, as (its text, its code, the record)."""
        skipped = os.path.join(self.temporary_folder(), program + ".skipped")
        if self.option("os_user") is not None:
            with open(skipped, "xb"):
                self.hand_over(skipped)
        arguments = [self.option(program), *self.session(), "-c", "-S", skipped]
        child = Child(arguments, user=self.option("os_user"), reads=True)
        try:
            for record in wanted:
                left = memoryview(b"\n".join(record) + b"\n\n")
                while left:
                    left = left[child.pipe.write(left) :]
        except BrokenPipeError:
            pass  # the exit status says why
        status = child.end()
        said = child.said()
        child.forget()
        refused = list(self.skipped(skipped))
        if status and not refused:
            raise Refused(f"{child.program} {how_it_ended(status)}: {said}")
        return refused

    def skipped(self, path):
        try:
            with open(path, "rb") as file:
                # Folded lines are put together again.
                text = re.sub(rb"\r?\n ", b"", file.read())
        except FileNotFoundError:
            return
        refusal, record = None, []
        for line in [*text.split(b"\n"), b""]:
            found = REFUSAL.match(line)
            if found:
                refusal = found
            elif line and not line.startswith(b"#"):
                record.append(line)
            elif not line and record:
                yield refusal["text"].decode("utf-8", "replace"), int(refusal["code"]), record
                refusal, record = None, []

    def clean_up(self):
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        super().clean_up()
