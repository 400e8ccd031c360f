"""What the extension does: archives, encryption, transfer and repositories, in Rust.

Paths are text, bytes or path-like. Every call lets other threads run, and Ctrl-C ends it: what it has half written goes. Errors of the
system are OSError with number and file name; all others are NativeError, one line each. `progress` is called from the calling thread with
bytes done and bytes in all, about ten times: first (0, total), last (total, total).
"""

import logging
import os
from datetime import datetime
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    final,
)

StrPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Progress = Optional[Callable[[int, int], object]]
Settings = Mapping[str, Any]

class NativeError(Exception):
    """The work failed; the text says why."""

class WrongPassword(NativeError):
    """Not the password that this was encrypted with (age; Blowfish cannot tell)."""

class UnsafeMember(NativeError):
    """A member of an archive would leave the folder. Of an archive that brings one by its name nothing was unpacked."""

@final
class Excludes:
    """The patterns of a file (reference, section 7; `wide`: as the original set them against paths)."""

    def __new__(cls, path: StrPath, *, wide: bool = False) -> "Excludes": ...
    def __call__(self, path: Union[str, bytes]) -> bool:
        """Whether a path is left out."""

@final
class Source:
    """A file or a folder that is backed up, as a profile (`compress`, `encryption`, `wide_exclude`) wants it; the steps go to a logger. A
    folder's pattern file is `exclude_file`, else the first of `exclude_files` in it. With `as_tree` its contents are stored, not an
    object made of them."""

    def __new__(
        cls,
        path: StrPath,
        settings: Settings,
        log: logging.Logger,
        *,
        as_tree: bool = False,
        exclude_file: Optional[StrPath] = None,
        exclude_files: Sequence[StrPath] = ...,
    ) -> "Source": ...
    @property
    def arcname(self) -> str:
        """What the members of its archive begin with."""

    @property
    def base(self) -> str:
        """What its stored name begins with."""

    @property
    def kind(self) -> str:
        """What its stored name ends with: `.tgz`, `.tar` or nothing."""

    def container_ending(self, password: Any) -> str:
        """What a password adds to the stored name: `.enc`, `.age` or nothing; refuses what cannot be one."""

    def payload(self, folder: StrPath, password: Any, weak: Callable[[], object]) -> str:
        """The path of the object's bytes: the file itself, or one made in a folder. `weak` is called before Blowfish is used."""

    def save(
        self,
        repository: "Repository",
        stored_filename: str,
        tags: Sequence[str],
        host: Optional[str],
        time: float,
    ) -> int:
        """Stores the contents in a repository, those of an archive too; gives the length of their tar."""

def put_in_place(
    record: Any, found: BinaryIO, password: Any, aside: StrPath, folder: StrPath, log: logging.Logger
) -> None:
    """Puts what a backend downloaded for a record into a folder: decrypted, and unpacked. `aside` is a folder for
    what is needed meanwhile.

    Archives (GNU, ustar, pax; in gzip or plain, by content) bring modes, times, links, and owners for root. Nothing is written before the
    whole archive was found to be sound, and nothing ever outside the folder: members that are absolute or climb by `..`, hard links that
    do, members that would go through a symbolic link. Symbolic links themselves are kept as they are."""

def as_archive(record: Any, found: BinaryIO, password: Any, aside: StrPath, time: float) -> str:
    """The path of the archive that a backend downloaded for a record, decrypted; a single file becomes a member of one, of that time."""

def differing_members(archive: StrPath, found: BinaryIO) -> List[str]:
    """The names of members that an archive, and one that a backend downloaded, do not have alike."""

def write_archive(
    source: StrPath,
    arcname: Union[str, bytes],
    out: StrPath,
    *,
    exclude: Optional[Excludes] = None,
    compress: bool = True,
    excluded: Optional[Callable[[bytes], object]] = None,
) -> int:
    """Writes a file or a folder as a GNU tar, in gzip unless `compress` is false; gives the size written. `excluded` gets the path of each
    entry that is left out: by a pattern, or because it is a socket."""

def encrypt_file(source: StrPath, out: StrPath, password: Any, *, container: str = "blowfish") -> int:
    """Encrypts a file: `blowfish` is the original's container (1 to 56 bytes of password, else ValueError or NativeError), `age` one
    of age with a passphrase; gives the size. Passwords are bytes, or text in UTF-8."""

def decrypt_file(source: StrPath, out: StrPath, password: Any) -> str:
    """Decrypts a file, whichever container it is in, and says which: `blowfish` or `age`."""

def encrypt(data: bytes, password: Any, *, container: str = "blowfish") -> bytes:
    """Encrypts bytes."""

