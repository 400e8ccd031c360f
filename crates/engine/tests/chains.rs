//! Jobs that build on earlier ones: what a source is told, what stays, what goes, and what a restore gets.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use backstay_core::{
    Attr, CancelReason, Create, Data, End, Entry, EntryError, Fatal, FileKind, Id, Ingest, Job, Level, MessageLevel,
    Outcome, SavedJob, SideObject, Sink, Source, SourceInfo, Start, Stat, Time, Verdict,
};
use backstay_engine::backup::{BackupOptions, BackupReport, ParentChoice, backup};
use backstay_engine::estimate::estimate;
use backstay_engine::ledger::LedgerReader;
use backstay_engine::restore_through::{ThroughObserver, restore_through};
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::reader::Reader;
use backstay_repository::{BlobKind, InitOptions, Node, Repository, WriteOptions};
use backstay_stores::LocalStore;

/// One turn of a source.
#[derive(Clone, Debug)]
enum Step {
    Save(&'static str, &'static str),
    Unchanged(&'static str),
    Deleted(&'static str),
    /// What the source found out by itself to be gone.
    Missing(&'static str),
    Object(i32, i32, &'static str),
}
use Step::{Deleted, Missing, Object, Save, Unchanged};

/// What a source was told.
#[derive(Debug, Default)]
struct Told {
    start: Option<Start>,
    known: Vec<String>,
}

struct Script {
    steps: Vec<Step>,
    level: Level,
    job_name: &'static str,
    definition: &'static str,
    told: Arc<Mutex<Told>>,
}

fn entry(name: &str) -> Entry {
    let stat = Stat { mode: 0o100_640, links: 1, ..Stat::default() };
    Entry { name: name.into(), kind: FileKind::File, link: Vec::new(), hard_link: false, stat, native: Vec::new() }
}

impl Source for Script {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            name: "script".to_owned(),
            path: "/script".to_owned(),
            adapter: Some("test"),
            definitions: vec![self.definition.to_owned()],
            job_name: self.job_name.to_owned(),
            level: self.level,
            offers: Vec::new(),
        }
    }

    fn known(&mut self, entry: &Entry) -> Result<(), Fatal> {
        self.told.lock().unwrap().known.push(String::from_utf8(entry.name.clone()).unwrap());
        Ok(())
    }

    fn run(&mut self, _job: &dyn Job, start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        self.told.lock().unwrap().start = Some(start.clone());
        for step in &self.steps {
            match *step {
                Save(name, data) => {
                    out.entry(entry(name)).unwrap();
                    out.data(Data::Bytes(data.as_bytes())).unwrap();
                    assert_eq!(out.end(Ok(())), Outcome::Saved);
                }
                Unchanged(name) => out.unchanged(name.as_bytes()),
                Deleted(name) => out.deleted(name.as_bytes(), true).unwrap(),
                Missing(name) => out.deleted(name.as_bytes(), false).unwrap(),
                Object(kind, index, text) => out.side(object(kind, index, text)).unwrap(),
            }
        }
        Ok(End::Whole)
    }

    fn estimate(&mut self, _job: &dyn Job, _start: &Start, out: &mut dyn FnMut(&Entry)) -> Result<End, Fatal> {
        for step in &self.steps {
            if let Save(name, _) = *step {
                out(&entry(name));
            }
        }
        Ok(End::Whole)
    }

    fn finish(&mut self, _verdict: &Verdict) {}
}

fn object(kind: i32, index: i32, text: &str) -> SideObject {
    SideObject { kind, index, name: text.into(), bytes: text.repeat(3).into(), native: b"n".to_vec(), job_id: 0 }
}

struct TestJob(u32);

impl Job for TestJob {
    fn id(&self) -> u32 {
        self.0
    }
    fn message(&self, _level: MessageLevel, _source: &str, _text: &str) {}
    fn cancelled(&self) -> Option<CancelReason> {
        None
    }
}

struct Silent;

impl Observer for Silent {
    fn entry(&self, _path: &[u8], _outcome: &Outcome, _kind: FileKind, _size: u64, _change: Change) {}
    fn bytes(&self, _count: u64) {}
    fn current(&self, _path: &[u8]) {}
}

impl ThroughObserver for Silent {
    fn entry(&self, _name: &[u8], _outcome: &Outcome, _size: u64) {}
}

struct Bench {
    _folder: tempfile::TempDir,
    repository: Arc<Repository>,
    jobs: u32,
    told: Arc<Mutex<Told>>,
}

/// What differs from job to job.
#[derive(Clone, Copy)]
struct Kind {
    level: Level,
    name: &'static str,
    definition: &'static str,
}

const FULL: Kind = Kind { level: Level::Full, name: "job", definition: "d" };
const INCREMENTAL: Kind = Kind { level: Level::Incremental, ..FULL };
const DIFFERENTIAL: Kind = Kind { level: Level::Differential, ..FULL };

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
        let store = Arc::new(LocalStore::new(folder.path().join("repository")));
        let repository = Arc::new(Repository::init(store, b"test", options).unwrap());
        Self { _folder: folder, repository, jobs: 0, told: Arc::default() }
    }

