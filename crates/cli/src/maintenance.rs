//! What the commands that change a repository share: how they tell what happens, stop, and look after their lock.

use std::sync::Arc;

use backstay_repository::error::Error;
use backstay_repository::maintenance::rewrite::ChangeReport;
use backstay_repository::maintenance::{MaintenanceProgress, interrupted};
use backstay_repository::repository::Repository;

use crate::failure::Failure;
use crate::format::count;
use crate::output::Output;
use crate::progress::{Counters, Progress, Work};
use crate::session::Session;
use crate::signals;

/// Shows how a maintenance goes on; stops it at the first signal, or when the lock is lost.
#[derive(Debug)]
pub(crate) struct Watcher {
    output: Arc<Output>,
    counters: Arc<Counters>,
    progress: Option<Progress>,
}

impl Watcher {
    /// Starts to watch: from now on the first signal is answered by [`MaintenanceProgress`].
    pub(crate) fn start(output: &Arc<Output>) -> Self {
        signals::be_patient();
        let progress = Progress::start(output, Work::Check);
        Self { output: Arc::clone(output), counters: Arc::clone(progress.counters()), progress: Some(progress) }
    }

    /// Ends the progress and gives the result; what a signal stopped ends as interrupted.
    pub(crate) fn end<T>(mut self, result: Result<T, Error>) -> Result<T, Failure> {
        if let Some(mut progress) = self.progress.take() {
            progress.finish();
        }
        result.map_err(|error| match Failure::from(error) {
            Failure::Fatal(text) if signals::interrupted() => Failure::Interrupted(text),
            other => other,
        })
    }
}

impl MaintenanceProgress for Watcher {
    fn stage(&self, name: &str, total: u64) {
        self.counters.stage(name, total);
    }

    fn advanced(&self, steps: u64) {
        self.counters.add(steps, 0);
    }

    fn note(&self, message: &str) {
        self.output.note(message);
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.cancelled() { Err(interrupted()) } else { signals::check_locks() }
    }
}

/// How long after its last object a gpbackup backup counts as one whose cleanup never comes.
const CLEANUP_OVERDUE: i64 = 3600;

/// Makes one snapshot of those that commands of gpbackup's plugin left where no cleanup came.
///
/// # Errors
/// The repository's or the store's.
pub(crate) fn fold_gpbackup(session: &Session, repository: &Arc<Repository>) -> Result<(), Failure> {
    let mut before = backstay_engine::backup::now();
    before.seconds -= CLEANUP_OVERDUE;
    for one in backstay_gpbackup_plugin::objects::fold_left(repository, before)? {
        session.output.note(&format!(
            "gpbackup backup {} of host {}: made one snapshot of {}",
            one.timestamp, one.host, one.snapshots
        ));
    }
    Ok(())
}

/// Tells which snapshots were made anew, and which could not be.
///
/// # Errors
/// [`Failure::Reported`] when there were such ones; standard output fails.
pub(crate) fn report_changes(
    session: &Session,
    command: &str,
    report: &ChangeReport,
    damaged: &[Error],
    dry_run: bool,
    forget: bool,
) -> Result<(), Failure> {
    let output = &session.output;
    for one in &report.changed {
        let dropped: Vec<&str> = one.dropped.iter().map(|ledger| &*ledger.source).collect();
        for ledger in &one.dropped {
            output.warning(&format!(
                "snapshot {}: the ledger of {} goes ({}): its files come back as files, not through the plugin",
                one.old.short(),
                ledger.source,
                ledger.reason
            ));
        }
        if output.json {
            output.object(&serde_json::json!({
                "message_type": "changed",
                "old_snapshot_id": one.old.to_hex(),
                "new_snapshot_id": one.new.map(|id| id.to_hex()),
                "forgotten": one.forgotten,
                "dropped_ledgers": dropped,
            }))?;
            continue;
        }
        if output.quiet {
            continue;
        }
        let old = one.old.short();
        output.line(&match (one.new, one.forgotten) {
            _ if dry_run => format!("snapshot {old} would be changed{}", if forget { " and forgotten" } else { "" }),
            (Some(new), true) => format!("snapshot {old} is now {}", new.short()),
            (Some(new), false) => format!("snapshot {old} is also there as {}", new.short()),
            (None, _) => format!("snapshot {old} was forgotten: nothing of it is left"),
        })?;
    }
    for error in damaged {
        output.item_error(command, "", &error.to_string(), None);
    }
    for (id, error) in &report.failed {
        output.item_error(command, &id.to_hex(), &format!("snapshot {}: {error}", id.short()), None);
    }
    let failed = report.failed.len() + damaged.len();
    if output.json {
        output.object(&serde_json::json!({
            "message_type": "summary",
            "changed_snapshots": report.changed.len(),
            "unchanged_snapshots": report.unchanged,
            "failed_snapshots": failed,
            "dry_run": dry_run,
        }))?;
    } else {
        let changed = report.changed.len() as u64;
        output.note(&match changed {
            0 => "no snapshot was changed".to_owned(),
            _ if dry_run => format!("{} would be changed", count(changed, "snapshot", "snapshots")),
            _ => format!("changed {}", count(changed, "snapshot", "snapshots")),
        });
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Reported) }
}
