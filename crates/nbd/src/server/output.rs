//! Answers on their way out: gathered, and written together by whoever has time.

use std::io::{self, IoSlice};

use backstay_core::ReadBytes;
use parking_lot::Mutex;

use crate::codec::reply::Head;
use crate::server::line::Line;

/// Buffers that the system takes in one call.
const MAX_SLICES: usize = 1024;

/// One answer.
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Body,
    /// What it holds of the server's memory, in bytes.
    pub(crate) weight: u64,
}

/// What stands behind an answer's head.
pub(crate) enum Body {
    Nothing,
    Data(ReadBytes),
    Extents(Vec<u8>),
}

impl Body {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Data(bytes) => bytes.as_ref().as_ref(),
            Self::Extents(bytes) => bytes,
        }
    }
}

/// What waits, after an answer was added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) answers: usize,
    pub(crate) bytes: usize,
    /// When the first of them was finished, in nanoseconds of the server's clock.
    pub(crate) since: u64,
}

/// The answers of one connection.
#[derive(Default)]
pub(crate) struct Output {
    pending: Mutex<Pending>,
    writer: Mutex<()>,
}

#[derive(Default)]
struct Pending {
    answers: Vec<Answer>,
    bytes: usize,
    since: u64,
}

/// What was written or given up, to be given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) answers: usize,
    pub(crate) weight: u64,
}

impl Output {
    /// Adds an answer that was finished at `now`.
    pub(crate) fn push(&self, answer: Answer, now: u64) -> Waiting {
        let mut pending = self.pending.lock();
        if pending.answers.is_empty() {
            pending.since = now;
        }
        pending.bytes += answer.body.as_bytes().len();
        pending.answers.push(answer);
        Waiting { answers: pending.answers.len(), bytes: pending.bytes, since: pending.since }
    }

    /// Whether answers wait.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.lock().answers.is_empty()
    }

    /// Writes what waits, and what comes meanwhile; or leaves it to the thread that is writing. `settle` hears of each lot.
    pub(crate) fn flush(&self, line: &Line, mut settle: impl FnMut(Settled)) {
        while self.is_waiting() {
            let Some(writer) = self.writer.try_lock() else { return };
            let answers = std::mem::take(&mut *self.pending.lock()).answers;
            if !line.is_closed() {
                write_all(line, &answers).unwrap_or_else(|error| line.fail(&error));
            }
            drop(writer);
            settle(Settled { answers: answers.len(), weight: answers.iter().map(|answer| answer.weight).sum() });
        }
    }
}

fn write_all(line: &Line, answers: &[Answer]) -> io::Result<()> {
    let parts = answers.iter().flat_map(|answer| [answer.head.as_bytes(), answer.body.as_bytes()]);
    let mut slices: Vec<IoSlice<'_>> = parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
    line.write_all(&mut slices)
}

/// Writes all of it, in as many calls as it takes.
pub(crate) fn write_slices(
    mut slices: &mut [IoSlice<'_>],
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    while !slices.is_empty() {
        let some = slices.len().min(MAX_SLICES);
        match write(&slices[..some])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut slices, written),
        }
    }
    Ok(())
}
