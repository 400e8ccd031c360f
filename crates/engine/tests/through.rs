//! A restore through an adapter: the sink gets every wanted entry once, in the ledger's order, with all of its bytes,
//! however much was read ahead and handed over.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use backstay_core::{
    Attr, CancelReason, Create, Entry, EntryError, Fatal, FileKind, Id, Job, MessageLevel, Outcome, SavedJob, Settled,
    SideObject, Sink, Stat, Verdict,
};
use backstay_engine::ledger::{LedgerEntry, LedgerHeader, LedgerReader, LedgerWriter};
use backstay_engine::restore_through::{ThroughObserver, ThroughReport, restore_through};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{InitOptions, Node, Reader, Repository, WriteOptions, Writer};
use backstay_stores::LocalStore;

struct TestJob;

impl Job for TestJob {
    fn id(&self) -> u32 {
        7
    }
    fn message(&self, _level: MessageLevel, _source: &str, _text: &str) {}
    fn cancelled(&self) -> Option<CancelReason> {
        None
    }
}

/// What an observer heard.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, Outcome)>>);

impl ThroughObserver for Heard {
    fn entry(&self, name: &[u8], outcome: &Outcome, _size: u64) {
        self.0.lock().unwrap().push((String::from_utf8_lossy(name).into_owned(), outcome.clone()));
    }
}

type Got = (String, Vec<u8>, Vec<Attr>);

/// Keeps what it gets, and the rules of the port.
#[derive(Default)]
struct Keeper {
    takes_whole: bool,
    /// It gives up at this many entries.
    dies_after: Option<usize>,
    got: Vec<Got>,
    open: Option<Got>,
    unsettled: VecDeque<String>,
    most_unsettled: usize,
    handed: usize,
}

