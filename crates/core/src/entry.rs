//! What a source announces: a name, a kind, integers of a `stat`, a link target.

use serde::{Deserialize, Serialize};

/// Seconds since 1970 and nanoseconds within the second (0 to 999,999,999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00:00 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds past `seconds`, below one billion.
    pub nanoseconds: u32,
}

/// What kind of object a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file: it has contents.
    File,
    /// A directory.
    Directory,
    /// A symbolic link: it has a target.
    Symlink,
    /// A block device: it has a device number.
    BlockDevice,
    /// A character device: it has a device number.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// The kind that the type bits of a `st_mode` name; none for bits that Linux does not define.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o060_000 => Self::BlockDevice,
            0o020_000 => Self::CharDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// The type bits of a `st_mode` that name this kind: the other way of [`FileKind::from_mode`].
    #[must_use]
    pub fn type_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::BlockDevice => 0o060_000,
            Self::CharDevice => 0o020_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// The integers of a `stat`, as Linux has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Device that holds the object (`st_dev`).
    pub device_id: u64,
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits, `st_mode` whole.
    pub mode: u32,
    /// Number of hard links.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node (`st_rdev`).
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

/// One announced object. The names are exact bytes: nothing is interpreted, nothing normalised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name as the source announced it.
    pub name: Vec<u8>,
    /// What it is, for readers that know ordinary files only.
    pub kind: FileKind,
    /// Target of a symbolic link, or the first name of a hard link; empty otherwise.
    pub link: Vec<u8>,
    /// The object is another name for the file called `link` and carries no data of its own.
    pub hard_link: bool,
    /// Integers of its `stat`.
    pub stat: Stat,
    /// What only the adapter that announced it understands, kept word for word for its restore.
    pub native: Vec<u8>,
}

/// An attribute of the entry that is open, given in the order in which it shall come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attr {
    /// An access control list, opaque to the engine.
    Acl(Vec<u8>),
    /// One extended attribute.
    Xattr {
        /// Its name, with the name space.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
}
