//! Blobs in an order that is known beforehand: several threads load them ahead of whoever takes them, each pack's together.
//!
//! What is loaded and not taken yet has a ceiling in bytes. Blobs that are wanted several times within it are loaded once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use backstay_core::{Id, ObjectKind};
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

use super::{Key, Reader, Result, decode_blob, plain_length};
use crate::index::Location;
use crate::pack::BlobKind;

/// Bytes of a pack that one call reads at the most.
const SPAN: u64 = 4 << 20;
/// The same where the ceiling is low: several calls shall be on their way.
const SMALL_SPAN: u64 = 256 << 10;
/// Unneeded bytes between two blobs that are read rather than asked for separately.
const GAP: u64 = 64 << 10;
/// How far behind the next blob others of its pack are looked for.
const LOOK: usize = 1024;

/// Blobs that are taken in the order in which they were announced. One thread announces and takes; dropped, it ends its
/// threads.
pub struct OrderedBlobs {
    window: Arc<Window>,
    threads: Vec<JoinHandle<()>>,
}

struct Window {
    reader: Reader,
    limit: u64,
    span: u64,
    state: Mutex<State>,
    /// There is something to load, and room for it.
    work: Condvar,
    /// The blob that is waited for is there.
    ready: Condvar,
}

#[derive(Default)]
struct State {
    slots: VecDeque<Slot>,
    /// The first slot that nobody loads yet.
    next: usize,
    contents: HashMap<Key, Content>,
    /// Plain bytes of `contents`.
    bytes: u64,
    /// No room was left: nothing is begun until half of it is free again, so that calls are worth their while.
    full: bool,
    awaited: Option<Key>,
    stop: bool,
}

/// One announced blob.
struct Slot {
    key: Key,
    /// None: the index does not know it.
    location: Option<Location>,
    started: bool,
}

/// A blob that is loaded, or on its way.
struct Content {
    /// None: not there yet. An inner none: it could not be read.
    plain: Option<Option<Arc<Vec<u8>>>>,
    length: u64,
    /// Slots that want it.
    users: usize,
}

impl std::fmt::Debug for OrderedBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrderedBlobs").field("limit", &self.window.limit).finish_non_exhaustive()
    }
}

impl OrderedBlobs {
    /// Loads through `reader`, at most `limit` bytes ahead (or one blob, however large).
    #[must_use]
    pub fn new(reader: &Reader, limit: u64) -> Self {
        let threads = reader.shared.threads.max(1) as u64;
        let span = (limit / (2 * threads)).clamp(SMALL_SPAN, SPAN);
        let window = Window {
            reader: reader.clone(),
            limit,
            span,
            state: Mutex::default(),
            work: Condvar::new(),
            ready: Condvar::new(),
        };
        Self { window: Arc::new(window), threads: Vec::new() }
    }

    /// Adds blobs that will be taken behind all that was announced before.
    pub fn announce(&mut self, kind: BlobKind, ids: &[Id]) {
        if ids.is_empty() {
            return;
        }
        let index = self.window.reader.index();
        let new = ids.iter().map(|id| Slot { key: (kind, *id), location: index.get(kind, id), started: false });
        let mut state = self.window.state.lock();
        state.slots.extend(new);
        let waiting = state.slots.len() - state.next;
        drop(state);
        self.window.work.notify_one();
        while self.threads.len() < self.window.reader.shared.threads.min(waiting) {
            let window = Arc::clone(&self.window);
            match std::thread::Builder::new().name("blobs".to_owned()).spawn(move || window.work()) {
                Ok(thread) => self.threads.push(thread),
                // Without any thread each blob is loaded when it is taken.
                Err(_) => break,
            }
        }
    }

    /// How many announced blobs were neither taken nor skipped.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.window.state.lock().slots.len()
    }

    /// Takes the next blob; none when all that were announced are taken.
    ///
    /// # Errors
    /// As [`Reader::load`].
    pub fn take(&mut self) -> Option<Result<Arc<Vec<u8>>>> {
        let mut state = self.window.state.lock();
        let (key, started) = state.slots.front().map(|slot| (slot.key, slot.started))?;
        let mut plain = None;
        if !self.threads.is_empty() {
            if !started {
                self.window.work.notify_one();
            }
            while !state.stop {
                if let Some(there) = state.contents.get(&key).and_then(|content| content.plain.clone()) {
                    plain = there;
                    break;
                }
                state.awaited = Some(key);
                self.window.ready.wait(&mut state);
            }
            state.awaited = None;
        }
        state.pop(&self.window);
        drop(state);
        // What a thread could not read is tried once more: the error is that of this call.
        Some(plain.map_or_else(|| self.window.reader.load(key.0, &key.1).map(Arc::new), Ok))
    }

    /// Passes over the next `count` blobs.
    pub fn skip(&mut self, count: usize) {
        let mut state = self.window.state.lock();
        for _ in 0..count {
            state.pop(&self.window);
        }
    }
}

