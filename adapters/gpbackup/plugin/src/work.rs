//! What the storing and restoring commands do: the agent does the work, or this process where there is none.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::agent::client::{self, Handed};
use crate::config::Config;
use crate::key::Key;
use crate::objects::{Object, Objects, Output, Range};
use crate::session::Line;
use crate::{Failure, log};

/// Stores a local file.
pub(crate) fn backup_file(config: &Config, path: &Path) -> Result<(), Failure> {
    let key = Key::of(path)?;
    let open = || {
        let file =
            File::open(path).map_err(|error| Failure::new(format!("cannot open {}: {error}", path.display())))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(Failure::new(format!("{} is no file", path.display())));
        }
        Ok(file)
    };
    match client::store(config, &key, open()?.as_fd(), true) {
        Handed::Over(result) => result,
        Handed::Not => Objects::to_write(config.clone())?.store(&key, open()?.as_fd()),
        Handed::Lost => {
            log::warning(&format!("the agent died with {}: it is stored anew", path.display()));
            Objects::to_write(config.clone())?.store(&key, open()?.as_fd())
        }
    }
}

/// Stores standard input.
pub(crate) fn backup_data(config: &Config, key: &Key) -> Result<(), Failure> {
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let input = input.map_err(|error| Failure::new(format!("standard input: {error}")))?;
    match client::store(config, key, input.as_fd(), false) {
        Handed::Over(result) => result,
        Handed::Not => Objects::to_write(config.clone())?.store(key, input.as_fd()),
        // Some of it is gone with the agent.
        Handed::Lost => Err(Failure::new(format!("the agent died: {} was not stored", key.path()))),
    }
}

/// Writes an object, or ranges of it, to standard output.
///
/// # Errors
/// There is none: nothing is written. It is damaged: what was written until then is right, and ends short.
pub(crate) fn restore_data(config: &Config, key: &Key, ranges: Option<&[Range]>) -> Result<(), Failure> {
    let output = || -> Result<OwnedFd, Failure> {
        let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
        copy.map_err(|error| Failure::new(format!("standard output: {error}")))
    };
    match client::fetch(config, key, ranges, output) {
        Handed::Over(result) => result,
        Handed::Not => {
            let object = Objects::to_read(config.clone())?.find(key)?;
            ranges.map_or(Ok(()), |ranges| object.check(ranges))?;
            object.write(ranges, Output::new(output()?.into(), Line::Own), u64::MAX)
        }
        Handed::Lost => Err(Failure::new(format!("the agent died: {} was not written to its end", key.path()))),
    }
}

/// Writes an object to a local file, which is made, or written over.
///
/// # Errors
/// There is no such object: the file stays as it is. It could not be written whole: the file is gone.
pub(crate) fn restore_file(config: &Config, path: &Path) -> Result<(), Failure> {
    let key = Key::of(path)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::new(format!("cannot write {}: {error}", path.display()));
    let mut made = None;
    let mut make = || -> Result<OwnedFd, Failure> {
        let file = File::create(path).map_err(|error| wrong(&error))?;
        let copy = file.try_clone().map_err(|error| wrong(&error))?;
        made = Some(file);
        Ok(copy.into())
    };
    let written = match client::fetch(config, &key, None, &mut make) {
        Handed::Over(result) => result,
        handed => {
            if matches!(handed, Handed::Lost) {
                log::warning(&format!("the agent died with {}: it is written anew", path.display()));
            }
            let object: Object = Objects::to_read(config.clone())?.find(&key)?;
            let output = make()?;
            object.write(None, Output::new(output.into(), Line::Own), u64::MAX)
        }
    };
    let Some(file) = made else { return written };
    let written = written.and_then(|()| file.sync_all().map_err(|error| wrong(&error)));
    if written.is_err() {
        // Half a file must not look like the whole one.
        let _ = std::fs::remove_file(path);
    }
    written
}
