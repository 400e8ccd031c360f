//! HTTP for the services of opendal: one client for all, and an ear on each answer.
//!
//! opendal turns answers into errors of its own; what the store really said (status, code, how long to wait) is noted
//! here on the way, so that [`crate::trouble`] can judge it. Bodies are paced to the bandwidth limits as they pass, and
//! every byte that moves is noted, so that silence can be told from slowness.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Request, Response};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};

use crate::keystone::Login;
use crate::limit::Bandwidth;
use crate::trouble::Trouble;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The addresses where clouds answer who a machine is: near, or not there at all.
const METADATA_HOSTS: [&str; 4] = ["169.254.169.254", "fd00:ec2::254", "metadata.google.internal", "169.254.170.2"];
const METADATA: Duration = Duration::from_secs(2);
/// Bodies go out in pieces of this many bytes, each of which waits for its turn when the bandwidth is limited.
const PIECE: usize = 32 << 10;
/// No more of an error's body is read.
const ERROR_BODY: usize = 64 << 10;

/// What was heard from the other side during a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// What it means.
    pub trouble: Trouble,
    /// What the other side said, on one line.
    pub words: String,
    /// How long it asks to wait.
    pub wait: Option<Duration>,
}

/// One call's ear: the last bad news, and when something last moved.
#[derive(Clone, Debug)]
pub(crate) struct Ear {
    heard: Arc<Mutex<Option<Heard>>>,
    moved: Arc<AtomicU64>,
    start: Instant,
}

impl Ear {
    pub(crate) fn new() -> Self {
        Self { heard: Arc::default(), moved: Arc::default(), start: Instant::now() }
    }

    /// Something moved just now.
    pub(crate) fn moved(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_max(now, Ordering::Relaxed);
    }

    /// Nothing will move for this long, and that is as it should be.
    pub(crate) fn pausing(&self, time: Duration) {
        let then = u64::try_from((self.start.elapsed() + time).as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_max(then, Ordering::Relaxed);
    }

    /// When something last moved.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    pub(crate) fn note(&self, heard: Option<Heard>) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }

    /// The last bad news.
    pub(crate) fn take(&self) -> Option<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The client that all calls of a store share.
///
/// # Errors
/// When the system's certificates cannot be read, or the file of extra ones; when the proxy's address is none.
pub(crate) fn client(
    certificates: Option<&std::path::Path>,
    insecure: bool,
    proxy: Option<&str>,
) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("backstay/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .pool_idle_timeout(Duration::from_secs(60))
        // A redirect would carry requests, and perhaps credentials, to wherever an answer points.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = certificates {
        let shown = path.display();
        let text = std::fs::read(path).map_err(|error| format!("cannot read the certificates in {shown}: {error}"))?;
        let list = reqwest::Certificate::from_pem_bundle(&text)
            .map_err(|_| format!("{shown} holds no certificates in PEM form"))?;
        if list.is_empty() {
            return Err(format!("{shown} holds no certificates in PEM form"));
        }
        builder = builder.tls_certs_merge(list);
    }
    if let Some(proxy) = proxy {
        // Its address can hold a password.
        let proxy = reqwest::Proxy::all(proxy).map_err(|_| "the proxy's address is no URL".to_owned())?;
        builder = builder.proxy(proxy);
    }
    if insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(|error| format!("cannot set up HTTP: {}", words(&error)))
}

/// One call's transport.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) client: reqwest::Client,
    pub(crate) login: Option<Arc<Login>>,
    pub(crate) bandwidth: Arc<Bandwidth>,
    pub(crate) answered: Arc<AtomicBool>,
    pub(crate) ear: Ear,
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let failed = |trouble, words: String| {
            let temporary = trouble_is_temporary(trouble);
            self.ear.note(Some(Heard { trouble, words: words.clone(), wait: None }));
            let error = Error::new(ErrorKind::Unexpected, words);
            if temporary { error.set_temporary() } else { error }
        };
        let head = parts.method == http::Method::HEAD;
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let lists = parts.method == http::Method::GET
            && ["comp=list", "list-type=2", "prefix="]
                .iter()
                .any(|word| query.split('&').any(|part| part.starts_with(word)));
        let address = reqwest::Url::parse(&parts.uri.to_string())
            .map_err(|error| failed(Trouble::Other, format!("not an address: {error}")))?;
        let near = address.host_str().is_some_and(|host| METADATA_HOSTS.contains(&host.trim_matches(['[', ']'])));
        let mut token = match &self.login {
            Some(login) => Some(login.token().await),
            None => None,
        };
        let mut again = true;
        let response = loop {
            let mut request = self.client.request(parts.method.clone(), address.clone()).headers(parts.headers.clone());
            if near {
                request = request.timeout(METADATA);
            }
            if let Some(token) = &token {
                let mut value = http::HeaderValue::from_str(token.expose())
                    .map_err(|_| failed(Trouble::WrongCredentials, "the token is not text".to_owned()))?;
                value.set_sensitive(true);
                // It takes the place of the one that the service set.
                request =
                    request.headers(HeaderMap::from_iter([(http::HeaderName::from_static("x-auth-token"), value)]));
            }
            if !body.is_empty() {
                let body = Outgoing::new(body.clone(), Arc::clone(&self.bandwidth), self.ear.clone());
                request = request.body(reqwest::Body::wrap(body));
            }
            self.ear.moved();
            let response = request.send().await.map_err(|error| {
                let error = error.without_url();
                failed(of_reqwest(&error), words(&error))
            })?;
            self.ear.moved();
            // What a machine says about itself is no answer of the store.
            if !near {
                self.answered.store(true, Ordering::Relaxed);
            }
            match (&self.login, &token) {
                (Some(login), Some(old)) if again && response.status() == http::StatusCode::UNAUTHORIZED => {
                    again = false;
                    token = Some(login.renewed(old).await.map_err(|text| failed(Trouble::Expired, text))?);
                }
                _ => break response,
            }
        };

