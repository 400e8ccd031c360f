//! What one source writes into: contents go to the writer, entries to the ledger and to the view.
//!
//! Entries end in the order in which they were announced, but their chunks are computed meanwhile by the writer's threads:
//! finished entries wait in a short queue. The view holds whatever fits a tree of files; the contents of the rest are
//! named once more beside the ledger, so that nothing a ledger names can be pruned. May use: core, repository.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use backstay_core::{
    Attr, CancelReason, Data, DataError, Declined, Entry, EntryError, Fatal, FileKind, Id, Ingest, Job, MessageLevel,
    Offer, Outcome, SideObject, Source, Stop, Tally, Want,
};
use backstay_repository::assemble::Assembler;
use backstay_repository::error::Error;
use backstay_repository::pack::BlobKind;
use backstay_repository::stream::{Content, ContentWriter, PendingContent};
use backstay_repository::tree::Node;
use backstay_repository::writer::Writer;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::filesystem::{Names, stat_path};
use crate::ledger::{LedgerEntry, LedgerReader, LedgerWriter};
use crate::offers::Offers;
use crate::tree::{Change, Observer, Taken};

/// Entries whose chunks may still be on their way.
const MOST_PENDING: usize = 512;
/// Entries missing in the view that are told one by one.
const MOST_HIDDEN_TOLD: u64 = 20;
/// How long a silent descriptor is waited for before the job is asked whether it was cancelled.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// One source's way into the snapshot.
pub(crate) struct SourceIngest<'a> {
    writer: &'a Arc<Writer>,
    /// Shared with the walk and with other sources; only one at a time adds to it.
    assembler: &'a Mutex<Assembler>,
    job: &'a dyn Job,
    observer: &'a dyn Observer,
    names: Names,
    ledger: Option<LedgerWriter>,
    /// Files that the walk offers, where the source wants some.
    offers: Option<OfferedFiles<'a>>,
    open: Option<Open>,
    pending: VecDeque<Pending>,
    /// Contents of files with several names, by the name that carries them.
    linked: HashMap<Vec<u8>, Content>,
    /// Directories that have a node in the view, or need none.
    directories: HashSet<Vec<u8>>,
    /// The directory whose parents were last seen to.
    parent: Vec<u8>,
    /// Blobs that no node of the view holds.
    unseen: Vec<Id>,
    /// Entries that the ledger has and the view has not.
    hidden: u64,
    tally: Tally,
    files_saved: u64,
    directories_saved: u64,
    bytes: u64,
    error: Option<Error>,
}

/// What a source does about files of the walk.
struct OfferedFiles<'a> {
    offers: Offers,
    /// The roots of the walk, absolute.
    roots: &'a [Vec<u8>],
    /// The name of the file that is offered now, as the view has it.
    name: Vec<u8>,
    /// What earlier jobs left below these roots, by its name in the view.
    earlier: HashMap<Vec<u8>, (Content, Xattrs)>,
    /// Where this source was in the assembler when it began to wait for the walk.
    generation: u32,
}

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

struct Open {
    entry: Entry,
    content: Option<ContentWriter>,
    attrs: Vec<Attr>,
}

struct Pending {
    entry: Entry,
    attrs: Vec<Attr>,
    content: Option<PendingContent>,
}

/// What one source left behind.
pub(crate) struct SourceResult {
    pub(crate) tally: Tally,
    /// Regular files that were saved.
    pub(crate) files: u64,
    /// Directories that were saved.
    pub(crate) directories: u64,
    pub(crate) bytes: u64,
    pub(crate) ledger: Option<Content>,
    pub(crate) unseen: Vec<Id>,
}

impl<'a> SourceIngest<'a> {
    pub(crate) fn new(
        writer: &'a Arc<Writer>,
        assembler: &'a Mutex<Assembler>,
        job: &'a dyn Job,
        observer: &'a dyn Observer,
        ledger: Option<LedgerWriter>,
    ) -> Self {
        Self {
            writer,
            assembler,
            job,
            observer,
            names: Names::default(),
            ledger,
            offers: None,
            open: None,
            pending: VecDeque::new(),
            linked: HashMap::new(),
            directories: HashSet::new(),
            parent: Vec::new(),
            unseen: Vec::new(),
            hidden: 0,
            tally: Tally::default(),
            files_saved: 0,
            directories_saved: 0,
            bytes: 0,
            error: None,
        }
    }

