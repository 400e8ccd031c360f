//! From the greeting to transmission (reference 10.1 to 10.3, 10.8), without input or output: bytes in, bytes and steps out.
//!
//! The caller keeps what [`Handshake::receive`] did not consume and gives it again with more. It consumes what it will not
//! keep (the data of a refused option) as it comes, and asks for more only where what it needs is small, so the caller's
//! memory has a bound ([`MAX_KEPT`]).

use backstay_core::Export;

use crate::codec::option::{
    ALLOCATION, FIXED_NEWSTYLE, Info, InfoKind, InfoRequest, MetaContextRequest, NO_ZEROES, OLDSTYLE_MAGIC,
    OPTION_LENGTH, OPTION_MAGIC, OptionHeader, OptionKind, PADDING, ReplyKind, SERVER_MAGIC, encode_export,
    encode_meta_context, put_reply,
};
use crate::codec::reply::ALLOCATION_ID;
use crate::codec::{MAX_STRING, Words, is_string};

/// Options on a connection, if none lists exports (reference 11); each export listed allows as many again.
pub const MAX_OPTIONS: u64 = 32;
/// Exports in a list.
pub const MAX_EXPORTS: usize = 10_000;
/// Bytes of data that an option with meta contexts may have. nbdkit takes 64 MiB, with nothing in them that it would heed.
pub const MAX_META: usize = 1 << 20;
/// Bytes that the caller keeps at most.
pub const MAX_KEPT: usize = MAX_META + OPTION_LENGTH;

/// How the server greets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// With options.
    #[default]
    Newstyle,
    /// With the size and flags of the default export, and nothing to choose.
    Oldstyle,
}

/// Whether a connection is to be encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// It cannot be.
    #[default]
    Off,
    /// It can be.
    Offered,
    /// It must be.
    Required,
}

/// What a server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How it greets.
    pub style: Style,
    /// Which handshake flags may be offered (`--mask-handshake`).
    pub mask: u16,
    /// Structured replies (`--no-sr` turns them off).
    pub structured_replies: bool,
    /// Meta contexts (`--no-mc` turns them off).
    pub meta_contexts: bool,
    /// Encryption.
    pub encryption: Encryption,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            style: Style::Newstyle,
            mask: u16::MAX,
            structured_replies: true,
            meta_contexts: true,
            encryption: Encryption::Off,
        }
    }
}

/// What the caller has to do, after it has sent what was put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Receive more and give it.
    More,
    /// Find the exports and give them to [`Handshake::listed`].
    List,
    /// Open an export and give what it is to [`Handshake::opened`].
    Open(OpenRequest),
    /// Encrypt the connection, then call [`Handshake::encrypted`]. Bytes that were not consumed belong to the encryption: as
    /// options they count no more.
    Encrypt,
    /// Begin transmission.
    Start(Agreement),
    /// Close the connection.
    Close,
}

/// An export that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Its name as the client wrote it; empty: the default one.
    pub name: Vec<u8>,
    /// What the client wants to know about it, in order.
    pub wanted: Vec<InfoKind>,
    /// Whether it is closed again after it was told ([`Step::More`] follows).
    pub only_info: bool,
}

/// What was agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Structured replies.
    pub structured_replies: bool,
    /// Block status of `base:allocation`.
    pub allocation: bool,
}

/// What an open export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its size in bytes.
    pub size: u64,
    /// Its transmission flags, under [`Handshake::structured_replies`].
    pub flags: u16,
    /// What the client wanted to know and is known.
    pub infos: Vec<Info>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    ClientFlags,
    Option,
    /// Data is thrown away, then the reply is sent.
    Skip {
        left: u32,
        option: OptionKind,
        reply: ReplyKind,
    },
    Listing,
    Opening(Opening),
    Encrypting,
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Opening {
    how: How,
    name: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Oldstyle,
    ExportName,
    Info,
    Go,
}

/// One connection before transmission.
#[derive(Debug)]
pub struct Handshake {
    terms: Terms,
    state: State,
    fixed: bool,
    no_zeroes: bool,
    encrypted: bool,
    listed: bool,
    options_left: u64,
    structured_replies: bool,
    /// For which export `base:allocation` is selected.
    allocation: Option<Vec<u8>>,
}

