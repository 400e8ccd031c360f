//! The filter `offset`: a range of a disk as a disk.

use std::ffi::OsStr;
use std::sync::Arc;

use backstay_core::{Client, Disk, DiskError, DiskInfo, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags};

use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer, cut};
use crate::plugin::Step;
use crate::values::Given;

/// Its name.
const NAME: &str = "offset";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["offset", "range"];

/// The filter.
#[derive(Default)]
pub(super) struct Offset {
    offset: u64,
    range: Option<u64>,
}

impl Filter for Offset {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         offset=<OFFSET>       Where the range begins [default: 0]\n\
         range=<LENGTH>        [default: to the end]\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        match key {
            "offset" => self.offset = given.size()?,
            "range" => self.range = Some(given.size()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        Ok(Arc::new(Layered(Front { disk, offset: self.offset, range: self.range })))
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    offset: u64,
    range: Option<u64>,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk = self.disk.open(export, client)?;
        let whole = disk.info().size;
        let refused =
            |what: String| OpenError::Refused(format!("{NAME}: {what} the {whole} bytes of the disk behind it"));
        let left =
            whole.checked_sub(self.offset).ok_or_else(|| refused(format!("offset={} is beyond", self.offset)))?;
        let size = self.range.unwrap_or(left);
        if size > left {
            return Err(refused(format!("offset={} range={size} goes beyond", self.offset)));
        }
        match disk.block_size().map_err(OpenError::Close)? {
            Some(sizes) if sizes.minimum > 1 && !self.offset.is_multiple_of(sizes.minimum.into()) => {
                let (offset, least) = (self.offset, sizes.minimum);
                let line = format!(
                    "{NAME}: offset={offset} must be a multiple of {least} bytes, the least that the disk behind it takes"
                );
                return Err(OpenError::Refused(line));
            }
            _ => {}
        }
        let info = DiskInfo { size, ..disk.info().clone() };
        Ok(Box::new(Layered(Open { disk, offset: self.offset, info })))
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    offset: u64,
    info: DiskInfo,
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.disk.read(self.offset + offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.disk.write(self.offset + offset, data, flags)
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.disk.trim(self.offset + offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.disk.zero(self.offset + offset, length, flags)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.disk.cache(self.offset + offset, length)
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let extents = self.disk.extents(self.offset + offset, length, flags)?;
        let here = cut(extents, self.offset, self.info.size);
        Ok(here.map(|extent| Extent { offset: extent.offset - self.offset, ..extent }).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{acts, agree, content, filtered, half_full, open, refusal};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_range_is_a_disk_and_nothing_around_it_changes(acts in acts(), offset in 0_u64..300_000, range in 1_u64..700_000) {
            let (memory, mut bytes) = half_full(1 << 20);
            let memory = Arc::new(memory);
            let (offset_text, range_text) = (offset.to_string(), range.to_string());
            let mut filter = Offset::default();
            filter.config("offset", offset_text.as_ref()).unwrap();
            filter.config("range", range_text.as_ref()).unwrap();
            let disk = Box::new(filter).wrap(Arc::clone(&memory) as _).unwrap();
            agree(&*open(&*disk), &mut bytes[offset as usize..(offset + range) as usize], &acts);
            prop_assert!(content(&*open(&*memory)) == bytes);
        }
    }

    #[test]
    fn a_range_beyond_the_end_cannot_be_opened() {
        for parameters in [&[("offset", "1048577")][..], &[("offset", "1M"), ("range", "1")], &[("range", "2M")]] {
            let disk = filtered(Offset::default(), parameters, half_full(1 << 20).0).unwrap();
            let Err(OpenError::Refused(line)) = disk.open(b"", &Client::default()) else { panic!("{parameters:?}") };
            assert!(line.contains("beyond the 1048576 bytes"), "{line}");
        }
        assert!(refusal(Offset::default().config("range", "-5".as_ref())).starts_with("offset: range=-5: "));
    }
}
