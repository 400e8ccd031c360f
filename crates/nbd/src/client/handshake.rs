//! From the greeting to transmission, as a client (reference 10.1 to 10.3, 10.8).

use std::io::{self, IoSlice};

use backstay_core::{BlockSize, Export};

use super::{ClientError, Wanted};
use crate::codec::answer::Lie;
use crate::codec::option::{
    ALLOCATION, FIXED_NEWSTYLE, Greeting, Info, InfoKind, InfoRequest, MetaContextRequest, NO_ZEROES, OptionHeader,
    OptionKind, OptionReply, PADDING, REPLY_LENGTH, ReplyKind, decode_export, decode_meta_context,
};
use crate::codec::reply::TransmissionFlags;
use crate::codec::{MAX_STRING, Words};
use crate::guarded::MAX_SIZE;
use crate::handshake::MAX_EXPORTS;
use crate::server::{Stream, write_slices};

/// Bytes of data that a reply to an option has at most: two strings and their lengths.
const MAX_REPLY: u32 = 2 * MAX_STRING as u32 + 64;
/// Replies to one option at most, beside a list.
const MAX_REPLIES: usize = 64;

/// What a server has said about an export, and what was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its size in bytes.
    pub size: u64,
    /// What it can.
    pub flags: TransmissionFlags,
    /// Its name, if the server tells: also what the empty name stands for.
    pub name: Option<Vec<u8>>,
    /// Sizes of requests, if the server tells.
    pub block_size: Option<BlockSize>,
    /// Structured replies.
    pub structured_replies: bool,
    /// The number of `base:allocation`, if it is there.
    pub allocation: Option<u32>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// How the server greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// No options: size and flags follow.
    Oldstyle,
    /// One option without a reply.
    Plain { no_zeroes: bool },
    /// Options with replies.
    Fixed { no_zeroes: bool, tls: bool },
}

fn lie<T>(text: impl Into<String>) -> Result<T, ClientError> {
    Err(Lie(text.into()).into())
}

/// Sends, however long the server takes it, up to the stream's limit.
fn send(stream: &Stream, bytes: &[&[u8]]) -> Result<(), ClientError> {
    let mut slices: Vec<_> = bytes.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    Ok(write_slices(&mut slices, |slices| patiently(|| stream.write(slices)))?)
}

fn receive(stream: &Stream, place: &mut [u8]) -> Result<(), ClientError> {
    let mut at = 0;
    while at < place.len() {
        match patiently(|| stream.receive(&mut place[at..]))? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed it").into()),
            received => at += received,
        }
    }
    Ok(())
}

fn array<const N: usize>(stream: &Stream) -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    receive(stream, &mut bytes)?;
    Ok(bytes)
}

/// Again and again as long as nothing comes.
fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// Takes the server's greeting, answers it, and encrypts if that is wanted.
pub(super) fn greet(stream: &Stream, wanted: &Wanted) -> Result<Style, ClientError> {
    let Some(greeting) = Greeting::decode(&array(stream)?) else { return lie("its greeting is none of NBD") };
    let no_encryption = || Err(ClientError::Encryption("its version of the protocol has no encryption".to_owned()));
    if greeting == Greeting::Oldstyle {
        return if wanted.tls.is_some() { no_encryption() } else { Ok(Style::Oldstyle) };
    }
    let offered = u16::from_be_bytes(array(stream)?);
    let flags = offered & (FIXED_NEWSTYLE | NO_ZEROES);
    send(stream, &[&u32::from(flags).to_be_bytes()])?;
    let no_zeroes = flags & NO_ZEROES != 0;
    if flags & FIXED_NEWSTYLE == 0 {
        return if wanted.tls.is_some() { no_encryption() } else { Ok(Style::Plain { no_zeroes }) };
    }
    if let Some(credentials) = &wanted.tls {
        done(ask(stream, OptionKind::StartTls, &[], MAX_REPLIES)?, "encryption (TLS)")?;
        let failed = |error: &dyn std::fmt::Display| ClientError::Encryption(error.to_string());
        let session = credentials.session(wanted.host.as_deref()).map_err(|error| failed(&error))?;
        let channel = stream.channel(session, Vec::new()).map_err(|error| failed(&error))?;
        patiently(|| channel.shake()).map_err(|error| failed(&error))?;
        stream.encrypted(channel);
    }
    Ok(Style::Fixed { no_zeroes, tls: wanted.tls.is_some() })
}

