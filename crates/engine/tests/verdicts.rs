//! What a backup may claim: every announced entry ends in one state, and no snapshot is better than the truth.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use backstay_core::{
    Attr, CancelReason, Data, DataError, Declined, End, Entry, EntryError, Fatal, FileKind, Id, Ingest, Job,
    MessageLevel, Outcome, Source, SourceInfo, Start, Stat, Tally, Time, Verdict,
};
use backstay_engine::backup::{BackupOptions, BackupReport, PARTIAL_TAG, ParentChoice, backup, highest_job_id};
use backstay_engine::ledger::{self, LedgerReader};
use backstay_engine::stream_source::StreamSource;
use backstay_engine::tree::{Change, Observer, Pick, Selector, Treatment, TreeOptions};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{BlobKind, Error, InitOptions, Reader, Repository, SnapshotFilter, WriteOptions};
use backstay_stores::LocalStore;

#[derive(Default)]
struct TestJob {
    messages: Mutex<Vec<String>>,
    cancelled: Mutex<Option<CancelReason>>,
}

impl Job for TestJob {
    fn id(&self) -> u32 {
        7
    }
    fn message(&self, _level: MessageLevel, source: &str, text: &str) {
        self.messages.lock().unwrap().push(format!("{source}: {text}"));
    }
    fn cancelled(&self) -> Option<CancelReason> {
        self.cancelled.lock().unwrap().clone()
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<(String, Outcome)>>);

impl Observer for Log {
    fn entry(&self, path: &[u8], outcome: &Outcome, _kind: FileKind, _size: u64, _change: Change) {
        self.0.lock().unwrap().push((String::from_utf8_lossy(path).into_owned(), outcome.clone()));
    }
    fn bytes(&self, _count: u64) {}
    fn current(&self, _path: &[u8]) {}
}

/// Pushes what a closure pushes; with offers it is asked about files of the walk.
struct Script<F>(F, Arc<Mutex<Option<Verdict>>>, Vec<u32>);

impl<F: FnMut(&mut dyn Ingest) -> Result<End, Fatal> + Send> Source for Script<F> {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            name: "script".to_owned(),
            path: "/script".to_owned(),
            adapter: Some("test"),
            definitions: vec!["secret:password=x".to_owned()],
            offers: self.2.clone(),
            ..SourceInfo::default()
        }
    }
    fn run(&mut self, _job: &dyn Job, _start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        (self.0)(out)
    }
    fn finish(&mut self, verdict: &Verdict) {
        *self.1.lock().unwrap() = Some(verdict.clone());
    }
}

fn entry(name: &str, kind: FileKind) -> Entry {
    let stat = Stat { mode: 0o100_640, links: 1, mtime: Time { seconds: 9, nanoseconds: 1 }, ..Stat::default() };
    Entry { name: name.into(), kind, link: Vec::new(), hard_link: false, stat, native: b"native".to_vec() }
}

fn save(out: &mut dyn Ingest, name: &str, data: &[u8]) -> Outcome {
    out.entry(entry(name, FileKind::File)).unwrap();
    out.data(Data::Bytes(data)).unwrap();
    out.end(Ok(()))
}

/// The number under which files are offered.
const OFFERED: u32 = 5;

/// Everything is selected and offered.
#[derive(Debug)]
struct OffersAll(Treatment);