    /// The same for a source that is offered files of the walk below `roots` first.
    pub(crate) fn offered(self, offers: Offers, roots: &'a [Vec<u8>]) -> Self {
        let generation = self.assembler.lock().generation();
        let offers = OfferedFiles { offers, roots, name: Vec::new(), earlier: HashMap::new(), generation };
        Self { offers: Some(offers), ..self }
    }

    /// Takes over what an earlier job's ledger holds, as far as it was not deleted since, and tells the source of it.
    pub(crate) fn carry(&mut self, from: &mut LedgerReader, source: &mut dyn Source) -> Result<(), Error> {
        let mut chapter = 0;
        while let Some(record) = from.next_entry()? {
            self.check().map_err(|stop| Error::Other(stop.0))?;
            while chapter < from.chapter() {
                chapter += 1;
                self.next_chapter(chapter)?;
            }
            let LedgerEntry { entry, attrs, content, size } = record;
            if !content.iter().all(|id| self.writer.knows(BlobKind::Data, id)) {
                let name = String::from_utf8_lossy(&entry.name);
                let text = format!("{name} as an earlier job saved it is lost: the repository misses contents of it");
                self.job.message(MessageLevel::Error, "ledger", &text);
                continue;
            }
            source.known(&entry).map_err(|Fatal(reason)| Error::Other(reason))?;
            let content = Content { ids: content, size };
            if self.is_walked(&entry.name) {
                self.keep_earlier(&entry, &attrs, &content);
            } else {
                self.view(&entry, &attrs, &content)?;
            }
            if let Some(ledger) = &mut self.ledger {
                ledger.entry(LedgerEntry { entry, attrs, content: content.ids, size })?;
            }
        }
        if let Some(ledger) = &mut self.ledger {
            from.objects().iter().for_each(|object| ledger.object(object.clone()));
        }
        self.next_chapter(from.header().jobs.len())
    }

