//! The stores that opendal reaches, behind our port: one object is one file or object of the service, in restic's layout.
//!
//! * Whole or not at all: object services show an upload when it is complete. Where files grow in sight of others (WebDAV),
//!   an object is written beside its place under another name, and renamed.
//! * `config` is written only where there is none: by the service's own condition (`If-None-Match`) where it has one,
//!   after a look in any case.
//! * A call in which nothing moves for [`SILENCE`] ends.
//! * No call is repeated here: [`crate::retry`] does that.

mod foreign;

use std::fmt;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use backstay_core::{Id, ObjectKind, Store, StoreError, StoreErrorKind};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use opendal::options::{ListOptions, ReadOptions, WriteOptions};
use opendal::{ErrorKind, HttpTransporter, Operator};
use tokio::sync::Semaphore;

use crate::keystone::Login;
use crate::layout;
use crate::limit::Bandwidth;
use crate::runtime;
use crate::secret::{Secret, scrub};
use crate::transport::{Ear, Heard, Transport};
use crate::trouble::{SILENCE, Trouble};

pub use foreign::ForeignObjects;

/// What all services have in common, made by the service's own file.
pub(crate) struct Parts {
    /// Where it is, for people.
    pub location: String,
    /// Without a storage class.
    pub operator: Operator,
    /// For the kinds that are stored in another class.
    pub classes: Vec<(ObjectKind, Operator)>,
    /// The folder in front of every path, ending in a slash; or empty.
    pub folder: String,
    /// What kind of service this is.
    pub manner: Manner,
    /// How many calls at once.
    pub connections: usize,
    /// How HTTP is spoken; none for services that speak something else, as in tests.
    pub client: Option<reqwest::Client>,
    /// The login whose token goes with every request, where tokens run out.
    pub login: Option<Arc<Login>>,
    /// Raised at the store's first answer.
    pub answered: Arc<AtomicBool>,
    /// The account of bytes.
    pub bandwidth: Arc<Bandwidth>,
    /// What must not be seen in an error's text.
    pub secrets: Vec<Secret>,
}

/// How a service keeps objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Objects in a flat space: uploads are atomic, one listing shows all.
    Objects,
    /// Files in folders: they grow in sight, and each folder is listed for itself.
    Files,
}

/// A prefix as the folder in front of every path.
pub(crate) fn folder(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") }
}

/// A store that opendal reaches.
pub(crate) struct ObjectStore {
    parts: Parts,
    permits: Semaphore,
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").field("location", &self.parts.location).finish_non_exhaustive()
    }
}

/// What a call ended with, before it has a name and a place.
type Called<T> = Result<T, Failed>;

/// Why a call failed.
enum Failed {
    /// The service said so.
    Service(opendal::Error),
    /// We found out ourselves.
    Own(Trouble, String),
}

impl From<opendal::Error> for Failed {
    fn from(error: opendal::Error) -> Self {
        Self::Service(error)
    }
}

impl ObjectStore {
    pub(crate) fn new(parts: Parts) -> Self {
        let permits = Semaphore::new(parts.connections.max(1));
        Self { parts, permits }
    }

    fn path(&self, kind: ObjectKind, id: &Id) -> String {
        format!("{}{}", self.parts.folder, layout::path(kind, id))
    }

    fn folder_of(&self, kind: ObjectKind) -> String {
        format!("{}{}/", self.parts.folder, kind.directory())
    }

    fn operator(&self, kind: Option<ObjectKind>) -> &Operator {
        let special = self.parts.classes.iter().find(|(class, _)| Some(*class) == kind);
        special.map_or(&self.parts.operator, |(_, operator)| operator)
    }

