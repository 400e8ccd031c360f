//! restic's REST server as a store (reference section 20): version 2 of its protocol, with version 1 where the server knows
//! no other.
//!
//! Every call is one request or a few, on connections that are kept. A call in which nothing moves for
//! [`RestOptions::stall`] ends with an error that may pass. Redirects are not followed: they would carry the password on to
//! wherever the answer points.

mod address;
mod answer;
mod transfer;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Retry, Store, StoreError, StoreErrorKind};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RANGE};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use address::{Address, Credentials};
use answer::Listed;
use transfer::{Answer, Transfer};

/// The media type by which client and server tell each other that they speak version 2.
const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

/// No object is larger, in bytes: an answer beyond it is not ours.
const LARGEST_OBJECT: u64 = 2 << 30;

/// How to reach a server.
#[derive(Clone)]
pub struct RestOptions {
    /// The user's name, unless the address holds one.
    pub user: Option<String>,
    /// The password, unless the address holds one. It is never shown.
    pub password: Option<String>,
    /// A file of certificates (PEM) that are trusted instead of the system's.
    pub certificates: Option<PathBuf>,
    /// A file with a certificate of ours and its key (PEM), for servers that ask for one.
    pub client_certificate: Option<PathBuf>,
    /// Trusts whatever certificate the server shows.
    pub insecure: bool,
    /// How long nothing may move before a call is given up.
    pub stall: Duration,
    /// How many requests are worth making at once.
    pub connections: usize,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            certificates: None,
            client_certificate: None,
            insecure: false,
            stall: Duration::from_secs(60),
            connections: 16,
        }
    }
}

impl fmt::Debug for RestOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestOptions")
            .field("certificates", &self.certificates)
            .field("client_certificate", &self.client_certificate)
            .field("insecure", &self.insecure)
            .field("stall", &self.stall)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl RestOptions {
    /// The defaults with what the environment says, Backstay's names before restic's: `…_REST_USERNAME`,
    /// `…_REST_PASSWORD`, `…_CACERT`, `…_TLS_CLIENT_CERT`. `variable` looks one up.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            ["BACKSTAY", "RESTIC"]
                .into_iter()
                .find_map(|family| variable(&format!("{family}_{name}")).filter(|value| !value.is_empty()))
        };
        Self {
            user: either("REST_USERNAME"),
            password: either("REST_PASSWORD"),
            certificates: either("CACERT").map(PathBuf::from),
            client_certificate: either("TLS_CLIENT_CERT").map(PathBuf::from),
            ..Self::default()
        }
    }
}

/// A repository behind a REST server.
pub struct RestStore {
    server: Server,
    runtime: Arc<Runtime>,
    connections: usize,
}

/// What a request needs; cheap to clone into a task.
#[derive(Clone)]
struct Server {
    client: Client,
    address: Arc<Address>,
    credentials: Option<Arc<Credentials>>,
    stall: Duration,
}

impl fmt::Debug for RestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestStore").field("location", &self.location()).finish_non_exhaustive()
    }
}

impl RestStore {
    /// The store at this address: `rest:http://user:password@host:8000/path/` or the like with `https`, or
    /// `rest:http+unix:///path/to/socket:/path/`; `rest:` may be left out. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// [`StoreError`] when the address is none, or a certificate file cannot be used. The address is not repeated: it may
    /// hold a password.
    pub fn new(url: &str, options: RestOptions) -> Result<Self, StoreError> {
        let (address, in_address) = Address::parse(url)?;
        let given = Credentials::from_parts(options.user, options.password);
        let client = transfer::client(&address, &options.certificates, &options.client_certificate, options.insecure)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("backstay-rest")
            .enable_all()
            .build()
            .map_err(|error| address.refused(format!("cannot start threads for the network: {error}")))?;
        Ok(Self {
            server: Server {
                client,
                address: Arc::new(address),
                credentials: in_address.or(given).map(Arc::new),
                stall: options.stall,
            },
            runtime: Arc::new(runtime),
            connections: options.connections.max(1),
        })
    }