/// The replies to an option: those with content, and how it ended.
struct Replies {
    content: Vec<(ReplyKind, Vec<u8>)>,
    refused: Option<(Option<ReplyKind>, String)>,
}

/// Asks for an option and takes all replies to it.
fn ask(stream: &Stream, kind: OptionKind, data: &[u8], most: usize) -> Result<Replies, ClientError> {
    let Ok(length) = u32::try_from(data.len()) else { return lie("an option that is too long") };
    send(stream, &[&OptionHeader { kind, length }.encode(), data])?;
    let mut content = Vec::new();
    loop {
        let Some(reply) = OptionReply::decode(&array::<REPLY_LENGTH>(stream)?) else {
            return lie("a reply to an option that is none");
        };
        if reply.option != kind {
            return lie("a reply to another option than the one that was asked for");
        }
        if reply.length > MAX_REPLY {
            return lie(format!("a reply to an option of {} bytes", reply.length));
        }
        let mut data = vec![0; reply.length as usize];
        receive(stream, &mut data)?;
        match reply.kind {
            _ if reply.is_error => {
                let text = String::from_utf8_lossy(&data).into_owned();
                return Ok(Replies { content, refused: Some((reply.kind, text)) });
            }
            Some(ReplyKind::Ack) if data.is_empty() => return Ok(Replies { content, refused: None }),
            Some(kind @ (ReplyKind::Server | ReplyKind::Info | ReplyKind::MetaContext)) if content.len() < most => {
                content.push((kind, data));
            }
            _ => return lie("a reply to an option that may not come there"),
        }
    }
}

/// The content of replies that end well.
fn done(replies: Replies, what: &str) -> Result<Vec<(ReplyKind, Vec<u8>)>, ClientError> {
    match replies.refused {
        None => Ok(replies.content),
        Some((reply, text)) => Err(ClientError::Refused { what: what.to_owned(), reply, text }),
    }
}

/// Asks for the exports and leaves.
pub(super) fn list(stream: &Stream, style: Style) -> Result<Vec<Export>, ClientError> {
    let Style::Fixed { .. } = style else {
        let text = "its version of the protocol has none".to_owned();
        let reply = Some(ReplyKind::ErrUnsupported);
        return Err(ClientError::Refused { what: "a list of exports".to_owned(), reply, text });
    };
    let replies = done(ask(stream, OptionKind::List, &[], MAX_EXPORTS)?, "a list of exports")?;
    // It may go without waiting for the answer.
    let _ = send(stream, &[&OptionHeader { kind: OptionKind::Abort, length: 0 }.encode()]);
    let exports = replies.iter().map(|(kind, data)| {
        let (name, description) = decode_export(data).filter(|_| *kind == ReplyKind::Server)?;
        let description = (!description.is_empty()).then(|| description.to_vec());
        Some(Export { name: name.to_vec(), description })
    });
    match exports.collect() {
        Some(exports) => Ok(exports),
        None => lie("an export in its list that is none"),
    }
}

/// Goes to transmission with an export.
pub(super) fn go(stream: &Stream, style: Style, export: &[u8], wanted: &Wanted) -> Result<Remote, ClientError> {
    let remote = match style {
        Style::Oldstyle => {
            let head: [u8; 8 + 4] = array(stream)?;
            let _padding: [u8; PADDING] = array(stream)?;
            let mut words = Words(&head);
            let size = words.u64().unwrap_or_default();
            // Flags of the handshake, which the old style has none of, stand before those of the export.
            let flags = words.u32().unwrap_or_default() as u16;
            plain(size, flags, false)
        }
        Style::Plain { no_zeroes } => by_name(stream, export, no_zeroes, false)?,
        Style::Fixed { no_zeroes, tls } => fixed(stream, export, wanted, no_zeroes, tls)?,
    };
    if remote.size > MAX_SIZE {
        return lie(format!("a disk of {} bytes", remote.size));
    }
    Ok(remote)
}

fn plain(size: u64, flags: u16, tls: bool) -> Remote {
    Remote {
        size,
        flags: TransmissionFlags(flags),
        name: None,
        block_size: None,
        structured_replies: false,
        allocation: None,
        tls,
    }
}

