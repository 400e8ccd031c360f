//! The greeting and the options before transmission (reference 10.1 to 10.3).

use crate::codec::{Words, is_string};

/// What a server says first.
pub const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What a newstyle server says next, and what an option begins with.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What an oldstyle server says next.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// What the reply to an option begins with.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Bytes of an option, without its data.
pub const OPTION_LENGTH: usize = 16;
/// Bytes of the reply to an option, without its data.
pub const REPLY_LENGTH: usize = 20;
/// Most bytes of an option's data; beyond that the connection ends.
pub const MAX_OPTION: u32 = 64 << 20;
/// Zeroes after the size and flags of an export, for a client that did not ask to leave them out.
pub const PADDING: usize = 124;
/// The only meta context.
pub const ALLOCATION: &[u8] = b"base:allocation";

/// A handshake flag: options get replies.
pub const FIXED_NEWSTYLE: u16 = 1;
/// A handshake flag: [`PADDING`] may be left out.
pub const NO_ZEROES: u16 = 2;

/// Options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptionKind {
    /// Go to transmission, without a reply.
    ExportName,
    /// End.
    Abort,
    /// The names of all exports.
    List,
    /// Encrypt.
    StartTls,
    /// What an export is.
    Info,
    /// The same, and go to transmission.
    Go,
    /// Structured replies from now on.
    StructuredReply,
    /// Which meta contexts there are.
    ListMetaContext,
    /// Select meta contexts.
    SetMetaContext,
    /// One that is not known.
    Other(u32),
}

impl OptionKind {
    /// What a number on the wire means.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext => 9,
            Self::SetMetaContext => 10,
            Self::Other(code) => code,
        }
    }
}

/// Replies to options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// Done.
    Ack,
    /// An export of the list.
    Server,
    /// Something about an export.
    Info,
    /// A meta context.
    MetaContext,
    /// The option is not known.
    ErrUnsupported,
    /// It is not allowed here.
    ErrPolicy,
    /// It is wrong.
    ErrInvalid,
    /// It does not work here.
    ErrPlatform,
    /// Not before encryption.
    ErrTlsRequired,
    /// There is no such export.
    ErrUnknown,
    /// The server ends.
    ErrShutdown,
    /// The client must heed block sizes.
    ErrBlockSizeRequired,
    /// It is too much.
    ErrTooBig,
    /// Not without extended headers.
    ErrExtendedHeadersRequired,
}

impl ReplyKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Ack,
        Self::Server,
        Self::Info,
        Self::MetaContext,
        Self::ErrUnsupported,
        Self::ErrPolicy,
        Self::ErrInvalid,
        Self::ErrPlatform,
        Self::ErrTlsRequired,
        Self::ErrUnknown,
        Self::ErrShutdown,
        Self::ErrBlockSizeRequired,
        Self::ErrTooBig,
        Self::ErrExtendedHeadersRequired,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::ErrUnsupported => 0x8000_0001,
            Self::ErrPolicy => 0x8000_0002,
            Self::ErrInvalid => 0x8000_0003,
            Self::ErrPlatform => 0x8000_0004,
            Self::ErrTlsRequired => 0x8000_0005,
            Self::ErrUnknown => 0x8000_0006,
            Self::ErrShutdown => 0x8000_0007,
            Self::ErrBlockSizeRequired => 0x8000_0008,
            Self::ErrTooBig => 0x8000_0009,
            Self::ErrExtendedHeadersRequired => 0x8000_000a,
        }
    }

    /// What a number on the wire means.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// What a client may ask about an export beside its size and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InfoKind {
    /// Its name.
    Name,
    /// What it is, for people.
    Description,
    /// Sizes of requests that it likes.
    BlockSize,
}

impl InfoKind {
    /// The number on the wire. (0 is size and flags, which are always told.)
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Name => 1,
            Self::Description => 2,
            Self::BlockSize => 3,
        }
    }

    /// What a number on the wire means.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        match code {
            1 => Some(Self::Name),
            2 => Some(Self::Description),
            3 => Some(Self::BlockSize),
            _ => None,
        }
    }
}

/// Something about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Its size in bytes and its flags.
    Export(u64, u16),
    /// Its name.
    Name(Vec<u8>),
    /// What it is, for people.
    Description(Vec<u8>),
    /// Sizes of requests that it likes, in bytes: minimum, preferred, maximum.
    BlockSize(u32, u32, u32),
}

impl Info {
    /// The data of an `INFO` reply.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Export(size, flags) => [&0_u16.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat(),
            Self::Name(name) => [&InfoKind::Name.code().to_be_bytes()[..], name].concat(),
            Self::Description(text) => [&InfoKind::Description.code().to_be_bytes()[..], text].concat(),
            Self::BlockSize(minimum, preferred, maximum) => [
                &InfoKind::BlockSize.code().to_be_bytes()[..],
                &minimum.to_be_bytes(),
                &preferred.to_be_bytes(),
                &maximum.to_be_bytes(),
            ]
            .concat(),
        }
    }
}

impl Info {
    /// Reads the data of an `INFO` reply; none: one that is not known.
    ///
    /// # Errors
    /// It is wrong.
    pub fn decode(data: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut words = Words(data);
        let info = match words.u16().ok_or(Malformed)? {
            0 => words.u64().zip(words.u16()).map(|(size, flags)| Self::Export(size, flags)),
            1 => is_string(words.0).then(|| Self::Name(std::mem::take(&mut words.0).to_vec())),
            2 => is_string(words.0).then(|| Self::Description(std::mem::take(&mut words.0).to_vec())),
            3 => match (words.u32(), words.u32(), words.u32()) {
                (Some(minimum), Some(preferred), Some(maximum)) => Some(Self::BlockSize(minimum, preferred, maximum)),
                _ => None,
            },
            _ => return Ok(None),
        };
        info.filter(|_| words.0.is_empty()).map(Some).ok_or(Malformed)
    }
}

