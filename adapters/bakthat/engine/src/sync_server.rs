//! A sync server (bakthat reference, section 18.1): rows that a user's machines exchange, by HTTP, kept in SQLite.
//!
//! * `POST .../clients` makes the client of that `bakthat-client` header known, or finds it.
//! * `POST .../backups/sync` takes the rows that are newer than ours and answers with those that changed since, but for the
//!   client's own. Users see their own rows only.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body::Body;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::container::random;
use crate::control::Control;
use crate::error::{About, Error, Result};

/// The longest request in bytes.
const LIMIT: usize = 256 << 20;
/// Clients that are silent for so long are left.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often it is asked whether the server shall end.
const LOOK: Duration = Duration::from_millis(50);
/// So long those that are being answered are waited for in the end.
const LEAVE: Duration = Duration::from_secs(2);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS clients (user TEXT, name TEXT, id TEXT, PRIMARY KEY (user, name));
CREATE TABLE IF NOT EXISTS rows (user TEXT, stored_filename TEXT, ts REAL, client TEXT, last_updated INTEGER, data TEXT,
    PRIMARY KEY (user, stored_filename));
CREATE INDEX IF NOT EXISTS rows_ts ON rows (user, ts);
";

/// A server that listens already, and answers once it serves.
#[derive(Debug)]
pub struct SyncServer {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    users: BTreeMap<String, String>,
    rows: Mutex<Connection>,
}

/// Why a request is not done.
enum Refusal {
    /// The database could not.
    Database(rusqlite::Error),
    /// It is none.
    Request(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// The users of a file with a line `name:password` for each.
fn read_users(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).about(path)?;
    let mut users = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match line.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                users.insert(name.to_owned(), password.to_owned());
            }
            _ => return Err(Error::Other(format!("{}, line {number}: it is not name:password", path.display()))),
        }
    }
    if users.is_empty() {
        return Err(Error::Other(format!("{} has no line name:password", path.display())));
    }
    Ok(users)
}

impl SyncServer {
    /// Listens; the database is made where it is missing.
    ///
    /// # Errors
    /// A file of users without any; the system's; the database's.
    pub fn bind(host: &str, port: u16, database: &Path, users: &Path) -> Result<Self> {
        let users = read_users(users)?;
        let shown = |error: rusqlite::Error| Error::Other(format!("{}: {error}", database.display()));
        let rows = Connection::open(database).map_err(shown)?;
        rows.execute_batch(SCHEMA).map_err(shown)?;
        let place = PathBuf::from(format!("{host}:{port}"));
        let listener = TcpListener::bind((host, port)).about(&place)?;
        listener.set_nonblocking(true).about(&place)?;
        let address = listener.local_addr().about(&place)?;
        Ok(Self { listener, address, shared: Arc::new(Shared { users, rows: Mutex::new(rows) }) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it shall end.
    ///
    /// # Errors
    /// The system's. [`Error::Interrupted`]: that is its end.
    pub fn serve(&self, control: &Control) -> Result<()> {
        let place = PathBuf::from(self.address.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("sync")
            .enable_all()
            .build()
            .about(&place)?;
        let listener = self.listener.try_clone().about(&place)?;
        let ended = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).about(&place)?;
            loop {
                control.check()?;
                match tokio::time::timeout(LOOK, listener.accept()).await {
                    Ok(Ok((socket, _))) => {
                        let shared = Arc::clone(&self.shared);
                        let service = service_fn(move |request| answered(Arc::clone(&shared), request));
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(PATIENCE)
                            .keep_alive(false)
                            .serve_connection(TokioIo::new(socket), service);
                        tokio::spawn(async move {
                            // A client that goes away ends its connection, nothing else.
                            let _ = connection.await;
                        });
                    }
                    // No descriptor is left, or the client has gone: others may still come.
                    Ok(Err(_)) => tokio::time::sleep(LOOK).await,
                    Err(_) => {}
                }
            }
        });
        runtime.shutdown_timeout(LEAVE);
        ended
    }
}

async fn answered(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> std::result::Result<Response<String>, Infallible> {
    let (status, text) = match judged(shared, request).await {
        Ok(text) => (200, text),
        Err((status, text)) => (status, json!({ "error": text }).to_string()),
    };
    let mut answer = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if status == 401 {
        answer = answer.header(WWW_AUTHENTICATE, "Basic realm=\"bakthat\"");
    }
    Ok(answer.body(text).unwrap_or_default())
}

async fn judged(shared: Arc<Shared>, request: Request<Incoming>) -> std::result::Result<String, (u16, String)> {
    let refused = |status: u16, text: &str| (status, text.to_owned());
    let unusable = || refused(400, "no bakthat-client header, or a body that is too long");
    let user = shared.user(request.headers()).ok_or_else(|| refused(401, "wrong login"))?;
    let client = request.headers().get("bakthat-client").filter(|client| !client.is_empty()).ok_or_else(unusable)?;
    let client = String::from_utf8_lossy(client.as_bytes()).into_owned();
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > LIMIT) {
        return Err(unusable());
    }
    let (head, body) = request.into_parts();
    let body = whole(body).await.ok_or_else(unusable)?;
    let path = head.uri.path().to_owned();
    if head.method != Method::POST || !(path.ends_with("/clients") || path.ends_with("/backups/sync")) {
        return Err(refused(404, "no such address"));
    }
    let work = tokio::task::spawn_blocking(move || {
        if path.ends_with("/clients") { shared.client(&user, &client) } else { shared.sync(&user, &client, &body) }
    });
    match work.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Refusal::Request(text))) => Err((400, format!("not a request to sync: {text}"))),
        Ok(Err(Refusal::Database(error))) => Err((500, format!("the database: {error}"))),
        Err(_) => Err(refused(500, "a fault in the program")),
    }
}