impl Selector for OffersAll {
    fn select(&self, _path: &[u8], _is_directory: bool, _above: u64) -> Result<Vec<Pick<'_>>, String> {
        Ok(vec![Pick { set: 1, is_root: true, treatment: &self.0 }])
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    repository: Arc<Repository>,
    job: TestJob,
    log: Log,
    verdict: Arc<Mutex<Option<Verdict>>>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
        let store = Arc::new(LocalStore::new(folder.path().join("repository")));
        let repository = Arc::new(Repository::init(store, b"test", options).unwrap());
        Self { _folder: folder, repository, job: TestJob::default(), log: Log::default(), verdict: Arc::default() }
    }

    fn options() -> BackupOptions {
        BackupOptions {
            paths: Vec::new(),
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

    fn script(
        &self,
        options: &BackupOptions,
        run: impl FnMut(&mut dyn Ingest) -> Result<End, Fatal> + Send + 'static,
    ) -> Result<BackupReport, Error> {
        let offers = if options.tree.selector.is_some() { vec![OFFERED] } else { Vec::new() };
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Script(run, Arc::clone(&self.verdict), offers))];
        backup(&self.repository, options, &mut sources, &self.job, &self.log)
    }

    fn tree(&self, path: &Path) -> BackupReport {
        let options = BackupOptions { paths: vec![path.to_owned()], ..Self::options() };
        backup(&self.repository, &options, &mut [], &self.job, &self.log).unwrap()
    }

    /// Walks a folder of which each entry is offered to a source.
    fn offered(
        &self,
        path: &Path,
        run: impl FnMut(&mut dyn Ingest) -> Result<End, Fatal> + Send + 'static,
    ) -> Result<BackupReport, Error> {
        let treatment = Treatment { offered: Some(OFFERED), ..Treatment::default() };
        let tree = TreeOptions { selector: Some(Arc::new(OffersAll(treatment))), ..TreeOptions::default() };
        self.script(&BackupOptions { paths: vec![path.to_owned()], tree, ..Self::options() }, run)
    }

    fn snapshots(&self) -> usize {
        self.repository.snapshots().unwrap().len()
    }

    fn reader(&self) -> Arc<Reader> {
        Arc::new(Reader::new(Arc::clone(&self.repository), Arc::new(self.repository.load_index().unwrap())))
    }

    /// Contents of the file at `path` in the view, none if it is not there.
    fn read(&self, root: &Id, path: &str) -> Option<Vec<u8>> {
        let reader = self.reader();
        let node = reader.node_at(root, path.as_bytes()).unwrap()?;
        let ids = node.content.unwrap();
        Some(ids.iter().flat_map(|id| reader.blob(BlobKind::Data, id).unwrap().to_vec()).collect())
    }
}

#[test]
fn every_announced_entry_ends_in_one_of_the_five_states() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"the same as before").unwrap();
    bench.tree(folder.path());
    std::fs::write(folder.path().join("excluded.tmp"), b"x").unwrap();

    let options = BackupOptions {
        paths: vec![folder.path().to_owned()],
        tree: TreeOptions { excludes: vec!["*.tmp".to_owned()], ..TreeOptions::default() },
        ..Bench::options()
    };
    let (_, parent) = bench.repository.snapshots().unwrap().pop().unwrap();
    assert!(!parent.is_partial());
    let id = bench.repository.snapshots().unwrap()[0].0.to_hex();
    let options = BackupOptions { parent: ParentChoice::Named(id), ..options };
    let report = bench
        .script(&options, |out| {
            assert_eq!(save(out, "/v/saved", b"contents"), Outcome::Saved);
            out.entry(entry("/v/failed", FileKind::File)).unwrap();
            let error = EntryError { errno: Some(5), ..EntryError::new("read /v/failed: input/output error") };
            assert!(matches!(out.end(Err(error)), Outcome::Failed(_)));
            out.skipped(b"/v/skipped", "unchanged file");
            out.entry(entry("/v/open", FileKind::File)).unwrap();
            out.lost(2);
            Ok(End::Whole)
        })
        .unwrap();
    let tally = report.tally;
    assert!(tally.balances(), "{tally:?}");
    // saved: the folder itself and /v/saved; unchanged: file; skipped: excluded.tmp and /v/skipped; lost: the open entry
    // and two that were never seen.
    let expected = Tally { announced: 9, saved: 2, unchanged: 1, skipped: 2, failed: 1, lost: 3 };
    assert_eq!(tally, expected);
    assert_eq!(report.verdict, Verdict::WithErrors);
    let outcomes: HashSet<_> = bench.log.0.lock().unwrap().iter().map(|(path, _)| path.clone()).collect();
    assert!(outcomes.contains("/v/failed") && outcomes.contains("/v/open"));
    let root = report.tree.unwrap();
    assert_eq!(bench.read(&root, "v/saved").unwrap(), b"contents");
    for absent in ["v/failed", "v/skipped", "v/open"] {
        assert_eq!(bench.read(&root, absent), None, "{absent} must not look saved");
    }
}

