//! One operation's view of the store, and its turn: it is held up where the seed says so, until it is told to go on.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstay_core::{Id, ObjectKind, Store};
use backstay_stores::MemoryStore;
use backstay_stores::faults::{Call, FaultCounts, FaultRates, FaultStore, Moment, Verb, Watch, mix};

/// What an operation did to the repository that others may have to know.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    /// Lock files that it wrote and did not remove.
    pub locks: Vec<Id>,
    /// Snapshots that it deleted.
    pub deleted_snapshots: Vec<Id>,
}

/// Where an operation is held up, and in which store: the first, or the one that is copied to.
pub type Held = (Call, Moment, Place);

/// One of an operation's stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// That of the repository that everybody uses.
    Here,
    /// That of the repository that is copied to.
    There,
}

/// The connection between one operation and whoever gives turns.
struct Turn {
    held: Box<dyn Fn(Held) + Send + Sync>,
    go_on: Mutex<Receiver<()>>,
}

/// What watches one of an operation's stores.
struct Seat {
    turn: Arc<Turn>,
    place: Place,
    deeds: Arc<Mutex<Deeds>>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("deeds", &self.deeds).finish_non_exhaustive()
    }
}

impl Watch for Seat {
    fn delayed(&self, call: &Call, moment: Moment) {
        (self.turn.held)((*call, moment, self.place));
        // Whoever gave the turns is gone when this fails, and nobody waits any more.
        let _ = lock(&self.turn.go_on).recv();
    }

    fn applied(&self, call: &Call, id: &Id) {
        let mut deeds = lock(&self.deeds);
        match (call.verb, call.kind) {
            (Verb::Put, ObjectKind::Lock) => deeds.locks.push(*id),
            (Verb::Delete, ObjectKind::Lock) => deeds.locks.retain(|have| have != id),
            (Verb::Delete, ObjectKind::Snapshot) => deeds.deleted_snapshots.push(*id),
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One operation's connection to its stores.
#[derive(Debug)]
pub struct Client {
    stores: [Arc<FaultStore>; 2],
    go_on: Sender<()>,
    deeds: [Arc<Mutex<Deeds>>; 2],
}

impl Client {
    /// A connection whose faults the seed chooses, to the store and to the one that is copied to. `held` is told when the
    /// operation is held up.
    pub fn new(
        [here, there]: [Arc<MemoryStore>; 2],
        seed: u64,
        rates: FaultRates,
        held: impl Fn(Held) + Send + Sync + 'static,
    ) -> Self {
        let (go_on, receiver) = std::sync::mpsc::channel();
        let turn = Arc::new(Turn { held: Box::new(held), go_on: Mutex::new(receiver) });
        let deeds: [Arc<Mutex<Deeds>>; 2] = Default::default();
        let seat = |place: Place| {
            let deeds = Arc::clone(&deeds[place as usize]);
            Arc::new(Seat { turn: Arc::clone(&turn), place, deeds })
        };
        let here = FaultStore::with_seed(here, seed, rates).watched_by(seat(Place::Here));
        let there = FaultStore::with_seed(there, mix(seed), rates).watched_by(seat(Place::There)).gone_with(&here);
        Self { stores: [Arc::new(here), Arc::new(there)], go_on, deeds }
    }

    /// A store as the operation sees it.
    #[must_use]
    pub fn store(&self, place: Place) -> Arc<dyn Store> {
        self.stores[place as usize].clone()
    }

    /// The store that everybody uses, to let something go wrong there. When the client disappears, it does so everywhere.
    #[must_use]
    pub fn faults(&self) -> &FaultStore {
        &self.stores[Place::Here as usize]
    }

    /// What went wrong in both stores.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        let mut counts = FaultCounts::default();
        self.stores.iter().for_each(|store| counts.add(&store.counts()));
        counts
    }

    /// Lets a held call go on.
    pub fn go_on(&self) {
        // It cannot fail while the call is held.
        let _ = self.go_on.send(());
    }

    /// What the operation did in a store until now.
    #[must_use]
    pub fn deeds(&self, place: Place) -> Deeds {
        lock(&self.deeds[place as usize]).clone()
    }
}