        let status = response.status();
        let headers = response.headers().clone();
        let mut builder = Response::builder().status(status).extension(parts.uri);
        if let Some(into) = builder.headers_mut() {
            *into = headers.clone();
        }
        let length = if head { None } else { response.content_length() };
        let body = if status.is_success() || status.as_u16() == 304 {
            self.ear.note(None);
            let ear = self.ear.clone();
            let paced = Incoming {
                inner: Box::pin(response.bytes_stream()),
                bandwidth: Arc::clone(&self.bandwidth),
                ear: self.ear.clone(),
                pause: None,
            };
            let mut pieces = paced.map(move |piece| {
                piece.map(Buffer::from).map_err(|error| {
                    let words = words(&error.without_url());
                    ear.note(Some(Heard { trouble: Trouble::Cut, words: words.clone(), wait: None }));
                    Error::new(ErrorKind::Unexpected, words).set_temporary()
                })
            });
            if lists && status.as_u16() != 204 {
                let mut whole = Vec::new();
                while let Some(piece) = pieces.next().await {
                    whole.extend_from_slice(&piece?.to_bytes());
                }
                if !is_list(&query, &whole) {
                    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                    let kind = kind.unwrap_or("of no type");
                    return Err(failed(Trouble::Other, format!("the answer ({kind}) is no list of objects")));
                }
                let length = whole.len() as u64;
                HttpBody::new(futures_util::stream::iter([Ok(Buffer::from(whole))]), Some(length))
            } else {
                HttpBody::new(pieces, length)
            }
        } else {
            let bytes = beginning(response).await;
            let (code, message) = code_and_message(&headers, &bytes);
            let trouble = Trouble::of_answer(status.as_u16(), &code);
            let said = [code, message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
            let words = if said.is_empty() {
                format!("it answers {status}")
            } else {
                format!("it answers {} {said}", status.as_u16())
            };
            self.ear.note(Some(Heard { trouble, words, wait: wait(&headers) }));
            let length = bytes.len() as u64;
            HttpBody::new(futures_util::stream::iter([Ok(Buffer::from(bytes))]), Some(length))
        };
        builder.body(body).map_err(|error| failed(Trouble::Other, error.to_string()))
    }
}

/// Whether an answer to this query is a list of objects, if it asks S3 or Azure for one. The library takes any other
/// document for an empty list: a page for people would look like a repository without snapshots.
fn is_list(query: &str, answer: &[u8]) -> bool {
    let asks = |beginning: &str| query.split('&').any(|part| part.starts_with(beginning));
    let holds = |element: &[u8]| answer.windows(element.len()).any(|window| window == element);
    if asks("comp=list") {
        holds(b"<EnumerationResults")
    } else if asks("list-type=2") {
        holds(b"<ListBucketResult")
    } else {
        // S3's first version, or one of those whose lists are JSON, which the library reads with care.
        holds(b"<ListBucketResult") || matches!(answer.first(), Some(b'{' | b'['))
    }
}

fn trouble_is_temporary(trouble: Trouble) -> bool {
    trouble.row().class != crate::trouble::Class::Permanent
}

/// The beginning of an answer's body; what cannot be read of it is left out.
pub(crate) async fn beginning(mut response: reqwest::Response) -> Bytes {
    let mut bytes = Vec::new();
    while bytes.len() < ERROR_BODY {
        match response.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) | Err(_) => break,
        }
    }
    bytes.truncate(ERROR_BODY);
    bytes.into()
}

