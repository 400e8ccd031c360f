//! Answers to requests as a client takes them (reference 10.6): what may come for a request, and what it comes to. Whatever a
//! server sends that it may not is a [`Lie`]: what follows cannot be trusted either.
//!
//! The caller receives: it asks [`Assembly::begin`] with a head, then does what the steps say. Data goes straight to its place.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::codec::error::NbdError;
use crate::codec::reply::{CHUNK_DONE, ChunkKind, MAX_EXTENTS, ReplyHead};
use crate::codec::request::{Command, Request};
use crate::codec::{MAX_STRING, Words};

/// Bytes of an error without its text.
const ERROR: usize = 6;
/// Pieces with gaps between them that a read may come in.
const MAX_PIECES: usize = 1 << 16;

/// Something that a server may not send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server breaks the protocol: {0}")]
pub struct Lie(pub String);

fn lie<T>(text: impl Into<String>) -> Result<T, Lie> {
    Err(Lie(text.into()))
}

/// What to receive next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes, to be given to [`Assembly::fixed`].
    Fixed(usize),
    /// Data, to [`Assembly::place`] with this range, and then [`Assembly::placed`].
    Data(Range<usize>),
    /// Another head for the same request, sooner or later.
    More,
    /// Nothing: the answer is complete.
    Done,
}

/// What an answer came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What a read has read.
    pub data: Vec<u8>,
    /// Lengths and status bits of a block status.
    pub extents: Vec<(u32, u32)>,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub error: NbdError,
    /// What the server says about it, for people; mostly nothing.
    pub text: String,
}

/// The answer to one request, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    request: Request,
    structured: bool,
    /// The number of `base:allocation`, if it was selected.
    context: Option<u32>,
    answer: Answer,
    /// Ranges of the data that came, by start; those that touch are one.
    covered: BTreeMap<usize, usize>,
    failure: Option<Failure>,
    chunk: Option<Chunk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    last: bool,
    kind: ChunkKind,
    length: usize,
}

impl Assembly {
    /// Of a request that is sent where this was agreed on. Memory for the data of a read is taken here.
    #[must_use]
    pub fn new(request: Request, structured: bool, context: Option<u32>) -> Self {
        let length = if request.command == Command::Read { request.count as usize } else { 0 };
        Self {
            request,
            structured,
            context,
            answer: Answer { data: vec![0; length], extents: Vec::new() },
            covered: BTreeMap::new(),
            failure: None,
            chunk: None,
        }
    }

    /// A head with the request's cookie has come.
    ///
    /// # Errors
    /// It may not.
    pub fn begin(&mut self, head: &ReplyHead) -> Result<Step, Lie> {
        match *head {
            ReplyHead::Simple { error, .. } => self.simple(error),
            ReplyHead::Chunk { flags, kind, length, .. } => {
                if !self.structured {
                    return lie("a structured reply that was not agreed on");
                }
                let chunk = Chunk { last: flags & CHUNK_DONE != 0, kind, length: length as usize };
                self.chunk = Some(chunk);
                self.chunk(chunk)
            }
        }
    }

    fn simple(&mut self, error: u32) -> Result<Step, Lie> {
        let has_content = matches!(self.request.command, Command::Read | Command::BlockStatus);
        if self.structured && has_content {
            return lie("a simple reply to a request whose answer must be structured");
        }
        if error != 0 {
            self.fail(error, &[]);
            return Ok(Step::Done);
        }
        match self.request.command {
            Command::Read => Ok(Step::Data(0..self.answer.data.len())),
            Command::BlockStatus => lie("a block status in a simple reply"),
            _ => Ok(Step::Done),
        }
    }

