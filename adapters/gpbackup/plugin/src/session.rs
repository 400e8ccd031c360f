//! A session stores objects in an open repository: a lock, an index and a writer that many streams share.
//!
//! An object is received first: its contents go into packs, and nobody can see it. A commit makes objects visible that wait
//! together: packs, index files, and last one snapshot for each backup. So an object is there whole or not at all.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_core::{FileKind, Id, ObjectKind, Time};
use backstay_engine::backup::now;
use backstay_repository::assemble::Assembler;
use backstay_repository::error::Error;
use backstay_repository::lock::{Lock, host_name, user_name};
use backstay_repository::repository::Repository;
use backstay_repository::snapshot::{PROGRAM_VERSION, Snapshot, SnapshotTime, Summary};
use backstay_repository::tree::Node;
use backstay_repository::writer::{Compression, WriteOptions, WriteStats, Writer};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};

use crate::config::{self, Config};
use crate::key::{Key, Timestamp, tag};
use crate::objects::Known;
use crate::place::told;
use crate::{Failure, log};

/// Dozens of streams come at once, and each holds a chunk in the making.
const LONGEST_CHUNK: usize = 4 << 20;
/// How long another's exclusive lock is waited for: a prune holds it for seconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Whoever wants something of us: when he is gone, nothing he asked for may become visible.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line<'a> {
    /// Ourselves.
    Own,
    /// The other end of this connection.
    Peer(BorrowedFd<'a>),
}

impl Line<'_> {
    /// Waits until the descriptor can be read or written.
    ///
    /// # Errors
    /// The peer has gone; the kernel's.
    pub(crate) fn wait(self, descriptor: BorrowedFd<'_>, ready: PollFlags) -> Result<(), Failure> {
        let descriptor = PollFd::from_borrowed_fd(descriptor, ready);
        let mut both = match self {
            Self::Own => vec![descriptor],
            Self::Peer(peer) => vec![descriptor, PollFd::from_borrowed_fd(peer, PollFlags::RDHUP)],
        };
        loop {
            match poll(&mut both, None) {
                Ok(_) if both.get(1).is_some_and(|peer| !peer.revents().is_empty()) => return Err(gone()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::new(format!("cannot wait for a descriptor: {error}"))),
            }
        }
    }

    pub(crate) fn is_there(self) -> bool {
        let Self::Peer(peer) = self else { return true };
        let mut one = [PollFd::from_borrowed_fd(peer, PollFlags::RDHUP)];
        poll(&mut one, Some(&rustix::event::Timespec::default())) == Ok(0)
    }
}

pub(crate) fn gone() -> Failure {
    Failure::new("whoever asked for it has gone")
}

/// An object whose contents are stored, and that nobody can see yet.
#[derive(Debug)]
pub(crate) struct Received {
    key: Key,
    node: Node,
}

#[derive(Debug)]
enum Held {
    /// A thread waits until it is settled, however long the first stream is: nobody refreshes it before.
    Settling(JoinHandle<Result<Lock, Error>>),
    Settled(Lock),
    /// It could not be had, or was given up, and why.
    Not(Error),
}

impl Held {
    fn begin(repository: &Arc<Repository>) -> Result<Self, Error> {
        let lock = match repository.begin_lock(false) {
            Ok(lock) => lock,
            Err(Error::Locked(_)) => return repository.lock(false, Some(LOCK_PATIENCE)).map(Self::Settled),
            Err(error) => return Err(error),
        };
        let settling = std::thread::Builder::new().name("settle lock".to_owned()).spawn(move || lock.settle());
        settling.map(Self::Settling).map_err(|error| Error::Other(format!("a thread could not be started: {error}")))
    }

    /// Waits until it is settled.
    fn settle(self) -> Self {
        let Self::Settling(thread) = self else { return self };
        let died = |_| Err(Error::Other("the thread that takes the lock died".to_owned()));
        thread.join().unwrap_or_else(died).map_or_else(Self::Not, Self::Settled)
    }
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Session {
    host: String,
    tags: Vec<String>,
    repository: Arc<Repository>,
    writer: Arc<Writer>,
    lock: Mutex<Held>,
    /// The lock could not be had, or was given up.
    lost: AtomicBool,
    told: Mutex<WriteStats>,
}

impl Session {
    /// Locks the repository and reads its index.
    ///
    /// # Errors
    /// Somebody holds an exclusive lock for longer than a minute; the store's.
    pub(crate) fn begin(config: &Config, repository: &Arc<Repository>, known: &Known) -> Result<Self, Failure> {
        let lock = Held::begin(repository).map_err(|error| told(&error))?;
        let writer = match Self::writer(config, repository, known) {
            Ok(writer) => writer,
            Err(error) => {
                // Its file goes now, not some time after the process.
                drop(lock.settle());
                return Err(told(&error));
            }
        };
        Ok(Self {
            host: config.host(),
            tags: config.tags.clone(),
            repository: Arc::clone(repository),
            writer,
            lock: Mutex::new(lock),
            lost: AtomicBool::new(false),
            told: Mutex::default(),
        })
    }

