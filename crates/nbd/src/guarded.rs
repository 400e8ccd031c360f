//! The one wrapper around an open disk: what is refused before the disk is called (reference 7.1), and what its extents say.
//!
//! The disk behind it is only ever called for what it offers, with ranges inside its size.

use backstay_core::{DiskError, DiskInfo, Extent, OpenDisk, ReadBytes, RequestFlags, Support, ThreadModel};

use crate::codec::error::NbdError;
use crate::codec::option::{Info, InfoKind};
use crate::codec::reply::{MAX_EXTENTS, TransmissionFlags};
use crate::codec::request::{Command, Flags, MAX_PAYLOAD, Request};
use crate::codec::{MAX_STRING, is_string};
use crate::emulation::Emulation;
use crate::handshake::Agreement;

/// Largest size of a disk: offsets are positive in signed arithmetic.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// An open disk that may be asked for anything.
pub struct Guarded {
    disk: Emulation,
    info: DiskInfo,
    multi_conn: bool,
}

/// What a request that succeeded gives.
pub enum Outcome {
    /// Nothing but that.
    Done,
    /// The bytes that a read asked for.
    Data(ReadBytes),
    /// Lengths in bytes and status bits.
    Extents(Vec<(u32, u32)>),
}

/// Why something about an export ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

