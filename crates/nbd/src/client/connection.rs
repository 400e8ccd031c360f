//! A connection in transmission: many requests in flight from any number of threads.
//!
//! Whoever asks sends its request itself, under a lock, and then waits. One thread receives: an answer finds who waits for it
//! by its cookie, and data goes straight to its place. A server that breaks the protocol ends the connection, and everybody who
//! waits is told why.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::handshake::{self, Remote};
use super::{ClientError, Target, Wanted, greeted};
use crate::codec::answer::{Answer, Assembly, Lie, Step};
use crate::codec::reply::{CHUNK_LENGTH, ReplyHead, decode_head};
use crate::codec::request::{Command, Flags, MAX_PAYLOAD, Request};
use crate::server::{Stream, write_slices};

/// What one call of the system brings, in bytes, unless it is data that goes to its place.
const RECEIVE: usize = 64 << 10;

/// A connection to an export.
#[derive(Debug)]
pub struct Connection {
    line: Arc<Line>,
    receiver: Option<JoinHandle<()>>,
}

/// What is shared with the thread that receives.
#[derive(Debug)]
struct Line {
    stream: Stream,
    remote: Remote,
    state: Mutex<State>,
    /// Held by whoever sends.
    sending: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    cookie: u64,
    waiting: HashMap<u64, Waiter>,
    /// Why nothing comes any more.
    broken: Option<ClientError>,
}

#[derive(Debug)]
struct Waiter {
    assembly: Assembly,
    slot: Arc<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    result: Mutex<Option<Result<Answer, ClientError>>>,
    filled: Condvar,
}

impl Slot {
    fn fill(&self, result: Result<Answer, ClientError>) {
        *self.result.lock() = Some(result);
        self.filled.notify_one();
    }
}

/// A request that was sent.
#[derive(Debug)]
#[must_use = "its answer is not known before it was waited for"]
pub struct Pending(Arc<Slot>);

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// The request failed, or the connection has ended.
    pub fn wait(self) -> Result<Answer, ClientError> {
        let mut result = self.0.result.lock();
        loop {
            match result.take() {
                Some(result) => return result,
                None => self.0.filled.wait(&mut result),
            }
        }
    }
}

impl Connection {
    /// Connects to an export.
    ///
    /// # Errors
    /// There is no way to the server; it refuses; it is none.
    pub fn open(target: &Target) -> Result<Self, ClientError> {
        Self::over(target.connect()?, &target.export, &target.wanted)
    }

    /// Takes a connected stream socket to an export: one end of a pair, or whatever else.
    ///
    /// # Errors
    /// The server refuses, or is none.
    pub fn over(socket: OwnedFd, export: &[u8], wanted: &Wanted) -> Result<Self, ClientError> {
        if !crate::codec::is_string(export) {
            return Err(ClientError::Unsendable("no export has such a name".to_owned()));
        }
        let (stream, style) = greeted(socket, wanted)?;
        let remote = handshake::go(&stream, style, export, wanted)?;
        stream.set_limit(None);
        let line = Arc::new(Line { stream, remote, state: Mutex::default(), sending: Mutex::new(()) });
        let receiving = Arc::clone(&line);
        let receiver = std::thread::Builder::new().name("nbd client".to_owned()).spawn(move || receiving.receive())?;
        Ok(Self { line, receiver: Some(receiver) })
    }

    /// What the export is.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.line.remote
    }

    /// Whether it has ended: no request succeeds any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.line.state.lock().broken.is_some()
    }

    /// Sends a request, with the payload of a write; returns when all of it is on its way.
    ///
    /// # Errors
    /// The connection has ended; or it is no request that may be sent: more than 64 MiB of data, a payload that is not as long as the
    /// request says, block status without an agreement on it.
    pub fn send(
        &self,
        command: Command,
        flags: Flags,
        offset: u64,
        count: u32,
        payload: &[u8],
    ) -> Result<Pending, ClientError> {
        let request = Request { flags, command, cookie: 0, offset, count };
        let data = matches!(command, Command::Read | Command::Write) && count > MAX_PAYLOAD;
        let wrong = data || payload.len() != request.payload() as usize || command == Command::Disconnect;
        if wrong || (command == Command::BlockStatus && self.line.remote.allocation.is_none()) {
            return Err(ClientError::Unsendable(format!("{command:?} of {count} bytes cannot be sent")));
        }
        self.line.send(request, payload)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.line.leave();
        if let Some(receiver) = self.receiver.take() {
            // One that panicked has said so.
            let _ = receiver.join();
        }
    }
}

impl Line {
    fn send(&self, mut request: Request, payload: &[u8]) -> Result<Pending, ClientError> {
        let assembly = Assembly::new(request, self.remote.structured_replies, self.remote.allocation);
        let slot = Arc::new(Slot::default());
        {
            let mut state = self.state.lock();
            if let Some(reason) = &state.broken {
                return Err(reason.clone());
            }
            state.cookie += 1;
            request.cookie = state.cookie;
            // Before it is sent: the answer may be quick.
            state.waiting.insert(request.cookie, Waiter { assembly, slot: Arc::clone(&slot) });
        }
        if let Err(error) = self.put(&request, payload) {
            // This request's waiter is told with the others.
            self.fail(&error.into());
        }
        Ok(Pending(slot))
    }

