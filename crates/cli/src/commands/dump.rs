//! `backstay dump`: the contents of one file of a snapshot, or a folder as an archive.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use std::sync::Arc;

use backstay_core::{FileKind, Id};
use backstay_repository::Error;
use backstay_repository::archive::{ArchiveFormat, ArchiveOptions, write_archive};
use backstay_repository::open_file::OpenFile;
use backstay_repository::reader::Reader;
use clap::{Args, ValueEnum};

use crate::args::SnapshotFilterOptions;
use crate::failure::{Failure, chain};
use crate::format;
use crate::selection::{reader, select};
use crate::session::Session;

/// Write a file of a snapshot, or a folder as an archive, to standard output
///
/// A folder becomes a tar archive, or a zip archive with --archive zip; "/" is the whole snapshot. Every part is
/// verified against its hash before it is written.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The snapshot (an id, the beginning of one, or "latest") and, after a colon, the file or folder in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub snapshot: OsString,
    /// The file or folder, where it was not named after a colon; names in an archive then start with this path
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
    /// Which snapshots "latest" looks at.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// The format for a folder [default: tar]
    #[arg(short, long, value_name = "FORMAT")]
    pub archive: Option<Archive>,
    /// Write to this new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub target: Option<PathBuf>,
    /// Put also into the archive what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,
}

/// What a folder becomes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Archive {
    /// A tar archive: all kinds of files, hard links, owners, attributes, times to the nanosecond
    Tar,
    /// A zip archive: files, folders and symbolic links
    Zip,
}

impl From<Archive> for ArchiveFormat {
    fn from(archive: Archive) -> Self {
        match archive {
            Archive::Tar => Self::Tar,
            Archive::Zip => Self::Zip,
        }
    }
}

/// What is to be written.
pub(crate) enum Thing {
    /// The contents of a file.
    File(OpenFile),
    /// An archive of a folder.
    Folder(Arc<Reader>, Id, ArchiveOptions),
}

impl DumpArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the snapshot or the path is not there, a part of it cannot be read, or the output fails.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.open_to_read()?;
        let selected = select(&repository, &self.snapshot, &self.filter)?;
        let mut path = selected.path;
        let below = self.path.as_ref().map(|below| below.as_bytes());
        if let Some(below) = below {
            path.push(b'/');
            path.extend_from_slice(below);
        }
        if path.is_empty() && self.archive.is_none() {
            return Err(Failure::fatal(
                "which file or folder? Name it as SNAPSHOT:PATH; SNAPSHOT:/ is the whole snapshot as a tar archive",
            ));
        }
        let name = format::path(&path);
        let reader = reader(&repository)?;
        let is_root = path.iter().all(|byte| *byte == b'/');
        let (kind, node) = if is_root {
            (FileKind::Directory, None)
        } else {
            let node = reader
                .node_at(&selected.snapshot.tree, &path)?
                .ok_or_else(|| Failure::fatal(format!("there is no {name} in snapshot {}", selected.id.short())))?;
            (node.kind, Some(node))
        };
        let thing = match (kind, node) {
            (FileKind::Directory, _) => {
                if self.target.is_none() && std::io::stdout().is_terminal() {
                    return Err(Failure::fatal(format!(
                        "{name} is a folder, and an archive does not belong on a terminal: redirect it, or give --target FILE"
                    )));
                }
                let options = ArchiveOptions {
                    format: self.archive.unwrap_or(Archive::Tar).into(),
                    prefix: below.map_or_else(Vec::new, trimmed),
                    skip_internal: is_root && !self.internal,
                };
                let tree = reader.tree_at(&selected.snapshot.tree, &path)?;
                Thing::Folder(reader, tree, options)
            }
            (FileKind::File, Some(node)) if self.archive.is_none() => Thing::File(OpenFile::new(reader, &node)?),
            (FileKind::File, _) => {
                return Err(Failure::fatal(format!(
                    "{name} is a file and is written as it is: leave out --archive, which is for folders"
                )));
            }
            _ => return Err(Failure::fatal(format!("{name} is no regular file: it has no contents"))),
        };
        match &self.target {
            Some(target) => to_file(&thing, session, target),
            None => to_output(&thing, session),
        }
    }
}

/// A path without empty components, and without a slash at either end.
fn trimmed(path: &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/')
}

impl Thing {
    fn write(&self, session: &Session, out: &mut dyn Write) -> Result<(), Error> {
        match self {
            Self::File(file) => file.copy_to(out).map(drop),
            Self::Folder(reader, tree, options) => {
                let mut left_out = |path: &[u8], reason: &str| {
                    session.output.warning(&format!("{} is left out: {reason}", format::path(path)));
                };
                write_archive(reader, tree, options, out, &mut left_out).map(drop)
            }
        }
    }
}

/// Writes all of it to standard output.
pub(crate) fn to_output(thing: &Thing, session: &Session) -> Result<(), Failure> {
    let mut out = Stdout { session, failure: None };
    let copied = thing.write(session, &mut out);
    match (copied, out.failure) {
        (_, Some(failure)) => Err(failure),
        (Err(error), None) => Err(error.into()),
        (Ok(_), None) => session.output.flush(),
    }
}

/// Standard output as a writer that remembers why it failed.
struct Stdout<'a> {
    session: &'a Session,
    failure: Option<Failure>,
}

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.session.output.raw(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(failure) => {
                self.failure = Some(failure);
                Err(std::io::Error::other("standard output failed"))
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn to_file(thing: &Thing, session: &Session, target: &Path) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::error::Error| Failure::fatal(format!("cannot write {}: {}", target.display(), chain(error)));
    let file = File::create_new(target).map_err(|error| failed(&error))?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
    let written = thing.write(session, &mut out).map_err(|error| failed(&error)).and_then(|()| {
        let file = out.into_inner().map_err(|error| failed(error.error()))?;
        file.sync_all().map_err(|error| failed(&error))
    });
    if written.is_err() {
        // Half a file must not look like the whole one.
        let _ = std::fs::remove_file(target);
    }
    written
}
