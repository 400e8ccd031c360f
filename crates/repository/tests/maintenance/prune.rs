//! Prune: room is given back, and nothing that a snapshot needs is lost, whoever else is at work and whenever it dies.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use backstay_core::{Id, ObjectKind, Store, StoreError, StoreErrorKind};
use backstay_repository::error::Error;
use backstay_repository::lock::LockTimes;
use backstay_repository::maintenance::forget::{ForgetOptions, forget};
use backstay_repository::maintenance::prune::{MaxUnused, Plan, PruneOptions, PruneReport, prune};
use backstay_repository::repository::OpenOptions;
use backstay_repository::{BlobKind, Repository};
use backstay_stores::MemoryStore;
use backstay_stores::faults::points::{AFTER_INDEX_LIST, AFTER_SNAPSHOT_LIST};
use backstay_stores::faults::{Call, Fault, FaultStore, Moment, Watch};

use crate::support::{assert_holds, back_up, check_all, init, noise, stored};

const LENGTH: usize = 3000;
const PACK: usize = 10_000;

/// Opened so that taking a lock does not take its time.
fn open(store: Arc<dyn Store>) -> Result<Arc<Repository>, Error> {
    let times = LockTimes { settle: std::time::Duration::ZERO, ..LockTimes::default() };
    let options = OpenOptions { lock_times: times, ..OpenOptions::default() };
    Ok(Arc::new(Repository::open_with(store, b"test", &options)?))
}

fn options() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), pack_size: PACK, ..PruneOptions::default() }
}

fn run(repository: &Arc<Repository>, options: &PruneOptions) -> Result<PruneReport, Error> {
    prune(repository, options, &(), &mut |_| {})
}

fn forget_one(repository: &Arc<Repository>, id: &Id) {
    let options = ForgetOptions { snapshots: vec![id.to_hex()], ..ForgetOptions::default() };
    let report = forget(repository, &options, &()).unwrap();
    assert_eq!(report.removed, [*id]);
}

fn bytes_of_packs(repository: &Repository) -> u64 {
    repository.store().list(ObjectKind::Pack).unwrap().iter().map(|(_, size)| size).sum()
}

/// A repository with a forgotten snapshot of seeds 1 to 8 and one of seeds 5 to 11 that stays.
fn worn(store: &Arc<MemoryStore>) -> (Arc<Repository>, Id) {
    drop(init(Arc::clone(store) as Arc<dyn Store>));
    let repository = open(Arc::clone(store) as Arc<dyn Store>).unwrap();
    let gone = back_up(&repository, 1, &[1, 5, 2, 6, 3, 7, 4, 8], LENGTH, PACK);
    let kept = back_up(&repository, 2, &[5, 6, 7, 8, 9, 10, 11], LENGTH, PACK);
    forget_one(&repository, &gone);
    (repository, kept)
}

const KEPT: [u64; 7] = [5, 6, 7, 8, 9, 10, 11];

fn assert_tidy(repository: &Arc<Repository>, kept: &Id) {
    assert_holds(repository, kept, &KEPT, LENGTH);
    let report = check_all(repository);
    assert_eq!((report.errors, report.hints), (Vec::new(), Vec::new()));
    let report = run(repository, &options()).unwrap();
    assert_eq!(report.stats.blobs.unused + report.stats.blobs.duplicate, 0);
    assert_eq!((report.deleted_packs, report.copied_bytes, report.index_written), (0, 0, 0), "{report:?}");
}

#[test]
fn what_no_snapshot_needs_goes_and_the_rest_stays() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let before = bytes_of_packs(&repository);
    let report = run(&repository, &options()).unwrap();
    assert_eq!((report.stats.blobs.used, report.stats.blobs.unused), (7 + 2, 4 + 2));
    assert!(report.copied_bytes > 0 && report.deleted_packs > 0, "{report:?}");
    let after = bytes_of_packs(&repository);
    assert!(after < before - 4 * LENGTH as u64, "{before} to {after}");
    assert_tidy(&repository, &kept);
    assert_eq!(stored(&repository, ObjectKind::Lock), []);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_go() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let before = store.objects();
    let all = options();
    let report = run(&repository, &PruneOptions { dry_run: true, ..all.clone() }).unwrap();
    assert_eq!(report.stats.blobs.unused, 6);
    let everything = PruneOptions { dry_run: true, without_snapshots: vec![kept], ..all };
    assert_eq!(run(&repository, &everything).unwrap().stats.blobs.used, 0);
    assert!(run(&repository, &PruneOptions { dry_run: false, ..everything }).is_err(), "that would lose a snapshot");
    assert_eq!(store.objects(), before);
}

