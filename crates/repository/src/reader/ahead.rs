//! Threads that load into the reader's cache what will be asked for soon. They end when there is nothing to do.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Key, Shared};

/// Hints that wait at the most: further ones are dropped.
const WAITING: usize = 1024;
/// How long a thread without work waits for more.
const LINGER: Duration = Duration::from_millis(100);

/// What waits, and who works on it.
#[derive(Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Key>,
    queued: HashSet<Key>,
    threads: usize,
    idle: usize,
}

impl Ahead {
    /// Has `keys` loaded, in this order.
    pub(super) fn add(shared: &Arc<Shared>, keys: impl Iterator<Item = Key>) {
        let ahead = &shared.ahead;
        let mut state = ahead.state.lock();
        for key in keys {
            if state.queue.len() < WAITING && state.queued.insert(key) {
                state.queue.push_back(key);
            }
        }
        let waiting = state.queue.len();
        for _ in 0..waiting.min(state.idle) {
            ahead.wake.notify_one();
        }
        while state.threads < shared.threads && waiting > state.idle && state.threads < waiting {
            let (ahead, reader) = (Arc::clone(ahead), Arc::downgrade(shared));
            let work = move || {
                while let Some(key) = ahead.next() {
                    // A reader that is gone needs nothing more. What cannot be read is the business of whoever asks for it.
                    let Some(reader) = reader.upgrade() else { break };
                    let _ = reader.blob(key);
                }
            };
            // Without a thread everything is loaded when it is asked for.
            if std::thread::Builder::new().name("read-ahead".to_owned()).spawn(work).is_err() {
                break;
            }
            state.threads += 1;
        }
    }

    fn next(&self) -> Option<Key> {
        let mut state = self.state.lock();
        loop {
            if let Some(key) = state.queue.pop_front() {
                state.queued.remove(&key);
                return Some(key);
            }
            state.idle += 1;
            let waited = self.wake.wait_for(&mut state, LINGER);
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}