    /// Runs one task for each id, a limited number at once; what they gave, in the order they ended.
    fn at_once<T: Send + 'static, F: Future<Output = Result<T, StoreError>> + Send + 'static>(
        &self,
        ids: impl IntoIterator<Item = Id>,
        task: impl Fn(Server, Id) -> F,
    ) -> Result<Vec<T>, StoreError> {
        self.runtime.block_on(async {
            let places = Arc::new(Semaphore::new(self.connections));
            let mut tasks = JoinSet::new();
            let mut results = Vec::new();
            let mut ids = ids.into_iter();
            loop {
                // As many tasks wait as run: a long list does not become as many tasks.
                while tasks.len() < 2 * self.connections {
                    let Some(id) = ids.next() else { break };
                    let (places, work) = (Arc::clone(&places), task(self.server.clone(), id));
                    tasks.spawn(async move {
                        let _place = places.acquire().await;
                        work.await
                    });
                }
                match tasks.join_next().await {
                    None => return Ok(results),
                    Some(Ok(result)) => results.push(result?),
                    Some(Err(error)) => return Err(self.server.address.refused(format!("a request failed: {error}"))),
                }
            }
        })
    }
}

impl Server {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, self.address.join(path));
        match &self.credentials {
            Some(credentials) => credentials.attach(request),
            None => request,
        }
    }

    fn transfer(&self, operation: &'static str, path: &str) -> Transfer {
        Transfer::new(operation, self.address.shown(path), self.stall)
    }

    async fn size(&self, kind: ObjectKind, id: Id) -> Result<Option<u64>, StoreError> {
        let path = object_path(kind, &id);
        let transfer = self.transfer("look at", &path);
        let answer = transfer.run(self.request(Method::HEAD, &path), 0).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => match answer.length {
                Some(length) => Ok(Some(length)),
                None => Err(transfer.wrong("the server does not say how long the object is")),
            },
            _ => Err(transfer.refused(&answer)),
        }
    }

    async fn get_whole(&self, kind: ObjectKind, id: Id) -> Result<Vec<u8>, StoreError> {
        let path = object_path(kind, &id);
        let transfer = self.transfer("read", &path);
        let answer = transfer.run(self.request(Method::GET, &path), LARGEST_OBJECT).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(transfer.refused(&answer)) }
    }

    async fn get_range(&self, kind: ObjectKind, id: Id, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let path = object_path(kind, &id);
        let transfer = self.transfer("read", &path);
        if range.is_empty() {
            return match self.size(kind, id).await? {
                Some(size) if range.start <= size && range.start == range.end => Ok(Vec::new()),
                Some(size) => Err(transfer.beyond(size, &range)),
                None => Err(transfer.missing()),
            };
        }
        let request =
            self.request(Method::GET, &path).header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        // A server that knows no ranges sends everything.
        let answer = transfer.run(request, LARGEST_OBJECT).await?;
        answer::cut(&transfer, answer, &range)
    }

    async fn post(&self, kind: ObjectKind, id: Id, body: bytes::Bytes) -> Result<Answer, StoreError> {
        let path = object_path(kind, &id);
        let request = self
            .request(Method::POST, &path)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(ACCEPT, VERSION_2);
        self.transfer("write", &path).send(request, body).await
    }

    async fn put(&self, kind: ObjectKind, id: Id, body: bytes::Bytes) -> Result<(), StoreError> {
        let transfer = self.transfer("write", &object_path(kind, &id));
        // Some servers write a second config over the first.
        if kind == ObjectKind::Config && self.size(kind, id).await?.is_some() {
            return self.same_config(&transfer, id, &body).await;
        }
        let answer = self.post(kind, id, body.clone()).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        // Servers refuse to write over an object, with one status or another.
        if !matches!(answer.status, StatusCode::FORBIDDEN | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED) {
            return Err(transfer.refused(&answer));
        }
        match self.size(kind, id).await {
            Ok(Some(_)) if kind == ObjectKind::Config => self.same_config(&transfer, id, &body).await,
            // The same name means the same bytes.
            Ok(Some(size)) if size == body.len() as u64 => Ok(()),
            // Either it is broken, or an earlier attempt of ours whose connection is gone: the server will find out. To
            // delete it now could take away what is written next.
            Ok(Some(size)) => {
                let length = body.len();
                Err(transfer
                    .disturbed(format!("an object of this name with {size} instead of {length} bytes is there")))
            }
            _ => Err(transfer.refused(&answer)),
        }
    }

    /// There is a config. It is the one that we are to write if an earlier attempt's answer was lost.
    async fn same_config(&self, transfer: &Transfer, id: Id, body: &[u8]) -> Result<(), StoreError> {
        if self.get_whole(ObjectKind::Config, id).await? == body { Ok(()) } else { Err(transfer.exists()) }
    }

    async fn delete(&self, kind: ObjectKind, id: Id) -> Result<(), StoreError> {
        let path = object_path(kind, &id);
        let transfer = self.transfer("delete", &path);
        let answer = transfer.run(self.request(Method::DELETE, &path), 0).await?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(transfer.refused(&answer))
    }

    async fn list(&self, kind: ObjectKind) -> Result<Listed, StoreError> {
        let path = format!("{}/", kind.directory());
        let transfer = self.transfer("list", &path);
        let answer = transfer.run(self.request(Method::GET, &path).header(ACCEPT, VERSION_2), LARGEST_OBJECT).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(Listed::default()),
            status if status.is_success() => answer::listed(&transfer, &answer),
            _ => Err(transfer.refused(&answer)),
        }
    }

    async fn create(&self) -> Result<(), StoreError> {
        let transfer = self.transfer("create", "");
        let answer = transfer.send(self.request(Method::POST, "?create=true"), bytes::Bytes::new()).await?;
        if answer.status.is_success() { Ok(()) } else { Err(transfer.refused(&answer)) }
    }
}

