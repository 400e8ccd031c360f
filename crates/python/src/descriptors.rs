//! Raw descriptor numbers, which are all that Python code hands over.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Duplicates a descriptor number that Python named. The duplicate is closed on exec; the plugin keeps its own.
///
/// # Errors
/// `EBADF` when the number names no open descriptor.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl touches no memory, and the kernel checks the number.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 6) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// What `fstat` says of a descriptor number that Python named: whether it is a regular file, and its length in bytes.
///
/// # Errors
/// `EBADF` when the number names no open descriptor.
pub fn stat(number: RawFd) -> io::Result<(bool, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel checks the number, and writes a whole `stat` into room for one.
    if unsafe { libc::fstat(number, stat.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat has succeeded, so it was written.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_mode & libc::S_IFMT == libc::S_IFREG, u64::try_from(stat.st_size).unwrap_or(0)))
}

/// One `read(2)` from a descriptor number that Python named; 0 at the end of the file.
///
/// # Errors
/// What the system said; `EBADF` when the number names no open descriptor.
pub fn read(number: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel checks the number, and writes at most as many bytes as the buffer has.
    let count = unsafe { libc::read(number, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
