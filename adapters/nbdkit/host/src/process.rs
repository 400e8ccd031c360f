//! What a server process does with itself: a fork, its environment, descriptors that it was started with, its end.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;

/// Copies go above the numbers that anything inherits.
pub(crate) const LOWEST_COPY: RawFd = 10;

/// Which of the two a process is after a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The old one; the number is the new one's.
    Parent(i32),
    /// The new one.
    Child,
}

/// Forks. Only this thread is in the child: to be called while there is no other one that holds something.
///
/// # Errors
/// What the system said.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: this process has one thread of ours (contract of this function), so nothing stays locked in the child.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        number if number > 0 => Ok(Forked::Parent(number)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes variables out of the environment. To be called while the process has one thread.
pub(crate) fn forget_variables(names: &[&str]) {
    for name in names {
        // SAFETY: no other thread reads the environment (contract of this function).
        unsafe { std::env::remove_var(name) };
    }
}

/// Takes over a descriptor number that this process was started with, and that nothing of ours owns. It is closed on exec, and
/// its old number is free.
///
/// # Errors
/// `EBADF` when the number names no open descriptor.
pub(crate) fn take_over(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number is not -1, and nobody closes it meanwhile: nobody of ours knows it (contract of this function).
    let copy = fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(number) }, LOWEST_COPY)?;
    // SAFETY: close touches no memory; nobody else owns the number.
    unsafe { libc::close(number) };
    Ok(copy)
}

/// Ends the process at once, past the destructors of libraries: threads that a plugin left may still run.
pub fn leave(status: u8) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status.into()) }
}
