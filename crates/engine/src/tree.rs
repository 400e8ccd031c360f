//! The file tree source: a parallel walk of the roots that reads files, takes over what did not change, and stores each
//! directory as soon as all that is in it is known.
//!
//! * `roots` makes paths absolute and drops roots inside other roots,
//! * `directory` holds one directory of the walk and the stack of those still to do,
//! * `walk` decides what becomes of each entry,
//! * `selector` has the rules of whoever asks for a walk, set against each entry,
//! * `contents` reads files, `links` remembers files with several names.
//!
//! What ends up in the snapshot's view and what does not:
//! * **saved**, **unchanged**: there. Unchanged means: the parent's node has the same size, mtime, ctime and inode, and
//!   all its blobs are in the repository, so the contents were not read. The metadata is always fresh.
//! * **skipped**: not there, by the rule named. An excluded directory counts once; nobody looks inside.
//! * **failed**: not there, nor anything below a directory that failed, with two exceptions, because some data is better
//!   than none: a file that kept changing while it was read is there as it was read (`size` is the number of bytes
//!   read; its old mtime makes the next backup read it again), and an object of which an extended attribute could not
//!   be read is there without it. Both still count as failed and are told with the reason.

mod contents;
mod directory;
mod links;
mod roots;
mod selector;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

use backstay_core::{End, Fatal, FileKind, Id, Job, Outcome, Tally};
use backstay_repository::error::Error;
use backstay_repository::reader::Reader;
use backstay_repository::tree::Node;
use backstay_repository::writer::Writer;

use crate::excludes::{ExcludeError, Excludes, Rules};

pub use roots::{RootError, absolute};
pub use selector::{Pick, Selector, Taken, Taker, Treatment, known_file_system};

/// How a tree is walked. The fields are the command line's options.
#[derive(Clone, Debug, Default)]
pub struct TreeOptions {
    /// `--exclude`: patterns with restic's meaning, later ones win.
    pub excludes: Vec<String>,
    /// `--iexclude`: the same without regard to case.
    pub iexcludes: Vec<String>,
    /// `--exclude-file`: files of gitignore rules, rooted at `/`.
    pub exclude_files: Vec<PathBuf>,
    /// `--iexclude-file`: the same, upper and lower case alike.
    pub iexclude_files: Vec<PathBuf>,
    /// `--exclude-caches`: of a directory with a valid `CACHEDIR.TAG` only that file is kept.
    pub exclude_caches: bool,
    /// `--exclude-if-present NAME[:HEADER]`: likewise for a file of that name (that begins with HEADER).
    pub exclude_if_present: Vec<String>,
    /// `--exclude-larger-than`: regular files with more bytes are left out.
    pub exclude_larger_than: Option<u64>,
    /// `--one-file-system`: a mount point below a root is kept as an empty directory, unless it is a root itself.
    pub one_file_system: bool,
    /// `--ignore-inode`: another inode number alone is no change.
    pub ignore_inode: bool,
    /// `--ignore-ctime`: another ctime alone is no change.
    pub ignore_ctime: bool,
    /// `--force`: read everything, as if there were no parent.
    pub force: bool,
    /// `--with-atime`: keep access times; otherwise the modification time stands in for them, as in restic.
    pub with_atime: bool,
    /// The one root stands in the snapshot under this name alone, without the directories above it.
    pub placed_as: Option<Vec<u8>>,
    /// `--fileset`: further rules about each entry.
    pub selector: Option<Arc<dyn Selector>>,
    /// Who is offered what the rules say ([`Treatment::offered`]).
    pub taker: Option<Arc<dyn Taker>>,
}

/// How an entry compares with the parent snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The parent has no such entry (or there is no parent).
    New,
    /// Its contents or its metadata differ.
    Changed,
    /// Nothing differs.
    Unmodified,
}