    fn chunk(&mut self, chunk: Chunk) -> Result<Step, Lie> {
        let Chunk { last, kind, length } = chunk;
        let reads = self.request.command == Command::Read;
        match kind {
            ChunkKind::None if length == 0 && last => self.end(),
            ChunkKind::None => lie("an empty chunk that is not empty, or not the last"),
            ChunkKind::OffsetData if reads && length > 8 && length - 8 <= self.answer.data.len() => Ok(Step::Fixed(8)),
            ChunkKind::OffsetHole if reads && length == 12 => Ok(Step::Fixed(12)),
            ChunkKind::OffsetData | ChunkKind::OffsetHole => {
                lie(format!("{length} bytes of data that nobody asked for"))
            }
            ChunkKind::BlockStatus => self.block_status(length),
            ChunkKind::Error | ChunkKind::ErrorOffset => self.error(length, kind == ChunkKind::ErrorOffset),
            // One of a later version.
            ChunkKind::Other(code) if code & 0x8000 != 0 => self.error(length, false),
            ChunkKind::Other(code) => lie(format!("a chunk of the unknown kind {code}")),
        }
    }

    fn block_status(&self, length: usize) -> Result<Step, Lie> {
        let asked = self.request.command == Command::BlockStatus;
        let right = length >= 12 && (length - 4).is_multiple_of(8) && (length - 4) / 8 <= MAX_EXTENTS;
        if asked && right && self.answer.extents.is_empty() {
            Ok(Step::Fixed(length))
        } else {
            lie(format!("{length} bytes of block status that are wrong, or that nobody asked for"))
        }
    }

    fn error(&self, length: usize, offset: bool) -> Result<Step, Lie> {
        let most = ERROR + MAX_STRING + if offset { 8 } else { 0 };
        if (ERROR..=most).contains(&length) {
            Ok(Step::Fixed(length))
        } else {
            lie(format!("an error of {length} bytes"))
        }
    }

    /// The bytes of [`Step::Fixed`].
    ///
    /// # Errors
    /// They may not be these.
    pub fn fixed(&mut self, bytes: &[u8]) -> Result<Step, Lie> {
        let Some(chunk) = self.chunk else { return lie("bytes without a chunk") };
        let mut words = Words(bytes);
        match chunk.kind {
            ChunkKind::OffsetData => {
                let range = self.range(words.u64(), chunk.length.saturating_sub(8))?;
                self.cover(&range)?;
                Ok(Step::Data(range))
            }
            ChunkKind::OffsetHole => {
                let (offset, length) = (words.u64(), words.u32().unwrap_or_default());
                let range = self.range(offset, length as usize)?;
                // The memory was zeroes before, and nothing else came here.
                self.cover(&range)?;
                self.placed()
            }
            ChunkKind::BlockStatus => {
                self.extents(words)?;
                self.placed()
            }
            _ => {
                self.failed(words, chunk.kind == ChunkKind::ErrorOffset)?;
                self.placed()
            }
        }
    }

