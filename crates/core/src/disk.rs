//! The Disk port: random access to a block device.
//!
//! A disk says what it can and does it; what every server has to do around it (range checks, zeroing by writing, FUA by
//! flushing) is done once, in the crate of the NBD protocol.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How many calls a disk can bear at a time, from the strictest to the most lenient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThreadModel {
    /// One connection at a time.
    SerializeConnections,
    /// One call at a time in all, opening and closing included.
    #[default]
    SerializeAllRequests,
    /// One call at a time for each connection.
    SerializeRequests,
    /// Any number of calls.
    Parallel,
}

/// Who is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Number of the connection, from 1.
    pub number: u64,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The names in its certificate, where it was asked to prove one.
    pub certificate: Option<Certificate>,
    /// The server gives out no more than reading.
    pub read_only: bool,
    /// Process, user and group of a client on the same host, where the system tells.
    pub peer: Option<Peer>,
    /// The context of a client on the same host in the system's security module (SELinux' label), where the system tells.
    pub security_context: Option<String>,
    /// What a disk may ask of the server that serves this connection.
    pub connection: Connection,
}

/// What a server does when a disk asks for it, from any thread, also inside a call.
pub trait ServerControl: Send + Sync {
    /// See [`Connection::shutdown`].
    fn shutdown(&self);
    /// See [`Connection::disconnect`].
    fn disconnect(&self, force: bool);
    /// See [`Connection::sleep`].
    fn sleep(&self, time: Duration) -> bool;
}

/// The connection that a disk is called for. The empty one, of a disk that no server serves, does nothing.
#[derive(Clone, Default)]
pub struct Connection(Option<Arc<dyn ServerControl>>);

impl Connection {
    /// One that a server serves.
    #[must_use]
    pub fn new(control: Arc<dyn ServerControl>) -> Self {
        Self(Some(control))
    }

    /// Asks the server to end: calls that run are finished and answered, open disks are closed. Returns at once.
    pub fn shutdown(&self) {
        if let Some(control) = &self.0 {
            control.shutdown();
        }
    }

    /// Ends this connection; returns at once. With `force` nothing is answered any more, not even the call that runs;
    /// else what runs is answered and later requests fail until the client leaves. Either way the disk is called no more.
    pub fn disconnect(&self, force: bool) {
        if let Some(control) = &self.0 {
            control.disconnect(force);
        }
    }

    /// Sleeps; less when the server or the connection ends meanwhile. Whether it was the whole time.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> bool {
        match &self.0 {
            Some(control) => control.sleep(time),
            None => {
                std::thread::sleep(time);
                true
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Connection(served)" } else { "Connection(none)" })
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Connection {}

/// The names in a certificate, as RFC 4514 writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
}

/// A client on the same host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

/// An export by name, as a list shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is, for people.
    pub description: Option<Vec<u8>>,
}

/// How a disk does something that can be made up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// It is not offered.
    #[default]
    None,
    /// The server makes up for it.
    Emulate,
    /// The disk does it.
    Native,
}

/// Sizes of requests that a disk likes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// No less.
    pub minimum: u32,
    /// Best.
    pub preferred: u32,
    /// No more; all ones: any.
    pub maximum: u32,
}

/// What an open disk is and can; asked once and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a question of the protocol
pub struct DiskInfo {
    /// Length in bytes.
    pub size: u64,
    /// Whether it can be written.
    pub can_write: bool,
    /// Whether [`OpenDisk::flush`] does anything.
    pub can_flush: bool,
    /// Whether seeking costs time.
    pub is_rotational: bool,
    /// Whether [`OpenDisk::trim`] does anything.
    pub can_trim: bool,
    /// Whether [`OpenDisk::zero`] is to be called; otherwise zeroes are written.
    pub can_zero: bool,
    /// Whether a zeroing that would be no faster than writing fails at once when it is asked to.
    pub can_fast_zero: bool,
    /// Whether [`OpenDisk::extents`] knows more than that all is data.
    pub can_extents: bool,
    /// Whether several connections see each other's writes as soon as they are flushed.
    pub can_multi_conn: bool,
    /// Writes that are on stable storage when they are answered.
    pub fua: Support,
    /// Reading into a cache.
    pub cache: Support,
}

