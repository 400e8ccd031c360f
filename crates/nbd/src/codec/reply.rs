//! Answers of the transmission phase (reference 10.6), and the flags that say what an export can (10.4).

use crate::codec::Words;
use crate::codec::error::NbdError;

/// What a simple reply begins with.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// What a chunk of a structured reply begins with.
pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
/// Bytes of a simple reply, without data.
pub const SIMPLE_LENGTH: usize = 16;
/// Bytes of a chunk's header.
pub const CHUNK_LENGTH: usize = 20;
/// The flag of a reply's last chunk.
pub const CHUNK_DONE: u16 = 1;
/// The number of the meta context `base:allocation`, once it is selected.
pub const ALLOCATION_ID: u32 = 1;
/// Most extents in an answer.
pub const MAX_EXTENTS: usize = 1 << 20;

/// What an export can, as the client reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// Always there.
    pub const HAS_FLAGS: Self = Self(0x001);
    /// Not writable.
    pub const READ_ONLY: Self = Self(0x002);
    /// Flushes.
    pub const SEND_FLUSH: Self = Self(0x004);
    /// Writes to stable storage.
    pub const SEND_FUA: Self = Self(0x008);
    /// Seeking costs time.
    pub const ROTATIONAL: Self = Self(0x010);
    /// Trims.
    pub const SEND_TRIM: Self = Self(0x020);
    /// Writes zeroes.
    pub const SEND_WRITE_ZEROES: Self = Self(0x040);
    /// Answers in one piece when asked to.
    pub const SEND_DF: Self = Self(0x080);
    /// Several connections see one disk.
    pub const CAN_MULTI_CONN: Self = Self(0x100);
    /// Reads into a cache.
    pub const SEND_CACHE: Self = Self(0x400);
    /// Says at once when zeroing would be slow.
    pub const SEND_FAST_ZERO: Self = Self(0x800);

    /// Whether `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These, and `other` if `set`.
    #[must_use]
    pub const fn and(self, other: Self, set: bool) -> Self {
        if set { Self(self.0 | other.0) } else { self }
    }
}

/// Kinds of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// Nothing.
    None,
    /// Data and where it stands.
    OffsetData,
    /// A range that reads as zeroes.
    OffsetHole,
    /// Extents of a meta context.
    BlockStatus,
    /// An error.
    Error,
    /// An error and where.
    ErrorOffset,
    /// One that is not known.
    Other(u16),
}

impl ChunkKind {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::OffsetData => 1,
            Self::OffsetHole => 2,
            Self::BlockStatus => 5,
            Self::Error => 0x8001,
            Self::ErrorOffset => 0x8002,
            Self::Other(code) => code,
        }
    }

    /// What a number on the wire means.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            other => Self::Other(other),
        }
    }
}

/// The first bytes of an answer: all of it but data and extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; 32],
    length: u8,
}

impl Head {
    const EMPTY: Self = Self { bytes: [0; 32], length: 0 };

    fn put(mut self, bytes: &[u8]) -> Self {
        let start = usize::from(self.length);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len() as u8;
        self
    }

    fn chunk(kind: ChunkKind, cookie: u64, length: u32) -> Self {
        Self::EMPTY
            .put(&STRUCTURED_MAGIC.to_be_bytes())
            .put(&CHUNK_DONE.to_be_bytes())
            .put(&kind.code().to_be_bytes())
            .put(&cookie.to_be_bytes())
            .put(&length.to_be_bytes())
    }

    /// A simple reply; data follows when it answers a read that succeeded.
    #[must_use]
    pub fn simple(cookie: u64, error: Option<NbdError>) -> Self {
        Self::EMPTY
            .put(&SIMPLE_MAGIC.to_be_bytes())
            .put(&error.map_or(0, NbdError::code).to_be_bytes())
            .put(&cookie.to_be_bytes())
    }

    /// The only chunk of a reply with data; `length` bytes follow.
    #[must_use]
    pub fn data(cookie: u64, offset: u64, length: u32) -> Self {
        Self::chunk(ChunkKind::OffsetData, cookie, length.saturating_add(8)).put(&offset.to_be_bytes())
    }

    /// The only chunk of a reply with `count` extents of `base:allocation`, which follow.
    #[must_use]
    pub fn extents(cookie: u64, count: u32) -> Self {
        Self::chunk(ChunkKind::BlockStatus, cookie, count.saturating_mul(8).saturating_add(4))
            .put(&ALLOCATION_ID.to_be_bytes())
    }

    /// The only chunk of a reply that is an error, without a text.
    #[must_use]
    pub fn error(cookie: u64, error: NbdError) -> Self {
        Self::chunk(ChunkKind::Error, cookie, 6).put(&error.code().to_be_bytes()).put(&0_u16.to_be_bytes())
    }

    /// What is sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What stands before the rest of an answer, as a client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHead {
    /// A simple reply.
    Simple {
        /// 0: success; data follows if the request was a read.
        error: u32,
        /// The request's.
        cookie: u64,
    },
    /// A chunk; `length` bytes follow.
    Chunk {
        /// [`CHUNK_DONE`] or nothing.
        flags: u16,
        /// What follows.
        kind: ChunkKind,
        /// The request's.
        cookie: u64,
        /// Bytes that follow.
        length: u32,
    },
}

/// Reads the head of an answer and says how many bytes it has; none: there are not enough bytes yet.
///
/// # Errors
/// It is no answer: its magic number.
pub fn decode_head(bytes: &[u8]) -> Result<Option<(ReplyHead, usize)>, u32> {
    let mut words = Words(bytes);
    let Some(magic) = words.u32() else { return Ok(None) };
    let head = match magic {
        SIMPLE_MAGIC => simple_head(words).map(|head| (head, SIMPLE_LENGTH)),
        STRUCTURED_MAGIC => chunk_head(words).map(|head| (head, CHUNK_LENGTH)),
        other => return Err(other),
    };
    Ok(head)
}

fn simple_head(mut words: Words<'_>) -> Option<ReplyHead> {
    Some(ReplyHead::Simple { error: words.u32()?, cookie: words.u64()? })
}

fn chunk_head(mut words: Words<'_>) -> Option<ReplyHead> {
    Some(ReplyHead::Chunk {
        flags: words.u16()?,
        kind: ChunkKind::from_code(words.u16()?),
        cookie: words.u64()?,
        length: words.u32()?,
    })
}