#[test]
fn a_source_that_stops_leaves_no_snapshot() {
    let bench = Bench::new();
    let report = bench
        .script(&Bench::options(), |out| {
            save(out, "/a", b"a");
            Ok(End::Stopped("the worker was killed".to_owned()))
        })
        .unwrap();
    assert_eq!(report.verdict, Verdict::Partial("the worker was killed".to_owned()));
    assert_eq!(report.snapshot, None);
    assert_eq!(bench.snapshots(), 0);
    assert_eq!(*bench.verdict.lock().unwrap(), Some(report.verdict), "the source is told");
}

#[test]
fn what_a_stopped_backup_stored_is_not_stored_again() {
    let bench = Bench::new();
    let contents: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let again = contents.clone();
    let stopped = bench.script(&Bench::options(), move |out| {
        save(out, "/a", &contents);
        Ok(End::Stopped("interrupted".to_owned()))
    });
    assert_eq!(stopped.unwrap().snapshot, None);
    let report = bench.script(&Bench::options(), move |out| {
        save(out, "/a", &again);
        Ok(End::Whole)
    });
    let added = report.unwrap().summary.data_added;
    assert!(added < 100_000, "{added} bytes were stored again");
}

#[test]
fn a_partial_snapshot_is_kept_on_demand_and_is_never_the_latest() {
    let bench = Bench::new();
    let options = BackupOptions { save_partial: true, ..Bench::options() };
    let report = bench
        .script(&options, |out| {
            save(out, "/a", b"a");
            Ok(End::Stopped("cut off".to_owned()))
        })
        .unwrap();
    assert!(report.snapshot.is_some());
    let (_, snapshot) = bench.repository.snapshots().unwrap().pop().unwrap();
    assert!(snapshot.tags.contains(&PARTIAL_TAG.to_owned()));
    assert!(bench.repository.snapshot("latest", &SnapshotFilter::default()).is_err());
}

#[test]
fn a_source_that_cannot_start_is_an_error_and_is_told_so() {
    let bench = Bench::new();
    let error = bench.script(&Bench::options(), |_| Err(Fatal("no such module".to_owned()))).unwrap_err();
    assert_eq!(error.to_string(), "no such module");
    assert!(matches!(*bench.verdict.lock().unwrap(), Some(Verdict::Partial(_))));
    assert_eq!(bench.snapshots(), 0);
}

#[test]
fn a_cancelled_job_stops_its_source_and_leaves_no_snapshot() {
    let bench = Bench::new();
    *bench.job.cancelled.lock().unwrap() = Some(CancelReason::Interrupted);
    let report = bench
        .script(&Bench::options(), |out| match out.entry(entry("/a", FileKind::File)) {
            Err(stop) => Ok(End::Stopped(stop.0)),
            Ok(_) => Ok(End::Whole),
        })
        .unwrap();
    assert_eq!(report.verdict, Verdict::Partial("the job was interrupted".to_owned()));
    assert_eq!(bench.snapshots(), 0);
}

#[test]
fn a_silent_pipe_does_not_hold_up_a_cancelled_job() {
    let bench = Bench::new();
    let (reading, writing) = std::io::pipe().unwrap();
    let source = StreamSource::from_descriptor("stdin", reading.into(), Time::default());
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            *bench.job.cancelled.lock().unwrap() = Some(CancelReason::Interrupted);
        });
        backup(&bench.repository, &Bench::options(), &mut sources, &bench.job, &bench.log).unwrap()
    });
    drop(writing);
    assert!(matches!(report.verdict, Verdict::Partial(_)), "{:?}", report.verdict);
    assert_eq!(bench.snapshots(), 0);
}

