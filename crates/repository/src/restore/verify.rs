//! Reading restored files again and comparing them with the snapshot's hashes.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use backstay_core::Id;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread};

use super::plan::{File, Piece, Plan};
use super::target::{Directories, Handles};
use super::{Run, add};
use crate::reader::Result;

/// Reads every piece that was written and compares its hash. Pieces that stood there before were compared then.
pub(super) fn verify(run: &Run<'_>, directories: &Directories, plan: &mut Plan) {
    plan.pieces.sort_unstable_by_key(|piece| (piece.file, piece.at));
    let plan = &*plan;
    let next = Mutex::new(0);
    run.on_threads(run.workers(), || {
        let mut handles = Handles::new(run, directories);
        let mut buffer = Vec::new();
        while let Some(range) = next_file(&plan.pieces, &next) {
            if run.stopping() {
                return;
            }
            let pieces = &plan.pieces[range];
            let Some(file) = pieces.first().and_then(|piece| plan.files.get(piece.file as usize)) else { continue };
            if file.failed.load(Ordering::Acquire) {
                continue;
            }
            let result = match open(&mut handles, file) {
                Ok(fd) => compare(&fd, file, pieces, &mut buffer),
                Err(error) => Err(format!("it cannot be verified: {}", std::io::Error::from(error))),
            };
            match result {
                Ok(()) => add(&run.counters.files_verified, 1),
                Err(message) => {
                    run.fail(&directories.path_of(file.directory, &file.name), message);
                    plan.failed(file);
                }
            }
        }
    });
}

fn next_file(pieces: &[Piece], next: &Mutex<usize>) -> Option<Range<usize>> {
    let mut next = next.lock();
    let start = *next;
    let file = pieces.get(start)?.file;
    let length = pieces[start..].iter().take_while(|piece| piece.file == file).count();
    *next = start + length;
    Some(start..start + length)
}

fn open(handles: &mut Handles<'_>, file: &File) -> rustix::io::Result<OwnedFd> {
    let directory = handles.make(file.directory)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Reading must not change the time of last access that was just restored; not every file lets us ask for that.
    match openat(&*directory, &*file.name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(&*directory, &*file.name, flags, Mode::empty()),
        result => result,
    }
}

fn compare(fd: &OwnedFd, file: &File, pieces: &[Piece], buffer: &mut Vec<u8>) -> Result<(), String> {
    let io = |error: Errno| format!("it cannot be verified: {}", std::io::Error::from(error));
    let length = fstat(fd).map_err(io)?.st_size;
    if u64::try_from(length) != Ok(file.size) {
        return Err(format!("verification failed: it is {length} bytes long, not {}", file.size));
    }
    for piece in pieces {
        let wanted = usize::try_from(piece.plain_length()).map_err(|error| error.to_string())?;
        buffer.resize(wanted, 0);
        let mut done = 0;
        while done < wanted {
            match pread(fd, &mut buffer[done..], piece.at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(io(error)),
            }
        }
        if done < wanted || Id::of(buffer) != piece.id {
            return Err(format!("verification failed: the bytes from {} on are not those of the snapshot", piece.at));
        }
    }
    Ok(())
}