#[test]
fn as_much_as_is_tolerated_stays_unused() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let lazy = PruneOptions { max_unused: MaxUnused::Unlimited, ..options() };
    let report = run(&repository, &lazy).unwrap();
    assert_eq!(report.copied_bytes, 0);
    assert!(report.stats.unused_after() > 0 && report.deleted_packs > 0, "{report:?}");
    let nothing = PruneOptions { max_repack_size: Some(0), ..options() };
    let report = run(&repository, &nothing).unwrap();
    assert_eq!((report.copied_bytes, report.stats.packfiles.repack), (0, 0));
    let trees = PruneOptions { repack_cacheable_only: true, ..options() };
    run(&repository, &trees).unwrap();
    let report = run(&repository, &trees).unwrap();
    assert_eq!(report.copied_bytes, 0);
    assert_holds(&repository, &kept, &KEPT, LENGTH);
    assert_eq!(check_all(&repository).errors, [""; 0]);
}

#[test]
fn what_a_backup_reused_between_the_two_steps_stays() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let mut plan = Plan::make(&repository, &options(), &()).unwrap();
    // It begins before the copies are there, reuses what the plan lets go, and ends before the commit.
    let early = back_up(&repository, 3, &[1, 2, 3, 4], LENGTH, PACK);
    plan.copy(&()).unwrap();
    let late = back_up(&repository, 4, &[2, 5, 12], LENGTH, PACK);
    let lock = repository.lock(true, None).unwrap();
    let report = plan.commit(&lock, &()).unwrap();
    drop(lock);
    assert!(report.kept_back > 0, "{report:?}");
    let all = || {
        assert_holds(&repository, &kept, &KEPT, LENGTH);
        assert_holds(&repository, &early, &[1, 2, 3, 4], LENGTH);
        assert_holds(&repository, &late, &[2, 5, 12], LENGTH);
        assert_eq!(check_all(&repository).errors, [""; 0]);
    };
    all();
    run(&repository, &options()).unwrap();
    all();
    let report = run(&repository, &options()).unwrap();
    assert_eq!((report.stats.blobs.unused, report.stats.blobs.duplicate, report.deleted_packs), (0, 0, 0));
}

#[test]
fn packs_of_a_backup_that_has_not_listed_them_yet_stay() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let writer = crate::support::writer(&repository, PACK);
    let seeds = [21, 22, 23, 24, 25, 26, 27, 28];
    let tree = crate::support::write_tree(&writer, &seeds, LENGTH);
    let plan = Plan::make(&repository, &options(), &()).unwrap();
    assert!(plan.stats().packfiles.unref > 0, "the backup has stored packs");
    writer.finish().unwrap();
    let snapshot = crate::support::save_snapshot(&repository, 3, tree);
    let lock = repository.lock(true, None).unwrap();
    plan.commit(&lock, &()).unwrap();
    assert_holds(&repository, &snapshot, &seeds, LENGTH);
    assert_holds(&repository, &kept, &KEPT, LENGTH);
    assert_eq!(check_all(&repository).errors, [""; 0]);
}

#[test]
fn packs_that_a_killed_backup_left_behind_go() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let writer = crate::support::writer(&repository, PACK);
    crate::support::write_tree(&writer, &[21, 22, 23, 24, 25, 26, 27, 28], LENGTH);
    drop(writer);
    let report = run(&repository, &options()).unwrap();
    assert!(report.stats.packfiles.unref > 0 && report.stats.bytes.unref > 0, "{report:?}");
    assert_tidy(&repository, &kept);
}