#[test]
fn the_ledger_gives_back_what_was_announced_word_for_word_and_in_order() {
    let bench = Bench::new();
    let names = ["/z", "no/leading/slash", "/z", "../outside", "@virtual:/ name\u{e9}", "/dir/"];
    let report = bench
        .script(&Bench::options(), move |out| {
            for (at, name) in names.iter().enumerate() {
                let kind = if name.ends_with('/') { FileKind::Directory } else { FileKind::File };
                out.entry(entry(name, kind)).unwrap();
                out.data(Data::Bytes(format!("contents {at}").as_bytes())).unwrap();
                out.attr(Attr::Acl(vec![0, 1, 2])).unwrap();
                out.attr(Attr::Xattr { name: b"user.k".to_vec(), value: vec![255] }).unwrap();
                out.end(Ok(()));
            }
            Ok(End::Whole)
        })
        .unwrap();
    assert_eq!(report.verdict, Verdict::Complete);
    assert_eq!((report.summary.files_new, report.summary.dirs_new), (5, 1));
    let reader = bench.reader();
    let root = report.tree.unwrap();
    assert_eq!(ledger::sources(&reader, &root).unwrap(), ["script"]);
    let mut ledger = LedgerReader::open(&reader, &root, "script").unwrap();
    let job = ledger.header().job().unwrap();
    assert_eq!(job.definitions, ["secret:password=x"]);
    assert_eq!((ledger.header().adapter.as_str(), job.id), ("test", 7));
    let mut seen = 0;
    while let Some(record) = ledger.next_entry().unwrap() {
        assert_eq!(record.entry.name, names[seen].as_bytes());
        assert_eq!(record.entry.native, b"native");
        assert_eq!(record.attrs.len(), 2);
        let data: Vec<u8> =
            record.content.iter().flat_map(|id| reader.blob(BlobKind::Data, id).unwrap().to_vec()).collect();
        assert_eq!(data, format!("contents {seen}").as_bytes());
        seen += 1;
    }
    assert_eq!(seen, names.len());

    // Every blob that the ledger names is the content of some node: a prune by any program keeps it.
    let mut named = HashSet::new();
    nodes(&reader, &root, &mut |node| named.extend(node.content.iter().flatten().copied()));
    let mut ledger = LedgerReader::open(&reader, &root, "script").unwrap();
    while let Some(record) = ledger.next_entry().unwrap() {
        assert!(
            record.content.iter().all(|id| named.contains(id)),
            "{:?}",
            String::from_utf8_lossy(&record.entry.name)
        );
    }
    // A node's size is that of its contents, those of the folder that is kept for ourselves too; written anew or found
    // again makes no difference.
    let sizes = |root: &Id| {
        let mut sizes = Vec::new();
        let reader = bench.reader();
        nodes(&reader, root, &mut |node| {
            let Some(content) = &node.content else { return };
            let sum: u64 = content.iter().map(|id| reader.blob_length(BlobKind::Data, id).unwrap()).sum();
            assert_eq!(node.size, sum, "{}", String::from_utf8_lossy(&node.name));
            sizes.push((node.name.clone(), node.size));
        });
        sizes
    };
    let first = sizes(&root);
    assert!(first.iter().any(|(name, size)| name == b"content" && *size > 0), "{first:?}");
    let again = bench
        .script(&Bench::options(), |out| {
            save(out, "../outside", b"contents 3");
            Ok(End::Whole)
        })
        .unwrap();
    assert!(sizes(&again.tree.unwrap()).contains(&(b"content".to_vec(), 10)));
    // Only the owner may read it: definitions can hold passwords.
    let internal = reader.node_at(&root, b".backstay").unwrap().unwrap();
    assert_eq!(internal.unix_mode() & 0o777, 0o700);
    let file = reader.node_at(&root, b".backstay/script/ledger").unwrap().unwrap();
    assert_eq!(file.unix_mode() & 0o777, 0o600);
    // Of two entries with one name the later one is shown.
    assert_eq!(bench.read(&root, "z").unwrap(), b"contents 2");
}

fn nodes(reader: &Reader, tree: &Id, each: &mut dyn FnMut(&backstay_repository::Node)) {
    for node in &reader.tree(tree).unwrap().nodes {
        each(node);
        if let Some(subtree) = &node.subtree {
            nodes(reader, subtree, each);
        }
    }
}

