//! `backstay unlock`: removes the locks that nobody holds any more.

use backstay_repository::lock::{LockInfo, unlock};
use clap::Args;

use crate::failure::Failure;
use crate::format::count;
use crate::session::Session;

/// Remove locks that nobody holds any more
///
/// A lock is abandoned when its process on this host is gone, or when it was not refreshed for 30 minutes.
#[derive(Debug, Args)]
pub struct UnlockArgs {
    /// Remove all locks, also those of whoever is at work: only when you know that nobody is
    #[arg(long)]
    pub remove_all: bool,
}

impl UnlockArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When a lock cannot be read or removed.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let output = &session.output;
        let repository = session.open()?;
        let report = unlock(&repository, self.remove_all)?;
        if output.json {
            output.object(&serde_json::json!({
                "message_type": "summary",
                "removed": report.removed.len(),
                "kept": report.kept.len(),
            }))?;
        } else if !output.quiet {
            output.line(&format!("Removed {}", count(report.removed.len() as u64, "lock", "locks")))?;
            for (id, LockInfo { hostname, username, pid, time, .. }) in &report.kept {
                output.note(&format!(
                    "lock {} stays: process {pid} of {username} on host {hostname} has held it since {time}",
                    id.short()
                ));
            }
        }
        for error in &report.unreadable {
            output.item_error("unlock", "", &error.to_string(), None);
        }
        if report.unreadable.is_empty() { Ok(()) } else { Err(Failure::Reported) }
    }
}
