//! The captive server: a command that runs beside it, and whose end is its end (reference 2.4).

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signals that ask a server to end.
pub const ENDING: [i32; 4] = [SIGINT, SIGQUIT, SIGTERM, SIGHUP];

/// What the command's standard streams are.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub input: OwnedFd,
    /// Standard output.
    pub output: OwnedFd,
}

/// Runs the shell on `text` beside the server of the number `server`, then ends the server. Answers the exit status.
///
/// # Errors
/// The shell cannot be started; the server was ended.
pub fn run(text: &OsStr, streams: Streams, server: i32) -> io::Result<u8> {
    let server = Pid::from_raw(server).ok_or(io::ErrorKind::InvalidInput)?;
    // Whoever ends us means the server; the command then finds out.
    let mut signals = Signals::new(ENDING)?;
    let handle = signals.handle();
    let forwarder = std::thread::spawn(move || signals.forever().for_each(|_| end(server)));
    let status = Command::new("/bin/sh").arg("-c").arg(text).stdin(streams.input).stdout(streams.output).status();
    let gone = waitpid(Some(server), WaitOptions::NOHANG)?.map(|(_, status)| status);
    if gone.is_none() {
        end(server);
        // Its status counts only when it ended before the command.
        let _ = waitpid(Some(server), WaitOptions::empty())?;
    }
    handle.close();
    let _ = forwarder.join();
    Ok(exit_status(status?, gone.map(|status| (status.exit_status(), status.terminating_signal()))))
}

fn end(server: Pid) {
    // It may have ended by itself.
    let _ = kill_process(server, Signal::TERM);
}

/// How a process ended: the status it gave, or the signal that killed it.
type Ending = (Option<i32>, Option<i32>);

/// That of the command; if it succeeded, that of a server which had ended before it.
fn exit_status(command: ExitStatus, server: Option<Ending>) -> u8 {
    let of = |(code, signal): Ending| match (code, signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    let own = of((command.code(), command.signal()));
    let number = match server {
        Some(ending) if own == 0 => of(ending),
        _ => own,
    };
    u8::try_from(number).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_decides_unless_the_server_was_gone() {
        let exited = ExitStatus::from_raw(3 << 8);
        let killed = ExitStatus::from_raw(9);
        let fine = ExitStatus::from_raw(0);
        assert_eq!(exit_status(exited, None), 3);
        assert_eq!(exit_status(killed, None), 137);
        assert_eq!(exit_status(fine, None), 0);
        assert_eq!(exit_status(fine, Some((Some(1), None))), 1);
        assert_eq!(exit_status(fine, Some((None, Some(11)))), 139);
        assert_eq!(exit_status(exited, Some((None, Some(11)))), 3);
    }
}