#[test]
fn of_two_prunes_that_prepared_at_once_both_may_commit() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let mut one = Plan::make(&repository, &options(), &()).unwrap();
    let mut other = Plan::make(&repository, &options(), &()).unwrap();
    one.copy(&()).unwrap();
    other.copy(&()).unwrap();
    for plan in [one, other] {
        let lock = repository.lock(true, None).unwrap();
        plan.commit(&lock, &()).unwrap();
        assert_holds(&repository, &kept, &KEPT, LENGTH);
        assert_eq!(check_all(&repository).errors, [""; 0]);
    }
    run(&repository, &options()).unwrap();
    assert_tidy(&repository, &kept);
}

#[test]
fn what_a_preparation_copied_is_not_copied_again() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let mut plan = Plan::make(&repository, &options(), &()).unwrap();
    plan.copy(&()).unwrap();
    assert!(plan.report().copied_bytes > 0);
    drop(plan);
    let report = run(&repository, &options()).unwrap();
    assert!(report.stats.blobs.duplicate > 0);
    assert_eq!(report.copied_bytes, 0, "{report:?}");
    assert_tidy(&repository, &kept);
}

#[test]
fn a_commit_that_is_locked_out_keeps_what_was_prepared() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let backup = repository.lock(false, None).unwrap();
    let error = run(&repository, &options()).unwrap_err();
    assert!(matches!(error, Error::NotCommitted(_)), "{error}");
    assert!(error.to_string().contains("\"backstay prune\" again finishes it"), "{error}");
    assert_holds(&repository, &kept, &KEPT, LENGTH);
    drop(backup);
    assert_eq!(run(&repository, &options()).unwrap().copied_bytes, 0);
    assert_tidy(&repository, &kept);
}

#[test]
fn a_needed_pack_that_is_missing_or_cut_off_stops_everything_before_anything_is_deleted() {
    let store = Arc::new(MemoryStore::default());
    let (repository, _) = worn(&store);
    let index = repository.load_index().unwrap();
    let pack = index.get(BlobKind::Data, &Id::of(&noise(11, LENGTH))).unwrap().pack;
    let body = store.get(ObjectKind::Pack, &pack, None).unwrap();
    store.damage(ObjectKind::Pack, &pack, &body[..body.len() - 1]);
    let before = store.objects();
    let error = run(&repository, &options()).unwrap_err().to_string();
    assert!(error.contains(&pack.to_hex()) && error.contains("nothing was deleted"), "{error}");
    assert_eq!(store.objects(), before);
    store.delete(ObjectKind::Pack, &pack).unwrap();
    let before = store.objects();
    let error = run(&repository, &options()).unwrap_err().to_string();
    assert!(error.contains(&pack.to_hex()) && error.contains("is not stored"), "{error}");
    assert_eq!(store.objects(), before);
}

#[test]
fn a_pack_that_vanishes_between_the_steps_stops_the_commit() {
    let store = Arc::new(MemoryStore::default());
    let (repository, _) = worn(&store);
    let mut plan = Plan::make(&repository, &options(), &()).unwrap();
    let old = stored(&repository, ObjectKind::Pack);
    plan.copy(&()).unwrap();
    // The copies are gone; what they were made of is the only copy again.
    for pack in stored(&repository, ObjectKind::Pack).into_iter().filter(|pack| !old.contains(pack)) {
        store.delete(ObjectKind::Pack, &pack).unwrap();
    }
    let lock = repository.lock(true, None).unwrap();
    let report = plan.commit(&lock, &()).unwrap();
    assert!(report.kept_back > 0);
    for (_, snapshot) in repository.snapshots().unwrap() {
        assert!(!snapshot.tree.is_null());
    }
    let kept = repository.snapshots().unwrap()[0].0;
    assert_holds(&repository, &kept, &KEPT, LENGTH);
}

#[test]
fn a_damaged_blob_that_is_worth_keeping_is_not_copied() {
    let store = Arc::new(MemoryStore::default());
    let (repository, _) = worn(&store);
    let index = repository.load_index().unwrap();
    // It shares its pack with others that nobody needs, or else the pack is not copied.
    let id = Id::of(&noise(5, LENGTH));
    let place = index.get(BlobKind::Data, &id).unwrap();
    let mut body = store.get(ObjectKind::Pack, &place.pack, None).unwrap();
    body[place.offset as usize + 20] ^= 1;
    store.damage(ObjectKind::Pack, &place.pack, &body);
    let before = stored(&repository, ObjectKind::Pack);
    let error = run(&repository, &options()).unwrap_err().to_string();
    assert!(error.contains(&id.to_hex()) && error.contains(&place.pack.to_hex()), "{error}");
    let after = stored(&repository, ObjectKind::Pack);
    assert!(before.iter().all(|pack| after.contains(pack)), "nothing was deleted");
}

