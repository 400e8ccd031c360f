//! The port: objects of a repository in timestamps of a plugin, found by the journal.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backstay_core::{Id, ObjectKind, Retry, Store, StoreError, StoreErrorKind};
use backstay_gpbackup_host::{Failure, Fingerprint, Key, Timestamp};
use backstay_stores::LocalStore;
use parking_lot::Mutex;

use crate::cache::{self, Cache};
use crate::copies;
use crate::driver::Driver;
use crate::journal::{Journal, JournalError};
use crate::numbers::{Class, Generation};
use crate::record::{Object, Record};
use crate::state::{PIECES, State};

/// How often an object is read until it comes as it was stored.
const READS: u32 = 3;
/// A generation is given up when no more than one part in so many of it is wanted: that part is written anew.
const WORTH: u64 = 4;
/// So many old copies of the journal are deleted at a time: about as many as come.
const OLD_COPIES: usize = 4;

/// A repository behind a plugin.
pub(crate) struct PluginStore {
    location: String,
    journal: Journal,
    driver: Driver,
    locks: LocalStore,
    cache: Cache,
    filling: Mutex<BTreeMap<Generation, Filling>>,
    names: AtomicU64,
    /// Whether this process changed anything.
    dirty: AtomicBool,
    /// Whether the user knows that nothing is known here.
    told: AtomicBool,
}

impl fmt::Debug for PluginStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginStore").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A generation that this process fills.
#[derive(Clone, Copy, Debug, Default)]
struct Filling {
    begun: u64,
    under_way: u64,
}

