//! Starts a worker, watches it, ends it, and clears away everything that it started.
//!
//! A worker gets the control socket and two rings at fixed descriptor numbers, nothing on its standard input, and pipes
//! for what it prints. It makes itself the leader of a session and asks to be killed with its host (see
//! [`crate::inherited`]). A process that it leaves behind is found by its session, by the mark in its environment or by
//! its ancestors, killed through a pidfd (no number can be reused under our hands) and reaped: the host is their
//! subreaper. A child which clears its environment *and* starts a session *and* outlives its parent becomes the worker's
//! child, which is a subreaper too, and is looked for before the worker ends. That such a one escapes when the worker dies
//! by itself is the limit of what needs no privilege.
//!
//! The kernel delivers the parent-death signal when the *thread* that started the worker ends: start it on a thread that
//! lives as long as the job.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::channel::{Channel, Receiver, Sender};
use crate::ring::{self, RING_SIZE, RingReader, RingWriter};
use crate::{BACKUP_RING_FD, CONTROL_FD, RESTORE_RING_FD};

/// Marks the processes of one worker; its value is unique.
const MARK: &str = "BACKSTAY_WORKER";
/// Variables that a worker has no business with: our own passwords.
const SECRETS: [&str; 6] = [
    "BACKSTAY_PASSWORD",
    "BACKSTAY_PASSWORD_FILE",
    "BACKSTAY_PASSWORD_COMMAND",
    "RESTIC_PASSWORD",
    "RESTIC_PASSWORD_FILE",
    "RESTIC_PASSWORD_COMMAND",
];
/// A longer line of output is cut into pieces of this many bytes.
const LINE: usize = 8 << 10;
/// How long clearing away may take.
const CLEARING: Duration = Duration::from_secs(2);

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program is not where it should be.
    #[error(
        "cannot find {program}, which runs plugins: put it beside backstay or into PATH, or name it in {variable}{looked}"
    )]
    Missing {
        /// Its name.
        program: String,
        /// The variable that names it.
        variable: String,
        /// What the variable named, if it was set.
        looked: String,
    },
    /// The kernel refused.
    #[error("cannot start {program}: {error}")]
    Start {
        /// Its path.
        program: String,
        /// The cause.
        error: io::Error,
    },
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by {}", signal_name(signal)),
        }
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Finds a worker program: the path in the variable, else beside the running program, else in PATH.
///
/// # Errors
/// [`SpawnError::Missing`], one line that says where it may be put.
pub fn locate(program: &str, variable: &str) -> Result<PathBuf, SpawnError> {
    let missing =
        |looked: String| SpawnError::Missing { program: program.to_owned(), variable: variable.to_owned(), looked };
    if let Some(named) = std::env::var_os(variable).filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        let found = is_program(&path);
        return if found {
            Ok(path)
        } else {
            Err(missing(format!(" (it names {}, which is no program)", path.display())))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(program)));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&in_path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(program)))
        .find(|path| is_program(path))
        .ok_or_else(|| missing(String::new()))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Which of the two a line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a worker and everything that it started print. Give it a thread: see [`Output::deliver`].
#[derive(Debug)]
pub struct Output {
    stdout: File,
    stderr: File,
    stop: OwnedFd,
}

/// A running worker. Dropping it kills it and clears away what it started.
#[derive(Debug)]
pub struct Worker {
    /// Control frames to the worker.
    pub sender: Sender,
    /// Control frames from the worker.
    pub receiver: Receiver,
    /// The ring that the worker writes.
    pub backup: RingReader,
    /// The ring that we write.
    pub restore: RingWriter,
    /// None for a peer inside this process.
    process: Option<Process>,
    output: Option<Output>,
}

/// The other side of a [`Worker::scripted`]: what a worker finds at its descriptors.
#[derive(Debug)]
pub struct Peer {
    /// Control frames.
    pub channel: Channel,
    /// The ring that the peer writes.
    pub backup: RingWriter,
    /// The ring that the host writes.
    pub restore: RingReader,
}

/// What happened first: see [`Worker::wait_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The worker is gone.
    Ended,
    /// The descriptor is ready.
    Ready,
    /// Neither.
    TimedOut,
}

#[derive(Debug)]
struct Process {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    mark: OsString,
    /// Relatives seen, by process id and start time.
    known: HashSet<(i32, u64)>,
    /// Closed when the worker is gone: the thread that delivers output then ends.
    stop: Option<OwnedFd>,
    exit: Option<Exit>,
}

