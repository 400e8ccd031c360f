//! What the host says while callbacks run, and the cancel.
//!
//! The main thread reads the control socket whenever it waits for the host. While it is inside a callback a second
//! thread looks in now and then, so that no callback pays for a wake-up: it flushes frames that wait, keeps what is not
//! urgent for the main thread, and carries out a cancel (reference 4.14).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use backstay_bareos_protocol::{Failure, FileOffer, RestoreEntry, ToWorker, WholeEntry};
use backstay_python_runtime::Interrupter;
use backstay_worker::Receiver;
use backstay_worker::channel::Received;
use pyo3::prelude::*;

use crate::constants::event;
use crate::context::{HostGone, JobContext};
use crate::script::Script;

/// How often the second thread looks in.
const LOOK: Duration = Duration::from_millis(20);
/// How long a callback that runs when its job is cancelled may take to end by itself. Then it is interrupted.
const OWN_END: Duration = Duration::from_secs(1);

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The reader of the backup ring took everything up to this position.
    Consumed(u64),
    /// See [`ToWorker::DataFdDone`].
    DataFdDone(Result<u64, Failure>),
    /// See [`ToWorker::File`].
    File(Box<FileOffer>),
    /// See [`ToWorker::EndFiles`].
    EndFiles,
    /// See [`ToWorker::Restore`].
    Restore(Box<RestoreEntry>),
    /// See [`ToWorker::Whole`].
    Whole(Box<WholeEntry>),
    /// See [`ToWorker::Data`].
    Data { position: u64, length: u32 },
    /// See [`ToWorker::EndData`].
    EndData { written: Result<(), Failure>, acls: Vec<Vec<u8>>, xattrs: Vec<(Vec<u8>, Vec<u8>)> },
    /// See [`ToWorker::EndRestore`].
    EndRestore,
    /// The job was cancelled; its event was delivered.
    Cancelled,
}

#[derive(Debug)]
struct Inbox {
    receiver: Receiver,
    /// What the second thread read.
    waiting: VecDeque<ToWorker>,
    closed: bool,
}

/// The receiving side of the control socket.
#[derive(Debug)]
pub(crate) struct Link {
    context: Arc<JobContext>,
    script: Arc<Script>,
    inbox: Arc<Mutex<Inbox>>,
    /// A cancel was read; whoever read it carries it out.
    cancel_seen: Arc<AtomicBool>,
    /// The main thread knows.
    cancel_told: AtomicBool,
}

impl Link {
    /// Takes over the receiving half and starts the second thread, which ends with the process.
    pub(crate) fn start(
        context: &Arc<JobContext>,
        script: &Arc<Script>,
        receiver: Receiver,
        interrupter: Interrupter,
    ) -> Result<Self, HostGone> {
        let inbox = Arc::new(Mutex::new(Inbox { receiver, waiting: VecDeque::new(), closed: false }));
        let link = Self {
            context: Arc::clone(context),
            script: Arc::clone(script),
            inbox: Arc::clone(&inbox),
            cancel_seen: Arc::new(AtomicBool::new(false)),
            cancel_told: AtomicBool::new(false),
        };
        let watcher = Watcher {
            context: Arc::clone(context),
            script: Arc::clone(script),
            inbox,
            cancel_seen: Arc::clone(&link.cancel_seen),
            interrupter,
        };
        thread::Builder::new().name("watcher".to_owned()).spawn(move || watcher.run())?;
        Ok(link)
    }

    /// The job is over: a cancel that comes now, or a host that goes away, stops nothing any more.
    pub(crate) fn job_is_over(&self) {
        self.cancel_seen.store(true, Ordering::SeqCst);
    }

    /// Waits until the host closes the socket: it may still have to answer frames that came before the last one.
    pub(crate) fn wait_for_end(&self, py: Python<'_>) {
        py.detach(|| {
            let mut inbox = lock(&self.inbox);
            while !inbox.closed {
                inbox.closed = !matches!(inbox.receiver.receive::<ToWorker>(), Ok(Some(_)));
            }
        });
    }

