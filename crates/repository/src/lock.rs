//! Locks: who is at work in the repository (reference section 12).
//!
//! A shared lock is held by everything that reads or adds, an exclusive one by everything that deletes. Foreign locks
//! are deleted by [`unlock`] alone, however old they look.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind, StoreErrorKind};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::gotext::to_json;
use crate::repository::Repository;
use crate::snapshot::{SnapshotTime, now};

/// How a lock is kept. The defaults are restic's, and only tests want others.
#[derive(Clone, Copy, Debug)]
pub struct LockTimes {
    /// Between writing the lock and looking again whether someone else came at the same moment.
    pub settle: Duration,
    /// Between two refreshes.
    pub refresh: Duration,
    /// Without a refresh for so long, the lock is lost.
    pub lost_after: Duration,
    /// First pause between two attempts to take it; doubles from attempt to attempt.
    pub first_retry: Duration,
    /// Longest pause between two attempts.
    pub longest_retry: Duration,
}

impl Default for LockTimes {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(200),
            refresh: Duration::from_secs(5 * 60),
            lost_after: Duration::from_secs(22 * 60 + 30),
            first_retry: Duration::from_secs(5),
            longest_retry: Duration::from_secs(60),
        }
    }
}

/// After how long without a refresh `unlock` counts a lock as abandoned.
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 60);

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// When it was taken, or refreshed last.
    pub time: SnapshotTime,
    /// Nobody else may be at work.
    pub exclusive: bool,
    /// The host that holds it.
    #[serde(default)]
    pub hostname: String,
    /// The user who holds it.
    #[serde(default)]
    pub username: String,
    /// The process that holds it.
    #[serde(default)]
    pub pid: u32,
    /// The user's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The group's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl LockInfo {
    fn own(exclusive: bool) -> Self {
        Self {
            time: SnapshotTime::now(),
            exclusive,
            hostname: host_name(),
            username: user_name(),
            pid: std::process::id(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }

    /// Whether it was held by a process of this host that is gone.
    #[must_use]
    pub fn holder_is_gone(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        self.hostname == host_name()
            && pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
    }

    /// Whether nobody holds it any more: not refreshed for 30 minutes, or its process on this host is gone.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.age() > STALE_AFTER || self.holder_is_gone()
    }

    fn age(&self) -> Duration {
        let seconds = now().seconds.saturating_sub(self.time.time().seconds);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

/// A lock of someone else that does not go together with the one that was wanted.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The lock file.
    pub id: Id,
    /// What it says.
    pub holder: LockInfo,
    /// Whether the wanted lock was exclusive.
    pub wanted_exclusive: bool,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LockInfo { time, exclusive, hostname, username, pid, .. } = &self.holder;
        let how = if *exclusive { "exclusively locked" } else { "in use" };
        let age = self.holder.age().as_secs();
        let age = match age {
            0..60 => format!("{age} seconds"),
            60..7200 => format!("{} minutes", age / 60),
            _ => format!("{} hours", age / 3600),
        };
        write!(
            f,
            "the repository is {how} by process {pid} of {username} on host {hostname} since {time} ({age} ago, lock {}): ",
            self.id.short()
        )?;
        if self.holder.holder_is_gone() {
            write!(f, "that process is gone, so remove its lock with \"backstay unlock\"")
        } else if self.holder.is_stale() {
            write!(f, "if nothing runs there any more, remove the lock with \"backstay unlock\"")
        } else {
            write!(f, "wait until it is done, or give --retry-lock a time to wait for it")
        }
    }
}

/// The name of this host.
#[must_use]
pub fn host_name() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => name.trim_end().to_owned(),
        Err(_) => String::new(),
    }
}

/// The name of the user who runs this process, or the number where there is no name.
#[must_use]
pub fn user_name() -> String {
    match uzers::get_current_username() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => rustix::process::getuid().as_raw().to_string(),
    }
}

/// A clock that also runs while the machine sleeps: others see the lock grow old then too.
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// `restic unlock` finds out whether a lock's process lives by sending it SIGHUP, so whoever holds a lock must survive
/// that, as restic itself does: from the first lock on, this process takes notice of SIGHUP and goes on.
fn survive_probes() -> Result<(), Error> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock();
    if !*done {
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default())
            .map_err(|error| Error::io("SIGHUP cannot be caught", error))?;
        *done = true;
    }
    Ok(())
}

