//! Folders behind SSH, by SFTP. The system's own `ssh` makes the connection: its configuration, agent, known hosts and
//! jump hosts hold. It never asks anything: keys, no passwords.
//!
//! Each call has a conversation for itself (`session.rs`); conversations that are not in use are kept. An object grows
//! under another name and is renamed when it is whole and, where the server can tell, on its disk.

mod session;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use backstay_core::{Id, ObjectKind, Store, StoreError, StoreErrorKind};

use crate::address::{self, Address};
use crate::layout;
use crate::limit::Bandwidth;
use crate::open::{Making, OpenError};
use crate::options::Settings;
use crate::trouble::Trouble;

use session::{Failed, Handle, Session};

/// A folder behind SSH.
pub(crate) struct SftpStore {
    location: String,
    /// The folder, without a slash at its end; the root is empty.
    root: String,
    /// The program that connects, and its arguments.
    command: Vec<String>,
    connections: usize,
    pool: Mutex<Pool>,
    freed: Condvar,
    answered: Arc<AtomicBool>,
    bandwidth: Arc<Bandwidth>,
}

/// Conversations.
#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Session>,
    /// How many calls are under way.
    busy: usize,
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpStore").field("location", &self.location).finish_non_exhaustive()
    }
}

/// `ssh` and its arguments, or the user's own command.
fn command(sftp: &address::Sftp, settings: &mut Settings) -> Result<Vec<String>, OpenError> {
    let key = settings.text("key");
    let known_hosts = settings.text("known-hosts");
    let arguments = settings.text("args");
    let words = |option: &str, text: &str| {
        crate::words::split(text).map_err(|reason| OpenError::Option(format!("sftp.{option}: {reason}")))
    };
    if let Some(text) = settings.text("command") {
        if key.is_some() || known_hosts.is_some() || arguments.is_some() {
            return Err(OpenError::Option(
                "sftp.command is the whole command that connects: sftp.key, sftp.known-hosts and sftp.args do not go with it"
                    .to_owned(),
            ));
        }
        let command = words("command", &text)?;
        return if command.is_empty() {
            Err(OpenError::Option("sftp.command names no program".to_owned()))
        } else {
            Ok(command)
        };
    }
    let checking = match known_hosts.as_deref() {
        None | Some("strict") => "yes",
        Some("add") => "accept-new",
        Some("accept") => "no",
        Some(_) => {
            return Err(OpenError::Option(
                "sftp.known-hosts is strict (the host's key must be known), add (a new one is noted) or accept (any will do)"
                    .to_owned(),
            ));
        }
    };
    let mut command: Vec<String> = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"].map(str::to_owned).into();
    command.extend(["-o".to_owned(), format!("StrictHostKeyChecking={checking}")]);
    if let Some(key) = key {
        if !std::path::Path::new(&key).is_file() {
            return Err(OpenError::Option(format!("sftp.key: there is no file {key}")));
        }
        command.extend(["-o", "IdentitiesOnly=yes", "-i"].map(str::to_owned));
        command.push(key);
    }
    if let Some(port) = sftp.port {
        command.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = &sftp.user {
        command.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(text) = arguments {
        command.extend(words("args", &text)?);
    }
    command.extend(["-s".to_owned(), "--".to_owned(), sftp.host.clone(), "sftp".to_owned()]);
    Ok(command)
}

impl SftpStore {
    /// The store at an address. Nothing is looked at yet.
    pub(crate) fn new(sftp: &address::Sftp, making: &Making<'_>) -> Result<Self, OpenError> {
        let mut settings = Settings::gather("sftp", &[], making.options)?;
        let connections = settings.connections(making.options, 5)?;
        let command = command(sftp, &mut settings)?;
        settings.finish()?;
        Ok(Self {
            location: Address::Sftp(sftp.clone()).shown(),
            root: sftp.path.trim_end_matches('/').to_owned(),
            command,
            connections,
            pool: Mutex::default(),
            freed: Condvar::new(),
            answered: Arc::clone(&making.answered),
            bandwidth: making.bandwidth(),
        })
    }

    fn path(&self, kind: ObjectKind, id: &Id) -> String {
        format!("{}/{}", self.root, layout::path(kind, id))
    }

    fn folder_of(&self, kind: ObjectKind) -> String {
        format!("{}/{}", self.root, kind.directory())
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A conversation that is free, or a new one.
    fn converse(&self) -> Result<Session, Failed> {
        while let Some(mut session) = { self.pool().idle.pop() } {
            if session.is_alive() {
                return Ok(session);
            }
        }
        let session = Session::start(&self.command)?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(session)
    }

    /// Runs one call in a conversation of its own.
    fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&mut Session) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let mut pool = self.pool();
        while pool.busy >= self.connections {
            pool = self.freed.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.busy += 1;
        drop(pool);
        let _turn = Turn(self);
        let done = self.converse().and_then(|mut session| {
            let done = work(&mut session);
            if matches!(done, Err(Failed::Broken(..))) {
                // Those that wait in the pool spoke to the same server.
                let idle = std::mem::take(&mut self.pool().idle);
                drop((session, idle));
            } else {
                self.pool().idle.push(session);
            }
            done
        });
        done.map_err(|failed| self.error(operation, path, failed))
    }

    fn error(&self, operation: &'static str, path: &str, failed: Failed) -> StoreError {
        let (trouble, words) = failed.judged();
        let row = trouble.row();
        let text = if words.is_empty() { row.advice.to_owned() } else { format!("{} ({words})", row.advice) };
        let path = path.strip_prefix(&self.root).unwrap_or(path).trim_matches('/');
        let object = if path.is_empty() {
            self.location.clone()
        } else {
            format!("{}/{path}", self.location.trim_end_matches('/'))
        };
        StoreError { kind: row.kind, retry: trouble.retry(None), operation, object, text }
    }

    fn went_up(&self, bytes: usize) {
        self.bandwidth.sleep(self.bandwidth.up(bytes));
    }

    fn came_down(&self, bytes: usize) {
        self.bandwidth.sleep(self.bandwidth.down(bytes));
    }

    /// Writes a file beside its place and renames it.
    fn upload(&self, session: &mut Session, path: &str, body: &[u8], only_new: bool) -> Result<(), Failed> {
        let random = getrandom::u64().map_err(|error| Failed::Own(Trouble::Other, error.to_string()))?;
        let aside = format!("{path}-tmp-{random:016x}");
        let (folder, _) = path.rsplit_once('/').unwrap_or_default();
        let handle = match session.open(&aside, wire::WRITE_NEW) {
            Err(failed) if failed.is_missing() => {
                session.make_folders(folder)?;
                session.open(&aside, wire::WRITE_NEW)
            }
            other => other,
        };
        let done = handle.and_then(|handle| {
            let written = self.fill(session, &handle, body);
            if matches!(written, Err(Failed::Broken(..))) {
                return written;
            }
            let closed = session.close(&handle);
            written.and(closed)?;
            if only_new { session.rename_new(&aside, path) } else { session.rename_over(&aside, path) }
        });
        match done {
            Ok(()) | Err(Failed::Broken(..)) => done,
            Err(failed) => {
                // The error that counts is the first one.
                let removed = session.remove(&aside);
                if let Err(Failed::Broken(..)) = removed {
                    return removed;
                }
                if only_new && failed.may_be_there() && session.stat(path)?.is_some() {
                    return Err(Failed::Own(Trouble::Exists, String::new()));
                }
                Err(match session.room(folder) {
                    Some(room) if room.read_only => {
                        Failed::Own(Trouble::Denied, "the file system is read-only".to_owned())
                    }
                    Some(room) if room.bytes < body.len() as u64 && failed.may_be_there() => {
                        Failed::Own(Trouble::Full, format!("{} bytes are free", room.bytes))
                    }
                    _ => failed,
                })
            }
        }
    }

    fn fill(&self, session: &mut Session, handle: &Handle, body: &[u8]) -> Result<(), Failed> {
        session.write(handle, body, |bytes| self.went_up(bytes))?;
        session.sync(handle)?;
        let there = session.size(handle)?;
        if there != body.len() as u64 {
            return Err(Failed::Own(Trouble::Cut, format!("{there} bytes arrived of {}", body.len())));
        }
        Ok(())
    }

    /// Reads an open file: all of it, or the range.
    fn take(&self, session: &mut Session, handle: &Handle, range: Option<Range<u64>>) -> Result<Vec<u8>, Failed> {
        let whole = range.is_none();
        let range = match range {
            Some(range) => range,
            None => 0..session.size(handle)?,
        };
        let bytes = session.read(handle, range.clone(), |bytes| self.came_down(bytes))?;
        let wanted = range.end.saturating_sub(range.start);
        if bytes.len() as u64 == wanted && wanted > 0 || whole && wanted == 0 {
            return Ok(bytes);
        }
        let size = session.size(handle)?;
        if range.start > range.end || range.end > size {
            let text = format!("the object ends at byte {size}: {range:?} is not a range of it");
            return Err(Failed::Own(Trouble::Refused, text));
        }
        if wanted == 0 {
            return Ok(bytes);
        }
        Err(Failed::Own(Trouble::Cut, format!("{} bytes came of {wanted}", bytes.len())))
    }

    /// What is in a folder; one that is not there is empty.
    fn list_folder(&self, path: &str) -> Result<Vec<(String, wire::Attributes)>, StoreError> {
        self.call("list", path, |session| match session.list(path) {
            Err(failed) if failed.is_missing() => Ok(Vec::new()),
            other => other,
        })
    }

    /// Does something for each of the items, several at once; the first error ends it.
    fn each<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<R, StoreError> + Sync,
    ) -> Result<Vec<R>, StoreError> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Ok(Vec::with_capacity(items.len())));
        let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            for _ in 0..self.connections.min(items.len()) {
                scope.spawn(|| {
                    while lock().is_ok() {
                        let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                        let result = work(item);
                        let mut done = lock();
                        match (result, &mut *done) {
                            (Ok(result), Ok(list)) => list.push(result),
                            (Err(error), Ok(_)) => *done = Err(error),
                            (_, Err(_)) => {}
                        }
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among those that are allowed at once.
struct Turn<'a>(&'a SftpStore);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.pool().busy -= 1;
        self.0.freed.notify_one();
    }
}

impl Store for SftpStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn calls_at_once(&self) -> usize {
        self.connections
    }

    fn create(&self) -> Result<(), StoreError> {
        for kind in [ObjectKind::Key, ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack] {
            let path = self.folder_of(kind);
            self.call("create", &path, |session| session.make_folders(&path))?;
        }
        Ok(())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        let only_new = kind == ObjectKind::Config;
        self.call("write", &path, |session| match session.stat(&path)? {
            Some(_) if only_new => Err(Failed::Own(Trouble::Exists, String::new())),
            // The same name means the same bytes, unless it is broken.
            Some(there) if there.size == Some(body.len() as u64) => Ok(()),
            _ => self.upload(session, &path, body, only_new),
        })
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let path = self.path(kind, id);
        self.call("read", &path, |session| {
            let handle = session.open(&path, wire::READ)?;
            let read = self.take(session, &handle, range);
            if !matches!(read, Err(Failed::Broken(..))) {
                session.close(&handle)?;
            }
            read
        })
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        if kind == ObjectKind::Config {
            return Ok(self.size(kind, &Id::default())?.map(|size| (Id::default(), size)).into_iter().collect());
        }
        let path = self.folder_of(kind);
        let (folders, files): (Vec<_>, Vec<_>) =
            self.list_folder(&path)?.into_iter().partition(|(_, attributes)| attributes.is_folder());
        let mut list = files;
        if kind == ObjectKind::Pack {
            let folders: Vec<String> =
                folders.into_iter().map(|(name, _)| name).filter(|name| name.len() == 2).collect();
            let inner = self.each(&folders, |folder| {
                let inner = self.list_folder(&format!("{path}/{folder}"))?;
                Ok(inner
                    .into_iter()
                    .map(|(name, attributes)| (format!("{folder}/{name}"), attributes))
                    .collect::<Vec<_>>())
            })?;
            list.extend(inner.into_iter().flatten());
        }
        let objects = list.into_iter().filter(|(_, attributes)| !attributes.is_folder());
        Ok(objects.filter_map(|(name, attributes)| Some((layout::listed(kind, &name)?, attributes.size?))).collect())
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        let path = self.path(kind, id);
        self.call("look at", &path, |session| Ok(session.stat(&path)?.and_then(|attributes| attributes.size)))
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        let deleted = self.call("delete", &path, |session| session.remove(&path));
        match deleted {
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(()),
            other => other,
        }
    }

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        self.each(ids, |id| self.delete(kind, id)).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::options::StoreOptions;

    /// A clock that only moves when somebody sleeps.
    #[derive(Debug, Default)]
    struct Sleeper(Mutex<Duration>);

    impl Clock for Sleeper {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn sleep(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    /// The server's half of OpenSSH, without the network between.
    #[test]
    fn bytes_are_paced_in_both_directions() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Sleeper::default());
        let store = SftpStore {
            location: "sftp:here".to_owned(),
            root: folder.path().to_str().unwrap().to_owned(),
            command: vec!["/usr/lib/openssh/sftp-server".to_owned()],
            connections: 1,
            pool: Mutex::default(),
            freed: Condvar::new(),
            answered: Arc::default(),
            bandwidth: Arc::new(Bandwidth::with_clock(Some(100_000), Some(50_000), Arc::clone(&clock) as _)),
        };
        let body = vec![7; 1_000_000];
        let id = Id::of(&body);
        let seconds = || (clock.now() + Duration::from_millis(1)).as_secs();
        store.put(ObjectKind::Pack, &id, &body).unwrap();
        assert_eq!(seconds(), 10);
        assert!(store.get(ObjectKind::Pack, &id, None).unwrap() == body);
        assert_eq!(seconds(), 30);
        store.get(ObjectKind::Pack, &id, Some(100_000..200_000)).unwrap();
        assert_eq!(seconds(), 32);
        assert!(store.answered.load(Ordering::Relaxed));
    }

    fn words(address: &str, extended: &[&str]) -> Result<String, OpenError> {
        let Ok(Address::Sftp(sftp)) = Address::parse(address) else { panic!("{address}") };
        let options = StoreOptions {
            extended: extended.iter().map(|option| (*option).to_owned()).collect(),
            ..StoreOptions::default()
        };
        let mut settings = Settings::gather("sftp", &[], &options).unwrap();
        let command = command(&sftp, &mut settings)?;
        settings.finish()?;
        Ok(command.join(" "))
    }

    #[test]
    fn ssh_is_told_what_the_address_and_the_options_say() {
        let usual = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=";
        assert_eq!(words("sftp:host:/x", &[]).unwrap(), format!("{usual}yes -s -- host sftp"));
        assert_eq!(
            words("sftp://me@[::1]:2222//x", &["sftp.known-hosts=add", "sftp.args=-F 'a file'"]).unwrap(),
            format!("{usual}accept-new -p 2222 -l me -F a file -s -- ::1 sftp")
        );
        assert_eq!(words("sftp:host:x", &["sftp.command=ssh -x there -s sftp"]).unwrap(), "ssh -x there -s sftp");
        for wrong in [
            &["sftp.known-hosts=maybe"][..],
            &["sftp.key=/nowhere/key"],
            &["sftp.command=ssh x", "sftp.args=-v"],
            &["sftp.args='open"],
            &["sftp.command=''", "sftp.key=x"],
        ] {
            assert!(matches!(words("sftp:host:x", wrong), Err(OpenError::Option(_))), "{wrong:?}");
        }
    }
}
