//! `backstay copy`: snapshots of another repository.

use std::path::PathBuf;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use backstay_repository::error::Error;
use backstay_repository::maintenance::copy::{Copied, copy, same_chunks};
use backstay_repository::repository::{OpenOptions, ReadableSnapshots, Repository};
use clap::Args;

use crate::args::{SnapshotFilterOptions, WritingOptions};
use crate::failure::Failure;
use crate::format::{self, count};
use crate::maintenance::Watcher;
use crate::selection::readable;
use crate::session::Session;
use crate::{location, password, signals};

/// The other repository.
#[derive(Clone, Debug, Default, Args)]
pub struct FromOptions {
    /// The repository to copy from [env: BACKSTAY_FROM_REPOSITORY, else RESTIC_FROM_REPOSITORY]
    #[arg(long, value_name = "PATH")]
    pub from_repo: Option<String>,
    /// A file that holds its path [env: BACKSTAY_FROM_REPOSITORY_FILE, else RESTIC_FROM_REPOSITORY_FILE]
    #[arg(long, value_name = "FILE", conflicts_with = "from_repo")]
    pub from_repository_file: Option<PathBuf>,
    /// A file that holds its password [env: BACKSTAY_FROM_PASSWORD_FILE, else RESTIC_FROM_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    pub from_password_file: Option<PathBuf>,
    /// A command that prints its password [env: BACKSTAY_FROM_PASSWORD_COMMAND, else RESTIC_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", conflicts_with = "from_password_file")]
    pub from_password_command: Option<String>,
    /// Its key to try first [env: BACKSTAY_FROM_KEY_HINT, else RESTIC_FROM_KEY_HINT]
    #[arg(long, value_name = "ID")]
    pub from_key_hint: Option<String>,
}

impl FromOptions {
    /// Opens the other repository.
    ///
    /// # Errors
    /// As [`Session::open`]; also when none is named.
    pub fn open(&self, session: &Session) -> Result<Arc<Repository>, Failure> {
        let address = location::from_address(self.from_repo.as_deref(), self.from_repository_file.as_deref())?;
        let store = session.store_at(&address)?;
        let hint = match &self.from_key_hint {
            Some(hint) => Some(hint.clone()),
            None => match location::variable("BACKSTAY_FROM_KEY_HINT")? {
                Some(hint) => Some(hint),
                None => location::variable("RESTIC_FROM_KEY_HINT")?,
            },
        };
        if store.size(ObjectKind::Config, &Id::default()).map_err(Error::from)?.is_none() {
            return Err(Error::NoRepository { location: store.location() }.into());
        }
        let password =
            password::from_password(self.from_password_file.as_deref(), self.from_password_command.as_deref())?;
        let options = OpenOptions { key_hint: hint, ..OpenOptions::default() };
        Ok(Arc::new(Repository::open_with(store, password.bytes(), &options)?))
    }
}

/// Copy snapshots of another repository into this one
///
/// Only what is not here yet is read and stored; every part is verified on the way. Snapshots that were copied before
/// are left out. What other programs see of a copied snapshot is the same in both repositories.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Only these snapshots of the other repository: ids, beginnings of ids, or "latest" [default: all]
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// The other repository.
    #[command(flatten)]
    pub from: FromOptions,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// How it is stored.
    #[command(flatten)]
    pub writing: WritingOptions,
}

impl CopyArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When one of the repositories cannot be opened, this one cannot be written, or a snapshot could not be copied
    /// ([`Failure::Reported`]).
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        session.needs_lock("copy")?;
        let options = self.writing.write_options()?;
        let target = session.open_to_read()?;
        let source = self.from.open(session)?;
        signals::keep(source.lock(false, session.global.retry_lock)?);
        let output = &session.output;
        let ReadableSnapshots { snapshots: list, damaged } = readable(&source, &self.ids, &self.filter)?;
        if !same_chunks(&source, &target) {
            output.warning(
                "the two repositories cut files in different ways: what was copied and what is backed up here will not \
                 be stored together, even where it is the same",
            );
        }
        let watcher = Watcher::start(output);
        let result = copy(&source, &target, list, options, &watcher);
        let report = watcher.end(result)?;
        let (mut copied, mut known, mut failed) = (0_u64, 0_u64, damaged.len() as u64);
        for error in &damaged {
            output.item_error("copy", "", &error.to_string(), None);
        }
        for one in &report.snapshots {
            match one {
                Copied::New { from, to } => {
                    copied += 1;
                    if output.json {
                        output.object(&serde_json::json!({
                            "message_type": "copied",
                            "source_snapshot_id": from.to_hex(),
                            "snapshot_id": to.to_hex(),
                        }))?;
                    } else if !output.quiet {
                        output.line(&format!("snapshot {} is here as {}", from.short(), to.short()))?;
                    }
                }
                Copied::Known { from, to } => {
                    known += 1;
                    output.verbose(1, &format!("snapshot {} was here already as {}", from.short(), to.short()));
                }
                Copied::Failed { from, error } => {
                    failed += 1;
                    output.item_error("copy", &from.to_hex(), &error.to_string(), None);
                }
            }
        }
        let written = report.written;
        if output.json {
            output.object(&serde_json::json!({
                "message_type": "summary",
                "copied_snapshots": copied,
                "skipped_snapshots": known,
                "failed_snapshots": failed,
                "data_blobs": written.data_blobs,
                "tree_blobs": written.tree_blobs,
                "data_added": written.added,
                "data_added_packed": written.added_packed,
            }))?;
        } else {
            output.note(&format!(
                "copied {} ({} stored), {known} were here already",
                count(copied, "snapshot", "snapshots"),
                format::bytes(written.added_packed)
            ));
        }
        if failed == 0 { Ok(()) } else { Err(Failure::Reported) }
    }
}