/// Data that is not of the form that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not of the form that it must have")]
pub struct Malformed;

/// The reply to an option, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// To which.
    pub option: OptionKind,
    /// What it says; none: a number that is not known.
    pub kind: Option<ReplyKind>,
    /// Whether it refuses.
    pub is_error: bool,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionReply {
    /// Reads one; none: it is no reply.
    #[must_use]
    pub fn decode(bytes: &[u8; REPLY_LENGTH]) -> Option<Self> {
        let mut words = Words(bytes);
        if words.u64()? != REPLY_MAGIC {
            return None;
        }
        let (option, kind, length) = (words.u32()?, words.u32()?, words.u32()?);
        Some(Self {
            option: OptionKind::from_code(option),
            kind: ReplyKind::from_code(kind),
            is_error: kind & 0x8000_0000 != 0,
            length,
        })
    }
}

/// Reads the data of a `SERVER` reply: name and description; none: it is wrong.
#[must_use]
pub fn decode_export(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut words = Words(data);
    let name = words.string()?;
    is_string(words.0).then_some((name, words.0))
}

/// Reads the data of a `META_CONTEXT` reply: number and name; none: it is wrong.
#[must_use]
pub fn decode_meta_context(data: &[u8]) -> Option<(u32, &[u8])> {
    let mut words = Words(data);
    let id = words.u32()?;
    is_string(words.0).then_some((id, words.0))
}

/// How a server greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// With options; handshake flags follow.
    Newstyle,
    /// With the only export; its size and flags follow.
    Oldstyle,
}

impl Greeting {
    /// Bytes that say it.
    pub const LENGTH: usize = 16;

    /// Reads it; none: this is no NBD server.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let mut words = Words(bytes);
        match (words.u64()?, words.u64()?) {
            (SERVER_MAGIC, OPTION_MAGIC) => Some(Self::Newstyle),
            (SERVER_MAGIC, OLDSTYLE_MAGIC) => Some(Self::Oldstyle),
            _ => None,
        }
    }
}

/// An option, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which.
    pub kind: OptionKind,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Reads one; none: it is no option, or its data is too long to be read.
    #[must_use]
    pub fn decode(bytes: &[u8; OPTION_LENGTH]) -> Option<Self> {
        let mut words = Words(bytes);
        if words.u64()? != OPTION_MAGIC {
            return None;
        }
        let header = Self { kind: OptionKind::from_code(words.u32()?), length: words.u32()? };
        (header.length <= MAX_OPTION).then_some(header)
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&OPTION_MAGIC.to_be_bytes()[..], &self.kind.code().to_be_bytes(), &self.length.to_be_bytes()].concat()
    }
}

/// The data of `INFO` and `GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export.
    pub name: Vec<u8>,
    /// What the client wants to know, each once, in its order.
    pub wanted: Vec<InfoKind>,
}

impl InfoRequest {
    /// Most bytes that can be right.
    pub const MAX: usize = 4 + super::MAX_STRING + 2 + 2 * (u16::MAX as usize);

    /// Reads it; none: it is wrong.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut words = Words(data);
        let name = words.string()?.to_vec();
        let count = words.u16()?;
        if words.0.len() != usize::from(count) * 2 {
            return None;
        }
        let mut wanted = Vec::new();
        while let Some(code) = words.u16() {
            if let Some(kind) = InfoKind::from_code(code).filter(|kind| !wanted.contains(kind)) {
                wanted.push(kind);
            }
        }
        Some(Self { name, wanted })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, &self.name);
        data.extend_from_slice(&(self.wanted.len() as u16).to_be_bytes());
        self.wanted.iter().for_each(|kind| data.extend_from_slice(&kind.code().to_be_bytes()));
        data
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContextRequest {
    /// The export.
    pub name: Vec<u8>,
    /// How many queries there are.
    pub count: u32,
    /// One asks for `base:allocation` itself.
    pub allocation: bool,
    /// One asks for whatever begins with `base:`.
    pub base: bool,
}

impl MetaContextRequest {
    /// Reads it; none: it is wrong. Bytes after the last query do not matter.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut words = Words(data);
        let name = words.string()?.to_vec();
        let count = words.u32()?;
        let mut request = Self { name, count, allocation: false, base: false };
        for _ in 0..count {
            match words.string()? {
                ALLOCATION => request.allocation = true,
                b"base:" => request.base = true,
                _ => {}
            }
        }
        Some(request)
    }

    /// Writes a request with these queries.
    #[must_use]
    pub fn encode(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, name);
        data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| put_string(&mut data, query));
        data
    }
}

/// The data of a `SERVER` reply; none: a string in it may not be sent.
#[must_use]
pub fn encode_export(name: &[u8], description: Option<&[u8]>) -> Option<Vec<u8>> {
    let description = description.unwrap_or_default();
    if !is_string(name) || !is_string(description) {
        return None;
    }
    let mut data = Vec::with_capacity(4 + name.len() + description.len());
    put_string(&mut data, name);
    data.extend_from_slice(description);
    Some(data)
}

/// The data of a `META_CONTEXT` reply.
#[must_use]
pub fn encode_meta_context(id: u32, name: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], name].concat()
}

/// Appends the reply to an option.
pub fn put_reply(out: &mut Vec<u8>, option: OptionKind, kind: ReplyKind, data: &[u8]) {
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.code().to_be_bytes());
    out.extend_from_slice(&kind.code().to_be_bytes());
    put_string(out, data);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text);
}