#[derive(Debug)]
struct State {
    id: Id,
    /// On the clock of [`since_boot`].
    refreshed: Duration,
    /// Why the last attempt to refresh it failed.
    failure: Option<String>,
    ending: bool,
}

#[derive(Debug)]
struct Shared {
    repository: Arc<Repository>,
    times: LockTimes,
    exclusive: bool,
    state: Mutex<State>,
    wake: Condvar,
}

/// A lock that is held, refreshed by a thread of its own and removed when this is dropped.
#[derive(Debug)]
pub struct Lock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Lock {
    /// Takes a lock, or waits for it up to `retry`.
    pub(crate) fn take(
        repository: &Arc<Repository>,
        exclusive: bool,
        retry: Option<Duration>,
        times: LockTimes,
    ) -> Result<Self, Error> {
        let end = retry.map(|retry| Instant::now() + retry);
        let mut pause = times.first_retry;
        loop {
            match Self::begin(repository, exclusive, times).and_then(SettlingLock::settle) {
                Err(Error::Locked(conflict)) => {
                    let left = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
                    if left.is_zero() {
                        return Err(Error::Locked(conflict));
                    }
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(times.longest_retry);
                }
                other => return other,
            }
        }
    }

    /// Writes the lock if nobody else's is in the way. Whether somebody came at the same moment is still to be seen.
    pub(crate) fn begin(
        repository: &Arc<Repository>,
        exclusive: bool,
        times: LockTimes,
    ) -> Result<SettlingLock, Error> {
        survive_probes()?;
        find_conflict(repository, exclusive, None)?;
        let started = since_boot();
        let id = write(repository, exclusive)?;
        let settled = Instant::now() + times.settle;
        let shared = Arc::new(Shared {
            repository: Arc::clone(repository),
            times,
            exclusive,
            state: Mutex::new(State { id, refreshed: started, failure: None, ending: false }),
            wake: Condvar::new(),
        });
        Ok(SettlingLock { lock: Self { shared, thread: None }, settled })
    }

    /// Makes sure that the lock is still ours. Ask before anything that others must not be surprised by.
    ///
    /// # Errors
    /// [`Error::LockLost`] when it could not be refreshed in time: whatever is being written must stop.
    pub fn check(&self) -> Result<(), Error> {
        let state = self.shared.state.lock();
        let since = since_boot().saturating_sub(state.refreshed);
        if since < self.shared.times.lost_after {
            return Ok(());
        }
        let reason = state.failure.as_deref().unwrap_or("the machine may have slept");
        Err(Error::LockLost(format!("it was not refreshed for {} seconds ({reason})", since.as_secs())))
    }
}

/// A lock that is written, but of which it is not known yet whether somebody else wrote one at the same moment. What is
/// done meanwhile must be of no consequence until [`SettlingLock::settle`] says that it holds: reading, and storing what
/// nothing refers to.
#[derive(Debug)]
pub struct SettlingLock {
    lock: Lock,
    settled: Instant,
}

impl SettlingLock {
    /// Waits for what is left of the time to settle, and looks again.
    ///
    /// # Errors
    /// As [`Repository::lock`]; the lock is given up then.
    pub fn settle(self) -> Result<Lock, Error> {
        let Self { mut lock, settled } = self;
        std::thread::sleep(settled.saturating_duration_since(Instant::now()));
        let shared = Arc::clone(&lock.shared);
        let id = shared.state.lock().id;
        find_conflict(&shared.repository, shared.exclusive, Some(&id))?;
        let thread = std::thread::Builder::new()
            .name("refresh lock".to_owned())
            .spawn(move || shared.keep_fresh())
            .map_err(|error| Error::io("a thread that refreshes the lock could not be started", error))?;
        lock.thread = Some(thread);
        Ok(lock)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.shared.state.lock().ending = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A refresh that is under way is waited for: the file to delete is the one that it writes.
            let _ = thread.join();
        }
        let id = self.shared.state.lock().id;
        // A lock that stays behind is found by its process number.
        let _ = self.shared.repository.store().delete(ObjectKind::Lock, &id);
    }
}

