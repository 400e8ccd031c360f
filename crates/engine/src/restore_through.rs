//! A restore through the adapter that saved the data: the ledger is replayed, in order, into a sink.
//! May use: core, repository.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backstay_core::{Create, Entry, EntryError, Fatal, Id, Job, Outcome, Sink, Tally, Verdict};
use backstay_repository::error::Error;
use backstay_repository::pack::BlobKind;
use backstay_repository::reader::Reader;

use crate::job::Listening;
use crate::ledger::{LedgerEntry, LedgerReader};

/// What a restore through an adapter came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThroughReport {
    /// How many entries ended how; `saved` are the restored ones.
    pub tally: Tally,
    /// Bytes handed to the sink.
    pub bytes: u64,
    /// Whether everything that was asked for was restored.
    pub verdict: Verdict,
}

/// Who is told about each entry of such a restore.
pub trait ThroughObserver {
    /// The entry ended. `Outcome::Saved` means restored.
    fn entry(&self, name: &[u8], outcome: &Outcome, size: u64);
}

/// Replays the ledger of `source` in the snapshot whose root tree is `root` into `sink`. `wanted` is asked for every
/// name; what it refuses is left out.
///
/// # Errors
/// The ledger cannot be read, or the sink could not begin or gave up ([`Fatal`]); then nothing claims to be whole.
pub fn restore_through(
    reader: &Arc<Reader>,
    ledger: &mut LedgerReader,
    sink: &mut dyn Sink,
    wanted: &dyn Fn(&[u8]) -> bool,
    job: &dyn Job,
    observer: &dyn ThroughObserver,
) -> Result<ThroughReport, Error> {
    let job = &Listening::new(job);
    let fatal = |error: Fatal| Error::Other(error.0);
    sink.begin(job).map_err(fatal)?;
    let mut tally = Tally::default();
    let mut bytes = 0;
    let mut stopped = None;
    while let Some(record) = ledger.next_entry()? {
        if job.cancelled().is_some() {
            stopped = Some("the restore was cancelled".to_owned());
            break;
        }
        if !wanted(&record.entry.name) {
            continue;
        }
        let mut outcome = match one(reader, sink, &record) {
            Ok(Some(count)) => {
                bytes += count;
                Outcome::Saved
            }
            Ok(None) => Outcome::Skipped("left out by the plugin".to_owned()),
            Err(error) => Outcome::Failed(error),
        };
        let end = sink.end(&record.entry);
        if let (Ok(Some(error)), Outcome::Saved | Outcome::Skipped(_)) = (&end, &outcome) {
            outcome = Outcome::Failed(error.clone());
        }
        tally.count(&outcome);
        observer.entry(&record.entry.name, &outcome, record.size);
        if let Err(error) = end {
            stopped = Some(error.0);
            break;
        }
    }
    let mut verdict = match stopped {
        Some(reason) => Verdict::Partial(reason),
        None if tally.failed > 0 || job.errors() > 0 => Verdict::WithErrors,
        None => Verdict::Complete,
    };
    if let (Err(error), Verdict::Complete | Verdict::WithErrors) = (sink.finish(&verdict), &verdict) {
        verdict = Verdict::Partial(error.0);
    }
    Ok(ThroughReport { tally, bytes, verdict })
}

/// Restores one entry; none if the sink left it out.
fn one(reader: &Reader, sink: &mut dyn Sink, record: &LedgerEntry) -> Result<Option<u64>, EntryError> {
    let entry = &record.entry;
    let written = match sink.create(entry)? {
        Create::Skip => return Ok(None),
        Create::Made => 0,
        Create::Bytes => {
            let written = each_blob(reader, entry, &record.content, &mut |blob| sink.write(blob));
            closed(sink, entry, written)?
        }
        Create::Fd(fd) => {
            let written = write_to(reader, entry, &record.content, fd);
            closed(sink, entry, written)?
        }
    };
    for attr in &record.attrs {
        sink.attr(entry, attr)?;
    }
    Ok(Some(written))
}

fn closed(sink: &mut dyn Sink, entry: &Entry, written: Result<u64, EntryError>) -> Result<u64, EntryError> {
    let closed = sink.close(entry, written.is_ok());
    let count = written?;
    closed.map(|()| count)
}

fn write_to(reader: &Reader, entry: &Entry, content: &[Id], fd: OwnedFd) -> Result<u64, EntryError> {
    let mut file = File::from(fd);
    each_blob(reader, entry, content, &mut |blob| {
        let name = String::from_utf8_lossy(&entry.name);
        file.write_all(blob).map_err(|error| EntryError::io(format_args!("write {name}"), &error))
    })
}

fn each_blob(
    reader: &Reader,
    entry: &Entry,
    content: &[Id],
    take: &mut dyn FnMut(&[u8]) -> Result<(), EntryError>,
) -> Result<u64, EntryError> {
    let mut bytes = 0;
    for id in content {
        let blob = reader.blob(BlobKind::Data, id).map_err(|error| {
            EntryError::new(format!("read the contents of {}: {error}", String::from_utf8_lossy(&entry.name)))
        })?;
        take(&blob)?;
        bytes += blob.len() as u64;
    }
    Ok(bytes)
}
