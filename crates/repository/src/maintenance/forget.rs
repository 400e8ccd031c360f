//! Forget: which snapshots stay by restic's rules, and the deletion of the others.
//!
//! The rules are restic's to the letter (its `snapshot_policy.go`): the newest come first; each rule keeps the first of every
//! hour, day, ISO week, month or year that it meets, in the time zone that the snapshot's own time is written in, until its
//! count is used up; the oldest snapshot fills a count that is left.
//!
//! A partial snapshot is no backup that a rule may count on, so no rule counts it and it uses up no rule. It stays for as long
//! as its group has no newer whole snapshot; then it goes, unless `tags` or `within` keep it.
//!
//! A snapshot that rustic's key `delete` protects stays, by a rule or named, and uses up no rule either
//! ([`Snapshot::protection`]).

mod policy;

use std::sync::Arc;

use backstay_core::{Id, ObjectKind};

use super::MaintenanceProgress;
use crate::error::Error;
use crate::reader::Result;
use crate::repository::Repository;
use crate::snapshot::{PARTIAL_TAG, Snapshot, SnapshotFilter, now};

pub use policy::{Counters, KeepCount, KeepReason, KeepWithin, Policy};

/// What a group has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The set of paths.
    pub paths: bool,
    /// The set of tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl std::str::FromStr for GroupBy {
    type Err = Error;

    /// Reads words with commas between them: `host`, `paths`, `tags`; no word: everything is one group.
    fn from_str(text: &str) -> Result<Self> {
        let mut by = Self { host: false, paths: false, tags: false };
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word {
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                _ => {
                    return Err(Error::Other(format!(
                        "snapshots cannot be grouped by {word:?}: host, paths and tags are known"
                    )));
                }
            }
        }
        Ok(by)
    }
}

/// What is forgotten.
#[derive(Clone, Debug, Default)]
pub struct ForgetOptions {
    /// These, whatever the policy: ids, beginnings of ids, `latest`.
    pub snapshots: Vec<String>,
    /// Which snapshots the policy looks at.
    pub filter: SnapshotFilter,
    /// What stays of them.
    pub policy: Policy,
    /// What makes snapshots a group, of which each is looked at for itself.
    pub group_by: GroupBy,
    /// Choose only; nothing is deleted.
    pub dry_run: bool,
    /// A policy that keeps nothing is meant so. It needs a filter.
    pub allow_remove_all: bool,
}

/// Snapshots that are looked at together, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForgetGroup {
    /// Their host, if they were grouped by it.
    pub host: Option<String>,
    /// Their paths in order, if they were grouped by them.
    pub paths: Option<Vec<String>>,
    /// Their tags in order, if they were grouped by them.
    pub tags: Option<Vec<String>>,
    /// Those that stay, the newest first.
    pub keep: Vec<(Id, Snapshot)>,
    /// Those that go, the newest first.
    pub remove: Vec<(Id, Snapshot)>,
    /// Why those stay that stay.
    pub reasons: Vec<KeepReason>,
}

/// What was chosen and done.
#[derive(Clone, Debug, Default)]
pub struct ForgetReport {
    /// The groups that a policy was applied to.
    pub groups: Vec<ForgetGroup>,
    /// Snapshots that were to go: by the policy, or because they were named.
    pub chosen: Vec<Id>,
    /// Those of them that are gone now; none in a dry run.
    pub removed: Vec<Id>,
    /// Those that are still there, and why; with them what was named and is protected.
    pub failed: Vec<(Id, Error)>,
    /// Snapshots that cannot be read: no policy touches them.
    pub damaged: Vec<Error>,
}

/// Chooses snapshots and deletes them. The caller holds the exclusive lock (for a dry run any).
///
/// # Errors
/// No policy, one that would leave nothing of a group, or snapshots that do not exist: nothing was deleted then.
/// [`Error::Store`] when the store cannot list or read. What could not be deleted is in the report.
pub fn forget(
    repository: &Arc<Repository>,
    options: &ForgetOptions,
    progress: &dyn MaintenanceProgress,
) -> Result<ForgetReport> {
    let mut report = ForgetReport::default();
    if options.snapshots.is_empty() {
        if options.policy.is_empty() {
            if !options.allow_remove_all {
                return Err(Error::Other(
                    "nothing says what to keep, so nothing is forgotten: give --keep-... rules or snapshots".to_owned(),
                ));
            }
            if options.filter == SnapshotFilter::default() {
                return Err(Error::Other(
                    "--unsafe-allow-remove-all needs --host, --tag or --path: it is not meant to empty a whole repository"
                        .to_owned(),
                ));
            }
        }
        let found = repository.readable_snapshots()?;
        report.damaged = found.damaged;
        let meant = found.snapshots.into_iter().filter(|(_, snapshot)| options.filter.matches(snapshot)).collect();
        report.groups = groups(meant, options)?;
        report.chosen = report.groups.iter().flat_map(|group| group.remove.iter().map(|(id, _)| *id)).collect();
    } else {
        for name in &options.snapshots {
            let (id, snapshot) = find(repository, name, &options.filter)?;
            if report.chosen.contains(&id) || report.failed.iter().any(|(failed, _)| *failed == id) {
                continue;
            }
            match snapshot.and_then(|snapshot| protected(&id, &snapshot)) {
                Some(error) => report.failed.push((id, error)),
                None => report.chosen.push(id),
            }
        }
    }
    if !options.dry_run {
        remove(repository, &mut report, progress)?;
    }
    Ok(report)
}