impl Handshake {
    /// Greets. The first step is [`Step::More`], or [`Step::Open`] in the old style.
    #[must_use]
    pub fn begin(terms: Terms, out: &mut Vec<u8>) -> (Self, Step) {
        let mut handshake = Self {
            terms,
            state: State::ClientFlags,
            fixed: false,
            no_zeroes: false,
            encrypted: false,
            listed: false,
            options_left: MAX_OPTIONS,
            structured_replies: false,
            allocation: None,
        };
        let step = match terms.style {
            Style::Newstyle => handshake.greet(out),
            Style::Oldstyle => handshake.open(How::Oldstyle, Vec::new(), Vec::new()),
        };
        (handshake, step)
    }

    /// Whether structured replies were agreed on so far: it counts for an export's flags.
    #[must_use]
    pub fn structured_replies(&self) -> bool {
        self.structured_replies
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    fn offered(&self) -> u16 {
        (FIXED_NEWSTYLE | NO_ZEROES) & self.terms.mask
    }

    fn greet(&self, out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(&SERVER_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.offered().to_be_bytes());
        Step::More
    }

    /// Takes what came and says how many bytes of it were consumed. Not to be called while it waits for another answer
    /// than bytes.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut consumed = 0;
        loop {
            let (taken, step) = self.receive_one(&input[consumed..], out);
            consumed += taken;
            if taken == 0 || step != Step::More {
                return (consumed, step);
            }
        }
    }