#[test]
fn another_name_of_a_file_shows_the_same_contents() {
    let bench = Bench::new();
    let report = bench
        .script(&Bench::options(), |out| {
            let mut first = entry("/first", FileKind::File);
            first.stat.links = 2;
            out.entry(first).unwrap();
            out.data(Data::Bytes(b"shared")).unwrap();
            out.end(Ok(()));
            let mut second = entry("/second", FileKind::File);
            second.hard_link = true;
            second.link = b"/first".to_vec();
            out.entry(second).unwrap();
            out.end(Ok(()));
            Ok(End::Whole)
        })
        .unwrap();
    assert_eq!(bench.read(&report.tree.unwrap(), "second").unwrap(), b"shared");
}

#[test]
fn a_descriptor_that_cannot_be_read_fails_its_entry_only() {
    let bench = Bench::new();
    let report = bench
        .script(&Bench::options(), |out| {
            out.entry(entry("/bad", FileKind::File)).unwrap();
            let directory = std::fs::File::open("/").unwrap();
            let Err(DataError::Read(error)) = out.data(Data::Fd(directory.as_fd())) else {
                panic!("a directory was read as a file")
            };
            assert!(error.message.contains("/bad"), "{error}");
            out.end(Err(error));
            save(out, "/good", b"good");
            Ok(End::Whole)
        })
        .unwrap();
    assert_eq!((report.tally.saved, report.tally.failed), (1, 1));
    assert_eq!(report.verdict, Verdict::WithErrors);
}

#[test]
fn an_error_message_alone_keeps_a_backup_from_being_complete() {
    /// A source that says that something went wrong, and announces nothing that failed.
    struct Complaining;
    impl Source for Complaining {
        fn info(&self) -> SourceInfo {
            SourceInfo { name: "c".to_owned(), path: "/c".to_owned(), ..SourceInfo::default() }
        }
        fn run(&mut self, job: &dyn Job, _start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
            job.message(MessageLevel::Warning, "c", "only a warning");
            save(out, "/a", b"a");
            job.message(MessageLevel::Error, "c", "a table was left out");
            Ok(End::Whole)
        }
        fn finish(&mut self, _verdict: &Verdict) {}
    }
    let bench = Bench::new();
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Complaining)];
    let report = backup(&bench.repository, &Bench::options(), &mut sources, &bench.job, &bench.log).unwrap();
    assert_eq!(report.verdict, Verdict::WithErrors);
    assert_eq!(report.tally.saved, 1);
}

#[test]
fn folders_above_an_announced_name_look_as_they_do_on_the_host() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o710)).unwrap();
    let name = folder.path().join("file").to_str().unwrap().to_owned();
    let report = bench
        .script(&Bench::options(), move |out| {
            save(out, &name, b"x");
            Ok(End::Whole)
        })
        .unwrap();
    let path = folder.path().to_str().unwrap().trim_start_matches('/');
    let node = bench.reader().node_at(&report.tree.unwrap(), path.as_bytes()).unwrap().unwrap();
    assert_eq!(node.unix_mode() & 0o777, 0o710);
}

#[test]
fn job_numbers_are_found_in_the_repository() {
    let bench = Bench::new();
    bench
        .script(&Bench::options(), |out| {
            save(out, "/a", b"a");
            Ok(End::Whole)
        })
        .unwrap();
    assert_eq!(highest_job_id(&bench.repository.snapshots().unwrap()), 7);
}

#[test]
fn a_command_that_fails_makes_no_snapshot() {
    let bench = Bench::new();
    let command = |script: &str| {
        let words = ["sh", "-c", script].map(Into::into).to_vec();
        let source = StreamSource::from_command("dump.sql", words, Time::default());
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
        backup(&bench.repository, &Bench::options(), &mut sources, &bench.job, &bench.log).unwrap()
    };
    let report = command("echo half; echo trouble >&2; exit 3");
    assert!(matches!(&report.verdict, Verdict::Partial(reason) if reason.contains("sh") && reason.contains('3')));
    assert_eq!(bench.snapshots(), 0);
    assert!(bench.job.messages.lock().unwrap().iter().any(|line| line.contains("trouble")));
    let report = command("echo whole");
    assert_eq!(report.verdict, Verdict::Complete);
    assert_eq!(bench.read(&report.tree.unwrap(), "dump.sql").unwrap(), b"whole\n");
}

