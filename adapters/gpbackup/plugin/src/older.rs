//! Backups that gpbackup_s3_plugin made before (reference 10.2): they are restored and deleted, and no more are made.
//!
//! Its objects are at `FOLDER/backups/DATE/TIMESTAMP/NAME`, bare: nothing proves that they are what was stored. So they are looked
//! for only where the repository, which proves everything, has no such object. One that comes short ends the stream short, with
//! an error.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use backstay_stores::{ForeignObjects, StoreOptions, open_foreign};

use crate::config::Config;
use crate::key::{Key, Timestamp};
use crate::objects::Range;
use crate::place::{PATIENCE, told};
use crate::{Failure, log};

/// Bytes that are asked for at once.
const PIECE: u64 = 16 << 20;

/// The objects of that plugin; none where the configuration says nothing of a bucket.
fn objects(config: &Config) -> Result<Option<ForeignObjects>, Failure> {
    let Some(s3) = &config.s3 else { return Ok(None) };
    let options = StoreOptions {
        retry_time: PATIENCE,
        limit_upload: config.limit_upload,
        limit_download: config.limit_download,
        connections: config.connections,
        ..StoreOptions::default()
    };
    open_foreign(&s3.address(), &s3.dress(options)).map(Some).map_err(|error| told(&error))
}

fn path(key: &Key) -> String {
    format!("{}/{}", folder(&key.timestamp), key.name)
}

fn folder(timestamp: &Timestamp) -> String {
    format!("backups/{}/{timestamp}", timestamp.date())
}

/// Where the repository had no such object: writes that plugin's, or ranges of it, to standard output.
///
/// # Errors
/// What the repository said, where that plugin stored none either; the bucket's.
pub(crate) fn restore_data(
    config: &Config,
    key: &Key,
    ranges: Option<&[Range]>,
    said: Result<(), Failure>,
) -> Result<(), Failure> {
    let Err(Failure::Missing(said)) = said else { return said };
    let Some((objects, size)) = find(config, key)? else { return Err(Failure::Missing(said)) };
    let all = [(0, size)];
    let ranges = ranges.unwrap_or(&all);
    if let Some((start, end)) = ranges.iter().find(|(_, end)| *end > size) {
        let path = path(key);
        return Err(Failure::new(format!("the range {start} to {end} ends behind {path} with its {size} bytes")));
    }
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
    let mut output: File = output.map_err(|error| Failure::new(format!("standard output: {error}")))?.into();
    copy(&objects, key, ranges, &mut output, "standard output")
}

/// Where the repository had no such object: writes that plugin's to a local file.
///
/// # Errors
/// As [`restore_data`]; the file cannot be written: it is gone then.
pub(crate) fn restore_file(config: &Config, file: &Path, said: Result<(), Failure>) -> Result<(), Failure> {
    let Err(Failure::Missing(said)) = said else { return said };
    let key = Key::of(file)?;
    let Some((objects, size)) = find(config, &key)? else { return Err(Failure::Missing(said)) };
    let shown = file.display().to_string();
    let wrong = |error: io::Error| Failure::new(format!("cannot write {shown}: {error}"));
    let mut output = File::create(file).map_err(wrong)?;
    let written = copy(&objects, &key, &[(0, size)], &mut output, &shown);
    let written = written.and_then(|()| output.sync_all().map_err(wrong));
    if written.is_err() {
        // Half a file must not look like the whole one.
        let _ = std::fs::remove_file(file);
    }
    written
}

/// Deletes what that plugin stored of a backup; that there is none is fine.
///
/// # Errors
/// The bucket's.
pub(crate) fn delete(config: &Config, timestamp: &Timestamp) -> Result<(), Failure> {
    let Some(objects) = objects(config)? else { return Ok(()) };
    let count = objects.delete_below(&folder(timestamp)).map_err(|error| told(&error))?;
    if count > 0 {
        log::info(&format!("deleted {count} objects of gpbackup_s3_plugin of backup {timestamp}"));
    }
    Ok(())
}

fn find(config: &Config, key: &Key) -> Result<Option<(ForeignObjects, u64)>, Failure> {
    let Some(objects) = objects(config)? else { return Ok(None) };
    let size = objects.size(&path(key)).map_err(|error| told(&error))?;
    if size.is_some() {
        log::info(&format!("{} was stored by gpbackup_s3_plugin: it is read from there", path(key)));
    }
    Ok(size.map(|size| (objects, size)))
}

/// Copies ranges, one behind the other; while a piece is written the next one is on its way.
fn copy(objects: &ForeignObjects, key: &Key, ranges: &[Range], output: &mut File, shown: &str) -> Result<(), Failure> {
    let path = path(key);
    let pieces = ranges.iter().flat_map(|&(start, end)| {
        (start..end).step_by(PIECE as usize).map(move |from| from..end.min(from.saturating_add(PIECE)))
    });
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let path = &path;
        scope.spawn(move || {
            for piece in pieces {
                let read = objects.read(path, &piece);
                let failed = read.is_err();
                // Nobody listens any more where writing failed.
                if sender.send(read).is_err() || failed {
                    return;
                }
            }
        });
        for piece in receiver {
            let bytes = piece.map_err(|error| told(&error))?;
            output.write_all(&bytes).map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Failure::ReaderGone,
                _ => Failure::new(format!("cannot write to {shown}: {error}")),
            })?;
        }
        Ok(())
    })
}
