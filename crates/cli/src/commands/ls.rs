//! `backstay ls`: which files a snapshot holds.

mod ncdu;

use std::cmp::Ordering;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use backstay_core::FileKind;
use backstay_repository::walk::{ListedNode, WalkEntry, permissions, walk};
use clap::{Args, ValueEnum};

use crate::args::SnapshotFilterOptions;
use crate::commands::snapshots::{SnapshotObject, time};
use crate::failure::Failure;
use crate::format;
use crate::selection::{reader, select};
use crate::session::Session;

use ncdu::Ncdu;

/// List the files of a snapshot
///
/// Without a folder, everything. With folders, what lies directly in them; with --recursive, everything below them.
/// With SNAPSHOT:PATH that folder is taken as the root.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The snapshot: an id, the beginning of one, or "latest"
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: OsString,
    /// Only what lies in these folders (absolute paths)
    #[arg(value_name = "DIR")]
    pub folders: Vec<OsString>,
    /// Which snapshots "latest" looks at.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Mode, owner, size and time too
    #[arg(short, long)]
    pub long: bool,
    /// The folders below the folders too
    #[arg(long)]
    pub recursive: bool,
    /// With --long: sizes in KiB, MiB and so on
    #[arg(long)]
    pub human_readable: bool,
    /// In which order; without it a folder comes before what is in it
    #[arg(short, long, value_name = "BY")]
    pub sort: Option<Sort>,
    /// The last first
    #[arg(long)]
    pub reverse: bool,
    /// In the save format of ncdu: "ncdu -f" browses it
    #[arg(long, conflicts_with_all = ["long", "human_readable", "sort", "reverse"])]
    pub ncdu: bool,
    /// Show also what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,
}

/// What a listing is sorted by; equal entries by their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// The path
    Name,
    /// The length, the smallest first
    Size,
    /// The last change of the contents, the oldest first
    #[value(alias = "mtime")]
    Time,
    /// The last access
    Atime,
    /// The last change of the inode
    Ctime,
    /// What stands behind the last dot of the name
    Extension,
}

impl Sort {
    fn order(self, a: &WalkEntry, b: &WalkEntry) -> Ordering {
        let by_key = match self {
            Self::Name => Ordering::Equal,
            Self::Size => a.node.size.cmp(&b.node.size),
            Self::Time => a.node.mtime.cmp(&b.node.mtime),
            Self::Atime => a.node.atime.cmp(&b.node.atime),
            Self::Ctime => a.node.ctime.cmp(&b.node.ctime),
            Self::Extension => extension(&a.node.name).cmp(extension(&b.node.name)),
        };
        by_key.then_with(|| a.path.cmp(&b.path))
    }
}

/// A name from its last dot on, as restic takes it; empty without one.
fn extension(name: &[u8]) -> &[u8] {
    name.iter().rposition(|byte| *byte == b'.').map_or(b"", |at| &name[at..])
}