    /// Whether the walk finds the entry, and makes its node in the view.
    fn is_walked(&self, name: &[u8]) -> bool {
        self.offers.as_ref().is_some_and(|offered| {
            offered.roots.iter().any(|root| {
                name.strip_prefix(root.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            })
        })
    }

    /// Remembers an earlier job's entry for the case that the walk finds it unchanged.
    fn keep_earlier(&mut self, entry: &Entry, attrs: &[Attr], content: &Content) {
        self.unseen.extend_from_slice(&content.ids);
        let content = self.linked(entry, content);
        if let (Some(offered), Some(path), Some(content)) = (&mut self.offers, view_path(&entry.name), content) {
            offered.earlier.insert(path, (content, view_xattrs(attrs)));
        }
    }

    fn next_chapter(&mut self, number: usize) -> Result<(), Error> {
        let mut assembler = self.assembler.lock();
        assembler.next_generation();
        if let Some(offered) = &mut self.offers {
            offered.generation = assembler.generation();
        }
        drop(assembler);
        self.linked.clear();
        self.ledger.as_mut().map_or(Ok(()), |ledger| ledger.chapter(number))
    }

    /// Waits for the last chunks and ends the ledger.
    pub(crate) fn finish(mut self) -> Result<SourceResult, Error> {
        self.close_open_as_lost();
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.settle_all()?;
        if self.hidden > MOST_HIDDEN_TOLD {
            let text = format!("{} entries in all come back through their plugin only", self.hidden);
            self.job.message(MessageLevel::Warning, "view", &text);
        }
        let ledger = self.ledger.take().map(LedgerWriter::finish).transpose()?;
        Ok(SourceResult {
            tally: self.tally,
            files: self.files_saved,
            directories: self.directories_saved,
            bytes: self.bytes,
            ledger,
            unseen: self.unseen,
        })
    }

    fn stopped(&mut self, error: Error) -> Stop {
        let stop = Stop(error.to_string());
        self.error.get_or_insert(error);
        stop
    }

    fn check(&mut self) -> Result<(), Stop> {
        if let Some(error) = &self.error {
            return Err(Stop(error.to_string()));
        }
        self.job.cancelled().map_or(Ok(()), |reason| Err(Stop(cancelled(&reason))))
    }

    fn count(&mut self, entry: &Entry, outcome: &Outcome, size: u64) {
        self.tally.count(outcome);
        match entry.kind {
            FileKind::File if *outcome == Outcome::Saved => self.files_saved += 1,
            FileKind::Directory if *outcome == Outcome::Saved => self.directories_saved += 1,
            _ => {}
        }
        self.observer.entry(&entry.name, outcome, entry.kind, size, Change::New);
    }

    fn close_open_as_lost(&mut self) {
        if let Some(open) = self.open.take() {
            match &mut self.offers {
                // The walk counts it as failed.
                Some(offered) if offered.offers.is_open() => offered.offers.drop_open(),
                _ => self.count(&open.entry, &Outcome::Lost, 0),
            }
        }
    }

    fn offer_is_open(&self) -> bool {
        self.offers.as_ref().is_some_and(|offered| offered.offers.is_open())
    }

    fn answer(&mut self, taken: Taken) {
        if let Some(offered) = &mut self.offers {
            offered.offers.answer(taken);
        }
    }

    /// An entry that was announced for an offered file: into the ledger at once, since the walk waits for its contents.
    fn take_over(&mut self, entry: Entry, content: Option<PendingContent>, attrs: Vec<Attr>) -> Result<Taken, Error> {
        let content = content.map(PendingContent::wait).transpose()?.unwrap_or_default();
        self.unseen.extend_from_slice(&content.ids);
        let Some(seen) = self.linked(&entry, &content) else {
            let name = String::from_utf8_lossy(&entry.name);
            let text = format!("{name}: the file that it is another name of was not saved");
            return Ok(Taken::Failed(EntryError::new(text)));
        };
        let taken = Taken::Kept { content: seen, xattrs: view_xattrs(&attrs), outcome: Outcome::Saved };
        if let Some(ledger) = &mut self.ledger {
            ledger.entry(LedgerEntry { entry, attrs, content: content.ids, size: content.size })?;
        }
        Ok(taken)
    }

    /// The contents that an entry shows, which for a further name of a file are those of the first; none if they are not
    /// known.
    fn linked(&mut self, entry: &Entry, content: &Content) -> Option<Content> {
        if entry.hard_link {
            return self.linked.get(entry.link.as_slice()).cloned();
        }
        if entry.stat.links > 1 && entry.kind == FileKind::File {
            self.linked.insert(entry.name.clone(), content.clone());
        }
        Some(content.clone())
    }

    fn settle_all(&mut self) -> Result<(), Error> {
        while let Some(pending) = self.pending.pop_front() {
            self.settle(pending)?;
        }
        Ok(())
    }

    /// Gives a finished entry its place in the ledger and in the view.
    fn settle(&mut self, pending: Pending) -> Result<(), Error> {
        let Pending { entry, attrs, content } = pending;
        let content = content.map(PendingContent::wait).transpose()?.unwrap_or_default();
        self.view(&entry, &attrs, &content)?;
        if let Some(ledger) = &mut self.ledger {
            ledger.entry(LedgerEntry { entry, attrs, content: content.ids, size: content.size })?;
        }
        Ok(())
    }

    fn view(&mut self, entry: &Entry, attrs: &[Attr], content: &Content) -> Result<(), Error> {
        let path = view_path(&entry.name);
        let Some(Content { ids, size }) = self.linked(entry, content) else {
            self.hide(entry, content, "the file that it is another name of was not announced with several links");
            return Ok(());
        };
        let Some(path) = path else {
            self.hide(entry, content, "no file system could hold this name");
            return Ok(());
        };
        if entry.name.starts_with(b"/") {
            self.parents(&path)?;
        }
        if entry.kind == FileKind::Directory {
            self.directories.insert(path.clone());
        }
        if entry.kind != FileKind::File {
            self.unseen.extend_from_slice(&content.ids);
        }
        let node = self.node(entry, attrs, ids, size);
        self.assembler.lock().add(&path, node)
    }

    /// An entry that only a restore through its plugin brings back: said, and its contents kept.
    fn hide(&mut self, entry: &Entry, content: &Content, reason: &str) {
        self.unseen.extend_from_slice(&content.ids);
        self.hidden += 1;
        if self.hidden <= MOST_HIDDEN_TOLD {
            let name = String::from_utf8_lossy(&entry.name);
            let text = format!("{name} comes back through its plugin only ({reason}); a plain restore leaves it out");
            self.job.message(MessageLevel::Warning, "view", &text);
        }
    }

    /// Folders above an announced name look as they do on this host, so that a restore to `/` changes none of them.
    fn parents(&mut self, path: &[u8]) -> Result<(), Error> {
        let Some(end) = path.iter().rposition(|byte| *byte == b'/') else { return Ok(()) };
        if path[..end] == self.parent {
            return Ok(());
        }
        self.parent.clear();
        self.parent.extend_from_slice(&path[..end]);
        for at in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
            let parent = &path[..at];
            if self.directories.contains(parent) {
                continue;
            }
            self.directories.insert(parent.to_vec());
            let absolute = [b"/", parent].concat();
            let Ok(found) = stat_path(&absolute) else { continue };
            if found.kind() == Some(FileKind::Directory) {
                let entry = Entry {
                    name: absolute,
                    kind: FileKind::Directory,
                    link: Vec::new(),
                    hard_link: false,
                    stat: found.stat,
                    native: Vec::new(),
                };
                let node = self.node(&entry, &[], Vec::new(), 0);
                self.assembler.lock().add(parent, node)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, entry: &Entry, attrs: &[Attr], ids: Vec<Id>, size: u64) -> Node {
        let stat = &entry.stat;
        let mut node = Node::new(entry.kind);
        node.mode = Node::go_mode_from_unix(stat.mode & 0o7777 | entry.kind.type_bits());
        node.mtime = stat.mtime;
        node.atime = stat.mtime;
        node.ctime = stat.ctime;
        node.uid = stat.uid;
        node.gid = stat.gid;
        node.user = self.names.user(stat.uid).to_owned();
        node.group = self.names.group(stat.gid).to_owned();
        node.inode = stat.inode;
        node.device_id = stat.device_id;
        match entry.kind {
            FileKind::File => {
                node.size = size;
                node.links = stat.links;
                node.content = Some(ids);
            }
            FileKind::Symlink => {
                node.links = stat.links;
                node.link_target.clone_from(&entry.link);
            }
            FileKind::BlockDevice | FileKind::CharDevice => {
                node.links = stat.links;
                node.device = stat.rdev;
            }
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => {}
        }
        node.xattrs = view_xattrs(attrs);
        node
    }
}

impl Ingest for SourceIngest<'_> {
    fn offered(&mut self) -> Result<Option<Offer>, Stop> {
        self.check()?;
        let Some(offered) = &mut self.offers else { return Ok(None) };
        let offer = offered.offers.next(self.job)?;
        match &offer {
            Some(offer) => offered.name = view_path(&offer.entry.name).unwrap_or_default(),
            // The walk and other sources have added to it meanwhile.
            None => self.assembler.lock().resume(offered.generation),
        }
        Ok(offer)
    }

    fn decline(&mut self, answer: Declined) {
        let Some(offered) = &mut self.offers else { return };
        let taken = match answer {
            Declined::Passed => Taken::Passed,
            Declined::Skipped(rule) => Taken::Skipped(rule),
            Declined::Failed(error) => Taken::Failed(error),
            Declined::Unchanged => match offered.earlier.get(&offered.name) {
                Some((content, xattrs)) => {
                    Taken::Kept { content: content.clone(), xattrs: xattrs.clone(), outcome: Outcome::Unchanged }
                }
                None => Taken::Failed(EntryError::new(format!(
                    "/{}: it is called unchanged, and no earlier job has it",
                    String::from_utf8_lossy(&offered.name)
                ))),
            },
        };
        offered.offers.answer(taken);
    }

    fn entry(&mut self, entry: Entry) -> Result<Want, Stop> {
        self.close_open_as_lost();
        self.check()?;
        self.observer.current(&entry.name);
        self.open = Some(Open { entry, content: None, attrs: Vec::new() });
        Ok(Want::Data)
    }

    fn data(&mut self, data: Data<'_>) -> Result<u64, DataError> {
        self.check().map_err(DataError::Stop)?;
        let is_offered = self.offer_is_open();
        let Some(open) = &mut self.open else {
            return Err(DataError::Stop(Stop("the source sent data without an entry".to_owned())));
        };
        let content = open.content.get_or_insert_with(|| self.writer.content());
        let before = content.size();
        let taken = match data {
            Data::Bytes(bytes) => content.write(bytes),
            Data::Hole(length) => content.hole(length),
            Data::Fd(fd) => loop {
                if self.job.cancelled().is_some() {
                    break Err(Error::Other("the job was cancelled".to_owned()));
                }
                let read = match readable(fd) {
                    Ok(true) => content.read_once(fd, u64::MAX),
                    Ok(false) => continue,
                    Err(error) => Ok(Err(error)),
                };
                match read {
                    Ok(Ok(0)) => break Ok(()),
                    Ok(Ok(count)) => {
                        // What the walk keeps is in its sum.
                        self.bytes += if is_offered { 0 } else { count };
                        self.observer.bytes(count);
                    }
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(error)) => {
                        let name = String::from_utf8_lossy(&open.entry.name);
                        return Err(DataError::Read(EntryError::io(format_args!("read {name}"), &error)));
                    }
                    Err(error) => break Err(error),
                }
            },
        };
        let count = content.size() - before;
        if !matches!(data, Data::Fd(_)) {
            self.bytes += if is_offered { 0 } else { count };
            self.observer.bytes(count);
        }
        match taken {
            Ok(()) => Ok(count),
            Err(error) if self.job.cancelled().is_some() => Err(DataError::Stop(Stop(error.to_string()))),
            Err(error) => Err(DataError::Stop(self.stopped(error))),
        }
    }

