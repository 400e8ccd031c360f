//! One operation's view of the store, and its turn: it is held up where the seed says so, until it is told to go on.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstay_core::{Id, ObjectKind, Store};
use backstay_stores::MemoryStore;
use backstay_stores::faults::{Call, FaultRates, FaultStore, Moment, Verb, Watch};

/// What an operation did to the repository that others may have to know.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    /// Lock files that it wrote and did not remove.
    pub locks: Vec<Id>,
    /// Snapshots that it deleted.
    pub deleted_snapshots: Vec<Id>,
}

/// Where an operation is held up.
pub type Held = (Call, Moment);

/// The connection between one operation and whoever gives turns.
struct Turn {
    held: Box<dyn Fn(Held) + Send + Sync>,
    go_on: Mutex<Receiver<()>>,
    deeds: Arc<Mutex<Deeds>>,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("deeds", &self.deeds).finish_non_exhaustive()
    }
}

impl Watch for Turn {
    fn delayed(&self, call: &Call, moment: Moment) {
        (self.held)((*call, moment));
        // Whoever gave the turns is gone when this fails, and nobody waits any more.
        let _ = lock(&self.go_on).recv();
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

/// One operation's connection to the store.
#[derive(Debug)]
pub struct Client {
    store: Arc<FaultStore>,
    go_on: Sender<()>,
    deeds: Arc<Mutex<Deeds>>,
}

impl Client {
    /// A connection whose faults the seed chooses. `held` is told when the operation is held up.
    pub fn new(
        store: Arc<MemoryStore>,
        seed: u64,
        rates: FaultRates,
        held: impl Fn(Held) + Send + Sync + 'static,
    ) -> Self {
        let (go_on, receiver) = std::sync::mpsc::channel();
        let deeds = Arc::new(Mutex::default());
        let turn = Turn { held: Box::new(held), go_on: Mutex::new(receiver), deeds: Arc::clone(&deeds) };
        let store = FaultStore::with_seed(store, seed, rates).watched_by(Arc::new(turn));
        Self { store: Arc::new(store), go_on, deeds }
    }

    /// The store as the operation sees it.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The same, to ask what went wrong.
    #[must_use]
    pub fn faults(&self) -> &FaultStore {
        &self.store
    }

    /// Lets a held call go on.
    pub fn go_on(&self) {
        // It cannot fail while the call is held.
        let _ = self.go_on.send(());
    }

    /// What the operation did until now.
    #[must_use]
    pub fn deeds(&self) -> Deeds {
        lock(&self.deeds).clone()
    }
}