impl Worker {
    /// Starts `program` with `arguments`.
    ///
    /// # Errors
    /// [`SpawnError::Start`].
    pub fn spawn<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> Result<Self, SpawnError> {
        Self::spawn_with(program, arguments, &[])
    }

    /// The same, with these variables in its environment.
    ///
    /// # Errors
    /// [`SpawnError::Start`].
    pub fn spawn_with<A: AsRef<OsStr>>(
        program: &Path,
        arguments: &[A],
        environment: &[(&str, OsString)],
    ) -> Result<Self, SpawnError> {
        Self::try_spawn(program, arguments, environment)
            .map_err(|error| SpawnError::Start { program: program.display().to_string(), error })
    }

    fn try_spawn<A: AsRef<OsStr>>(
        program: &Path,
        arguments: &[A],
        environment: &[(&str, OsString)],
    ) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let (ours, theirs) = Channel::pair()?;
        let backup = ring::create("backstay-backup", RING_SIZE)?;
        let restore = ring::create("backstay-restore", RING_SIZE)?;
        let backup_reader = RingReader::new(&backup)?;
        let restore_writer = RingWriter::new(&restore)?;
        let (stop_seen, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mark = OsString::from(format!(
            "{}-{}",
            rustix::process::getpid().as_raw_nonzero(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env(MARK, &mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .fd_mappings(vec![
                FdMapping { parent_fd: theirs, child_fd: CONTROL_FD },
                FdMapping { parent_fd: backup, child_fd: BACKUP_RING_FD },
                FdMapping { parent_fd: restore, child_fd: RESTORE_RING_FD },
            ])
            .map_err(io::Error::other)?;
        for secret in SECRETS {
            command.env_remove(secret);
        }
        let mut child = command.spawn()?;
        // The command holds our copies of the worker's ends; while they are open we would not see it close them.
        drop(command);
        let watched = (|| {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
                return Err(io::Error::other("the worker has no output"));
            };
            Ok((pid, pidfd, File::from(OwnedFd::from(stdout)), File::from(OwnedFd::from(stderr))))
        })();
        let (pid, pidfd, stdout, stderr) = match watched {
            Ok(watched) => watched,
            Err(error) => {
                child.kill().and_then(|()| child.wait())?;
                return Err(error);
            }
        };
        let (sender, receiver) = Channel::new(ours).split();
        Ok(Self {
            sender,
            receiver,
            backup: backup_reader,
            restore: restore_writer,
            process: Some(Process { child, pid, pidfd, mark, known: HashSet::new(), stop: Some(stop), exit: None }),
            output: Some(Output { stdout, stderr, stop: stop_seen }),
        })
    }

    /// A worker without a process, whose other side speaks from a thread of this one: a scripted peer, to test what a
    /// host does about any order of frames and any lie.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn scripted() -> io::Result<(Self, Peer)> {
        let (ours, theirs) = Channel::pair()?;
        let backup = ring::create("backstay-backup", RING_SIZE)?;
        let restore = ring::create("backstay-restore", RING_SIZE)?;
        let (sender, receiver) = Channel::new(ours).split();
        let worker = Self {
            sender,
            receiver,
            backup: RingReader::new(&backup)?,
            restore: RingWriter::new(&restore)?,
            process: None,
            output: None,
        };
        let peer = Peer {
            channel: Channel::new(theirs),
            backup: RingWriter::new(&backup)?,
            restore: RingReader::new(&restore)?,
        };
        Ok((worker, peer))
    }

    /// What it prints, once. Until a thread delivers it the worker stops when a pipe is full.
    pub fn take_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// Its process id, 0 for a scripted peer.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, |process| process.pid.as_raw_nonzero().get())
    }

    /// Kills it at once. [`Worker::end`] still has to follow.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.remember();
            process.signal(Signal::KILL);
        }
    }

    /// Whether it ended within `limit`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ended_within(&self, limit: Duration) -> io::Result<bool> {
        self.process.as_ref().map_or(Ok(true), |process| process.ended_within(limit))
    }

    /// Waits up to `limit` until `descriptor` has one of `events`, or the worker is gone (this wins).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait_for(&self, descriptor: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> io::Result<Waited> {
        let deadline = Instant::now() + limit;
        let watched = match &self.process {
            // A process that was forked without exec may hold the socket open: the pidfd tells the truth.
            Some(process) => PollFd::new(&process.pidfd, PollFlags::IN),
            None => PollFd::new(&self.receiver, PollFlags::RDHUP),
        };
        let mut polled = [watched, PollFd::from_borrowed_fd(descriptor, events)];
        loop {
            let timeout = timespec(deadline.saturating_duration_since(Instant::now()));
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(_) if !polled[0].revents().is_empty() => return Ok(Waited::Ended),
                Ok(_) if !polled[1].revents().is_empty() => return Ok(Waited::Ready),
                Ok(_) => return Ok(Waited::TimedOut),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends it: waits up to `grace` for it to end by itself, then SIGTERM, a second later SIGKILL; then kills and reaps
    /// what it started and lets the output thread finish. Returns how it ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end(mut self, grace: Duration) -> io::Result<Exit> {
        if let Some(process) = &mut self.process {
            process.remember();
        }
        self.sender.close();
        self.process.as_mut().map_or(Ok(Exit::Status(0)), |process| process.end(grace))
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        // An error means that it is gone already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    fn ended_within(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let timeout = timespec(deadline.saturating_duration_since(Instant::now()));
            let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(n) => return Ok(n > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn end(&mut self, grace: Duration) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        if !self.ended_within(grace)? {
            self.signal(Signal::TERM);
            if !self.ended_within(Duration::from_secs(1))? {
                self.signal(Signal::KILL);
            }
        }
        // The family is looked for while the worker is still there (or still unreaped): its number, which is its
        // session's, cannot be given to anyone else meanwhile.
        self.clear();
        let status = self.child.wait()?;
        self.clear();
        self.stop = None;
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Status(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        };
        self.exit = Some(exit);
        Ok(exit)
    }

    /// Remembers the worker's family while it lives: whoever has lost mark and session is still its descendant now.
    fn remember(&mut self) {
        let family = self.family();
        self.known.extend(family.iter().map(|relative| (relative.pid, relative.started)));
    }

    /// Kills and reaps everything that the worker started, within two seconds.
    fn clear(&mut self) {
        let deadline = Instant::now() + CLEARING;
        loop {
            let family = self.family();
            // The dead have no environment to carry a mark in: who was recognised once is remembered until reaped.
            self.known.extend(family.iter().map(|relative| (relative.pid, relative.started)));
            if family.is_empty() || Instant::now() >= deadline {
                return;
            }
            for relative in family {
                self.kill_relative(&relative);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill_relative(&self, relative: &Relative) {
        let Some(pid) = Pid::from_raw(relative.pid) else { return };
        if relative.zombie {
            // Ours by inheritance; an error means that it has another parent, who reaps it.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            return;
        }
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The number may have been given to a stranger between the look and the open: look again through it.
        if stat_of(relative.pid).is_some_and(|now| now.started == relative.started) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }

    /// All processes of the worker's session, with its mark, or descended from such a one; not the worker itself, and
    /// not the dead ones that another process has to reap.
    fn family(&self) -> Vec<Relative> {
        let worker = self.pid.as_raw_nonzero().get();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let mut all: HashMap<i32, Stat> = HashMap::new();
        let Ok(listing) = std::fs::read_dir("/proc") else { return Vec::new() };
        for entry in listing.flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
                && let Some(stat) = stat_of(pid)
            {
                all.insert(pid, stat);
            }
        }
        let mut kin: HashSet<i32> = all
            .iter()
            .filter(|&(&pid, stat)| {
                pid == worker
                    || stat.session == worker
                    || self.known.contains(&(pid, stat.started))
                    || self.is_marked(pid, stat)
            })
            .map(|(&pid, _)| pid)
            .collect();
        loop {
            let before = kin.len();
            kin.extend(
                all.iter().filter(|(_, stat)| kin.contains(&stat.parent)).map(|(&pid, _)| pid).collect::<Vec<_>>(),
            );
            if kin.len() == before {
                break;
            }
        }
        kin.remove(&worker);
        kin.remove(&own);
        kin.iter()
            .filter_map(|pid| {
                let stat = all.get(pid)?;
                (!stat.zombie || stat.parent == own).then_some(Relative {
                    pid: *pid,
                    started: stat.started,
                    zombie: stat.zombie,
                })
            })
            .collect()
    }

    fn is_marked(&self, pid: i32, stat: &Stat) -> bool {
        // Only processes of the same family can carry the mark, and reading another user's environment fails anyway.
        if stat.zombie || pid == rustix::process::getpid().as_raw_nonzero().get() {
            return false;
        }
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
        environment.split(|&byte| byte == 0).any(|variable| {
            variable
                .strip_prefix(MARK.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
                .is_some_and(|value| value == self.mark.as_encoded_bytes())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.remember();
            self.signal(Signal::KILL);
            let _ = self.end(Duration::from_secs(1));
        }
    }
}

#[derive(Debug)]
struct Relative {
    pid: i32,
    started: u64,
    zombie: bool,
}

#[derive(Debug)]
struct Stat {
    parent: i32,
    session: i32,
    started: u64,
    zombie: bool,
}

/// `/proc/PID/stat`: the name in parentheses may hold anything, so the fields are counted from its last parenthesis.
fn stat_of(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = text.iter().rposition(|&byte| byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(text.get(after + 1..)?).ok()?.split_ascii_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Output {
    /// Hands over each line, without its end, until the worker is gone. Bytes that are not UTF-8 are replaced; a line
    /// of more than 8 KiB comes in pieces. Runs on a thread of its own.
    pub fn deliver(mut self, mut to: impl FnMut(Stream, &str)) {
        for pipe in [&self.stdout, &self.stderr] {
            if let Ok(flags) = rustix::fs::fcntl_getfl(pipe) {
                // Without it the last read after the end could wait for a process that escaped with the pipe.
                let _ = rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK);
            }
        }
        let mut lines = [Lines::default(), Lines::default()];
        let mut open = [true, true];
        loop {
            // A negative descriptor cannot be said safely, so a closed pipe is left out of the list.
            let mut polled = vec![PollFd::new(&self.stop, PollFlags::IN)];
            if open[0] {
                polled.push(PollFd::new(&self.stdout, PollFlags::IN));
            }
            if open[1] {
                polled.push(PollFd::new(&self.stderr, PollFlags::IN));
            }
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
            let stopping = !polled[0].revents().is_empty();
            drop(polled);
            for (which, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
                if open[which] {
                    let pipe = if which == 0 { &mut self.stdout } else { &mut self.stderr };
                    open[which] = lines[which].drain(pipe, stopping, &mut |line| to(stream, line));
                }
            }
            if stopping || open == [false, false] {
                break;
            }
        }
        for (which, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            lines[which].finish(&mut |line| to(stream, line));
        }
    }
}

#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Reads what is there; false at the end of the pipe.
    fn drain(&mut self, pipe: &mut File, whole: bool, to: &mut dyn FnMut(&str)) -> bool {
        let mut buffer = [0; 16 << 10];
        // What an escaped process goes on printing must not hold us: a megabyte is more than a pipe holds.
        for _ in 0..64 {
            match pipe.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.take(&buffer[..n], to),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
            if !whole {
                break;
            }
        }
        true
    }

    fn take(&mut self, mut bytes: &[u8], to: &mut dyn FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.cut(to);
            if self.begun.last() == Some(&b'\r') {
                self.begun.pop();
            }
            to(&String::from_utf8_lossy(&self.begun));
            self.begun.clear();
        }
        self.begun.extend_from_slice(bytes);
        self.cut(to);
    }

    /// Hands over pieces of a line that is too long, at a character's start.
    fn cut(&mut self, to: &mut dyn FnMut(&str)) {
        while self.begun.len() > LINE {
            let mut end = LINE;
            while end > LINE - 4 && self.begun[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            to(&String::from_utf8_lossy(&self.begun[..end]));
            self.begun.drain(..end);
        }
    }

    fn finish(&mut self, to: &mut dyn FnMut(&str)) {
        if !self.begun.is_empty() {
            to(&String::from_utf8_lossy(&self.begun));
            self.begun.clear();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Worker {
        Worker::spawn(Path::new("/bin/sh"), &["-c", script]).unwrap()
    }

    fn run(script: &str, grace: Duration) -> (Exit, Vec<(Stream, String)>) {
        let mut worker = shell(script);
        let output = worker.take_output().unwrap();
        let thread = std::thread::spawn(move || {
            let mut lines = Vec::new();
            output.deliver(|stream, line| lines.push((stream, line.to_owned())));
            lines
        });
        let exit = worker.end(grace).unwrap();
        (exit, thread.join().unwrap())
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn the_end_is_told_in_words() {
        assert_eq!(run("exit 3", LONG).0.to_string(), "exited with status 3");
        assert_eq!(run("kill -SEGV $$", LONG).0.to_string(), "was killed by SIGSEGV");
        assert_eq!(Exit::Signal(64).to_string(), "was killed by signal 64");
    }

    #[test]
    fn a_worker_finds_its_descriptors_and_nothing_more() {
        let hidden = File::open("/dev/zero").unwrap();
        let (exit, lines) = run("exec ls -l /proc/self/fd", LONG);
        let lines: Vec<&str> =
            lines.iter().filter_map(|(_, line)| Some(line.split_once(':')?.1.split_once(' ')?.1)).collect();
        drop(hidden);
        assert_eq!(exit, Exit::Status(0));
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        for passed in ["0 -> /dev/null", "3 -> socket:", "4 -> /memfd:backstay-backup", "5 -> /memfd:backstay-restore"]
        {
            assert!(lines.iter().any(|line| line.starts_with(passed)), "{passed}: {lines:?}");
        }
        // Neither an open file of the host nor an end of another worker.
        assert_eq!((count("socket:"), count("memfd:"), count("/dev/zero")), (1, 2, 0), "{lines:?}");
    }

    #[test]
    fn output_comes_line_by_line_cut_and_made_readable() {
        let (_, lines) = run(
            "printf 'one\\ntwo\\r\\n'; printf 'bad \\377 byte\\n'; printf 'no end'; \
             head -c 20000 /dev/zero | tr '\\0' x >&2; echo >&2",
            LONG,
        );
        let of = |wanted| lines.iter().filter(|(s, _)| *s == wanted).map(|(_, l)| l.as_str()).collect::<Vec<_>>();
        assert_eq!(of(Stream::Stdout), ["one", "two", "bad \u{fffd} byte", "no end"]);
        let errors = of(Stream::Stderr);
        assert_eq!(errors.iter().map(|line| line.len()).collect::<Vec<_>>(), [8192, 8192, 3616]);
    }

    #[test]
    fn a_worker_that_ignores_everything_is_killed() {
        let (exit, _) = run("trap '' TERM; while :; do sleep 1; done", Duration::from_millis(50));
        assert_eq!(exit, Exit::Signal(9));
        let (exit, _) = run("exec sleep 1000", Duration::from_millis(50));
        assert_eq!(exit, Exit::Signal(15));
    }

    /// A process that was reaped has no entry; one that only died is a zombie.
    fn is_gone(pid: i32) -> bool {
        stat_of(pid).is_none()
    }

    #[test]
    fn what_a_worker_started_dies_with_it_and_is_reaped() {
        // In the background, orphaned, in a session of its own, with the output pipe still open.
        let (exit, lines) = run(
            "sleep 1000 & echo $!; (sleep 1001 & echo $!); setsid sleep 1002 & echo $!; \
             setsid sh -c 'sleep 1003 & echo $!; exec sleep 1004' & sleep 0.3; exit 7",
            LONG,
        );
        assert_eq!(exit, Exit::Status(7));
        let pids: Vec<i32> = lines.iter().map(|(_, line)| line.parse().unwrap()).collect();
        assert_eq!(pids.len(), 4);
        for pid in pids {
            assert!(is_gone(pid), "{pid} is still there");
        }
    }

    #[test]
    fn a_worker_that_is_dropped_takes_its_family_along() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let worker = shell(&format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display()));
        while !file.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (own, child) = (worker.pid(), std::fs::read_to_string(&file).unwrap().trim().parse().unwrap());
        drop(worker);
        assert!(is_gone(own) && is_gone(child));
    }

    #[test]
    fn one_worker_is_cleared_away_and_the_other_lives_on() {
        let other = shell("sleep 1000");
        assert_eq!(run("sleep 1000 & exit 0", LONG).0, Exit::Status(0));
        assert!(!other.ended_within(Duration::ZERO).unwrap());
    }

    #[test]
    fn our_passwords_are_not_in_its_environment() {
        // Set for this test only through the command that the test starts: our own environment cannot change safely.
        let (_, lines) = run("env | grep -c PASSWORD; env | grep -c BACKSTAY_WORKER=", LONG);
        assert_eq!(lines.last().unwrap().1, "1");
    }

    #[test]
    fn a_missing_program_is_one_clear_line() {
        let error = locate("backstay-no-such-program", "BACKSTAY_NO_SUCH_VARIABLE").unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot find backstay-no-such-program, which runs plugins: put it beside backstay or into PATH, or name it \
             in BACKSTAY_NO_SUCH_VARIABLE"
        );
        assert!(
            Worker::spawn(Path::new("/no/such/program"), &["x"]).unwrap_err().to_string().contains("/no/such/program")
        );
        assert_eq!(locate("sh", "BACKSTAY_NO_SUCH_VARIABLE").unwrap().file_name().unwrap(), "sh");
    }
}