#[test]
fn a_snapshot_that_cannot_be_read_stops_everything_until_it_is_forgotten() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let other = back_up(&repository, 3, &[31], LENGTH, PACK);
    let body = store.get(ObjectKind::Snapshot, &other, None).unwrap();
    store.damage(ObjectKind::Snapshot, &other, &body[1..]);
    let before = store.objects();
    let error = run(&repository, &options()).unwrap_err().to_string();
    assert!(error.contains(&format!("backstay forget {}", other.short())), "{error}");
    assert_eq!(store.objects(), before);
    forget_one(&repository, &other);
    run(&repository, &options()).unwrap();
    assert_tidy(&repository, &kept);
}

#[test]
fn a_tree_that_cannot_be_read_stops_everything_and_is_named() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let tree = repository.load_snapshot(&kept).unwrap().tree;
    let place = repository.load_index().unwrap().get(BlobKind::Tree, &tree).unwrap();
    let mut body = store.get(ObjectKind::Pack, &place.pack, None).unwrap();
    body[place.offset as usize + 20] ^= 1;
    store.damage(ObjectKind::Pack, &place.pack, &body);
    let before = store.objects();
    let error = run(&repository, &options()).unwrap_err().to_string();
    assert!(error.contains(&kept.short()) && error.contains(&tree.to_hex()), "{error}");
    assert_eq!(store.objects(), before);
}

/// The index as rustic's prune leaves it: these packs are marked for deletion, the others are in use.
fn mark(repository: &Repository, marked: impl Fn(&Id) -> bool) {
    let index = repository.load_index().unwrap();
    let list = |wanted: bool| {
        let packs: Vec<serde_json::Value> = index
            .packs()
            .filter(|(pack, _)| marked(pack) == wanted)
            .map(|(pack, _)| {
                let blobs: Vec<serde_json::Value> = index
                    .pack_blobs(&pack)
                    .iter()
                    .map(|blob| {
                        let mut value = serde_json::json!({"id": blob.id, "type": blob.kind.name(),
                            "offset": blob.offset, "length": blob.length});
                        if let Some(length) = blob.uncompressed {
                            value["uncompressed_length"] = length.get().into();
                        }
                        value
                    })
                    .collect();
                serde_json::json!({"id": pack, "time": "2026-01-01T00:00:00Z", "blobs": blobs})
            })
            .collect();
        packs
    };
    let json = serde_json::json!({"packs": list(false), "packs_to_delete": list(true)});
    let old = stored(repository, ObjectKind::Index);
    repository.save_unpacked(ObjectKind::Index, &serde_json::to_vec(&json).unwrap()).unwrap();
    repository.store().delete_all(ObjectKind::Index, &old).unwrap();
}

#[test]
fn what_is_used_and_lives_only_in_a_marked_pack_is_listed_again() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let index = repository.load_index().unwrap();
    let needed = index.get(BlobKind::Data, &Id::of(&noise(11, LENGTH))).unwrap().pack;
    mark(&repository, |pack| *pack == needed);
    assert!(!repository.load_index().unwrap().contains(BlobKind::Data, &Id::of(&noise(11, LENGTH))));
    run(&repository, &options()).unwrap();
    assert_tidy(&repository, &kept);
    assert!(repository.load_index().unwrap().marked_packs().is_empty());
}

#[test]
fn marked_packs_that_nobody_needs_go_with_their_marks() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let gone = back_up(&repository, 3, &[41, 42, 43, 44, 45, 46], LENGTH, PACK);
    forget_one(&repository, &gone);
    let index = repository.load_index().unwrap();
    let unneeded = index.get(BlobKind::Data, &Id::of(&noise(42, LENGTH))).unwrap().pack;
    mark(&repository, |pack| *pack == unneeded);
    run(&repository, &options()).unwrap();
    assert!(!stored(&repository, ObjectKind::Pack).contains(&unneeded));
    assert!(repository.load_index().unwrap().marked_packs().is_empty());
    assert_tidy(&repository, &kept);
}

