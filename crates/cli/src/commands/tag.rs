//! `backstay tag`: other tags for snapshots.

use backstay_core::Id;
use backstay_repository::maintenance::tag::{TagChange, change_tags};
use clap::Args;

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;
use crate::format::count;
use crate::maintenance::Watcher;
use crate::selection::{self, split_tags};
use crate::session::Session;

/// Change the tags of snapshots
///
/// A changed snapshot gets a new id and remembers the one that it had first. Without ids, all snapshots that the
/// filters let through are changed.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Only these snapshots: ids, beginnings of ids, or "latest"
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// These tags instead of all others; "" for none (repeatable)
    #[arg(long, value_name = "TAG[,TAG]", conflicts_with_all = ["add", "remove"])]
    pub set: Vec<String>,
    /// These tags too (repeatable)
    #[arg(long, value_name = "TAG[,TAG]")]
    pub add: Vec<String>,
    /// No longer these tags (repeatable)
    #[arg(long, value_name = "TAG[,TAG]")]
    pub remove: Vec<String>,
}

impl TagArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is nothing to do, a snapshot is not there, or the repository cannot be written.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        session.needs_lock("tag")?;
        let tags = |lists: &[String]| lists.iter().flat_map(|list| split_tags(list)).collect::<Vec<_>>();
        let change = TagChange {
            set: (!self.set.is_empty()).then(|| tags(&self.set)),
            add: tags(&self.add),
            remove: tags(&self.remove),
        };
        change.validate()?;
        let repository = session.open_alone()?;
        let list = selection::snapshots(&repository, &self.ids, &self.filter)?;
        let mut changed: Vec<(Id, Id)> = Vec::new();
        let watcher = Watcher::start(&session.output);
        let result = change_tags(&repository, list, &change, &watcher, &mut |old, new| changed.push((*old, *new)));
        let result = watcher.end(result);
        for (old, new) in &changed {
            if session.output.json {
                session.output.object(&serde_json::json!({
                    "message_type": "changed",
                    "old_snapshot_id": old.to_hex(),
                    "new_snapshot_id": new.to_hex(),
                }))?;
            } else if !session.output.quiet {
                session.output.line(&format!("snapshot {} is now {}", old.short(), new.short()))?;
            }
        }
        let number = result?;
        if session.output.json {
            let summary = serde_json::json!({"message_type": "summary", "changed_snapshots": number});
            return session.output.object(&summary);
        }
        session.output.note(&match number {
            0 => "no snapshot was changed".to_owned(),
            _ => format!("changed {}", count(number, "snapshot", "snapshots")),
        });
        Ok(())
    }
}
