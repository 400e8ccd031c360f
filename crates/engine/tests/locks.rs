//! The lock of a backup: what happens when somebody else's comes at the same moment.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::ops::Range;
use std::sync::{Arc, Mutex};

use backstay_core::{CancelReason, FileKind, Id, Job, MessageLevel, ObjectKind, Outcome, Store, StoreError};
use backstay_engine::backup::{BackupOptions, ParentChoice, backup};
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::lock::{LockTimes, SettlingLock};
use backstay_repository::{Error, InitOptions, OpenOptions, Repository, WriteOptions};
use backstay_stores::LocalStore;

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