    fn options(&self) -> BackupOptions {
        // A second apart: the newest is told by its time.
        let time = Time { seconds: 1_700_000_000 + i64::from(self.jobs), nanoseconds: 0 };
        BackupOptions {
            paths: Vec::new(),
            tree: TreeOptions::default(),
            host: "host".to_owned(),
            username: "user".to_owned(),
            tags: Vec::new(),
            time,
            parent: ParentChoice::Newest,
            skip_if_unchanged: false,
            dry_run: false,
            save_partial: false,
            retry_lock: None,
            write: WriteOptions::default(),
        }
    }

    fn source(&mut self, kind: Kind, steps: &[Step]) -> Box<dyn Source> {
        self.told = Arc::default();
        let told = Arc::clone(&self.told);
        let Kind { level, name, definition } = kind;
        Box::new(Script { steps: steps.to_vec(), level, job_name: name, definition, told })
    }

    fn run(&mut self, kind: Kind, steps: &[Step]) -> BackupReport {
        self.jobs += 1;
        let mut sources = vec![self.source(kind, steps)];
        backup(&self.repository, &self.options(), &mut sources, &TestJob(self.jobs), &Silent).unwrap()
    }

    fn known(&self) -> Vec<String> {
        self.told.lock().unwrap().known.clone()
    }

    fn start(&self) -> Start {
        self.told.lock().unwrap().start.clone().unwrap()
    }

    fn reader(&self) -> Arc<Reader> {
        Arc::new(Reader::new(Arc::clone(&self.repository), Arc::new(self.repository.load_index().unwrap())))
    }

    /// Contents of a file of the view.
    fn read(&self, root: &Id, path: &str) -> Option<String> {
        let reader = self.reader();
        let node = reader.node_at(root, path.as_bytes()).unwrap()?;
        let ids = node.content?;
        let bytes = ids.iter().flat_map(|id| reader.blob(BlobKind::Data, id).unwrap().to_vec()).collect();
        Some(String::from_utf8(bytes).unwrap())
    }

    /// Replays the whole ledger.
    fn restore(&self, root: &Id) -> Keeper {
        let reader = self.reader();
        let mut ledger = LedgerReader::open(&reader, root, "script").unwrap();
        let mut keeper = Keeper::default();
        let report = restore_through(&reader, &mut ledger, &mut keeper, &|_| true, &TestJob(99), &Silent).unwrap();
        assert_eq!(report.verdict, Verdict::Complete);
        keeper
    }
}

/// A sink that keeps what it gets.
#[derive(Default)]
struct Keeper {
    jobs: Vec<SavedJob>,
    objects: Vec<SideObject>,
    job: usize,
    got: Vec<(u32, String, String)>,
    open: String,
}

impl Sink for Keeper {
    fn begin(&mut self, _job: &dyn Job, jobs: &[SavedJob], objects: Vec<SideObject>) -> Result<(), Fatal> {
        (self.jobs, self.objects) = (jobs.to_vec(), objects);
        Ok(())
    }
    fn of_job(&mut self, number: usize) {
        self.job = number;
    }
    fn create(&mut self, _entry: &Entry) -> Result<Create, EntryError> {
        self.open.clear();
        Ok(Create::Bytes)
    }
    fn write(&mut self, data: &[u8]) -> Result<(), EntryError> {
        self.open.push_str(std::str::from_utf8(data).unwrap());
        Ok(())
    }
    fn close(&mut self, _entry: &Entry, _written: bool) -> Result<(), EntryError> {
        Ok(())
    }
    fn attr(&mut self, _entry: &Entry, _attr: &Attr) -> Result<(), EntryError> {
        Ok(())
    }
    fn end(&mut self, entry: &Entry) -> Result<Option<EntryError>, Fatal> {
        let name = String::from_utf8(entry.name.clone()).unwrap();
        self.got.push((self.jobs[self.job].id, name, self.open.clone()));
        Ok(None)
    }
    fn finish(&mut self, _verdict: &Verdict) -> Result<(), Fatal> {
        Ok(())
    }
}