fn name(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

impl Keeper {
    fn dies(&self) -> Result<(), Fatal> {
        if Some(self.got.len()) == self.dies_after { Err(Fatal("it died".to_owned())) } else { Ok(()) }
    }
}

impl Sink for Keeper {
    fn begin(&mut self, _job: &dyn Job, _jobs: &[SavedJob], _objects: Vec<SideObject>) -> Result<(), Fatal> {
        Ok(())
    }
    fn create(&mut self, entry: &Entry) -> Result<Create, EntryError> {
        assert!(self.unsettled.is_empty(), "an entry in parts waits for those that were handed over");
        self.open = Some((name(entry), Vec::new(), Vec::new()));
        Ok(if entry.kind == FileKind::File { Create::Bytes } else { Create::Made })
    }
    fn hand_over(&mut self, entry: &Entry, data: &[u8], attrs: &[Attr]) -> Result<bool, Fatal> {
        if !self.takes_whole {
            return Ok(false);
        }
        self.unsettled.push_back(name(entry));
        self.most_unsettled = self.most_unsettled.max(self.unsettled.len());
        self.open = None;
        if self.dies_after.is_none_or(|after| self.got.len() < after) {
            self.got.push((name(entry), data.to_vec(), attrs.to_vec()));
        }
        self.handed += 1;
        Ok(true)
    }
    fn settle(&mut self) -> Result<Option<Settled>, Fatal> {
        let Some(name) = self.unsettled.pop_front() else { return Ok(None) };
        if self.dies_after.is_some_and(|after| name == format!("{after:05}")) {
            return Err(Fatal("it died".to_owned()));
        }
        Ok(Some(Settled::Restored))
    }
    fn write(&mut self, data: &[u8]) -> Result<(), EntryError> {
        self.open.as_mut().unwrap().1.extend_from_slice(data);
        Ok(())
    }
    fn close(&mut self, _entry: &Entry, _written: bool) -> Result<(), EntryError> {
        Ok(())
    }
    fn attr(&mut self, _entry: &Entry, attr: &Attr) -> Result<(), EntryError> {
        self.open.as_mut().unwrap().2.push(attr.clone());
        Ok(())
    }
    fn end(&mut self, _entry: &Entry) -> Result<Option<EntryError>, Fatal> {
        self.dies()?;
        self.got.extend(self.open.take());
        Ok(None)
    }
    fn finish(&mut self, _verdict: &Verdict) -> Result<(), Fatal> {
        Ok(())
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

struct Saved {
    _folder: tempfile::TempDir,
    repository: Arc<Repository>,
    root: Id,
    entries: Vec<Got>,
}

/// A snapshot with nothing but a ledger of `count` entries. Entry `missing` names a blob that is nowhere.
fn saved(count: usize, missing: Option<usize>) -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
    let store = Arc::new(LocalStore::new(folder.path().join("repository")));
    let repository = Arc::new(Repository::init(store, b"test", options).unwrap());
    let index = Arc::new(repository.load_index().unwrap());
    let writer = Writer::new(Arc::clone(&repository), index, WriteOptions::default()).unwrap();
    let header = LedgerHeader { source: "s".to_owned(), adapter: "test".to_owned(), jobs: vec![SavedJob::default()] };
    let mut ledger = LedgerWriter::new(writer.content(), header).unwrap();
    let mut entries = Vec::new();
    for number in 0..count {
        let name = format!("{number:05}");
        let (kind, length) = match number % 100 {
            0 => (FileKind::Directory, 0),
            1 => (FileKind::File, 0),
            // Too long to go whole, one of them of several blobs.
            50 => (FileKind::File, if number < 100 { 9 << 20 } else { 200_000 }),
            other => (FileKind::File, other * 100),
        };
        // Some contents are there several times.
        let data = noise(number as u64 % 700, length);
        let mut content = writer.content();
        content.write(&data).unwrap();
        let mut ids = content.finish().unwrap().ids;
        if missing == Some(number) {
            ids = vec![Id([9; 32])];
        }
        let attrs = if number % 3 == 0 { vec![Attr::Acl(vec![1, 2, 3])] } else { Vec::new() };
        let entry = Entry {
            name: name.clone().into_bytes(),
            kind,
            link: Vec::new(),
            hard_link: false,
            stat: Stat::default(),
            native: Vec::new(),
        };
        let size = data.len() as u64;
        ledger.entry(LedgerEntry { entry, attrs: attrs.clone(), content: ids, size }).unwrap();
        entries.push((name, data, attrs));
    }
    let content = ledger.finish().unwrap();
    let file =
        Node { name: b"ledger".to_vec(), size: content.size, content: Some(content.ids), ..Node::new(FileKind::File) };
    let mut tree = writer.save_tree(&[file]).unwrap();
    for name in ["s", ".backstay"] {
        let node = Node { name: name.into(), subtree: Some(tree), ..Node::new(FileKind::Directory) };
        tree = writer.save_tree(&[node]).unwrap();
    }
    writer.finish().unwrap();
    Saved { _folder: folder, repository, root: tree, entries }
}

impl Saved {
    fn restore(&self, keeper: &mut Keeper, wanted: &dyn Fn(&[u8]) -> bool) -> (ThroughReport, Vec<(String, Outcome)>) {
        let index = Arc::new(self.repository.load_index().unwrap());
        let reader = Arc::new(Reader::new(Arc::clone(&self.repository), index));
        let mut ledger = LedgerReader::open(&reader, &self.root, "s").unwrap();
        let heard = Heard::default();
        let report = restore_through(&reader, &mut ledger, keeper, wanted, &TestJob, &heard).unwrap();
        (report, heard.0.into_inner().unwrap())
    }
}

#[test]
fn every_wanted_entry_comes_once_in_order_with_all_of_its_bytes() {
    let saved = saved(2500, None);
    let wanted = |name: &[u8]| !name.ends_with(b"7");
    let expected: Vec<&Got> = saved.entries.iter().filter(|(name, ..)| wanted(name.as_bytes())).collect();
    for takes_whole in [false, true] {
        let mut keeper = Keeper { takes_whole, ..Keeper::default() };
        let (report, heard) = saved.restore(&mut keeper, &wanted);
        assert_eq!(report.verdict, Verdict::Complete);
        assert_eq!(report.tally.saved as usize, expected.len());
        assert_eq!(report.bytes, expected.iter().map(|(_, data, _)| data.len() as u64).sum::<u64>());
        assert!(keeper.got.iter().eq(expected.iter().copied()), "handed over: {takes_whole}");
        let names = heard.iter().map(|(name, _)| name);
        assert!(names.eq(expected.iter().map(|(name, ..)| name)));
        let large = expected.iter().filter(|(_, data, _)| data.len() > 128 << 10).count();
        assert_eq!(keeper.handed, if takes_whole { expected.len() - large } else { 0 });
        assert!(!takes_whole || (2..=64).contains(&keeper.most_unsettled), "{}", keeper.most_unsettled);
    }
}

#[test]
fn contents_that_cannot_be_read_fail_their_entry_alone() {
    let saved = saved(300, Some(120));
    for takes_whole in [false, true] {
        let mut keeper = Keeper { takes_whole, ..Keeper::default() };
        let (report, heard) = saved.restore(&mut keeper, &|_| true);
        assert_eq!((report.verdict, report.tally.saved, report.tally.failed), (Verdict::WithErrors, 299, 1));
        let Outcome::Failed(error) = &heard[120].1 else { panic!("{:?}", heard[120]) };
        assert!(error.message.starts_with("read the contents of 00120: "), "{error}");
        let others = |list: &[Got]| list.iter().filter(|(name, ..)| name != "00120").cloned().collect::<Vec<_>>();
        assert!(others(&keeper.got) == others(&saved.entries));
    }
}

#[test]
fn a_sink_that_dies_fails_the_entry_it_was_at_and_nothing_is_said_of_those_behind() {
    let saved = saved(400, None);
    for takes_whole in [false, true] {
        let mut keeper = Keeper { takes_whole, dies_after: Some(210), ..Keeper::default() };
        let (report, heard) = saved.restore(&mut keeper, &|_| true);
        assert_eq!(report.verdict, Verdict::Partial("it died".to_owned()));
        assert_eq!(heard.len(), 211, "handed over: {takes_whole}");
        assert_eq!((report.tally.announced, report.tally.saved), (211, if takes_whole { 210 } else { 211 }));
    }
}
