//! The job as a storage-daemon or director plugin sees it from every thread: values, registered events, messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use backstay_bareos_protocol::hooks::{FromHook, HookSpec, Value};
use backstay_worker::Sender;

use super::constants::{Numbers, numbers};
use crate::constants::message;
use crate::context::HostGone;

/// Longest text of a message, in bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// The job. One in a process, shared by all its threads.
///
/// Whoever holds one of its locks never waits for the interpreter, so calling it with the interpreter attached is safe.
#[derive(Debug)]
pub(crate) struct HookContext {
    pub(crate) spec: HookSpec,
    pub(crate) numbers: &'static Numbers,
    values: Mutex<BTreeMap<i32, Value>>,
    /// A volume name that was set and that the host does not know yet.
    volume: Mutex<Option<String>>,
    events: AtomicU32,
    said: Mutex<BTreeSet<&'static str>>,
    sender: Mutex<Sender>,
}

static CURRENT: OnceLock<Arc<HookContext>> = OnceLock::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not silence the job's messages.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HookContext {
    /// The job of this process, if one runs.
    pub(crate) fn current() -> Option<&'static Arc<Self>> {
        CURRENT.get()
    }

    /// Makes the process's job.
    pub(crate) fn begin(spec: HookSpec, sender: Sender) -> Result<&'static Arc<Self>, HostGone> {
        let numbers = numbers(spec.daemon);
        let context = Self {
            numbers,
            values: Mutex::new(spec.values.iter().cloned().collect()),
            volume: Mutex::new(None),
            events: AtomicU32::new(1 << numbers.new_plugin_options),
            said: Mutex::new(BTreeSet::new()),
            sender: Mutex::new(sender),
            spec,
        };
        CURRENT.set(Arc::new(context)).map_err(|_| HostGone("a second job was started in one worker".to_owned()))?;
        CURRENT.get().ok_or_else(|| HostGone("the job could not be started".to_owned()))
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &FromHook) -> Result<(), HostGone> {
        let mut sender = lock(&self.sender);
        sender.send(frame)?;
        Ok(sender.flush()?)
    }

    /// Emits a job message, cut where it is longer than a frame takes.
    pub(crate) fn message(&self, kind: i32, mut text: String) {
        if text.len() > LONGEST_TEXT {
            let end = (0..=LONGEST_TEXT).rfind(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
            text.push_str("\n(the rest is left out)\n");
        }
        // A lost connection is noticed, and reported, by the thread that answers.
        let _ = self.send(&FromHook::Message { kind, text });
    }

    /// A warning that is worth saying once in a job.
    pub(crate) fn warn_once(&self, text: &'static str) {
        if lock(&self.said).insert(text) {
            self.message(message::WARNING, text.to_owned());
        }
    }

    /// What a variable reads as.
    pub(crate) fn value(&self, number: i32) -> Value {
        lock(&self.values).get(&number).cloned().unwrap_or(Value::None)
    }

    /// Takes over what the host says has changed.
    pub(crate) fn update(&self, values: Vec<(i32, Value)>) {
        lock(&self.values).extend(values);
    }

    /// Sets the job's volume name.
    pub(crate) fn set_volume(&self, name: String) {
        lock(&self.values).insert(self.numbers.volume_name, Value::Text(name.clone()));
        *lock(&self.volume) = Some(name);
    }

    /// A volume name that was set since this was last asked.
    pub(crate) fn take_volume(&self) -> Option<String> {
        lock(&self.volume).take()
    }

    /// Registers an event.
    pub(crate) fn register(&self, number: u8) {
        self.events.fetch_or(1 << number, Ordering::SeqCst);
    }

    /// Removes a registration.
    pub(crate) fn unregister(&self, number: u8) {
        self.events.fetch_and(!(1 << number), Ordering::SeqCst);
    }

    /// Whether an event is registered.
    pub(crate) fn is_registered(&self, number: u8) -> bool {
        number < 32 && self.events.load(Ordering::SeqCst) & (1 << number) != 0
    }
}