/// An error and its causes on one line; a cause that was said already is not repeated.
pub(crate) fn words(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = cause.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

/// What a request that got no answer met with.
pub(crate) fn of_reqwest(error: &reqwest::Error) -> Trouble {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    let mut io = None;
    while let Some(cause) = next {
        text.push_str(&cause.to_string().to_ascii_lowercase());
        text.push('\n');
        io = io.or_else(|| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind));
        next = cause.source();
    }
    if text.contains("dns error") || text.contains("failed to lookup address") {
        Trouble::NoSuchHost
    } else if text.contains("certificate")
        || text.contains("tls")
        || text.contains("handshake")
        || text.contains("corrupt message")
    {
        Trouble::Tls
    } else if error.is_timeout() || error.is_connect() {
        Trouble::Unreachable
    } else if error.is_body() || error.is_decode() || error.is_request() || io.is_some() {
        Trouble::Cut
    } else {
        Trouble::Other
    }
}

/// The code and the message of an answer, from its XML or JSON body or its headers; empty where there are none.
pub(crate) fn code_and_message(headers: &HeaderMap, body: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(body);
    let tag = |name: &str| {
        let from = text.find(&format!("<{name}>"))? + name.len() + 2;
        let to = from + text[from..].find("</")?;
        Some(plain(&text[from..to]))
    };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(plain);
    let mut code = tag("Code").or_else(|| header("x-amz-error-code")).or_else(|| header("x-ms-error-code"));
    let mut message = tag("Message").or_else(|| header("x-amz-error-message"));
    if code.is_none()
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(body)
    {
        // Google: {"error":{"code":404,"message":"...","errors":[{"reason":"notFound"}]}}, or {"error":"...", "error_description":"..."}.
        let word = |value: &serde_json::Value| value.as_str().map(plain);
        let error = &value["error"];
        code = word(&error["errors"][0]["reason"]).or_else(|| word(error));
        message = word(&error["message"]).or_else(|| word(&value["error_description"]));
        // Glacier: {"code":"ResourceNotFoundException","message":"...","type":"Client"}.
        code = code.or_else(|| word(&value["code"]));
        message = message.or_else(|| word(&value["message"]));
    }
    (code.unwrap_or_default(), message.unwrap_or_default())
}

/// A foreign text on one line, without control characters, and not too long.
fn plain(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `Retry-After` in seconds, at most an hour.
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

type Pause = Option<Pin<Box<tokio::time::Sleep>>>;

/// Waits until a pause is over.
fn over(pause: &mut Pause, context: &mut Context<'_>) -> bool {
    if let Some(sleep) = pause
        && sleep.as_mut().poll(context).is_pending()
    {
        return false;
    }
    *pause = None;
    true
}

fn pause_for(time: Duration) -> Pause {
    (!time.is_zero()).then(|| Box::pin(tokio::time::sleep(time)))
}

/// A body on its way out.
pub(crate) struct Outgoing {
    body: Buffer,
    bandwidth: Arc<Bandwidth>,
    ear: Ear,
    pause: Pause,
}

impl Outgoing {
    pub(crate) fn new(body: Buffer, bandwidth: Arc<Bandwidth>, ear: Ear) -> Self {
        Self { body, bandwidth, ear, pause: None }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if !over(&mut self.pause, context) {
            return Poll::Pending;
        }
        self.ear.moved();
        let length = self.body.len().min(PIECE);
        if length == 0 {
            return Poll::Ready(None);
        }
        let piece = self.body.slice(..length).to_bytes();
        self.body = self.body.slice(length..);
        // The pause that this piece costs comes before the next one: the debt is small, and a small body is not delayed.
        let pause = self.bandwidth.up(length);
        self.ear.pausing(pause);
        self.pause = pause_for(pause);
        Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.body.len() as u64)
    }
}

/// A body on its way in.
struct Incoming {
    inner: Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send + Sync>>,
    bandwidth: Arc<Bandwidth>,
    ear: Ear,
    pause: Pause,
}

impl Stream for Incoming {
    type Item = Result<Bytes, reqwest::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !over(&mut self.pause, context) {
            return Poll::Pending;
        }
        loop {
            match self.inner.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                Poll::Ready(Some(Ok(piece))) => {
                    self.ear.moved();
                    let pause = self.bandwidth.down(piece.len());
                    self.ear.pausing(pause);
                    self.pause = pause_for(pause);
                    return Poll::Ready(Some(Ok(piece)));
                }
                other => return other,
            }
        }
    }
}
