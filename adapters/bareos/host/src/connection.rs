//! A worker at work: frames both ways, under the job's cancel and time limits; its messages; and how it ended, in words.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use backstay_bareos_protocol::{Failure, FromWorker, JobSpec, PROTOCOL_VERSION, ToWorker};
use backstay_core::{CancelReason, EntryError, Job, MessageLevel};
use backstay_worker::{Received, Waited, Worker};
use rustix::event::PollFlags;

use crate::definition::shown;
use crate::options::BareosOptions;
use crate::trace::Trace;

/// How often the job is asked whether it was cancelled.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// How long a worker may take to say that it is ready: it starts an interpreter.
pub(crate) const START: Duration = Duration::from_secs(60);
/// How long a worker may take to end after its last word.
pub(crate) const ENDING: Duration = Duration::from_secs(5);
/// Frames that may wait unhandled while we are kept from sending.
const MOST_WAITING: usize = 100_000;

/// The worker is gone, and why, in a sentence that the job can end with.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// What a descriptor's turn came to: see [`Connection::await_descriptor`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is ready.
    Ready,
    /// The job was cancelled, or a time limit passed; the worker was told.
    Cancelled,
}

/// Time limits of a plugin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long it may do nothing.
    pub(crate) silence: Option<Duration>,
    /// How long it has to end after a cancel.
    pub(crate) grace: Duration,
    /// How long its whole job may take.
    pub(crate) whole: Option<Duration>,
    /// Bytes of memory that it may have; the worker sees to that, we only say so when it may be why something failed.
    pub(crate) memory: Option<u64>,
}

impl Limits {
    pub(crate) fn of(options: &BareosOptions) -> Self {
        Self {
            silence: options.callback_timeout,
            grace: options.cancel_grace,
            whole: options.confine.time_limit,
            memory: options.confine.memory,
        }
    }
}

pub(crate) struct Connection {
    worker: Option<Worker>,
    limits: Limits,
    speaker: String,
    inbox: VecDeque<(FromWorker, Option<OwnedFd>)>,
    /// When a cancelled worker is killed.
    deadline: Option<Instant>,
    /// Why the job stops, the first reason.
    stopping: Option<String>,
    /// The last text of class error or fatal.
    complaint: Option<String>,
    /// When the worker last did something while we waited for it.
    alive: Instant,
    /// When the job began.
    began: Instant,
    /// When the clock was last looked at.
    looked: Instant,
    /// The worker's counter when it ended.
    last_announced: u64,
    /// Definitions of the job, and what the job log shows in their place: the contract's messages repeat them.
    definitions: Vec<(String, String)>,
    trace: Option<Trace>,
}

impl Connection {
    /// `speaker` names the plugin in the job log.
    pub(crate) fn new(worker: Worker, limits: Limits, speaker: String, definitions: &[String]) -> Self {
        Self {
            worker: Some(worker),
            limits,
            speaker,
            inbox: VecDeque::new(),
            deadline: None,
            stopping: None,
            complaint: None,
            alive: Instant::now(),
            began: Instant::now(),
            looked: Instant::now(),
            last_announced: 0,
            definitions: definitions.iter().map(|text| (text.clone(), shown(text))).collect(),
            trace: None,
        }
    }

    /// The same, with a file for the plugin's calls.
    pub(crate) fn traced(self, trace: Option<Trace>) -> Self {
        Self { trace, ..self }
    }

    /// Sends the job, with what earlier jobs left, and waits until the worker is ready.
    pub(crate) fn start(&mut self, job: &dyn Job, spec: JobSpec, prior: Option<OwnedFd>) -> Result<(), Broken> {
        if let Some(worker) = &self.worker {
            // Waiting for ever to send is no option: a worker may stop reading.
            worker.sender.set_limit(Some(TICK)).map_err(|error| self.failed(&error))?;
        }
        let usual = self.limits.silence.replace(START.min(self.limits.silence.unwrap_or(START)));
        let start = ToWorker::Start(Box::new(spec));
        match (prior, &mut self.worker) {
            // The first frame always fits into the socket.
            (Some(prior), Some(worker)) => {
                let sent = worker.sender.send_with_fd(&start, prior.as_fd());
                sent.or_else(|error| if is_deaf(&error) { Ok(()) } else { Err(self.failed(&error)) })?;
            }
            _ => self.send(job, &start)?,
        }
        let frame = self.next(job)?.0;
        self.limits.silence = usual;
        match frame {
            FromWorker::Ready { protocol: PROTOCOL_VERSION, python } => {
                let version = python.split_whitespace().next().unwrap_or("of unknown version").to_owned();
                job.message(MessageLevel::Debug, &self.speaker, &format!("runs in Python {version}"));
                Ok(())
            }
            FromWorker::Ready { protocol, .. } => Err(self.broken(format!(
                "the plugin worker speaks version {protocol} of the protocol, and version {PROTOCOL_VERSION} is \
                 expected: install backstay and backstay-python of one release"
            ))),
            _ => Err(self.lied("it spoke before it was ready")),
        }
    }

