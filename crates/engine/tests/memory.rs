//! Memory has a ceiling: buffers that are the same for every job, and so little for each entry that a million of them
//! fit in 300 MB. One test in a program of its own, for the kernel counts the memory of whole processes.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::fs;
use std::path::Path;
use std::sync::Arc;

use backstay_core::{
    CancelReason, Data, End, Entry, Fatal, FileKind, Ingest, Job, MessageLevel, Outcome, Source, SourceInfo, Start,
    Stat, Time, Verdict,
};
use backstay_engine::backup::{BackupOptions, BackupReport, ParentChoice, backup};
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::restore::{RestoreOptions, restore};
use backstay_repository::{InitOptions, Reader, Repository, WriteOptions};
use backstay_stores::LocalStore;

/// Bytes that any job may take: packs that are filled and stored, the Assembler's nodes before they go to a file.
const A_JOB: u64 = 100_000_000;
/// Bytes for each entry.
const AN_ENTRY: u64 = 200;
const ENTRIES: u32 = 110_000;

struct Quiet;

impl Job for Quiet {
    fn id(&self) -> u32 {
        0
    }
    fn message(&self, _level: MessageLevel, _source: &str, _text: &str) {}
    fn cancelled(&self) -> Option<CancelReason> {
        None
    }
}

impl Observer for Quiet {
    fn entry(&self, _path: &[u8], _outcome: &Outcome, _kind: FileKind, _size: u64, _change: Change) {}
    fn bytes(&self, _count: u64) {}
    fn current(&self, _path: &[u8]) {}
}

/// Pushes as many small files, in no order.
struct Many(u32);

impl Source for Many {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: "many".to_owned(), path: "/many".to_owned(), ..SourceInfo::default() }
    }
    fn run(&mut self, _job: &dyn Job, _start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        for number in 0..self.0 {
            let mixed = number.wrapping_mul(2_654_435_761);
            let name = format!("/many/directory {:03}/file {mixed:010}", mixed % 300).into_bytes();
            let stat =
                Stat { mode: 0o100_640, links: 1, mtime: Time { seconds: 9, nanoseconds: 1 }, ..Stat::default() };
            let (link, native) = (Vec::new(), Vec::new());
            out.entry(Entry { name, kind: FileKind::File, link, hard_link: false, stat, native }).unwrap();
            out.data(Data::Bytes(format!("contents of file {number}").as_bytes())).unwrap();
            assert_eq!(out.end(Ok(())), Outcome::Saved);
        }
        Ok(End::Whole)
    }
    fn finish(&mut self, _verdict: &Verdict) {}
}

/// The largest amount of memory that this process used while `work` ran, in bytes.
fn peak<T>(work: impl FnOnce() -> T) -> (u64, T) {
    // Resets the mark: see proc(5).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let result = work();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    (line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024, result)
}

fn options(paths: &[&Path]) -> BackupOptions {
    BackupOptions {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        tree: TreeOptions::default(),
        host: "host".to_owned(),
        username: "user".to_owned(),
        tags: Vec::new(),
        time: backstay_engine::backup::now(),
        parent: ParentChoice::Newest,
        skip_if_unchanged: false,
        dry_run: false,
        save_partial: false,
        retry_lock: None,
        write: WriteOptions::default(),
    }
}

/// Peaks of: a source's entries, a restore of them, a backup of that tree, and one more that finds nothing new.
fn run(count: u32) -> [(&'static str, u64); 4] {
    let folder = tempfile::tempdir().unwrap();
    let kdf = KdfParams { log_n: 4, r: 1, p: 1 };
    let init = InitOptions { kdf, ..InitOptions::default() };
    let repository = |name: &str| {
        let store = Arc::new(LocalStore::new(folder.path().join(name)));
        Arc::new(Repository::init(store, b"test", init).unwrap())
    };
    let (one, other) = (repository("one"), repository("other"));
    let pushed = || backup(&one, &options(&[]), &mut [Box::new(Many(count)) as _], &Quiet, &Quiet).unwrap();
    let (source, report) = peak(pushed);
    assert_eq!(report.tally.saved, u64::from(count));
    let target = folder.path().join("target");
    let (restored, _) = peak(|| {
        let reader = Reader::new(Arc::clone(&one), Arc::new(one.load_index().unwrap()));
        let options = RestoreOptions { target: target.clone(), ..RestoreOptions::default() };
        let report = restore(&reader, &report.tree.unwrap(), b"", &options, &()).unwrap();
        assert_eq!(report.errors.len(), 0);
    });
    let tree = || -> BackupReport { backup(&other, &options(&[&target]), &mut [], &Quiet, &Quiet).unwrap() };
    let (first, report) = peak(tree);
    assert_eq!(report.summary.files_new, u64::from(count));
    let (again, report) = peak(tree);
    assert_eq!(report.summary.files_unmodified, u64::from(count));
    [("source", source), ("restore", restored), ("tree", first), ("again", again)]
}

#[test]
fn memory_grows_little_with_the_number_of_entries() {
    for (what, peak) in run(ENTRIES) {
        println!("{what}: {} MB for {ENTRIES} entries", peak / 1_000_000);
        assert!(peak < A_JOB + u64::from(ENTRIES) * AN_ENTRY, "{what}: {peak} bytes for {ENTRIES} entries");
    }
}