/// All bytes of a request; none if they are too many, or stop coming.
async fn whole(mut body: Incoming) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let Some(frame) = tokio::time::timeout(PATIENCE, frame).await.ok()? else { return Some(bytes) };
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
            if bytes.len() > LIMIT {
                return None;
            }
        }
    }
}

impl Shared {
    /// The user whose login the request has.
    fn user(&self, headers: &HeaderMap) -> Option<String> {
        let (kind, login) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let login = String::from_utf8(STANDARD.decode(login).ok()?).ok()?;
        let (name, password) = login.split_once(':').unwrap_or((&login, ""));
        let known = self.users.get(name).map_or("", String::as_str);
        let sum = |text: &str| digest(&SHA256, text.as_bytes());
        // Of sums, so that not even the length shows in the time that it takes.
        let right = verify_slices_are_equal(sum(known).as_ref(), sum(password).as_ref()).is_ok();
        (kind.eq_ignore_ascii_case("basic") && !known.is_empty() && right).then(|| name.to_owned())
    }

    /// The client of that name, made when it is new.
    fn client(&self, user: &str, name: &str) -> std::result::Result<String, Refusal> {
        let id = random::<16>().map_err(|error| Refusal::Request(error.to_string()))?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let rows = self.rows.lock();
        rows.execute("INSERT OR IGNORE INTO clients VALUES (?, ?, ?)", (user, name, id))?;
        let find = "SELECT id FROM clients WHERE user = ? AND name = ?";
        let id: String = rows.query_row(find, (user, name), |row| row.get(0))?;
        Ok(json!({ "_id": id, "name": name }).to_string())
    }

    /// Takes the rows that are newer than ours; gives those that changed since.
    fn sync(&self, user: &str, client: &str, body: &[u8]) -> std::result::Result<String, Refusal> {
        let bad = |text: &str| Refusal::Request(text.to_owned());
        let asked: Value = serde_json::from_slice(body).map_err(|error| Refusal::Request(error.to_string()))?;
        let since = asked["sync_ts"].as_f64().ok_or_else(|| bad("sync_ts is no number"))?;
        let new = asked["new"].as_array().ok_or_else(|| bad("new is no list"))?;
        let new = new.iter().map(taken).collect::<Option<Vec<_>>>();
        let new = new.ok_or_else(|| bad("a row needs a stored_filename and a last_updated"))?;

        let mut rows = self.rows.lock();
        let work = rows.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let newest: Option<f64> = work.query_row("SELECT max(ts) FROM rows", (), |row| row.get(0))?;
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let now = clock.max(newest.unwrap_or(0.0) + 0.001);
        // A client that begins anew gets its own rows too: its database may be lost.
        let updated = work
            .prepare("SELECT data FROM rows WHERE user = ?1 AND ts > ?2 AND (client != ?3 OR ?2 = 0)")?
            .query_map((user, since, client), |row| row.get(0))?
            .map(|data| RawValue::from_string(data?).map_err(|error| Refusal::Request(error.to_string())))
            .collect::<std::result::Result<Vec<Box<RawValue>>, Refusal>>()?;
        for (name, last_updated, row) in new {
            work.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user, stored_filename) DO UPDATE \
                 SET ts = excluded.ts, client = excluded.client, last_updated = excluded.last_updated, \
                 data = excluded.data WHERE excluded.last_updated > rows.last_updated",
                params![user, name, now, client, last_updated, Value::Object(row).to_string()],
            )?;
        }
        work.commit()?;
        let answer = BTreeMap::from([("updated", json_of(&updated)), ("sync_ts", json_of(&now))]);
        Ok(json_of(&answer).get().to_owned())
    }
}