    fn writer(config: &Config, repository: &Arc<Repository>, known: &Known) -> Result<Arc<Writer>, Error> {
        let options = WriteOptions {
            compression: match config.compression {
                config::Compression::Auto => Compression::default(),
                config::Compression::Off => Compression::Off,
                config::Compression::Max => Compression::Level(19),
            },
            longest_chunk: LONGEST_CHUNK,
            ..WriteOptions::default()
        };
        Writer::new(Arc::clone(repository), known.index(repository)?, options)
    }

    /// Takes what comes from a descriptor until its end.
    ///
    /// # Errors
    /// It could not be read or stored; the peer went.
    pub(crate) fn receive(&self, key: &Key, input: BorrowedFd<'_>, line: Line<'_>) -> Result<Received, Failure> {
        let mut content = self.writer.content();
        loop {
            line.wait(input, PollFlags::IN)?;
            match content.read_once(input, u64::MAX).map_err(|error| told(&error))? {
                Ok(0) => break,
                Ok(_) => {}
                // Whoever else has the descriptor may have made it non-blocking.
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Failure::new(format!("cannot read what to store: {error}"))),
            }
        }
        let content = content.finish().map_err(|error| told(&error))?;
        let time = now();
        let mut node = Node::new(FileKind::File);
        node.mode = Node::go_mode_from_unix(0o100_644);
        (node.mtime, node.atime, node.ctime) = (time, time, time);
        (node.uid, node.gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        node.links = 1;
        node.size = content.size;
        node.content = Some(content.ids);
        Ok(Received { key: key.clone(), node })
    }

