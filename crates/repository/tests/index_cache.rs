//! The index cache from outside: what it knows is not read from the store, and what is wrong with it is never believed.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use backstay_core::{Id, ObjectKind, Store, StoreError};
use backstay_repository::index::encode_index_file;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{BlobKind, Index, IndexCache, InitOptions, OpenOptions, PackBlob, Repository};
use backstay_stores::LocalStore;

/// A local store that counts how many index files are read.
#[derive(Debug)]
struct Counting {
    inner: LocalStore,
    read: Arc<AtomicUsize>,
}

impl Store for Counting {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }
    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.inner.put(kind, id, body)
    }
    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        if kind == ObjectKind::Index {
            self.read.fetch_add(1, Ordering::Relaxed);
        }
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

struct World {
    folder: tempfile::TempDir,
    read: Arc<AtomicUsize>,
    told: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), read: Arc::default(), told: Arc::default() };
        let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
        Repository::init(Arc::new(LocalStore::new(world.path("repository"))), b"test", options).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Repository {
        self.open_at(&self.path("repository"))
    }

    fn open_at(&self, place: &Path) -> Repository {
        let store = Counting { inner: LocalStore::new(place), read: Arc::clone(&self.read) };
        let told = Arc::clone(&self.told);
        let cache = IndexCache::new(self.path("cache")).telling(move |text| told.lock().unwrap().push(text.to_owned()));
        let options = OpenOptions { cache: Some(cache), ..OpenOptions::default() };
        Repository::open_with(Arc::new(store), b"test", &options).unwrap()
    }

    /// Opens the repository anew and loads its index; says how many index files were read for it.
    fn load(&self) -> (Index, usize) {
        let before = self.read.load(Ordering::Relaxed);
        let index = self.open().load_index().unwrap();
        (index, self.read.load(Ordering::Relaxed) - before)
    }

    /// What the index is without a cache.
    fn truth(&self) -> Listing {
        let store = Arc::new(LocalStore::new(self.path("repository")));
        listing(&Repository::open(store, b"test").unwrap().load_index().unwrap())
    }

    /// What was told since the last call.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// The cache's files of this repository.
    fn files(&self) -> Vec<PathBuf> {
        let folder = self.path("cache").join(self.open().config().id.to_hex());
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn names(&self) -> Vec<String> {
        self.files().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}

type Listing = (BTreeSet<(Id, Id, bool, u32, u32, Option<NonZeroU32>)>, BTreeSet<Id>, BTreeSet<Id>);

/// Everything that an index says.
fn listing(index: &Index) -> Listing {
    let mut blobs = BTreeSet::new();
    for (pack, blob) in index.blobs() {
        let tree = blob.kind == BlobKind::Tree;
        assert!(blobs.insert((blob.id, pack, tree, blob.offset, blob.length, blob.uncompressed)), "listed twice");
        let places: Vec<_> = index.get_all(blob.kind, &blob.id).collect();
        assert!(places.iter().any(|place| place.pack == pack && place.offset == blob.offset), "not found: {}", blob.id);
        assert!(index.pack_blobs(&pack).contains(&blob));
    }
    assert_eq!(blobs.len(), index.len());
    let packs = index.packs().map(|(pack, _)| pack).collect();
    (blobs, packs, index.marked_packs().iter().copied().collect())
}

fn blob(number: u32, kind: BlobKind, offset: u32) -> PackBlob {
    PackBlob {
        id: Id::of(&number.to_le_bytes()),
        kind,
        offset,
        length: 100 + number % 50,
        uncompressed: NonZeroU32::new(number % 3),
    }
}

/// Packs of ten blobs each with the numbers from `first`.
fn packs(first: u32, count: u32) -> Vec<(Id, Vec<PackBlob>)> {
    (first..first + count)
        .map(|pack| {
            let kind = if pack % 4 == 3 { BlobKind::Tree } else { BlobKind::Data };
            let blobs = (0..10).map(|at| blob(pack * 10 + at, kind, at * 200)).collect();
            (Id::of(format!("pack {pack}").as_bytes()), blobs)
        })
        .collect()
}

fn save(repository: &Repository, packs: &[(Id, Vec<PackBlob>)]) -> Id {
    repository.save_unpacked(ObjectKind::Index, &encode_index_file(packs)).unwrap()
}

#[test]
fn what_the_cache_knows_is_not_read_from_the_store() {
    let world = World::new();
    for file in 0..5 {
        save(&world.open(), &packs(file * 100, 100));
    }
    let (cold, read) = world.load();
    assert_eq!((cold.len(), read), (5000, 5));
    for _ in 0..2 {
        let (warm, read) = world.load();
        assert_eq!(read, 0);
        assert_eq!(listing(&warm), world.truth());
    }
    assert_eq!(world.names(), ["base"]);
    assert_eq!(world.told(), [""; 0]);
}

#[test]
fn only_new_index_files_are_read_and_many_parts_become_one_base() {
    let world = World::new();
    save(&world.open(), &packs(0, 20));
    assert_eq!(world.load().1, 1);
    for file in 1..40 {
        save(&world.open(), &packs(file * 20, 20));
        let (index, read) = world.load();
        assert_eq!((index.len(), read), ((file as usize + 1) * 200, 1));
        assert!(world.names().len() <= 33, "{:?}", world.names());
    }
    assert!(world.names().len() < 33, "a new base was made: {:?}", world.names());
    let (index, read) = world.load();
    assert_eq!(read, 0);
    assert_eq!(listing(&index), world.truth());
    assert_eq!(world.told(), [""; 0]);
}

#[test]
fn an_index_larger_than_one_piece_comes_back_whole() {
    let world = World::new();
    // More than one block of records and one piece of the table.
    for file in 0..5 {
        save(&world.open(), &packs(file * 8_000, 8_000));
    }
    let (cold, read) = world.load();
    assert_eq!((cold.len(), read), (400_000, 5));
    let (warm, read) = world.load();
    assert_eq!(read, 0);
    assert!(warm.memory() < 60 * warm.len(), "{} bytes a blob", warm.memory() / warm.len());
    for (pack, blobs) in packs(0, 40_000) {
        assert_eq!(warm.pack_blobs(&pack), blobs);
        for blob in blobs {
            assert_eq!(warm.get(blob.kind, &blob.id).unwrap().pack, pack);
        }
    }
    for number in 400_000..420_000_u32 {
        assert!(!warm.contains(BlobKind::Data, &Id::of(&number.to_le_bytes())));
    }
}

#[test]
fn an_index_file_that_is_gone_is_forgotten() {
    let world = World::new();
    let gone = save(&world.open(), &packs(0, 50));
    save(&world.open(), &packs(50, 50));
    world.load();
    save(&world.open(), &packs(100, 5));
    world.load();
    world.open().store().delete(ObjectKind::Index, &gone).unwrap();
    let (index, read) = world.load();
    assert_eq!((index.len(), read), (550, 0));
    assert!(!index.contains(BlobKind::Data, &Id::of(&0_u32.to_le_bytes())));
    assert_eq!(listing(&index), world.truth());
    assert_eq!(world.names(), ["base"], "made anew without it");
    assert_eq!(world.load().1, 0);
}

#[test]
fn a_pack_in_two_index_files_survives_either_of_them() {
    for (first_goes, disjoint) in [(true, false), (false, false), (true, true), (false, true)] {
        let world = World::new();
        let all = packs(0, 3);
        let part = |from: usize, to: usize| -> Vec<_> {
            all.iter().map(|(pack, blobs)| (*pack, blobs[from..to].to_vec())).collect()
        };
        let one = save(&world.open(), &if disjoint { part(0, 4) } else { part(0, 10) });
        world.load();
        let two = save(&world.open(), &if disjoint { part(4, 10) } else { part(0, 10) });
        for _ in 0..3 {
            let (index, _) = world.load();
            assert_eq!(listing(&index), world.truth());
            assert_eq!(index.len(), 30);
            assert_eq!(index.repeated_packs().len(), 3);
        }
        world.open().store().delete(ObjectKind::Index, if first_goes { &one } else { &two }).unwrap();
        for _ in 0..3 {
            let (index, _) = world.load();
            assert_eq!(listing(&index), world.truth());
            assert!(index.repeated_packs().is_empty());
        }
        assert_eq!(world.load().1, 0);
    }
}

#[test]
fn mixed_packs_and_marks_come_back_too() {
    let world = World::new();
    let (pack, gone) = (Id::of(b"mixed"), Id::of(b"gone"));
    let blobs: Vec<PackBlob> =
        (0..9).map(|at| blob(at, if at % 3 == 0 { BlobKind::Tree } else { BlobKind::Data }, at * 200)).collect();
    save(&world.open(), &[(pack, blobs.clone())]);
    let json = format!(r#"{{"packs_to_delete":[{{"id":"{gone}","blobs":[]}}]}}"#);
    world.open().save_unpacked(ObjectKind::Index, json.as_bytes()).unwrap();
    assert_eq!(world.load().1, 2);
    let (index, read) = world.load();
    assert_eq!(read, 0);
    assert_eq!(index.pack_blobs(&pack), blobs);
    assert!(index.pack(&pack).unwrap().mixed);
    assert_eq!(index.marked_packs(), [gone]);
    assert_eq!(listing(&index), world.truth());
}

#[test]
fn a_changed_byte_anywhere_is_noticed_and_the_cache_made_anew() {
    let world = World::new();
    save(&world.open(), &packs(0, 3));
    world.load();
    save(&world.open(), &packs(3, 1));
    world.load();
    let truth = world.truth();
    let files = world.files();
    assert_eq!(files.len(), 2, "{files:?}");
    for path in files {
        let whole = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let step = 1 + whole.len() / 60;
        let changed = (0..whole.len()).step_by(step).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            (format!("byte {at}"), bytes)
        });
        let cut = (0..whole.len()).step_by(7 * step).map(|at| (format!("cut at {at}"), whole[..at].to_vec()));
        let longer = [("longer".to_owned(), [whole.as_slice(), b"x"].concat())];
        let others: Vec<(PathBuf, Vec<u8>)> =
            world.files().iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
        for (what, bytes) in changed.chain(cut).chain(longer) {
            for file in world.files() {
                fs::remove_file(file).unwrap();
            }
            for (file, bytes) in &others {
                fs::write(file, bytes).unwrap();
            }
            fs::write(&path, bytes).unwrap();
            let (index, read) = world.load();
            assert_eq!(read, 1, "{name}, {what}: one index file was not in the cache any more");
            assert_eq!(listing(&index), truth, "{name}, {what}");
            assert_eq!(world.told().len(), 1, "{name}, {what}");
            assert_eq!(world.load().1, 0, "{name}, {what}: made anew");
        }
        for file in world.files() {
            fs::remove_file(file).unwrap();
        }
        for (file, bytes) in &others {
            fs::write(file, bytes).unwrap();
        }
    }
}

