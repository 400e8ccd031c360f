//! Transmission on one connection: requests are read ahead, run by one thread or more, and answered together.
//!
//! All threads of a session are alike. One that finds no request waiting reads, unless another does; then it parks. While
//! calls are short one thread does everything. When a call takes long ([`LONG`]), or calls wait for something else than the
//! processor, more threads are let in, where the disk can bear it. A thread that has called the disk stays until the end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use backstay_core::ThreadModel;
use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

use crate::codec::error::NbdError;
use crate::codec::reply::Head;
use crate::codec::request::{Command, MAX_PAYLOAD, Request};
use crate::guarded::{Guarded, Outcome};
use crate::handshake::Agreement;
use crate::server::gate::Turn;
use crate::server::input::{Input, Job, Judge, Next};
use crate::server::line::Line;
use crate::server::output::{Answer, Body, Output, Settled};
use crate::server::shared::{Level, Shared};

/// Requests of a connection that are read ahead.
const AHEAD: usize = 64;
/// Bytes that they and their answers may hold.
const AHEAD_BYTES: u64 = 64 << 20;
/// A call of this many nanoseconds is long. The watch looks every 90 microseconds, so that what waits for a call is seen
/// to within 200.
const LONG: u64 = 100_000;
/// Calls that are shorter than this many nanoseconds gain nothing from more threads.
const SHORT: u64 = 20_000;
/// Answers are written when so many wait.
const TOGETHER: usize = 32;
/// Or so many bytes.
const TOGETHER_BYTES: usize = 256 << 10;
/// Bytes of an answer for each extent.
const EXTENT: u64 = 8;

/// What the threads of a connection share.
pub(crate) struct Session {
    line: Arc<Line>,
    disk: Guarded,
    agreed: Agreement,
    input: Mutex<Input>,
    crew: Mutex<Crew>,
    /// Parked threads wait for it.
    wake: Condvar,
    /// A thread that reads waits for it, when there is no room for a request.
    room: Condvar,
    /// The thread that only writes waits for it.
    written: Condvar,
    output: Output,
    /// Since when each thread is in a call, in nanoseconds of the server's clock; 0: it is in none.
    calls: Box<[AtomicU64]>,
    /// Bytes of the server's memory.
    held: AtomicU64,
    /// Calls wait for something, so that more threads help.
    wide: AtomicBool,
    watched: AtomicBool,
}

#[derive(Default)]
struct Crew {
    queue: VecDeque<Job>,
    /// Requests that were read and not answered.
    open: usize,
    /// Threads that may be woken.
    parked: usize,
    /// Parked threads that were told to go on.
    tickets: usize,
    /// Threads that call the disk, the first one included.
    hands: usize,
    helpers: Vec<JoinHandle<()>>,
    /// A thread that only writes is there, and whether it has to.
    writer: Option<bool>,
    /// No request comes any more.
    over: bool,
    /// No thread begins any more.
    closed: bool,
}

/// What became of reading.
enum Read {
    Done,
    Taken,
    Over,
}

/// How the calls of one thread go.
struct Pace {
    calls: u64,
    wall: u64,
    processor: u64,
}

impl Judge for Session {
    fn judge(&self, request: &Request) -> (Result<(), NbdError>, u64) {
        let verdict = self.disk.check(request, self.agreed);
        let weight = match request.command {
            _ if verdict.is_err() => 0,
            Command::Read | Command::Write => u64::from(request.count),
            command if self.disk.is_made_up(command) => u64::from(request.count).min(u64::from(MAX_PAYLOAD)),
            Command::BlockStatus => (u64::from(request.count) / 512 * EXTENT).min(EXTENT << 20),
            _ => 0,
        };
        (verdict, weight)
    }
}

