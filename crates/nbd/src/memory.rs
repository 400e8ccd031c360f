//! A disk in memory, for tests and measurements: it knows what was written, and takes memory for nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use backstay_core::{
    Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags, ThreadModel,
};
use parking_lot::RwLock;

const PAGE: u64 = 64 << 10;

type Pages = HashMap<u64, Box<[u8]>>;

/// All connections see the same bytes.
pub struct MemoryDisk {
    threads: ThreadModel,
    info: DiskInfo,
    pages: Arc<RwLock<Pages>>,
}

impl MemoryDisk {
    /// One of `size` bytes, all of them zero, that can whatever there is.
    #[must_use]
    pub fn new(size: u64, threads: ThreadModel) -> Self {
        let info = DiskInfo::able(size);
        Self { threads, info, pages: Arc::default() }
    }
}

struct OpenMemory {
    info: DiskInfo,
    pages: Arc<RwLock<Pages>>,
}

impl Disk for MemoryDisk {
    fn threads(&self) -> ThreadModel {
        self.threads
    }

    fn exports(&self, _client: &Client) -> Result<Vec<Export>, String> {
        Ok(vec![Export::default()])
    }

    fn identity(&self, _export: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _export: &[u8], _client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        Ok(Box::new(OpenMemory { info: self.info.clone(), pages: Arc::clone(&self.pages) }))
    }
}

/// The part of a range in each page that it touches: page, start in the page, start in the range, length.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let (page, start) = (at / PAGE, at % PAGE);
        let here = (PAGE - start).min(end - at);
        let part = (page, start as usize, (at - offset) as usize, here as usize);
        at += here;
        (here > 0).then_some(part)
    })
}

impl OpenDisk for OpenMemory {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let mut bytes = vec![0; length];
        let pages = self.pages.read();
        for (page, start, at, length) in parts(offset, length as u64) {
            if let Some(page) = pages.get(&page) {
                bytes[at..at + length].copy_from_slice(&page[start..start + length]);
            }
        }
        Ok(Box::new(bytes))
    }

    fn write(&self, offset: u64, data: &[u8], _flags: RequestFlags) -> Result<(), DiskError> {
        let mut pages = self.pages.write();
        for (page, start, at, length) in parts(offset, data.len() as u64) {
            let page = pages.entry(page).or_insert_with(|| vec![0; PAGE as usize].into());
            page[start..start + length].copy_from_slice(&data[at..at + length]);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.zero(offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, _flags: RequestFlags) -> Result<(), DiskError> {
        let mut pages = self.pages.write();
        for (page, start, _, length) in parts(offset, length) {
            if length as u64 == PAGE {
                pages.remove(&page);
            } else if let Some(page) = pages.get_mut(&page) {
                page[start..start + length].fill(0);
            }
        }
        Ok(())
    }

    fn cache(&self, _offset: u64, _length: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, _flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let pages = self.pages.read();
        let extent = |(page, _, at, length): (u64, usize, usize, usize)| {
            let nothing = !pages.contains_key(&page);
            Extent { offset: offset + at as u64, length: length as u64, hole: nothing, zero: nothing }
        };
        Ok(parts(offset, length).map(extent).collect())
    }
}
