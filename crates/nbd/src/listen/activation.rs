//! Sockets that whoever started the program listens on already: `LISTEN_PID` and `LISTEN_FDS` (reference 2.6).
#![allow(unsafe_code)]

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::sockopt;

/// The first of them.
const FIRST: RawFd = 3;
/// So many at most.
const MOST: RawFd = 16;

/// Takes over the sockets that this process was started with; none: it was started without. They do not reach programs that
/// it starts, nor do the variables. Call it first thing in `main`, before there is a second thread, once.
///
/// # Errors
/// There are too many or none, or one is no listening socket; or it is the second time.
pub fn inherited() -> io::Result<Option<Vec<OwnedFd>>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let (Some(process), Some(count)) = (env::var_os("LISTEN_PID"), env::var_os("LISTEN_FDS")) else {
        return Ok(None);
    };
    if process.to_str().and_then(|text| text.parse().ok()) != Some(std::process::id()) {
        return Ok(None);
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(wrong("the sockets of LISTEN_FDS were taken already".to_owned()));
    }
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: the caller is the only thread yet.
        unsafe { env::remove_var(name) };
    }
    let count = count.to_str().and_then(|text| text.parse::<RawFd>().ok()).filter(|count| (1..=MOST).contains(count));
    let count = count.ok_or_else(|| wrong(format!("LISTEN_FDS is not a number from 1 to {MOST}")))?;
    (FIRST..FIRST + count).map(take).collect::<io::Result<_>>().map(Some)
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number is only asked about, not used as if it were open: the call fails with EBADF if it is not.
    let asked = sockopt::socket_acceptconn(unsafe { BorrowedFd::borrow_raw(number) });
    if !asked.is_ok_and(|listens| listens) {
        return Err(wrong(format!("descriptor {number} of LISTEN_FDS is no listening socket")));
    }
    // SAFETY: it is open (asked above) and nobody else in this process owns it: the number is the promise of whoever started
    // it, this is the first thing that the program does, and TAKEN lets it happen once.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
