//! Looks after calls that take long: finished answers must not wait for them, nor requests that others could serve.
//!
//! One thread for the whole server. It looks every tenth of a millisecond while any session is at work, and sleeps else.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::server::session::Session;

/// How often it looks.
const TICK: Duration = Duration::from_micros(90);
/// Ticks without a call after which a session is not looked at any more: it would only begin again.
const IDLE: u32 = 40;

/// The sessions that were at work lately.
#[derive(Default)]
pub(crate) struct Watch {
    list: Mutex<List>,
    more: Condvar,
}

#[derive(Default)]
struct List {
    sessions: Vec<Watched>,
    over: bool,
}

struct Watched {
    session: Arc<Session>,
    idle: u32,
}

impl Watch {
    pub(crate) fn add(&self, session: &Arc<Session>) {
        self.list.lock().sessions.push(Watched { session: Arc::clone(session), idle: 0 });
        self.more.notify_one();
    }

    /// Watches until the end.
    pub(crate) fn run(&self) {
        // A hundredth of a tick; without it a tick is half as long again.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
        loop {
            let mut list = self.list.lock();
            self.more.wait_while(&mut list, |list| list.sessions.is_empty() && !list.over);
            if list.over {
                return;
            }
            let dropped: Vec<_> = list.sessions.extract_if(.., |watched| !watched.look()).collect();
            drop(dropped);
            drop(list);
            std::thread::sleep(TICK);
        }
    }

    /// A session is over.
    pub(crate) fn remove(&self, session: &Arc<Session>) {
        let dropped: Vec<_> =
            self.list.lock().sessions.extract_if(.., |watched| Arc::ptr_eq(&watched.session, session)).collect();
        drop(dropped);
    }

    pub(crate) fn end(&self) {
        let mut list = self.list.lock();
        list.over = true;
        list.sessions.clear();
        self.more.notify_one();
    }
}

impl Watched {
    /// Whether the session is to be looked at again.
    fn look(&mut self) -> bool {
        self.idle = if self.session.look() { 0 } else { self.idle + 1 };
        self.idle < IDLE || !self.session.is_leaving_watch()
    }
}