#[test]
fn pieces_in_another_place_and_caches_of_others_are_not_believed() {
    let world = World::new();
    save(&world.open(), &packs(0, 8_000));
    world.load();
    let [base] = world.files().try_into().unwrap();
    let whole = fs::read(&base).unwrap();
    // Two whole blocks of records change places: every piece is authentic, at another place. A piece begins with its IV,
    // which is its number.
    let iv = |number: u64| [(number + 1).to_be_bytes(), [0; 8]].concat();
    let find = |number| whole.windows(16).position(|window| window == iv(number)).unwrap();
    let (first, second, end) = (find(2), find(3), find(4));
    let swapped = [&whole[..first], &whole[second..end], &whole[first..second], &whole[end..]].concat();
    fs::write(&base, swapped).unwrap();
    let (index, read) = world.load();
    assert_eq!((index.len(), read, world.told().len()), (80_000, 1, 1));

    // The cache of another repository, under this one's name.
    let other = World::new();
    save(&other.open(), &packs(900, 1));
    other.load();
    fs::copy(&other.files()[0], &base).unwrap();
    let (index, read) = world.load();
    assert_eq!((index.len(), read, world.told().len()), (80_000, 1, 1));
}

#[test]
fn an_old_cache_brought_back_says_nothing_wrong() {
    let world = World::new();
    let old = save(&world.open(), &packs(0, 10));
    world.load();
    let [base] = world.files().try_into().unwrap();
    let kept = fs::read(&base).unwrap();
    save(&world.open(), &packs(50, 10));
    world.open().store().delete(ObjectKind::Index, &old).unwrap();
    world.load();
    fs::write(&base, kept).unwrap();
    let (index, _) = world.load();
    assert_eq!(listing(&index), world.truth());
    assert_eq!(index.len(), 100);
}