impl DiskInfo {
    /// One of `size` bytes that can everything by itself, and for which seeking costs nothing.
    #[must_use]
    pub fn able(size: u64) -> Self {
        Self {
            size,
            can_write: true,
            can_flush: true,
            is_rotational: false,
            can_trim: true,
            can_zero: true,
            can_fast_zero: true,
            can_extents: true,
            can_multi_conn: true,
            fua: Support::Native,
            cache: Support::Native,
        }
    }
}

/// What an error is to the client, by the system's number (`EIO`, `ENOSPC` ...).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskError(pub i32);

/// Why a disk is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no such export, or it cannot be opened: the client may ask for another.
    Refused(String),
    /// The connection has to end.
    Close(String),
}

/// How a request is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of the protocol
pub struct RequestFlags {
    /// On stable storage when it is answered.
    pub fua: bool,
    /// A zeroed range may become a hole.
    pub may_trim: bool,
    /// Zeroing fails at once with `ENOTSUP` unless it is faster than writing.
    pub fast_zero: bool,
    /// One extent is enough.
    pub one: bool,
}

/// A range of a disk that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Nothing is stored for it.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}

/// Bytes that were read.
pub type ReadBytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Something that can be opened as a disk, under one or several names.
pub trait Disk: Send + Sync {
    /// How many calls it can bear at a time.
    fn threads(&self) -> ThreadModel;

    /// A connection was made and nothing was said yet.
    ///
    /// # Errors
    /// Why it has to end at once.
    fn preconnect(&self, client: &Client) -> Result<(), String> {
        let _ = client;
        Ok(())
    }

    /// The names that a list shows.
    ///
    /// # Errors
    /// Why there is no list.
    fn exports(&self, client: &Client) -> Result<Vec<Export>, String>;

    /// The name that the empty one stands for; none: there is none.
    fn default_export(&self, client: &Client) -> Option<Vec<u8>> {
        let _ = client;
        Some(Vec::new())
    }

    /// What tells the disks under several names apart: names of the same disk give the same. Whoever keeps something for a
    /// disk keeps it under this. To be asked when the export is open.
    fn identity(&self, export: &[u8]) -> Vec<u8> {
        export.to_vec()
    }

    /// Opens an export; its name is that of the connection until it is dropped, which closes it. All calls for one
    /// connection come from threads that live as long as it does.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError>;
}

/// A disk that is open. Offsets and lengths are in range, lengths are not 0.
pub trait OpenDisk: Send + Sync {
    /// What it is and can.
    fn info(&self) -> &DiskInfo;

    /// What it is, for people.
    fn description(&self) -> Option<Vec<u8>> {
        None
    }

    /// Sizes of requests that it likes.
    ///
    /// # Errors
    /// Why the connection has to end.
    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        Ok(None)
    }

    /// What stands at `offset`, exactly `length` bytes, in memory that the disk provides: it is sent from there, then dropped.
    ///
    /// # Errors
    /// What the client is told.
    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// What the client is told.
    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError>;

    /// Puts what was written on stable storage.
    ///
    /// # Errors
    /// What the client is told.
    fn flush(&self) -> Result<(), DiskError>;

    /// Forgets what stands in a range: it may read as anything from now on.
    ///
    /// # Errors
    /// What the client is told.
    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError>;

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// What the client is told; `ENOTSUP`: the server may write zeroes instead.
    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError>;

    /// Reads a range into a cache.
    ///
    /// # Errors
    /// What the client is told.
    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// The extents from `offset` on, without a gap; at least the one that holds it.
    ///
    /// # Errors
    /// What the client is told.
    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError>;
}
