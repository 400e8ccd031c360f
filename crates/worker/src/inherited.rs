//! A worker's first act: it takes over the descriptors that its host passed at fixed numbers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::channel::Channel;
use crate::ring::{RingReader, RingWriter};
use crate::{BACKUP_RING_FD, CONTROL_FD, RESTORE_RING_FD};

/// What a worker is started with.
#[derive(Debug)]
pub struct Inherited {
    /// Control frames.
    pub channel: Channel,
    /// The ring that the worker writes in a backup.
    pub backup: RingWriter,
    /// The ring that the host writes in a restore.
    pub restore: RingReader,
}

/// Takes over descriptors 3, 4 and 5, becomes the leader of a session of its own and asks the kernel to be killed
/// with its host. They do not reach programs that the worker starts. Call it first thing in `main`, once.
///
/// # Errors
/// `InvalidInput` when this process was not started by a host, or the second time.
pub fn inherited() -> io::Result<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let refused = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors 3, 4 and 5 are not there: backstay starts this program",
        )
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(refused());
    }
    let mut taken = Vec::with_capacity(3);
    for number in [CONTROL_FD, BACKUP_RING_FD, RESTORE_RING_FD] {
        // SAFETY: the number is only asked about, not used as if it were open: the call fails with EBADF if it is not.
        let asked = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
        asked.map_err(|_| refused())?;
        // SAFETY: it is open (checked above) and nobody else in this process owns it: the number is the host's promise,
        // this is the first thing that the program does, and TAKEN lets it happen once.
        taken.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    for descriptor in &taken {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
    }
    let mut taken = taken.into_iter();
    let (Some(control), Some(backup), Some(restore)) = (taken.next(), taken.next(), taken.next()) else {
        return Err(refused());
    };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // What outlives its parent comes to us, where the host finds it.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Fails only for a process that leads a group already, which a host's child may do.
    let _ = rustix::process::setsid();
    Ok(Inherited {
        channel: Channel::new(control),
        backup: RingWriter::new(&backup)?,
        restore: RingReader::new(&restore)?,
    })
}
