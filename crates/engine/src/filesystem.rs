//! What the walk asks of a file system: integers of a `stat`, names in a directory, extended attributes, owners' names.
//!
//! Everything is relative to an open directory, so that neither the length of a path nor a directory that is moved or
//! replaced while we look at it can lead us elsewhere.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use backstay_core::{FileKind, Stat, Time};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// A `stat`, and how much room the contents take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// The integers.
    pub stat: Stat,
    /// Bytes that are stored for the contents: less than the size when there are holes.
    pub allocated: u64,
    /// The preferred size of a read, in bytes.
    pub block_size: u32,
}

impl FileStat {
    /// What it is; none for types that Linux does not define.
    #[must_use]
    pub fn kind(&self) -> Option<FileKind> {
        FileKind::from_mode(self.stat.mode)
    }

    /// Whether the contents were written, cut or grown between two looks.
    #[must_use]
    pub fn same_contents(&self, other: &Self) -> bool {
        self.stat.size == other.stat.size
            && self.stat.mtime == other.stat.mtime
            && self.stat.ctime == other.stat.ctime
            && self.stat.inode == other.stat.inode
    }
}

impl From<rustix::fs::Stat> for FileStat {
    fn from(raw: rustix::fs::Stat) -> Self {
        Self {
            stat: Stat {
                device_id: raw.st_dev,
                inode: raw.st_ino,
                mode: raw.st_mode,
                links: wide(raw.st_nlink),
                uid: raw.st_uid,
                gid: raw.st_gid,
                rdev: raw.st_rdev,
                size: u64::try_from(raw.st_size).unwrap_or(0),
                atime: time(raw.st_atime, raw.st_atime_nsec),
                mtime: time(raw.st_mtime, raw.st_mtime_nsec),
                ctime: time(raw.st_ctime, raw.st_ctime_nsec),
            },
            allocated: u64::try_from(raw.st_blocks).unwrap_or(0).saturating_mul(512),
            block_size: u32::try_from(raw.st_blksize).unwrap_or(4096),
        }
    }
}

/// The kernel keeps nanoseconds below one billion and not negative; their type differs from processor to processor.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Time {
    Time { seconds, nanoseconds: nanoseconds.try_into().unwrap_or(0).min(999_999_999) }
}

/// The count of links has 32 bits on some processors and 64 on others.
fn wide(count: impl Into<u64>) -> u64 {
    count.into()
}

/// The `lstat` of `name` in a directory.
///
/// # Errors
/// What the system said.
pub fn stat_at(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<FileStat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
}

/// Whether `name` in a directory has the `nodump` attribute. A file system without attributes has none.
#[must_use]
pub fn has_nodump(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::NODUMP))
}

/// The `stat` of an absolute path, symbolic links followed.
///
/// # Errors
/// What the system said.
pub fn stat_path(path: &[u8]) -> io::Result<FileStat> {
    Ok(rustix::fs::statat(CWD, path, AtFlags::empty())?.into())
}

/// The `stat` of what is open.
///
/// # Errors
/// What the system said.
pub fn stat_of(file: BorrowedFd<'_>) -> io::Result<FileStat> {
    Ok(rustix::fs::fstat(file)?.into())
}

/// Opens `name` in a directory for reading, never through a symbolic link, and leaves its access time alone where the
/// system allows that (to the owner and to root). `extra` is added to the flags.
///
/// # Errors
/// What the system said.
pub fn open_at(directory: BorrowedFd<'_>, name: &[u8], extra: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY | extra;
    match rustix::fs::openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => {}
        other => return Ok(other?),
    }
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Opens a directory by its absolute path, of any length, only to look names up in it. Symbolic links are followed.
///
/// # Errors
/// What the system said.
pub fn open_place(path: &[u8]) -> io::Result<OwnedFd> {
    /// Well below `PATH_MAX`.
    const PIECE: usize = 2048;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut place = rustix::fs::openat(CWD, b"/".as_slice(), flags, Mode::empty())?;
    let mut piece: Vec<u8> = Vec::new();
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        if !piece.is_empty() && piece.len() + component.len() >= PIECE {
            place = rustix::fs::openat(&place, piece.as_slice(), flags, Mode::empty())?;
            piece.clear();
        }
        if !piece.is_empty() {
            piece.push(b'/');
        }
        piece.extend_from_slice(component);
    }
    if !piece.is_empty() {
        place = rustix::fs::openat(&place, piece.as_slice(), flags, Mode::empty())?;
    }
    Ok(place)
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name, exact.
    pub name: Vec<u8>,
    /// What the directory says it is; none where it does not say.
    pub kind: Option<FileKind>,
}

/// All names of an open directory except `.` and `..`, sorted by bytes, each once.
///
/// # Errors
/// What the system said.
pub fn list(directory: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<Vec<Listed>> {
    buffer.clear();
    buffer.reserve(32 * 1024);
    let mut out = Vec::new();
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Some(FileKind::File),
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::BlockDevice => Some(FileKind::BlockDevice),
            FileType::CharacterDevice => Some(FileKind::CharDevice),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::Unknown => None,
        };
        out.push(Listed { name: name.to_vec(), kind });
    }
    out.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    // A directory that is changed while it is read may tell a name twice.
    out.dedup_by(|a, b| a.name == b.name);
    Ok(out)
}

