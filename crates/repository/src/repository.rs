//! An open repository: its store, its key, and the objects that are files of their own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};

use crate::chunker::ChunkerParams;
use crate::config::Config;
use crate::container;
use crate::crypto::MasterKey;
use crate::error::Error;
use crate::gotext::to_json;
use crate::index::{Index, IndexFile, decode_index_file};
use crate::index_cache::{Cached, IndexCache};
use crate::keyfile::{self, KdfParams, KeyError, KeyOrigin};
use crate::lock::{Lock, LockInfo, LockTimes, SettlingLock, host_name, user_name};
use crate::snapshot::{Snapshot, SnapshotFilter, now};

/// Key files that are tried with a password at the most.
pub(crate) const MAX_KEYS: usize = 20;
/// How often the index files are listed at the most, when some of them vanish before they were read.
const LISTINGS: usize = 5;
/// How often it is looked whether the config of a repository that somebody else makes has come, and the time between.
const LOOKS: usize = 50;
const LOOK: Duration = Duration::from_millis(100);
/// Files that are loaded at the same time at the most: each thread needs some ten megabytes for a large index file.
const LOADERS: usize = 8;

/// How a repository is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct InitOptions {
    /// How much work it is to try a password.
    pub kdf: KdfParams,
    /// Cut files as restic does, so that the two programs can share contents in this repository.
    pub restic_chunker: bool,
    /// Cut files as restic does, with this polynomial: that of a repository whose snapshots are to be copied.
    pub polynomial: Option<u64>,
}

/// How a repository is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The beginning of the id of the key to try first.
    pub key_hint: Option<String>,
    /// How its locks are kept.
    pub lock_times: LockTimes,
    /// Where a local copy of the index is kept; none: the index is always read from the store.
    pub cache: Option<IndexCache>,
    /// Everything is done on the thread that asks for it, one call of the store after the other, so that a simulation can
    /// go through it again. Slower.
    pub in_turn: bool,
}

/// The snapshots of a repository, as far as they can be read.
#[derive(Debug, Default)]
pub struct ReadableSnapshots {
    /// Those that can be read, the oldest first.
    pub snapshots: Vec<(Id, Snapshot)>,
    /// Why the others cannot.
    pub damaged: Vec<Error>,
}

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn Store>,
    key: MasterKey,
    key_id: Id,
    config: Config,
    chunker: ChunkerParams,
    lock_times: LockTimes,
    cache: Option<IndexCache>,
    in_turn: bool,
}

impl Repository {
    /// Makes a repository in an empty place and opens it.
    ///
    /// # Errors
    /// [`Error::Exists`] when a config, a key or a snapshot is there already; [`Error::Store`]; an empty password.
    pub fn init(store: Arc<dyn Store>, password: &[u8], options: InitOptions) -> Result<Self, Error> {
        if password.is_empty() {
            return Err(Error::Other("an empty password protects nothing: give another one".to_owned()));
        }
        let exists = || Error::Exists { location: store.location() };
        if store.size(ObjectKind::Config, &Id::default())?.is_some() {
            return Err(exists());
        }
        for kind in [ObjectKind::Key, ObjectKind::Snapshot] {
            if !store.list(kind)?.is_empty() {
                return Err(exists());
            }
        }
        let InitOptions { kdf, restic_chunker, polynomial } = options;
        let config = Config::generate_with(!restic_chunker && polynomial.is_none(), polynomial)?;
        let key = MasterKey::generate().map_err(|error| Error::Other(error.to_string()))?;
        let origin = KeyOrigin { created: now(), username: user_name(), hostname: host_name() };
        let key_file = keyfile::wrap(&key, password, kdf, &origin)?;
        store.create()?;
        let key_id = Id::of(&key_file);
        store.put(ObjectKind::Key, &key_id, &key_file)?;
        if let Err(error) = store.put(ObjectKind::Config, &Id::default(), &key.seal(&config.encode()?)) {
            // Of two who make it at once one is second: its key opens nothing, and must not keep others from looking further.
            if error.kind == StoreErrorKind::Exists {
                store.delete(ObjectKind::Key, &key_id)?;
                return Err(exists());
            }
            return Err(Error::Store(error));
        }
        let chunker = config.chunker(&key);
        Ok(Self { store, key, key_id, config, chunker, lock_times: LockTimes::default(), cache: None, in_turn: false })
    }

