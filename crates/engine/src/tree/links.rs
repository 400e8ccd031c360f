//! Contents of files with several names: read once, however many names are met.

use std::collections::HashMap;

use backstay_core::Id;
use parking_lot::Mutex;

use crate::filesystem::FileStat;

/// Files remembered at most: past that, a further file is read once for each of its names (and stored once all the same).
const CAPACITY: usize = 200_000;

#[derive(Debug)]
struct Link {
    stat: FileStat,
    content: Vec<Id>,
    size: u64,
    /// Names not met yet.
    left: u64,
}

/// Contents by device and inode.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<(u64, u64), Link>>);

impl Links {
    /// The contents (blobs and length in bytes) that were read under another name, if the file has not changed since.
    pub(super) fn take(&self, stat: &FileStat) -> Option<(Vec<Id>, u64)> {
        if stat.stat.links < 2 {
            return None;
        }
        let key = (stat.stat.device_id, stat.stat.inode);
        let mut map = self.0.lock();
        let link = map.get_mut(&key)?;
        if !link.stat.same_contents(stat) {
            return None;
        }
        link.left = link.left.saturating_sub(1);
        if link.left == 0 {
            return map.remove(&key).map(|link| (link.content, link.size));
        }
        Some((link.content.clone(), link.size))
    }

    /// Remembers what was read.
    pub(super) fn put(&self, stat: &FileStat, content: &[Id], size: u64) {
        if stat.stat.links < 2 {
            return;
        }
        let key = (stat.stat.device_id, stat.stat.inode);
        let mut map = self.0.lock();
        if map.len() < CAPACITY || map.contains_key(&key) {
            let left = stat.stat.links - 1;
            map.insert(key, Link { stat: *stat, content: content.to_vec(), size, left });
        }
    }
}
