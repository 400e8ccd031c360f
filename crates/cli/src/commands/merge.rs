//! `backstay merge`: several snapshots made into one.

use backstay_engine::ledgers::EngineLedgers;
use backstay_repository::maintenance::merge::{MergeOptions, merge};
use clap::Args;

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;
use crate::format::{bytes, count};
use crate::maintenance::Watcher;
use crate::selection;
use crate::session::Session;

/// Make one snapshot out of several: it holds what any of them holds
///
/// Where two of them have something else at one path, the one that was modified last is taken; between equal times, the
/// one of the later snapshot. The merged snapshots stay, unless --forget is given.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// These snapshots: ids, beginnings of ids, or "latest" [default: all that the filters let through]
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Delete the merged snapshots after the new one was made
    #[arg(long)]
    pub forget: bool,
    /// Say what would be done, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

impl MergeArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// Fewer than two snapshots, a partial one, one that cannot be read, or a repository that cannot be written.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        if !self.dry_run {
            session.needs_lock("merge")?;
        }
        let repository = if self.forget && !self.dry_run { session.open_alone()? } else { session.open_to_read()? };
        let mut list = selection::snapshots(&repository, &self.ids, &self.filter)?;
        if self.ids.is_empty() {
            list.retain(|(_, snapshot)| !snapshot.is_partial());
        }
        list.sort_by_key(|(id, _)| *id);
        list.dedup_by_key(|(id, _)| *id);
        let merged = list.len() as u64;
        let options = MergeOptions { forget: self.forget, dry_run: self.dry_run, time: None };
        let watcher = Watcher::start(&session.output);
        let result = merge(&repository, list, options, &EngineLedgers, &watcher);
        let report = watcher.end(result)?;
        let output = &session.output;
        for ledger in &report.dropped {
            output.warning(&format!(
                "the ledger of {} goes ({}): its files come back as files, not through the plugin",
                ledger.source, ledger.reason
            ));
        }
        if output.json {
            return output.object(&serde_json::json!({
                "message_type": "summary",
                "snapshot_id": report.new.map(|id| id.to_hex()),
                "merged_snapshots": merged,
                "total_files_processed": report.summary.total_files_processed,
                "total_bytes_processed": report.summary.total_bytes_processed,
                "dropped_ledgers": report.dropped.iter().map(|ledger| &*ledger.source).collect::<Vec<_>>(),
                "forgotten": self.forget && !self.dry_run,
                "dry_run": self.dry_run,
            }));
        }
        if output.quiet {
            return Ok(());
        }
        let what = format!(
            "{} with {} and {}",
            count(merged, "snapshot", "snapshots"),
            count(report.summary.total_files_processed, "file", "files"),
            bytes(report.summary.total_bytes_processed)
        );
        output.line(&match report.new {
            Some(new) if self.forget => format!("{what} are now {}", new.short()),
            Some(new) => format!("{what} are merged in {}", new.short()),
            None => format!("{what} would be merged"),
        })
    }
}
