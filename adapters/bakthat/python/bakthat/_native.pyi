"""What the extension does: archives, encryption, transfer and repositories, in Rust.

Paths are text, bytes or path-like. Every call lets other threads run, and Ctrl-C ends it: what it has half written goes. Errors of the
system are OSError with number and file name; all others are NativeError, one line each. `progress` is called from the calling thread with
bytes done and bytes in all, about ten times: first (0, total), last (total, total).
"""

import os
from typing import Callable, List, Optional, Sequence, Union

StrPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Progress = Optional[Callable[[int, int], object]]

class NativeError(Exception):
    """The work failed; the text says why."""

class WrongPassword(NativeError):
    """Not the password that this was encrypted with (age; Blowfish cannot tell)."""

class UnsafeMember(NativeError):
    """A member of an archive would leave the folder. Of an archive that brings one by its name nothing was unpacked."""

def write_archive(
    source: StrPath,
    arcname: Union[str, bytes],
    out: StrPath,
    *,
    exclude: Optional[Sequence[Union[str, bytes]]] = None,
    wide_exclude: bool = False,
    compress: bool = True,
    excluded: Optional[Callable[[bytes], object]] = None,
) -> int:
    """Writes a file or a folder as a GNU tar, in gzip unless `compress` is false; gives the size written. `exclude` are the lines of a
    pattern file (reference, section 7; `wide_exclude`: as the original set them against paths). `excluded` gets the path of each entry
    that is left out: by a pattern, or because it is a socket."""

def unpack_archive(archive: StrPath, folder: StrPath) -> None:
    """Unpacks a tar (GNU, ustar, pax; in gzip or plain, by content) into a folder, with modes, times, links, and owners for root.
    Nothing is written before the whole archive was found to be sound, and nothing ever outside the folder: members that are absolute or
    climb by `..`, hard links that do, members that would go through a symbolic link. Symbolic links themselves are kept as they are.
    """

def gzip_file(source: StrPath, out: StrPath) -> int:
    """Writes a file's bytes in gzip; gives the size."""

def gunzip_file(source: StrPath, out: StrPath) -> int:
    """Writes what a gzip file holds; gives the size."""

def encrypt_file(source: StrPath, out: StrPath, password: Union[str, bytes], *, container: str = "blowfish") -> int:
    """Encrypts a file: `blowfish` is the original's container (1 to 56 bytes of password, else ValueError or NativeError), `age` one
    of age with a passphrase; gives the size."""

def decrypt_file(source: StrPath, out: StrPath, password: Union[str, bytes]) -> str:
    """Decrypts a file, whichever container it is in, and says which: `blowfish` or `age`."""

class ObjectStore:
    """One bucket, container or folder, with whole files under names of their own."""

    @staticmethod
    def s3(
        bucket: str,
        *,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        endpoint_url: Optional[str] = None,
        storage_class: Optional[str] = None,
    ) -> "ObjectStore":
        """A bucket at Amazon, or of any S3-compatible store at `endpoint_url`. Nothing is asked yet."""

    @staticmethod
    def swift(
        container: str,
        *,
        auth_url: str,
        auth_version: str,
        user: str,
        password: str,
        region: Optional[str] = None,
        insecure: bool = False,
    ) -> "ObjectStore":
        """A container of Swift; logs in. `auth_version` 1 is TempAuth, 2 and 3 are Keystone with `user` as PROJECT:USER."""

    @staticmethod
    def local(folder: StrPath) -> "ObjectStore":
        """A folder: each object is a file in it."""

    @property
    def location(self) -> str:
        """Where it is, for people."""

    def ensure(self) -> None:
        """Makes the bucket, container or folder where it is missing."""

    def upload(
        self, name: str, path: StrPath, *, progress: Progress = None, storage_class: Optional[str] = None
    ) -> None:
        """Stores a file, in parts beyond 16 MiB. Nothing of it can be read before it is whole; what was there before is there until
        then."""

    def put(self, name: str, data: bytes) -> None:
        """Stores bytes."""

    def get(self, name: str) -> Optional[bytes]:
        """An object's bytes; None: there is no such object."""

    def download(self, name: str, out: StrPath, *, progress: Progress = None) -> bool:
        """Writes an object to a file; False: there is no such object."""

    def size(self, name: str) -> Optional[int]:
        """An object's length; None: there is no such object."""

    def delete(self, name: str) -> None:
        """Removes an object; a missing one is no error."""

    def list(self) -> List[str]:
        """All names."""

    def presign(self, name: str, seconds: int, method: str = "GET") -> str:
        """An address that is good for so many seconds (S3; seven days at most)."""

    def restore_request(self, name: str, days: int) -> str:
        """Asks for an object to come back from S3's archive classes: `requested`, `ongoing` or `ready`."""

class Repository:
    """A Backstay repository: each backup is a snapshot, tagged `bakthat:<stored_filename>`. Whoever needs the repository for itself (a
    prune, for seconds) is waited for, up to ten minutes."""

    def __init__(
        self, location: str, password: Union[str, bytes], *, create: bool = True, options: Sequence[str] = ()
    ) -> None:
        """Opens the repository at a location (as `backstay -r` takes it), and makes it first where there is none, if `create`.
        `options` are `service.key=value`, as `backstay -o` takes them."""

    @property
    def location(self) -> str:
        """Where it is, for people."""

    def backup(
        self,
        source: StrPath,
        arcname: Union[str, bytes],
        stored_filename: str,
        *,
        exclude: Optional[Sequence[Union[str, bytes]]] = None,
        wide_exclude: bool = False,
        tags: Sequence[str] = (),
        host: Optional[str] = None,
        time: float,
        progress: Progress = None,
        excluded: Optional[Callable[[bytes], object]] = None,
    ) -> int:
        """Saves a file or a folder as `/<arcname>`; gives the length of its tar. What did not change since the newest backup of the same
        path on this host is not read. Where anything cannot be read there is no snapshot, as there would be no tar."""

    def backup_tar(
        self,
        archive: StrPath,
        stored_filename: str,
        *,
        tags: Sequence[str] = (),
        host: Optional[str] = None,
        time: float,
        progress: Progress = None,
    ) -> int:
        """Saves what a tar (in gzip or plain) holds as a snapshot; gives the length of its tar."""

    def download(self, stored_filename: str, out: StrPath, *, progress: Progress = None) -> bool:
        """Writes the tar of a snapshot in gzip, the same bytes every time; False: there is no such snapshot."""

    def restore(self, stored_filename: str, folder: StrPath, *, progress: Progress = None) -> bool:
        """Restores a snapshot into a folder, with times to the nanosecond and extended attributes; False: there is no such snapshot."""

    def size(self, stored_filename: str) -> Optional[int]:
        """The length of a snapshot's tar; None: there is no such snapshot."""

    def delete(self, stored_filename: str) -> None:
        """Forgets a snapshot; a missing one is no error."""

    def list(self) -> List[str]:
        """The stored names."""

    def prune(self) -> None:
        """Gives back the room of what was forgotten."""
