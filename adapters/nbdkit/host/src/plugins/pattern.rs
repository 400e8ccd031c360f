//! The plugin `pattern`: every eight bytes are their own offset, big-endian; whatever else is written is an error.

use std::ffi::OsStr;
use std::sync::Arc;

use backstay_core::{Disk, DiskError, DiskInfo, Extent, OpenDisk, ReadBytes, RequestFlags, Support, ThreadModel};

use super::Everywhere;
use crate::buffers;
use crate::log;
use crate::plugin::{Plugin, Step};
use crate::values::{Given, unknown};

/// Its name.
const NAME: &str = "pattern";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["size"];

/// The plugin.
#[derive(Default)]
pub(super) struct Pattern {
    size: Option<u64>,
}

impl Plugin for Pattern {
    fn name(&self) -> &'static str {
        NAME
    }

    fn magic(&self) -> Option<&'static str> {
        Some("size")
    }

    fn help(&self) -> &'static str {
        "size=<SIZE>           (required) Size of the disk\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<()> {
        match key {
            "size" => self.size = Some(Given { owner: NAME, key, value }.size()?),
            _ => return Err(unknown(NAME, key, PARAMETERS)),
        }
        Ok(())
    }

    fn config_complete(&mut self) -> Step<()> {
        match self.size {
            Some(_) => Ok(()),
            None => Err("pattern: the size of the disk is missing: give size=SIZE".to_owned().into()),
        }
    }

    fn thread_model(&mut self) -> Step<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    fn disk(&self) -> Step<Arc<dyn Disk>> {
        let info = DiskInfo {
            size: self.size.unwrap_or_default(),
            can_write: true,
            can_flush: true,
            can_multi_conn: true,
            fua: Support::Native,
            cache: Support::Native,
            ..DiskInfo::default()
        };
        Ok(Arc::new(Everywhere(move |client: &backstay_core::Client| {
            Ok(Box::new(Open { info: info.clone(), connection: client.number }) as Box<dyn OpenDisk>)
        })))
    }
}

/// What stands from `offset` on.
fn pattern(offset: u64, length: usize) -> Vec<u8> {
    let before = (offset % 8) as usize;
    let words = (before + length).div_ceil(8);
    let mut bytes = buffers::empty(words * 8);
    bytes.extend((0..words as u64).flat_map(|word| (offset - before as u64 + word * 8).to_be_bytes()));
    bytes.truncate(before + length);
    bytes.drain(..before);
    bytes
}

struct Open {
    info: DiskInfo,
    connection: u64,
}

impl OpenDisk for Open {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        Ok(buffers::filled(pattern(offset, length)))
    }

    fn write(&self, offset: u64, data: &[u8], _flags: RequestFlags) -> Result<(), DiskError> {
        let expected = pattern(offset, data.len());
        match data.iter().zip(&expected).position(|(given, right)| given != right) {
            None => Ok(()),
            Some(at) => {
                let place = offset + at as u64;
                let line = format!("the byte that was written at {place:#x} is not that of the pattern");
                log::error(Some((NAME, self.connection)), &line);
                Err(DiskError(libc::EIO))
            }
        }
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&self, _offset: u64, _length: u64, _flags: RequestFlags) -> Result<(), DiskError> {
        Err(DiskError(libc::EOPNOTSUPP))
    }

    fn zero(&self, _offset: u64, _length: u64, _flags: RequestFlags) -> Result<(), DiskError> {
        Err(DiskError(libc::EOPNOTSUPP))
    }

    fn cache(&self, _offset: u64, _length: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, _flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        Ok(vec![Extent { offset, length, hole: false, zero: false }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{content, open_plugin, refusal};

    #[test]
    fn every_eight_bytes_are_their_offset() {
        let disk = open_plugin(Pattern::default(), &[("size", "1021")]).unwrap();
        let bytes = content(&*disk);
        assert_eq!(bytes[0x28..0x30], 0x28_u64.to_be_bytes());
        assert_eq!(bytes.len(), 1021);
        for (offset, length) in [(0, 1), (7, 2), (13, 100), (1016, 5), (1020, 1)] {
            let read = disk.read(offset, length).unwrap();
            assert_eq!((*read).as_ref(), &bytes[offset as usize..offset as usize + length], "{offset} {length}");
        }
    }

    #[test]
    fn only_the_pattern_can_be_written() {
        let disk = open_plugin(Pattern::default(), &[("size", "1M")]).unwrap();
        let flags = RequestFlags::default();
        let bytes = content(&*disk);
        assert_eq!(disk.write(101, &bytes[101..5000], flags), Ok(()));
        assert_eq!(disk.write(102, &bytes[101..5000], flags), Err(DiskError(libc::EIO)));
    }

    #[test]
    fn wrong_parameters_are_refused() {
        assert!(refusal(open_plugin(Pattern::default(), &[])).contains("size=SIZE"));
        assert!(refusal(open_plugin(Pattern::default(), &[("size", "1k"), ("x", "y")])).contains("'x'"));
    }
}
