//! What the core makes itself when create_file answers CF_CORE (reference 4.6). Owner, mode and times stay the plugin's.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use backstay_bareos_protocol::{Failure, RestoreEntry};
use rustix::fs::{CWD, FileType, Mode, mkdir, mknodat};

use crate::constants::ft;
use crate::names;

/// How the entry goes on.
#[derive(Debug)]
pub(crate) enum Made {
    /// Not wanted, by the replace policy or by its type: said in this text, treated like CF_SKIP.
    Skipped(String),
    /// It stands, like CF_CREATED.
    Created,
    /// The plugin opens it.
    Open,
    /// It failed, like CF_ERROR.
    Failed(Failure),
}

/// Makes the object of `entry` under its output name.
pub(crate) fn create(entry: &RestoreEntry, replace: char) -> Made {
    let shown = names::shown(&entry.output_name);
    let mut name = &entry.output_name[..];
    while name.len() > 1 && name.ends_with(b"/") {
        name = &name[..name.len() - 1];
    }
    let path = Path::new(OsStr::from_bytes(name));
    let link = Path::new(OsStr::from_bytes(&entry.output_link));
    let file_type = entry.entry.file_type;

    let existing = match fs::symlink_metadata(path) {
        Ok(existing) => Some(existing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return failed(&format!("Could not look at {shown}"), &error),
    };
    if let Some(existing) = &existing {
        let (saved, there) = (entry.entry.stat.mtime, existing.mtime());
        let reason = match replace {
            'n' => Some("Already exists"),
            'w' if saved <= there => Some("Not newer"),
            'o' if saved >= there => Some("Not older"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Made::Skipped(format!("File skipped. {reason}: {shown}"));
        }
        // A name that links to itself already is what it shall be.
        if file_type == ft::LNKSAVED && link == path {
            return Made::Created;
        }
        let keep = existing.is_dir() || (is_opened_node(file_type) && is_node(existing));
        if !keep && let Err(error) = fs::remove_file(path) {
            return failed(&format!("Could not replace {shown}"), &error);
        }
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
        && let Err(error) = fs::create_dir_all(parent)
    {
        return failed(&format!("Could not create the folder {}", parent.display()), &error);
    }

    let stat = &entry.entry.stat;
    let mode = Mode::from_raw_mode(u32::from(stat.mode) & 0o7777);
    let made = match file_type {
        ft::REG | ft::REGE => return Made::Open,
        ft::DIREND | ft::NORECURSE | ft::NOFSCHG | ft::INVALIDFS | ft::INVALIDDT => {
            if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
                return Made::Created;
            }
            mkdir(path, mode).map_err(io::Error::from)
        }
        ft::LNK => symlink(link, path),
        ft::LNKSAVED => fs::hard_link(link, path),
        ft::SPEC | ft::FIFO | ft::RAW => {
            if stat.mode & 0o170_000 == 0o140_000 {
                return Made::Skipped(format!("Socket skipped: {shown}"));
            }
            let there = existing.as_ref().is_some_and(is_node);
            let made = if is_opened_node(file_type) && there { Ok(()) } else { node(path, stat.mode, stat.rdev, mode) };
            if file_type != ft::SPEC && made.is_ok() {
                return Made::Open;
            }
            made
        }
        other => {
            return Made::Failed(Failure {
                errno: 0,
                message: format!("Unknown file type {other}; not restored: {shown}"),
            });
        }
    };
    match made {
        Ok(()) => Made::Created,
        Err(error) => failed(&format!("Could not create {shown}"), &error),
    }
}

/// Types whose data the plugin writes into a node that may exist.
fn is_opened_node(file_type: i32) -> bool {
    matches!(file_type, ft::FIFO | ft::RAW)
}

fn is_node(existing: &fs::Metadata) -> bool {
    let kind = existing.file_type();
    kind.is_fifo() || kind.is_block_device() || kind.is_char_device()
}

fn node(path: &Path, full_mode: u16, rdev: u32, mode: Mode) -> io::Result<()> {
    let kind = match full_mode & 0o170_000 {
        0o010_000 => FileType::Fifo,
        0o020_000 => FileType::CharacterDevice,
        0o060_000 => FileType::BlockDevice,
        // A raw object without a node's type bits: the plugin opens whatever it is.
        _ => return Ok(()),
    };
    Ok(mknodat(CWD, path, kind, mode, rdev.into())?)
}

fn failed(what: &str, error: &io::Error) -> Made {
    let errno = error.raw_os_error().unwrap_or(0);
    Made::Failed(Failure { errno, message: format!("{what}: ERR={}", crate::context::error_text(errno)) })
}

#[cfg(test)]
mod tests {
    use backstay_bareos_protocol::{PluginEntry, StatFields};

    use super::*;

    fn entry(file_type: i32, mode: u16, mtime: i64, name: &Path, link: &Path) -> RestoreEntry {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        RestoreEntry {
            definition: String::new(),
            entry: PluginEntry {
                definition: 0,
                file_index: 1,
                file_type,
                name: bytes(name),
                link: bytes(link),
                link_file_index: 0,
                stat: StatFields { mode, mtime, ..StatFields::default() },
                flags: [0; 5],
                delta_sequence: 0,
                no_read: false,
            },
            output_name: bytes(name),
            output_link: bytes(link),
        }
    }

    #[test]
    fn directories_links_and_fifos_are_made_with_their_parents() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let none = Path::new("");
        assert!(matches!(create(&entry(ft::DIREND, 0o040_750, 0, &at("a/b/"), none), 'a'), Made::Created));
        assert!(at("a/b").is_dir());
        assert!(matches!(create(&entry(ft::LNK, 0o120_777, 0, &at("c/l"), Path::new("target")), 'a'), Made::Created));
        assert_eq!(fs::read_link(at("c/l")).unwrap(), Path::new("target"));
        assert!(matches!(create(&entry(ft::SPEC, 0o010_600, 0, &at("d/p"), none), 'a'), Made::Created));
        assert!(fs::symlink_metadata(at("d/p")).unwrap().file_type().is_fifo());
        fs::write(at("first"), b"data").unwrap();
        assert!(matches!(create(&entry(ft::LNKSAVED, 0o100_600, 0, &at("second"), &at("first")), 'a'), Made::Created));
        assert_eq!(fs::read(at("second")).unwrap(), b"data");
        assert!(matches!(create(&entry(ft::REG, 0o100_600, 0, &at("e/f"), none), 'a'), Made::Open));
        assert!(at("e").is_dir() && !at("e/f").exists());
    }

    #[test]
    fn the_replace_policy_looks_at_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, b"old").unwrap();
        let now = fs::symlink_metadata(&file).unwrap().mtime();
        let saved = |mtime| entry(ft::REG, 0o100_600, mtime, &file, Path::new(""));
        for (replace, mtime) in [('n', now + 5), ('w', now), ('w', now - 5), ('o', now), ('o', now + 5)] {
            assert!(matches!(create(&saved(mtime), replace), Made::Skipped(_)), "{replace} {mtime}");
            assert!(file.exists());
        }
        assert!(matches!(create(&saved(now + 5), 'w'), Made::Open));
        assert!(!file.exists(), "what is replaced is removed first");
    }

    #[test]
    fn what_cannot_be_made_fails_with_the_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), b"").unwrap();
        let below = folder.path().join("f/g");
        let Made::Failed(failure) = create(&entry(ft::REG, 0o100_600, 0, &below, Path::new("")), 'a') else {
            panic!("a file has no children");
        };
        assert!(failure.message.contains("f/g"), "{}", failure.message);
        let Made::Failed(failure) = create(&entry(99, 0, 0, &folder.path().join("x"), Path::new("")), 'a') else {
            panic!("there is no type 99");
        };
        assert!(failure.message.starts_with("Unknown file type 99"));
    }
}