    fn attr(&mut self, attr: Attr) -> Result<(), Stop> {
        match &mut self.open {
            Some(open) => {
                open.attrs.push(attr);
                Ok(())
            }
            None => Err(Stop("the source sent an attribute without an entry".to_owned())),
        }
    }

    fn end(&mut self, result: Result<(), EntryError>) -> Outcome {
        let Some(Open { entry, content, attrs }) = self.open.take() else {
            return Outcome::Failed(EntryError::new("the source ended an entry that it had not begun"));
        };
        if let Err(error) = result {
            if self.offer_is_open() {
                self.answer(Taken::Failed(error.clone()));
                return Outcome::Failed(error);
            }
            let outcome = Outcome::Failed(error);
            self.count(&entry, &outcome, 0);
            return outcome;
        }
        let size = content.as_ref().map_or(0, ContentWriter::size);
        let content = match content.map(ContentWriter::finish_later).transpose() {
            Ok(content) => content,
            Err(error) => {
                let outcome = Outcome::Failed(EntryError::new(self.stopped(error).0));
                self.count(&entry, &outcome, 0);
                return outcome;
            }
        };
        if self.offer_is_open() {
            let taken = self.take_over(entry, content, attrs);
            let taken = taken.unwrap_or_else(|error| Taken::Failed(EntryError::new(self.stopped(error).0)));
            let outcome = match &taken {
                Taken::Failed(error) => Outcome::Failed(error.clone()),
                _ => Outcome::Saved,
            };
            self.answer(taken);
            return outcome;
        }
        let outcome = Outcome::Saved;
        self.count(&entry, &outcome, size);
        self.pending.push_back(Pending { entry, attrs, content });
        while self.pending.len() > MOST_PENDING
            || self.pending.front().is_some_and(|first| first.content.as_ref().is_none_or(PendingContent::ready))
        {
            let Some(first) = self.pending.pop_front() else { break };
            if let Err(error) = self.settle(first) {
                self.stopped(error);
                break;
            }
        }
        outcome
    }

