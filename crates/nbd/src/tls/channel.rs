//! An encrypted connection that one thread reads from while another writes to it.
//!
//! The library's state knows both directions and is behind a lock; the lock is held for one step that never waits. Whoever
//! has to wait for the other side waits for the descriptor, without the lock.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use backstay_core::Certificate;
use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslStream};
use openssl::x509::X509VerifyResult;
use parking_lot::Mutex;

use crate::server::stream::{Direction, Ends};

/// Bytes of one record.
const RECORD: usize = 16 << 10;
/// Bytes that one call reads at most, so that it does not keep the processor to itself.
const TOGETHER: usize = 256 << 10;

/// An encrypted connection, or one that is about to be.
pub(crate) struct Channel {
    ends: Arc<Ends>,
    stream: Mutex<SslStream<Wire>>,
}

/// What one step came to.
enum Step<T> {
    Done(T),
    /// Again, when the descriptor is ready.
    Wait(Direction),
    /// Nothing comes any more.
    Ended,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel")
    }
}

impl Channel {
    /// Begins on both directions, as the side that `ssl` was set to; `early` is what the other side has sent of it already.
    pub(crate) fn new(ends: Arc<Ends>, ssl: Ssl, early: Vec<u8>) -> Result<Self, ErrorStack> {
        let wire = Wire { ends: Arc::clone(&ends), early, taken: 0, ended: false };
        Ok(Self { ends, stream: Mutex::new(SslStream::new(ssl, wire)?) })
    }

    /// Shakes hands, or goes on with it.
    ///
    /// # Errors
    /// `WouldBlock`: the other side was silent for long; else it failed, and why.
    pub(crate) fn shake(&self) -> io::Result<()> {
        loop {
            let step = {
                let mut stream = self.stream.lock();
                stream.do_handshake().map(Step::Done).or_else(|error| self.judge(&stream, error))
            };
            match step {
                Ok(Step::Done(())) => return Ok(()),
                Ok(Step::Ended) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side has gone")),
                Ok(Step::Wait(direction)) => self.ends.wait(direction)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends what has arrived, at most what fits the buffer's spare room; see [`crate::server::Stream`].
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let start = buffer.len();
        let end = buffer.capacity().min(start + TOGETHER);
        while buffer.len() < end {
            let at = buffer.len();
            buffer.resize(end.min(at + RECORD), 0);
            let step = self.read_step(&mut buffer[at..]);
            buffer.truncate(if let Ok(Step::Done(read)) = &step { at + read } else { at });
            match step {
                Ok(Step::Done(_)) => {}
                _ if at > start => break,
                Ok(Step::Ended) => return Ok(0),
                Ok(Step::Wait(direction)) => self.ends.wait(direction)?,
                Err(error) => return Err(error),
            }
        }
        Ok(buffer.len() - start)
    }

    fn read_step(&self, place: &mut [u8]) -> io::Result<Step<usize>> {
        let mut stream = self.stream.lock();
        stream.ssl_read(place).map(Step::Done).or_else(|error| self.judge(&stream, error))
    }

    /// Fills some of a place; see [`crate::server::Stream`].
    pub(crate) fn receive(&self, place: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_step(place)? {
                Step::Done(read) => return Ok(read),
                Step::Wait(direction) => self.ends.wait(direction)?,
                Step::Ended => return Ok(0),
            }
        }
    }

    /// Writes some of the bytes. After an error of the kind `WouldBlock` it must be called with the same bytes again.
    pub(crate) fn write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut gathered = Vec::new();
        let record = match bytes.iter().find(|slice| !slice.is_empty()) {
            Some(first) if first.len() >= RECORD => &first[..],
            _ => {
                for slice in bytes {
                    let room = RECORD - gathered.len();
                    gathered.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                &gathered[..]
            }
        };
        if record.is_empty() {
            return Ok(0);
        }
        loop {
            let step = {
                let mut stream = self.stream.lock();
                stream.ssl_write(record).map(Step::Done).or_else(|error| self.judge(&stream, error))
            };
            match step? {
                Step::Done(written) => return Ok(written),
                Step::Wait(direction) => self.ends.wait(direction)?,
                Step::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Says that nothing follows, if the other side takes it at once.
    pub(crate) fn say_goodbye(&self) {
        // Whoever does not hear it finds the end of the stream.
        let _ = self.stream.lock().shutdown();
    }

    /// The names in the other side's certificate, if it was asked for one.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        super::certificate(self.stream.lock().ssl())
    }

    /// What an error of the library means.
    fn judge<T>(&self, stream: &SslStream<Wire>, error: openssl::ssl::Error) -> io::Result<Step<T>> {
        match error.code() {
            ErrorCode::WANT_READ if stream.get_ref().ended => Ok(Step::Ended),
            ErrorCode::WANT_READ => Ok(Step::Wait(Direction::In)),
            ErrorCode::WANT_WRITE => Ok(Step::Wait(Direction::Out)),
            ErrorCode::ZERO_RETURN => Ok(Step::Ended),
            _ => {
                let verdict = stream.ssl().verify_result();
                let reason = match error.ssl_error() {
                    Some(_) if verdict != X509VerifyResult::OK => verdict.error_string().to_owned(),
                    Some(errors) => super::reasons(errors),
                    None => return Err(error.into_io_error().unwrap_or_else(io::Error::other)),
                };
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {reason}")))
            }
        }
    }
}

/// What the library reads from and writes to; it never waits.
struct Wire {
    ends: Arc<Ends>,
    early: Vec<u8>,
    taken: usize,
    /// The other side sends no more. The library is not told: what was begun can still be written.
    ended: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken < self.early.len() {
            let read = (&self.early[self.taken..]).read(buffer)?;
            self.taken += read;
            return Ok(read);
        }
        self.early = Vec::new();
        self.taken = 0;
        match self.ends.read_now(buffer)? {
            0 if !buffer.is_empty() => {
                self.ended = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
            read => Ok(read),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ends.write_now(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
