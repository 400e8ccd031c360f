//! What a disk lacks and is made up for (reference 7.2 to 7.5): zeroes by writing them, FUA by flushing, caching by reading,
//! extents by calling everything data.

use std::sync::Arc;

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags,
    Support, ThreadModel,
};

use crate::codec::request::MAX_PAYLOAD;

/// Zeroing and caching without the disk's help go in pieces of this many bytes.
const PIECE: u64 = MAX_PAYLOAD as u64;

/// An open disk that zeroes, forces writes through, caches and tells extents, whatever the one behind it can.
///
/// Twice around a disk is as good as once.
pub struct Emulation {
    disk: Box<dyn OpenDisk>,
    /// What the disk behind can.
    native: DiskInfo,
    info: DiskInfo,
}

impl Emulation {
    /// Takes over an open disk.
    #[must_use]
    pub fn new(disk: Box<dyn OpenDisk>) -> Self {
        let native = disk.info().clone();
        let promise = |support| if support == Support::None { Support::None } else { Support::Native };
        let info = DiskInfo {
            can_zero: native.can_write,
            can_extents: true,
            fua: promise(native.fua),
            cache: promise(native.cache),
            ..native.clone()
        };
        Self { disk, native, info }
    }

    /// Whether zeroes are written, always or at times.
    pub(crate) fn writes_zeroes(&self) -> bool {
        !self.native.can_zero
    }

    /// Whether caching is reading.
    pub(crate) fn reads_to_cache(&self) -> bool {
        self.native.cache != Support::Native
    }

    /// Changes something; then flushes, where that is how FUA is done.
    fn change(
        &self,
        flags: RequestFlags,
        change: impl FnOnce(RequestFlags) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let native = self.native.fua == Support::Native;
        change(RequestFlags { fua: flags.fua && native, ..flags })?;
        if flags.fua && !native { self.disk.flush() } else { Ok(()) }
    }

    fn zero_or_write(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        if self.native.can_zero {
            match self.disk.zero(offset, length, flags) {
                Err(DiskError(libc::EOPNOTSUPP)) => {}
                settled => return settled,
            }
        }
        if flags.fast_zero {
            return Err(DiskError(libc::EOPNOTSUPP));
        }
        let flags = RequestFlags { fua: flags.fua, ..RequestFlags::default() };
        let zeroes = vec![0; length.min(PIECE) as usize];
        pieces(offset, length).try_for_each(|(offset, length)| self.disk.write(offset, &zeroes[..length], flags))
    }
}

impl OpenDisk for Emulation {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn description(&self) -> Option<Vec<u8>> {
        self.disk.description()
    }

    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        self.disk.block_size()
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.disk.read(offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.change(flags, |flags| self.disk.write(offset, data, flags))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.disk.flush()
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.change(flags, |flags| self.disk.trim(offset, length, flags))
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.change(flags, |flags| self.zero_or_write(offset, length, flags))
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        match self.native.cache {
            Support::Native => self.disk.cache(offset, length),
            _ => pieces(offset, length).try_for_each(|(offset, length)| self.disk.read(offset, length).map(drop)),
        }
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        if self.native.can_extents {
            return self.disk.extents(offset, length, flags);
        }
        Ok(vec![Extent { offset, length, hole: false, zero: false }])
    }
}

/// A disk that opens as [`Emulation`]s of another.
pub struct Emulated(Arc<dyn Disk>);

impl Emulated {
    /// In front of `disk`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self(disk)
    }
}

impl Disk for Emulated {
    fn threads(&self) -> ThreadModel {
        self.0.threads()
    }

    fn preconnect(&self, client: &Client) -> Result<(), String> {
        self.0.preconnect(client)
    }

    fn exports(&self, client: &Client) -> Result<Vec<Export>, String> {
        self.0.exports(client)
    }

    fn default_export(&self, client: &Client) -> Option<Vec<u8>> {
        self.0.default_export(client)
    }

    fn identity(&self, export: &[u8]) -> Vec<u8> {
        self.0.identity(export)
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        Ok(Box::new(Emulation::new(self.0.open(export, client)?)))
    }
}

/// A range in pieces: their offsets and lengths.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..length.div_ceil(PIECE)).map(move |number| {
        let done = number * PIECE;
        (offset + done, (length - done).min(PIECE) as usize)
    })
}
