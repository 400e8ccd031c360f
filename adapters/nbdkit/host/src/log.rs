//! Where messages go (reference 2.1 `--log`, `-v`; 6.4): errors to standard error, the system's log or nowhere; debug lines
//! to standard error. Each message is one write, so that those of several threads never mix.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::options::LogTo;

/// The name that messages begin with.
pub const PROGRAM: &str = "nbdkit";
/// Facility daemon, level err.
const PRIORITY: u32 = (3 << 3) | 3;
/// The longest text of one datagram to the system's log, in bytes.
const LONGEST_DATAGRAM: usize = 60_000;

static DESTINATION: AtomicU8 = AtomicU8::new(0);
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Chooses where errors go.
pub fn set_destination(to: LogTo) {
    DESTINATION.store(to as u8, Ordering::Relaxed);
}

/// Chooses whether debug lines are shown.
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// The kinds of debug lines that `-D` silences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `nbdkit.backend.controlpath`: callbacks around connections.
    Control,
    /// `nbdkit.backend.datapath`: callbacks of the data.
    Data,
}

static SILENCED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

/// Chooses whether a kind of debug lines is shown, where debug lines are.
pub fn set_shown(path: Path, shown: bool) {
    SILENCED[path as usize].store(!shown, Ordering::Relaxed);
}

/// Whether this kind of debug lines is shown.
#[must_use]
pub fn shows(path: Path) -> bool {
    is_verbose() && !SILENCED[path as usize].load(Ordering::Relaxed)
}

/// Whether debug lines are shown.
#[must_use]
pub fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// `nbdkit: error: TEXT`; with the plugin's name and the number of a connection, `nbdkit: python[N]: error: TEXT`.
pub fn error(connection: Option<(&str, u64)>, text: &str) {
    let line = line(connection, "error", text);
    match DESTINATION.load(Ordering::Relaxed) {
        to if to == LogTo::Stderr as u8 => write_stderr(&line),
        to if to == LogTo::Syslog as u8 => write_syslog(&line),
        _ => {}
    }
}

/// The same for a debug line, which nobody sees without `-v`.
pub fn debug(connection: Option<(&str, u64)>, text: &str) {
    if is_verbose() {
        write_stderr(&line(connection, "debug", text));
    }
}

/// What the command line is told: always on standard error, without a level.
pub fn say(text: &str) {
    write_stderr(&format!("{PROGRAM}: {text}\n"));
}

fn line(connection: Option<(&str, u64)>, level: &str, text: &str) -> String {
    let text = text.trim_end_matches('\n');
    match connection {
        Some((plugin, number)) => format!("{PROGRAM}: {plugin}[{number}]: {level}: {text}\n"),
        None => format!("{PROGRAM}: {level}: {text}\n"),
    }
}

fn write_stderr(line: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn write_syslog(line: &str) {
    let text = line.strip_prefix(PROGRAM).unwrap_or(line).trim_end();
    let mut end = text.len().min(LONGEST_DATAGRAM);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let datagram = format!("<{PRIORITY}>{PROGRAM}[{}]{}", std::process::id(), &text[..end]);
    if let Ok(socket) = UnixDatagram::unbound() {
        // A host without a system log has nowhere else to put it.
        let _ = socket.send_to(datagram.as_bytes(), "/dev/log");
    }
}