fn got(list: &[(u32, &str, &str)]) -> Vec<(u32, String, String)> {
    list.iter().map(|(job, name, data)| (*job, (*name).to_owned(), (*data).to_owned())).collect()
}

#[test]
fn an_incremental_job_keeps_what_it_does_not_mention() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Save("/a", "a1"), Save("/b", "b1"), Save("@v/c", "c1")]);
    assert_eq!((bench.start().level, bench.start().reference), (Level::Full, None));
    let report = bench.run(INCREMENTAL, &[Save("/b", "b2"), Unchanged("/a"), Save("/d", "d2")]);
    assert_eq!(bench.known(), ["/a", "/b", "@v/c"]);
    let start = bench.start();
    assert_eq!((start.level, start.reference.unwrap().id), (Level::Incremental, 1));
    assert_eq!((report.tally.announced, report.tally.saved, report.tally.unchanged), (3, 2, 1));
    assert_eq!(report.verdict, Verdict::Complete);
    let root = report.tree.unwrap();
    for (path, text) in [("a", "a1"), ("b", "b2"), ("@v/c", "c1"), ("d", "d2")] {
        assert_eq!(bench.read(&root, path).as_deref(), Some(text), "{path}");
    }
    // A restore gets every version, oldest first, each as its job announced it.
    let restored = bench.restore(&root);
    let all = [(1, "/a", "a1"), (1, "/b", "b1"), (1, "@v/c", "c1"), (2, "/b", "b2"), (2, "/d", "d2")];
    assert_eq!(restored.got, got(&all));
    assert_eq!(restored.jobs.iter().map(|job| job.level).collect::<Vec<_>>(), [Level::Full, Level::Incremental]);
}

#[test]
fn a_deleted_name_is_in_no_later_view_and_no_later_restore() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Save("/a", "a1"), Save("/b", "b1"), Save("/c", "c1")]);
    let second = bench.run(INCREMENTAL, &[Deleted("/a"), Save("/b", "b2"), Missing("/b"), Save("/b", "b2 again")]);
    assert_eq!((second.tally.announced, second.tally.saved), (3, 3), "what is found out to be gone was not announced");
    let root = second.tree.unwrap();
    assert_eq!(bench.read(&root, "a"), None);
    assert_eq!(bench.read(&root, "b").as_deref(), Some("b2 again"));
    assert_eq!(bench.restore(&root).got, got(&[(1, "/c", "c1"), (2, "/b", "b2 again")]));

    // It can come back, and what was deleted is not even known to the next job.
    let third = bench.run(INCREMENTAL, &[Save("/a", "a3")]);
    assert_eq!(bench.known(), ["/c", "/b"]);
    let root = third.tree.unwrap();
    assert_eq!(bench.read(&root, "a").as_deref(), Some("a3"));
    assert_eq!(bench.restore(&root).got, got(&[(1, "/c", "c1"), (2, "/b", "b2 again"), (3, "/a", "a3")]));

    // The second snapshot still tells what it told.
    let root = second.tree.unwrap();
    assert_eq!(bench.restore(&root).got, got(&[(1, "/c", "c1"), (2, "/b", "b2 again")]));
}

#[test]
fn a_differential_job_builds_on_the_last_full_one() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Save("/a", "a1")]);
    bench.run(FULL, &[Save("/a", "a2")]);
    bench.run(INCREMENTAL, &[Save("/b", "b3")]);
    let report = bench.run(DIFFERENTIAL, &[Save("/c", "c4")]);
    assert_eq!(bench.start().reference.unwrap().id, 2);
    assert_eq!(bench.restore(&report.tree.unwrap()).got, got(&[(2, "/a", "a2"), (4, "/c", "c4")]));
    // An incremental one builds on that, whatever its level was.
    let report = bench.run(INCREMENTAL, &[Save("/d", "d5")]);
    assert_eq!(bench.start().reference.unwrap().id, 4);
    assert_eq!(bench.restore(&report.tree.unwrap()).jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [2, 4, 5]);
}

#[test]
fn a_job_with_nothing_to_build_on_is_a_full_one() {
    let mut bench = Bench::new();
    bench.run(INCREMENTAL, &[Save("/a", "a1")]);
    assert_eq!(bench.start().level, Level::Full);
    // Another name, another definition: another chain.
    for other in [Kind { name: "other", ..INCREMENTAL }, Kind { definition: "other", ..INCREMENTAL }] {
        bench.run(other, &[Save("/a", "a")]);
        assert_eq!((bench.start().level, bench.start().reference), (Level::Full, None));
    }
    // The first chain goes on past the others.
    bench.run(INCREMENTAL, &[]);
    assert_eq!(bench.start().reference.unwrap().id, 1);
}