    /// A frame that is there already, without waiting.
    pub(crate) fn poll(&mut self, job: &dyn Job) -> Result<Option<(FromWorker, Option<OwnedFd>)>, Broken> {
        self.look(job)?;
        self.receive(job, Duration::ZERO)
    }

    /// The next frame that is no message. While it waits, the job's cancel and the time limits are watched.
    pub(crate) fn next(&mut self, job: &dyn Job) -> Result<(FromWorker, Option<OwnedFd>), Broken> {
        self.flush(job)?;
        self.look(job)?;
        self.alive = Instant::now();
        loop {
            if let Some(frame) = self.receive(job, TICK)? {
                return Ok(frame);
            }
            self.watch(job)?;
        }
    }

    fn receive(&mut self, job: &dyn Job, limit: Duration) -> Result<Option<(FromWorker, Option<OwnedFd>)>, Broken> {
        loop {
            let frame = match self.inbox.pop_front() {
                Some(frame) => frame,
                None => match self.take_frame(limit)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            match frame {
                (FromWorker::Message { kind, text }, None) => self.message(job, kind, &text),
                (FromWorker::Trace(line), None) => self.note(job, &line),
                (frame @ FromWorker::DataFd, descriptor @ Some(_))
                | (frame @ FromWorker::Created(_), descriptor @ (Some(_) | None)) => {
                    return Ok(Some((frame, descriptor)));
                }
                (frame, None) => return Ok(Some((frame, None))),
                (_, Some(_)) => return Err(self.lied("it sent a descriptor that nobody asked for")),
            }
        }
    }

    fn take_frame(&mut self, limit: Duration) -> Result<Option<(FromWorker, Option<OwnedFd>)>, Broken> {
        let Some(worker) = &mut self.worker else { return Err(self.after_end()) };
        match worker.receiver.receive_within(Some(limit)) {
            Ok(Received::Message(frame, descriptor)) => {
                self.alive = Instant::now();
                Ok(Some((frame, descriptor)))
            }
            Ok(Received::TimedOut) => Ok(None),
            Ok(Received::Closed) => Err(self.gone()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.gone()),
            Err(error) => Err(self.lied(&error.to_string())),
        }
    }

    /// Queues a frame and sends what fills a packet.
    pub(crate) fn send(&mut self, job: &dyn Job, frame: &ToWorker) -> Result<(), Broken> {
        let Some(worker) = &mut self.worker else { return Err(self.after_end()) };
        match worker.sender.send(frame) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.flush(job),
            Err(error) if is_deaf(&error) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Sends all that is queued. A worker that does not read is held to the same limits as one that does not speak.
    pub(crate) fn flush(&mut self, job: &dyn Job) -> Result<(), Broken> {
        let mut since = None;
        loop {
            let Some(worker) = &mut self.worker else { return Err(self.after_end()) };
            match worker.sender.flush() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.alive = *since.get_or_insert_with(Instant::now);
                    // It may itself be kept from speaking: what it says waits here.
                    while let Some(frame) = self.take_frame(Duration::ZERO)? {
                        since = Some(Instant::now());
                        self.inbox.push_back(frame);
                        if self.inbox.len() > MOST_WAITING {
                            return Err(self.lied("it speaks and does not listen"));
                        }
                    }
                    self.watch(job)?;
                }
                Err(error) if is_deaf(&error) => return Ok(()),
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    /// Waits for a descriptor that the plugin gave us, under the same limits.
    pub(crate) fn await_descriptor(
        &mut self,
        job: &dyn Job,
        descriptor: BorrowedFd<'_>,
        events: PollFlags,
    ) -> Result<Turn, Broken> {
        self.alive = Instant::now();
        loop {
            let Some(worker) = &self.worker else { return Err(self.after_end()) };
            match worker.wait_for(descriptor, events, TICK) {
                Ok(Waited::Ready) => {
                    self.look(job)?;
                    return Ok(if self.is_stopping() { Turn::Cancelled } else { Turn::Ready });
                }
                Ok(Waited::Ended) => return Err(self.gone()),
                Ok(Waited::TimedOut) => {}
                Err(error) => return Err(self.failed(&error)),
            }
            self.watch(job)?;
            if self.is_stopping() {
                return Ok(Turn::Cancelled);
            }
        }
    }

    /// Looks at the clock and at the job if that was a tick ago: a plugin that never lets us wait must not escape them.
    fn look(&mut self, job: &dyn Job) -> Result<(), Broken> {
        if self.looked.elapsed() < TICK { Ok(()) } else { self.watch(job) }
    }

    /// Looks at the clock and at the job, once per tick of waiting.
    fn watch(&mut self, job: &dyn Job) -> Result<(), Broken> {
        self.looked = Instant::now();
        if let Some(deadline) = self.deadline {
            if Instant::now() < deadline {
                return Ok(());
            }
            let grace = self.limits.grace.as_secs_f32();
            return Err(
                self.broken(format!("it did not end within {grace} s (--cancel-grace) and its worker was killed"))
            );
        }
        let reason = match (job.cancelled(), self.limits.silence) {
            (Some(reason), _) => cancel_text(&reason),
            _ if self.limits.whole.is_some_and(|limit| self.began.elapsed() >= limit) => {
                let limit = self.limits.whole.unwrap_or_default().as_secs_f32();
                let text = format!("the plugin's job took longer than {limit} s (--plugin-time-limit)");
                job.message(MessageLevel::Fatal, &self.speaker, &text);
                text
            }
            (None, Some(limit)) if self.alive.elapsed() >= limit => {
                let text = format!("the plugin did nothing for {} s (--plugin-timeout)", limit.as_secs_f32());
                job.message(MessageLevel::Fatal, &self.speaker, &text);
                text
            }
            _ => return Ok(()),
        };
        self.cancel(reason)
    }

    /// Tells the worker to stop, once. The first reason stays.
    pub(crate) fn cancel(&mut self, reason: String) -> Result<(), Broken> {
        if self.deadline.is_some() {
            return Ok(());
        }
        self.stopping.get_or_insert(reason);
        self.deadline = Some(Instant::now() + self.limits.grace);
        let Some(worker) = &mut self.worker else { return Err(self.after_end()) };
        match worker.sender.send(&ToWorker::Cancel).and_then(|()| worker.sender.flush()) {
            Ok(()) => Ok(()),
            // What is queued goes out with the next flush; what cannot go out at all is seen by the next receive.
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.deadline.is_some()
    }

    /// Why the job stops, if it does.
    pub(crate) fn stopping(&self) -> Option<&str> {
        self.stopping.as_deref()
    }

    /// What the plugin last complained of, once.
    pub(crate) fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// The worker and its rings.
    pub(crate) fn worker(&mut self) -> Result<&mut Worker, Broken> {
        // Two looks, because a failed one ends the borrow.
        if self.worker.is_none() {
            return Err(self.after_end());
        }
        self.worker.as_mut().ok_or_else(|| Broken("the plugin worker has ended".to_owned()))
    }

    /// How many entries the worker says it announced.
    pub(crate) fn announced(&self) -> u64 {
        self.worker.as_ref().map_or(self.last_announced, |worker| worker.backup.announced())
    }

    /// The worker said its last word: it ends, and everything that it started.
    pub(crate) fn finish(&mut self, job: &dyn Job) {
        let Some(worker) = self.worker.take() else { return };
        self.last_announced = worker.backup.announced();
        let exit = match worker.end(ENDING) {
            Ok(backstay_worker::Exit::Status(0)) => return,
            Ok(exit) => exit.to_string(),
            Err(error) => format!("could not be waited for: {error}"),
        };
        job.message(MessageLevel::Warning, &self.speaker, &format!("its worker {exit} after its work was done"));
    }

    /// The socket is closed: what became of the worker?
    fn gone(&mut self) -> Broken {
        let Some(worker) = self.worker.take() else { return self.after_end() };
        let by_itself = worker.ended_within(Duration::from_secs(2)).unwrap_or(false);
        let announced = worker.backup.announced();
        let detail = match worker.end(Duration::ZERO) {
            Ok(exit @ backstay_worker::Exit::Signal(_)) if by_itself => match self.memory() {
                Some(limit) => format!("the plugin worker {exit}; {limit}"),
                None => format!("the plugin worker {exit}"),
            },
            Ok(exit) if by_itself => format!("the plugin worker {exit}"),
            _ => "the plugin worker closed its connection and was ended".to_owned(),
        };
        self.ended(detail, announced)
    }

    /// The worker said what no worker says: it is killed.
    pub(crate) fn lied(&mut self, what: &str) -> Broken {
        self.broken(format!("the plugin worker broke the protocol and was killed: {what}"))
    }

    fn failed(&mut self, error: &io::Error) -> Broken {
        self.broken(format!("the connection to the plugin worker failed: {error}"))
    }

    fn broken(&mut self, detail: String) -> Broken {
        let mut announced = 0;
        if let Some(mut worker) = self.worker.take() {
            announced = worker.backup.announced();
            worker.kill();
            // How it ended is known: by us.
            let _ = worker.end(Duration::ZERO);
        }
        self.ended(detail, announced)
    }

    fn ended(&mut self, detail: String, announced: u64) -> Broken {
        self.last_announced = announced;
        let reason = match &self.stopping {
            Some(reason) => format!("{reason}; {detail}"),
            None => detail,
        };
        self.stopping = Some(reason.clone());
        Broken(reason)
    }

    fn after_end(&self) -> Broken {
        Broken(self.stopping.clone().unwrap_or_else(|| "the plugin worker has ended".to_owned()))
    }

    /// Writes a call into the trace.
    fn note(&mut self, job: &dyn Job, line: &str) {
        let Some(trace) = &self.trace else { return };
        if let Err(error) = trace.line(&self.speaker, line) {
            self.trace = None;
            job.message(
                MessageLevel::Error,
                &self.speaker,
                &format!("the trace of the plugin's calls ends here: {error}"),
            );
        }
    }

    /// A message of the plugin, of its traceback, or of the contract's core (reference 4.8).
    fn message(&mut self, job: &dyn Job, kind: i32, text: &str) {
        let level = level_of(kind);
        let text = self.without_secrets(text.strip_suffix('\n').unwrap_or(text));
        if level >= MessageLevel::Error {
            self.complaint = Some(text.clone());
        }
        job.message(level, &self.speaker, &text);
    }

    /// The memory limit in words, where there is one.
    fn memory(&self) -> Option<String> {
        let bytes = self.limits.memory?;
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = units.into_iter().find(|(_, shift)| bytes.trailing_zeros() >= *shift);
        let size = whole.map_or_else(|| format!("{bytes} bytes"), |(name, shift)| format!("{} {name}", bytes >> shift));
        Some(format!("its memory is limited to {size} (--plugin-memory)"))
    }

    /// The reason that a worker gave for its end, and the memory limit where that is behind it.
    pub(crate) fn explained(&self, reason: &str) -> String {
        let reason = self.without_secrets(reason);
        let signs = ["MemoryError", "Cannot allocate memory", "can't start new thread"];
        match self.memory() {
            Some(limit) if signs.iter().any(|sign| reason.contains(sign)) => format!("{reason}; {limit}"),
            _ => reason,
        }
    }

    /// A worker's failure as the engine counts it.
    pub(crate) fn entry_error(&self, failure: &Failure) -> EntryError {
        EntryError {
            errno: (failure.errno != 0).then_some(failure.errno),
            message: self.without_secrets(failure.message.trim_end()),
            traceback: None,
        }
    }

    /// A text of the worker's without the options of any definition.
    pub(crate) fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (definition, shown) in &self.definitions {
            if text.contains(definition.as_str()) {
                text = text.replace(definition.as_str(), shown);
            }
        }
        text
    }
}

/// How loud a message of the contract is, by its M_* number.
pub(crate) fn level_of(kind: i32) -> MessageLevel {
    match kind {
        // ABORT, FATAL, ERROR_TERM.
        1 | 3 | 11 => MessageLevel::Fatal,
        4 => MessageLevel::Error,
        // WARNING, NOTSAVED, SECURITY, ALERT.
        5 | 8 | 14 | 15 => MessageLevel::Warning,
        // DEBUG; and SAVED, SKIPPED, RESTORED, which Bareos does not show by default.
        2 | 7 | 9 | 13 => MessageLevel::Debug,
        _ => MessageLevel::Info,
    }
}

/// A worker that hears nothing any more has ended, perhaps well: what it said before still waits to be read, and the end
/// of that is what tells.
fn is_deaf(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Why a job was cancelled, in words.
pub(crate) fn cancel_text(reason: &CancelReason) -> String {
    match reason {
        CancelReason::Interrupted => "the job was interrupted".to_owned(),
        CancelReason::TimeLimit(limit) => format!("the time limit {limit} has passed"),
        CancelReason::Failed(text) => text.clone(),
    }
}
