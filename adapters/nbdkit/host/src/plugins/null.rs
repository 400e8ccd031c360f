//! The plugin `null`: reads zeroes, forgets what is written.

use std::ffi::OsStr;
use std::sync::Arc;

use backstay_core::{Disk, DiskError, DiskInfo, Extent, OpenDisk, ReadBytes, RequestFlags, ThreadModel};

use super::{Everywhere, zeroes};
use crate::plugin::{Plugin, Step};
use crate::values::{Given, unknown};

/// Its name.
const NAME: &str = "null";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["size"];

/// The plugin.
#[derive(Default)]
pub(super) struct Null {
    size: u64,
}

impl Plugin for Null {
    fn name(&self) -> &'static str {
        NAME
    }

    fn magic(&self) -> Option<&'static str> {
        Some("size")
    }

    fn help(&self) -> &'static str {
        "size=<SIZE>           Size of the disk [default: 0]\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<()> {
        match key {
            "size" => self.size = Given { owner: NAME, key, value }.size()?,
            _ => return Err(unknown(NAME, key, PARAMETERS)),
        }
        Ok(())
    }

    fn config_complete(&mut self) -> Step<()> {
        Ok(())
    }

    fn thread_model(&mut self) -> Step<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    fn disk(&self) -> Step<Arc<dyn Disk>> {
        let info = DiskInfo::able(self.size);
        Ok(Arc::new(Everywhere(move |_: &_| Ok(Box::new(Open(info.clone())) as Box<dyn OpenDisk>))))
    }
}

struct Open(DiskInfo);

impl OpenDisk for Open {
    fn info(&self) -> &DiskInfo {
        &self.0
    }

    fn read(&self, _offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        Ok(zeroes(length))
    }

    fn write(&self, _offset: u64, _data: &[u8], _flags: RequestFlags) -> Result<(), DiskError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&self, _offset: u64, _length: u64, _flags: RequestFlags) -> Result<(), DiskError> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _length: u64, _flags: RequestFlags) -> Result<(), DiskError> {
        Ok(())
    }

    fn cache(&self, _offset: u64, _length: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, _flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        Ok(vec![Extent { offset, length, hole: true, zero: true }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{content, open_plugin, refusal};

    #[test]
    fn what_is_written_is_forgotten() {
        let disk = open_plugin(Null::default(), &[("size", "600k")]).unwrap();
        disk.write(5, b"hello", RequestFlags::default()).unwrap();
        assert!(content(&*disk).iter().all(|byte| *byte == 0));
        assert_eq!(open_plugin(Null::default(), &[]).unwrap().info().size, 0);
    }

    #[test]
    fn wrong_parameters_are_refused() {
        assert!(refusal(open_plugin(Null::default(), &[("size", "x")])).starts_with("null: size=x: "));
        assert!(refusal(open_plugin(Null::default(), &[("file", "x")])).contains("'file'"));
    }
}