/// An object whose extended attributes are read.
#[derive(Clone, Copy, Debug)]
pub enum Attributed<'a> {
    /// It is open for reading.
    Open(BorrowedFd<'a>),
    /// It is a name in an open directory, and not followed if it is a symbolic link.
    Named(BorrowedFd<'a>, &'a [u8]),
    /// An absolute path, symbolic links followed.
    Path(&'a [u8]),
}

/// An attribute that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("extended attribute {name}: {error}")]
pub struct XattrError {
    /// Its name, or what stands for the list.
    pub name: String,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

/// Names and values, in the order in which the system lists them.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads extended attributes; POSIX access control lists are among them. One per thread: it keeps its buffers.
#[derive(Debug)]
pub struct XattrReader {
    names: Vec<u8>,
    value: Vec<u8>,
    path: Vec<u8>,
    /// `/proc/<process>/fd/`, where `/proc` is mounted: names in a directory can be reached without their path.
    descriptors: Option<Vec<u8>>,
}

impl Default for XattrReader {
    fn default() -> Self {
        // The process number as `/proc` knows it, which need not be the one that we know. Going through `/proc/self`
        // each time takes twice as long.
        let own = rustix::fs::readlinkat(CWD, "/proc/self", Vec::new());
        let descriptors = own.ok().map(|number| [b"/proc/", number.to_bytes(), b"/fd/"].concat());
        Self { names: vec![0; 4096], value: vec![0; 4096], path: Vec::new(), descriptors }
    }
}

impl XattrReader {
    /// All attributes of an object. A file system without attributes has none; one that is gone between the listing and
    /// the reading is left out. `path` is the object's absolute path, used where `/proc` is not mounted.
    ///
    /// # Errors
    /// The first attribute that could not be read, beside those that could.
    pub fn read(&mut self, object: Attributed<'_>, path: &[u8]) -> (Xattrs, Option<XattrError>) {
        let target = match object {
            Attributed::Open(file) => Target::Open(file),
            Attributed::Path(path) => Target::Follow(path),
            Attributed::Named(directory, name) => {
                self.path.clear();
                if let Some(descriptors) = &self.descriptors {
                    self.path.extend_from_slice(descriptors);
                    self.path.extend_from_slice(directory.as_raw_fd().to_string().as_bytes());
                    self.path.push(b'/');
                    self.path.extend_from_slice(name);
                } else {
                    self.path.extend_from_slice(path);
                }
                Target::NoFollow(&self.path)
            }
        };
        let listed = match fill(&mut self.names, |buffer| target.list(buffer)) {
            Ok(listed) => listed,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return (Vec::new(), None),
            Err(error) => return (Vec::new(), Some(XattrError { name: "list".to_owned(), error: error.into() })),
        };
        let mut out = Vec::new();
        let mut problem = None;
        for name in self.names[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match fill(&mut self.value, |buffer| target.get(name, buffer)) {
                Ok(length) => out.push((name.to_vec(), self.value[..length].to_vec())),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => {
                    problem.get_or_insert_with(|| XattrError {
                        name: String::from_utf8_lossy(name).into_owned(),
                        error: error.into(),
                    });
                }
            }
        }
        (out, problem)
    }
}

enum Target<'a> {
    Open(BorrowedFd<'a>),
    Follow(&'a [u8]),
    NoFollow(&'a [u8]),
}

impl Target<'_> {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => rustix::fs::flistxattr(file, buffer),
            Self::Follow(path) => rustix::fs::listxattr(*path, buffer),
            Self::NoFollow(path) => rustix::fs::llistxattr(*path, buffer),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
            Self::Follow(path) => rustix::fs::getxattr(*path, name, buffer),
            Self::NoFollow(path) => rustix::fs::lgetxattr(*path, name, buffer),
        }
    }
}

/// Calls with a buffer that grows until the answer fits.
fn fill(buffer: &mut Vec<u8>, mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
    /// The kernel gives no list and no value longer than 64 KiB; other systems behind FUSE might.
    const LARGEST: usize = 16 << 20;
    loop {
        match call(buffer) {
            Err(Errno::RANGE) if buffer.len() < LARGEST => {
                let length = buffer.len() * 4;
                buffer.resize(length, 0);
            }
            other => return other,
        }
    }
}

/// Names of users and groups, asked once each. One per thread.
#[derive(Debug, Default)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// The user's name; empty when the system knows none.
    pub fn user(&mut self, uid: u32) -> &str {
        self.users.entry(uid).or_insert_with(|| {
            uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned()).unwrap_or_default()
        })
    }

    /// The group's name; empty when the system knows none.
    pub fn group(&mut self, gid: u32) -> &str {
        self.groups.entry(gid).or_insert_with(|| {
            uzers::get_group_by_gid(gid).map(|group| group.name().to_string_lossy().into_owned()).unwrap_or_default()
        })
    }
}

/// Reads into `buffer` until it is full or the end is reached; returns the bytes read, also beside an error.
pub fn read_full(file: impl AsFd, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::read(&file, &mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(error) => return (length, Err(error.into())),
        }
    }
    (length, Ok(()))
}
