//! An export of a server as a disk: read as a source, or served again.

use std::sync::atomic::{AtomicUsize, Ordering};

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags,
    Support, ThreadModel,
};

use super::{ClientError, Connection, Pending, Target, list};
use crate::codec::error::NbdError;
use crate::codec::reply::TransmissionFlags as Can;
use crate::codec::request::{Command, Flags, MAX_PAYLOAD};

/// Bytes that a server takes in one request unless it says something else.
const UNKNOWN_MAXIMUM: u32 = 32 << 20;
/// Bytes of a request without data.
const LONGEST: u64 = 1 << 30;
/// Connections to an export that can bear several.
const CONNECTIONS: usize = 4;
/// Requests that a long read or write has in flight.
const AHEAD: usize = 4;

/// A server's exports.
#[derive(Clone, Debug)]
pub struct NbdDisk {
    target: Target,
}

impl NbdDisk {
    /// Where the target names an export, that one under any name; else all of them under their own.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target }
    }
}

fn reason(error: &ClientError) -> String {
    error.to_string()
}

impl Disk for NbdDisk {
    fn threads(&self) -> ThreadModel {
        ThreadModel::Parallel
    }

    fn exports(&self, _client: &Client) -> Result<Vec<Export>, String> {
        if self.target.export.is_empty() {
            list(&self.target).map_err(|error| reason(&error))
        } else {
            Ok(vec![Export::default()])
        }
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let refused = |error: ClientError| OpenError::Refused(reason(&error));
        let mut target = self.target.clone();
        if target.export.is_empty() {
            target.export = export.to_vec();
        }
        let first = Connection::open(&target).map_err(refused)?;
        let multi = first.remote().flags.has(Can::CAN_MULTI_CONN);
        let mut connections = vec![first];
        while multi && connections.len() < CONNECTIONS {
            match Connection::open(&target) {
                Ok(more) if more.remote() == connections[0].remote() => connections.push(more),
                // One is enough.
                _ => break,
            }
        }
        Ok(Box::new(OpenNbd::new(connections, client.read_only)))
    }
}

struct OpenNbd {
    connections: Vec<Connection>,
    turn: AtomicUsize,
    info: DiskInfo,
    block_size: Option<BlockSize>,
    /// Bytes of data in one request.
    most: u32,
}

impl OpenNbd {
    fn new(connections: Vec<Connection>, read_only: bool) -> Self {
        let remote = connections[0].remote();
        let can = |flag| remote.flags.has(flag);
        let can_write = !can(Can::READ_ONLY) && !read_only;
        let fua = if can(Can::SEND_FUA) {
            Support::Native
        } else if can(Can::SEND_FLUSH) {
            Support::Emulate
        } else {
            Support::None
        };
        let info = DiskInfo {
            size: remote.size,
            can_write,
            can_flush: can(Can::SEND_FLUSH),
            is_rotational: can(Can::ROTATIONAL),
            can_trim: can(Can::SEND_TRIM),
            can_zero: can(Can::SEND_WRITE_ZEROES),
            can_fast_zero: can(Can::SEND_FAST_ZERO),
            can_extents: remote.allocation.is_some(),
            can_multi_conn: can(Can::CAN_MULTI_CONN),
            fua,
            cache: if can(Can::SEND_CACHE) { Support::Native } else { Support::None },
        };
        let most = match remote.block_size {
            Some(size) if size.maximum == u32::MAX => MAX_PAYLOAD,
            // A multiple of the smallest one, as the maximum is.
            Some(size) => size.maximum.min(MAX_PAYLOAD),
            None => UNKNOWN_MAXIMUM,
        };
        let block_size = remote.block_size;
        Self { connections, turn: AtomicUsize::new(0), info, block_size, most }
    }

    /// The next connection of those that live.
    fn connection(&self) -> &Connection {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let all = (0..self.connections.len()).map(|at| &self.connections[(turn + at) % self.connections.len()]);
        let mut living = all.filter(|connection| !connection.is_broken());
        living.next().unwrap_or(&self.connections[0])
    }