#[test]
fn without_a_place_for_it_everything_works() {
    let world = World::new();
    save(&world.open(), &packs(0, 10));
    fs::write(world.path("cache"), b"a file where the folder should be").unwrap();
    for _ in 0..2 {
        let (index, read) = world.load();
        assert_eq!((index.len(), read), (100, 1));
        let told = world.told();
        assert_eq!(told.len(), 2, "not read, not written: {told:?}");
        assert!(told.iter().all(|text| text.contains("cache")), "{told:?}");
    }
}

#[test]
fn it_is_private_tagged_and_old_ones_are_removed() {
    let world = World::new();
    let unused = world.path("cache").join(Id::of(b"another repository").to_hex());
    let foreign = world.path("cache/somebody-elses");
    for folder in [&unused, &foreign] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("base"), b"x").unwrap();
        let old = SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
        fs::File::open(folder).unwrap().set_modified(old).unwrap();
    }
    save(&world.open(), &packs(0, 10));
    world.load();
    assert!(!unused.exists());
    assert!(foreign.join("base").exists());
    assert!(
        fs::read(world.path("cache/CACHEDIR.TAG")).unwrap().starts_with(b"Signature: 8a477f597d28d172789f06886806bc55")
    );
    let [base] = world.files().try_into().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&base), mode(base.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn several_at_once_do_not_disturb_each_other() {
    let world = World::new();
    save(&world.open(), &packs(0, 300));
    std::thread::scope(|scope| {
        let world = &world;
        for worker in 0..4_u32 {
            scope.spawn(move || {
                for round in 0..10_u32 {
                    let first = 1000 * (worker + 1) + 10 * round;
                    save(&world.open(), &packs(first, 10));
                    let index = world.open().load_index().unwrap();
                    for (pack, blobs) in packs(first, 10).into_iter().chain(packs(0, 300)) {
                        assert_eq!(index.pack_blobs(&pack), blobs);
                    }
                }
            });
        }
    });
    world.load();
    let (index, read) = world.load();
    assert_eq!((index.len(), read), (3000 + 4 * 10 * 100, 0));
    assert_eq!(listing(&index), world.truth());
    // A file may be gone between listing and opening; nothing is ever found damaged.
    assert!(world.told().iter().all(|text| !text.contains("damaged")));
}
