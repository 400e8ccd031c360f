//! What a user may say about a store beside its address.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstay_core::{ObjectKind, Store};

use crate::environment::Environment;
use crate::open::OpenError;
use crate::secret::Secret;
use crate::trouble::DEFAULT_RETRY_TIME;

/// Who is told, once, that the store makes us wait.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// Says whether nobody wants to wait any longer.
pub type Cancelled = Arc<dyn Fn() -> bool + Send + Sync>;

/// Opens a kind of store that this crate does not know itself, by what stands behind the scheme of its addresses.
pub type Opener = Arc<dyn Fn(&Path, &StoreOptions) -> Result<Arc<dyn Store>, OpenError> + Send + Sync>;

/// Options of every store.
#[derive(Clone)]
pub struct StoreOptions {
    /// How long a call may take with all its attempts, when the store is disturbed. Zero: one attempt.
    pub retry_time: Duration,
    /// Bytes a second that may go up.
    pub limit_upload: Option<u64>,
    /// Bytes a second that may come down.
    pub limit_download: Option<u64>,
    /// How many calls at once; none: as many as suit the kind of store.
    pub connections: Option<usize>,
    /// Whether deletions are refused (of anything but locks).
    pub append_only: bool,
    /// A file of certificates in PEM form that are trusted beside the system's.
    pub certificates: Option<PathBuf>,
    /// A file with a certificate of ours and its key in PEM form (REST servers).
    pub client_certificate: Option<PathBuf>,
    /// Whether any certificate will do.
    pub insecure_tls: bool,
    /// The proxy for all requests of S3, Google Cloud Storage, Azure, Swift and WebDAV; none: the one that the environment names.
    pub proxy: Option<Secret>,
    /// `service.key=value`, as with restic's `-o`: options of one kind of store. Those of other kinds do not count.
    pub extended: Vec<String>,
    /// Where credentials are looked for.
    pub environment: Environment,
    /// Who is told that the store makes us wait.
    pub notice: Option<Notice>,
    /// Asked during pauses between two attempts: a pause ends with the last error as soon as this says so.
    pub cancelled: Option<Cancelled>,
    /// Opens `gpbackup:` addresses; they are refused without.
    pub gpbackup: Option<Opener>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retry_time: DEFAULT_RETRY_TIME,
            limit_upload: None,
            limit_download: None,
            connections: None,
            append_only: false,
            certificates: None,
            client_certificate: None,
            insecure_tls: false,
            proxy: None,
            extended: Vec::new(),
            environment: Environment::Process,
            notice: None,
            cancelled: None,
            gpbackup: None,
        }
    }
}

/// Values of options can be secrets: they are left out.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("retry_time", &self.retry_time)
            .field("limit_upload", &self.limit_upload)
            .field("limit_download", &self.limit_download)
            .field("connections", &self.connections)
            .field("append_only", &self.append_only)
            .field("insecure_tls", &self.insecure_tls)
            .finish_non_exhaustive()
    }
}

/// Kinds of stores that have options of their own, by the word before the dot.
const SERVICES: [&str; 9] = ["local", "s3", "gs", "azure", "swift", "sftp", "webdav", "rest", "gpbackup"];

/// The settings of one kind of store: what its address and `-o` say. Each is taken out by whoever understands it; what is
/// left in the end is a mistake.
#[derive(Debug)]
pub struct Settings {
    service: &'static str,
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Settings {
    /// Gathers them; `-o` counts before the address.
    ///
    /// # Errors
    /// [`OpenError::Option`] for one that has no value, or is of no kind of store.
    pub fn gather(
        service: &'static str,
        address: &[(String, String)],
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let mut values: BTreeMap<String, String> = address.iter().cloned().collect();
        for option in &options.extended {
            let (name, value) = option.split_once('=').ok_or_else(|| {
                OpenError::Option(format!(
                    "an extended option is SERVICE.KEY=VALUE, as in s3.region=eu-west-1: {:?} has no \"=\"",
                    option
                ))
            })?;
            let (of, key) = name.split_once('.').unwrap_or(("", name));
            if !SERVICES.contains(&of) {
                return Err(OpenError::Option(format!(
                    "the extended option {name:?} is not known: it begins with one of {}",
                    SERVICES.map(|service| format!("{service}.")).join(", ")
                )));
            }
            if of == service {
                values.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(Self { service, values, known: Vec::new() })
    }

    /// Takes a text out.
    #[must_use]
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.values.remove(key).filter(|value| !value.is_empty())
    }

    /// Takes a yes or no out.
    ///
    /// # Errors
    /// [`OpenError::Option`] for another word.
    pub fn flag(&mut self, key: &'static str) -> Result<bool, OpenError> {
        match self.text(key).as_deref() {
            None | Some("false" | "no" | "0") => Ok(false),
            Some("true" | "yes" | "1") => Ok(true),
            Some(_) => Err(OpenError::Option(format!("{}.{key} is true or false", self.service))),
        }
    }

    /// Takes the number of calls at once out; the global option counts less.
    ///
    /// # Errors
    /// [`OpenError::Option`] unless it is between 1 and 1000.
    pub fn connections(&mut self, options: &StoreOptions, usual: usize) -> Result<usize, OpenError> {
        let number = match self.text("connections") {
            Some(text) => text
                .parse()
                .map_err(|_| OpenError::Option(format!("{}.connections is a number of 1 or more", self.service)))?,
            None => options.connections.unwrap_or(usual),
        };
        if number == 0 || number > 1000 {
            return Err(OpenError::Option("the number of connections is between 1 and 1000".to_owned()));
        }
        Ok(number)
    }

    /// Takes the storage classes out: `CLASS` for packs, or `KIND:CLASS,...`.
    pub(crate) fn storage_classes(&mut self) -> Result<Vec<(ObjectKind, String)>, OpenError> {
        const KINDS: [(&str, ObjectKind); 6] = [
            ("pack", ObjectKind::Pack),
            ("index", ObjectKind::Index),
            ("snapshot", ObjectKind::Snapshot),
            ("key", ObjectKind::Key),
            ("lock", ObjectKind::Lock),
            ("config", ObjectKind::Config),
        ];
        let Some(text) = self.text("storage-class") else { return Ok(Vec::new()) };
        let mut classes = Vec::new();
        for part in text.split(',') {
            let (kind, class) = part.split_once(':').unwrap_or(("pack", part));
            let kind = KINDS.iter().find(|(word, _)| *word == kind).map(|(_, kind)| *kind).ok_or_else(|| {
                OpenError::Option(format!(
                    "{:?} is no kind of object: a storage class is CLASS (for packs) or KIND:CLASS,..., with the kinds {}",
                    kind,
                    KINDS.map(|(word, _)| word).join(", ")
                ))
            })?;
            if class.is_empty() || !class.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
                return Err(OpenError::Option(format!("{class:?} is no storage class")));
            }
            if classes.iter().any(|(seen, _)| *seen == kind) {
                return Err(OpenError::Option(format!("two storage classes for one kind of object: {kind}")));
            }
            classes.push((kind, class.to_owned()));
        }
        Ok(classes)
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// [`OpenError::Option`] with what there is.
    pub fn finish(self) -> Result<(), OpenError> {
        let Some(key) = self.values.keys().next() else { return Ok(()) };
        let mut known = self.known;
        known.sort_unstable();
        known.dedup();
        Err(OpenError::Option(format!(
            "{}: stores have no option {key:?}: there are {}",
            self.service,
            known.join(", ")
        )))
    }
}
