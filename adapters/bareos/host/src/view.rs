//! What the rest of the world sees of a plugin's entry: an ordinary name, kind and stat. The entry itself goes along,
//! word for word, for the restore through the plugin.

use backstay_bareos_protocol::{FileOffer, PluginEntry, StatFields};
use backstay_core::{Entry, FileKind, Offer, Stat, Time};

/// FT_LNKSAVED: another name of a file that was saved before.
pub(crate) const FT_LNKSAVED: i32 = 1;

/// Turns a plugin's entry into the engine's.
pub(crate) fn entry(plugin: &PluginEntry) -> Result<Entry, postcard::Error> {
    Ok(Entry {
        name: plugin.name.clone(),
        kind: kind(plugin),
        link: plugin.link.clone(),
        hard_link: plugin.file_type == FT_LNKSAVED,
        stat: stat(&plugin.stat),
        native: postcard::to_stdvec(plugin)?,
    })
}

/// A file of the walk as an option plugin gets it (reference 3.8, measured).
pub(crate) fn offer(definition: u32, offer: &Offer) -> FileOffer {
    let Offer { entry, allocated, block_size, .. } = offer;
    let mut link = entry.name.clone();
    let file_type = match entry.kind {
        FileKind::File if entry.stat.size == 0 => 2,
        FileKind::File => 3,
        FileKind::Symlink => {
            link.clone_from(&entry.link);
            4
        }
        FileKind::Directory => {
            link.push(b'/');
            5
        }
        FileKind::BlockDevice | FileKind::CharDevice | FileKind::Fifo | FileKind::Socket => 6,
    };
    // The packet's fields are as wide as Bareos made them.
    #[allow(clippy::cast_possible_truncation)]
    let stat = StatFields {
        dev: entry.stat.device_id as u32,
        ino: entry.stat.inode,
        mode: entry.stat.mode as u16,
        nlink: entry.stat.links as u16,
        uid: entry.stat.uid,
        gid: entry.stat.gid,
        rdev: entry.stat.rdev as u32,
        size: entry.stat.size,
        atime: entry.stat.atime.seconds,
        mtime: entry.stat.mtime.seconds,
        ctime: entry.stat.ctime.seconds,
        blksize: *block_size,
        blocks: allocated / 512,
    };
    FileOffer { definition, file_type, name: entry.name.clone(), link, stat }
}

fn kind(plugin: &PluginEntry) -> FileKind {
    let by_mode = FileKind::from_mode(u32::from(plugin.stat.mode));
    match plugin.file_type {
        // LNK, JUNCTION.
        4 | 26 => FileKind::Symlink,
        // DIREND, NORECURSE, NOFSCHG, INVALIDFS, INVALIDDT, REPARSE.
        5 | 13 | 14 | 19 | 20 | 21 => FileKind::Directory,
        // REGE, REG.
        2 | 3 => FileKind::File,
        // RAW: a device without data, a file with the device's data.
        16 if !plugin.no_read => FileKind::File,
        // SPEC, FIFO, RAW: the mode tells.
        6 | 16 | 17 => by_mode.unwrap_or(FileKind::Fifo),
        _ => match by_mode {
            Some(FileKind::Directory | FileKind::Symlink) | None => FileKind::File,
            Some(kind) => kind,
        },
    }
}

fn stat(fields: &StatFields) -> Stat {
    let time = |seconds| Time { seconds, nanoseconds: 0 };
    Stat {
        device_id: u64::from(fields.dev),
        inode: fields.ino,
        mode: u32::from(fields.mode),
        links: u64::from(fields.nlink),
        uid: fields.uid,
        gid: fields.gid,
        rdev: u64::from(fields.rdev),
        size: fields.size,
        atime: time(fields.atime),
        mtime: time(fields.mtime),
        ctime: time(fields.ctime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(file_type: i32, mode: u16, no_read: bool) -> PluginEntry {
        PluginEntry {
            definition: 0,
            file_index: 1,
            file_type,
            name: b"n\xff".to_vec(),
            link: b"l".to_vec(),
            link_file_index: 0,
            stat: StatFields { mode, mtime: i64::MAX, size: u64::MAX, ..StatFields::default() },
            flags: [0; 5],
            delta_sequence: 0,
            no_read,
        }
    }

    #[test]
    fn the_type_decides_and_the_mode_where_the_type_is_silent() {
        let kind_of = |file_type, mode, no_read| kind(&plugin(file_type, mode, no_read));
        assert_eq!(kind_of(3, 0o040_755, false), FileKind::File);
        assert_eq!(kind_of(5, 0o100_644, true), FileKind::Directory);
        assert_eq!(kind_of(4, 0, true), FileKind::Symlink);
        assert_eq!(kind_of(6, 0o020_644, true), FileKind::CharDevice);
        assert_eq!(kind_of(6, 0o140_644, true), FileKind::Socket);
        assert_eq!(kind_of(17, 0, true), FileKind::Fifo);
        assert_eq!(kind_of(16, 0o060_600, true), FileKind::BlockDevice);
        assert_eq!(kind_of(16, 0o060_600, false), FileKind::File);
        assert_eq!(kind_of(1, 0o010_600, true), FileKind::Fifo);
        assert_eq!(kind_of(1, 0, true), FileKind::File);
    }

    #[test]
    fn nothing_is_lost_on_the_way_to_the_restore() {
        let given = plugin(FT_LNKSAVED, 0o100_644, true);
        let seen = entry(&given).unwrap();
        assert!(seen.hard_link);
        assert_eq!(
            (seen.name.as_slice(), seen.stat.size, seen.stat.mtime.seconds),
            (&b"n\xff"[..], u64::MAX, i64::MAX)
        );
        assert_eq!(postcard::from_bytes::<PluginEntry>(&seen.native).unwrap(), given);
    }
}
