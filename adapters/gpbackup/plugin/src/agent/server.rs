//! The agent's side: a thread for each command, and one that commits what waits.
//!
//! A session (lock, index, writer) is begun with the first object and ended when none has come for a few seconds, so that a
//! prune elsewhere need not wait for long. One that failed is given up, and the next object begins another.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind};
use backstay_repository::repository::Repository;
use backstay_worker::channel::{Channel, Received as Frame, Receiver, Sender};
use crossbeam_channel::{Sender as Reply, bounded};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;

use super::{Answer, Ask, Opening, Pass, Seat, Status};
use crate::config::Config;
use crate::key::Key;
use crate::objects::{Known, Objects, Output, Range};
use crate::place::{Place, told};
use crate::session::{Line, Received, Session, gone};
use crate::together::Together;
use crate::{Failure, log};

/// A session without work ends after this time.
const SESSION_IDLE: Duration = Duration::from_secs(3);
/// No object waits longer than this for others that could be committed with it.
const COMPANY: Duration = Duration::from_millis(20);
/// How often the agent looks whether it is still needed.
const TICK: Duration = Duration::from_millis(500);
/// How long whoever connects may take to say what he wants, and to pass the descriptor.
const MANNERS: Duration = Duration::from_secs(30);
/// A store that works on no more calls than this at once is no far one.
const LOCAL_CALLS: usize = 4;
/// So long nobody asks a far store again whether the repository is still the one that was opened.
const TRUST: Duration = Duration::from_secs(1);
/// Bytes that wait in memory to be written, for all who restore together, and the least for each.
const READ_AHEAD: u64 = 64 << 20;
const LEAST_AHEAD: u64 = 2 << 20;
/// An agent that could not open its repository ends after this time: the next may have better luck.
const IDLE_CLOSED: Duration = Duration::from_secs(1);

/// Serves until nobody has needed it for `idle`, or somebody asks for the end; false: another one serves here.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn serve(seat: &Seat, idle: Duration) -> Result<bool, Failure> {
    let Some(alive) = seat.take()? else { return Ok(false) };
    let wrong = |error: &dyn std::fmt::Display| Failure::new(format!("the agent's socket: {error}"));
    more_descriptors();
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // The second one ends it at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stopping))
            .map_err(|error| wrong(&error))?;
        signal_hook::flag::register(signal, Arc::clone(&stopping)).map_err(|error| wrong(&error))?;
    }
    // One that was killed may have left either. The new socket takes the old one's name when it listens.
    let _ = std::fs::remove_file(seat.new_socket());
    let listener = UnixListener::bind(seat.new_socket()).map_err(|error| wrong(&error))?;
    std::fs::rename(seat.new_socket(), seat.socket()).map_err(|error| wrong(&error))?;
    listener.set_nonblocking(true).map_err(|error| wrong(&error))?;
    log::info(&format!("agent {}: serves", seat.name()));
    let agent = Arc::new(Agent {
        begun: Instant::now(),
        stopping,
        open: Mutex::default(),
        opening: Default::default(),
        session: Together::default(),
        waiting: Mutex::default(),
        more: Condvar::new(),
        running: AtomicU64::new(0),
        served: AtomicU64::new(0),
        commits: AtomicU64::new(0),
        files: AtomicU64::new(0),
        fetches: AtomicU64::new(0),
        used: Mutex::new(Instant::now()),
        stored: Mutex::new(Instant::now()),
    });
    let committing = Arc::clone(&agent);
    let committer = std::thread::Builder::new().name("commit".to_owned()).spawn(move || committing.commit_for_ever());
    committer.map_err(|error| wrong(&error))?;
    let own = identity(&seat.socket()).map_err(|error| wrong(&error))?;
    // One whose program was replaced by another makes room for that.
    let program = std::env::current_exe().map_err(|error| wrong(&error))?;
    let version = identity(&program).map_err(|error| wrong(&error))?;
    seat.sweep();
    loop {
        agent.accept(&listener);
        agent.end_idle_session();
        let is = |path: &Path, known: &Identity| identity(path).is_ok_and(|found| found == *known);
        let there = is(&seat.socket(), &own) && is(&program, &version);
        if !there || agent.stopping.load(Ordering::SeqCst) || agent.is_idle(idle) {
            break;
        }
        wait_for(listener.as_fd());
    }
    // Nobody finds it from now on; who did is served. Whoever comes later has another.
    if identity(&seat.socket()).is_ok_and(|found| found == own) {
        std::fs::remove_file(seat.socket()).map_err(|error| wrong(&error))?;
    }
    agent.accept(&listener);
    drop((listener, alive));
    while agent.running.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.session.lock().take();
    log::info(&format!("agent {}: ends, after {} commands", seat.name(), agent.served.load(Ordering::SeqCst)));
    Ok(true)
}