def decrypt(data: bytes, password: Any) -> bytes:
    """Decrypts bytes, whichever container they are in."""

def replace_private(path: StrPath, data: bytes) -> None:
    """Puts bytes in the place of a file at once, readable by its owner only."""

def parse_stored_name(stored_name: str) -> Optional[Tuple[str, datetime, str, str]]:
    """Name, UTC clock, kind (`.tgz`, `.tar` or nothing) and container of a stored name, or None."""

def interval_seconds(interval: Any) -> int:
    """The seconds of an interval such as `1M3W4h2s`; Exception for what is none."""

def size_text(size: int) -> str:
    """A size by thousands, whole where it is a whole multiple: `3.1 KB`, `1 KB`."""

def rotation_settings(rotation: Any) -> Dict[str, int]:
    """The settings of a rotation as numbers; TypeError for an unknown key, ValueError for a negative or senseless value."""

def reasons_to_keep(dates: Iterable[datetime], now: datetime, settings: Mapping[str, int]) -> Dict[datetime, str]:
    """The dates to keep, each with the reason; all others are to be deleted."""

def request(
    method: str,
    url: str,
    auth: Tuple[Any, Any],
    headers: Optional[Mapping[str, str]] = None,
    body: Optional[bytes] = None,
) -> Tuple[int, str]:
    """Status and text of the answer to a request, whatever the status; ConnectionError where there is none."""

def check_settings(profile: str, settings: Mapping[str, Any]) -> None:
    """Refuses (BadValue) what YAML made of a setting of a profile and what cannot be one."""

def show_progress() -> None:
    """From now on long calls show on a terminal how far they are; the command does that, scripts do not."""

@final
class SyncServer:
    """A sync server that listens (reference, section 18.1). `users` is a file with a line `name:password` for each."""

    def __new__(cls, host: str, port: int, database: StrPath, users: StrPath) -> "SyncServer": ...
    @property
    def address(self) -> str:
        """Host and port."""

    def serve(self) -> None:
        """Answers until a signal's handler raises."""

@final
class ObjectStore:
    """One bucket, container or folder, with whole files under names of their own."""

    @staticmethod
    def s3(bucket: str, settings: Settings) -> "ObjectStore":
        """A bucket at Amazon, or of any S3-compatible store at `endpoint_url`: `access_key`, `secret_key`, `region_name`, `storage_class`.
        Nothing is asked yet."""

    @staticmethod
    def swift(container: str, settings: Settings) -> "ObjectStore":
        """A container of Swift; logs in at `auth_url` with `access_key` and `secret_key`. `auth_version` 1 is TempAuth, 2 and 3 are
        Keystone with the user as PROJECT:USER. `region_name`, `insecure`."""

    @staticmethod
    def local(folder: StrPath) -> "ObjectStore":
        """A folder: each object is a file in it."""

    @property
    def location(self) -> str:
        """Where it is, for people."""

    def ensure(self) -> None:
        """Makes the bucket, container or folder where it is missing."""

    def upload(
        self,
        name: str,
        path: StrPath,
        *,
        percent: Optional[Callable[[int], object]] = None,
        storage_class: Optional[str] = None,
    ) -> None:
        """Stores a file, in parts beyond 16 MiB. Nothing of it can be read before it is whole; what was there before is there until
        then. `percent` is called about ten times, first with 0, last with 100."""

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

    def last_modified(self, name: str) -> Optional[str]:
        """When an object was stored, as HTTP writes dates; None: there is no such object."""

    def set_acl(self, name: str, acl: str) -> None:
        """Gives an object one of S3's own lists of rights, such as `public-read`."""

    def restore_request(self, name: str, days: int) -> str:
        """Asks for an object to come back from S3's archive classes: `requested`, `ongoing` or `ready`."""

class Bucket:
    """A bucket, with what public plugins use of boto's."""

    def __new__(cls, store: ObjectStore, name: str) -> "Bucket": ...
    @property
    def store(self) -> ObjectStore: ...
    @property
    def name(self) -> str: ...
    def new_key(self, name: Optional[str] = None) -> "Key": ...
    def get_key(self, name: str, *, validate: bool = True) -> Optional["Key"]:
        """The key of an object; None where there is none, unless nobody is to look."""

    def lookup(self, name: str) -> Optional["Key"]: ...
    def __contains__(self, name: str) -> bool: ...
    def get_all_keys(self, *, prefix: str = "") -> List["Key"]: ...
    def list(self, prefix: str = "") -> Iterator["Key"]: ...
    def __iter__(self) -> Iterator["Key"]: ...
    def delete_key(self, name: Union[str, "Key"]) -> None: ...