/// Told what happens, from several threads at once.
pub trait Observer: Sync {
    /// An entry has come to its end. `path` is absolute; `size` counts the bytes of a file's contents in the snapshot.
    /// For skipped and failed entries `change` has no meaning, and `kind` is what the directory said it was.
    fn entry(&self, path: &[u8], outcome: &Outcome, kind: FileKind, size: u64, change: Change);

    /// `count` more bytes of contents were dealt with: read, taken over from the parent, or found to be a hole.
    fn bytes(&self, count: u64);

    /// The contents of `path` (absolute) are about to be read.
    fn current(&self, path: &[u8]);
}

/// What a walk did. Directories above the roots are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeReport {
    /// Announced entries and how they ended.
    pub tally: Tally,
    /// Regular files in the view that the parent does not have.
    pub files_new: u64,
    /// Regular files in the view that differ from the parent's.
    pub files_changed: u64,
    /// Regular files in the view that are as in the parent.
    pub files_unmodified: u64,
    /// Directories that the parent does not have.
    pub dirs_new: u64,
    /// Directories that differ from the parent's, in metadata or in anything below.
    pub dirs_changed: u64,
    /// Directories that are as in the parent.
    pub dirs_unmodified: u64,
    /// Bytes of the contents of all regular files in the view.
    pub bytes: u64,
    /// Bytes of contents that were read from the file system.
    pub bytes_read: u64,
}

impl TreeReport {
    fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        self.files_new += other.files_new;
        self.files_changed += other.files_changed;
        self.files_unmodified += other.files_unmodified;
        self.dirs_new += other.dirs_new;
        self.dirs_changed += other.dirs_changed;
        self.dirs_unmodified += other.dirs_unmodified;
        self.bytes += other.bytes;
        self.bytes_read += other.bytes_read;
    }
}

/// What a walk made.
#[derive(Debug)]
pub struct TreeResult {
    /// Paths (without a leading slash) and nodes for the Assembler: one for each root, or for each entry of `/` if that
    /// is the root, directories with their `subtree`; and directories above the roots without one.
    pub nodes: Vec<(Vec<u8>, Node)>,
    /// The counts.
    pub report: TreeReport,
    /// Stopped when the job was cancelled: then `nodes` hold what was done until then.
    pub end: End,
}

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A root that cannot be made absolute.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A rule that cannot be used.
    #[error(transparent)]
    Exclude(#[from] ExcludeError),
    /// None of the roots exists.
    #[error("{0}")]
    NothingThere(String),
    /// Several roots cannot have one name, nor can `/` have any.
    #[error("only one file or directory, and not /, can be placed under another name")]
    OneName,
    /// The repository cannot take any more.
    #[error(transparent)]
    Repository(#[from] Error),
}

impl From<TreeError> for Fatal {
    fn from(error: TreeError) -> Self {
        Self(error.to_string())
    }
}

/// Walks the roots and stores what it finds.
///
/// `parent` is the root tree of an earlier snapshot whose unchanged files are taken over without being read. Paths are
/// made absolute as restic does it (textually, symbolic links stay). A root that is missing counts as failed.
///
/// # Errors
/// [`TreeError`]: rules that cannot be used, no root there at all, or a repository that cannot be written.
pub fn back_up_tree(
    writer: &Arc<Writer>,
    parent: Option<(Arc<Reader>, Id)>,
    roots: &[PathBuf],
    options: &TreeOptions,
    job: &dyn Job,
    observer: &dyn Observer,
) -> Result<TreeResult, TreeError> {
    let excludes = Excludes::new(&Rules {
        excludes: &options.excludes,
        iexcludes: &options.iexcludes,
        exclude_files: &options.exclude_files,
        iexclude_files: &options.iexclude_files,
        exclude_caches: options.exclude_caches,
        exclude_if_present: &options.exclude_if_present,
        exclude_larger_than: options.exclude_larger_than,
    })?;
    let roots = roots::plan(roots)?;
    if options.placed_as.is_some() && !roots.is_single() {
        return Err(TreeError::OneName);
    }
    let parent = if options.force { None } else { parent };
    walk::run(writer, parent, &roots, &excludes, options, job, observer)
}