    /// The place of a range of the disk in the data.
    fn range(&self, offset: Option<u64>, length: usize) -> Result<Range<usize>, Lie> {
        let start = offset.and_then(|offset| offset.checked_sub(self.request.offset));
        let start = start.and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(length)).filter(|end| *end <= self.answer.data.len());
        match (start, end) {
            (Some(start), Some(end)) if start < end => Ok(start..end),
            _ => lie("data for a place that nobody asked for"),
        }
    }

    /// Notes that a range came; each comes once.
    fn cover(&mut self, range: &Range<usize>) -> Result<(), Lie> {
        let before = self.covered.range(..range.end).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| end > range.start) {
            return lie("data for the same place twice");
        }
        let mut merged = range.clone();
        if let Some((start, _)) = before.filter(|(_, end)| *end == range.start) {
            merged.start = start;
        }
        if let Some(end) = self.covered.remove(&range.end) {
            merged.end = end;
        }
        self.covered.insert(merged.start, merged.end);
        if self.covered.len() > MAX_PIECES { lie("a read in too many pieces") } else { Ok(()) }
    }

    fn extents(&mut self, mut words: Words<'_>) -> Result<(), Lie> {
        if words.u32() != self.context || self.context.is_none() {
            return lie("block status of a context that was not agreed on");
        }
        while let Some((length, status)) = words.u32().zip(words.u32()) {
            if length == 0 {
                return lie("an extent of no length");
            }
            self.answer.extents.push((length, status));
        }
        let before = self.answer.extents.split_last().map_or(&[][..], |(_, before)| before);
        let sum: u64 = before.iter().map(|(length, _)| u64::from(*length)).sum();
        // Only the last one may reach beyond what was asked for.
        if sum >= u64::from(self.request.count) { lie("extents beyond what was asked for") } else { Ok(()) }
    }

    fn failed(&mut self, mut words: Words<'_>, offset: bool) -> Result<(), Lie> {
        let (error, length) = (words.u32().unwrap_or_default(), words.u16().unwrap_or_default());
        let text = words.take(usize::from(length)).unwrap_or_default();
        let rest = if offset { 8 } else { 0 };
        if text.len() != usize::from(length) || words.0.len() != rest || error == 0 {
            return lie("an error that is none");
        }
        let end = self.request.offset.saturating_add(self.request.count.into());
        if offset && words.u64().is_some_and(|at| !(self.request.offset..end.max(1)).contains(&at)) {
            return lie("an error at a place that nobody asked for");
        }
        self.fail(error, text);
        Ok(())
    }

    /// The first error counts.
    fn fail(&mut self, error: u32, text: &[u8]) {
        self.failure.get_or_insert_with(|| Failure {
            error: NbdError::from_code(error),
            text: String::from_utf8_lossy(text).into_owned(),
        });
    }

    /// Where the data of [`Step::Data`] goes.
    pub fn place(&mut self, range: Range<usize>) -> &mut [u8] {
        self.answer.data.get_mut(range).unwrap_or_default()
    }

    /// The data of [`Step::Data`] is there.
    ///
    /// # Errors
    /// The answer ends here and is not complete.
    pub fn placed(&mut self) -> Result<Step, Lie> {
        match self.chunk.take() {
            Some(Chunk { last: false, .. }) => Ok(Step::More),
            Some(_) => self.end(),
            // A simple reply.
            None => Ok(Step::Done),
        }
    }

    fn end(&self) -> Result<Step, Lie> {
        let length = self.answer.data.len();
        let whole = match self.request.command {
            Command::Read => length == 0 || self.covered.get(&0) == Some(&length),
            Command::BlockStatus => !self.answer.extents.is_empty(),
            _ => true,
        };
        if whole || self.failure.is_some() { Ok(Step::Done) } else { lie("an answer that ends before it is complete") }
    }

    /// What it came to, after [`Step::Done`].
    ///
    /// # Errors
    /// The request failed.
    pub fn finish(self) -> Result<Answer, Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::request::Flags;

    fn assembly(command: Command, count: u32) -> Assembly {
        let request = Request { flags: Flags(0), command, cookie: 7, offset: 1000, count };
        Assembly::new(request, true, Some(5))
    }

    fn chunk(last: bool, kind: u16, payload: &[u8]) -> (ReplyHead, Vec<u8>) {
        let kind = ChunkKind::from_code(kind);
        let head = ReplyHead::Chunk { flags: u16::from(last), kind, cookie: 7, length: payload.len() as u32 };
        (head, payload.to_vec())
    }

    fn give(assembly: &mut Assembly, (head, payload): &(ReplyHead, Vec<u8>)) -> Result<Step, Lie> {
        let mut rest = &payload[..];
        let mut step = assembly.begin(head)?;
        loop {
            step = match step {
                Step::Fixed(length) => {
                    let (taken, after) = rest.split_at(length);
                    rest = after;
                    assembly.fixed(taken)?
                }
                Step::Data(range) => {
                    let (taken, after) = rest.split_at(range.len());
                    rest = after;
                    assembly.place(range).copy_from_slice(taken);
                    assembly.placed()?
                }
                step => return Ok(step),
            };
        }
    }

    fn data(last: bool, offset: u64, bytes: &[u8]) -> (ReplyHead, Vec<u8>) {
        chunk(last, 1, &[&offset.to_be_bytes()[..], bytes].concat())
    }

    fn hole(last: bool, offset: u64, length: u32) -> (ReplyHead, Vec<u8>) {
        chunk(last, 2, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
    }

    #[test]
    fn a_read_comes_in_pieces_of_any_order() {
        let mut read = assembly(Command::Read, 10);
        for piece in [data(false, 1008, b"yz"), hole(false, 1002, 6), data(false, 1000, b"ab")] {
            assert_eq!(give(&mut read, &piece), Ok(Step::More));
        }
        assert_eq!(give(&mut read, &chunk(true, 0, b"")), Ok(Step::Done));
        assert_eq!(read.finish().unwrap().data, b"ab\0\0\0\0\0\0yz");
    }

    #[test]
    fn pieces_that_overlap_lie_outside_or_leave_gaps_are_lies() {
        for pieces in [
            vec![data(false, 1000, b"abc"), data(true, 1002, b"d")],
            vec![data(false, 1002, b"abc"), data(true, 1000, b"abc")],
            vec![data(false, 1000, b"abc"), hole(true, 1000, 10)],
            vec![data(true, 999, b"ab")],
            vec![data(true, 1009, b"ab")],
            vec![data(true, u64::MAX, b"ab")],
            vec![data(true, 1000, &[0; 11])],
            vec![data(true, 1000, b"")],
            vec![hole(true, 1000, 0)],
            vec![hole(true, 1000, u32::MAX)],
            vec![data(true, 1000, b"abc")],
            vec![chunk(true, 0, b"")],
            vec![chunk(false, 0, b"")],
            vec![chunk(true, 99, b"")],
            vec![chunk(true, 5, &[0; 12])],
            vec![chunk(true, 0x8001, b"\0\0\0\0\0\0")],
            vec![chunk(true, 0x8001, b"\0\0\0\x05\0\x09text")],
            vec![chunk(true, 0x8002, b"\0\0\0\x05\0\0\0\0\0\0\0\0\0\0")],
        ] {
            let mut read = assembly(Command::Read, 10);
            let results: Vec<_> = pieces.iter().map(|piece| give(&mut read, piece)).collect();
            assert!(results.last().unwrap().is_err(), "{pieces:?}");
        }
    }

    #[test]
    fn an_error_ends_a_read_with_its_text_wherever_it_comes() {
        let mut read = assembly(Command::Read, 10);
        let error = [&b"\0\0\0\x05\0\x04text"[..], &1003_u64.to_be_bytes()].concat();
        assert_eq!(give(&mut read, &chunk(false, 0x8002, &error)), Ok(Step::More));
        assert_eq!(give(&mut read, &data(true, 1000, b"ab")), Ok(Step::Done));
        assert_eq!(read.finish(), Err(Failure { error: NbdError::Io, text: "text".to_owned() }));
    }

    #[test]
    fn block_status_must_be_of_the_context_and_the_range() {
        let status = |context: u32, extents: &[(u32, u32)]| {
            let words = extents.iter().flat_map(|(length, status)| [length.to_be_bytes(), status.to_be_bytes()]);
            chunk(true, 5, &[context.to_be_bytes().to_vec(), words.flatten().collect()].concat())
        };
        let mut right = assembly(Command::BlockStatus, 100);
        assert_eq!(give(&mut right, &status(5, &[(60, 0), (900, 3)])), Ok(Step::Done));
        assert_eq!(right.finish().unwrap().extents, [(60, 0), (900, 3)]);
        for wrong in [status(6, &[(100, 0)]), status(5, &[(0, 0)]), status(5, &[(100, 0), (1, 0)]), status(5, &[])] {
            assert!(give(&mut assembly(Command::BlockStatus, 100), &wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn simple_replies_carry_data_only_where_nothing_else_was_agreed_on() {
        let simple = |error| ReplyHead::Simple { error, cookie: 7 };
        assert!(assembly(Command::Read, 10).begin(&simple(0)).is_err());
        assert_eq!(assembly(Command::Write, 10).begin(&simple(0)), Ok(Step::Done));
        let mut failed = assembly(Command::Write, 10);
        assert_eq!(failed.begin(&simple(28)), Ok(Step::Done));
        assert_eq!(failed.finish().unwrap_err().error, NbdError::Space);
        let request = Request { flags: Flags(0), command: Command::Read, cookie: 7, offset: 0, count: 10 };
        let mut plain = Assembly::new(request, false, None);
        assert_eq!(plain.begin(&simple(0)), Ok(Step::Data(0..10)));
        assert_eq!(plain.placed(), Ok(Step::Done));
        assert!(Assembly::new(request, false, None).begin(&data(true, 0, b"x").0).is_err());
    }
}
