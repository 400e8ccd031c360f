//! Errors on the wire, and what the system's numbers become (reference 6.5).

use crate::codec::request::Flags;

/// Why a request failed, as the client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NbdError {
    /// Not permitted: mostly a write to what is read-only.
    Permission,
    /// Input or output failed.
    Io,
    /// No memory, or a request too large to hold.
    Memory,
    /// The request is wrong.
    Invalid,
    /// No space left.
    Space,
    /// The answer would not fit.
    Overflow,
    /// It cannot be done as asked.
    Unsupported,
    /// The server ends.
    Shutdown,
}

impl NbdError {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Permission,
        Self::Io,
        Self::Memory,
        Self::Invalid,
        Self::Space,
        Self::Overflow,
        Self::Unsupported,
        Self::Shutdown,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Permission => 1,
            Self::Io => 5,
            Self::Memory => 12,
            Self::Invalid => 22,
            Self::Space => 28,
            Self::Overflow => 75,
            Self::Unsupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// What a number on the wire means; one that the protocol does not know: [`NbdError::Invalid`].
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        Self::ALL.into_iter().find(|error| error.code() == code).unwrap_or(Self::Invalid)
    }

    /// What the system's error is to a client that sent a request with these flags.
    #[must_use]
    pub fn from_errno(errno: i32, flags: Flags) -> Self {
        match errno {
            libc::EPERM | libc::EROFS => Self::Permission,
            libc::EIO => Self::Io,
            libc::ENOMEM => Self::Memory,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::Space,
            libc::ESHUTDOWN => Self::Shutdown,
            libc::EOPNOTSUPP if flags.has(Flags::FAST_ZERO) => Self::Unsupported,
            libc::EOVERFLOW if flags.has(Flags::DF) => Self::Overflow,
            _ => Self::Invalid,
        }
    }

    /// The system's number for it.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Permission => libc::EPERM,
            Self::Io => libc::EIO,
            Self::Memory => libc::ENOMEM,
            Self::Invalid => libc::EINVAL,
            Self::Space => libc::ENOSPC,
            Self::Overflow => libc::EOVERFLOW,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::Shutdown => libc::ESHUTDOWN,
        }
    }
}