impl Guarded {
    /// Takes over an open disk. With `read_only` nothing is ever written to it.
    ///
    /// # Errors
    /// The disk says that it is larger than [`MAX_SIZE`].
    pub fn new(disk: Box<dyn OpenDisk>, read_only: bool, threads: ThreadModel) -> Result<Self, Fatal> {
        let disk = Emulation::new(disk);
        let mut info = disk.info().clone();
        if info.size > MAX_SIZE {
            return Err(Fatal(format!("a disk of {} bytes is too large", info.size)));
        }
        info.can_write &= !read_only;
        if !info.can_write {
            info.can_zero = false;
            info.can_fast_zero = false;
            info.can_trim = false;
            info.fua = Support::None;
        }
        let multi_conn = info.can_multi_conn && threads > ThreadModel::SerializeConnections;
        Ok(Self { disk, info, multi_conn })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// Whether a command that has no data of its own takes memory here, up to the largest payload at a time.
    #[must_use]
    pub fn is_made_up(&self, command: Command) -> bool {
        match command {
            Command::WriteZeroes => self.disk.writes_zeroes(),
            Command::Cache => self.disk.reads_to_cache(),
            _ => false,
        }
    }

    /// What the client is told that it can (reference 10.4).
    #[must_use]
    pub fn flags(&self, structured_replies: bool) -> TransmissionFlags {
        let info = &self.info;
        TransmissionFlags::HAS_FLAGS
            .and(TransmissionFlags::READ_ONLY, !info.can_write)
            .and(TransmissionFlags::SEND_FLUSH, info.can_flush)
            .and(TransmissionFlags::SEND_FUA, info.fua != Support::None)
            .and(TransmissionFlags::ROTATIONAL, info.is_rotational)
            .and(TransmissionFlags::SEND_TRIM, info.can_trim)
            .and(TransmissionFlags::SEND_WRITE_ZEROES, info.can_write)
            .and(TransmissionFlags::SEND_DF, structured_replies)
            .and(TransmissionFlags::CAN_MULTI_CONN, self.multi_conn)
            .and(TransmissionFlags::SEND_CACHE, info.cache != Support::None)
            .and(TransmissionFlags::SEND_FAST_ZERO, info.can_fast_zero)
    }

    /// What the client wants to know, in its order; what is not known is left out. `name` is the export's, resolved.
    ///
    /// # Errors
    /// The connection has to end: block sizes that are none.
    pub fn infos(&self, name: &[u8], wanted: &[InfoKind]) -> Result<Vec<Info>, Fatal> {
        let mut infos = Vec::new();
        for kind in wanted {
            match kind {
                InfoKind::Name => infos.push(Info::Name(name.to_vec())),
                InfoKind::Description => infos.extend(self.description().map(Info::Description)),
                InfoKind::BlockSize => infos.extend(self.block_size()?),
            }
        }
        Ok(infos)
    }

    fn description(&self) -> Option<Vec<u8>> {
        self.disk.description().filter(|text| text.len() <= MAX_STRING && is_string(text))
    }

    fn block_size(&self) -> Result<Option<Info>, Fatal> {
        let Some(size) = self.disk.block_size().map_err(Fatal)? else { return Ok(None) };
        let (minimum, preferred, maximum) = (size.minimum, size.preferred, size.maximum);
        if (minimum, preferred, maximum) == (0, 0, 0) {
            return Ok(None);
        }
        let right = (1..=65536).contains(&minimum)
            && minimum.is_power_of_two()
            && (512..=33_554_432).contains(&preferred)
            && preferred.is_power_of_two()
            && (maximum == u32::MAX || maximum.is_multiple_of(minimum))
            && minimum <= preferred
            && preferred <= maximum;
        if right {
            return Ok(Some(Info::BlockSize(minimum, preferred, maximum)));
        }
        Err(Fatal(format!("block sizes of {minimum}, {preferred} and {maximum} bytes are none that NBD allows")))
    }

    /// Whether a request may be run; the first reason against it (reference 7.1). Not for [`Command::Disconnect`].
    ///
    /// # Errors
    /// What the client is told.
    pub fn check(&self, request: &Request, agreed: Agreement) -> Result<(), NbdError> {
        self.check_permission(request)?;
        self.check_range(request)?;
        self.check_flags(request, agreed)?;
        self.check_offer(request, agreed)
    }

    fn check_permission(&self, request: &Request) -> Result<(), NbdError> {
        match request.command {
            Command::Write | Command::Trim | Command::WriteZeroes if !self.info.can_write => Err(NbdError::Permission),
            _ => Ok(()),
        }
    }

    fn check_range(&self, request: &Request) -> Result<(), NbdError> {
        let end = request.offset.checked_add(u64::from(request.count));
        let inside = request.count > 0 && end.is_some_and(|end| end <= self.info.size);
        match request.command {
            Command::Read | Command::Cache | Command::Trim | Command::BlockStatus if !inside => Err(NbdError::Invalid),
            Command::Write | Command::WriteZeroes if !inside => Err(NbdError::Space),
            Command::Flush if request.offset != 0 || request.count != 0 => Err(NbdError::Invalid),
            Command::Other(_) | Command::Disconnect => Err(NbdError::Invalid),
            _ => Ok(()),
        }
    }

    fn check_flags(&self, request: &Request, agreed: Agreement) -> Result<(), NbdError> {
        let (flags, command) = (request.flags, request.command);
        let of_zeroes = Flags::NO_HOLE.with(Flags::FAST_ZERO);
        let known = of_zeroes.with(Flags::FUA).with(Flags::DF).with(Flags::REQ_ONE);
        let misplaced = (flags.has(of_zeroes) && command != Command::WriteZeroes)
            || (flags.has(Flags::DF) && (command != Command::Read || !agreed.structured_replies))
            || (flags.has(Flags::REQ_ONE) && command != Command::BlockStatus);
        let not_offered = (flags.has(Flags::FUA) && self.info.fua == Support::None)
            || (flags.has(Flags::FAST_ZERO) && !self.info.can_fast_zero);
        if flags.without(known) != Flags::default() || misplaced || not_offered {
            return Err(NbdError::Invalid);
        }
        Ok(())
    }

    fn check_offer(&self, request: &Request, agreed: Agreement) -> Result<(), NbdError> {
        let offered = match request.command {
            Command::Read | Command::Write if request.count > MAX_PAYLOAD => return Err(NbdError::Memory),
            Command::Flush => self.info.can_flush,
            Command::Trim => self.info.can_trim,
            Command::WriteZeroes => self.info.can_write,
            Command::Cache => self.info.cache != Support::None,
            Command::BlockStatus => agreed.structured_replies && agreed.allocation,
            _ => true,
        };
        if offered { Ok(()) } else { Err(NbdError::Invalid) }
    }

    /// Runs a request that passed [`Guarded::check`]. `payload` is what a write writes, as long as the request says.
    ///
    /// # Errors
    /// What the client is told.
    pub fn run(&self, request: &Request, payload: &[u8]) -> Result<Outcome, NbdError> {
        self.call(request, payload).map_err(|DiskError(errno)| NbdError::from_errno(errno, request.flags))
    }

    fn call(&self, request: &Request, payload: &[u8]) -> Result<Outcome, DiskError> {
        let (offset, length) = (request.offset, u64::from(request.count));
        let flags = RequestFlags {
            fua: request.flags.has(Flags::FUA),
            may_trim: request.command == Command::WriteZeroes && !request.flags.has(Flags::NO_HOLE),
            fast_zero: request.flags.has(Flags::FAST_ZERO),
            one: request.flags.has(Flags::REQ_ONE),
        };
        match request.command {
            Command::Read => return self.read(offset, request.count as usize).map(Outcome::Data),
            Command::BlockStatus => return self.extents(offset, length, flags).map(Outcome::Extents),
            Command::Write => self.disk.write(offset, payload, flags)?,
            Command::Trim => self.disk.trim(offset, length, flags)?,
            Command::WriteZeroes => self.disk.zero(offset, length, flags)?,
            Command::Cache => self.disk.cache(offset, length)?,
            Command::Flush => self.disk.flush()?,
            Command::Disconnect | Command::Other(_) => return Err(DiskError(libc::EINVAL)),
        }
        Ok(Outcome::Done)
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let bytes = self.disk.read(offset, length)?;
        if bytes.as_ref().as_ref().len() == length { Ok(bytes) } else { Err(DiskError(libc::EIO)) }
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<(u32, u32)>, DiskError> {
        let extents = self.disk.extents(offset, length, flags)?;
        let extents = settle(&extents, offset, self.info.size)?;
        Ok(describe(&extents, length, flags.one))
    }
}

/// Lengths and status bits of what a disk said, from `offset` on and up to the end of the disk; neighbours of one kind are
/// one (reference 5.5).
fn settle(extents: &[Extent], offset: u64, size: u64) -> Result<Vec<(u64, u32)>, DiskError> {
    if extents.is_empty() {
        return Err(DiskError(libc::EIO));
    }
    let mut settled: Vec<(u64, u32)> = Vec::new();
    let mut expected = None;
    for extent in extents {
        let end = extent.offset.saturating_add(extent.length);
        if expected.replace(end).is_some_and(|expected| expected != extent.offset) {
            return Err(DiskError(libc::EIO));
        }
        let (start, end) = (extent.offset.max(offset), end.min(size));
        if start >= end {
            continue;
        }
        if settled.is_empty() && start > offset {
            return Err(DiskError(libc::EIO));
        }
        let status = u32::from(extent.hole) | u32::from(extent.zero) << 1;
        let full = settled.len() == MAX_EXTENTS;
        match settled.last_mut() {
            Some(last) if last.1 == status => last.0 += end - start,
            _ if full => break,
            _ => settled.push((end - start, status)),
        }
    }
    if settled.is_empty() { Err(DiskError(libc::EINVAL)) } else { Ok(settled) }
}

/// As many descriptors as it takes to cover `length` bytes; with `one` the first, cut to them (reference 7.5).
fn describe(extents: &[(u64, u32)], length: u64, one: bool) -> Vec<(u32, u32)> {
    if one {
        return extents.first().map(|(first, status)| ((*first).min(length) as u32, *status)).into_iter().collect();
    }
    let mut covered = 0_u64;
    let enough = |extent: &&(u64, u32)| {
        let more = covered < length;
        covered = covered.saturating_add(extent.0);
        more
    };
    let cut = |(length, status): &(u64, u32)| (u32::try_from(*length).unwrap_or(u32::MAX), *status);
    extents.iter().take_while(enough).map(cut).collect()
}
