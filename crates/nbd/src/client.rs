//! An NBD client: any number of threads have requests in flight over one connection, and a remote export is a
//! [`Disk`](backstay_core::Disk).
//!
//! * [`Target`] is where a server is and what is wanted of it, also as a URI; [`Connection`] is one in transmission, [`list`] asks
//!   for the exports.
//! * [`NbdDisk`] serves a remote export again, or reads it.

mod connection;
mod disk;
mod handshake;
mod target;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_core::Export;

use crate::codec::answer::{Failure, Lie};
use crate::codec::option::ReplyKind;
use crate::server::Stream;
use crate::tls::{ClientCredentials, CredentialsError};

pub use connection::{Connection, Pending};
pub use disk::NbdDisk;
pub use handshake::Remote;
pub use target::{Place, Target, WrongUri};

/// How long it may take to be connected and ready.
const READY: Duration = Duration::from_secs(60);

/// What is wanted of a server, beside an export.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Encryption, and what with; it is required then.
    pub tls: Option<ClientCredentials>,
    /// The server's name or address, which its certificate must have; none: its signer is enough.
    pub host: Option<String>,
    /// Structured replies, with holes and block status.
    pub structured_replies: bool,
    /// How long it may take to be connected and ready.
    pub limit: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { tls: None, host: None, structured_replies: true, limit: READY }
    }
}

/// Why a server is of no use, or a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// A text that is no URI.
    #[error(transparent)]
    Uri(#[from] WrongUri),
    /// There is no way to the server.
    #[error("cannot connect to {place}: {error}")]
    Connect {
        /// Where.
        place: String,
        /// Why.
        error: Arc<io::Error>,
    },
    /// The connection broke.
    #[error("the connection to the server broke: {0}")]
    Broken(Arc<io::Error>),
    /// It cannot be encrypted.
    #[error("the connection to the server cannot be encrypted: {0}")]
    Encryption(String),
    /// Credentials cannot be used.
    #[error(transparent)]
    Credentials(Arc<CredentialsError>),
    /// The server refuses what was asked for before transmission.
    #[error("the server refuses {what}: {}{}{text}", reply_text(*reply), if text.is_empty() { "" } else { ": " })]
    Refused {
        /// What was asked for.
        what: String,
        /// How it refuses; none: by a number that is not known.
        reply: Option<ReplyKind>,
        /// What it says about it.
        text: String,
    },
    /// The server sends what it may not.
    #[error(transparent)]
    Lie(#[from] Lie),
    /// The connection was closed.
    #[error("the connection to the server is closed")]
    Closed,
    /// A request failed.
    #[error("the server answers with an error: {:?}{}{}", .0.error, if .0.text.is_empty() { "" } else { ": " }, .0.text)]
    Failed(Failure),
    /// A request that cannot be sent.
    #[error("{0}")]
    Unsendable(String),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Broken(Arc::new(error))
    }
}

impl From<CredentialsError> for ClientError {
    fn from(error: CredentialsError) -> Self {
        Self::Credentials(Arc::new(error))
    }
}

fn reply_text(reply: Option<ReplyKind>) -> &'static str {
    match reply {
        Some(ReplyKind::ErrUnsupported) => "it does not know that",
        Some(ReplyKind::ErrPolicy) => "it is not allowed",
        Some(ReplyKind::ErrInvalid) => "it takes it for wrong",
        Some(ReplyKind::ErrPlatform) => "it cannot do that",
        Some(ReplyKind::ErrTlsRequired) => "it requires encryption (TLS; nbds:// in a URI)",
        Some(ReplyKind::ErrUnknown) => "there is no such export",
        Some(ReplyKind::ErrShutdown) => "it ends",
        Some(ReplyKind::ErrBlockSizeRequired) => "it requires block sizes to be heeded",
        Some(ReplyKind::ErrTooBig) => "it is too much",
        _ => "for a reason that is not known here",
    }
}

/// A stream to a server that is greeted and, if that is wanted, encrypted.
fn greeted(socket: OwnedFd, wanted: &Wanted) -> Result<(Stream, handshake::Style), ClientError> {
    let stream = Stream::socket(socket)?;
    stream.set_limit(Instant::now().checked_add(wanted.limit));
    let style = handshake::greet(&stream, wanted)?;
    Ok((stream, style))
}

/// The exports that a server lists.
///
/// # Errors
/// There is no way to the server, or it has no list.
pub fn list(target: &Target) -> Result<Vec<Export>, ClientError> {
    let (stream, style) = greeted(target.connect()?, &target.wanted)?;
    handshake::list(&stream, style)
}