impl Drop for OrderedBlobs {
    fn drop(&mut self) {
        self.window.state.lock().stop = true;
        self.window.work.notify_all();
        for thread in self.threads.drain(..) {
            // It can have failed only while it worked for nobody any more.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Removes the first slot.
    fn pop(&mut self, window: &Window) {
        let Some(slot) = self.slots.pop_front() else { return };
        self.next = self.next.saturating_sub(1);
        if !slot.started {
            return;
        }
        if let Some(content) = self.contents.get_mut(&slot.key) {
            content.users -= 1;
            if content.users == 0 {
                self.bytes -= content.length;
                self.contents.remove(&slot.key);
                if self.full && self.bytes <= window.limit / 2 {
                    self.full = false;
                    window.work.notify_one();
                }
            }
        }
    }
}

/// What one call loads.
struct Group {
    pack: Id,
    blobs: Vec<(Key, Location)>,
    start: u64,
    end: u64,
}

impl Window {
    fn work(&self) {
        let _guard = StopAtPanic(self);
        let (mut scratch, mut state) = (Vec::new(), self.state.lock());
        while !state.stop {
            match self.start(&mut state) {
                Some(group) => {
                    if !state.full && state.next < state.slots.len() {
                        self.work.notify_one();
                    }
                    drop(state);
                    self.load(group, &mut scratch);
                    state = self.state.lock();
                }
                None => self.work.wait(&mut state),
            }
        }
    }

    /// Takes the next blob that nobody loads, and those of its pack that come soon.
    fn start(&self, state: &mut State) -> Option<Group> {
        let mut group: Option<Group> = None;
        let mut at = state.next;
        let mut first_left = None;
        while at < state.slots.len() && at < state.next + LOOK {
            let State { slots, contents, bytes, awaited, full, .. } = state;
            let slot = &mut slots[at];
            if slot.started {
                at += 1;
                continue;
            }
            if let Some(content) = contents.get_mut(&slot.key) {
                content.users += 1;
                slot.started = true;
                at += 1;
                continue;
            }
            let Some(location) = slot.location else {
                // Whoever takes it gets the error.
                contents.insert(slot.key, Content { plain: Some(None), length: 0, users: 1 });
                slot.started = true;
                if *awaited == Some(slot.key) {
                    self.ready.notify_all();
                }
                at += 1;
                continue;
            };
            let length = plain_length(&location);
            // The very next blob always has room: somebody waits for it.
            if at > 0 && *bytes > 0 && (*full || *bytes + length > self.limit) {
                *full = true;
                first_left.get_or_insert(at);
                break;
            }
            let (start, end) = (u64::from(location.offset), u64::from(location.offset) + u64::from(location.length));
            let fits = match &mut group {
                None => {
                    group = Some(Group { pack: location.pack, blobs: vec![(slot.key, location)], start, end });
                    true
                }
                Some(group) => {
                    let (low, high) = (group.start.min(start), group.end.max(end));
                    let near = location.pack == group.pack && start <= group.end + GAP && end + GAP >= group.start;
                    let fits = near && high - low <= self.span;
                    if fits {
                        group.blobs.push((slot.key, location));
                        (group.start, group.end) = (low, high);
                    }
                    fits
                }
            };
            if fits {
                slot.started = true;
                contents.insert(slot.key, Content { plain: None, length, users: 1 });
                *bytes += length;
            } else {
                first_left.get_or_insert(at);
            }
            at += 1;
        }
        state.next = first_left.unwrap_or(at);
        group
    }

    fn load(&self, group: Group, scratch: &mut Vec<u8>) {
        let repository = self.reader.repository();
        let bytes = repository.store().get(ObjectKind::Pack, &group.pack, Some(group.start..group.end)).ok();
        for ((kind, id), location) in group.blobs {
            let from = usize::try_from(u64::from(location.offset) - group.start).unwrap_or(usize::MAX);
            let envelope = bytes
                .as_ref()
                .and_then(|bytes| bytes.get(from..))
                .and_then(|rest| rest.get(..location.length as usize));
            let mut plain = Vec::new();
            let decoded = envelope.is_some_and(|envelope| {
                decode_blob(repository.key(), envelope, location.uncompressed, &id, scratch, &mut plain).is_ok()
            });
            let plain = if decoded {
                Some(plain)
            } else {
                // A pack that is cut off still has some of its blobs, and another one may hold a whole copy.
                self.reader.load(kind, &id).ok()
            };
            let mut state = self.state.lock();
            if state.stop {
                return;
            }
            // It may have been passed over meanwhile.
            if let Some(content) = state.contents.get_mut(&(kind, id)) {
                content.plain = Some(plain.map(Arc::new));
            }
            if state.awaited == Some((kind, id)) {
                self.ready.notify_all();
            }
        }
    }
}

/// A thread that failed must not leave anybody waiting for it.
struct StopAtPanic<'a>(&'a Window);

impl Drop for StopAtPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state.lock().stop = true;
            self.0.ready.notify_all();
            self.0.work.notify_all();
        }
    }
}