    fn send(&self, command: Command, flags: Flags, offset: u64, count: u32, data: &[u8]) -> Result<Pending, DiskError> {
        self.connection().send(command, flags, offset, count, data).map_err(|error| errno(&error))
    }

    fn call(&self, command: Command, flags: Flags, offset: u64, count: u32) -> Result<(), DiskError> {
        self.send(command, flags, offset, count, &[])?.wait().map(|_| ()).map_err(|error| errno(&error))
    }

    /// A request without data, in pieces.
    fn range(&self, command: Command, flags: Flags, offset: u64, length: u64) -> Result<(), DiskError> {
        pieces(offset, length, LONGEST).try_for_each(|(at, count)| self.call(command, flags, at, count))
    }
}

/// A range in pieces of at most so many bytes.
fn pieces(offset: u64, length: u64, most: u64) -> impl Iterator<Item = (u64, u32)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let count = (end - at).min(most);
        let piece = (at, count as u32);
        at += count;
        (count > 0).then_some(piece)
    })
}

/// What the client of a disk is told: the server's own word, or that input or output failed.
fn errno(error: &ClientError) -> DiskError {
    match error {
        ClientError::Failed(failure) => DiskError(failure.error.errno()),
        _ => DiskError(NbdError::Io.errno()),
    }
}

fn flags(flags: RequestFlags) -> Flags {
    if flags.fua { Flags::FUA } else { Flags::default() }
}

impl OpenDisk for OpenNbd {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        Ok(self.block_size)
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let ask = |(at, count)| self.send(Command::Read, Flags::default(), at, count, &[]);
        let wait = |pending: Pending| pending.wait().map(|answer| answer.data).map_err(|error| errno(&error));
        if length <= self.most as usize {
            return Ok(Box::new(wait(ask((offset, length as u32))?)?));
        }
        let mut data = Vec::with_capacity(length);
        let mut rest = pieces(offset, length as u64, self.most.into());
        let mut asked = std::collections::VecDeque::new();
        loop {
            while asked.len() < AHEAD
                && let Some(piece) = rest.next()
            {
                asked.push_back(ask(piece)?);
            }
            match asked.pop_front() {
                Some(pending) => data.extend_from_slice(&wait(pending)?),
                None => return Ok(Box::new(data)),
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8], how: RequestFlags) -> Result<(), DiskError> {
        let mut sent = Vec::new();
        for (at, count) in pieces(offset, data.len() as u64, self.most.into()) {
            let start = (at - offset) as usize;
            sent.push(self.send(Command::Write, flags(how), at, count, &data[start..start + count as usize]));
        }
        let wait = |sent: Result<Pending, DiskError>| sent?.wait().map_err(|error| errno(&error));
        // All of them, also after one that failed.
        let results: Vec<_> = sent.into_iter().map(wait).collect();
        results.into_iter().try_for_each(|result| result.map(|_| ()))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.call(Command::Flush, Flags::default(), 0, 0)
    }

    fn trim(&self, offset: u64, length: u64, how: RequestFlags) -> Result<(), DiskError> {
        self.range(Command::Trim, flags(how), offset, length)
    }

    fn zero(&self, offset: u64, length: u64, how: RequestFlags) -> Result<(), DiskError> {
        let mut flags = flags(how);
        if !how.may_trim {
            flags = flags.with(Flags::NO_HOLE);
        }
        if how.fast_zero {
            flags = flags.with(Flags::FAST_ZERO);
        }
        self.range(Command::WriteZeroes, flags, offset, length)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.range(Command::Cache, Flags::default(), offset, length)
    }

    fn extents(&self, offset: u64, length: u64, how: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let flags = if how.one { Flags::REQ_ONE } else { Flags::default() };
        let count = length.min(LONGEST) as u32;
        let pending = self.send(Command::BlockStatus, flags, offset, count, &[])?;
        let answer = pending.wait().map_err(|error| errno(&error))?;
        let mut at = offset;
        let extents = answer.extents.into_iter().map(|(length, status)| {
            let extent = Extent { offset: at, length: length.into(), hole: status & 1 != 0, zero: status & 2 != 0 };
            at += extent.length;
            extent
        });
        Ok(extents.collect())
    }
}