class Key:
    """An object of a bucket, with what public plugins use of boto's keys."""

    name: Optional[str]
    key: Optional[str]

    def __new__(cls, bucket: Bucket, name: Optional[str] = None) -> "Key": ...
    @property
    def bucket(self) -> Bucket: ...
    @property
    def size(self) -> Optional[int]: ...
    @property
    def last_modified(self) -> Optional[str]: ...
    def exists(self) -> bool: ...
    def delete(self) -> None: ...
    def set_acl(self, acl: str) -> None: ...
    def generate_url(self, expires_in: float, method: str = "GET") -> str:
        """An address that is good for so many seconds, seven days at most."""

    def set_contents_from_filename(self, filename: StrPath, **_named: Any) -> None: ...
    def set_contents_from_string(self, data: Union[str, bytes], **_named: Any) -> None: ...
    def set_contents_from_file(self, file: BinaryIO, *, rewind: bool = False, **_named: Any) -> None:
        """Stores what is left of a file, or all of it with `rewind`; AttributeError for one that stands at its end."""

    def get_contents_to_filename(self, filename: StrPath, **_named: Any) -> None: ...
    def get_contents_to_file(self, file: BinaryIO, **_named: Any) -> None: ...
    def read(self, **_named: Any) -> bytes: ...
    def get_contents_as_string(self, **_named: Any) -> bytes: ...

@final
class GlacierVault:
    """A vault of Glacier (`access_key`, `secret_key`, `region_name`, `endpoint_url`); it is made where it does not exist."""

    def __new__(cls, name: str, settings: Settings) -> "GlacierVault": ...
    @property
    def name(self) -> str: ...
    def upload(self, path: StrPath, description: str, part_size: int = 16 << 20) -> str:
        """Stores a file, in parts of a power of two of MiB; the archive's id."""

    def delete_archive(self, archive_id: str) -> None:
        """Removes an archive; FileNotFoundError for one that the vault does not know."""

    def retrieve_archive(self, archive_id: str) -> "GlacierJob":
        """Asks for an archive."""

    def retrieve_inventory(self) -> "GlacierJob":
        """Asks for the list of all archives, as JSON."""

    def get_job(self, job_id: str) -> "GlacierJob":
        """How a job is going; FileNotFoundError for one that the vault has forgotten."""

    def list_jobs(self) -> List["GlacierJob"]: ...

@final
class GlacierJob:
    """A job of a vault, with the attributes that boto gave it."""

    @property
    def vault(self) -> GlacierVault: ...
    @property
    def id(self) -> str: ...
    @property
    def action(self) -> Optional[str]: ...
    @property
    def status_code(self) -> Optional[str]: ...
    @property
    def creation_date(self) -> Optional[str]: ...
    @property
    def completion_date(self) -> Optional[str]: ...
    @property
    def completed(self) -> bool: ...
    @property
    def archive_size(self) -> Optional[int]: ...
    @property
    def archive_tree_hash(self) -> Optional[str]: ...
    def get_output(self, byte_range: Optional[Tuple[int, int]] = None) -> bytes:
        """What the job found: an archive, or a span of it, or the JSON of an inventory."""

    def download_to(self, path: StrPath) -> None:
        """The whole archive, by ranges of 4 MiB, checked against its tree hash."""

@final
class Repository:
    """A Backstay repository: each backup is a snapshot, tagged `bakthat:<stored_filename>`. Whoever needs the repository for itself (a
    prune, for seconds) is waited for, up to ten minutes."""

    def __new__(
        cls, location: str, password: Any, *, create: bool = True, options: Sequence[str] = ...
    ) -> "Repository":
        """Opens the repository at a location (as `backstay -r` takes it), and makes it first where there is none, if `create`.
        `options` are `service.key=value`, as `backstay -o` takes them."""

    @staticmethod
    def of_profile(profile: str, location: StrPath, settings: Settings) -> "Repository":
        """The repository of a profile: `repository_password_file` or `repository_password`, `repository_options`. It is opened
        when it is needed; `backup` and `backup_tar` make it where there is none; all else is a FileNotFoundError then.
        """

    def names(self, *, make: bool) -> List[str]:
        """The stored names; where there is no repository it is made with `make`, and has none without."""

    @property
    def location(self) -> str:
        """Where it is, for people."""

    def backup(
        self,
        source: StrPath,
        arcname: Union[str, bytes],
        stored_filename: str,
        *,
        exclude: Optional[Excludes] = None,
        tags: Sequence[str] = ...,
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
        tags: Sequence[str] = ...,
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
