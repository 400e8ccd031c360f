//! A store that fails, for tests: at named points that a test arms, and at random ones that a seed chooses.
//!
//! What happens at a call depends on nothing but the seed and on how many calls of the same verb and kind came before it
//! ([`Call::number`]). So a plan means the same in every run, also where several threads of one operation call at once
//! and the calls of different kinds arrive in another order each time. Calls are let through one at a time: while one of
//! them is held up ([`Fault::Delay`]), everything else of the same client waits, as it would for a process that is
//! stopped.
//!
//! A client that disappears ([`Fault::Disappear`]) never comes back: each later call fails and changes nothing. To the
//! repository that is a process that was killed, or a host whose network is gone.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstay_core::{Id, ObjectKind, Retry, Store, StoreError, StoreErrorKind};

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// [`Store::put`].
    Put,
    /// [`Store::get`].
    Get,
    /// [`Store::list`].
    List,
    /// [`Store::size`].
    Size,
    /// [`Store::delete`], and each single deletion of [`Store::delete_all`].
    Delete,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// What is asked.
    pub verb: Verb,
    /// Of which kind of object.
    pub kind: ObjectKind,
    /// The how manieth call of this verb and kind it is, counted from 1.
    pub number: u64,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} #{}", self.verb, self.kind, self.number)
    }
}

/// Before or after the store did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Nothing was done yet.
    Before,
    /// It is done, and the caller does not know yet.
    After,
}

/// A place in the life of a repository where something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultPoint {
    /// Its name in messages.
    pub name: &'static str,
    /// Which call.
    pub verb: Verb,
    /// Of which kind.
    pub kind: ObjectKind,
    /// On which side of it.
    pub moment: Moment,
    /// Which promise is attacked here, and how.
    pub attacks: &'static str,
}

macro_rules! points {
    ($($name:ident: $moment:ident $verb:ident $kind:ident, $attacks:literal;)*) => {
        /// The named points. "Invariant" is that of the design: 1, a reported snapshot is readable byte for byte whatever
        /// was killed; 2, nothing that a kept snapshot needs is ever deleted; 3, no entry disappears silently.
        pub mod points {
            use super::{FaultPoint, Moment, ObjectKind, Verb};
            $(
                #[doc = $attacks]
                pub const $name: FaultPoint = FaultPoint {
                    name: stringify!($name),
                    verb: Verb::$verb,
                    kind: ObjectKind::$kind,
                    moment: Moment::$moment,
                    attacks: $attacks,
                };
            )*
            /// All of them.
            pub const ALL: &[FaultPoint] = &[$($name),*];
        }
    };
}

points! {
    BEFORE_LOCK_PUT: Before Put Lock,
        "Invariant 2: a writer whose lock was never written must not go on as if it held one.";
    AFTER_LOCK_PUT: After Put Lock,
        "Invariant 2: a lock whose writer never heard that it was written stays behind and must stop a prune until it is stale.";
    AFTER_LOCK_LIST: After List Lock,
        "Invariant 2: between looking for other locks and writing one's own, somebody else may do the same.";
    BEFORE_LOCK_DELETE: Before Delete Lock,
        "Invariant 2: a lock that could not be given up must not make the work that it guarded a failure, nor be taken for held.";
    AFTER_INDEX_LIST: After List Index,
        "Invariant 1: the index that a backup loads here is old from now on; what it reuses may be gone by its end.";
    BEFORE_PACK_PUT: Before Put Pack,
        "Invariants 1 and 3: a pack that was not stored must end the backup; no snapshot may name its blobs.";
    AFTER_PACK_PUT: After Put Pack,
        "Invariant 1: a stored pack that nobody lists is rubbish, and must never be taken for missing or be half known.";
    BEFORE_INDEX_PUT: Before Put Index,
        "Invariant 1: without the index file no snapshot may appear that needs its packs.";
    AFTER_INDEX_PUT: After Put Index,
        "Invariant 1: blobs that are listed and belong to no snapshot yet may be reused by others, and pruned by nobody who did not look again.";
    BEFORE_SNAPSHOT_PUT: Before Put Snapshot,
        "Invariant 1: a backup that did not get this far was never reported, and left nothing that anybody can see.";
    AFTER_SNAPSHOT_PUT: After Put Snapshot,
        "Invariant 1: a snapshot whose writer never heard that it was written is as good as any other.";
    AFTER_SNAPSHOT_LIST: After List Snapshot,
        "Invariant 2: a snapshot that appears behind a prune's list must be seen when the prune looks again.";
    BEFORE_SNAPSHOT_DELETE: Before Delete Snapshot,
        "Invariant 2: a snapshot that could not be forgotten still needs everything that it needed.";
    BEFORE_OLD_INDEX_DELETE: Before Delete Index,
        "Invariants 1 and 2: old and new index files list the same blobs side by side; both must stay right.";
    AFTER_OLD_INDEX_DELETE: After Delete Index,
        "Invariant 1: with some of the old index files gone, the new ones must list everything that is kept.";
    BEFORE_FIRST_PACK_DELETE: Before Delete Pack,
        "Invariant 2: from here on a mistake is data lost; no index file may list the pack any more.";
    BETWEEN_PACK_DELETES: After Delete Pack,
        "Invariants 1 and 2: packs that were to be deleted and are still there belong to nobody, and do no harm.";
    DURING_PACK_READ: Before Get Pack,
        "Invariant 1: a blob that cannot be read is a failure of the one who asked, never other bytes.";
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The call fails: at [`Moment::Before`] nothing was done, at [`Moment::After`] it was done all the same.
    Fail,
    /// A read brings fewer bytes than there are, without an error.
    ShortRead,
    /// One byte of what is read is another one.
    FlipByte,
    /// The call is held up: [`Watch::delayed`] decides for how long.
    Delay,
    /// This call and every later one fail, and none of the later ones changes anything.
    Disappear,
}