#[test]
fn many_small_index_files_become_one() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    for number in 0..20 {
        back_up(&repository, 10 + number, &[50 + number as u64], LENGTH, PACK);
    }
    assert!(stored(&repository, ObjectKind::Index).len() > 20);
    run(&repository, &PruneOptions { max_unused: MaxUnused::Unlimited, ..options() }).unwrap();
    assert_eq!(stored(&repository, ObjectKind::Index).len(), 1);
    assert_holds(&repository, &kept, &KEPT, LENGTH);
    assert_eq!(check_all(&repository).errors, [""; 0]);
}

#[test]
fn small_packs_are_put_together_when_that_is_asked_for() {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    run(&repository, &options()).unwrap();
    for number in 0..12 {
        back_up(&repository, 10 + number, &[50 + number as u64], LENGTH, PACK);
    }
    let before = stored(&repository, ObjectKind::Pack).len();
    run(&repository, &options()).unwrap();
    let unasked = stored(&repository, ObjectKind::Pack).len();
    let small = PruneOptions { repack_small: true, ..options() };
    run(&repository, &small).unwrap();
    let asked = stored(&repository, ObjectKind::Pack).len();
    assert!(unasked > before / 2 && asked + 8 < unasked, "{before}, {unasked}, {asked}");
    assert_holds(&repository, &kept, &KEPT, LENGTH);
    assert_eq!(check_all(&repository).errors, [""; 0]);
    assert_eq!(run(&repository, &small).unwrap().copied_bytes, 0, "once is enough");
}

/// A store whose client dies at a call: that call and each later one fail, the first one before or after it was done.
#[derive(Debug)]
struct Mortal {
    inner: Arc<MemoryStore>,
    left: AtomicI64,
    after: bool,
    dead: AtomicBool,
    /// It takes no more packs.
    full: bool,
    /// It does not delete this object.
    clings_to: Option<Id>,
}

impl Mortal {
    fn new(inner: &Arc<MemoryStore>, calls: i64, after: bool) -> Arc<Self> {
        let inner = Arc::clone(inner);
        Arc::new(Self {
            inner,
            left: AtomicI64::new(calls),
            after,
            dead: AtomicBool::new(false),
            full: false,
            clings_to: None,
        })
    }

    fn call<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let dead = || StoreError::new(StoreErrorKind::Other, "call", "store", "the client is dead");
        if self.dead.load(Ordering::SeqCst) {
            return Err(dead());
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return work();
        }
        self.dead.store(true, Ordering::SeqCst);
        if self.after {
            work()?;
        }
        Err(dead())
    }
}

impl Store for Mortal {
    fn location(&self) -> String {
        "mortal".to_owned()
    }

    fn calls_at_once(&self) -> usize {
        1
    }

    fn create(&self) -> Result<(), StoreError> {
        self.call(|| self.inner.create())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        if self.full && kind == ObjectKind::Pack {
            return Err(StoreError::new(StoreErrorKind::Full, "write", "pack", "No space left on device"));
        }
        self.call(|| self.inner.put(kind, id, body))
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.call(|| self.inner.get(kind, id, range))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.call(|| self.inner.list(kind))
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.call(|| self.inner.size(kind, id))
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        if self.clings_to == Some(*id) {
            return Err(StoreError::new(StoreErrorKind::Denied, "delete", "object", "Operation not permitted"));
        }
        self.call(|| self.inner.delete(kind, id))
    }
}

