//! What most filters have in common: a disk in front of another that does by itself only what the filter is about, and hands on
//! everything else.

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags,
    ThreadModel,
};

/// A filter's disk. What it leaves out is that of the disk behind it.
pub(crate) trait Layer: Send + Sync {
    /// The disk behind it.
    fn below(&self) -> &dyn Disk;

    /// See [`Disk::preconnect`].
    fn preconnect(&self, client: &Client) -> Result<(), String> {
        self.below().preconnect(client)
    }

    /// See [`Disk::exports`].
    fn exports(&self, client: &Client) -> Result<Vec<Export>, String> {
        self.below().exports(client)
    }

    /// See [`Disk::open`].
    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError>;
}

/// A filter's open disk. What it leaves out is that of the disk behind it.
pub(crate) trait OpenLayer: Send + Sync {
    /// The disk behind it.
    fn below(&self) -> &dyn OpenDisk;

    /// See [`OpenDisk::info`].
    fn info(&self) -> &DiskInfo {
        self.below().info()
    }

    /// See [`OpenDisk::block_size`].
    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        self.below().block_size()
    }

    /// See [`OpenDisk::read`].
    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.below().read(offset, length)
    }

    /// See [`OpenDisk::write`].
    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.below().write(offset, data, flags)
    }

    /// See [`OpenDisk::flush`].
    fn flush(&self) -> Result<(), DiskError> {
        self.below().flush()
    }

    /// See [`OpenDisk::trim`].
    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.below().trim(offset, length, flags)
    }

    /// See [`OpenDisk::zero`].
    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.below().zero(offset, length, flags)
    }

    /// See [`OpenDisk::cache`].
    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.below().cache(offset, length)
    }

    /// See [`OpenDisk::extents`].
    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        self.below().extents(offset, length, flags)
    }
}

/// A layer as what a server takes.
pub(crate) struct Layered<L>(pub(crate) L);

impl<L: Layer> Disk for Layered<L> {
    fn threads(&self) -> ThreadModel {
        self.0.below().threads()
    }

    fn preconnect(&self, client: &Client) -> Result<(), String> {
        self.0.preconnect(client)
    }

    fn exports(&self, client: &Client) -> Result<Vec<Export>, String> {
        self.0.exports(client)
    }

    fn default_export(&self, client: &Client) -> Option<Vec<u8>> {
        self.0.below().default_export(client)
    }

    fn identity(&self, export: &[u8]) -> Vec<u8> {
        self.0.below().identity(export)
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        self.0.open(export, client)
    }
}

impl<L: OpenLayer> OpenDisk for Layered<L> {
    fn info(&self) -> &DiskInfo {
        self.0.info()
    }

    fn description(&self) -> Option<Vec<u8>> {
        self.0.below().description()
    }

    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        self.0.block_size()
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.0.read(offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.0.write(offset, data, flags)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.0.flush()
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.0.trim(offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.0.zero(offset, length, flags)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.cache(offset, length)
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        self.0.extents(offset, length, flags)
    }
}

/// Extents cut to a range, which they cover from its beginning on.
pub(crate) fn cut(extents: Vec<Extent>, offset: u64, length: u64) -> impl Iterator<Item = Extent> {
    let end = offset + length;
    extents.into_iter().filter_map(move |extent| {
        let (start, stop) = (extent.offset.max(offset), extent.offset.saturating_add(extent.length).min(end));
        (start < stop).then(|| Extent { offset: start, length: stop - start, ..extent })
    })
}