impl Session {
    /// Serves until the client goes or the connection has to end; `arrived` is what came already.
    pub(crate) fn serve(line: &Arc<Line>, disk: Guarded, agreed: Agreement, arrived: Vec<u8>) {
        let shared = &line.shared;
        let threads = match shared.disk.threads() {
            ThreadModel::Parallel => shared.settings.threads.max(1),
            _ => 1,
        };
        let session = Arc::new(Self {
            line: Arc::clone(line),
            disk,
            agreed,
            input: Mutex::new(Input::new(arrived)),
            crew: Mutex::new(Crew { hands: 1, ..Crew::default() }),
            wake: Condvar::new(),
            room: Condvar::new(),
            written: Condvar::new(),
            output: Output::default(),
            calls: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            held: AtomicU64::new(0),
            wide: AtomicBool::new(false),
            watched: AtomicBool::new(false),
        });
        session.work(0);
        session.end();
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.line.shared
    }

    /// Waits for the other threads, then closes the disk.
    fn end(self: Arc<Self>) {
        let helpers = self.close();
        for helper in helpers {
            // One that panicked has said so.
            let _ = helper.join();
        }
        self.flush();
        // The client need not wait until the disk may be called.
        self.line.leave();
        self.shared().budget.give(self.held.swap(0, Ordering::SeqCst));
        self.shared().watch.remove(&self);
        let shared = Arc::clone(self.shared());
        if let Some(session) = Arc::into_inner(self) {
            shared.gate.call(|| drop(session.disk));
        }
    }

    fn close(&self) -> Vec<JoinHandle<()>> {
        let mut crew = self.crew.lock();
        crew.over = true;
        crew.closed = true;
        self.wake.notify_all();
        self.written.notify_all();
        std::mem::take(&mut crew.helpers)
    }