/// How often each fault happens by chance, in ten thousandths of the calls where it can happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// [`Fault::Fail`] with nothing done.
    pub fail_before: u16,
    /// [`Fault::Fail`] with the work done.
    pub fail_after: u16,
    /// [`Fault::ShortRead`].
    pub short_read: u16,
    /// [`Fault::FlipByte`].
    pub flip_byte: u16,
    /// [`Fault::Delay`], before or after.
    pub delay: u16,
    /// [`Fault::Disappear`], before or after.
    pub disappear: u16,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Calls in all, those of a client that is gone not counted.
    pub calls: u64,
    /// See [`FaultRates::fail_before`].
    pub failed_before: u64,
    /// See [`FaultRates::fail_after`].
    pub failed_after: u64,
    /// See [`Fault::ShortRead`].
    pub short_reads: u64,
    /// See [`Fault::FlipByte`].
    pub flipped: u64,
    /// See [`Fault::Delay`].
    pub delayed: u64,
    /// Whether the client disappeared: 0 or 1, more in a sum.
    pub disappeared: u64,
}

impl FaultCounts {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed_before += other.failed_before;
        self.failed_after += other.failed_after;
        self.short_reads += other.short_reads;
        self.flipped += other.flipped;
        self.delayed += other.delayed;
        self.disappeared += other.disappeared;
    }
}

/// Told what happens at a store, in the thread that calls it; whatever it does holds up the client.
pub trait Watch: Send + Sync + fmt::Debug {
    /// A fault says that this call takes its time.
    fn delayed(&self, call: &Call, moment: Moment) {
        let _ = (call, moment);
        std::thread::yield_now();
    }

    /// The store did what it was asked.
    fn applied(&self, call: &Call, id: &Id) {
        let _ = (call, id);
    }
}

/// Nobody watches; a delay gives the processor to somebody else.
#[derive(Debug)]
struct Nobody;

impl Watch for Nobody {}

#[derive(Debug, Default)]
struct State {
    numbers: HashMap<(Verb, ObjectKind), u64>,
    armed: Vec<(FaultPoint, u64, Fault)>,
    reached: Vec<FaultPoint>,
    counts: FaultCounts,
}

/// A client's view of a store in which things go wrong.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    seed: u64,
    rates: FaultRates,
    watch: Arc<dyn Watch>,
    state: Mutex<State>,
    gone: Arc<AtomicBool>,
    /// Calls in all, readable while one is held up.
    calls: AtomicU64,
}