type Identity = (u64, u64, i64, i64);

/// Which file lies at a path.
fn identity(path: &Path) -> std::io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Hundreds of commands at once hold two each.
fn more_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer it serves fewer at once.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn wait_for(listener: BorrowedFd<'_>) {
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    // A signal, or nobody: then there is something else to look after.
    let _ = poll(&mut [PollFd::from_borrowed_fd(listener, PollFlags::IN)], Some(&tick));
}

/// An object that waits to be committed.
struct Waiting {
    object: Received,
    session: Arc<Session>,
    /// The command's connection.
    line: OwnedFd,
    reply: Reply<Result<(), Failure>>,
}

/// The repository, as it was opened.
struct Open {
    repository: Arc<Repository>,
    known: Arc<Known>,
    /// What its config file was: another one is another repository.
    config: Vec<u8>,
    /// When that was looked at.
    seen: Instant,
}

impl Open {
    fn is_there(&mut self) -> Result<bool, Failure> {
        let far = self.repository.store().calls_at_once() > LOCAL_CALLS;
        if far && self.seen.elapsed() < TRUST {
            return Ok(true);
        }
        self.seen = Instant::now();
        Ok(config_file(&self.repository)?.as_ref() == Some(&self.config))
    }
}

struct Agent {
    begun: Instant,
    stopping: Arc<AtomicBool>,
    open: Mutex<Option<Open>>,
    /// Attempts to open the repository, for those who restore and those who store: only these make it where there is none.
    opening: [Together<(), Failure>; 2],
    session: Together<Option<Arc<Session>>, Failure>,
    waiting: Mutex<Vec<Waiting>>,
    more: Condvar,
    running: AtomicU64,
    served: AtomicU64,
    commits: AtomicU64,
    /// Local files that are being read: they will be committed soon.
    files: AtomicU64,
    /// Objects that are being written for those who restore.
    fetches: AtomicU64,
    /// When the last command ended, and the last of those that store.
    used: Mutex<Instant>,
    stored: Mutex<Instant>,
}

/// Counts something as long as it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes down the time when this goes.
struct Stamped<'a>(&'a Mutex<Instant>);

impl Drop for Stamped<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Instant::now();
    }
}

/// A command that is served, or what else the process must not end before.
struct Running(Arc<Agent>);