    /// Serves as one thread of the session.
    fn work(self: &Arc<Self>, me: usize) {
        let shared = Arc::clone(self.shared());
        let mut turn = shared.gate.turn();
        let mut pace = Pace::begin();
        loop {
            let job = self.crew.lock().queue.pop_front();
            if let Some(job) = job {
                self.run(job, me, &mut turn, &mut pace);
                continue;
            }
            turn.end();
            self.flush();
            self.learn(&mut pace);
            let goes_on = match self.read() {
                Read::Done => true,
                Read::Taken => self.park(),
                Read::Over => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Runs a request and adds its answer to those that wait.
    fn run(self: &Arc<Self>, job: Job, me: usize, turn: &mut Turn<'_>, pace: &mut Pace) {
        let Job { request, payload, verdict, weight } = job;
        let verdict = if self.line.is_refusing() { Err(NbdError::Shutdown) } else { verdict };
        let begun = self.line.now();
        let result = verdict.and_then(|()| {
            self.calls[me].store(begun, Ordering::SeqCst);
            if self.is_worth_watching() {
                self.be_watched();
            }
            turn.begin();
            let result = self.call(&request, &payload);
            self.calls[me].store(0, Ordering::SeqCst);
            result
        });
        drop(payload);
        let now = self.line.now();
        pace.calls += 1;
        pace.wall += now - begun;
        let waiting = self.output.push(answer(&request, result, self.agreed, weight), now);
        let late = now.saturating_sub(waiting.since) >= LONG || now - begun >= LONG;
        if late || waiting.answers >= TOGETHER || waiting.bytes >= TOGETHER_BYTES {
            // Others may call the disk while the client takes its answers.
            turn.end();
            self.flush();
        }
    }

    /// Calls the disk; a panic in it is an error of this request.
    fn call(&self, request: &Request, payload: &[u8]) -> Result<Outcome, NbdError> {
        // The connection may have ended while this thread waited for its turn.
        if self.line.is_refusing() {
            return Err(NbdError::Shutdown);
        }
        catch_unwind(AssertUnwindSafe(|| self.disk.run(request, payload))).unwrap_or_else(|_| {
            self.line.log(Level::Error, "the disk panicked");
            Err(NbdError::Io)
        })
    }

    fn flush(&self) {
        self.output.flush(&self.line, |settled| self.settle(settled));
    }

    fn settle(&self, settled: Settled) {
        self.held.fetch_sub(settled.weight, Ordering::SeqCst);
        self.shared().budget.give(settled.weight);
        let mut crew = self.crew.lock();
        crew.open -= settled.answers;
        drop(crew);
        self.room.notify_all();
    }

    /// Decides from the calls since the last time whether more threads help: they do if calls wait.
    fn learn(&self, pace: &mut Pace) {
        if self.calls.len() > 1 && pace.calls > 0 {
            let done = std::mem::replace(pace, Pace::begin());
            let worked = pace.processor.saturating_sub(done.processor);
            let each = done.wall / done.calls;
            self.wide.store(each >= LONG || (each >= SHORT && worked < done.wall / 2), Ordering::Relaxed);
        }
    }

    /// Reads requests, at least one, unless another thread does.
    fn read(self: &Arc<Self>) -> Read {
        let Some(mut input) = self.input.try_lock() else { return Read::Taken };
        {
            let crew = self.crew.lock();
            if !crew.queue.is_empty() {
                return Read::Done;
            }
            if crew.over {
                return Read::Over;
            }
        }
        let over = !self.read_some(&mut input);
        drop(input);
        let mut crew = self.crew.lock();
        if over {
            crew.over = true;
            self.wake.notify_all();
        }
        if self.wide.load(Ordering::Relaxed) {
            let more = crew.queue.len();
            self.call_helpers(&mut crew, more);
        }
        if over && crew.queue.is_empty() { Read::Over } else { Read::Done }
    }

    /// Puts requests into the queue as long as they have arrived and there is room; whether more may come.
    fn read_some(&self, input: &mut Input) -> bool {
        let mut first = true;
        loop {
            if self.line.is_closed() {
                return false;
            }
            match input.next(self) {
                Next::Job(job) => {
                    let mut crew = self.crew.lock();
                    crew.queue.push_back(job);
                    crew.open += 1;
                    first = false;
                    if crew.open >= AHEAD {
                        return true;
                    }
                }
                Next::Asks(weight) if self.try_hold(weight) => input.accept(),
                Next::Asks(weight) if first => {
                    if !self.hold(weight) {
                        return false;
                    }
                    input.accept();
                }
                Next::Asks(_) => return true,
                Next::Nothing if !first => return true,
                Next::Nothing => {
                    if !input.receive(&self.line) {
                        return false;
                    }
                }
                Next::Over(reason) => {
                    if let Some(reason) = reason {
                        self.line.log(Level::Error, &reason);
                    }
                    return false;
                }
            }
        }
    }

    /// Takes room for a request if there is some.
    fn try_hold(&self, weight: u64) -> bool {
        let fits = self.held.load(Ordering::SeqCst) + weight <= AHEAD_BYTES;
        let taken = fits && self.crew.lock().open < AHEAD && self.shared().budget.try_take(weight);
        if taken {
            self.held.fetch_add(weight, Ordering::SeqCst);
        }
        taken
    }

    /// Waits for room for a request: first until this connection's own requests leave some, then for the server's.
    fn hold(&self, weight: u64) -> bool {
        let mut crew = self.crew.lock();
        self.room.wait_while(&mut crew, |crew| {
            let full = crew.open >= AHEAD || self.held.load(Ordering::SeqCst) + weight > AHEAD_BYTES;
            crew.open > 0 && full && !self.line.is_closed()
        });
        drop(crew);
        let taken = self.shared().budget.take(weight);
        if taken {
            self.held.fetch_add(weight, Ordering::SeqCst);
        }
        taken
    }

    /// Waits until this thread is needed again; whether it is.
    fn park(&self) -> bool {
        let mut crew = self.crew.lock();
        crew.parked += 1;
        self.wake.wait_while(&mut crew, |crew| crew.tickets == 0 && !crew.over);
        crew.parked -= 1;
        if crew.tickets > 0 {
            crew.tickets -= 1;
            return true;
        }
        !crew.queue.is_empty()
    }

    /// Lets up to `more` threads go on, or begin.
    fn call_helpers(self: &Arc<Self>, crew: &mut Crew, more: usize) {
        let woken = more.min(crew.parked.saturating_sub(crew.tickets));
        crew.tickets += woken;
        for _ in 0..woken {
            self.wake.notify_one();
        }
        let begun = (more - woken).min(self.calls.len() - crew.hands);
        for _ in 0..begun {
            let (session, me) = (Arc::clone(self), crew.hands);
            match self.spawn(move || session.work(me)) {
                Some(helper) => crew.helpers.push(helper),
                None => return,
            }
            crew.hands += 1;
        }
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
        let name = format!("nbd {}", self.line.number);
        std::thread::Builder::new().name(name).spawn(work).ok()
    }

    /// Whether a call that takes long holds up anything: an answer that waits, or a request that another thread may run.
    fn is_worth_watching(&self) -> bool {
        self.calls.len() > 1 || self.output.is_waiting()
    }

    fn be_watched(self: &Arc<Self>) {
        if !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst) {
            self.shared().watch(self);
        }
    }

    /// The watch looks: whether any thread is in a call that holds up something. What waits for a long one is given to other
    /// threads.
    pub(crate) fn look(self: &Arc<Self>) -> bool {
        if !self.is_worth_watching() {
            return false;
        }
        let since = self.calls.iter().map(|call| call.load(Ordering::SeqCst)).filter(|since| *since > 0).min();
        let Some(since) = since else { return false };
        if self.line.now().saturating_sub(since) >= LONG {
            self.relieve();
        }
        true
    }

    /// The watch wants to forget this session: whether it may.
    pub(crate) fn is_leaving_watch(&self) -> bool {
        self.watched.store(false, Ordering::SeqCst);
        let busy = self.is_worth_watching() && self.in_calls() > 0;
        // Whoever began a call meanwhile has come to the list a second time, or finds that it need not.
        !busy || self.watched.swap(true, Ordering::SeqCst)
    }

    fn relieve(self: &Arc<Self>) {
        let mut crew = self.crew.lock();
        if crew.closed {
            return;
        }
        if self.output.is_waiting() {
            self.call_writer(&mut crew);
        }
        if self.calls.len() > 1 {
            self.wide.store(true, Ordering::Relaxed);
            let unread = usize::from(!self.input.is_locked() && !crew.over);
            let idle = crew.hands - crew.parked - self.in_calls();
            let more = (crew.queue.len() + unread).saturating_sub(idle + crew.tickets);
            self.call_helpers(&mut crew, more);
        }
    }

    fn in_calls(&self) -> usize {
        self.calls.iter().filter(|call| call.load(Ordering::SeqCst) > 0).count()
    }

    /// Has a thread write that does nothing else.
    fn call_writer(self: &Arc<Self>, crew: &mut Crew) {
        if crew.writer.is_none() {
            let session = Arc::clone(self);
            let Some(writer) = self.spawn(move || session.write()) else { return };
            crew.helpers.push(writer);
        }
        crew.writer = Some(true);
        self.written.notify_one();
    }

    fn write(&self) {
        loop {
            let mut crew = self.crew.lock();
            self.written.wait_while(&mut crew, |crew| crew.writer != Some(true) && !crew.closed);
            if crew.writer != Some(true) {
                return;
            }
            crew.writer = Some(false);
            drop(crew);
            self.flush();
        }
    }
}

impl Pace {
    fn begin() -> Self {
        Self { calls: 0, wall: 0, processor: processor_time() }
    }
}

/// What this thread has had of the processor, in nanoseconds.
fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The answer to a request: structured for those that have data in it, if that was agreed on.
fn answer(request: &Request, result: Result<Outcome, NbdError>, agreed: Agreement, weight: u64) -> Answer {
    let structured = agreed.structured_replies && matches!(request.command, Command::Read | Command::BlockStatus);
    let cookie = request.cookie;
    let (head, body) = match result {
        Ok(Outcome::Data(data)) if structured => (Head::data(cookie, request.offset, request.count), Body::Data(data)),
        Ok(Outcome::Data(data)) => (Head::simple(cookie, None), Body::Data(data)),
        Ok(Outcome::Extents(extents)) => {
            let bytes = extents.iter().flat_map(|(length, status)| [length.to_be_bytes(), status.to_be_bytes()]);
            (Head::extents(cookie, extents.len() as u32), Body::Extents(bytes.flatten().collect()))
        }
        Ok(Outcome::Done) => (Head::simple(cookie, None), Body::Nothing),
        Err(error) if structured => (Head::error(cookie, error), Body::Nothing),
        Err(error) => (Head::simple(cookie, Some(error)), Body::Nothing),
    };
    Answer { head, body, weight }
}
