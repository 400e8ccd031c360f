//! Requests as they arrive: several in one call of the system, a large payload straight to its place.

use crate::codec::error::NbdError;
use crate::codec::request::{Command, MAX_DISCARD, REQUEST_LENGTH, Request};
use crate::server::line::Line;

/// Room for what arrives at first.
const SMALL: usize = 4 << 10;
/// Room for what arrives, once it filled less.
const LARGE: usize = 256 << 10;
/// A payload that is larger goes to its place without a copy.
const COPIED: usize = 64 << 10;
/// Room for a payload grows in steps of this much, as it arrives.
const STEP: usize = 4 << 20;

/// A request with all that belongs to it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) payload: Vec<u8>,
    pub(crate) verdict: Result<(), NbdError>,
    /// What it and its answer hold of the server's memory, in bytes.
    pub(crate) weight: u64,
}

/// What stands in the buffer.
pub(crate) enum Next {
    /// A request.
    Job(Job),
    /// A request that may be received only when there is room for its weight: then [`Input::accept`] it.
    Asks(u64),
    /// Not all of anything.
    Nothing,
    /// The client goes, or sends what cannot be understood.
    Over(Option<String>),
}

/// What a session says about a request's header: whether it may run, and its weight.
pub(crate) trait Judge {
    fn judge(&self, request: &Request) -> (Result<(), NbdError>, u64);
}

#[derive(Debug)]
enum Phase {
    Header,
    /// Waits for room.
    Asking(Job),
    Payload(Job),
    Discard(Job, usize),
}

/// The requests of one connection.
#[derive(Debug)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    phase: Phase,
}

impl Input {
    /// Begins with what has arrived already.
    pub(crate) fn new(buffer: Vec<u8>) -> Self {
        Self { buffer, start: 0, phase: Phase::Header }
    }

    /// Takes the next request out of what has arrived.
    pub(crate) fn next(&mut self, judge: &impl Judge) -> Next {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Header) {
                Phase::Header => match self.header(judge) {
                    Ok(true) => {}
                    Ok(false) => return Next::Nothing,
                    Err(reason) => return Next::Over(reason),
                },
                Phase::Asking(job) => {
                    let weight = job.weight;
                    self.phase = Phase::Asking(job);
                    return Next::Asks(weight);
                }
                Phase::Payload(mut job) => {
                    let missing = job.request.payload() as usize - job.payload.len();
                    let taken = missing.min(self.buffer.len() - self.start);
                    job.payload.extend_from_slice(self.take(taken));
                    if taken == missing {
                        return Next::Job(job);
                    }
                    self.phase = Phase::Payload(job);
                    return Next::Nothing;
                }
                Phase::Discard(job, left) => {
                    let taken = left.min(self.buffer.len() - self.start);
                    self.take(taken);
                    if taken == left {
                        return Next::Job(job);
                    }
                    self.phase = Phase::Discard(job, left - taken);
                    return Next::Nothing;
                }
            }
        }
    }

    /// There is room for the request that asked.
    pub(crate) fn accept(&mut self) {
        if let Phase::Asking(job) = std::mem::replace(&mut self.phase, Phase::Header) {
            self.phase = Phase::Payload(job);
        }
    }

    /// Reads a header; whether all of it was there.
    fn header(&mut self, judge: &impl Judge) -> Result<bool, Option<String>> {
        let Some(head) = self.buffer[self.start..].first_chunk::<REQUEST_LENGTH>() else { return Ok(false) };
        let request = Request::decode(head).map_err(|error| Some(error.to_string()))?;
        self.take(REQUEST_LENGTH);
        if request.command == Command::Disconnect {
            return Err(None);
        }
        let (verdict, weight) = judge.judge(&request);
        let payload = request.payload();
        let job = Job { request, payload: Vec::new(), verdict, weight };
        if verdict.is_ok() {
            self.phase = Phase::Asking(job);
        } else if payload > MAX_DISCARD {
            return Err(Some(format!("the client sends a write of {payload} bytes")));
        } else {
            self.phase = Phase::Discard(job, payload as usize);
        }
        Ok(true)
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let taken = &self.buffer[self.start..self.start + length];
        self.start += length;
        taken
    }

    /// Waits until more has arrived; whether it has.
    pub(crate) fn receive(&mut self, line: &Line) -> bool {
        match &mut self.phase {
            Phase::Payload(job) if missing(job) > COPIED => {
                // It came from the buffer before, so the buffer is empty.
                self.buffer.clear();
                self.start = 0;
                receive_payload(job, &mut self.buffer, line)
            }
            _ => self.receive_more(line),
        }
    }

    fn receive_more(&mut self, line: &Line) -> bool {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.capacity() < SMALL {
            self.buffer.reserve_exact(SMALL - self.buffer.len());
        } else if self.buffer.len() == self.buffer.capacity() {
            self.buffer.reserve_exact(SMALL);
        }
        let received = line.read(&mut self.buffer, matches!(self.phase, Phase::Payload(_)));
        if self.buffer.len() == self.buffer.capacity() && self.buffer.capacity() < LARGE {
            self.buffer.reserve_exact(self.buffer.capacity());
        }
        received.is_ok_and(|received| received > 0)
    }
}

fn missing(job: &Job) -> usize {
    job.request.payload() as usize - job.payload.len()
}

/// Receives into the payload itself; what comes after it belongs to the next request and goes to `beyond`.
fn receive_payload(job: &mut Job, beyond: &mut Vec<u8>, line: &Line) -> bool {
    if job.payload.capacity() == job.payload.len() {
        job.payload.reserve_exact(missing(job).min(STEP));
    }
    let received = line.read(&mut job.payload, true).unwrap_or(0);
    let length = job.request.payload() as usize;
    if job.payload.len() > length {
        beyond.extend_from_slice(&job.payload[length..]);
        job.payload.truncate(length);
    }
    received > 0
}