    /// Makes a repository where there is none; whether it was this call that made it. Of several that find none at the same
    /// moment one makes it, and the others wait until it is there, as long as `go_on` says so.
    ///
    /// # Errors
    /// As [`Repository::init`]; [`Error::Other`] where keys or snapshots lie without a config, and none comes.
    pub fn init_where_missing(
        store: &Arc<dyn Store>,
        password: &[u8],
        options: InitOptions,
        go_on: &dyn Fn() -> bool,
    ) -> Result<bool, Error> {
        let there = || Ok::<_, Error>(store.size(ObjectKind::Config, &Id::default())?.is_some());
        if there()? {
            return Ok(false);
        }
        match Self::init(Arc::clone(store), password, options) {
            Ok(_) => return Ok(true),
            // Somebody else makes it at this moment: its key is there, its config comes.
            Err(Error::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        for _ in 0..LOOKS {
            if there()? {
                return Ok(false);
            }
            if !go_on() {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let location = store.location();
        Err(Error::Other(format!("{location} holds keys or snapshots and no config: it is no repository")))
    }

    /// Opens a repository with a password.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongPassword`], [`Error::UnsupportedVersion`], [`Error::Damaged`],
    /// [`Error::Store`].
    pub fn open(store: Arc<dyn Store>, password: &[u8]) -> Result<Self, Error> {
        Self::open_with(store, password, &OpenOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_with(store: Arc<dyn Store>, password: &[u8], options: &OpenOptions) -> Result<Self, Error> {
        let sealed = store.get(ObjectKind::Config, &Id::default(), None).map_err(|error| match error.kind {
            StoreErrorKind::NotFound => Error::NoRepository { location: store.location() },
            _ => Error::Store(error),
        })?;
        let (key_id, key, json) = find_key(&*store, password, options, &sealed)?;
        let config = Config::decode(&json)?;
        let chunker = config.chunker(&key);
        let OpenOptions { lock_times, ref cache, in_turn, .. } = *options;
        Ok(Self { store, key, key_id, config, chunker, lock_times, cache: cache.clone(), in_turn })
    }

    /// Where its objects live.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The key of everything in it.
    #[must_use]
    pub fn key(&self) -> &MasterKey {
        &self.key
    }

    /// The key file that it was opened with.
    #[must_use]
    pub fn key_id(&self) -> Id {
        self.key_id
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The version of the format: 1 (read only) or 2.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.config.version
    }

    /// Whether everything is done on the thread that asks for it: [`OpenOptions::in_turn`].
    #[must_use]
    pub fn in_turn(&self) -> bool {
        self.in_turn
    }

    /// How its files are cut.
    #[must_use]
    pub fn chunker(&self) -> ChunkerParams {
        self.chunker.clone()
    }

    /// Reads a snapshot, an index file or a lock: verifies its name, decrypts and decompresses it.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the object's name; [`Error::Store`].
    pub fn load_unpacked(&self, kind: ObjectKind, id: &Id) -> Result<Vec<u8>, Error> {
        let file = self.store.get(kind, id, None)?;
        if Id::of(&file) != *id {
            return Err(Error::damaged(kind, id, "its contents do not match its name"));
        }
        let plain = self.key.open(&file).map_err(|error| Error::damaged(kind, id, error))?;
        container::unwrap(self.version(), plain).map_err(|error| Error::damaged(kind, id, error))
    }

    /// Stores the JSON of a snapshot or an index file.
    ///
    /// # Errors
    /// [`Error::ReadOnlyVersion`], [`Error::Store`].
    pub fn save_unpacked(&self, kind: ObjectKind, json: &[u8]) -> Result<Id, Error> {
        if self.version() < 2 {
            return Err(Error::ReadOnlyVersion);
        }
        self.save_file(kind, json)
    }

    /// Stores a lock: the one thing that is written to a repository of version 1, to keep others from deleting.
    pub(crate) fn save_lock(&self, json: &[u8]) -> Result<Id, Error> {
        self.save_file(ObjectKind::Lock, json)
    }

    fn save_file(&self, kind: ObjectKind, json: &[u8]) -> Result<Id, Error> {
        let plain = container::wrap(self.version(), json)
            .map_err(|error| Error::io(format!("the {kind} could not be compressed"), error))?;
        let file = self.key.seal(&plain);
        let id = Id::of(&file);
        self.store.put(kind, &id, &file)?;
        Ok(id)
    }

    /// Reads all index files, or takes them from the cache where one was named.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the name of the file; [`Error::Store`].
    pub fn load_index(&self) -> Result<Index, Error> {
        let mut attempt = 1;
        loop {
            match self.load_listed_index() {
                // An index file that goes while it is to be read was replaced by a new one.
                Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound && attempt < LISTINGS => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn load_listed_index(&self) -> Result<Index, Error> {
        let listed: Vec<Id> = self.store.list(ObjectKind::Index)?.into_iter().map(|(id, _)| id).collect();
        let live: HashSet<Id> = listed.iter().copied().collect();
        let cached = self.cache.as_ref().map(|cache| cache.read(&self.config.id, &self.key, &live));
        let Cached { mut index, state } = cached.unwrap_or_default();
        let known: HashSet<Id> = index.file_ids().collect();
        let missing: Vec<Id> = listed.into_iter().filter(|id| !known.contains(id)).collect();
        self.load_all(&missing, |id| self.load_index_file(id), |id, file| index.insert_file(id, file))?;
        if let Some(cache) = &self.cache {
            cache.write(&self.config.id, &self.key, &state, &index);
        }
        Ok(index)
    }

    /// Reads one index file.
    ///
    /// # Errors
    /// As [`Repository::load_index`].
    pub fn load_index_file(&self, id: &Id) -> Result<IndexFile, Error> {
        let json = self.load_unpacked(ObjectKind::Index, id)?;
        decode_index_file(self.version(), &json).map_err(|reason| Error::damaged(ObjectKind::Index, id, reason))
    }

    /// Loads on several threads and takes what comes in on this one. Files that vanish meanwhile were replaced.
    fn load_all<T: Send>(
        &self,
        ids: &[Id],
        load: impl Fn(&Id) -> Result<T, Error> + Sync,
        mut take: impl FnMut(Id, T),
    ) -> Result<(), Error> {
        // Where nobody waits for a network, more threads than processors only take memory.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = processors.max(self.store.calls_at_once() / 2).min(LOADERS).min(ids.len());
        if threads <= 1 || self.in_turn {
            for id in ids {
                take(*id, load(id)?);
            }
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (sender, receiver) = crossbeam_channel::bounded(threads);
            for _ in 0..threads {
                let (sender, next, load) = (sender.clone(), &next, &load);
                scope.spawn(move || {
                    while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if sender.send((*id, load(id))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (id, result) in receiver {
                take(id, result?);
            }
            Ok(())
        })
    }

    /// Reads one snapshot.
    ///
    /// # Errors
    /// [`Error::Damaged`] with its name; [`Error::Store`].
    pub fn load_snapshot(&self, id: &Id) -> Result<Snapshot, Error> {
        let json = self.load_unpacked(ObjectKind::Snapshot, id)?;
        serde_json::from_slice(&json).map_err(|error| Error::damaged(ObjectKind::Snapshot, id, error))
    }

    /// All snapshots, the oldest first.
    ///
    /// # Errors
    /// When one cannot be read: see [`Repository::load_snapshot`].
    pub fn snapshots(&self) -> Result<Vec<(Id, Snapshot)>, Error> {
        let found = self.readable_snapshots()?;
        found.damaged.into_iter().next().map_or(Ok(found.snapshots), Err)
    }

    /// The snapshots that can be read, the oldest first, and why the others cannot: one that is damaged need not keep
    /// anybody from the rest.
    ///
    /// # Errors
    /// [`Error::Store`]: the store cannot list or read.
    pub fn readable_snapshots(&self) -> Result<ReadableSnapshots, Error> {
        let ids = self.snapshot_ids()?;
        let mut found = ReadableSnapshots::default();
        let load = |id: &Id| match self.load_snapshot(id) {
            // One that vanishes between listing and reading was forgotten.
            Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error @ Error::Store(_)) => Err(error),
            result => Ok(Some(result)),
        };
        self.load_all(&ids, load, |id, result| match result {
            Some(Ok(snapshot)) => found.snapshots.push((id, snapshot)),
            Some(Err(error)) => found.damaged.push(error),
            None => {}
        })?;
        found.snapshots.sort_by(|(id_a, a), (id_b, b)| (a.time.time(), id_a).cmp(&(b.time.time(), id_b)));
        Ok(found)
    }

    /// The ids of all snapshots.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn snapshot_ids(&self) -> Result<Vec<Id>, Error> {
        Ok(self.store.list(ObjectKind::Snapshot)?.into_iter().map(|(id, _)| id).collect())
    }

    /// The snapshot that `spec` means: `latest` (the newest whole one that the filter lets through), an id, or the
    /// beginning of one.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Ambiguous`], and what reading it says.
    pub fn snapshot(&self, spec: &str, filter: &SnapshotFilter) -> Result<(Id, Snapshot), Error> {
        if spec == "latest" {
            let newest = self.snapshots()?.into_iter().rev().find(|(_, one)| filter.matches(one) && !one.is_partial());
            return newest.ok_or_else(|| {
                Error::NoSnapshot(if *filter == SnapshotFilter::default() {
                    "there is no snapshot in the repository yet".to_owned()
                } else {
                    "no snapshot matches the host, tags and paths given".to_owned()
                })
            });
        }
        let prefix = spec.to_ascii_lowercase();
        let none = || Error::NoSnapshot(format!("no snapshot matches \"{spec}\": see \"backstay snapshots\""));
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none());
        }
        let fitting: Vec<Id> = self.snapshot_ids()?.into_iter().filter(|id| id.to_hex().starts_with(&prefix)).collect();
        match fitting[..] {
            [] => Err(none()),
            [id] => Ok((id, self.load_snapshot(&id)?)),
            _ => Err(Error::Ambiguous(format!(
                "\"{spec}\" is ambiguous: {} snapshots begin with it. Give more of its digits",
                fitting.len()
            ))),
        }
    }

    /// Stores a snapshot.
    ///
    /// # Errors
    /// As [`Repository::save_unpacked`].
    pub fn save_snapshot(&self, snapshot: &Snapshot) -> Result<Id, Error> {
        let json =
            to_json(snapshot).map_err(|error| Error::Other(format!("the snapshot cannot be written: {error}")))?;
        self.save_unpacked(ObjectKind::Snapshot, &json)
    }

    /// Takes a lock, or waits up to `retry` for it. It is given up when the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] when someone else's lock is in the way; [`Error::Damaged`] when a lock cannot be read.
    pub fn lock(self: &Arc<Self>, exclusive: bool, retry: Option<Duration>) -> Result<Lock, Error> {
        self.lock_with(exclusive, retry, self.lock_times)
    }

    /// Writes a lock and leaves it to the caller to wait until it is settled: what only reads can begin meanwhile. Does
    /// not wait for others.
    ///
    /// # Errors
    /// As [`Repository::lock`].
    pub fn begin_lock(self: &Arc<Self>, exclusive: bool) -> Result<SettlingLock, Error> {
        Lock::begin(self, exclusive, self.lock_times)
    }

    /// The same with other times.
    ///
    /// # Errors
    /// As [`Repository::lock`].
    pub fn lock_with(
        self: &Arc<Self>,
        exclusive: bool,
        retry: Option<Duration>,
        times: LockTimes,
    ) -> Result<Lock, Error> {
        Lock::take(self, exclusive, retry, times)
    }

    /// All locks, whoever holds them.
    ///
    /// # Errors
    /// [`Error::Damaged`] when one cannot be read; [`Error::Store`].
    pub fn locks(&self) -> Result<Vec<(Id, LockInfo)>, Error> {
        crate::lock::list(self)
    }
}

/// The key that the password opens and that opens the config; and what the config says.
fn find_key(
    store: &dyn Store,
    password: &[u8],
    options: &OpenOptions,
    config: &[u8],
) -> Result<(Id, MasterKey, Vec<u8>), Error> {
    let mut ids: Vec<Id> = store.list(ObjectKind::Key)?.into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    keyfile::order(&mut ids, options.key_hint.as_deref());
    // A broken key file must not keep the others from being used; it is told when none of them fits.
    let mut broken = None;
    for id in ids.iter().take(MAX_KEYS) {
        let file = match store.get(ObjectKind::Key, id, None) {
            // Whoever was second in making the repository has just taken it away, or somebody removed it.
            Err(error) if error.kind == StoreErrorKind::NotFound => continue,
            file => file?,
        };
        if Id::of(&file) != *id {
            broken.get_or_insert_with(|| Error::damaged(ObjectKind::Key, id, "its contents do not match its name"));
            continue;
        }
        match keyfile::open(&file, password) {
            Ok(key) => match key.open(config) {
                Ok(json) => return Ok((*id, key, json)),
                // The key of somebody who was second in making the repository and died.
                Err(error) => {
                    broken.get_or_insert_with(|| Error::damaged(ObjectKind::Config, &Id::default(), error));
                }
            },
            Err(KeyError::WrongPassword) => {}
            Err(KeyError::Damaged(reason)) => {
                broken.get_or_insert_with(|| Error::damaged(ObjectKind::Key, id, reason));
            }
        }
    }
    Err(match broken {
        Some(error) => error,
        None if ids.is_empty() => Error::Other(format!("the repository at {} has no key file", store.location())),
        None if ids.len() > MAX_KEYS => Error::Other(format!(
            "the first {MAX_KEYS} of {} keys do not open with this password: name the right one with a key hint",
            ids.len()
        )),
        None => Error::WrongPassword,
    })
}
