//! `backstay ls`: which files a snapshot holds.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use backstay_core::FileKind;
use backstay_repository::walk::{ListedNode, WalkEntry, permissions, walk};
use clap::Args;

use crate::args::SnapshotFilterOptions;
use crate::commands::snapshots::{SnapshotObject, time};
use crate::failure::Failure;
use crate::format;
use crate::selection::{reader, select};
use crate::session::Session;

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
    /// Show also what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,
}

impl LsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the snapshot or a folder is not there, or a part of it cannot be read.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let folders = self.folders()?;
        let repository = session.open_to_read()?;
        let selected = select(&repository, &self.snapshot, &self.filter)?;
        let reader = reader(&repository)?;
        let root = reader.tree_at(&selected.snapshot.tree, &selected.path)?;
        for folder in &folders {
            reader.tree_at(&root, folder)?;
        }
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
            if within {
                self.print(session, &entry)?;
                if self.recursive {
                    continue;
                }
            }
            let leads_there = folders.is_empty() || folders.iter().any(|folder| is_below(folder, &entry.path));
            if entry.node.kind == FileKind::Directory && !leads_there {
                steps.skip_directory();
            }
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
        session.output.line(&long(entry, &path))
    }
}

/// One line with everything people ask for.
pub(crate) fn long(entry: &WalkEntry, path: &str) -> String {
    let node = &entry.node;
    let target =
        if node.kind == FileKind::Symlink { format!(" -> {}", format::path(&node.link_target)) } else { String::new() };
    format!(
        "{} {:>5} {:>5} {:>10} {} {path}{target}",
        permissions(node.mode),
        node.uid,
        node.gid,
        node.size,
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
}