    /// Runs one call: waits for its turn, listens to what the service says, ends it when nothing moves any more.
    fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        kind: Option<ObjectKind>,
        work: impl AsyncFnOnce(Operator, Ear) -> Called<T>,
    ) -> Result<T, StoreError> {
        let ear = Ear::new();
        let operator = self.operator(kind).clone();
        let operator = match &self.parts.client {
            Some(client) => {
                let transport = Transport {
                    client: client.clone(),
                    login: self.parts.login.clone(),
                    bandwidth: Arc::clone(&self.parts.bandwidth),
                    answered: Arc::clone(&self.parts.answered),
                    ear: ear.clone(),
                };
                let context = operator.base_context().with_http_transport(HttpTransporter::new(transport));
                operator.with_context(context)
            }
            None => operator,
        };
        let run = async {
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            ear.moved();
            let mut work = pin!(work(operator, ear.clone()));
            loop {
                match tokio::time::timeout_at((ear.last() + SILENCE).into(), work.as_mut()).await {
                    Ok(done) => return done,
                    Err(_) if ear.last() + SILENCE > Instant::now() => {}
                    Err(_) => {
                        ear.note(None);
                        return Err(Failed::Own(
                            Trouble::Silent,
                            format!("not a byte moved for {} seconds", SILENCE.as_secs()),
                        ));
                    }
                }
            }
        };
        let done = runtime::wait(run).map_err(|error| {
            StoreError::new(StoreErrorKind::Other, operation, self.shown(path), format!("no threads for it: {error}"))
        })?;
        done.map_err(|failed| self.error(operation, path, &failed, ear.take()))
    }

    fn shown(&self, path: &str) -> String {
        let path = path.strip_prefix(self.parts.folder.as_str()).unwrap_or(path).trim_end_matches('/');
        if path.is_empty() {
            return self.parts.location.clone();
        }
        format!("{}/{path}", self.parts.location.trim_end_matches('/'))
    }

    fn error(&self, operation: &'static str, path: &str, failed: &Failed, heard: Option<Heard>) -> StoreError {
        let (trouble, words, wait) = match (failed, heard) {
            (Failed::Own(trouble, words), _) => (*trouble, words.clone(), None),
            (Failed::Service(_), Some(heard)) => (heard.trouble, heard.words, heard.wait),
            (Failed::Service(error), None) => {
                let (trouble, words) = judged(error);
                (trouble, words, None)
            }
        };
        let row = trouble.row();
        let words = scrub(&words, &self.parts.secrets);
        let text = if words.is_empty() { row.advice.to_owned() } else { format!("{} ({words})", row.advice) };
        StoreError { kind: row.kind, retry: trouble.retry(wait), operation, object: self.shown(path), text }
    }

    /// Writes an object to where it belongs, in one go.
    async fn upload(operator: Operator, path: &str, body: Bytes, only_new: bool) -> Called<()> {
        // Some stores remember none where none is named, and then answer what their clients cannot read.
        let named = operator.info().capability().write_with_content_type;
        let content_type = named.then(|| "application/octet-stream".to_owned());
        let usual = WriteOptions { content_type, ..WriteOptions::default() };
        let options = WriteOptions { if_not_exists: only_new, ..usual.clone() };
        match operator.write_options(path, body.clone(), options).await {
            Err(error) if only_new && error.kind() == ErrorKind::Unsupported => {
                operator.write_options(path, body, usual).await?;
            }
            other => {
                other?;
            }
        }
        Ok(())
    }

    /// Writes an object beside its place, then renames it.
    async fn upload_aside(operator: Operator, path: &str, body: Bytes) -> Called<()> {
        let random = getrandom::u64().map_err(|error| Failed::Own(Trouble::Other, error.to_string()))?;
        let aside = format!("{path}-tmp-{random:016x}");
        let length = body.len() as u64;
        let done = async {
            operator.write(&aside, body).await?;
            let there = operator.stat(&aside).await?.content_length();
            if there != length {
                return Err(Failed::Own(Trouble::Cut, format!("{there} bytes arrived of {length}")));
            }
            match operator.rename(&aside, path).await {
                Ok(()) => Ok(()),
                // Some servers do not rename over what is there. The same name means the same bytes, unless it is broken.
                Err(error) => match operator.stat(path).await {
                    Ok(there) if there.content_length() == length => {
                        operator.delete(&aside).await?;
                        Ok(())
                    }
                    Ok(_) => {
                        operator.delete(path).await?;
                        operator.rename(&aside, path).await?;
                        Ok(())
                    }
                    Err(_) => Err(error.into()),
                },
            }
        }
        .await;
        if done.is_err() {
            // The error that counts is the first one.
            let _ = operator.delete(&aside).await;
        }
        done
    }

    async fn list_folder(operator: &Operator, path: &str, recursive: bool) -> Called<Vec<(String, bool, u64)>> {
        let options = ListOptions { recursive, ..ListOptions::default() };
        let mut lister = operator.lister_options(path, options).await?;
        let mut list = Vec::new();
        while let Some(entry) = lister.try_next().await? {
            let Some(name) = entry.path().strip_prefix(path).filter(|name| !name.is_empty()) else { continue };
            let metadata = entry.metadata();
            let folder = metadata.is_dir() || name.ends_with('/');
            let size = if folder { 0 } else { metadata.content_length() };
            list.push((name.to_owned(), folder, size));
        }
        Ok(list)
    }

    /// All paths below a folder, relative to it, with their sizes. A folder that is not there is empty.
    async fn list_all(&self, operator: Operator, path: &str, deep: bool) -> Called<Vec<(String, u64)>> {
        let missing_is_empty = |listed: Called<Vec<(String, bool, u64)>>| match listed {
            Err(Failed::Service(error))
                if error.kind() == ErrorKind::NotFound && self.parts.manner == Manner::Files =>
            {
                Ok(Vec::new())
            }
            other => other,
        };
        if self.parts.manner == Manner::Objects {
            let list = Self::list_folder(&operator, path, deep).await?;
            return Ok(list.into_iter().filter(|(_, folder, _)| !folder).map(|(name, _, size)| (name, size)).collect());
        }
        let mut list = Vec::new();
        let mut folders = Vec::new();
        for (name, folder, size) in missing_is_empty(Self::list_folder(&operator, path, false).await)? {
            match folder {
                true if deep && name.trim_end_matches('/').len() == 2 => folders.push(name),
                true => {}
                false => list.push((name, size)),
            }
        }
        let inner: Vec<Vec<(String, u64)>> = stream::iter(folders)
            .map(|folder| {
                let operator = &operator;
                async move {
                    let whole = format!("{path}{folder}");
                    let list = missing_is_empty(Self::list_folder(operator, &whole, false).await)?;
                    let files = list.into_iter().filter(|(_, folder, _)| !folder);
                    Ok::<_, Failed>(files.map(|(name, _, size)| (format!("{folder}{name}"), size)).collect())
                }
            })
            .buffer_unordered(self.parts.connections.max(1))
            .try_collect()
            .await?;
        list.extend(inner.into_iter().flatten());
        Ok(list)
    }

    /// Whether there is a bucket at all: an object that is missing looks the same in one that is not there.
    fn look_for_bucket(&self) -> Result<(), StoreError> {
        if self.parts.manner == Manner::Files {
            return Ok(());
        }
        let path = self.folder_of(ObjectKind::Key);
        self.call("open", "", None, async |operator: Operator, ear: Ear| {
            let options = ListOptions { limit: Some(1), ..ListOptions::default() };
            let first = async { operator.lister_options(&path, options).await?.try_next().await }.await;
            match first {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let words = ear.take().map(|heard| heard.words).unwrap_or_default();
                    Err(Failed::Own(Trouble::NoBucket, words))
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Reads the config, which answers more than a look at it: errors have a body then.
    fn config(&self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.get(ObjectKind::Config, &Id::default(), None) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => self.look_for_bucket().map(|()| None),
            Err(error) => Err(error),
        }
    }
}

/// What opendal's own errors mean, where nothing was heard on the way.
fn judged(error: &opendal::Error) -> (Trouble, String) {
    let mut words = error.message().to_owned();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let part = cause.to_string();
        if !words.contains(&part) {
            words = format!("{words}: {part}");
        }
        next = cause.source();
    }
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let lower = words.to_ascii_lowercase();
    let trouble = match error.kind() {
        ErrorKind::NotFound => Trouble::Missing,
        ErrorKind::PermissionDenied => Trouble::Denied,
        ErrorKind::AlreadyExists | ErrorKind::ConditionNotMatch => Trouble::Exists,
        ErrorKind::RateLimited => Trouble::Throttled,
        ErrorKind::RangeNotSatisfied => Trouble::Refused,
        _ if lower.contains("credential") || lower.contains("signing") => Trouble::NoCredentials,
        _ if lower.contains("connection refused") || lower.contains("timed out") || lower.contains("connect") => {
            Trouble::Unreachable
        }
        _ if error.is_temporary() => Trouble::Unavailable,
        _ => Trouble::Other,
    };
    (trouble, words)
}

impl Store for ObjectStore {
    fn location(&self) -> String {
        self.parts.location.clone()
    }

    fn calls_at_once(&self) -> usize {
        self.parts.connections.max(1)
    }

    fn create(&self) -> Result<(), StoreError> {
        if self.parts.manner == Manner::Objects {
            return self.look_for_bucket();
        }
        for kind in [ObjectKind::Key, ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack] {
            let path = self.folder_of(kind);
            self.call("create", &path, None, async |operator: Operator, _| Ok(operator.create_dir(&path).await?))?;
        }
        Ok(())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        let only_new = kind == ObjectKind::Config;
        if only_new && self.config()?.is_some() {
            return Err(self.error("write", &path, &Failed::Own(Trouble::Exists, String::new()), None));
        }
        if !only_new && self.parts.manner == Manner::Files && self.size(kind, id)? == Some(body.len() as u64) {
            return Ok(());
        }
        self.call("write", &path, Some(kind), async |operator: Operator, _| {
            let body = Bytes::copy_from_slice(body);
            match self.parts.manner {
                Manner::Objects => Self::upload(operator, &path, body, only_new).await,
                Manner::Files => Self::upload_aside(operator, &path, body).await,
            }
        })
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let path = self.path(kind, id);
        let Some(range) = range else {
            return self.call("read", &path, Some(kind), async |operator: Operator, _| {
                Ok(operator.read(&path).await?.to_vec())
            });
        };
        let own = |trouble, text: String| self.error("read", &path, &Failed::Own(trouble, text), None);
        if range.start >= range.end {
            // Nobody can be asked for no bytes.
            return match self.size(kind, id)? {
                Some(size) if range.start == range.end && range.end <= size => Ok(Vec::new()),
                Some(size) => Err(own(Trouble::Refused, format!("{range:?} is not a range of its {size} bytes"))),
                None => Err(own(Trouble::Missing, String::new())),
            };
        }
        let wanted = range.end - range.start;
        let read = self.call("read", &path, Some(kind), async |operator: Operator, _| {
            let options = ReadOptions { range: range.clone().into(), ..ReadOptions::default() };
            Ok(operator.read_options(&path, options).await?.to_vec())
        });
        match read {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(bytes) => Err(self.too_short(kind, id, &range, Some(bytes.len()))?),
            Err(error) if error.retry != backstay_core::Retry::Never && error.text.contains("too little data") => {
                Err(self.too_short(kind, id, &range, None)?)
            }
            Err(error) => Err(error),
        }
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        if kind == ObjectKind::Config {
            return Ok(self.size(kind, &Id::default())?.map(|size| (Id::default(), size)).into_iter().collect());
        }
        let path = self.folder_of(kind);
        let list = self.call("list", &path, None, async |operator: Operator, _| {
            self.list_all(operator, &path, kind == ObjectKind::Pack).await
        })?;
        Ok(list.into_iter().filter_map(|(name, size)| Some((layout::listed(kind, &name)?, size))).collect())
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        if kind == ObjectKind::Config {
            return Ok(self.config()?.map(|bytes| bytes.len() as u64));
        }
        let path = self.path(kind, id);
        let found = self.call("look at", &path, Some(kind), async |operator: Operator, _| {
            Ok(operator.stat(&path).await?.content_length())
        });
        match found {
            Ok(size) => Ok(Some(size)),
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        let deleted =
            self.call("delete", &path, None, async |operator: Operator, _| Ok(operator.delete(&path).await?));
        match deleted {
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(()),
            other => other,
        }
    }

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        let at_once = self.parts.operator.info().capability().delete_max_size.unwrap_or(1);
        if at_once > 1 && ids.len() > 1 {
            let paths: Vec<String> = ids.iter().map(|id| self.path(kind, id)).collect();
            let folder = self.folder_of(kind);
            let deleted = self.call("delete in", &folder, None, async |operator: Operator, ear: Ear| {
                for some in paths.chunks(at_once) {
                    operator.delete_iter(some.iter().cloned()).await?;
                    ear.moved();
                }
                Ok(())
            });
            match deleted {
                // A store that knows no such request, or no such object: one by one tells.
                Err(error) if error.retry == backstay_core::Retry::Never && error.kind != StoreErrorKind::Denied => {}
                other => return other,
            }
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed = std::sync::Mutex::new(None);
        let lock = || failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::thread::scope(|scope| {
            for _ in 0..self.parts.connections.clamp(1, ids.len().max(1)) {
                scope.spawn(|| {
                    while lock().is_none() {
                        let Some(id) = ids.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) else { break };
                        if let Err(error) = self.delete(kind, id) {
                            lock().get_or_insert(error);
                        }
                    }
                });
            }
        });
        let failed = lock().take();
        failed.map_or(Ok(()), Err)
    }
}

impl ObjectStore {
    /// Why a range came back short: because the object ends there, or because the connection broke.
    fn too_short(
        &self,
        kind: ObjectKind,
        id: &Id,
        range: &Range<u64>,
        came: Option<usize>,
    ) -> Result<StoreError, StoreError> {
        let path = self.path(kind, id);
        let own = |trouble, text: String| self.error("read", &path, &Failed::Own(trouble, text), None);
        Ok(match self.size(kind, id)? {
            None => own(Trouble::Missing, String::new()),
            Some(size) if size < range.end => {
                own(Trouble::Refused, format!("the object ends at byte {size}, before byte {}", range.end))
            }
            Some(_) => {
                let came = came.map_or_else(|| "fewer".to_owned(), |came| came.to_string());
                own(Trouble::Cut, format!("{came} bytes came of {}", range.end - range.start))
            }
        })
    }
}

#[cfg(test)]
mod tests;