/// The object's path below the repository's address. Packs lie flat: sorting them into folders is the server's affair.
fn object_path(kind: ObjectKind, id: &Id) -> String {
    match kind {
        ObjectKind::Config => kind.directory().to_owned(),
        _ => format!("{}/{id}", kind.directory()),
    }
}

impl Store for RestStore {
    fn location(&self) -> String {
        match &self.server.credentials {
            Some(credentials) => self.server.address.shown_for(credentials),
            None => format!("rest:{}", self.server.address.shown("")),
        }
    }

    fn calls_at_once(&self) -> usize {
        self.connections
    }

    fn create(&self) -> Result<(), StoreError> {
        self.runtime.block_on(self.server.create())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.runtime.block_on(self.server.put(kind, *id, bytes::Bytes::copy_from_slice(body)))
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.runtime.block_on(async {
            match range {
                None => self.server.get_whole(kind, *id).await,
                Some(range) => self.server.get_range(kind, *id, range).await,
            }
        })
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        if kind == ObjectKind::Config {
            return Ok(self.size(kind, &Id::default())?.map(|size| (Id::default(), size)).into_iter().collect());
        }
        let listed = self.runtime.block_on(self.server.list(kind))?;
        match listed {
            Listed::Sized(list) => Ok(list),
            // Version 1 tells names only.
            Listed::Names(names) => {
                let sized = self.at_once(names, |server, id| async move { Ok((id, server.size(kind, id).await?)) })?;
                // One without a size was deleted since.
                Ok(sized.into_iter().filter_map(|(id, size)| size.map(|size| (id, size))).collect())
            }
        }
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.runtime.block_on(self.server.size(kind, *id))
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.runtime.block_on(self.server.delete(kind, *id))
    }

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        self.at_once(ids.iter().copied(), |server, id| async move { server.delete(kind, id).await }).map(drop)
    }
}

/// A failure that may pass.
fn disturbed(operation: &'static str, object: &str, text: String) -> StoreError {
    StoreError { retry: Retry::Soon, ..StoreError::new(StoreErrorKind::Other, operation, object, text) }
}

#[cfg(test)]
mod tests;
