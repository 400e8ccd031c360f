//! The lock of a backup: what happens when somebody else's comes at the same moment.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::ops::Range;
use std::sync::{Arc, Mutex};

use backstay_core::{CancelReason, FileKind, Id, Job, MessageLevel, ObjectKind, Outcome, Store, StoreError, Time};
use backstay_engine::backup::{BackupOptions, ParentChoice, backup};
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::lock::{LockTimes, SettlingLock};
use backstay_repository::{Error, InitOptions, OpenOptions, Repository, WriteOptions};
use backstay_stores::faults::{Call, FaultStore, Watch};
use backstay_stores::{LocalStore, MemoryStore};

/// A store in which somebody else writes an exclusive lock just before our first one is written.
#[derive(Debug)]
struct Crossing {
    inner: LocalStore,
    other: Mutex<Option<Arc<Repository>>>,
    theirs: Mutex<Option<SettlingLock>>,
}

impl Store for Crossing {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }
    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        if kind == ObjectKind::Lock
            && let Some(other) = self.other.lock().unwrap().take()
        {
            *self.theirs.lock().unwrap() = Some(other.begin_lock(true).unwrap());
        }
        self.inner.put(kind, id, body)
    }
    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.inner.get(kind, id, range)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.inner.list(kind)
    }
    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.inner.size(kind, id)
    }
    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.inner.delete(kind, id)
    }
}

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

#[test]
fn a_backup_that_crosses_an_exclusive_lock_ends_without_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), b"contents").unwrap();
    let place = folder.path().join("repository");
    let kdf = KdfParams { log_n: 4, r: 1, p: 1 };
    Repository::init(Arc::new(LocalStore::new(&place)), b"x", InitOptions { kdf, ..InitOptions::default() }).unwrap();
    let open = |store: Arc<dyn Store>| Arc::new(Repository::open(store, b"x").unwrap());
    let other = open(Arc::new(LocalStore::new(&place)));

    for retry in [false, true] {
        let crossing = Arc::new(Crossing {
            inner: LocalStore::new(&place),
            other: Mutex::new(Some(Arc::clone(&other))),
            theirs: Mutex::default(),
        });
        let times = LockTimes { first_retry: std::time::Duration::from_millis(1), ..LockTimes::default() };
        let options = OpenOptions { lock_times: times, ..OpenOptions::default() };
        let store: Arc<dyn Store> = Arc::clone(&crossing) as _;
        let repository = Arc::new(Repository::open_with(store, b"x", &options).unwrap());
        let options = BackupOptions {
            paths: vec![tree.clone()],
            tree: TreeOptions::default(),
            host: "host".to_owned(),
            username: "user".to_owned(),
            tags: Vec::new(),
            time: backstay_engine::backup::now(),
            parent: ParentChoice::Newest,
            skip_if_unchanged: false,
            dry_run: false,
            save_partial: true,
            retry_lock: retry.then_some(std::time::Duration::from_millis(300)),
            write: WriteOptions::default(),
        };
        let error = backup(&repository, &options, &mut [], &Quiet, &Quiet).unwrap_err();
        assert!(matches!(error, Error::Locked(_)), "{error}");
        assert!(repository.snapshots().unwrap().is_empty());
        let locks = repository.locks().unwrap();
        assert_eq!(locks.len(), 1, "ours is gone, theirs is not touched");
        assert!(locks[0].1.exclusive);

        let theirs = crossing.theirs.lock().unwrap().take().unwrap();
        theirs.settle().unwrap();
        assert!(repository.locks().unwrap().is_empty());
    }
    let report = {
        let options = BackupOptions {
            paths: vec![tree],
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
        };
        backup(&other, &options, &mut [], &Quiet, &Quiet).unwrap()
    };
    assert!(report.snapshot.is_some());
    assert!(other.locks().unwrap().is_empty());
}

/// Writes down every call of the store.
#[derive(Debug, Default)]
struct Calls(Mutex<Vec<String>>);

impl Watch for Calls {
    fn applied(&self, call: &Call, _id: &Id) {
        self.0.lock().unwrap().push(call.to_string());
    }
}

#[test]
fn in_turn_a_backup_makes_the_same_calls_each_time_and_its_lock_settles_after_the_walk() {
    let folder = tempfile::tempdir().unwrap();
    for name in 0..20_u32 {
        let bytes: Vec<u8> = (0..2000).flat_map(|at: u32| (at * 7919 + name).to_le_bytes()).collect();
        let below = folder.path().join(format!("folder-{}", name % 4));
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join(name.to_string()), bytes).unwrap();
    }
    let run = || {
        let store = Arc::new(MemoryStore::default());
        let kdf = KdfParams { log_n: 4, r: 1, p: 1 };
        Repository::init(store.clone(), b"x", InitOptions { kdf, ..InitOptions::default() }).unwrap();
        let calls = Arc::new(Calls::default());
        let watched = Arc::new(FaultStore::new(store).watched_by(Arc::clone(&calls) as _));
        let options = OpenOptions { in_turn: true, ..OpenOptions::default() };
        let repository = Arc::new(Repository::open_with(watched, b"x", &options).unwrap());
        // The second one reads the first one's trees, and always has something to store: times of the folders above may have
        // changed or not.
        for seconds in 0..2 {
            std::fs::write(folder.path().join("changing"), [u8::try_from(seconds).unwrap(); 100]).unwrap();
            let options = BackupOptions {
                paths: vec![folder.path().to_owned()],
                tree: TreeOptions::default(),
                host: "host".to_owned(),
                username: "user".to_owned(),
                tags: Vec::new(),
                time: Time { seconds, nanoseconds: 0 },
                parent: ParentChoice::Newest,
                skip_if_unchanged: false,
                dry_run: false,
                save_partial: false,
                retry_lock: None,
                write: WriteOptions { pack_size: 10_000, ..WriteOptions::default() },
            };
            assert!(backup(&repository, &options, &mut [], &Quiet, &Quiet).unwrap().snapshot.is_some());
        }
        std::mem::take(&mut *calls.0.lock().unwrap())
    };
    let first = run();
    for _ in 0..5 {
        assert_eq!(run(), first);
    }
    let at = |call: &str| first.iter().position(|one| one == call).unwrap_or_else(|| panic!("{call} in {first:?}"));
    assert!(at("Put lock #1") < at("Put pack #1"));
    assert!(at("Put pack #3") < at("List lock #2"), "{first:?}");
    assert!(at("List lock #2") < at("Put snapshot #1"));
}
