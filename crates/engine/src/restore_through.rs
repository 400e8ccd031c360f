//! A restore through the adapter that saved the data: the ledger is replayed, in order, into a sink.
//!
//! The sink gets one entry after the other. Meanwhile other threads load the contents of the entries to come, and a sink
//! that likes it gets small entries whole, several of them before the first is done.
//! May use: core, repository.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backstay_core::{Create, Entry, EntryError, Fatal, Job, Outcome, Settled, Sink, Tally, Verdict};
use backstay_repository::error::Error;
use backstay_repository::pack::BlobKind;
use backstay_repository::reader::{OrderedBlobs, Reader};

use crate::job::Listening;
use crate::ledger::{LedgerEntry, LedgerReader, sort_objects};

/// Bytes of contents that are loaded ahead.
const AHEAD: u64 = 32 << 20;
/// Entries that are read ahead of the one that is restored.
const ENTRIES_AHEAD: usize = 1024;
/// Blobs of one entry that are announced at a time.
const BLOBS_AHEAD: usize = 4096;

/// Entries with at most that many bytes of data are handed over whole.
const SMALL: u64 = 128 << 10;
/// Entries that were handed over and are not settled, and bytes of them, at the most.
const HANDED: usize = 64;
const HANDED_BYTES: u64 = 2 << 20;

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
    let jobs = ledger.header().jobs.clone();
    let mut objects = ledger.objects().to_vec();
    sort_objects(&mut objects);
    sink.begin(job, &jobs, objects).map_err(fatal)?;
    let mut replay = Replay { sink, observer, tally: Tally::default(), bytes: 0, handed: VecDeque::new(), waiting: 0 };
    let mut stopped = None;
    let mut coming = Coming::new(reader, ledger, wanted);
    let mut data = Vec::new();
    let broken = loop {
        let next = match coming.next() {
            Ok(Some(next)) => next,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        if job.cancelled().is_some() {
            stopped = Some("the restore was cancelled".to_owned());
            break None;
        }
        if let Err(error) = replay.entry(&mut coming, next, &mut data) {
            stopped = Some(error.0);
            break None;
        }
    };
    if let Err(error) = replay.settle(0) {
        stopped.get_or_insert(error.0);
    }
    if let Some(error) = broken {
        return Err(error);
    }
    let Replay { tally, bytes, .. } = replay;
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

/// The sink, and what became of the entries that it got.
struct Replay<'a> {
    sink: &'a mut dyn Sink,
    observer: &'a dyn ThroughObserver,
    tally: Tally,
    bytes: u64,
    /// Records of the entries that were handed over, with the bytes of each, the oldest first.
    handed: VecDeque<(LedgerEntry, u64)>,
    /// Bytes of these.
    waiting: u64,
}

impl Replay<'_> {
    /// Restores one entry, or hands it over.
    fn entry(&mut self, coming: &mut Coming<'_>, mut next: Next, data: &mut Vec<u8>) -> Result<(), Fatal> {
        self.sink.of_job(next.chapter);
        if next.record.size <= SMALL && coming.collect(&mut next, data) {
            let record = &next.record;
            if self.sink.hand_over(&record.entry, data, &record.attrs)? {
                let length = data.len() as u64;
                self.waiting += length;
                self.handed.push_back((next.record, length));
                if self.handed.len() >= HANDED || self.waiting >= HANDED_BYTES {
                    // Half of them: the sink shall not run dry.
                    self.settle(HANDED / 2)?;
                }
                return Ok(());
            }
        }
        self.settle(0)?;
        let done = one(coming, self.sink, &mut next);
        coming.pass(&next);
        let outcome = match done {
            Ok(Some(count)) => {
                self.bytes += count;
                Outcome::Saved
            }
            Ok(None) => left_out(),
            Err(error) => Outcome::Failed(error),
        };
        let end = self.sink.end(&next.record.entry);
        let outcome = match (&end, outcome) {
            (Ok(Some(error)), Outcome::Saved | Outcome::Skipped(_)) => Outcome::Failed(error.clone()),
            (_, outcome) => outcome,
        };
        self.count(&next.record, &outcome);
        end.map(|_| ())
    }

    /// Waits until at most `left` of the entries that were handed over, and half of the bytes, are not settled.
    fn settle(&mut self, left: usize) -> Result<(), Fatal> {
        while self.handed.len() > left || self.waiting > HANDED_BYTES / 2 {
            let Some((record, length)) = self.handed.pop_front() else { return Ok(()) };
            self.waiting -= length;
            let settled = self.sink.settle();
            let outcome = match &settled {
                Ok(Some(Settled::Restored)) => {
                    self.bytes += length;
                    Outcome::Saved
                }
                Ok(Some(Settled::Skipped)) => left_out(),
                Ok(Some(Settled::Failed(error))) => Outcome::Failed(error.clone()),
                Ok(None) => Outcome::Failed(EntryError::new("the sink does not know this entry any more")),
                Err(error) => Outcome::Failed(EntryError::new(error.0.clone())),
            };
            self.count(&record, &outcome);
            if let Err(error) = settled {
                // Those behind it were never begun, or nobody knows: nothing is said of them.
                (self.waiting, _) = (0, self.handed.clear());
                return Err(error);
            }
        }
        Ok(())
    }

    fn count(&mut self, record: &LedgerEntry, outcome: &Outcome) {
        self.tally.count(outcome);
        self.observer.entry(&record.entry.name, outcome, record.size);
    }
}

fn left_out() -> Outcome {
    Outcome::Skipped("left out by the plugin".to_owned())
}