/// The snapshot that is meant: one that is named by its id need not be readable.
fn find(repository: &Repository, name: &str, filter: &SnapshotFilter) -> Result<(Id, Option<Snapshot>)> {
    match repository.snapshot(name, filter) {
        Ok((id, snapshot)) => Ok((id, Some(snapshot))),
        Err(Error::Damaged { id, .. }) if id.starts_with(&name.to_ascii_lowercase()) => {
            let id = id.parse().map_err(|_| Error::NoSnapshot(format!("\"{name}\" is no snapshot")))?;
            Ok((id, None))
        }
        Err(error) => Err(error),
    }
}

/// Why this snapshot must not be deleted now; none: it may.
pub(crate) fn protected(id: &Id, snapshot: &Snapshot) -> Option<Error> {
    snapshot
        .protection(now())
        .map(|why| Error::Other(format!("snapshot {} is {why}: \"rustic tag --remove-delete\" lifts that", id.short())))
}

/// Applies the policy to each group.
///
/// # Errors
/// When the policy would leave nothing of a group.
pub fn groups(snapshots: Vec<(Id, Snapshot)>, options: &ForgetOptions) -> Result<Vec<ForgetGroup>> {
    type Key = (Option<String>, Option<Vec<String>>, Option<Vec<String>>);
    let by = options.group_by;
    let sorted = |list: &[String]| {
        let mut list: Vec<String> = list.iter().filter(|tag| *tag != PARTIAL_TAG).cloned().collect();
        list.sort();
        list
    };
    let mut groups: std::collections::BTreeMap<Key, Vec<(Id, Snapshot)>> = std::collections::BTreeMap::new();
    for (id, snapshot) in snapshots {
        let key = (
            by.host.then(|| snapshot.hostname.clone()),
            by.paths.then(|| sorted(&snapshot.paths)),
            by.tags.then(|| sorted(&snapshot.tags)),
        );
        groups.entry(key).or_default().push((id, snapshot));
    }
    groups
        .into_iter()
        .map(|((host, paths, tags), list)| {
            let (keep, remove, reasons) = options.policy.apply(list);
            if keep.is_empty() && !options.policy.is_empty() {
                let named =
                    [host.clone(), paths.as_ref().map(|paths| paths.join(", ")), tags.map(|tags| tags.join(", "))];
                let named: Vec<String> = named.into_iter().flatten().filter(|part| !part.is_empty()).collect();
                return Err(Error::Other(format!(
                    "the policy would leave no snapshot of {}: nothing is forgotten. Name the snapshots if you mean it",
                    if named.is_empty() { "the repository".to_owned() } else { format!("\"{}\"", named.join(" ")) }
                )));
            }
            Ok(ForgetGroup { host, paths, tags, keep, remove, reasons })
        })
        .collect()
}

/// Deletes what was chosen. One that cannot be deleted keeps no other from going.
fn remove(repository: &Repository, report: &mut ForgetReport, progress: &dyn MaintenanceProgress) -> Result<()> {
    if report.chosen.is_empty() {
        return Ok(());
    }
    progress.stage("snapshots to forget", report.chosen.len() as u64);
    let store = repository.store();
    let Err(first) = store.delete_all(ObjectKind::Snapshot, &report.chosen) else {
        progress.advanced(report.chosen.len() as u64);
        report.removed = report.chosen.clone();
        return Ok(());
    };
    // Which ones are left, and why?
    let Ok(left) = repository.snapshot_ids() else { return Err(first.into()) };
    for id in &report.chosen {
        let result = if left.contains(id) { store.delete(ObjectKind::Snapshot, id) } else { Ok(()) };
        match result {
            Ok(()) => {
                report.removed.push(*id);
                progress.advanced(1);
            }
            Err(error) => report.failed.push((*id, error.into())),
        }
    }
    Ok(())
}