    fn skipped(&mut self, name: &[u8], rule: &str) {
        let outcome = Outcome::Skipped(rule.to_owned());
        self.tally.count(&outcome);
        self.observer.entry(name, &outcome, FileKind::File, 0, Change::New);
    }

    fn unchanged(&mut self, name: &[u8]) {
        self.tally.count(&Outcome::Unchanged);
        self.observer.entry(name, &Outcome::Unchanged, FileKind::File, 0, Change::Unmodified);
    }

    fn side(&mut self, mut object: SideObject) -> Result<(), Stop> {
        self.close_open_as_lost();
        self.check()?;
        let Some(ledger) = &mut self.ledger else {
            return Err(self.stopped(Error::Other("the source keeps objects and has no adapter that could".to_owned())));
        };
        object.job_id = self.job.id();
        self.tally.count(&Outcome::Saved);
        self.bytes += object.bytes.len() as u64;
        self.observer.entry(&object.name, &Outcome::Saved, FileKind::File, object.bytes.len() as u64, Change::New);
        ledger.object(object);
        Ok(())
    }

    fn deleted(&mut self, name: &[u8], announced: bool) -> Result<(), Stop> {
        self.close_open_as_lost();
        self.check()?;
        // What was announced before is gone with it; what comes after is not.
        let done = self.settle_all().and_then(|()| match view_path(name) {
            Some(path) => self.assembler.lock().remove(&path),
            None => Ok(()),
        });
        done.map_err(|error| self.stopped(error))?;
        if let Some(ledger) = &mut self.ledger {
            ledger.gone(name.to_vec());
        }
        if announced {
            self.tally.count(&Outcome::Saved);
            self.observer.entry(name, &Outcome::Saved, FileKind::File, 0, Change::Changed);
        }
        Ok(())
    }