/// An entry and what is known of its blobs.
struct Next {
    record: LedgerEntry,
    /// The place of its job in the ledger's list.
    chapter: usize,
    /// How many of its blobs were announced, from the first on.
    announced: usize,
    /// How many of these were taken.
    taken: usize,
    /// What was taken already.
    collected: VecDeque<Result<Arc<Vec<u8>>, Error>>,
}

/// The entries that are to be restored, and their contents.
struct Coming<'a> {
    ledger: &'a mut LedgerReader,
    wanted: &'a dyn Fn(&[u8]) -> bool,
    entries: VecDeque<Next>,
    blobs: OrderedBlobs,
    /// Bytes of `entries`.
    bytes: u64,
    ended: bool,
    /// What comes behind `entries`.
    broken: Option<Error>,
}

impl<'a> Coming<'a> {
    fn new(reader: &Reader, ledger: &'a mut LedgerReader, wanted: &'a dyn Fn(&[u8]) -> bool) -> Self {
        let blobs = OrderedBlobs::new(reader, AHEAD);
        Self { ledger, wanted, entries: VecDeque::new(), blobs, bytes: 0, ended: false, broken: None }
    }

    /// The next wanted entry.
    fn next(&mut self) -> Result<Option<Next>, Error> {
        // Not for each entry: a thread that is woken shall find something worth its while.
        if self.entries.len() <= ENTRIES_AHEAD / 2 {
            self.fill();
        }
        let Some(next) = self.entries.pop_front() else {
            return self.broken.take().map_or(Ok(None), Err);
        };
        self.bytes -= next.record.size;
        Ok(Some(next))
    }

    fn fill(&mut self) {
        while !self.ended && self.entries.len() < ENTRIES_AHEAD && self.bytes < AHEAD {
            // The rest of a long entry's blobs is announced while it is restored, before those of any other.
            if self.entries.back().is_some_and(|last| last.announced < last.record.content.len()) {
                return;
            }
            match self.ledger.next_entry() {
                Ok(Some(record)) if (self.wanted)(&record.entry.name) => {
                    let announced = record.content.len().min(BLOBS_AHEAD);
                    self.blobs.announce(BlobKind::Data, &record.content[..announced]);
                    self.bytes += record.size;
                    let chapter = self.ledger.chapter();
                    self.entries.push_back(Next { record, chapter, announced, taken: 0, collected: VecDeque::new() });
                }
                Ok(Some(_)) => {}
                Ok(None) => self.ended = true,
                Err(error) => (self.ended, self.broken) = (true, Some(error)),
            }
        }
    }

    /// The next blob of `next`; none at its end.
    fn blob(&mut self, next: &mut Next) -> Option<Result<Arc<Vec<u8>>, Error>> {
        if let Some(blob) = next.collected.pop_front() {
            return Some(blob);
        }
        let content = &next.record.content;
        if next.announced < content.len() && next.announced - next.taken <= BLOBS_AHEAD / 2 {
            let more = content.len().min(next.taken + BLOBS_AHEAD);
            self.blobs.announce(BlobKind::Data, &content[next.announced..more]);
            next.announced = more;
        }
        if next.taken == content.len() {
            return None;
        }
        next.taken += 1;
        self.blobs.take()
    }

    /// Puts all contents of `next` into `data`. False: some of them cannot be read, and all wait to be taken again.
    fn collect(&mut self, next: &mut Next, data: &mut Vec<u8>) -> bool {
        data.clear();
        let mut blobs = VecDeque::new();
        while let Some(blob) = self.blob(next) {
            if let Ok(blob) = &blob {
                data.extend_from_slice(blob);
            }
            blobs.push_back(blob);
        }
        let whole = blobs.iter().all(Result::is_ok);
        next.collected = blobs;
        whole
    }

    /// Passes over what was announced for `next` and not taken.
    fn pass(&mut self, next: &Next) {
        self.blobs.skip(next.announced - next.taken);
    }
}

/// Restores one entry; none if the sink left it out.
fn one(coming: &mut Coming<'_>, sink: &mut dyn Sink, next: &mut Next) -> Result<Option<u64>, EntryError> {
    let written = match sink.create(&next.record.entry)? {
        Create::Skip => return Ok(None),
        Create::Made => 0,
        Create::Bytes => {
            let written = each_blob(coming, next, &mut |blob| sink.write(blob));
            closed(sink, &next.record.entry, written)?
        }
        Create::Fd(fd) => {
            let written = write_to(coming, next, fd);
            closed(sink, &next.record.entry, written)?
        }
    };
    for attr in &next.record.attrs {
        sink.attr(&next.record.entry, attr)?;
    }
    Ok(Some(written))
}

fn closed(sink: &mut dyn Sink, entry: &Entry, written: Result<u64, EntryError>) -> Result<u64, EntryError> {
    let closed = sink.close(entry, written.is_ok());
    let count = written?;
    closed.map(|()| count)
}

fn write_to(coming: &mut Coming<'_>, next: &mut Next, fd: OwnedFd) -> Result<u64, EntryError> {
    let mut file = File::from(fd);
    let name = String::from_utf8_lossy(&next.record.entry.name).into_owned();
    each_blob(coming, next, &mut |blob| {
        file.write_all(blob).map_err(|error| EntryError::io(format_args!("write {name}"), &error))
    })
}

fn each_blob(
    coming: &mut Coming<'_>,
    next: &mut Next,
    take: &mut dyn FnMut(&[u8]) -> Result<(), EntryError>,
) -> Result<u64, EntryError> {
    let mut bytes = 0;
    while let Some(blob) = coming.blob(next) {
        let blob = blob.map_err(|error| {
            let name = String::from_utf8_lossy(&next.record.entry.name);
            EntryError::new(format!("read the contents of {name}: {error}"))
        })?;
        take(&blob)?;
        bytes += blob.len() as u64;
    }
    Ok(bytes)
}