impl Running {
    fn begin(agent: &Arc<Agent>) -> Self {
        agent.running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(agent))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Agent {
    /// Takes everybody who has connected.
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // It is there still, and nothing but an end of others makes room for it.
                    log::warning(&format!("agent: nobody can be served now: {error}"));
                    std::thread::sleep(TICK);
                    return;
                }
            };
            let own = socket_peercred(&socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
            if !own || socket.set_nonblocking(false).is_err() {
                continue;
            }
            let running = Running::begin(self);
            let started = std::thread::Builder::new().name("command".to_owned()).spawn(move || {
                running.0.converse(socket.into());
                drop(running);
            });
            if let Err(error) = started {
                // The connection is closed: the command does its work itself.
                log::warning(&format!("agent: a thread cannot be started: {error}"));
            }
        }
    }

    fn is_idle(&self, limit: Duration) -> bool {
        if self.running.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let limit = if self.open.lock().is_some() { limit } else { limit.min(IDLE_CLOSED) };
        self.used.lock().elapsed() >= limit
    }

    fn end_idle_session(self: &Arc<Self>) {
        // Somebody who begins one may wait for another's lock, and nobody may wait for him here.
        let Some(mut session) = self.session.try_lock() else { return };
        let unused = session.as_ref().is_some_and(|session| Arc::strong_count(session) == 1);
        if !unused || self.stored.lock().elapsed() < SESSION_IDLE {
            return;
        }
        let ended = session.take();
        drop(session);
        // Giving up the lock takes as long as the store does. The process is there until it is done.
        let running = Running::begin(self);
        let ending = std::thread::Builder::new().name("end".to_owned()).spawn(move || {
            drop(ended);
            drop(running);
        });
        if let Err(error) = ending {
            log::warning(&format!("agent: a thread cannot be started: {error}"));
        }
    }

    fn converse(&self, socket: OwnedFd) {
        let Ok(line) = socket.try_clone() else { return };
        let (mut sender, mut receiver) = Channel::new(socket).split();
        let Ok(Frame::Message(ask, _)) = receiver.receive_within(Some(MANNERS)) else { return };
        if say(&mut sender, &Answer::Accepted).is_err() {
            return;
        }
        self.served.fetch_add(1, Ordering::SeqCst);
        let answer = match ask {
            Ask::Status => Answer::Status(self.status()),
            Ask::Stop => {
                self.stopping.store(true, Ordering::SeqCst);
                Answer::Status(self.status())
            }
            Ask::Store { opening, key, is_file } => self
                .store(&opening, &key, is_file, &mut Peer { sender: &mut sender, receiver: &mut receiver, line })
                .into(),
            Ask::Fetch { opening, key, ranges } => {
                let mut peer = Peer { sender: &mut sender, receiver: &mut receiver, line };
                self.fetch(&opening, &key, ranges.as_deref(), &mut peer).into()
            }
        };
        // Who only asks how it goes does not keep it.
        if !matches!(answer, Answer::Status(_)) {
            *self.used.lock() = Instant::now();
        }
        // A command that has gone needs no answer.
        let _ = say(&mut sender, &answer);
    }

    fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            seconds: self.begun.elapsed().as_secs(),
            served: self.served.load(Ordering::SeqCst),
            // The one who asks is no work.
            running: self.running.load(Ordering::SeqCst).saturating_sub(1),
            commits: self.commits.load(Ordering::SeqCst),
        }
    }

    /// The open repository, opened again where another one lies in its place.
    fn repository(&self, opening: &Opening, make: bool) -> Result<(Arc<Repository>, Arc<Known>), Failure> {
        self.opening[usize::from(make)].with(|()| {
            let mut open = self.open.lock();
            if let Some(open) = &mut *open
                && open.is_there()?
            {
                return Ok((Arc::clone(&open.repository), Arc::clone(&open.known)));
            }
            *open = None;
            if let Some(session) = self.session.lock().take() {
                session.abandon();
            }
            let place = Place::new(opening.config.clone())?.with_password(opening.password.clone());
            let repository = if make { place.open_or_make()? } else { place.open()? };
            let config = config_file(&repository)?.unwrap_or_default();
            let known = Arc::<Known>::default();
            let (there, seen) = ((Arc::clone(&repository), Arc::clone(&known)), Instant::now());
            *open = Some(Open { repository, known, config, seen });
            Ok(there)
        })
    }

    fn session(&self, config: &Config, repository: &Arc<Repository>, known: &Known) -> Result<Arc<Session>, Failure> {
        self.session.with(|session| {
            if let Some(session) = session.as_ref().filter(|session| !session.has_failed()) {
                return Ok(Arc::clone(session));
            }
            let begun = Arc::new(Session::begin(config, repository, known)?);
            *session = Some(Arc::clone(&begun));
            Ok(begun)
        })
    }

    /// A session that failed cannot go on.
    fn give_up(&self, failed: &Arc<Session>) {
        let mut session = self.session.lock();
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, failed)) {
            session.take();
        }
    }

    fn store(&self, opening: &Opening, key: &Key, is_file: bool, peer: &mut Peer<'_>) -> Result<(), Failure> {
        let _stored = Stamped(&self.stored);
        let file = is_file.then(|| Counted::new(&self.files));
        let (repository, known) = self.repository(opening, true)?;
        let session = self.session(&opening.config, &repository, &known)?;
        let input = peer.descriptor()?;
        let line = peer.line.try_clone().map_err(|error| Failure::new(error.to_string()))?;
        let object = session.receive(key, input.as_fd(), Line::Peer(line.as_fd()));
        drop(input);
        let object = object.inspect_err(|_| {
            if session.has_failed() {
                self.give_up(&session);
            }
        })?;
        let (reply, done) = bounded(1);
        self.waiting.lock().push(Waiting { object, session, line, reply });
        drop(file);
        self.more.notify_all();
        done.recv().unwrap_or_else(|_| Err(Failure::new("the agent failed before it was stored")))
    }

    fn commit_for_ever(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            while waiting.is_empty() {
                self.more.wait(&mut waiting);
            }
            let deadline = Instant::now() + COMPANY;
            while self.files.load(Ordering::SeqCst) > 0 && !self.more.wait_until(&mut waiting, deadline).timed_out() {}
            let mut batch = std::mem::take(&mut *waiting);
            drop(waiting);
            while let Some(first) = batch.first() {
                let session = Arc::clone(&first.session);
                let (these, others) = batch.into_iter().partition(|one| Arc::ptr_eq(&one.session, &session));
                // Whoever waits for this one is told when its sender goes, and others go on.
                if catch_unwind(AssertUnwindSafe(|| self.commit(&session, these))).is_err() {
                    self.give_up(&session);
                }
                batch = others;
            }
        }
    }

    fn commit(&self, session: &Arc<Session>, batch: Vec<Waiting>) {
        let objects: Vec<(&Received, Line<'_>)> =
            batch.iter().map(|one| (&one.object, Line::Peer(one.line.as_fd()))).collect();
        let result = session.commit(&objects);
        self.commits.fetch_add(1, Ordering::SeqCst);
        for (at, one) in batch.into_iter().enumerate() {
            let answer = match &result {
                Ok(there) if there[at] => Ok(()),
                Ok(_) => Err(gone()),
                Err(error) => Err(Failure::new(error.to_string())),
            };
            drop((one.object, one.session, one.line));
            // The thread waits for it, unless it died.
            let _ = one.reply.send(answer);
        }
        if result.is_err() {
            self.give_up(session);
        }
    }

    fn fetch(
        &self,
        opening: &Opening,
        key: &Key,
        ranges: Option<&[Range]>,
        peer: &mut Peer<'_>,
    ) -> Result<(), Failure> {
        let (repository, known) = self.repository(opening, false)?;
        let object = Objects::of(opening.config.clone(), repository, known).find(key)?;
        if let Some(ranges) = ranges {
            object.check(ranges)?;
        }
        let output = peer.descriptor()?;
        let line = peer.line.as_fd();
        let _fetching = Counted::new(&self.fetches);
        let share = READ_AHEAD / self.fetches.load(Ordering::SeqCst).max(1);
        object.write(ranges, Output::new(File::from(output), Line::Peer(line)), share.max(LEAST_AHEAD))
    }
}