    fn lost(&mut self, count: u64) {
        self.close_open_as_lost();
        self.tally.announced += count;
        self.tally.lost += count;
    }
}

/// Waits a moment for something to read: a pipe may be silent for hours, and a cancelled job must not wait for it.
fn readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&PATIENCE)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Where an announced name stands in the view, without slashes at either end; none where no file system could have it.
/// A virtual name without a leading slash stands below the root.
fn view_path(name: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        if component == b"." || component == b".." || component.contains(&0) || component.len() > 255 {
            return None;
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    let internal = path.split(|byte| *byte == b'/').next() == Some(crate::ledger::INTERNAL_DIRECTORY.as_bytes());
    (!path.is_empty() && !internal).then_some(path)
}

/// Why a source is stopped, in words.
pub(crate) fn cancelled(reason: &CancelReason) -> String {
    match reason {
        CancelReason::Interrupted => "the job was interrupted".to_owned(),
        CancelReason::TimeLimit(limit) => format!("the time limit {limit} has passed"),
        CancelReason::Failed(reason) => reason.clone(),
    }
}

/// Attributes as the view shows them: each name once.
fn view_xattrs(attrs: &[Attr]) -> Xattrs {
    let mut xattrs = Xattrs::new();
    for attr in attrs {
        if let Attr::Xattr { name, value } = attr
            && let Some(name) = view_xattr_name(name)
            && !xattrs.iter().any(|(have, _)| have == name)
        {
            xattrs.push((name.to_vec(), value.clone()));
        }
    }
    xattrs
}

/// The name under which a plugin's attribute can be set on a file system, none if it is opaque. Some plugins end the
/// name with a NUL.
fn view_xattr_name(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let legal = [&b"user."[..], b"trusted.", b"security.", b"system."].iter().any(|space| name.starts_with(space));
    (legal && name.len() <= 255 && !name.contains(&0)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_names_stand_below_the_root() {
        assert_eq!(view_path(b"@SQLITE/app.db/users.sql").unwrap(), b"@SQLITE/app.db/users.sql");
        assert_eq!(view_path(b"/usr//share/doc/").unwrap(), b"usr/share/doc");
    }

    #[test]
    fn names_that_no_file_system_has_stand_in_the_ledger_only() {
        for name in [&b""[..], b"/", b"a/../b", b"./a", b"a\0b", b".backstay/x/ledger"] {
            assert_eq!(view_path(name), None, "{}", String::from_utf8_lossy(name));
        }
        assert_eq!(view_path(&[b'x'; 300]), None);
    }

    #[test]
    fn only_attributes_of_a_known_name_space_are_shown_in_the_view() {
        assert_eq!(view_xattr_name(b"user.comment\0"), Some(&b"user.comment"[..]));
        assert_eq!(view_xattr_name(b"comment"), None);
    }
}
