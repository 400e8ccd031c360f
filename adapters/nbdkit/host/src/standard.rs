//! The standard streams: the user's until the server serves, then nobody's (reference 1 step 9, 3).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stdin, stdout};

use crate::captive::Streams;
use crate::process::LOWEST_COPY;

fn nothing() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

/// Puts nothing in the place of standard input and output, and gives what was there.
///
/// # Errors
/// What the system said.
pub(crate) fn take() -> io::Result<Streams> {
    let copy = |fd| -> io::Result<OwnedFd> { Ok(fcntl_dupfd_cloexec(fd, LOWEST_COPY)?) };
    let streams = Streams { input: copy(stdin())?, output: copy(stdout())? };
    let nothing = nothing()?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    Ok(streams)
}

/// Puts nothing in the place of standard error.
///
/// # Errors
/// What the system said.
pub(crate) fn silence_stderr() -> io::Result<()> {
    Ok(dup2_stderr(nothing()?)?)
}