/// The option that every newstyle server knows.
fn by_name(stream: &Stream, export: &[u8], no_zeroes: bool, tls: bool) -> Result<Remote, ClientError> {
    let header = OptionHeader { kind: OptionKind::ExportName, length: export.len() as u32 };
    send(stream, &[&header.encode(), export])?;
    let head: [u8; 8 + 2] = array(stream).map_err(|error| match error {
        ClientError::Broken(broken) if broken.kind() == io::ErrorKind::UnexpectedEof => refused_by_closing(export),
        other => other,
    })?;
    if !no_zeroes {
        let _padding: [u8; PADDING] = array(stream)?;
    }
    let mut words = Words(&head);
    Ok(plain(words.u64().unwrap_or_default(), words.u16().unwrap_or_default(), tls))
}

fn shown(export: &[u8]) -> String {
    match export {
        [] => "the default export".to_owned(),
        name => format!("the export {:?}", String::from_utf8_lossy(name)),
    }
}

fn refused_by_closing(export: &[u8]) -> ClientError {
    ClientError::Refused { what: shown(export), reply: None, text: "it has closed the connection".to_owned() }
}

fn fixed(stream: &Stream, export: &[u8], wanted: &Wanted, no_zeroes: bool, tls: bool) -> Result<Remote, ClientError> {
    let structured = wanted.structured_replies && ask(stream, OptionKind::StructuredReply, &[], 0)?.refused.is_none();
    let allocation = if structured { allocation(stream, export)? } else { None };
    let request = InfoRequest { name: export.to_vec(), wanted: vec![InfoKind::Name, InfoKind::BlockSize] };
    let replies = ask(stream, OptionKind::Go, &request.encode(), MAX_REPLIES)?;
    let mut remote = match replies.refused {
        Some((Some(ReplyKind::ErrUnsupported), _)) => by_name(stream, export, no_zeroes, tls)?,
        refused => infos(done(Replies { refused, ..replies }, &shown(export))?, tls)?,
    };
    remote.structured_replies = structured;
    remote.allocation = allocation;
    Ok(remote)
}

/// Selects `base:allocation`; its number, if the server has it.
fn allocation(stream: &Stream, export: &[u8]) -> Result<Option<u32>, ClientError> {
    let data = MetaContextRequest::encode(export, &[ALLOCATION]);
    let replies = ask(stream, OptionKind::SetMetaContext, &data, MAX_REPLIES)?;
    let mut found = None;
    for (kind, data) in replies.content {
        let Some((id, name)) = decode_meta_context(&data).filter(|_| kind == ReplyKind::MetaContext) else {
            return lie("a meta context that is none");
        };
        if name == ALLOCATION {
            found = Some(id);
        }
    }
    // One that refuses has selected nothing.
    Ok(found.filter(|_| replies.refused.is_none()))
}

fn infos(content: Vec<(ReplyKind, Vec<u8>)>, tls: bool) -> Result<Remote, ClientError> {
    let mut remote = None;
    let (mut name, mut block_size) = (None, None);
    for (kind, data) in content {
        match Info::decode(&data) {
            Ok(info) if kind == ReplyKind::Info => match info {
                Some(Info::Export(size, flags)) => remote = Some(plain(size, flags, tls)),
                Some(Info::Name(known)) => name = Some(known),
                Some(Info::BlockSize(minimum, preferred, maximum)) => {
                    block_size = Some(checked_sizes(BlockSize { minimum, preferred, maximum })?);
                }
                Some(Info::Description(_)) | None => {}
            },
            _ => return lie("something about an export that is wrong"),
        }
    }
    match remote {
        Some(remote) => Ok(Remote { name, block_size, ..remote }),
        None => lie("an export without a size"),
    }
}

fn checked_sizes(size: BlockSize) -> Result<BlockSize, ClientError> {
    let right = (1..=65536).contains(&size.minimum)
        && size.minimum.is_power_of_two()
        && size.preferred >= size.minimum
        && size.maximum >= size.minimum
        && (size.maximum == u32::MAX || size.maximum.is_multiple_of(size.minimum));
    if right { Ok(size) } else { lie(format!("block sizes that are none: {size:?}")) }
}
