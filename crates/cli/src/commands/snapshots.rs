//! `backstay snapshots`: which snapshots there are.

use std::collections::BTreeMap;

use backstay_core::Id;
use backstay_repository::error::Error;
use backstay_repository::snapshot::Snapshot;
use clap::Args;
use serde::Serialize;

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;
use crate::format::{self, count};
use crate::selection;
use crate::session::Session;

/// List the snapshots
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// Only these: ids, beginnings of ids, or "latest"
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Only the newest N of each host and set of paths
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub latest: Option<u32>,
}

/// restic's object for a snapshot: what is stored, then its id.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotObject<'a> {
    pub(crate) message_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) struct_type: Option<&'static str>,
    #[serde(flatten)]
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) id: String,
    pub(crate) short_id: String,
}

impl<'a> SnapshotObject<'a> {
    pub(crate) fn new(id: &Id, snapshot: &'a Snapshot) -> Self {
        Self { message_type: "snapshot", struct_type: None, snapshot, id: id.to_hex(), short_id: id.short() }
    }
}

impl SnapshotsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the repository cannot be opened, or one that was named is not there. Snapshots that cannot be read are
    /// named behind the others ([`Failure::Reported`]).
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.open_to_read()?;
        let (mut list, damaged) = if self.ids.is_empty() {
            let filter = self.filter.filter();
            let mut found = repository.readable_snapshots()?;
            found.snapshots.retain(|(_, snapshot)| filter.matches(snapshot));
            (found.snapshots, found.damaged)
        } else {
            (selection::snapshots(&repository, &self.ids, &self.filter)?, Vec::new())
        };
        if let Some(newest) = self.latest {
            list = keep_newest(list, newest as usize);
        }
        if session.output.json {
            list.iter().try_for_each(|(id, snapshot)| session.output.object(&SnapshotObject::new(id, snapshot)))?;
            return reported(session, &damaged);
        }
        let rows: Vec<Vec<String>> = list
            .iter()
            .map(|(id, snapshot)| {
                vec![
                    id.short(),
                    time(snapshot),
                    format::path(snapshot.hostname.as_bytes()),
                    format::path(snapshot.tags.join(",").as_bytes()),
                    size(snapshot),
                    snapshot.paths.iter().map(|path| format::path(path.as_bytes())).collect::<Vec<_>>().join("\n"),
                ]
            })
            .collect();
        let mut out = String::new();
        if !rows.is_empty() {
            out = format::table(&["ID", "Time", "Host", "Tags", "Size", "Paths"], &rows);
        }
        out.push_str(&count(rows.len() as u64, "snapshot", "snapshots"));
        session.output.line(&out)?;
        reported(session, &damaged)
    }
}

/// Names the snapshots that cannot be read.
fn reported(session: &Session, damaged: &[Error]) -> Result<(), Failure> {
    for error in damaged {
        session.output.item_error("snapshots", "", &error.to_string(), None);
    }
    if damaged.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

/// The time for people.
pub(crate) fn time(snapshot: &Snapshot) -> String {
    let time = snapshot.time.time();
    format::local_time(time.seconds, time.nanoseconds)
}

fn size(snapshot: &Snapshot) -> String {
    snapshot.summary.as_ref().map_or_else(String::new, |summary| format::bytes(summary.total_bytes_processed))
}

/// The newest of each host and set of paths; the list is in the order of time.
fn keep_newest(list: Vec<(Id, Snapshot)>, newest: usize) -> Vec<(Id, Snapshot)> {
    let key = |snapshot: &Snapshot| {
        let mut paths = snapshot.paths.clone();
        paths.sort();
        (snapshot.hostname.clone(), paths)
    };
    let mut left: BTreeMap<_, usize> = BTreeMap::new();
    for (_, snapshot) in &list {
        *left.entry(key(snapshot)).or_default() += 1;
    }
    list.into_iter()
        .filter(|(_, snapshot)| {
            let count = left.entry(key(snapshot)).or_default();
            let keep = *count <= newest;
            *count = count.saturating_sub(1);
            keep
        })
        .collect()
}