    /// The host's next word. If it has to be waited for, what is queued is sent first; the interpreter is released.
    pub(crate) fn wait(&self, py: Python<'_>) -> Result<Incoming, HostGone> {
        let message = py.detach(|| {
            let mut inbox = lock(&self.inbox);
            if self.cancel_seen.load(Ordering::SeqCst) && !self.cancel_told.swap(true, Ordering::SeqCst) {
                self.context.flush()?;
                // The second thread is telling the plugin; the job is cancelled only when that is done.
                while !self.context.is_cancelled() {
                    thread::sleep(LOOK);
                }
                return Ok(ToWorker::Cancel);
            }
            if let Some(message) = inbox.waiting.pop_front() {
                return Ok(message);
            }
            if inbox.closed {
                return Err(HostGone("it closed the control socket".to_owned()));
            }
            if let Some((message, _descriptor)) = inbox.receiver.received()? {
                return Ok(message);
            }
            self.context.flush()?;
            match inbox.receiver.receive()? {
                Some((message, _descriptor)) => Ok(message),
                None => {
                    inbox.closed = true;
                    Err(HostGone("it closed the control socket".to_owned()))
                }
            }
        })?;
        Ok(match message {
            ToWorker::Consumed(position) => Incoming::Consumed(position),
            ToWorker::DataFdDone(result) => Incoming::DataFdDone(result),
            ToWorker::File(offer) => Incoming::File(offer),
            ToWorker::EndFiles => Incoming::EndFiles,
            ToWorker::Restore(entry) => Incoming::Restore(entry),
            ToWorker::Whole(whole) => Incoming::Whole(whole),
            ToWorker::Data { position, length } => Incoming::Data { position, length },
            ToWorker::EndData { written, acls, xattrs } => Incoming::EndData { written, acls, xattrs },
            ToWorker::EndRestore => Incoming::EndRestore,
            ToWorker::Cancel => {
                self.cancel_told.store(true, Ordering::SeqCst);
                if !self.cancel_seen.swap(true, Ordering::SeqCst) {
                    // No callback runs: this thread may as well be the one that tells the plugin.
                    self.script.event(py, event::CANCEL_COMMAND);
                    self.context.cancel();
                }
                Incoming::Cancelled
            }
            ToWorker::Start(_) => return Err(HostGone("it started a second job in one worker".to_owned())),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watcher {
    context: Arc<JobContext>,
    script: Arc<Script>,
    inbox: Arc<Mutex<Inbox>>,
    cancel_seen: Arc<AtomicBool>,
    interrupter: Interrupter,
}

impl Watcher {
    fn run(self) {
        loop {
            thread::sleep(LOOK);
            self.context.flush_if_idle();
            if self.cancel_asked() {
                self.cancel();
            }
        }
    }

    /// Reads what has come, unless the main thread is reading.
    fn cancel_asked(&self) -> bool {
        let mut inbox = match self.inbox.try_lock() {
            Ok(inbox) => inbox,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let mut cancel = false;
        while !inbox.closed {
            match inbox.receiver.receive_within::<ToWorker>(Some(Duration::ZERO)) {
                Ok(Received::Message(ToWorker::Cancel, _)) => {
                    cancel |= !self.cancel_seen.swap(true, Ordering::SeqCst);
                }
                Ok(Received::Message(message, _)) => inbox.waiting.push_back(message),
                Ok(Received::TimedOut) => break,
                // Without a host there is nothing to back up to: what runs is stopped as by a cancel.
                Ok(Received::Closed) | Err(_) => {
                    inbox.closed = true;
                    cancel |= !self.cancel_seen.swap(true, Ordering::SeqCst);
                }
            }
        }
        cancel
    }

    /// Event 14 while the callback goes on, then the status, then the interruption.
    fn cancel(&self) {
        let before = self.context.running_callback();
        self.deliver();
        self.context.cancel();
        // An error means that the main thread has ended.
        let _ = self.interrupter.nudge();
        let patience = Instant::now() + OWN_END;
        // Only the callback that the cancel met: the closing callbacks after it run undisturbed.
        while before.is_some() && self.context.running_callback() == before {
            thread::sleep(LOOK);
            self.context.flush_if_idle();
            if Instant::now() >= patience {
                let _ = self.interrupter.interrupt();
                thread::sleep(OWN_END / 4);
            }
        }
        self.interrupter.clear();
    }

    /// Delivers the event. It may take its time; but a callback that never lets go of the interpreter must not keep us
    /// from interrupting it.
    fn deliver(&self) {
        let (entered, has_entered) = mpsc::channel();
        let (script, done) = (Arc::clone(&self.script), mpsc::channel());
        let (finished, has_finished) = done;
        let started = thread::Builder::new().name("cancel".to_owned()).spawn(move || {
            Python::attach(|py| {
                let _ = entered.send(());
                script.event(py, event::CANCEL_COMMAND);
            });
            let _ = finished.send(());
        });
        if started.is_err() || has_entered.recv_timeout(OWN_END) == Err(RecvTimeoutError::Timeout) {
            return;
        }
        // An error means that the thread has ended, which is the same.
        let _ = has_finished.recv();
    }
}
