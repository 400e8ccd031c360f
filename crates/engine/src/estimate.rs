//! An estimate: what sources would announce, without reading any of it. May use: core, repository.

use std::sync::Arc;

use backstay_core::{End, Entry, Job, Level, Source, SourceInfo};
use backstay_repository::error::Error;
use backstay_repository::index::Index;
use backstay_repository::repository::Repository;

use crate::backup::{BackupOptions, fatal, now, snapshot_paths};
use crate::job::Listening;
use crate::reference::{find_reference, start};

/// Asks the sources what they would announce, without reading any of it; `take` gets each entry. Returns whether all of
/// them reached their end, and why not.
///
/// # Errors
/// The repository's error, or a source that cannot tell, or could not start.
pub fn estimate(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    sources: &mut [Box<dyn Source>],
    job: &dyn Job,
    take: &mut dyn FnMut(&Entry),
) -> Result<End, Error> {
    let job = &Listening::new(job);
    let started = now();
    let infos: Vec<SourceInfo> = sources.iter().map(|source| source.info()).collect();
    let paths = snapshot_paths(options, &infos)?;
    let index = Arc::new(if infos.iter().all(|info| info.level == Level::Full) {
        Index::default()
    } else {
        repository.load_index()?
    });
    for (source, info) in sources.iter_mut().zip(&infos) {
        let mut reference = find_reference(repository, options, &index, &paths, info, job)?;
        let start = start(started, info, reference.as_ref());
        if let Some(reference) = &mut reference {
            while let Some(record) = reference.next_entry()? {
                source.known(&record.entry).map_err(fatal)?;
            }
        }
        if let End::Stopped(reason) = source.estimate(job, &start, take).map_err(fatal)? {
            return Ok(End::Stopped(reason));
        }
    }
    Ok(End::Whole)
}
