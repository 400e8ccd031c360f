//! `backstay dump` (also `cat`): the contents of one file of a snapshot.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backstay_core::FileKind;
use backstay_repository::open_file::OpenFile;
use clap::Args;

use crate::args::SnapshotFilterOptions;
use crate::failure::{Failure, chain};
use crate::format;
use crate::selection::{reader, select};
use crate::session::Session;

/// Write the contents of a file of a snapshot to standard output
///
/// Every part is verified against its hash before it is written.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The snapshot (an id, the beginning of one, or "latest") and, after a colon, the file in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub snapshot: OsString,
    /// The file, where it was not named after a colon
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
    /// Which snapshots "latest" looks at.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Write to this new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub target: Option<PathBuf>,
}

impl DumpArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the snapshot or the file is not there, a part of it cannot be read, or the output fails.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.open_to_read()?;
        let selected = select(&repository, &self.snapshot, &self.filter)?;
        let mut path = selected.path;
        if let Some(below) = &self.path {
            path.push(b'/');
            path.extend_from_slice(below.as_bytes());
        }
        let name = format::path(&path);
        if path.iter().all(|byte| *byte == b'/') {
            return Err(Failure::fatal("which file? Name it as SNAPSHOT:PATH"));
        }
        let reader = reader(&repository)?;
        let node = reader
            .node_at(&selected.snapshot.tree, &path)?
            .ok_or_else(|| Failure::fatal(format!("there is no {name} in snapshot {}", selected.id.short())))?;
        match node.kind {
            FileKind::File => {}
            FileKind::Directory => {
                return Err(Failure::fatal(format!(
                    "{name} is a folder: \"backstay restore {}:{name} --target DIR\" brings it back",
                    selected.id.short()
                )));
            }
            _ => return Err(Failure::fatal(format!("{name} is no regular file: it has no contents"))),
        }
        let file = OpenFile::new(reader, &node)?;
        match &self.target {
            Some(target) => to_file(&file, target),
            None => to_output(&file, session),
        }
    }
}

fn to_output(file: &OpenFile, session: &Session) -> Result<(), Failure> {
    let mut out = Stdout { session, failure: None };
    let copied = file.copy_to(&mut out);
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

fn to_file(file: &OpenFile, target: &Path) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::error::Error| Failure::fatal(format!("cannot write {}: {}", target.display(), chain(error)));
    let mut out = File::create_new(target).map_err(|error| failed(&error))?;
    let copied = file.copy_to(&mut out).map_err(|error| failed(&error)).and_then(|length| {
        out.sync_all().map_err(|error| failed(&error))?;
        Ok(length)
    });
    if copied.is_err() {
        // Half a file must not look like the whole one.
        let _ = std::fs::remove_file(target);
    }
    copied.map(|_| ())
}