/// A row as it is kept, with what is needed of it.
fn taken(row: &Value) -> Option<(String, i64, Map<String, Value>)> {
    let mut row = row.as_object()?.clone();
    row.remove("id");
    let name = row.get("stored_filename")?.as_str()?.to_owned();
    let updated = row.get("last_updated")?;
    #[allow(clippy::cast_possible_truncation, reason = "the fraction goes")]
    let whole = |seconds: f64| (seconds.abs() < 1e15).then_some(seconds as i64);
    let updated = updated.as_i64().or_else(|| whole(updated.as_f64()?))?;
    Some((name, updated, row))
}

fn json_of(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        let rows = Connection::open_in_memory().unwrap();
        rows.execute_batch(SCHEMA).unwrap();
        let users = BTreeMap::from([("user".to_owned(), "se:cret".to_owned()), ("none".to_owned(), String::new())]);
        Shared { users, rows: Mutex::new(rows) }
    }

    fn sync(shared: &Shared, user: &str, client: &str, since: f64, new: &Value) -> Option<(Vec<Value>, f64)> {
        let body = json!({ "sync_ts": since, "new": new }).to_string();
        let answer: Value = serde_json::from_str(&shared.sync(user, client, body.as_bytes()).ok()?).unwrap();
        Some((answer["updated"].as_array().unwrap().clone(), answer["sync_ts"].as_f64().unwrap()))
    }

    #[test]
    fn only_the_right_password_is_a_login() {
        let shared = shared();
        let user = |login: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, format!("Basic {}", STANDARD.encode(login)).parse().unwrap());
            shared.user(&headers)
        };
        assert_eq!(user("user:se:cret").as_deref(), Some("user"));
        for login in ["user:se", "user:", "user", "none:", "nobody:", "nobody:x", ":"] {
            assert_eq!(user(login), None, "{login}");
        }
        assert_eq!(shared.user(&HeaderMap::new()), None);
    }

    #[test]
    fn others_get_what_is_newer_and_whoever_begins_anew_gets_all() {
        let shared = shared();
        let row = json!([{ "id": 7, "stored_filename": "f", "last_updated": 5, "tags": "ä" }]);
        let (updated, first) = sync(&shared, "user", "a", 0.0, &row).unwrap();
        assert_eq!(updated, Vec::<Value>::new());
        let kept = json!({ "stored_filename": "f", "last_updated": 5, "tags": "ä" });
        let (updated, second) = sync(&shared, "user", "b", first - 1.0, &json!([])).unwrap();
        assert_eq!(updated, vec![kept.clone()]);
        assert_eq!(sync(&shared, "user", "b", second, &json!([])).unwrap().0, Vec::<Value>::new());
        assert_eq!(sync(&shared, "user", "a", first - 1.0, &json!([])).unwrap().0, Vec::<Value>::new());
        assert_eq!(sync(&shared, "user", "a", 0.0, &json!([])).unwrap().0, vec![kept.clone()]);
        assert_eq!(sync(&shared, "other", "b", 0.0, &json!([])).unwrap().0, Vec::<Value>::new());
        let older = json!([{ "stored_filename": "f", "last_updated": 4 }]);
        sync(&shared, "user", "b", second, &older).unwrap();
        assert_eq!(sync(&shared, "user", "c", 0.0, &json!([])).unwrap().0, vec![kept]);
    }

    #[test]
    fn a_request_with_one_bad_row_changes_nothing() {
        let shared = shared();
        let row = json!({ "stored_filename": "x", "last_updated": 1 });
        for new in [
            json!("nonsense"),
            json!([{}]),
            json!([{ "stored_filename": {}, "last_updated": 1 }]),
            json!([{ "stored_filename": "x", "last_updated": 1e30 }]),
            json!([row, 5]),
        ] {
            assert_eq!(sync(&shared, "user", "a", 0.0, &new), None, "{new}");
        }
        assert_eq!(sync(&shared, "user", "b", 0.0, &json!([])).unwrap().0, Vec::<Value>::new());
    }

    #[test]
    fn a_client_keeps_its_id() {
        let shared = shared();
        let id = |user, name| shared.client(user, name).ok().unwrap();
        assert_eq!(id("user", "a"), id("user", "a"));
        assert_ne!(id("user", "a"), id("user", "b"));
    }
}