#[test]
fn a_named_parent_must_be_one_to_build_on() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Save("/a", "a1")]);
    let first = bench.repository.snapshots().unwrap()[0].0.to_hex();
    bench.run(INCREMENTAL, &[Save("/a", "a2")]);
    let newest = bench
        .repository
        .snapshots()
        .unwrap()
        .into_iter()
        .max_by_key(|(_, found)| found.time.clone())
        .unwrap()
        .0
        .to_hex();
    bench.jobs += 1;
    let other = Kind { definition: "another text", ..INCREMENTAL };
    let mut sources = vec![bench.source(other, &[Save("/b", "b3")])];
    let options = BackupOptions { parent: ParentChoice::Named(first), ..bench.options() };
    let report = backup(&bench.repository, &options, &mut sources, &TestJob(3), &Silent).unwrap();
    assert_eq!(bench.restore(&report.tree.unwrap()).got, got(&[(1, "/a", "a1"), (3, "/b", "b3")]));
    let mut sources = vec![bench.source(DIFFERENTIAL, &[])];
    let options = BackupOptions { parent: ParentChoice::Named(newest), ..bench.options() };
    let error = backup(&bench.repository, &options, &mut sources, &TestJob(4), &Silent).unwrap_err().to_string();
    assert!(error.contains("differential"), "{error}");
}

#[test]
fn objects_of_the_last_job_come_before_the_next_and_those_of_all_before_a_restore() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Object(27, 1, "config"), Object(25, 9, "nine"), Save("/a", "a1"), Object(25, 2, "two")]);
    let report = bench.run(INCREMENTAL, &[Object(25, 5, "five")]);
    assert_eq!((report.tally.announced, report.tally.saved), (1, 1));
    let names = |objects: &[SideObject]| -> Vec<(u32, String)> {
        objects.iter().map(|object| (object.job_id, String::from_utf8(object.name.clone()).unwrap())).collect()
    };
    let named = |list: &[(u32, &str)]| -> Vec<(u32, String)> {
        list.iter().map(|(job, name)| (*job, (*name).to_owned())).collect()
    };
    assert_eq!(names(&bench.start().objects), named(&[(1, "two"), (1, "nine"), (1, "config")]));
    let restored = bench.restore(&report.tree.unwrap());
    assert_eq!(names(&restored.objects), named(&[(1, "two"), (2, "five"), (1, "nine"), (1, "config")]));
    assert_eq!(restored.objects[0].bytes, b"twotwotwo");
    bench.run(INCREMENTAL, &[]);
    assert_eq!(names(&bench.start().objects), named(&[(2, "five")]));
    bench.run(INCREMENTAL, &[]);
    assert_eq!(names(&bench.start().objects), named(&[]), "the job before kept none");
}

#[test]
fn every_blob_that_a_chain_needs_is_the_content_of_a_node() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Save("/a", "a1"), Save("/b", "b1"), Save("bad/../name", "hidden")]);
    let report = bench.run(INCREMENTAL, &[Save("/a", "a2"), Deleted("/b")]);
    let reader = bench.reader();
    let root = report.tree.unwrap();
    let mut named = HashSet::new();
    nodes(&reader, &root, &mut |node| named.extend(node.content.iter().flatten().copied()));
    let mut ledger = LedgerReader::open(&reader, &root, "script").unwrap();
    let mut records = 0;
    while let Some(record) = ledger.next_of_all().unwrap() {
        assert!(record.content.iter().all(|id| named.contains(id)), "{:?}", record.entry.name);
        records += 1;
    }
    assert_eq!(records, 4);
}

fn nodes(reader: &Reader, tree: &Id, take: &mut dyn FnMut(&Node)) {
    for node in &reader.tree(tree).unwrap().nodes {
        take(node);
        if let Some(subtree) = &node.subtree {
            nodes(reader, subtree, take);
        }
    }
}

#[test]
fn an_estimate_knows_what_a_backup_would_know_and_writes_nothing() {
    let mut bench = Bench::new();
    bench.run(FULL, &[Save("/a", "a1"), Save("/b", "b1")]);
    let before = bench.repository.snapshots().unwrap().len();
    let mut sources = vec![bench.source(INCREMENTAL, &[Save("/b", "b2")])];
    let mut names = Vec::new();
    let options = bench.options();
    let end =
        estimate(&bench.repository, &options, &mut sources, &TestJob(0), &mut |entry| names.push(entry.name.clone()))
            .unwrap();
    assert_eq!((end, names), (End::Whole, vec![b"/b".to_vec()]));
    assert_eq!(bench.known(), ["/a", "/b"]);
    assert_eq!(bench.repository.snapshots().unwrap().len(), before);
}
