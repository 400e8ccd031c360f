//! One command of a plugin as a process (reference 13.7 to 13.9, 13.12): fed, drained, waited for, ended if need be.
//!
//! One loop looks at everything at once, so nothing that a plugin writes can block it, and no thread outlives a call. The process
//! has a group of its own; whatever goes wrong, the group is ended and the process is waited for.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};

use crate::Failure;

/// Bytes that are read or written at once.
const PIECE: usize = 1 << 16;
/// How much of what a plugin says is kept: so many bytes of the beginning, and as many of the end.
const SAID: usize = 2048;
/// How much of standard output is kept where it is collected, in bytes.
const COLLECTED: usize = 1 << 16;
/// How often a caller who wants to stop is asked.
const TICK: Duration = Duration::from_millis(100);
/// What a process gets between the request to end and its end.
const GRACE: Duration = Duration::from_secs(2);
/// How long an end that has begun may take: a process that closed its input tells why, one that was killed goes.
const ENDING: Duration = Duration::from_secs(10);

/// Asks whether to stop.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// When a process has had its time.
#[derive(Clone)]
pub struct Limits {
    /// How long a process may take no byte of what it is given, give none, and not end.
    pub patience: Duration,
    /// Whether the caller wants to stop.
    pub stop: Stop,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Default for Limits {
    /// Ten minutes, and nobody wants to stop.
    fn default() -> Self {
        Self { patience: Duration::from_secs(600), stop: Arc::new(|| false) }
    }
}

/// Standard input.
pub enum Input<'a> {
    /// There is none.
    Nothing,
    /// What this gives, up to its end.
    From(&'a mut dyn Read),
    /// What this gives, up to so many bytes, then a signal to the whole group; standard input stays open.
    Signalled(&'a mut dyn Read, u64, Signal),
}

/// Standard output.
pub enum Output<'a> {
    /// Nobody wants it.
    Nothing,
    /// It is kept, the first of it.
    Collected,
    /// It goes here.
    To(&'a mut dyn Write),
    /// So many bytes are read, then it is closed.
    First(u64),
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// With what.
    pub status: ExitStatus,
    /// Bytes of standard input that were written to it.
    pub taken: u64,
    /// Whether it read standard input to the end.
    pub took_all: bool,
    /// Bytes of standard output.
    pub given: u64,
    /// Standard output, where it was collected.
    pub output: Vec<u8>,
    /// What it wrote to standard error, on one line; the middle of it can be missing.
    pub said: String,
}

impl Ended {
    /// The end in words.
    #[must_use]
    pub fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("it ended with status {code}"),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It could not be started, ran out of patience, the caller stopped, or the source or the sink failed; then it was ended. Whatever
/// else it did is no error here: see [`Ended`].
pub fn run(
    program: &Path,
    words: &[OsString],
    input: Input<'_>,
    output: Output<'_>,
    limits: &Limits,
) -> Result<Ended, Failure> {
    let mut running = Running::start(program, words, &input, &output)?;
    match running.follow(input, output, limits) {
        Ok(()) => running.ended(),
        Err(trouble) => {
            running.stdout = None;
            running.stop();
            let said = running.said.line();
            Err(match trouble {
                Trouble::Late => Failure::Hung { command: name(words), seconds: limits.patience.as_secs_f32(), said },
                Trouble::System(error) => {
                    Failure::Plugin { command: name(words), reason: format!("cannot follow it: {error}"), said }
                }
                Trouble::Source(error) => Failure::Source(error),
                Trouble::Sink(error) => Failure::Sink(error),
                Trouble::Interrupted => Failure::Interrupted,
            })
        }
    }
}

/// A command in messages: its word and what it is about, without the configuration's path.
#[must_use]
pub fn name(words: &[OsString]) -> String {
    let shown: Vec<_> = words.iter().enumerate().filter(|(number, _)| *number != 1).map(|(_, word)| word).collect();
    shown.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

enum Trouble {
    Late,
    System(io::Error),
    Source(io::Error),
    Sink(io::Error),
    Interrupted,
}

/// The beginning and the end of what was said.
#[derive(Default)]
struct Said {
    first: Vec<u8>,
    last: Vec<u8>,
    left_out: bool,
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        let room = SAID.saturating_sub(self.first.len()).min(bytes.len());
        self.first.extend_from_slice(&bytes[..room]);
        self.last.extend_from_slice(&bytes[room..]);
        if self.last.len() > SAID {
            self.last.drain(..self.last.len() - SAID);
            self.left_out = true;
        }
    }

    fn line(&self) -> String {
        let middle: &[u8] = if self.left_out { b"\n[...]\n" } else { b"" };
        let all = [&self.first, middle, &self.last].concat();
        let text = String::from_utf8_lossy(&all);
        let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join("; ");
        line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
    }
}

struct Running {
    child: Child,
    /// Tells the end without taking the number away, so that the group can still be ended.
    process: OwnedFd,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    said: Said,
    taken: u64,
    took_all: bool,
    given: u64,
    collected: Vec<u8>,
    is_waited_for: bool,
}

impl Running {
    fn start(program: &Path, words: &[OsString], input: &Input<'_>, output: &Output<'_>) -> Result<Self, Failure> {
        let wrong = |reason: String| Failure::Plugin { command: name(words), reason, said: String::new() };
        let stdin = if matches!(input, Input::Nothing) { Stdio::null() } else { Stdio::piped() };
        let stdout = if matches!(output, Output::Nothing) { Stdio::null() } else { Stdio::piped() };
        let mut child = Command::new(program)
            .args(words)
            .current_dir("/")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| wrong(format!("cannot start {}: {error}", program.display())))?;
        let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process = number.ok_or(rustix::io::Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let process = match process {
            Ok(process) => process,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(wrong(format!("cannot follow it: {error}")));
            }
        };
        let running = Self {
            process,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            said: Said::default(),
            taken: 0,
            took_all: matches!(input, Input::Nothing),
            given: 0,
            collected: Vec::new(),
            is_waited_for: false,
        };
        // From here on the end of `running` is that of the process.
        running.do_not_block().map_err(|error| wrong(format!("cannot follow it: {error}")))?;
        Ok(running)
    }

    fn do_not_block(&self) -> io::Result<()> {
        let pipes = [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            let flags = rustix::fs::fcntl_getfl(pipe)?;
            rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
        }
        Ok(())
    }

    fn follow(&mut self, mut input: Input<'_>, mut output: Output<'_>, limits: &Limits) -> Result<(), Trouble> {
        let mut feed = Feed { piece: vec![0; PIECE], from: 0, to: 0, at_end: false, waits: false };
        let mut read = vec![0; PIECE];
        let mut last = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            if (limits.stop)() {
                return Err(Trouble::Interrupted);
            }
            self.listen(&mut read);
            // Asked first: what it wrote before its end is in the pipes by now.
            let ended = self.has_ended().map_err(Trouble::System)?;
            let mut moved = self.feed(&mut feed, &mut input, ended)?;
            moved |= self.drain(&mut read, &mut output)?;
            if moved {
                last = Instant::now();
                pause = Duration::from_micros(200);
                continue;
            }
            // Standard output can be in other hands yet; only where all of it is wanted it is waited for.
            if ended && (self.stdout.is_none() || matches!(output, Output::Collected)) {
                self.listen(&mut read);
                return Ok(());
            }
            let patience = if ended { limits.patience.min(ENDING) } else { limits.patience };
            if last.elapsed() >= patience {
                return Err(Trouble::Late);
            }
            // A pipe that empties wakes nobody: it is looked at again and again.
            let wait = if feed.at_end && self.stdin.is_some() { pause } else { TICK };
            pause = (pause * 2).min(Duration::from_millis(20));
            self.wait(wait.min(patience), feed.to > feed.from, ended).map_err(Trouble::System)?;
        }
    }

    /// Waits until something happens, or for so long.
    fn wait(&self, at_most: Duration, has_input: bool, ended: bool) -> io::Result<()> {
        let mut watched = Vec::with_capacity(4);
        if !ended {
            watched.push(PollFd::new(&self.process, PollFlags::IN));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| has_input) {
            watched.push(PollFd::new(stdin, PollFlags::OUT));
        }
        watched.extend(self.stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::IN)));
        watched.extend(self.stderr.as_ref().map(|stderr| PollFd::new(stderr, PollFlags::IN)));
        match poll(&mut watched, Some(&timespec(at_most))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.process, PollFlags::IN)];
        match poll(&mut watched, Some(&timespec(Duration::ZERO))) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what it says, as far as there is something.
    fn listen(&mut self, piece: &mut [u8]) {
        // Bounded: one that never stops talking does not keep us here.
        for _ in 0..16 {
            let Some(stderr) = &mut self.stderr else { return };
            match stderr.read(piece) {
                Ok(0) => self.stderr = None,
                Ok(count) => self.said.add(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }

    /// Writes what it takes of the input. Tells whether anything moved.
    fn feed(&mut self, feed: &mut Feed, input: &mut Input<'_>, ended: bool) -> Result<bool, Trouble> {
        let Some(stdin) = &mut self.stdin else { return Ok(false) };
        if feed.from == feed.to && !feed.at_end && !feed.waits {
            if let Input::Signalled(_, 0, signal) = input {
                feed.waits = true;
                self.signal(*signal);
            } else {
                feed.more(input).map_err(Trouble::Source)?;
            }
            // The time that the source took is not the plugin's.
            return Ok(true);
        }
        if feed.from < feed.to {
            return match stdin.write(&feed.piece[feed.from..feed.to]) {
                // A pipe that others hold open takes bytes that nobody will read.
                Ok(_) if ended => {
                    self.stdin = None;
                    Ok(true)
                }
                Ok(count) => {
                    feed.from += count;
                    self.taken += count as u64;
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ended => Ok(false),
                // It reads no more; what it is worth is told by its end.
                Err(_) => {
                    self.stdin = None;
                    Ok(true)
                }
            };
        }
        if feed.waits {
            if ended {
                self.stdin = None;
            }
            return Ok(ended);
        }
        // Everything is written. It counts as taken when the pipe is empty, and only then the end is told.
        if ioctl_fionread(&*stdin).map_err(|error| Trouble::System(error.into()))? == 0 {
            self.took_all = true;
            self.stdin = None;
            return Ok(true);
        }
        let mut watched = [PollFd::new(&*stdin, PollFlags::empty())];
        let gone = poll(&mut watched, Some(&timespec(Duration::ZERO))).is_ok()
            && watched[0].revents().intersects(PollFlags::ERR);
        if gone || ended {
            self.stdin = None;
        }
        Ok(gone || ended)
    }

    /// Reads what it gives. Tells whether anything moved.
    fn drain(&mut self, piece: &mut [u8], output: &mut Output<'_>) -> Result<bool, Trouble> {
        let Some(stdout) = &mut self.stdout else { return Ok(false) };
        if matches!(output, Output::First(0)) {
            self.stdout = None;
            return Ok(true);
        }
        let room = if let Output::First(left) = output { piece.len().min(clamp(*left)) } else { piece.len() };
        match stdout.read(&mut piece[..room]) {
            Ok(0) => self.stdout = None,
            Ok(count) => {
                self.given += count as u64;
                match output {
                    Output::Nothing => {}
                    Output::Collected => {
                        let room = COLLECTED.saturating_sub(self.collected.len()).min(count);
                        self.collected.extend_from_slice(&piece[..room]);
                    }
                    Output::To(sink) => sink.write_all(&piece[..count]).map_err(Trouble::Sink)?,
                    Output::First(left) => *left = left.saturating_sub(count as u64),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(Trouble::System(error)),
        }
        Ok(true)
    }

    fn signal(&self, signal: Signal) {
        if self.is_waited_for {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // All of it may have ended by itself.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Takes the status of one that has ended. What a failed one started goes with it.
    fn ended(mut self) -> Result<Ended, Failure> {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let seen = group.and_then(|pid| waitid(WaitId::Pid(pid), look).ok().flatten());
        if seen.is_none_or(|seen| seen.exit_status() != Some(0)) {
            self.signal(Signal::KILL);
        }
        let status = self.child.wait().map_err(|error| Failure::refused(format!("cannot wait for a plugin: {error}")));
        self.is_waited_for = status.is_ok();
        Ok(Ended {
            status: status?,
            taken: self.taken,
            took_all: self.took_all,
            given: self.given,
            output: std::mem::take(&mut self.collected),
            said: self.said.line(),
        })
    }

    /// Ends it and everything that it started.
    fn stop(&mut self) {
        if self.is_waited_for {
            return;
        }
        self.signal(Signal::TERM);
        let mut piece = vec![0; PIECE];
        let mut wait_until_gone = |running: &mut Self, at_most: Duration| {
            let begun = Instant::now();
            while !running.has_ended().unwrap_or(true) && begun.elapsed() < at_most {
                running.listen(&mut piece);
                let _ = running.wait(Duration::from_millis(20), false, false);
            }
            running.listen(&mut piece);
        };
        // Input that ends looks whole to a plugin: it stays open until nobody can read it any more.
        wait_until_gone(self, GRACE);
        self.signal(Signal::KILL);
        wait_until_gone(self, ENDING);
        // One that even this did not end is in the system's hands; it is not waited for.
        self.is_waited_for = matches!(self.child.try_wait(), Ok(Some(_)));
        self.stdin = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What is on its way into standard input.
struct Feed {
    piece: Vec<u8>,
    from: usize,
    to: usize,
    at_end: bool,
    /// The signal was sent; there is no more.
    waits: bool,
}

impl Feed {
    fn more(&mut self, input: &mut Input<'_>) -> io::Result<()> {
        let (source, room): (&mut dyn Read, usize) = match input {
            Input::Nothing => return Ok(()),
            Input::From(source) => (source, PIECE),
            Input::Signalled(source, left, _) => (source, PIECE.min(clamp(*left))),
        };
        let count = loop {
            match source.read(&mut self.piece[..room]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        (self.from, self.to, self.at_end) = (0, count, count == 0);
        if let Input::Signalled(_, left, _) = input {
            *left = left.saturating_sub(count as u64);
        }
        Ok(())
    }
}

fn clamp(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// Words of a command line.
pub(crate) fn words<S: AsRef<OsStr>>(all: &[S]) -> Vec<OsString> {
    all.iter().map(|word| word.as_ref().to_owned()).collect()
}