/// The file that says which repository it is; none: there is none any more.
fn config_file(repository: &Repository) -> Result<Option<Vec<u8>>, Failure> {
    let store = repository.store();
    let there = store.size(ObjectKind::Config, &Id::default()).map_err(|error| told(&error))?;
    if there.is_none() {
        return Ok(None);
    }
    store.get(ObjectKind::Config, &Id::default(), None).map(Some).map_err(|error| told(&error))
}

fn say(sender: &mut Sender, answer: &Answer) -> std::io::Result<()> {
    sender.send(answer).and_then(|()| sender.flush())
}

/// The command at the other end.
struct Peer<'a> {
    sender: &'a mut Sender,
    receiver: &'a mut Receiver,
    line: OwnedFd,
}

impl Peer<'_> {
    /// Says that everything is ready, and gets the descriptor.
    fn descriptor(&mut self) -> Result<OwnedFd, Failure> {
        say(self.sender, &Answer::Ready).map_err(|_| gone())?;
        match self.receiver.receive_within(Some(MANNERS)) {
            Ok(Frame::Message(Pass, Some(descriptor))) => Ok(descriptor),
            Ok(Frame::Message(Pass, None)) => Err(Failure::new("the command passed no descriptor")),
            Ok(Frame::Closed | Frame::TimedOut) => Err(gone()),
            Err(error) => Err(Failure::new(format!("the command's connection: {error}"))),
        }
    }
}