impl Shared {
    fn keep_fresh(&self) {
        let mut state = self.state.lock();
        loop {
            // After a failure sooner again: a store that comes back must not find the lock lost.
            let pause = if state.failure.is_some() { self.times.refresh / 10 } else { self.times.refresh };
            let deadline = Instant::now() + pause;
            while !state.ending {
                if self.wake.wait_until(&mut state, deadline).timed_out() {
                    break;
                }
            }
            if state.ending {
                return;
            }
            let old = state.id;
            let started = since_boot();
            let lost = since_boot().saturating_sub(state.refreshed) >= self.times.lost_after;
            if lost {
                // Others may have begun to delete: a fresh file would only hide that.
                return;
            }
            let result = parking_lot::MutexGuard::unlocked(&mut state, || write(&self.repository, self.exclusive));
            match result {
                Ok(id) => {
                    state.id = id;
                    state.refreshed = started;
                    state.failure = None;
                    let deleted = parking_lot::MutexGuard::unlocked(&mut state, || {
                        self.repository.store().delete(ObjectKind::Lock, &old)
                    });
                    if let Err(error) = deleted {
                        state.failure = Some(error.to_string());
                    }
                }
                Err(error) => state.failure = Some(error.to_string()),
            }
        }
    }
}

fn write(repository: &Repository, exclusive: bool) -> Result<Id, Error> {
    let json = to_json(&LockInfo::own(exclusive)).map_err(|error| Error::Other(error.to_string()))?;
    repository.save_lock(&json)
}

/// All locks of the repository. One that vanishes while being read was given up.
pub(crate) fn list(repository: &Repository) -> Result<Vec<(Id, LockInfo)>, Error> {
    let mut locks = Vec::new();
    for (id, size) in repository.store().list(ObjectKind::Lock)? {
        if size == 0 {
            continue;
        }
        if let Some(info) = read(repository, &id)? {
            locks.push((id, info));
        }
    }
    Ok(locks)
}

/// One lock; none if it is gone.
fn read(repository: &Repository, id: &Id) -> Result<Option<LockInfo>, Error> {
    let damaged = |reason: String| {
        let advice = "when nobody is at work in the repository, remove it with \"backstay unlock --remove-all\"";
        Error::damaged(ObjectKind::Lock, id, format_args!("{reason}; {advice}"))
    };
    let json = match repository.load_unpacked(ObjectKind::Lock, id) {
        Ok(json) => json,
        Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(Error::Damaged { reason, .. }) => return Err(damaged(reason)),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&json).map(Some).map_err(|error| damaged(error.to_string()))
}

/// What [`unlock`] did.
#[derive(Debug, Default)]
pub struct UnlockReport {
    /// Locks that are gone now.
    pub removed: Vec<Id>,
    /// Locks that somebody holds.
    pub kept: Vec<(Id, LockInfo)>,
    /// Locks that cannot be read, and stay.
    pub unreadable: Vec<Error>,
}

/// Removes the locks that nobody holds any more ([`LockInfo::is_stale`]), or `all` of them.
///
/// # Errors
/// [`Error::Store`].
pub fn unlock(repository: &Repository, all: bool) -> Result<UnlockReport, Error> {
    let mut report = UnlockReport::default();
    for (id, size) in repository.store().list(ObjectKind::Lock)? {
        if !all {
            // An empty file is a lock that is being written, or was never finished: it keeps nobody out.
            if size == 0 {
                continue;
            }
            match read(repository, &id) {
                Ok(Some(info)) if info.is_stale() => {}
                Ok(Some(info)) => {
                    report.kept.push((id, info));
                    continue;
                }
                Ok(None) => continue,
                Err(error @ Error::Damaged { .. }) => {
                    report.unreadable.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        repository.store().delete(ObjectKind::Lock, &id)?;
        report.removed.push(id);
    }
    Ok(report)
}

fn find_conflict(repository: &Repository, exclusive: bool, own: Option<&Id>) -> Result<(), Error> {
    for (id, holder) in list(repository)? {
        if Some(&id) != own && (exclusive || holder.exclusive) {
            return Err(Error::Locked(Box::new(Conflict { id, holder, wanted_exclusive: exclusive })));
        }
    }
    Ok(())
}
