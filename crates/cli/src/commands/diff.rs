//! `backstay diff`: what changed from one snapshot to another.

use std::ffi::OsString;

use backstay_repository::diff::{Change, DiffOptions, DiffStatistics, diff};
use clap::Args;
use serde::Serialize;

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;
use crate::format::{self, count};
use crate::selection::{reader, select};
use crate::session::Session;

/// Show what differs between two snapshots
///
/// The letters: + added, - removed, T the type changed, M the contents changed, U the metadata changed (with
/// --metadata), M? the contents changed while all metadata agree (the medium may have changed it).
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older snapshot, or a folder in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub before: OsString,
    /// The newer snapshot, or a folder in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub after: OsString,
    /// Report changed metadata too
    #[arg(long)]
    pub metadata: bool,
    /// Compare also what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,
}

#[derive(Serialize)]
struct ChangeObject<'a> {
    message_type: &'static str,
    path: String,
    modifier: &'a str,
}

#[derive(Serialize)]
struct StatisticsObject<'a> {
    message_type: &'static str,
    source_snapshot: String,
    target_snapshot: String,
    #[serde(flatten)]
    statistics: &'a DiffStatistics,
}

impl DiffArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When a snapshot is not there or cannot be read.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.open_to_read()?;
        let all = SnapshotFilterOptions::default();
        let before = select(&repository, &self.before, &all)?;
        let after = select(&repository, &self.after, &all)?;
        let reader = reader(&repository)?;
        let old = reader.tree_at(&before.snapshot.tree, &before.path)?;
        let new = reader.tree_at(&after.snapshot.tree, &after.path)?;
        session.output.note(&format!("comparing snapshot {} with {}", before.id.short(), after.id.short()));
        let mut printed = Ok(());
        let mut print = |change: Change| {
            if printed.is_ok() {
                printed = one(session, &change);
            }
        };
        let options = DiffOptions { metadata: self.metadata, skip_internal: !self.internal };
        let statistics = diff(&reader, &old, &new, options, &mut print)?;
        printed?;
        if session.output.json {
            return session.output.object(&StatisticsObject {
                message_type: "statistics",
                source_snapshot: before.id.short(),
                target_snapshot: after.id.short(),
                statistics: &statistics,
            });
        }
        session.output.line(&summary(&statistics))
    }
}

fn one(session: &Session, change: &Change) -> Result<(), Failure> {
    if session.output.json {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        return session.output.object(&ChangeObject { message_type: "change", path, modifier: change.modifier });
    }
    session.output.line(&format!("{:<5}{}", change.modifier, format::path(&change.path)))
}

fn summary(statistics: &DiffStatistics) -> String {
    let (added, removed) = (&statistics.added, &statistics.removed);
    let row = |name: &str, plus: u64, minus: u64| format!("{name:<12}{plus:>8} added, {minus:>8} removed");
    [
        String::new(),
        count(statistics.changed_files, "file changed", "files changed"),
        row("Files:", added.files, removed.files),
        row("Folders:", added.dirs, removed.dirs),
        row("Others:", added.others, removed.others),
        row("Data blobs:", added.data_blobs, removed.data_blobs),
        row("Tree blobs:", added.tree_blobs, removed.tree_blobs),
        format!("  Added: {}", format::bytes(added.bytes)),
        format!("Removed: {}", format::bytes(removed.bytes)),
    ]
    .join("\n")
}
