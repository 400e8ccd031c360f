//! A command's side: it finds the agent, or starts it, and hands the work over.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backstay_worker::channel::{Channel, Received, Receiver, Sender};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Answer, Ask, Opening, Pass, Seat, Status, folder};
use crate::config::{Agent, Config};
use crate::key::Key;
use crate::objects::Range;
use crate::{Failure, log};

/// An agent that has not answered after this time does not exist.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether it is there by now.
const PAUSE: Duration = Duration::from_millis(3);

/// How it went.
#[derive(Debug)]
pub(crate) enum Handed {
    /// The agent did it, or told why not.
    Over(Result<(), Failure>),
    /// There is no agent: the command does the work itself.
    Not,
    /// The agent died with the descriptor in its hands.
    Lost,
}

/// Lets the agent store what comes from a descriptor; `is_file`: it comes to its end soon.
pub(crate) fn store(config: &Config, key: &Key, input: BorrowedFd<'_>, is_file: bool) -> Handed {
    let ask = |opening| Ask::Store { opening, key: key.clone(), is_file };
    hand_over(config, ask, || {
        input.try_clone_to_owned().map_err(|error| Failure::new(format!("a descriptor: {error}")))
    })
}

/// Lets the agent write an object, or ranges of it, to a descriptor, which is only opened when the object was found.
pub(crate) fn fetch(
    config: &Config,
    key: &Key,
    ranges: Option<&[Range]>,
    output: impl FnOnce() -> Result<OwnedFd, Failure>,
) -> Handed {
    let ask = |opening| Ask::Fetch { opening, key: key.clone(), ranges: ranges.map(<[Range]>::to_vec) };
    hand_over(config, ask, output)
}

fn hand_over(
    config: &Config,
    ask: impl FnOnce(Opening) -> Ask,
    descriptor: impl FnOnce() -> Result<OwnedFd, Failure>,
) -> Handed {
    if config.agent == Agent::Off {
        return Handed::Not;
    }
    let (seat, password) = match Seat::of(config) {
        Ok(found) => found,
        Err(error) => {
            log::warning(&format!("there is no agent: {error}"));
            return Handed::Not;
        }
    };
    let Some(mut agent) = Connected::find(&seat, config, &ask(Opening { config: config.clone(), password })) else {
        log::warning("the agent does not answer: this command does its work itself");
        return Handed::Not;
    };
    match agent.next() {
        Some(Answer::Ready) => {}
        Some(answer) => return Handed::Over(settle(answer)),
        None => return Handed::Not,
    }
    let descriptor = match descriptor() {
        Ok(descriptor) => descriptor,
        Err(failure) => return Handed::Over(Err(failure)),
    };
    if agent.sender.send_with_fd(&Pass, descriptor.as_fd()).is_err() {
        // It never had it.
        return Handed::Not;
    }
    drop(descriptor);
    agent.next().map_or(Handed::Lost, |answer| Handed::Over(settle(answer)))
}

fn settle(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Done => Ok(()),
        Answer::ReaderGone => Err(Failure::ReaderGone),
        Answer::Failed(text) => Err(Failure::Told(text)),
        Answer::Missing(text) => Err(Failure::Missing(text)),
        answer => Err(Failure::new(format!("the agent answered {answer:?}, which does not belong here"))),
    }
}

/// Asks an agent something; none: there is none.
///
/// # Errors
/// It answers what does not belong here.
pub(crate) fn ask(seat: &Seat, ask: &Ask) -> Result<Option<Status>, Failure> {
    let Some(mut agent) = Connected::greet(seat, ask, Instant::now() + PATIENCE) else { return Ok(None) };
    match agent.next() {
        Some(Answer::Status(status)) => Ok(Some(status)),
        Some(answer) => settle(answer).map(|()| None),
        None => Ok(None),
    }
}

/// A connection to an agent that has accepted a request.
struct Connected {
    sender: Sender,
    receiver: Receiver,
}

impl Connected {
    /// Connects, starting the agent if there is none; none: it does not answer in time.
    fn find(seat: &Seat, config: &Config, ask: &Ask) -> Option<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut starting: Option<File> = None;
        loop {
            if let Some(connected) = Self::greet(seat, ask, deadline) {
                return Some(connected);
            }
            if starting.is_none() {
                match seat.begin_start() {
                    Ok(Some(lock)) => {
                        // Whoever held this before may have started it since we looked.
                        if let Some(connected) = Self::greet(seat, ask, deadline) {
                            return Some(connected);
                        }
                        if let Err(error) = start(seat, config) {
                            log::warning(&format!("cannot start an agent: {error}"));
                            return None;
                        }
                        starting = Some(lock);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        log::warning(&error.to_string());
                        return None;
                    }
                }
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn greet(seat: &Seat, ask: &Ask, deadline: Instant) -> Option<Self> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        // One that hangs takes no connections, and waiting for it must come to an end.
        set_socket_timeout(&socket, Timeout::Send, Some(left)).ok()?;
        connect(&socket, &SocketAddrUnix::new(seat.socket()).ok()?).ok()?;
        if socket_peercred(&socket).ok()?.uid != rustix::process::geteuid() {
            return None;
        }
        let (mut sender, mut receiver) = Channel::new(socket).split();
        sender.send(ask).and_then(|()| sender.flush()).ok()?;
        match receiver.receive_within(Some(left)).ok()? {
            Received::Message(Answer::Accepted, _) => Some(Self { sender, receiver }),
            _ => None,
        }
    }

    /// What the agent says next; none: it died.
    fn next(&mut self) -> Option<Answer> {
        self.receiver.receive().ok().flatten().map(|(answer, _)| answer)
    }
}

/// Starts an agent that has nothing of ours but what it is told.
fn start(seat: &Seat, config: &Config) -> std::io::Result<()> {
    close_on_exec()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("agent").arg(seat.folder()).arg(seat.name()).arg(config.agent_idle.to_string()).args(&config.log);
    command.env_clear().envs(folder::environment());
    // Chunks come and go on dozens of threads: what is freed goes back to the system.
    command.env("MALLOC_ARENA_MAX", "2").env("MALLOC_MMAP_THRESHOLD_", "262144");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It leads a session of its own as soon as it runs, and is nobody's to wait for.
    command.spawn().map(drop)
}

/// Whatever our caller left open must not stay open in the agent: somebody may wait for its end.
fn close_on_exec() -> std::io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        if let Some(number @ 3..) = name.to_str().and_then(|name| name.parse::<i32>().ok()) {
            not_inherited(number);
        }
    }
    Ok(())
}

#[allow(unsafe_code)]
fn not_inherited(number: i32) {
    // SAFETY: the number is only asked about: the call fails with EBADF where nothing is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    // The folder that was listed is closed by now.
    let _ = rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC);
}
