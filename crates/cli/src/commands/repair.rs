//! `backstay repair`: what is still there of a damaged repository, made whole again.

use std::path::Path;

use backstay_core::ObjectKind;
use backstay_engine::ledgers::EngineLedgers;
use backstay_repository::maintenance::objects::find_object;
use backstay_repository::maintenance::repair_index::{RepairIndexOptions, repair_index};
use backstay_repository::maintenance::repair_packs::repair_packs;
use backstay_repository::maintenance::repair_snapshots::{RepairSnapshotsOptions, repair_snapshots};
use backstay_repository::repository::ReadableSnapshots;
use clap::{Args, Subcommand};

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;
use crate::format::count;
use crate::maintenance::{Watcher, report_changes};
use crate::selection::readable;
use crate::session::Session;

/// Repair the index, damaged packs, or snapshots that miss something
///
/// In this order: "repair index", then "repair packs" for those that are damaged, then a backup, which stores again what
/// it still finds, and only then "repair snapshots".
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// What to repair.
    #[command(subcommand)]
    pub what: RepairCommand,
}

/// What to repair.
#[derive(Debug, Subcommand)]
pub enum RepairCommand {
    /// List every stored pack as its own header says, and nothing else
    Index {
        /// Read the headers of all packs, also of those that seem to be listed rightly
        #[arg(long)]
        read_all_packs: bool,
    },
    /// Save what can be read of damaged packs and take them out of the repository
    Packs {
        /// The packs: ids, or beginnings of ids
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Make snapshots without what cannot be read any more
    Snapshots {
        /// Only these snapshots: ids, beginnings of ids, or "latest" [default: all]
        #[arg(value_name = "SNAPSHOT")]
        ids: Vec<String>,
        /// Which snapshots.
        #[command(flatten)]
        filter: SnapshotFilterOptions,
        /// Delete the broken snapshots after the new ones were made
        #[arg(long)]
        forget: bool,
        /// Say what would be done, change nothing
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

impl RepairArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the repository cannot be written, or something could not be repaired ([`Failure::Reported`]).
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        match self.what {
            RepairCommand::Index { read_all_packs } => index(session, read_all_packs),
            RepairCommand::Packs { ids } => packs(session, &ids),
            RepairCommand::Snapshots { ids, filter, forget, dry_run } => {
                if !dry_run {
                    session.needs_lock("repair snapshots")?;
                }
                let repository = session.open_alone()?;
                let ReadableSnapshots { snapshots: list, damaged } = readable(&repository, &ids, &filter)?;
                let watcher = Watcher::start(&session.output);
                let options = RepairSnapshotsOptions { forget, dry_run };
                let result = repair_snapshots(&repository, list, options, &EngineLedgers, &watcher);
                let report = watcher.end(result)?;
                report_changes(session, "repair snapshots", &report, &damaged, dry_run, forget)
            }
        }
    }
}

fn index(session: &Session, read_all_packs: bool) -> Result<(), Failure> {
    session.needs_lock("repair index")?;
    let repository = session.open_alone()?;
    let watcher = Watcher::start(&session.output);
    let result = repair_index(&repository, RepairIndexOptions { read_all_packs }, &watcher);
    let report = watcher.end(result)?;
    let output = &session.output;
    for (id, reason) in &report.unreadable {
        output.item_error("repair index", &id.to_hex(), &format!("pack {id} has no readable header: {reason}"), None);
    }
    if output.json {
        let ids = |list: &[backstay_core::Id]| list.iter().map(backstay_core::Id::to_hex).collect::<Vec<_>>();
        let names = |list: &[(backstay_core::Id, String)]| list.iter().map(|(id, _)| id.to_hex()).collect::<Vec<_>>();
        output.object(&serde_json::json!({
            "message_type": "summary",
            "changed": report.changed(),
            "damaged_index_files": names(&report.damaged_files),
            "packs_added": ids(&report.added),
            "packs_corrected": ids(&report.corrected),
            "packs_missing": ids(&report.missing),
            "packs_unreadable": names(&report.unreadable),
            "index_files_written": report.files_written,
            "index_files_deleted": report.files_deleted,
        }))?;
    } else if !report.changed() {
        output.note("the index lists every pack: nothing was changed");
    } else {
        output.note(&format!(
            "wrote {}, deleted {}: {} added, {} corrected, {} taken out",
            count(report.files_written as u64, "index file", "index files"),
            report.files_deleted,
            count(report.added.len() as u64, "pack", "packs"),
            report.corrected.len(),
            report.missing.len()
        ));
    }
    if report.unreadable.is_empty() {
        return Ok(());
    }
    if !output.json {
        let ids: Vec<String> = report.unreadable.iter().map(|(id, _)| id.short()).collect();
        output.note(&format!("save what is left of them with \"backstay repair packs {}\"", ids.join(" ")));
    }
    Err(Failure::Reported)
}

fn packs(session: &Session, ids: &[String]) -> Result<(), Failure> {
    session.needs_lock("repair packs")?;
    let repository = session.open_alone()?;
    let packs = ids.iter().map(|id| find_object(&repository, ObjectKind::Pack, id)).collect::<Result<Vec<_>, _>>()?;
    let watcher = Watcher::start(&session.output);
    let result = repair_packs(&repository, &packs, Path::new("."), &watcher);
    let report = watcher.end(result)?;
    let output = &session.output;
    for lost in &report.lost {
        output.item_error(
            "repair packs",
            &lost.pack.to_hex(),
            &format!("{} blob {} of pack {} is lost: {}", lost.kind, lost.id, lost.pack, lost.reason),
            None,
        );
    }
    if output.json {
        return output.object(&serde_json::json!({
            "message_type": "summary",
            "packs": packs.iter().map(backstay_core::Id::to_hex).collect::<Vec<_>>(),
            "copies": report.copies.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "blobs_salvaged": report.salvaged,
            "blobs_lost": report.lost.len(),
        }));
    }
    for copy in &report.copies {
        output.note(&format!("a copy of the damaged pack is in {}", copy.display()));
    }
    output.note(&format!(
        "saved {}, lost {}",
        count(report.salvaged, "blob", "blobs"),
        count(report.lost.len() as u64, "blob", "blobs")
    ));
    if !report.lost.is_empty() {
        output.note(
            "a backup of the same files stores again what it still finds; \"backstay repair snapshots\" takes the rest \
             out of the snapshots",
        );
    }
    Ok(())
}
