//! `read_password` (reference 4.2): from the terminal, a descriptor, a file, or the text itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use backstay_nbdkit_host::control;
use backstay_python_runtime::descriptors;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// The longest password that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads what `value` names; the newline at its end is not part of it.
///
/// # Errors
/// One sentence; the password is not in it.
pub(crate) fn read(value: &str) -> Result<Vec<u8>, String> {
    if value == "-" {
        interactive()
    } else if let Some(number) = value.strip_prefix('-') {
        from_descriptor(number)
    } else if let Some(path) = value.strip_prefix('+') {
        let file = File::open(path).map_err(|error| format!("open: {path}: {error}"))?;
        first_line(file).map_err(|error| format!("{path}: {error}"))
    } else {
        Ok(value.as_bytes().to_vec())
    }
}

fn from_descriptor(number: &str) -> Result<Vec<u8>, String> {
    let number: i32 = number.parse().map_err(|_| format!("cannot read a password from descriptor '{number}'"))?;
    if number <= 2 {
        return Err("cannot read a password from standard input, output or error by their number".to_owned());
    }
    let descriptor = descriptors::duplicate(number).map_err(|error| format!("descriptor {number}: {error}"))?;
    first_line(descriptor.into()).map_err(|error| format!("descriptor {number}: {error}"))
}

fn first_line(file: File) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(file.take(LONGEST)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}

fn interactive() -> Result<Vec<u8>, String> {
    let input = io::stdin();
    if !control::stdio_safe() {
        return Err("a password can be asked for only before the server serves, and not with -s".to_owned());
    }
    if !input.is_terminal() {
        return Err("standard input is no terminal: a password cannot be asked for".to_owned());
    }
    let unanswered = |error: io::Error| format!("the password could not be read: {error}");
    io::stderr().write_all(b"password: ").map_err(unanswered)?;
    let before = tcgetattr(input.as_fd()).map_err(|error| unanswered(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(input.as_fd(), OptionalActions::Flush, &silent).map_err(|error| unanswered(error.into()))?;
    let mut line = Vec::new();
    let result = input.lock().take(LONGEST).read_until(b'\n', &mut line);
    tcsetattr(input.as_fd(), OptionalActions::Flush, &before).map_err(|error| unanswered(error.into()))?;
    let _ = io::stderr().write_all(b"\n");
    result.map_err(unanswered)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}