    fn receive_one(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Option => self.option(input, out),
            State::Skip { left, option, reply } => self.skip(left, option, reply, input, out),
            State::Listing | State::Opening(_) | State::Encrypting | State::Over => (0, self.close()),
        }
    }

    fn close(&mut self) -> Step {
        self.state = State::Over;
        Step::Close
    }

    fn client_flags(&mut self, input: &[u8]) -> (usize, Step) {
        let Some(flags) = Words(input).u32() else { return (0, Step::More) };
        if flags & !u32::from(self.offered()) != 0 {
            return (4, self.close());
        }
        self.fixed = flags & u32::from(FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        self.state = State::Option;
        (4, Step::More)
    }

    fn option(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let Some((head, rest)) = input.split_first_chunk::<OPTION_LENGTH>() else { return (0, Step::More) };
        let Some(header) = OptionHeader::decode(head) else { return (0, self.close()) };
        if let Some(reply) = self.refusal(&header) {
            let (taken, step) = self.skip(header.length, header.kind, reply, rest, out);
            return (OPTION_LENGTH + taken, step);
        }
        if self.ends(&header) {
            return (OPTION_LENGTH, self.close());
        }
        let length = header.length as usize;
        match rest.get(..length) {
            None => (0, Step::More),
            Some(data) => (OPTION_LENGTH + length, self.obey(header.kind, data, out)),
        }
    }

    /// What an option is answered without looking at its data.
    fn refusal(&self, header: &OptionHeader) -> Option<ReplyKind> {
        let kind = header.kind;
        if !self.fixed && kind != OptionKind::ExportName {
            return Some(ReplyKind::ErrInvalid);
        }
        let exempt = matches!(kind, OptionKind::Abort | OptionKind::StartTls | OptionKind::ExportName);
        if self.wants_encryption() && !exempt {
            return Some(ReplyKind::ErrTlsRequired);
        }
        let length = header.length as usize;
        let no_data = (length > 0).then_some(ReplyKind::ErrInvalid);
        match kind {
            OptionKind::ExportName => None,
            OptionKind::Abort => (length > 0).then_some(ReplyKind::Ack),
            OptionKind::List => no_data.or(self.listed.then_some(ReplyKind::ErrInvalid)),
            OptionKind::StartTls => no_data.or(self.refuses_encryption()),
            OptionKind::Info | OptionKind::Go => (length > InfoRequest::MAX).then_some(ReplyKind::ErrInvalid),
            OptionKind::StructuredReply if !self.terms.structured_replies => Some(ReplyKind::ErrUnsupported),
            OptionKind::StructuredReply => no_data.or(self.structured_replies.then_some(ReplyKind::ErrInvalid)),
            OptionKind::ListMetaContext | OptionKind::SetMetaContext if !self.terms.meta_contexts => {
                Some(ReplyKind::ErrUnsupported)
            }
            OptionKind::SetMetaContext if !self.structured_replies => Some(ReplyKind::ErrInvalid),
            OptionKind::ListMetaContext | OptionKind::SetMetaContext => {
                (length > MAX_META).then_some(ReplyKind::ErrTooBig)
            }
            OptionKind::Other(_) => Some(ReplyKind::ErrUnsupported),
        }
    }

    /// Whether an option that has no reply ends the connection without a look at its data.
    fn ends(&self, header: &OptionHeader) -> bool {
        let too_long = header.length as usize > MAX_STRING;
        header.kind == OptionKind::ExportName && (too_long || self.wants_encryption())
    }

    fn wants_encryption(&self) -> bool {
        self.terms.encryption == Encryption::Required && !self.encrypted
    }

    fn refuses_encryption(&self) -> Option<ReplyKind> {
        match self.terms.encryption {
            Encryption::Off => Some(ReplyKind::ErrPolicy),
            _ => self.encrypted.then_some(ReplyKind::ErrInvalid),
        }
    }

    fn skip(
        &mut self,
        left: u32,
        option: OptionKind,
        reply: ReplyKind,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        let taken = input.len().min(left as usize);
        let left = left - taken as u32;
        self.state = State::Skip { left, option, reply };
        if left > 0 {
            return (taken, Step::More);
        }
        if option == OptionKind::SetMetaContext {
            self.allocation = None;
        }
        let step = self.reply(out, option, reply);
        (taken, if option == OptionKind::Abort && reply == ReplyKind::Ack { self.close() } else { step })
    }

    /// Sends the reply that ends an option.
    fn reply(&mut self, out: &mut Vec<u8>, option: OptionKind, reply: ReplyKind) -> Step {
        put_reply(out, option, reply, &[]);
        self.options_left = self.options_left.saturating_sub(1);
        if self.options_left == 0 {
            return self.close();
        }
        self.state = State::Option;
        Step::More
    }

    fn obey(&mut self, kind: OptionKind, data: &[u8], out: &mut Vec<u8>) -> Step {
        match kind {
            OptionKind::ExportName if is_string(data) => self.open(How::ExportName, data.to_vec(), Vec::new()),
            OptionKind::ExportName => self.close(),
            OptionKind::Abort => {
                put_reply(out, kind, ReplyKind::Ack, &[]);
                self.close()
            }
            OptionKind::List => {
                self.state = State::Listing;
                Step::List
            }
            OptionKind::StartTls => {
                put_reply(out, kind, ReplyKind::Ack, &[]);
                self.state = State::Encrypting;
                Step::Encrypt
            }
            OptionKind::Info | OptionKind::Go => self.info(kind, data, out),
            OptionKind::StructuredReply => {
                self.structured_replies = true;
                self.reply(out, kind, ReplyKind::Ack)
            }
            OptionKind::ListMetaContext => self.list_meta_contexts(data, out),
            OptionKind::SetMetaContext => self.set_meta_contexts(data, out),
            OptionKind::Other(_) => self.reply(out, kind, ReplyKind::ErrUnsupported),
        }
    }

    fn info(&mut self, kind: OptionKind, data: &[u8], out: &mut Vec<u8>) -> Step {
        let how = if kind == OptionKind::Go { How::Go } else { How::Info };
        match InfoRequest::decode(data) {
            Some(request) => self.open(how, request.name, request.wanted),
            None => self.reply(out, kind, ReplyKind::ErrInvalid),
        }
    }

    fn open(&mut self, how: How, name: Vec<u8>, wanted: Vec<InfoKind>) -> Step {
        self.state = State::Opening(Opening { how, name: name.clone() });
        Step::Open(OpenRequest { name, wanted, only_info: how == How::Info })
    }

    fn list_meta_contexts(&mut self, data: &[u8], out: &mut Vec<u8>) -> Step {
        let kind = OptionKind::ListMetaContext;
        let Some(request) = MetaContextRequest::decode(data) else {
            return self.reply(out, kind, ReplyKind::ErrInvalid);
        };
        if request.count == 0 || request.base || request.allocation {
            put_reply(out, kind, ReplyKind::MetaContext, &encode_meta_context(0, ALLOCATION));
        }
        self.reply(out, kind, ReplyKind::Ack)
    }

    fn set_meta_contexts(&mut self, data: &[u8], out: &mut Vec<u8>) -> Step {
        let kind = OptionKind::SetMetaContext;
        self.allocation = None;
        let Some(request) = MetaContextRequest::decode(data) else {
            return self.reply(out, kind, ReplyKind::ErrInvalid);
        };
        if request.allocation {
            put_reply(out, kind, ReplyKind::MetaContext, &encode_meta_context(ALLOCATION_ID, ALLOCATION));
            self.allocation = Some(request.name);
        }
        self.reply(out, kind, ReplyKind::Ack)
    }

    /// The exports, or that they are not to be had; after [`Step::List`].
    pub fn listed(&mut self, exports: Option<&[Export]>, out: &mut Vec<u8>) -> Step {
        if self.state != State::Listing {
            return self.close();
        }
        self.listed = true;
        let kind = OptionKind::List;
        let Some(replies) = exports.and_then(encode_exports) else {
            return self.reply(out, kind, ReplyKind::ErrPlatform);
        };
        self.options_left += MAX_OPTIONS * replies.len() as u64;
        replies.iter().for_each(|data| put_reply(out, kind, ReplyKind::Server, data));
        self.reply(out, kind, ReplyKind::Ack)
    }

    /// What the export is, or that it is not to be had; after [`Step::Open`].
    pub fn opened(&mut self, export: Option<&Opened>, out: &mut Vec<u8>) -> Step {
        let State::Opening(opening) = &self.state else { return self.close() };
        let Opening { how, name } = opening.clone();
        match (how, export) {
            (How::Oldstyle, Some(export)) => {
                put_oldstyle_greeting(out, export);
                self.start(&name)
            }
            (How::ExportName, Some(export)) => {
                self.put_export(out, export);
                self.start(&name)
            }
            (How::Oldstyle | How::ExportName, None) => self.close(),
            (How::Go, Some(export)) => {
                put_infos(out, OptionKind::Go, export);
                put_reply(out, OptionKind::Go, ReplyKind::Ack, &[]);
                self.start(&name)
            }
            (How::Info, Some(export)) => {
                put_infos(out, OptionKind::Info, export);
                self.reply(out, OptionKind::Info, ReplyKind::Ack)
            }
            (How::Go, None) => self.reply(out, OptionKind::Go, ReplyKind::ErrUnknown),
            (How::Info, None) => self.reply(out, OptionKind::Info, ReplyKind::ErrUnknown),
        }
    }

    fn put_export(&self, out: &mut Vec<u8>, export: &Opened) {
        out.extend_from_slice(&export.size.to_be_bytes());
        out.extend_from_slice(&export.flags.to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; PADDING]);
        }
    }

    fn start(&mut self, name: &[u8]) -> Step {
        self.state = State::Over;
        let allocation = self.allocation.as_deref() == Some(name);
        Step::Start(Agreement { structured_replies: self.structured_replies, allocation })
    }

    /// The connection is encrypted now; whatever was agreed on before is forgotten. After [`Step::Encrypt`].
    pub fn encrypted(&mut self) -> Step {
        if self.state != State::Encrypting {
            return self.close();
        }
        self.encrypted = true;
        self.structured_replies = false;
        self.allocation = None;
        self.listed = false;
        self.options_left = self.options_left.saturating_sub(1);
        self.state = State::Option;
        Step::More
    }
}

fn encode_exports(exports: &[Export]) -> Option<Vec<Vec<u8>>> {
    if exports.len() > MAX_EXPORTS {
        return None;
    }
    exports.iter().map(|export| encode_export(&export.name, export.description.as_deref())).collect()
}

fn put_oldstyle_greeting(out: &mut Vec<u8>, export: &Opened) {
    out.extend_from_slice(&SERVER_MAGIC.to_be_bytes());
    out.extend_from_slice(&OLDSTYLE_MAGIC.to_be_bytes());
    out.extend_from_slice(&export.size.to_be_bytes());
    out.extend_from_slice(&0_u16.to_be_bytes());
    out.extend_from_slice(&export.flags.to_be_bytes());
    out.extend_from_slice(&[0; PADDING]);
}

fn put_infos(out: &mut Vec<u8>, option: OptionKind, export: &Opened) {
    put_reply(out, option, ReplyKind::Info, &Info::Export(export.size, export.flags).encode());
    export.infos.iter().for_each(|info| put_reply(out, option, ReplyKind::Info, &info.encode()));
}