    fn put(&self, request: &Request, payload: &[u8]) -> io::Result<()> {
        let head = request.encode();
        let mut slices = [IoSlice::new(&head), IoSlice::new(payload)];
        let parts = if payload.is_empty() { 1 } else { 2 };
        let _sending = self.sending.lock();
        write_slices(&mut slices[..parts], |slices| self.patiently(|| self.stream.write(slices)))
    }

    /// Again and again, as long as nothing happens and the connection lives.
    fn patiently<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.state.lock().broken.is_none() => {}
                done => return done,
            }
        }
    }

    /// Ends the connection; everybody is told why.
    fn fail(&self, reason: &ClientError) {
        let waiting = {
            let mut state = self.state.lock();
            state.broken.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut state.waiting)
        };
        self.stream.close();
        waiting.into_values().for_each(|waiter| waiter.slot.fill(Err(reason.clone())));
    }

    /// Says that no request follows, and ends the connection.
    fn leave(&self) {
        let (living, idle) = {
            let state = self.state.lock();
            (state.broken.is_none(), state.waiting.is_empty())
        };
        if living && idle {
            let request = Request { flags: Flags(0), command: Command::Disconnect, cookie: 0, offset: 0, count: 0 };
            // A server that takes nothing more has gone.
            if self.put(&request, &[]).is_ok() {
                self.stream.say_goodbye();
            }
        }
        self.fail(&ClientError::Closed);
    }

    /// Receives answers until the end.
    fn receive(&self) {
        // Whatever ends this thread, nobody waits for it any more.
        let _told = Told(self);
        let mut input = Input { line: self, buffer: Vec::with_capacity(RECEIVE), start: 0 };
        loop {
            if let Err(reason) = self.receive_one(&mut input) {
                return self.fail(&reason);
            }
        }
    }

    fn receive_one(&self, input: &mut Input<'_>) -> Result<(), ClientError> {
        let head = input.head()?;
        let (ReplyHead::Simple { cookie, .. } | ReplyHead::Chunk { cookie, .. }) = head;
        let waiter = self.state.lock().waiting.remove(&cookie);
        let Some(mut waiter) = waiter else {
            return Err(Lie(format!("an answer to no request (cookie {cookie})")).into());
        };
        let complete = input.answer(&head, &mut waiter.assembly);
        match complete {
            Ok(true) => {
                waiter.slot.fill(waiter.assembly.finish().map_err(ClientError::Failed));
                Ok(())
            }
            // It waits for more, or is told with the others.
            other => {
                self.keep(cookie, waiter);
                other.map(|_| ())
            }
        }
    }

    fn keep(&self, cookie: u64, waiter: Waiter) {
        let mut state = self.state.lock();
        match state.broken.clone() {
            Some(reason) => waiter.slot.fill(Err(reason)),
            None => drop(state.waiting.insert(cookie, waiter)),
        }
    }
}

/// Tells whoever waits that nothing comes.
struct Told<'a>(&'a Line);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.fail(&closed());
    }
}

/// What was received and not used yet.
struct Input<'a> {
    line: &'a Line,
    buffer: Vec<u8>,
    start: usize,
}

impl Input<'_> {
    fn head(&mut self) -> Result<ReplyHead, ClientError> {
        loop {
            let rest = &self.buffer[self.start..];
            match decode_head(&rest[..rest.len().min(CHUNK_LENGTH)]) {
                Ok(Some((head, length))) => {
                    self.start += length;
                    return Ok(head);
                }
                Ok(None) => self.receive_more()?,
                Err(magic) => {
                    return Err(Lie(format!("something that is no answer (magic number {magic:#010x})")).into());
                }
            }
        }
    }

    fn receive_more(&mut self) -> Result<(), ClientError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.len() == self.buffer.capacity() {
            self.buffer.reserve(RECEIVE);
        }
        let line = self.line;
        match line.patiently(|| line.stream.read(&mut self.buffer))? {
            0 => Err(closed()),
            _ => Ok(()),
        }
    }

    /// Receives what stands behind a head; whether the answer is complete.
    fn answer(&mut self, head: &ReplyHead, assembly: &mut Assembly) -> Result<bool, ClientError> {
        let mut step = assembly.begin(head)?;
        loop {
            step = match step {
                Step::Fixed(length) => {
                    while self.buffer.len() - self.start < length {
                        self.receive_more()?;
                    }
                    let at = self.start;
                    self.start += length;
                    assembly.fixed(&self.buffer[at..at + length])?
                }
                Step::Data(range) => {
                    self.fill(assembly.place(range))?;
                    assembly.placed()?
                }
                Step::More => return Ok(false),
                Step::Done => return Ok(true),
            };
        }
    }

    /// Fills a place: first with what is there, then from the connection itself.
    fn fill(&mut self, place: &mut [u8]) -> Result<(), ClientError> {
        let rest = &self.buffer[self.start..];
        let mut at = rest.len().min(place.len());
        place[..at].copy_from_slice(&rest[..at]);
        self.start += at;
        let line = self.line;
        while at < place.len() {
            match line.patiently(|| line.stream.receive(&mut place[at..]))? {
                0 => return Err(closed()),
                received => at += received,
            }
        }
        Ok(())
    }
}

fn closed() -> ClientError {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed it").into()
}
