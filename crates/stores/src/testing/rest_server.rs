//! restic's REST server, small: either version of its protocol over any store (reference section 20). For tests.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::http::{Answer, HttpServer, Request, Wrap};

const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct RestServerOptions {
    /// 2, or 1 for one that tells no sizes.
    pub version: u8,
    /// Refuses to delete anything but locks.
    pub append_only: bool,
    /// Wants this name and password.
    pub user: Option<(String, String)>,
    /// Sends whole objects where a range was asked for.
    pub ignores_ranges: bool,
}

impl Default for RestServerOptions {
    fn default() -> Self {
        Self { version: 2, append_only: false, user: None, ignores_ranges: false }
    }
}

/// A REST server on a free port of loopback, or on a Unix socket. It ends when it goes out of scope.
pub struct RestServer {
    http: HttpServer,
    scheme: &'static str,
    socket: Option<PathBuf>,
    options: RestServerOptions,
    requests: Arc<Mutex<Vec<String>>>,
}

impl fmt::Debug for RestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestServer").field("http", &self.http).finish_non_exhaustive()
    }
}

impl RestServer {
    /// Serves this store.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, options: RestServerOptions) -> Self {
        Self::start_wrapped(store, options, None)
    }

    /// The same with TLS, or whatever `wrap` puts around a connection.
    #[must_use]
    pub fn start_wrapped(store: Arc<dyn Store>, options: RestServerOptions, wrap: Option<Wrap>) -> Self {
        let requests = Arc::default();
        let scheme = if wrap.is_some() { "https" } else { "http" };
        let service = Service::new(store, options.clone(), Arc::clone(&requests));
        let http = HttpServer::start_wrapped(wrap, Arc::new(move |request: &mut Request<'_>| service.answer(request)));
        Self { http, scheme, socket: None, options, requests }
    }

    /// The same on a Unix socket.
    #[must_use]
    pub fn start_on_socket(path: &Path, store: Arc<dyn Store>, options: RestServerOptions) -> Self {
        let requests = Arc::default();
        let service = Service::new(store, options.clone(), Arc::clone(&requests));
        let http =
            HttpServer::start_on_socket(path, Arc::new(move |request: &mut Request<'_>| service.answer(request)));
        Self { http, scheme: "http+unix", socket: Some(path.to_owned()), options, requests }
    }

    /// The repository's address with name and password, as restic takes it.
    #[must_use]
    pub fn url(&self) -> String {
        match (&self.socket, &self.options.user) {
            (Some(socket), _) => format!("rest:http+unix://{}:/repo/", socket.display()),
            (None, Some((user, password))) => {
                format!("rest:{}://{user}:{password}@{}/repo/", self.scheme, self.http.address())
            }
            (None, None) => self.bare_url(),
        }
    }

    /// The same without name and password.
    #[must_use]
    pub fn bare_url(&self) -> String {
        format!("rest:{}://{}/repo/", self.scheme, self.http.address())
    }

    /// What was asked so far, in order: method and path of each request.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.http.connections()
    }
}

struct Service {
    store: Arc<dyn Store>,
    options: RestServerOptions,
    requests: Arc<Mutex<Vec<String>>>,
    /// Objects on their way into the store: whoever brings the same waits, and is then refused.
    writing: (Mutex<BTreeSet<(ObjectKind, Id)>>, Condvar),
}

enum Place {
    Repository,
    Folder(ObjectKind),
    Object(ObjectKind, Id),
}

fn place(path: &str) -> Option<Place> {
    let path = path.strip_prefix("/repo/")?;
    match path {
        "" => return Some(Place::Repository),
        "config" => return Some(Place::Object(ObjectKind::Config, Id::default())),
        _ => {}
    }
    let kinds = [ObjectKind::Key, ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack];
    let (folder, name) = path.split_once('/')?;
    let kind = kinds.into_iter().find(|kind| kind.directory() == folder)?;
    if name.is_empty() { Some(Place::Folder(kind)) } else { Some(Place::Object(kind, name.parse().ok()?)) }
}

impl Service {
    fn new(store: Arc<dyn Store>, options: RestServerOptions, requests: Arc<Mutex<Vec<String>>>) -> Self {
        Self { store, options, requests, writing: Default::default() }
    }

    fn answer(&self, request: &mut Request<'_>) -> Answer {
        self.requests.lock().unwrap().push(format!("{} {}", request.method, request.path));
        if !self.knows(request) {
            return Answer::new(401, "Unauthorized\n").with("WWW-Authenticate", "Basic realm=\"backup\"");
        }
        let Some(place) = place(&request.path) else { return Answer::new(404, "Not Found\n") };
        let method = request.method.clone();
        match (method.as_str(), place) {
            ("POST", Place::Repository) if request.query == "create=true" => match self.store.create() {
                Ok(()) => Answer::new(200, ""),
                Err(error) => Answer::new(500, error.to_string()),
            },
            ("GET", Place::Folder(kind)) => self.list(kind, request),
            ("HEAD", Place::Object(kind, id)) => match self.store.size(kind, &id) {
                Ok(Some(size)) => Answer::new(200, "").with("Content-Length", size),
                Ok(None) => Answer::new(404, "Not Found\n"),
                Err(error) => Answer::new(500, error.to_string()),
            },
            ("GET", Place::Object(kind, id)) => self.get(kind, &id, request),
            ("POST", Place::Object(kind, id)) => self.post(kind, id, request),
            ("DELETE", Place::Object(kind, id)) => self.delete(kind, &id),
            ("DELETE", Place::Repository) => Answer::new(501, "Not Implemented\n"),
            _ => Answer::new(405, "Method Not Allowed\n"),
        }
    }

    fn knows(&self, request: &Request<'_>) -> bool {
        let Some((user, password)) = &self.options.user else { return true };
        let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        request.header("authorization") == Some(expected.as_str())
    }

    fn list(&self, kind: ObjectKind, request: &Request<'_>) -> Answer {
        let list = match self.store.list(kind) {
            Ok(list) => list,
            Err(error) => return Answer::new(500, error.to_string()),
        };
        if self.options.version == 2 && request.header("accept") == Some(VERSION_2) {
            let entries: Vec<_> =
                list.iter().map(|(id, size)| serde_json::json!({"name": id.to_hex(), "size": size})).collect();
            return Answer::new(200, serde_json::to_vec(&entries).unwrap()).with("Content-Type", VERSION_2);
        }
        let names: Vec<String> = list.iter().map(|(id, _)| id.to_hex()).collect();
        Answer::new(200, serde_json::to_vec(&names).unwrap()).with("Content-Type", "application/vnd.x.restic.rest.v1")
    }

    fn get(&self, kind: ObjectKind, id: &Id, request: &Request<'_>) -> Answer {
        let body = match self.store.get(kind, id, None) {
            Ok(body) => body,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Answer::new(404, "Not Found\n"),
            Err(error) => return Answer::new(500, error.to_string()),
        };
        let range = request.header("range").filter(|_| !self.options.ignores_ranges);
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
            return Answer::new(200, body);
        };
        let (first, last) = (range.0.parse::<usize>(), range.1.parse::<usize>());
        let (Ok(first), size) = (first, body.len()) else { return Answer::new(400, "Bad Request\n") };
        // As Go's http package does, which restic's own server uses: what lies beyond the end is cut off.
        let end = last.map_or(size, |last| (last + 1).min(size));
        if first >= end {
            return Answer::new(416, "Range Not Satisfiable\n").with("Content-Range", format!("bytes */{size}"));
        }
        Answer::new(206, &body[first..end]).with("Content-Range", format!("bytes {first}-{}/{size}", end - 1))
    }

    fn post(&self, kind: ObjectKind, id: Id, request: &mut Request<'_>) -> Answer {
        if request.header("content-length").is_none() {
            return Answer::new(411, "Length Required\n");
        }
        // The client broke off: nobody hears the answer.
        let Ok(body) = request.body() else { return Answer::new(400, "Bad Request\n") };
        if kind != ObjectKind::Config && Id::of(&body) != id {
            return Answer::new(400, "Bad Request: the content does not match its name\n");
        }
        {
            let mut writing = self.writing.0.lock().unwrap();
            while !writing.insert((kind, id)) {
                writing = self.writing.1.wait(writing).unwrap();
            }
        }
        let answer = match self.store.size(kind, &id) {
            Ok(Some(_)) => Answer::new(403, "Forbidden\n"),
            Ok(None) => match self.store.put(kind, &id, &body) {
                Ok(()) => Answer::new(200, ""),
                Err(error) if error.kind == StoreErrorKind::Full => Answer::new(507, "Insufficient Storage\n"),
                Err(error) => Answer::new(500, error.to_string()),
            },
            Err(error) => Answer::new(500, error.to_string()),
        };
        self.writing.0.lock().unwrap().remove(&(kind, id));
        self.writing.1.notify_all();
        answer
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Answer {
        if self.options.append_only && kind != ObjectKind::Lock {
            return Answer::new(403, "Forbidden\n");
        }
        match self.store.size(kind, id) {
            Ok(None) => Answer::new(404, "Not Found\n"),
            Ok(Some(_)) => match self.store.delete(kind, id) {
                Ok(()) => Answer::new(200, ""),
                Err(error) => Answer::new(500, error.to_string()),
            },
            Err(error) => Answer::new(500, error.to_string()),
        }
    }
}
