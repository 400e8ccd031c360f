//! Rules of whoever asks for a walk: which entries are saved, and how each is treated.
//!
//! There can be several sets of rules (a Bareos FileSet has one for each Include), each with roots of its own. An entry is
//! saved if one of the sets selects it that have selected every directory above it, from one of their roots on.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use backstay_core::{EntryError, Offer, Outcome};
use backstay_repository::stream::Content;
use rustix::fs::StatFs;

/// Decides about entries, from several threads at once.
pub trait Selector: Debug + Send + Sync {
    /// The sets that select the entry at `path` (absolute, `/` for the root directory). `above` are the sets, one bit each,
    /// that walk the directory it is in; those of which it is a root come to them.
    ///
    /// # Errors
    /// None selects it: the rule, as a skipped entry names it.
    fn select(&self, path: &[u8], is_directory: bool, above: u64) -> Result<Vec<Pick<'_>>, String>;
}

/// A set of rules that selects an entry.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// Its bit.
    pub set: u64,
    /// The entry is one of its roots.
    pub is_root: bool,
    /// What holds for the entry.
    pub treatment: &'a Treatment,
}

/// Takes entries out of a walk's hands that it is about to save; asked from several threads at once.
pub trait Taker: Debug + Send + Sync {
    /// Decides about one entry, whose name is its absolute path. A directory is offered after everything in it.
    fn offer(&self, offer: Offer) -> Taken;
}

/// What became of an entry that was offered.
#[derive(Debug)]
pub enum Taken {
    /// The walk saves it itself.
    Passed,
    /// It is left out, by the rule named; of a directory with something in it only what is told of it.
    Skipped(String),
    /// It could not be saved.
    Failed(EntryError),
    /// It is saved: the view's node has the metadata that the walk found and this.
    Kept {
        /// The contents of a regular file.
        content: Content,
        /// Extended attributes.
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        /// [`Outcome::Saved`] or [`Outcome::Unchanged`].
        outcome: Outcome,
    },
}

/// How a selected entry is treated.
#[derive(Clone, Debug)]
pub struct Treatment {
    /// A directory on another file system than the one it is in is kept empty, unless it is a root.
    pub one_file_system: bool,
    /// A directory that is no root is walked, not kept empty.
    pub recurse: bool,
    /// Where the walk enters a file system, its kind must be one of these ([`known_file_system`]); empty: any.
    pub file_systems: Vec<String>,
    /// A directory that holds one of these names is left out.
    pub leave_out_holding: Vec<Vec<u8>>,
    /// What has the `nodump` attribute is left out.
    pub honor_nodump: bool,
    /// Another ctime alone is no change.
    pub ignore_ctime: bool,
    /// Names of one file stay names of one file; otherwise each is a file of its own.
    pub hard_links: bool,
    /// Access control lists are kept.
    pub acls: bool,
    /// Other extended attributes are kept.
    pub xattrs: bool,
    /// Regular files of other lengths in bytes are left out.
    pub sizes: Option<RangeInclusive<u64>>,
    /// The [`Taker`] gets what is saved offered under this number.
    pub offered: Option<u32>,
}

impl Default for Treatment {
    /// As a walk without a selector treats everything.
    fn default() -> Self {
        Self {
            one_file_system: false,
            recurse: true,
            file_systems: Vec::new(),
            leave_out_holding: Vec::new(),
            honor_nodump: false,
            ignore_ctime: false,
            hard_links: true,
            acls: true,
            xattrs: true,
            sizes: None,
            offered: None,
        }
    }
}

impl Treatment {
    /// Whether an extended attribute is kept.
    pub(super) fn keeps(&self, name: &[u8]) -> bool {
        let is_acl = matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default" | b"system.nfs4_acl");
        if is_acl { self.acls } else { self.xattrs }
    }
}

/// Kinds of file systems and the number that Linux has for each. The ext family shares one.
const FILE_SYSTEMS: &[(&str, u32)] = &[
    ("9p", 0x0102_1997),
    ("bcachefs", 0xca45_1a4e),
    ("btrfs", 0x9123_683e),
    ("ceph", 0x00c3_6400),
    ("cifs", 0xff53_4d42),
    ("cgroup2", 0x6367_7270),
    ("devpts", 0x0000_1cd1),
    ("erofs", 0xe0f5_e1e2),
    ("exfat", 0x2011_bab0),
    ("ext2", 0x0000_ef53),
    ("ext3", 0x0000_ef53),
    ("ext4", 0x0000_ef53),
    ("f2fs", 0xf2f5_2010),
    ("fuse", 0x6573_5546),
    ("gfs2", 0x0116_1970),
    ("iso9660", 0x0000_9660),
    ("jfs", 0x3153_464a),
    ("msdos", 0x0000_4d44),
    ("nfs", 0x0000_6969),
    ("ntfs", 0x5346_544e),
    ("ntfs3", 0x7366_746e),
    ("ocfs2", 0x7461_636f),
    ("overlay", 0x794c_7630),
    ("proc", 0x0000_9fa0),
    ("ramfs", 0x8584_58f6),
    ("reiserfs", 0x5265_4973),
    ("smb2", 0xfe53_4d42),
    ("squashfs", 0x7371_7368),
    ("sysfs", 0x6265_6572),
    ("tmpfs", 0x0102_1994),
    ("udf", 0x1501_3346),
    ("vfat", 0x0000_4d44),
    ("xfs", 0x5846_5342),
    ("zfs", 0x2fc1_2fc1),
];

/// Whether a kind of file system is known by this name.
#[must_use]
pub fn known_file_system(name: &str) -> bool {
    FILE_SYSTEMS.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// Whether a file system is of one of these kinds.
pub(super) fn is_one_of(found: &StatFs, wanted: &[String]) -> bool {
    // The type of the number differs from processor to processor; its lower half is what counts.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let number = found.f_type as u32;
    FILE_SYSTEMS
        .iter()
        .any(|(name, known)| *known == number && wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)))
}
