//! The job as plugin code sees it from every thread: its values, its registered events, its messages and their effect
//! on its state (reference 2.1, 2.6, 4.8, 4.9).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use backstay_bareos_fileset::Selection;
use backstay_bareos_protocol::{FromWorker, JobSpec, LineRules, Task};
use backstay_worker::Sender;

use crate::changes::Known;
use crate::constants::{event, message};

/// The host closed the control socket or sends what cannot be: nothing is left to do but to end.
#[derive(Debug, thiserror::Error)]
#[error("the connection to backstay is lost: {0}")]
pub struct HostGone(pub String);

impl From<io::Error> for HostGone {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Letters of bVarJobStatus that a job goes through (reference 12.2).
pub(crate) mod status {
    pub(crate) const CREATED: u8 = b'C';
    pub(crate) const BLOCKED: u8 = b'B';
    pub(crate) const RUNNING: u8 = b'R';
    pub(crate) const TERMINATED: u8 = b'T';
    pub(crate) const ERROR: u8 = b'E';
    pub(crate) const FATAL: u8 = b'f';
    pub(crate) const CANCELLED: u8 = b'A';
}

/// How many attribute errors of a job are reported one by one.
const ATTRIBUTE_REPORTS: u32 = 25;

/// Longest text of a message, in bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// The job. One in a process, shared by all its threads.
///
/// Whoever holds one of its locks never waits for the interpreter, so calling it with the interpreter attached is safe.
#[derive(Debug)]
pub struct JobContext {
    /// What the host said.
    pub spec: JobSpec,
    known: Option<Known>,
    /// The rules around each definition.
    selections: Vec<Option<Selection>>,
    line: AtomicU32,
    sender: Mutex<Sender>,
    job_type: AtomicU8,
    status: AtomicU8,
    since: AtomicI64,
    check_changes: AtomicBool,
    where_known: AtomicBool,
    accurate_options_known: AtomicBool,
    events: AtomicU32,
    errors: AtomicU32,
    warnings: AtomicU32,
    attribute_errors: AtomicU32,
    failed: AtomicBool,
    /// In an estimate: a fatal message was shown.
    complained: AtomicBool,
    cancelled: AtomicBool,
    reason: Mutex<Option<String>>,
    said: Mutex<BTreeSet<String>>,
    main_thread: usize,
    callbacks: AtomicU64,
}

static CURRENT: OnceLock<Arc<JobContext>> = OnceLock::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not silence the job's messages.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobContext {
    /// The job of this process, if one runs.
    #[must_use]
    pub fn current() -> Option<&'static Arc<Self>> {
        CURRENT.get()
    }

    /// Makes the process's job. The calling thread is the one that calls the plugin.
    ///
    /// # Errors
    /// When there is one already.
    pub(crate) fn begin(spec: JobSpec, known: Option<Known>, sender: Sender) -> Result<&'static Arc<Self>, HostGone> {
        let since = spec.since;
        let registered = event::DEFAULTS.iter().fold(0, |bits, number| bits | 1 << number);
        // What was parsed can be used: the host has tried.
        let selection = |rules: &LineRules| Selection::new(&rules.include, &rules.excludes).ok();
        let selections = spec.rules.iter().map(|rules| rules.as_ref().and_then(selection)).collect();
        let context = Arc::new(Self {
            spec,
            known,
            selections,
            line: AtomicU32::new(0),
            sender: Mutex::new(sender),
            job_type: AtomicU8::new(b'I'),
            status: AtomicU8::new(status::CREATED),
            since: AtomicI64::new(since),
            check_changes: AtomicBool::new(true),
            where_known: AtomicBool::new(false),
            accurate_options_known: AtomicBool::new(false),
            events: AtomicU32::new(registered),
            errors: AtomicU32::new(0),
            warnings: AtomicU32::new(0),
            attribute_errors: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            complained: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            reason: Mutex::new(None),
            said: Mutex::new(BTreeSet::new()),
            main_thread: this_thread(),
            callbacks: AtomicU64::new(0),
        });
        CURRENT.set(context).map_err(|_| HostGone("a second job was started in one worker".to_owned()))?;
        CURRENT.get().ok_or_else(|| HostGone("the job could not be started".to_owned()))
    }

    /// Queues a frame.
    pub(crate) fn send(&self, frame: &FromWorker) -> Result<(), HostGone> {
        Ok(lock(&self.sender).send(frame)?)
    }

    /// Sends a frame with a descriptor, and what was queued before.
    pub(crate) fn send_with_fd(&self, frame: &FromWorker, descriptor: BorrowedFd<'_>) -> Result<(), HostGone> {
        Ok(lock(&self.sender).send_with_fd(frame, descriptor)?)
    }

    /// Sends what is queued.
    pub(crate) fn flush(&self) -> Result<(), HostGone> {
        Ok(lock(&self.sender).flush()?)
    }

    /// Sends what is queued unless another thread is sending just now.
    pub(crate) fn flush_if_idle(&self) {
        if let Ok(mut sender) = self.sender.try_lock() {
            // A lost connection is noticed, and reported, by the thread that needs it.
            let _ = sender.flush();
        }
    }

    /// Emits a job message with its effects on the job's state. The numbers without a meaning count as information;
    /// the two that would end a daemon count as fatal.
    pub fn message(&self, kind: i32, text: impl Into<String>) {
        let text = cut(text.into());
        let kind = match kind {
            message::ABORT | message::ERROR_TERM => message::FATAL,
            1..=message::VOLMGMT => kind,
            _ => message::INFO,
        };
        let flush = kind != message::DEBUG;
        match kind {
            // The console shows it, and the estimate goes on (reference 4.12).
            message::FATAL if self.spec.task == Task::Estimate => {
                self.complained.store(true, Ordering::SeqCst);
                self.set_reason(&text);
            }
            message::FATAL => {
                if !self.failed.swap(true, Ordering::SeqCst) {
                    self.set_reason(&text);
                }
                self.set_status(status::FATAL);
                // A fatal end is an error even if nothing was counted before.
                let _ = self.errors.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst);
            }
            message::ERROR => {
                self.errors.fetch_add(1, Ordering::SeqCst);
            }
            message::WARNING => {
                self.warnings.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        let mut sender = lock(&self.sender);
        // A lost connection is noticed, and reported, by the thread that needs it.
        let _ = sender.send(&FromWorker::Message { kind, text });
        if flush {
            let _ = sender.flush();
        }
    }

    /// A message of the class NotSaved that counts as an error of the job.
    pub(crate) fn not_saved(&self, text: String) {
        self.errors.fetch_add(1, Ordering::SeqCst);
        self.message(message::NOTSAVED, text);
    }

    /// An error about an access control list or an attribute: counted, and reported while there are few.
    pub(crate) fn attribute_error(&self, kind: i32, text: String) {
        if self.attribute_errors.fetch_add(1, Ordering::SeqCst) < ATTRIBUTE_REPORTS {
            self.message(kind, text);
        } else {
            let counter = if kind == message::ERROR { &self.errors } else { &self.warnings };
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A message that is worth saying once in a job.
    pub(crate) fn message_once(&self, kind: i32, text: String) {
        if lock(&self.said).insert(text.clone()) {
            self.message(kind, text);
        }
    }

    /// Ends the job in error without a fatal message (reference 1.4: BackupCommand).
    pub(crate) fn fail(&self, reason: &str) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            self.set_reason(reason);
        }
        self.set_status(status::ERROR);
    }

    /// The job counts as cancelled from now on.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.set_reason("the job was cancelled");
        self.status.store(status::CANCELLED, Ordering::SeqCst);
    }

    fn set_reason(&self, text: &str) {
        // The last line of a traceback says what happened.
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        lock(&self.reason).get_or_insert_with(|| line.to_owned());
    }

    /// Why the job failed or was cancelled; empty if it was not.
    pub(crate) fn reason(&self) -> String {
        lock(&self.reason).clone().unwrap_or_default()
    }

    /// Whether the job failed or was cancelled: loops stop before the next callback.
    pub(crate) fn is_stopped(&self) -> bool {
        self.failed.load(Ordering::SeqCst) || self.cancelled.load(Ordering::SeqCst)
    }

    /// Whether the job was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Messages of class error so far.
    pub(crate) fn errors(&self) -> u32 {
        self.errors.load(Ordering::SeqCst)
    }

    /// Messages of class warning so far.
    pub(crate) fn warnings(&self) -> u32 {
        self.warnings.load(Ordering::SeqCst)
    }

    /// The letter of bVarJobStatus.
    pub(crate) fn status(&self) -> u8 {
        self.status.load(Ordering::SeqCst)
    }

    /// Moves the job's status on. What a failure or a cancel wrote stays.
    pub(crate) fn set_status(&self, letter: u8) {
        let final_status = [status::FATAL, status::CANCELLED, status::ERROR];
        let _ = self
            .status
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| (!final_status.contains(&old)).then_some(letter));
    }

    /// The letter of bVarType.
    pub(crate) fn job_type(&self) -> u8 {
        self.job_type.load(Ordering::SeqCst)
    }

    /// The job really starts.
    pub(crate) fn set_job_type(&self, letter: u8) {
        self.job_type.store(letter, Ordering::SeqCst);
        if letter == b'R' {
            self.where_known.store(true, Ordering::SeqCst);
        }
    }

    /// bVarWhere: the prefix of a restore, once it has started; none where rules make the names.
    pub(crate) fn where_prefix(&self) -> Option<&str> {
        let known = self.where_known.load(Ordering::SeqCst);
        self.spec.where_prefix.as_deref().filter(|_| known).map(|prefix| if prefix == "/" { "" } else { prefix })
    }

    /// The plugin line that is being worked on, by its number in the specification.
    pub(crate) fn set_line(&self, number: u32) {
        self.line.store(number, Ordering::SeqCst);
    }

    /// The option bits of that line.
    pub(crate) fn line_flags(&self) -> [u8; 5] {
        self.spec.flags(self.line.load(Ordering::SeqCst))
    }

    /// Whether the rules around that line select a name.
    pub(crate) fn accepts(&self, name: &[u8], is_directory: bool) -> bool {
        let selection = self.selections.get(self.line.load(Ordering::SeqCst) as usize).and_then(Option::as_ref);
        selection.is_none_or(|selection| selection.decide(name, is_directory).accepted)
    }

    /// What the reference job has, if there is one.
    pub(crate) fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// bVarAccurate.
    pub(crate) fn is_accurate(&self) -> bool {
        self.spec.accurate
    }

    /// Whether an estimate met something fatal.
    pub(crate) fn has_complained(&self) -> bool {
        self.complained.load(Ordering::SeqCst)
    }

    /// bVarAccurateOptions are shown from the first BackupCommand on.
    pub(crate) fn show_accurate_options(&self) {
        self.accurate_options_known.store(true, Ordering::SeqCst);
    }

    /// The bits of bVarAccurateOptions.
    pub(crate) fn accurate_options(&self) -> &[i32] {
        if self.accurate_options_known.load(Ordering::SeqCst) { &self.spec.accurate_options } else { &[] }
    }

    /// bVarSinceTime.
    pub(crate) fn since(&self) -> i64 {
        self.since.load(Ordering::SeqCst)
    }

    /// Sets bVarSinceTime.
    pub(crate) fn set_since(&self, seconds: i64) {
        self.since.store(seconds, Ordering::SeqCst);
    }

    /// bVarCheckChanges.
    pub(crate) fn check_changes(&self) -> bool {
        self.check_changes.load(Ordering::SeqCst)
    }

    /// Sets bVarCheckChanges.
    pub(crate) fn set_check_changes(&self, on: bool) {
        self.check_changes.store(on, Ordering::SeqCst);
    }

    /// Registers an event, 1 to 31.
    pub(crate) fn register(&self, number: u8) {
        self.events.fetch_or(1 << number, Ordering::SeqCst);
    }

    /// Removes a registration.
    pub(crate) fn unregister(&self, number: u8) {
        self.events.fetch_and(!(1 << number), Ordering::SeqCst);
    }

    /// The plugin asked for no more events. The commands, which are how it gets its definitions, still come.
    pub(crate) fn keep_commands_only(&self) {
        let commands = event::COMMANDS.iter().fold(0, |bits, number| bits | 1 << number);
        self.events.fetch_and(commands, Ordering::SeqCst);
    }

    /// Whether an event shall reach the plugin now: it is registered, and a stopped job still delivers it.
    pub(crate) fn delivers(&self, number: u8) -> bool {
        let registered = self.events.load(Ordering::SeqCst) & (1 << number) != 0;
        registered && (!self.is_stopped() || matches!(number, event::END_BACKUP_JOB | event::END_RESTORE_JOB | 8))
    }

    /// Notes that the main thread enters or leaves a callback: the count is odd inside one. Other threads do not count.
    pub(crate) fn step(&self) {
        if this_thread() == self.main_thread {
            self.callbacks.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The number of the callback that runs on the main thread, if one does.
    pub(crate) fn running_callback(&self) -> Option<u64> {
        let number = self.callbacks.load(Ordering::SeqCst);
        (number % 2 == 1).then_some(number)
    }
}

/// A number that no other living thread has, without the cost of its handle.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// A text that fits into a frame.
fn cut(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        let whole = text.len();
        let end = (0..=LONGEST_TEXT).rfind(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(&format!("\n(the rest of {whole} bytes is left out)\n"));
    }
    text
}

/// What the system calls an error number, as the contract's messages show it.
#[must_use]
pub(crate) fn error_text(errno: i32) -> String {
    if errno == 0 {
        return "Success".to_owned();
    }
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