    /// Makes objects visible, as far as those who stored them are still there; returns which became visible.
    ///
    /// # Errors
    /// The store's, or the lock was lost. The session cannot go on then.
    pub(crate) fn commit(&self, objects: &[(&Received, Line<'_>)]) -> Result<Vec<bool>, Failure> {
        self.check_lock().map_err(|error| told(&error))?;
        let mut there: Vec<bool> = objects.iter().map(|(_, line)| line.is_there()).collect();
        loop {
            let mut backups: BTreeMap<&Timestamp, Vec<&Received>> = BTreeMap::new();
            for ((object, _), there) in objects.iter().zip(&there) {
                if *there {
                    backups.entry(&object.key.timestamp).or_default().push(object);
                }
            }
            let roots = backups.values().map(|objects| self.tree(objects)).collect::<Result<Vec<Id>, Error>>();
            let roots = roots.map_err(|error| told(&error))?;
            self.check_repository().map_err(|error| told(&error))?;
            self.writer.checkpoint().map_err(|error| told(&error))?;
            self.check_lock().map_err(|error| told(&error))?;
            // Storing takes its time: who went meanwhile must not be found in the snapshot.
            let now: Vec<bool> = objects.iter().zip(&there).map(|((_, line), was)| *was && line.is_there()).collect();
            if now != there {
                there = now;
                continue;
            }
            for ((timestamp, objects), root) in backups.into_iter().zip(roots) {
                self.save_snapshot(timestamp, &objects, root).map_err(|error| told(&error))?;
            }
            return Ok(there);
        }
    }

    /// Whether nothing can be stored in it any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.writer.has_failed() || self.lost.load(Ordering::SeqCst)
    }

    /// Lets the next session find what this one has stored, although nothing refers to it.
    pub(crate) fn keep(&self) {
        let kept = self.check_lock().and_then(|()| self.writer.checkpoint());
        if let Err(error) = kept {
            log::warning(&format!("what was stored until now cannot be used again: {error}"));
        }
    }

    fn tree(&self, objects: &[&Received]) -> Result<Id, Error> {
        let mut assembler = Assembler::new();
        for object in objects {
            assembler.add(object.key.path().as_bytes(), object.node.clone())?;
        }
        assembler.finish(&self.writer, |_| Ok(None))
    }

    /// Makes sure that the lock is ours, and waits until that is known. What was stored before is nothing that anybody refers
    /// to: where somebody wrote an exclusive lock at the same moment, nothing of it may be used.
    fn check_lock(&self) -> Result<(), Error> {
        let mut held = self.lock.lock();
        let gone = || Held::Not(Error::LockLost("it could not be had".to_owned()));
        *held = std::mem::replace(&mut *held, gone()).settle();
        let checked = match &*held {
            Held::Settled(lock) => lock.check(),
            Held::Not(error) => Err(error.clone()),
            Held::Settling(_) => Err(Error::LockLost("it is not settled".to_owned())),
        };
        if let Err(error) = &checked {
            // Once lost it is lost for good, whatever its file says later.
            *held = Held::Not(error.clone());
            self.lost.store(true, Ordering::SeqCst);
        }
        checked
    }

    /// Makes sure that nothing more becomes visible: another repository lies in the place of the one that was opened.
    pub(crate) fn abandon(&self) {
        *self.lock.lock() = Held::Not(Error::NoRepository { location: self.repository.store().location() });
        self.lost.store(true, Ordering::SeqCst);
    }

    /// Whoever deletes a repository deletes it under those who store, too: what they leave there nobody can read.
    fn check_repository(&self) -> Result<(), Error> {
        let store = self.repository.store();
        match store.size(ObjectKind::Config, &Id::default())? {
            Some(_) => Ok(()),
            None => Err(Error::NoRepository { location: store.location() }),
        }
    }

    fn save_snapshot(&self, timestamp: &Timestamp, objects: &[&Received], tree: Id) -> Result<(), Error> {
        let time: Time = now();
        let size = objects.iter().map(|object| object.node.size).sum();
        let stats = self.writer.stats();
        let before = std::mem::replace(&mut *self.told.lock(), stats);
        let summary = Summary {
            backup_start: objects.iter().map(|object| object.node.mtime).min().unwrap_or(time).into(),
            backup_end: SnapshotTime::now(),
            files_new: objects.len() as u64,
            total_files_processed: objects.len() as u64,
            total_bytes_processed: size,
            // As far as it can be told apart where other streams run at the same time.
            data_blobs: stats.data_blobs - before.data_blobs,
            tree_blobs: stats.tree_blobs - before.tree_blobs,
            data_added: stats.added - before.added,
            data_added_packed: stats.added_packed - before.added_packed,
            ..Summary::default()
        };
        let mut paths: Vec<String> = objects.iter().map(|object| format!("/{}", object.key.path())).collect();
        paths.sort();
        paths.dedup();
        let snapshot = Snapshot {
            time: time.into(),
            tree,
            paths,
            hostname: self.host.clone(),
            username: user_name(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            tags: [vec![tag(timestamp)], self.tags.clone()].concat(),
            program_version: PROGRAM_VERSION.to_owned(),
            summary: Some(summary),
            ..Snapshot::default()
        };
        let id = self.repository.save_snapshot(&snapshot)?;
        for object in objects {
            log::info(&format!("stored {} ({} bytes) in snapshot {}", object.key.path(), object.node.size, id.short()));
        }
        Ok(())
    }
}

impl Config {
    /// The host's name in snapshots.
    pub(crate) fn host(&self) -> String {
        self.host.clone().unwrap_or_else(host_name)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The lock's file goes with it, not some time after the process.
        let held = self.lock.get_mut();
        let gone = Held::Not(Error::LockLost("the session ended".to_owned()));
        drop(std::mem::replace(held, gone).settle());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use backstay_repository::lock::LockTimes;
    use backstay_repository::repository::{InitOptions, OpenOptions};
    use backstay_stores::LocalStore;

    use super::*;
    use crate::config::tests::options;

    fn repository(folder: &std::path::Path, lock_times: LockTimes) -> Arc<Repository> {
        let store = Arc::new(LocalStore::new(folder));
        Repository::init(store.clone(), b"x", InitOptions::default()).unwrap();
        let options = OpenOptions { lock_times, ..OpenOptions::default() };
        Arc::new(Repository::open_with(store, b"x", &options).unwrap())
    }

    fn key() -> Key {
        Key::of(std::path::Path::new("/d/backups/20240131/20240131120000/x")).unwrap()
    }

    #[test]
    fn the_first_stream_may_last_longer_than_a_lock_without_refresh() {
        let folder = tempfile::tempdir().unwrap();
        let times = LockTimes {
            settle: Duration::from_millis(1),
            refresh: Duration::from_millis(50),
            lost_after: Duration::from_secs(2),
            ..LockTimes::default()
        };
        let repository = repository(folder.path(), times);
        let session = Session::begin(&options("").unwrap(), &repository, &Known::default()).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            drop(writer);
        });
        let object = session.receive(&key(), reader.as_fd(), Line::Own).unwrap();
        assert_eq!(session.commit(&[(&object, Line::Own)]).unwrap(), [true]);
        drop(session);
        assert!(repository.store().list(ObjectKind::Lock).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_called_stored_in_a_repository_that_was_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let repository = repository(folder.path(), LockTimes::default());
        let session = Session::begin(&options("").unwrap(), &repository, &Known::default()).unwrap();
        let object = session.receive(&key(), tempfile::tempfile().unwrap().as_fd(), Line::Own).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(session.commit(&[(&object, Line::Own)]).unwrap_err().to_string().contains("no repository"));
        // Whoever makes another one there must not find what he cannot read.
        assert!(repository.store().list(ObjectKind::Index).is_ok_and(|files| files.is_empty()));
    }

    #[test]
    fn a_session_that_was_abandoned_makes_nothing_visible() {
        let folder = tempfile::tempdir().unwrap();
        let repository = repository(folder.path(), LockTimes::default());
        let session = Session::begin(&options("").unwrap(), &repository, &Known::default()).unwrap();
        let object = session.receive(&key(), tempfile::tempfile().unwrap().as_fd(), Line::Own).unwrap();
        session.abandon();
        assert!(session.has_failed());
        assert!(session.commit(&[(&object, Line::Own)]).is_err());
        assert!(repository.snapshot_ids().unwrap().is_empty());
    }
}