/// Lets prunes die at their first call, at their second one, and so on until one lives to its end; whatever they leave
/// behind, the snapshot is whole, and the next prune finishes.
fn dies_at_every_call(after: bool) {
    let store = Arc::new(MemoryStore::default());
    let (repository, kept) = worn(&store);
    let writer = crate::support::writer(&repository, PACK);
    crate::support::write_tree(&writer, &[61, 62, 63, 64, 65], LENGTH);
    drop(writer);
    mark(&repository, |_| false);
    let mut deaths = 0;
    loop {
        let copy = Arc::new(store.copy());
        let mortal = Mortal::new(&copy, i64::MAX, after);
        let repository = open(Arc::clone(&mortal) as Arc<dyn Store>).unwrap();
        mortal.left.store(deaths, Ordering::SeqCst);
        let result = run(&repository, &options());
        let lived = !mortal.dead.load(Ordering::SeqCst);
        assert!(!lived || result.is_ok(), "{result:?}");
        drop(repository);

        let repository = open(Arc::clone(&copy) as Arc<dyn Store>).unwrap();
        let locks = stored(&repository, ObjectKind::Lock);
        copy.delete_all(ObjectKind::Lock, &locks).unwrap();
        assert_holds(&repository, &kept, &KEPT, LENGTH);
        assert_eq!(check_all(&repository).errors, [""; 0], "died at call {deaths}");
        run(&repository, &options()).unwrap();
        assert_tidy(&repository, &kept);
        if lived {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 20, "a prune makes more than {deaths} calls");
}

#[test]
fn a_prune_that_dies_before_any_call_loses_nothing_and_the_next_one_finishes() {
    dies_at_every_call(false);
}

#[test]
fn a_prune_that_dies_after_any_call_loses_nothing_and_the_next_one_finishes() {
    dies_at_every_call(true);
}

#[test]
fn a_full_store_ends_the_preparation_and_nothing_is_lost() {
    let store = Arc::new(MemoryStore::default());
    let (_, kept) = worn(&store);
    let before = store.objects();
    let inner = Arc::clone(&store);
    let full = Mortal { inner, left: i64::MAX.into(), after: false, dead: false.into(), full: true, clings_to: None };
    let error = run(&open(Arc::new(full)).unwrap(), &options()).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(store.objects(), before);
    let repository = open(store as Arc<dyn Store>).unwrap();
    assert_holds(&repository, &kept, &KEPT, LENGTH);
    run(&repository, &options()).unwrap();
    assert_tidy(&repository, &kept);
}

/// Backs up once, when a call is held up.
#[derive(Debug)]
struct BackUp(Arc<MemoryStore>);

impl Watch for BackUp {
    fn delayed(&self, _call: &Call, _moment: Moment) {
        let other = open(self.0.clone()).unwrap();
        back_up(&other, 9, &[77], LENGTH, PACK);
    }
}

#[test]
fn a_backup_that_ends_while_a_prune_looks_around_is_not_taken_for_damage() {
    for point in [AFTER_INDEX_LIST, AFTER_SNAPSHOT_LIST] {
        let inner = Arc::new(MemoryStore::default());
        worn(&inner);
        let store = FaultStore::new(inner.clone()).watched_by(Arc::new(BackUp(inner.clone())));
        store.arm(point, 1, Fault::Delay);
        let repository = open(Arc::new(store)).unwrap();
        run(&repository, &options()).unwrap();
        assert_eq!(repository.snapshots().unwrap().len(), 2, "{}: the backup ended meanwhile", point.name);
        check_all(&repository);
    }
}

#[test]
fn a_snapshot_that_cannot_be_deleted_keeps_no_other_from_going() {
    let store = Arc::new(MemoryStore::default());
    let (repository, _) = worn(&store);
    let more = [3, 4, 5].map(|seconds| back_up(&repository, seconds, &[5], LENGTH, PACK));
    let inner = Arc::clone(&store);
    let clinging = Mortal {
        inner,
        left: i64::MAX.into(),
        after: false,
        dead: false.into(),
        full: false,
        clings_to: Some(more[0]),
    };
    let repository = open(Arc::new(clinging)).unwrap();
    let names = more.iter().map(Id::to_hex).collect();
    let report = forget(&repository, &ForgetOptions { snapshots: names, ..ForgetOptions::default() }, &()).unwrap();
    assert_eq!(report.removed, more[1..]);
    assert_eq!(report.failed.len(), 1);
    assert!(report.failed[0].0 == more[0] && report.failed[0].1.to_string().contains("not permitted"));
    let left = stored(&repository, ObjectKind::Snapshot);
    assert!(left.contains(&more[0]) && !left.contains(&more[1]) && !left.contains(&more[2]));
}
