//! The job that an incremental or differential one builds on, and the chain of jobs that comes of it.
//! May use: core, repository.

use std::sync::Arc;

use backstay_core::{Job, Level, MessageLevel, SavedJob, SourceInfo, Start, Time};
use backstay_repository::error::Error;
use backstay_repository::index::Index;
use backstay_repository::reader::Reader;
use backstay_repository::repository::Repository;
use backstay_repository::snapshot::{Snapshot, SnapshotFilter};

use crate::backup::{BackupOptions, ParentChoice};
use crate::ledger::{LedgerReader, sort_objects};

/// The ledger of the job that a source of a level other than full builds on: the newest whole snapshot of this host with
/// the same paths in which the same source ran with the same definitions under the same job name; for a differential
/// one at level full. A snapshot that was named counts as it is.
pub(crate) fn find_reference(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    index: &Arc<Index>,
    paths: &[String],
    info: &SourceInfo,
    job: &dyn Job,
) -> Result<Option<LedgerReader>, Error> {
    if info.level == Level::Full || info.adapter.is_none() {
        return Ok(None);
    }
    let reader = Arc::new(Reader::new(Arc::clone(repository), Arc::clone(index)));
    let fits = |found: &SavedJob| info.level != Level::Differential || found.level == Level::Full;
    if let ParentChoice::Named(name) = &options.parent {
        let (id, snapshot) = repository.snapshot(name, &SnapshotFilter::default())?;
        let ledger = LedgerReader::find(&reader, &snapshot.tree, &info.name)?;
        return match ledger {
            Some(ledger) if ledger.header().job().is_some_and(fits) => Ok(Some(ledger)),
            _ => Err(Error::Other(format!(
                "snapshot {} holds no job of {} that a {} one could build on",
                id.short(),
                info.path,
                if info.level == Level::Differential { "differential" } else { "incremental" }
            ))),
        };
    }
    if options.parent == ParentChoice::Newest {
        for (id, snapshot) in repository.readable_snapshots()?.snapshots.into_iter().rev() {
            if !is_of(&snapshot, options, paths) {
                continue;
            }
            match LedgerReader::find(&reader, &snapshot.tree, &info.name) {
                Ok(Some(ledger)) => {
                    let same = |found: &SavedJob| found.name == info.job_name && found.definitions == info.definitions;
                    if ledger.header().job().is_some_and(|found| same(found) && fits(found)) {
                        return Ok(Some(ledger));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    let text = format!("snapshot {} cannot be built on: {error}", id.short());
                    job.message(MessageLevel::Warning, "repository", &text);
                }
            }
        }
    }
    let text = format!("{}: no prior or suitable full backup is found: this one is a full backup", info.path);
    job.message(MessageLevel::Warning, "job", &text);
    Ok(None)
}

/// What a source is told.
pub(crate) fn start(time: Time, info: &SourceInfo, reference: Option<&LedgerReader>) -> Start {
    let Some(ledger) = reference else {
        return Start { time, level: Level::Full, reference: None, objects: Vec::new() };
    };
    let found = ledger.header().job().cloned();
    let id = found.as_ref().map_or(0, |found| found.id);
    let mut objects: Vec<_> = ledger.objects().iter().filter(|object| object.job_id == id).cloned().collect();
    sort_objects(&mut objects);
    Start { time, level: info.level, reference: found, objects }
}

/// The jobs whose entries the new ledger will hold.
pub(crate) fn chain(reference: Option<&LedgerReader>, start: &Start, info: &SourceInfo, id: u32) -> Vec<SavedJob> {
    let mut jobs = reference.map(|ledger| ledger.header().jobs.clone()).unwrap_or_default();
    jobs.push(SavedJob {
        id,
        name: info.job_name.clone(),
        level: start.level,
        started: start.time,
        definitions: info.definitions.clone(),
    });
    jobs
}

/// Whether a snapshot is an earlier one of the same host and paths, and whole.
pub(crate) fn is_of(snapshot: &Snapshot, options: &BackupOptions, paths: &[String]) -> bool {
    let sorted = |paths: &[String]| {
        let mut paths = paths.to_vec();
        paths.sort();
        paths
    };
    snapshot.hostname == options.host
        && sorted(&snapshot.paths) == sorted(paths)
        && snapshot.time <= options.time
        && !snapshot.is_partial()
}