impl PluginStore {
    /// Puts the parts together.
    pub(crate) fn new(location: String, journal: Journal, driver: Driver, locks: LocalStore, cache: u64) -> Self {
        Self {
            location,
            journal,
            driver,
            locks,
            cache: Cache::new(cache),
            filling: Mutex::default(),
            names: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    fn error(&self, operation: &'static str, (kind, id): (ObjectKind, &Id), what: What) -> StoreError {
        let object = if kind == ObjectKind::Config {
            format!("{}/config", self.location)
        } else {
            format!("{}/{}/{}", self.location, kind.directory(), id.to_hex())
        };
        let (error_kind, retry, text) = match what {
            What::Is(kind, text) => (kind, Retry::Never, text),
            What::Journal(error) => (StoreErrorKind::Other, Retry::Never, error.to_string()),
            // Whether a plugin fails for a while or for good cannot be told; what it refuses before it begins will not change.
            What::Plugin(failure) => {
                let command = match &failure {
                    Failure::Plugin { command, .. } | Failure::Hung { command, .. } => command.as_str(),
                    _ => "",
                };
                let retry =
                    if operation == "write" && command.starts_with("backup_data") { Retry::Soon } else { Retry::Never };
                (StoreErrorKind::Other, retry, failure.to_string())
            }
        };
        StoreError { retry, ..StoreError::new(error_kind, operation, object, text) }
    }

    /// What the journal says of an object.
    fn find(&self, name: (ObjectKind, Id)) -> Result<Option<(Object, Timestamp)>, JournalError> {
        let found = self.journal.read(|loaded| {
            let loaded = loaded?;
            let object = loaded.state.objects.get(&name)?.clone();
            let timestamp = object.generation.timestamp(loaded.series)?;
            Some(Some((object, timestamp)))
        })?;
        match found {
            Some(found) => Ok(found),
            None => {
                let unknown = self.journal.read(|loaded| loaded.is_none())?;
                if unknown && !self.told.swap(true, Ordering::SeqCst) {
                    self.driver.tell(&format!(
                        "this host has no journal of {}: a repository that was made there before is found with -o \
                         gpbackup.rebuild=NUMBER, the number that was shown when it was made",
                        self.location
                    ));
                }
                Ok(None)
            }
        }
    }

    /// A generation for one more object, which this process fills.
    fn begin(&self, class: Class) -> Result<(Generation, Timestamp), JournalError> {
        let mut filling = self.filling.lock();
        if let Some(series) = self.journal.begin()? {
            self.told.store(true, Ordering::SeqCst);
            self.driver.tell(&format!(
                "the number of this repository in its place is {series}: keep it with the password. If this host is lost, -o \
                 gpbackup.rebuild={series} finds everything again"
            ));
        }
        let room = filling.iter().find(|(generation, one)| generation.class == class && one.begun < class.most());
        let generation = match room {
            Some((generation, _)) => *generation,
            None => self.journal.write(|state| {
                let generation = state.fresh(class).ok_or(JournalError::Full(
                    "this place has no numbers left for generations of this kind: copy the repository to another one",
                ))?;
                Ok((vec![Record::Open { generation, writer: self.driver.tag.clone() }], generation))
            })?,
        };
        let series = self.journal.read(|loaded| loaded.map(|loaded| loaded.series))?;
        let timestamp = series.and_then(|series| generation.timestamp(series));
        let timestamp = timestamp.ok_or(JournalError::Full("the journal of this place vanished"))?;
        let current = filling.entry(generation).or_default();
        current.begun += 1;
        current.under_way += 1;
        Ok((generation, timestamp))
    }

    /// One less is under way. A full generation is given up when nothing is: before that, nobody may take it for empty.
    fn ended(&self, generation: Generation) {
        let mut filling = self.filling.lock();
        let Some(current) = filling.get_mut(&generation) else { return };
        current.under_way -= 1;
        if current.under_way == 0 && current.begun >= generation.class.most() {
            filling.remove(&generation);
            // Without this line it is given up when this process has ended.
            let _ = self.journal.write(|_| Ok((vec![Record::Full(generation)], ())));
        }
    }

    /// Stores an object under a name of its own and records it, if `wanted` says so in the end; otherwise it is garbage.
    fn store(
        &self,
        (kind, id): (ObjectKind, Id),
        body: &[u8],
        wanted: impl FnOnce(&State) -> bool,
    ) -> Result<bool, What> {
        let class = Class::of(kind).ok_or_else(|| What::other("locks stay on this host"))?;
        self.dirty.store(true, Ordering::SeqCst);
        let (generation, timestamp) = self.begin(class)?;
        let number = self.names.fetch_add(1, Ordering::SeqCst);
        let name = format!("{kind}-{}-{number}", self.driver.tag);
        let size = body.len() as u64;
        let stored = Key::new(timestamp, &name).and_then(|key| self.driver.put(&key, body));
        let recorded = match stored {
            Ok(()) => self.journal.write(|state| {
                let object = Object { size, generation, name, sha256: Id::of(body) };
                let wanted = wanted(state);
                let record =
                    if wanted { Record::Put { kind, id, object } } else { Record::Dead { generation, bytes: size } };
                Ok((vec![record], wanted))
            }),
            Err(failure) => {
                let dead = self.journal.write(|_| Ok((vec![Record::Dead { generation, bytes: size }], ())));
                self.ended(generation);
                dead?;
                return Err(What::Plugin(failure));
            }
        };
        self.ended(generation);
        Ok(recorded?)
    }

    /// Reads an object or a part of it. It may move meanwhile, and it may come wrong once.
    fn read(&self, name: (ObjectKind, Id), range: Option<&Range<u64>>) -> Result<Vec<u8>, What> {
        let mut failed = None;
        for _ in 0..READS {
            let Some((object, timestamp)) = self.find(name)? else {
                return Err(What::Is(StoreErrorKind::NotFound, "there is no such object".to_owned()));
            };
            let size = object.size;
            let range = range.cloned().unwrap_or(0..size);
            if range.start > range.end || range.end > size {
                return Err(What::other(&format!("the object has {size} bytes, and {range:?} are no bytes of it")));
            }
            let too_long = || What::other("it is too long for this machine");
            let length = usize::try_from(range.end - range.start).map_err(|_| too_long())?;
            if length == 0 && size > 0 {
                return Ok(Vec::new());
            }
            let key = Key::new(timestamp, &object.name).map_err(What::Plugin)?;
            let expected = Fingerprint { size, sha256: object.sha256.0 };
            match self.read_at(name, &key, &expected, &range, length) {
                Ok(bytes) => return Ok(bytes),
                Err(What::Plugin(failure)) => failed = Some(failure),
                Err(other) => return Err(other),
            }
        }
        Err(failed.map_or_else(|| What::other("it was not read"), What::Plugin))
    }

    fn read_at(
        &self,
        name: (ObjectKind, Id),
        key: &Key,
        expected: &Fingerprint,
        range: &Range<u64>,
        length: usize,
    ) -> Result<Vec<u8>, What> {
        let part = |file: &File| {
            cache::bytes(file, range.start, length)
                .map_err(|error| What::other(&format!("cannot read a temporary file: {error}")))
        };
        if let Some(file) = self.cache.peek(&name) {
            return part(&file);
        }
        if length as u64 == expected.size {
            let mut bytes = Vec::with_capacity(length);
            self.driver.get(key, expected, &mut bytes).map_err(What::Plugin)?;
            return Ok(bytes);
        }
        let reads_ranges = self.driver.plugin().map_err(What::Plugin)?.reads_ranges();
        if reads_ranges && (length as u64) < expected.size / 2 {
            let mut bytes = Vec::with_capacity(length);
            let ends = (range.start, range.end);
            self.driver.get_range(key, expected.size, ends, &mut bytes).map_err(What::Plugin)?;
            return Ok(bytes);
        }
        let file = self.cache.get(name, expected.size, || {
            let cannot = |error| What::other(&format!("cannot write a temporary file: {error}"));
            let mut file = tempfile::tempfile().map_err(cannot)?;
            match self.driver.get(key, expected, &mut file) {
                Err(Failure::Sink(error)) => Err(cannot(error)),
                result => result.map_err(What::Plugin),
            }?;
            file.flush().map_err(cannot)?;
            Ok::<_, What>(file)
        })?;
        part(&file)
    }

    /// Deletes timestamps in which nothing, or nearly nothing, is wanted any more. Whatever fails here is done the next time.
    fn sweep(&self) {
        if let Err(text) = self.try_sweep() {
            self.driver.tell(&format!("room behind the plugin is given back another time: {text}"));
        }
    }

    fn try_sweep(&self) -> Result<(), String> {
        let told = |error: JournalError| error.to_string();
        let idle: Vec<Generation> = {
            let mut filling = self.filling.lock();
            let idle: Vec<_> = filling.iter().filter(|(_, one)| one.under_way == 0).map(|(key, _)| *key).collect();
            filling.retain(|_, one| one.under_way > 0);
            idle
        };
        let records: Vec<_> = idle.into_iter().map(Record::Full).collect();
        if !records.is_empty() {
            self.journal.write(|_| Ok((records, ()))).map_err(told)?;
        }
        let (mut empty, poor) = self.worthless().map_err(told)?;
        for generation in poor {
            if self.rewrite(generation)? {
                empty.push(generation);
            }
        }
        if empty.is_empty() {
            return Ok(());
        }
        // Whoever has the journal from a copy must not look for what is deleted now.
        copies::store(&self.driver, &self.journal)?;
        let series = self.journal.read(|loaded| loaded.map(|loaded| loaded.series)).map_err(told)?;
        let Some(series) = series else { return Ok(()) };
        let old = self.journal.read(|loaded| loaded.map(|loaded| old_copies(&loaded.state))).map_err(told)?;
        empty.extend(old.unwrap_or_default());
        let queue = Mutex::new(empty.into_iter());
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.driver.connections() {
                scope.spawn(|| {
                    while failed.lock().is_none() {
                        let Some(generation) = queue.lock().next() else { return };
                        let Some(timestamp) = generation.timestamp(series) else { continue };
                        let deleted = self.driver.delete(&timestamp).map_err(|failure| failure.to_string());
                        let gone = vec![Record::Gone(generation)];
                        let deleted = deleted
                            .and_then(|()| self.journal.write(|_| Ok((gone, ()))).map_err(|error| error.to_string()));
                        if let Err(text) = deleted {
                            *failed.lock() = Some(text);
                        }
                    }
                });
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Generations that nobody fills: those in which nothing is wanted, and those in which little is.
    fn worthless(&self) -> Result<(Vec<Generation>, Vec<Generation>), JournalError> {
        self.journal.read(|loaded| {
            let (mut empty, mut poor) = (Vec::new(), Vec::new());
            for (generation, fill) in loaded.into_iter().flat_map(|loaded| &loaded.state.generations) {
                let garbage = fill.live == 0
                    || (fill.dead_bytes > 0
                        && fill.live_bytes.saturating_mul(WORTH) <= fill.live_bytes.saturating_add(fill.dead_bytes));
                if !garbage || (fill.open && self.driver.lives(&fill.writer)) {
                    continue;
                }
                if fill.live == 0 { &mut empty } else { &mut poor }.push(*generation);
            }
            (empty, poor)
        })
    }

    /// Writes what is wanted of a generation into another one. Tells whether nothing is left.
    fn rewrite(&self, generation: Generation) -> Result<bool, String> {
        let told = |error: JournalError| error.to_string();
        let objects = self.journal.read(|loaded| {
            let all = loaded.into_iter().flat_map(|loaded| &loaded.state.objects);
            let there = all.filter(|(_, object)| object.generation == generation);
            there.map(|(name, object)| (*name, object.clone())).collect::<Vec<_>>()
        });
        for (name, old) in objects.map_err(told)? {
            let what = |what: What| self.error("move", (name.0, &name.1), what).to_string();
            let body = self.read(name, None).map_err(what)?;
            // It may have been deleted or moved meanwhile.
            self.store(name, &body, |state| state.objects.get(&name) == Some(&old)).map_err(what)?;
        }
        let left = |state: &State| state.generations.get(&generation).is_some_and(|fill| fill.live > 0);
        self.journal.read(|loaded| loaded.is_some_and(|loaded| !left(&loaded.state))).map_err(told)
    }
}

/// Copies of the journal that a newer whole one has made superfluous.
fn old_copies(state: &State) -> Vec<Generation> {
    let Some((kept, _)) = state.kept else { return Vec::new() };
    let base = kept / PIECES * PIECES;
    let old = state.pieces.iter().take_while(|number| **number < base).take(OLD_COPIES);
    old.map(|number| Generation { class: Class::Journal, number: *number }).collect()
}

/// What went wrong with an object.
enum What {
    Is(StoreErrorKind, String),
    Journal(JournalError),
    Plugin(Failure),
}

impl What {
    fn other(text: &str) -> Self {
        Self::Is(StoreErrorKind::Other, text.to_owned())
    }
}

impl From<JournalError> for What {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// There is one config, whatever id it is asked for with.
fn named(kind: ObjectKind, id: &Id) -> (ObjectKind, Id) {
    if kind == ObjectKind::Config { (kind, Id::default()) } else { (kind, *id) }
}

impl Store for PluginStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn calls_at_once(&self) -> usize {
        self.driver.connections()
    }

    fn create(&self) -> Result<(), StoreError> {
        // The journal begins with the first object.
        Ok(())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        if kind == ObjectKind::Lock {
            return self.locks.put(kind, id, body);
        }
        let name = named(kind, id);
        let failed = |what| self.error("write", (kind, id), what);
        let exists = || failed(What::Is(StoreErrorKind::Exists, "it is there already".to_owned()));
        let known = self.journal.read(|loaded| Some(loaded?.state.objects.get(&name)?.size));
        match known.map_err(|error| failed(error.into()))? {
            Some(_) if kind == ObjectKind::Config => return Err(exists()),
            // The same name means the same bytes. An object of another size is broken: this one takes its place.
            Some(size) if size == body.len() as u64 => return Ok(()),
            _ => {}
        }
        let is_new = |state: &State| kind != ObjectKind::Config || !state.objects.contains_key(&name);
        if self.store(name, body, is_new).map_err(failed)? { Ok(()) } else { Err(exists()) }
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        if kind == ObjectKind::Lock {
            return self.locks.get(kind, id, range);
        }
        self.read(named(kind, id), range.as_ref()).map_err(|what| self.error("read", (kind, id), what))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        if kind == ObjectKind::Lock {
            return self.locks.list(kind);
        }
        let listed = self.journal.read(|loaded| {
            let all = loaded.into_iter().flat_map(|loaded| &loaded.state.objects);
            all.filter(|((of, _), _)| *of == kind).map(|((_, id), object)| (*id, object.size)).collect()
        });
        listed.map_err(|error| self.error("list", (kind, &Id::default()), error.into()))
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        if kind == ObjectKind::Lock {
            return self.locks.size(kind, id);
        }
        let found = self.find(named(kind, id)).map_err(|error| self.error("look at", (kind, id), error.into()))?;
        Ok(found.map(|(object, _)| object.size))
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.delete_all(kind, &[*id])
    }

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        if kind == ObjectKind::Lock {
            return self.locks.delete_all(kind, ids);
        }
        let failed = |what| self.error("delete", (kind, ids.first().unwrap_or(&Id::default())), what);
        let there = |state: &State| {
            let names = ids.iter().map(|id| named(kind, id)).filter(|name| state.objects.contains_key(name));
            names.map(|(kind, id)| Record::Delete { kind, id }).collect::<Vec<_>>()
        };
        let some = self.journal.read(|loaded| loaded.is_some_and(|loaded| !there(&loaded.state).is_empty()));
        if !some.map_err(|error| failed(error.into()))? {
            return Ok(());
        }
        let plugin = self.driver.plugin().map_err(|failure| failed(What::Plugin(failure)))?;
        if !plugin.can_delete() {
            let text = format!(
                "this plugin cannot delete: it speaks version {} of the contract, and delete_backup came with 0.4.0; nothing was \
                 deleted, and a repository behind it only grows",
                plugin.api
            );
            return Err(failed(What::Is(StoreErrorKind::Denied, text)));
        }
        self.dirty.store(true, Ordering::SeqCst);
        self.journal.write(|state| Ok((there(state), ()))).map_err(|error| failed(error.into()))?;
        ids.iter().for_each(|id| self.cache.forget(&named(kind, id)));
        self.sweep();
        Ok(())
    }
}

impl Drop for PluginStore {
    fn drop(&mut self) {
        if !self.dirty.load(Ordering::SeqCst) {
            return;
        }
        let full: Vec<_> = std::mem::take(&mut *self.filling.lock()).into_keys().map(Record::Full).collect();
        let closed = self.journal.write(|_| Ok((full, ()))).map_err(|error| error.to_string());
        if let Err(text) = closed.and_then(|()| copies::store(&self.driver, &self.journal)) {
            self.driver.tell(&format!(
                "everything is stored, but no copy of the journal behind the plugin: until a later run stores one, only this host finds \
                 what this one did: {text}"
            ));
        }
    }
}

/// The same behind a pointer.
pub(crate) fn shared(store: PluginStore) -> Arc<dyn Store> {
    Arc::new(store)
}