#[test]
fn an_unchanged_tree_is_not_saved_again_on_demand() {
    let bench = Bench::new();
    // Folders above a root are part of the snapshot: this one's stay as they are while other tests run.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(folder.path().join("file"), b"x").unwrap();
    bench.tree(folder.path());
    let options = BackupOptions { paths: vec![folder.path().to_owned()], skip_if_unchanged: true, ..Bench::options() };
    let report = backup(&bench.repository, &options, &mut [], &bench.job, &bench.log).unwrap();
    assert_eq!(report.snapshot, None);
    assert_eq!(report.verdict, Verdict::Complete);
    assert_eq!(bench.snapshots(), 1);
}

#[test]
fn nothing_to_back_up_is_an_error() {
    let bench = Bench::new();
    let error = backup(&bench.repository, &Bench::options(), &mut [], &bench.job, &bench.log).unwrap_err();
    assert!(error.to_string().contains("nothing to back up"), "{error}");
}

fn folder_of(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::write(folder.path().join(name), *name).unwrap();
    }
    folder
}

#[test]
fn files_that_a_walk_offers_are_taken_left_out_or_passed_on() {
    let bench = Bench::new();
    let folder = folder_of(&["taken", "passed", "skipped", "failed", "forgotten"]);
    let report = bench
        .offered(folder.path(), |out| {
            while let Some(offer) = out.offered().unwrap() {
                assert_eq!(offer.number, OFFERED);
                let name = String::from_utf8(offer.entry.name).unwrap();
                match name.rsplit('/').next().unwrap() {
                    "taken" => assert_eq!(save(out, &name, b"what the source makes of it"), Outcome::Saved),
                    "skipped" => out.decline(Declined::Skipped("a rule".to_owned())),
                    "failed" => out.decline(Declined::Failed(EntryError::new("no"))),
                    // Not answered at all.
                    "forgotten" => {}
                    _ => out.decline(Declined::Passed),
                }
            }
            save(out, "/own", b"own");
            Ok(End::Whole)
        })
        .unwrap();
    // Each counts once, as what the walk found; beside them the folder and the source's own file.
    assert_eq!(report.tally, Tally { announced: 7, saved: 4, skipped: 1, failed: 2, ..Tally::default() });
    assert_eq!(report.verdict, Verdict::WithErrors);
    let root = report.tree.unwrap();
    let read = |name: &str| bench.read(&root, &format!("{}/{name}", &folder.path().to_str().unwrap()[1..]));
    assert_eq!(read("taken").unwrap(), b"what the source makes of it");
    assert_eq!(read("passed").unwrap(), b"passed");
    assert_eq!((read("skipped"), read("failed"), read("forgotten")), (None, None, None));
    let mut ledger = LedgerReader::open(&bench.reader(), &root, "script").unwrap();
    let mut names = Vec::new();
    while let Some(record) = ledger.next_entry().unwrap() {
        names.push(String::from_utf8(record.entry.name).unwrap());
    }
    assert_eq!(names, [format!("{}/taken", folder.path().display()), "/own".to_owned()]);
}

#[test]
fn a_source_that_ends_before_the_walk_ends_the_job() {
    let folder = folder_of(&["one", "two", "three"]);
    let bench = Bench::new();
    let report = bench
        .offered(folder.path(), |out| {
            out.offered().unwrap();
            Ok(End::Stopped("it gave up".to_owned()))
        })
        .unwrap();
    assert_eq!(report.verdict, Verdict::Partial("it gave up".to_owned()));
    assert!(report.tally.balances() && report.snapshot.is_none());
    let error = bench.offered(folder.path(), |_| Err(Fatal("it cannot even start".to_owned()))).unwrap_err();
    assert_eq!(error.to_string(), "it cannot even start");
    // And the other way round: a walk that finds nothing lets go of the source.
    let nowhere = bench.offered(&folder.path().join("nowhere"), |out| match out.offered() {
        Err(stop) => Ok(End::Stopped(stop.0)),
        Ok(_) => panic!("there is nothing to offer"),
    });
    assert!(nowhere.unwrap_err().to_string().contains("nothing to back up"));
    assert_eq!(bench.snapshots(), 0);
}