impl FaultStore {
    /// A store where nothing goes wrong until a point is armed.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with_seed(inner, 0, FaultRates::default())
    }

    /// A store where a seed chooses what goes wrong.
    #[must_use]
    pub fn with_seed(inner: Arc<dyn Store>, seed: u64, rates: FaultRates) -> Self {
        Self {
            inner,
            seed,
            rates,
            watch: Arc::new(Nobody),
            state: Mutex::default(),
            gone: Arc::default(),
            calls: AtomicU64::new(0),
        }
    }

    /// The same, watched.
    #[must_use]
    pub fn watched_by(mut self, watch: Arc<dyn Watch>) -> Self {
        self.watch = watch;
        self
    }

    /// The same as the view of a client that has another one already: when it disappears, it does so in both.
    #[must_use]
    pub fn gone_with(mut self, other: &Self) -> Self {
        self.gone = Arc::clone(&other.gone);
        self
    }

    /// Lets `fault` happen when the `number`th call reaches the point, counted from 1 since this store was made.
    pub fn arm(&self, point: FaultPoint, number: u64, fault: Fault) {
        self.state().armed.push((point, number, fault));
    }

    /// From now on every call fails and nothing changes. A call that is held up fails when it goes on.
    pub fn disappear(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether the client is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Calls that were let through until now. Can be asked while a call is held up.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    /// How often what happened. Waits for a call that is held up.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.state().counts
    }

    /// The armed points that were reached, in order. Waits for a call that is held up.
    #[must_use]
    pub fn reached(&self) -> Vec<FaultPoint> {
        self.state().reached.clone()
    }

    /// How often each kind of call was made, in the order of verbs and kinds. Waits for a call that is held up.
    #[must_use]
    pub fn numbers(&self) -> Vec<(Verb, ObjectKind, u64)> {
        let mut all: Vec<_> = self.state().numbers.iter().map(|((verb, kind), count)| (*verb, *kind, *count)).collect();
        all.sort_unstable();
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether chance says so, at this call, for this fault.
    fn chance(&self, call: &Call, salt: u64, rate: u16) -> bool {
        rate > 0 && self.number_for(call, salt) % 10_000 < u64::from(rate)
    }

    fn number_for(&self, call: &Call, salt: u64) -> u64 {
        [call.verb as u64, call.kind as u64, call.number, salt]
            .into_iter()
            .fold(self.seed, |state, next| mix(state ^ mix(next.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// The fault of this moment, if any: an armed one goes before one of chance.
    fn fault(&self, state: &mut State, call: &Call, moment: Moment) -> Option<Fault> {
        let armed = state.armed.iter().find(|(point, number, _)| {
            point.verb == call.verb && point.kind == call.kind && point.moment == moment && *number == call.number
        });
        if let Some((point, _, fault)) = armed {
            state.reached.push(*point);
            return Some(*fault);
        }
        let rates = &self.rates;
        let (fail, disappear) = match moment {
            Moment::Before => (self.chance(call, 1, rates.fail_before), self.chance(call, 2, rates.disappear / 2)),
            Moment::After => {
                (self.chance(call, 3, rates.fail_after), self.chance(call, 4, rates.disappear - rates.disappear / 2))
            }
        };
        let read = call.verb == Verb::Get && moment == Moment::After;
        if disappear {
            Some(Fault::Disappear)
        } else if fail {
            Some(Fault::Fail)
        } else if read && self.chance(call, 5, rates.short_read) {
            Some(Fault::ShortRead)
        } else if read && self.chance(call, 6, rates.flip_byte) {
            Some(Fault::FlipByte)
        } else if self.chance(call, 7 + moment as u64, rates.delay / 2) {
            Some(Fault::Delay)
        } else {
            None
        }
    }

    fn gone_error(&self, call: &Call, id: &Id) -> StoreError {
        self.error(call, id, "the client has disappeared", Retry::Never)
    }

    fn error(&self, call: &Call, id: &Id, text: &str, retry: Retry) -> StoreError {
        let operation = match call.verb {
            Verb::Put => "write",
            Verb::Get => "read",
            Verb::List => "list",
            Verb::Size => "look at",
            Verb::Delete => "delete",
        };
        let object = format!("{}/{}/{}", self.inner.location(), call.kind.directory(), id.short());
        StoreError { retry, ..StoreError::new(StoreErrorKind::Other, operation, object, format!("{text} ({call})")) }
    }

    fn call<T>(
        &self,
        verb: Verb,
        kind: ObjectKind,
        id: &Id,
        work: impl FnOnce() -> Result<T, StoreError>,
        spoil: impl FnOnce(&mut T, Fault, u64) -> bool,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        let number = state.numbers.get(&(verb, kind)).copied().unwrap_or(0) + 1;
        let call = Call { verb, kind, number };
        if self.is_gone() {
            return Err(self.gone_error(&call, id));
        }
        state.numbers.insert((verb, kind), number);
        state.counts.calls += 1;
        self.calls.fetch_add(1, Ordering::AcqRel);
        match self.fault(&mut state, &call, Moment::Before) {
            Some(Fault::Fail) => {
                state.counts.failed_before += 1;
                return Err(self.error(&call, id, "a planned failure, nothing was done", Retry::Soon));
            }
            Some(Fault::Delay) => {
                state.counts.delayed += 1;
                self.watch.delayed(&call, Moment::Before);
            }
            Some(Fault::Disappear) => {
                state.counts.disappeared += 1;
                self.disappear();
            }
            Some(Fault::ShortRead | Fault::FlipByte) | None => {}
        }
        if self.is_gone() {
            return Err(self.gone_error(&call, id));
        }
        let mut result = work()?;
        self.watch.applied(&call, id);
        match self.fault(&mut state, &call, Moment::After) {
            Some(Fault::Fail) => {
                state.counts.failed_after += 1;
                return Err(self.error(&call, id, "a planned failure, the work was done", Retry::Soon));
            }
            Some(Fault::Delay) => {
                state.counts.delayed += 1;
                self.watch.delayed(&call, Moment::After);
            }
            Some(Fault::Disappear) => {
                state.counts.disappeared += 1;
                self.disappear();
            }
            Some(fault @ (Fault::ShortRead | Fault::FlipByte)) => {
                let spoiled = u64::from(spoil(&mut result, fault, self.number_for(&call, 9)));
                let counter = match fault {
                    Fault::ShortRead => &mut state.counts.short_reads,
                    _ => &mut state.counts.flipped,
                };
                *counter += spoiled;
            }
            None => {}
        }
        if self.is_gone() { Err(self.gone_error(&call, id)) } else { Ok(result) }
    }
}

/// One step of splitmix64: every bit of the result depends on every bit of `state`.
#[must_use]
pub fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Shortens or changes what was read; whether there was anything to spoil.
fn spoil_bytes(bytes: &mut Vec<u8>, fault: Fault, chance: u64) -> bool {
    let Some(at) = chance.checked_rem(bytes.len() as u64) else { return false };
    let at = usize::try_from(at).unwrap_or(0);
    match fault {
        Fault::ShortRead => bytes.truncate(at),
        _ => bytes[at] ^= 1 << (chance >> 32 & 7),
    }
    true
}

fn whole<T>(_: &mut T, _: Fault, _: u64) -> bool {
    false
}

impl Store for FaultStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn calls_at_once(&self) -> usize {
        1
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.call(Verb::Put, kind, id, || self.inner.put(kind, id, body), whole)
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.call(Verb::Get, kind, id, || self.inner.get(kind, id, range), spoil_bytes)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.call(Verb::List, kind, &Id::default(), || self.inner.list(kind), whole)
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.call(Verb::Size, kind, id, || self.inner.size(kind, id), whole)
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.call(Verb::Delete, kind, id, || self.inner.delete(kind, id), whole)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::points::{AFTER_PACK_PUT, ALL, BEFORE_PACK_PUT, BETWEEN_PACK_DELETES, DURING_PACK_READ};
    use super::*;
    use crate::MemoryStore;

    fn bodies(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|number| vec![number; 100]).collect()
    }

    fn there(store: &dyn Store) -> usize {
        store.list(ObjectKind::Pack).unwrap().len()
    }

    #[test]
    fn without_a_fault_it_behaves_like_every_store() {
        crate::testing::behaves(|| Arc::new(FaultStore::new(Arc::new(MemoryStore::default()))));
    }

    #[test]
    fn a_failure_before_leaves_nothing_and_one_after_leaves_everything() {
        let inner = Arc::new(MemoryStore::default());
        let store = FaultStore::new(inner.clone());
        store.arm(BEFORE_PACK_PUT, 1, Fault::Fail);
        store.arm(AFTER_PACK_PUT, 2, Fault::Fail);
        let id = Id::of(b"x");
        assert!(store.put(ObjectKind::Pack, &id, b"x").is_err());
        assert_eq!(there(&*inner), 0);
        assert!(store.put(ObjectKind::Pack, &id, b"x").is_err());
        assert_eq!(there(&*inner), 1);
        store.put(ObjectKind::Pack, &id, b"x").unwrap();
        let counts = store.counts();
        assert_eq!((counts.failed_before, counts.failed_after, counts.calls), (1, 1, 3));
        assert_eq!(store.reached(), [BEFORE_PACK_PUT, AFTER_PACK_PUT]);
    }

    #[test]
    fn who_has_disappeared_changes_nothing_more() {
        let inner = Arc::new(MemoryStore::default());
        let store = FaultStore::new(inner.clone());
        store.arm(BETWEEN_PACK_DELETES, 2, Fault::Disappear);
        let ids: Vec<Id> = bodies(4).iter().map(|body| Id::of(body)).collect();
        for body in bodies(4) {
            store.put(ObjectKind::Pack, &Id::of(&body), &body).unwrap();
        }
        assert!(store.delete_all(ObjectKind::Pack, &ids).is_err());
        assert!(store.is_gone());
        assert_eq!(there(&*inner), 2);
        assert!(store.put(ObjectKind::Lock, &ids[0], b"x").is_err());
        assert!(store.get(ObjectKind::Pack, &ids[3], None).is_err());
        assert!(store.delete(ObjectKind::Pack, &ids[3]).is_err());
        assert_eq!(inner.objects().len(), 2);
    }

    #[test]
    fn who_has_disappeared_has_done_so_in_every_store() {
        let inner = Arc::new(MemoryStore::default());
        let store = FaultStore::new(Arc::new(MemoryStore::default()));
        let other = FaultStore::new(inner.clone()).gone_with(&store);
        other.put(ObjectKind::Pack, &Id::of(b"x"), b"x").unwrap();
        store.disappear();
        assert!(other.is_gone() && other.put(ObjectKind::Pack, &Id::of(b"y"), b"y").is_err());
        assert_eq!(inner.objects().len(), 1);
    }

    #[test]
    fn reads_come_short_or_with_another_byte() {
        let store = FaultStore::new(Arc::new(MemoryStore::default()));
        let body = vec![7; 100];
        let id = Id::of(&body);
        store.put(ObjectKind::Pack, &id, &body).unwrap();
        let after = FaultPoint { moment: Moment::After, ..DURING_PACK_READ };
        store.arm(after, 1, Fault::ShortRead);
        store.arm(after, 2, Fault::FlipByte);
        assert!(store.get(ObjectKind::Pack, &id, None).unwrap().len() < 100);
        let flipped = store.get(ObjectKind::Pack, &id, None).unwrap();
        let wrong: u32 = flipped.iter().zip(&body).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((flipped.len(), wrong), (100, 1));
        assert_eq!(store.get(ObjectKind::Pack, &id, None).unwrap(), body);
    }

    /// Calls from several threads arrive in any order; what fails is the same all the same.
    #[test]
    fn the_same_seed_fails_the_same_calls_whatever_the_order_of_kinds() {
        let rates =
            FaultRates { fail_before: 1000, fail_after: 1000, short_read: 500, flip_byte: 500, ..Default::default() };
        let outcomes = |seed: u64, packs_first: bool| {
            let store = FaultStore::with_seed(Arc::new(MemoryStore::default()), seed, rates);
            let mut failed = HashSet::new();
            let mut kinds = [ObjectKind::Pack, ObjectKind::Index];
            if !packs_first {
                kinds.reverse();
            }
            for kind in kinds {
                for (number, body) in bodies(100).iter().enumerate() {
                    if store.put(kind, &Id::of(body), body).is_err() {
                        failed.insert((kind, number));
                    }
                }
            }
            (failed, store.counts())
        };
        let first = outcomes(42, true);
        assert_eq!(first, outcomes(42, false));
        assert_ne!(first, outcomes(43, true));
        assert!((10..80).contains(&first.0.len()), "{}", first.0.len());
    }

    #[test]
    fn a_client_that_disappears_while_it_is_held_up_does_nothing_more() {
        #[derive(Debug)]
        struct Kill(Mutex<Option<Arc<FaultStore>>>);
        impl Watch for Kill {
            fn delayed(&self, _call: &Call, _moment: Moment) {
                self.0.lock().unwrap().take().unwrap().disappear();
            }
        }
        let inner = Arc::new(MemoryStore::default());
        let kill = Arc::new(Kill(Mutex::default()));
        let store = Arc::new(FaultStore::new(inner.clone()).watched_by(kill.clone()));
        *kill.0.lock().unwrap() = Some(Arc::clone(&store));
        store.arm(BEFORE_PACK_PUT, 1, Fault::Delay);
        assert!(store.put(ObjectKind::Pack, &Id::of(b"x"), b"x").is_err());
        assert_eq!(there(&*inner), 0);
    }

    #[test]
    fn every_point_says_what_it_attacks() {
        let names: HashSet<_> = ALL.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|point| point.attacks.starts_with("Invariant")));
    }
}