impl LsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the snapshot or a folder is not there, or a part of it cannot be read.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let folders = self.folders()?;
        if self.ncdu && session.output.json {
            return Err(Failure::fatal("either --json or --ncdu: a listing has one format"));
        }
        let repository = session.open_to_read()?;
        let selected = select(&repository, &self.snapshot, &self.filter)?;
        let reader = reader(&repository)?;
        let root = reader.tree_at(&selected.snapshot.tree, &selected.path)?;
        for folder in &folders {
            reader.tree_at(&root, folder)?;
        }
        let mut ncdu = if self.ncdu { Some(Ncdu::begin(&session.output, &selected.snapshot)?) } else { None };
        if session.output.json {
            let mut object = SnapshotObject::new(&selected.id, &selected.snapshot);
            object.struct_type = Some("snapshot");
            session.output.object(&object)?;
        } else {
            session.output.note(&format!(
                "snapshot {} of {} at {}",
                selected.id.short(),
                selected.snapshot.paths.iter().map(|path| format::path(path.as_bytes())).collect::<Vec<_>>().join(", "),
                time(&selected.snapshot)
            ));
        }
        let mut errors = 0;
        let sorted = self.sort.is_some() || self.reverse;
        let mut waiting = Vec::new();
        let mut steps = walk(&reader, &root, !self.internal && selected.path.is_empty());
        while let Some(step) = steps.next() {
            let entry = match step {
                Ok(entry) => entry,
                Err(error) => {
                    errors += 1;
                    let path = format::path(&error.path);
                    session.output.item_error("ls", &path, &error.to_string(), None);
                    continue;
                }
            };
            let within = folders.is_empty() || folders.iter().any(|folder| is_below(&entry.path, folder));
            let leads_there = folders.is_empty() || folders.iter().any(|folder| is_below(folder, &entry.path));
            if entry.node.kind == FileKind::Directory && !leads_there && !(within && self.recursive) {
                steps.skip_directory();
            }
            if let Some(ncdu) = &mut ncdu {
                // The folders above what is listed hold it together.
                if within || (entry.node.kind == FileKind::Directory && leads_there) {
                    ncdu.entry(&entry)?;
                }
                continue;
            }
            if !within {
                continue;
            }
            if sorted {
                let mut entry = entry;
                // What no line shows need not wait in memory.
                entry.node.content = None;
                entry.node.xattrs = Vec::new();
                waiting.push(entry);
            } else {
                self.print(session, &entry)?;
            }
        }
        let by = self.sort.unwrap_or(Sort::Name);
        waiting.sort_unstable_by(|a, b| if self.reverse { by.order(b, a) } else { by.order(a, b) });
        waiting.iter().try_for_each(|entry| self.print(session, entry))?;
        if let Some(ncdu) = ncdu {
            ncdu.end()?;
        }
        if errors > 0 { Err(Failure::Reported) } else { Ok(()) }
    }

    /// The folders as `/a/b`, without a slash at the end.
    fn folders(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut folders = Vec::new();
        for folder in &self.folders {
            let bytes = folder.as_bytes();
            if !bytes.starts_with(b"/") {
                return Err(Failure::fatal(format!(
                    "\"{}\" is not an absolute path: folders are named from the snapshot's root",
                    format::path(bytes)
                )));
            }
            let mut path = Vec::with_capacity(bytes.len());
            for part in bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
                path.push(b'/');
                path.extend_from_slice(part);
            }
            folders.push(path);
        }
        Ok(folders)
    }

    fn print(&self, session: &Session, entry: &WalkEntry) -> Result<(), Failure> {
        if session.output.json {
            return session.output.object(&ListedNode::from(entry));
        }
        let path = format::path(&entry.path);
        if !self.long {
            return session.output.line(&path);
        }
        session.output.line(&long(entry, &path, self.human_readable))
    }
}

/// One line with everything people ask for.
pub(crate) fn long(entry: &WalkEntry, path: &str, human: bool) -> String {
    let node = &entry.node;
    let size = if human { format::bytes(node.size) } else { node.size.to_string() };
    let target =
        if node.kind == FileKind::Symlink { format!(" -> {}", format::path(&node.link_target)) } else { String::new() };
    format!(
        "{} {:>5} {:>5} {:>10} {} {path}{target}",
        permissions(node.mode),
        node.uid,
        node.gid,
        size,
        format::local_time(node.mtime.seconds, node.mtime.nanoseconds)
    )
}

/// Whether `path` is `folder` or lies below it; the empty folder is the root.
fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_at_a_slash() {
        assert!(is_below(b"/a/b", b"/a"));
        assert!(is_below(b"/a", b"/a"));
        assert!(is_below(b"/a", b""));
        assert!(!is_below(b"/ab", b"/a"));
        assert!(!is_below(b"/a", b"/a/b"));
    }

    #[test]
    fn an_extension_starts_at_the_last_dot() {
        assert_eq!(extension(b"a.tar.gz"), b".gz");
        assert_eq!(extension(b"Makefile"), b"");
        assert_eq!(extension(b".profile"), b".profile");
    }
}
