//! Requests of the transmission phase (reference 10.5).

use crate::codec::Words;

/// What a request begins with.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Bytes of a request, without the payload of a write.
pub const REQUEST_LENGTH: usize = 28;
/// Most bytes that one request reads or writes.
pub const MAX_PAYLOAD: u32 = 64 << 20;
/// Most bytes of a refused write's payload that are read and thrown away; beyond that the connection ends.
pub const MAX_DISCARD: u32 = 128 << 20;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Bytes.
    Read,
    /// To write bytes, which follow the request.
    Write,
    /// To end the connection; there is no answer.
    Disconnect,
    /// To put on stable storage what was written.
    Flush,
    /// To forget a range.
    Trim,
    /// To read a range into a cache.
    Cache,
    /// To make a range read as zeroes.
    WriteZeroes,
    /// What kind of data stands where.
    BlockStatus,
    /// One that is not known.
    Other(u16),
}

impl Command {
    /// What a number on the wire means.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Other(code) => code,
        }
    }
}

/// Flags of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// On stable storage when it is answered.
    pub const FUA: Self = Self(1);
    /// A zeroed range may not become a hole.
    pub const NO_HOLE: Self = Self(2);
    /// The answer comes in one piece.
    pub const DF: Self = Self(4);
    /// One extent is enough.
    pub const REQ_ONE: Self = Self(8);
    /// Zeroing fails at once unless it is faster than writing.
    pub const FAST_ZERO: Self = Self(16);

    /// Whether any of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A request, without the payload of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How it is to be done.
    pub flags: Flags,
    /// What it asks for.
    pub command: Command,
    /// What the answer carries unchanged.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub count: u32,
}

/// Bytes that are no request: what follows cannot be understood either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client sent something that is no request (magic number {0:#010x})")]
pub struct NoRequest(pub u32);

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// The magic number is not there.
    pub fn decode(bytes: &[u8; REQUEST_LENGTH]) -> Result<Self, NoRequest> {
        let mut words = Words(bytes);
        let magic = words.u32().unwrap_or_default();
        if magic != REQUEST_MAGIC {
            return Err(NoRequest(magic));
        }
        Ok(Self {
            flags: Flags(words.u16().unwrap_or_default()),
            command: Command::from_code(words.u16().unwrap_or_default()),
            cookie: words.u64().unwrap_or_default(),
            offset: words.u64().unwrap_or_default(),
            count: words.u32().unwrap_or_default(),
        })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_LENGTH] {
        let mut bytes = [0; REQUEST_LENGTH];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.0.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.code().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// Bytes that follow it.
    #[must_use]
    pub const fn payload(&self) -> u32 {
        match self.command {
            Command::Write => self.count,
            _ => 0,
        }
    }
}
