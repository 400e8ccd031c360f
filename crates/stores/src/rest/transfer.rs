//! One request and its answer: sent and received under a watch that ends a call in which nothing moves, and what each status
//! and each failure of the network means.

use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use backstay_core::{Retry, StoreError, StoreErrorKind};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, RequestBuilder, StatusCode};
use tokio::time::Instant;

use super::address::Address;
use super::disturbed;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(20);

/// What is handed to the network at a time: each such piece that goes out shows that the transfer lives.
const PIECE: usize = 64 << 10;

/// How much of a refusal's text is read, in bytes.
const REFUSAL: u64 = 4 << 10;

/// A client for this address.
pub(super) fn client(
    address: &Address,
    certificates: &Option<PathBuf>,
    client_certificate: &Option<PathBuf>,
    insecure: bool,
) -> Result<Client, StoreError> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| address.refused(format!("cannot read the certificate file {}: {error}", path.display())))
    };
    let unusable = |path: &PathBuf| {
        address.refused(format!("{} holds no certificate in PEM form that can be used", path.display()))
    };
    let mut builder = Client::builder()
        .user_agent(concat!("backstay/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT);
    if let Some(path) = certificates {
        let trusted = Certificate::from_pem_bundle(&read(path)?).map_err(|_| unusable(path))?;
        if trusted.is_empty() {
            return Err(unusable(path));
        }
        builder = builder.tls_certs_only(trusted);
    }
    if let Some(path) = client_certificate {
        builder = builder.identity(Identity::from_pem(&read(path)?).map_err(|_| unusable(path))?);
    }
    if insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some(socket) = &address.socket {
        builder = builder.unix_socket(socket.as_path());
    }
    builder.build().map_err(|error| address.refused(format!("cannot make a client: {}", root_cause(&error))))
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The length that the header names, in bytes.
    pub(super) length: Option<u64>,
    /// Without parameters.
    pub(super) media_type: Option<String>,
    /// The first byte's place and the object's size, where the server tells it.
    pub(super) content_range: Option<(u64, Option<u64>)>,
    retry_after: Option<Duration>,
    elsewhere: Option<String>,
    pub(super) body: Vec<u8>,
}

/// When something last moved.
#[derive(Clone, Debug)]
struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that goes out in pieces.
struct Upload {
    left: Bytes,
    pulse: Pulse,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pulse.beat();
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.left.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// One operation on one object, for its requests and for the words about it.
#[derive(Debug)]
pub(super) struct Transfer {
    operation: &'static str,
    object: String,
    stall: Duration,
}

impl Transfer {
    pub(super) fn new(operation: &'static str, object: String, stall: Duration) -> Self {
        Self { operation, object, stall }
    }

    /// Sends a request with this body.
    pub(super) async fn send(&self, request: RequestBuilder, body: Bytes) -> Result<Answer, StoreError> {
        let pulse = Pulse::new();
        let length = body.len();
        let upload = Upload { left: body, pulse: pulse.clone() };
        let request = request.header(CONTENT_LENGTH, length).body(reqwest::Body::wrap(upload));
        self.watched(&pulse, self.receive(request, REFUSAL, &pulse)).await
    }

    /// Sends a request without a body, and takes an answer of at most `largest` bytes.
    pub(super) async fn run(&self, request: RequestBuilder, largest: u64) -> Result<Answer, StoreError> {
        let pulse = Pulse::new();
        self.watched(&pulse, self.receive(request, largest, &pulse)).await
    }

    async fn watched<T>(
        &self,
        pulse: &Pulse,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut work = std::pin::pin!(work);
        loop {
            let deadline = pulse.last() + self.stall;
            match tokio::time::timeout_at(deadline, &mut work).await {
                Ok(result) => return result,
                Err(_) if pulse.last() + self.stall > deadline => {}
                Err(_) => {
                    return Err(self.disturbed(format!("nothing moved for {} s", self.stall.as_secs_f32())));
                }
            }
        }
    }

    async fn receive(&self, request: RequestBuilder, largest: u64, pulse: &Pulse) -> Result<Answer, StoreError> {
        let mut response = request.send().await.map_err(|error| self.failed(&error))?;
        pulse.beat();
        let headers = response.headers();
        let mut answer = Answer {
            status: response.status(),
            length: text(headers, CONTENT_LENGTH).and_then(|text| text.parse().ok()),
            media_type: text(headers, CONTENT_TYPE)
                .map(|text| text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase()),
            content_range: text(headers, CONTENT_RANGE).and_then(content_range),
            retry_after: text(headers, RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs),
            elsewhere: text(headers, LOCATION).map(without_secrets),
            body: Vec::new(),
        };
        let success = answer.status.is_success();
        // Of a refusal only the first words are wanted.
        let largest = if success { largest } else { REFUSAL };
        let expected = answer.length.unwrap_or(0).min(largest).min(64 << 20);
        let mut body = BytesMut::with_capacity(usize::try_from(expected).unwrap_or(0));
        loop {
            match response.chunk().await {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    pulse.beat();
                    if (body.len() + piece.len()) as u64 > largest {
                        if success && largest > REFUSAL {
                            return Err(self.wrong(format!("the server sends more than {largest} bytes")));
                        }
                        break;
                    }
                    body.extend_from_slice(&piece);
                }
                Err(_) if !success => break,
                Err(error) => {
                    let came = body.len();
                    let text = match answer.length {
                        Some(length) => format!("the answer broke off after {came} of {length} bytes"),
                        None => format!("the answer broke off after {came} bytes"),
                    };
                    return Err(self.disturbed(format!("{text}: {}", root_cause(&error))));
                }
            }
        }
        answer.body = body.into();
        Ok(answer)
    }

    /// What an answer other than success means (reference section 20).
    pub(super) fn refused(&self, answer: &Answer) -> StoreError {
        let status = answer.status;
        let said = said(answer);
        let (kind, retry, text) = match status.as_u16() {
            401 => {
                (StoreErrorKind::Denied, Retry::Never, format!("the server wants another user name or password{said}"))
            }
            403 if self.operation == "delete" => {
                (StoreErrorKind::Denied, Retry::Never, format!("the server refuses to delete (append-only?){said}"))
            }
            403 => (StoreErrorKind::Denied, Retry::Never, format!("the server refuses us{said}")),
            404 => (StoreErrorKind::NotFound, Retry::Never, format!("not there{said}")),
            413 | 416 => (StoreErrorKind::Other, Retry::Never, format!("the server refuses{said}")),
            405 | 501 => (StoreErrorKind::Other, Retry::Never, format!("the server does not do that{said}")),
            507 => (StoreErrorKind::Full, Retry::Never, format!("the server has no room left{said}")),
            300..=399 => {
                let place = answer.elsewhere.as_deref().unwrap_or("somewhere else");
                (StoreErrorKind::Other, Retry::Never, format!("the server points to {place}: use that address{said}"))
            }
            429 | 503 if answer.retry_after.is_some() || status == StatusCode::TOO_MANY_REQUESTS => {
                (StoreErrorKind::Other, Retry::Throttled(answer.retry_after), format!("the server is busy{said}"))
            }
            _ => (StoreErrorKind::Other, Retry::Soon, format!("the server failed{said}")),
        };
        StoreError { retry, ..StoreError::new(kind, self.operation, &self.object, text) }
    }

    /// What a failure of the network means.
    fn failed(&self, error: &reqwest::Error) -> StoreError {
        let cause = root_cause(error);
        let lower = cause.to_ascii_lowercase();
        // Neither a name that nobody knows nor a certificate that is not trusted gets better by waiting.
        let lasting = ["name or service not known", "certificate", "no address associated"]
            .iter()
            .any(|words| lower.contains(words));
        let text = if error.is_timeout() {
            format!("no connection within {} s", CONNECT.as_secs())
        } else if error.is_connect() {
            format!("cannot connect: {cause}")
        } else {
            format!("the connection broke: {cause}")
        };
        if lasting {
            return StoreError::new(StoreErrorKind::Other, self.operation, &self.object, text);
        }
        self.disturbed(text)
    }

    pub(super) fn disturbed(&self, text: impl Into<String>) -> StoreError {
        disturbed(self.operation, &self.object, text.into())
    }

    /// An answer that makes no sense, now and later.
    pub(super) fn wrong(&self, text: impl Into<String>) -> StoreError {
        StoreError::new(StoreErrorKind::Other, self.operation, &self.object, text)
    }

    pub(super) fn exists(&self) -> StoreError {
        StoreError::new(StoreErrorKind::Exists, self.operation, &self.object, "it exists already")
    }

    pub(super) fn missing(&self) -> StoreError {
        StoreError::new(StoreErrorKind::NotFound, self.operation, &self.object, "not there")
    }

    pub(super) fn beyond(&self, size: u64, range: &Range<u64>) -> StoreError {
        self.wrong(format!("the object has {size} bytes and ends before byte {}", range.end))
    }

    pub(super) fn truncated(&self, came: u64, wanted: u64) -> StoreError {
        self.disturbed(format!("the server sent {came} of {wanted} bytes"))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 3-9/20`: the first byte and the size.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}

/// An address that a server names, without what may be secret in it.
fn without_secrets(address: &str) -> String {
    let end = address.find(['?', '#']).unwrap_or(address.len());
    let address = address.get(..end).unwrap_or_default();
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => plain(&format!("{scheme}://{place}")),
        _ => plain(address),
    }
}

/// One line of it.
fn plain(text: &str) -> String {
    text.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The status and the server's own words, in brackets.
fn said(answer: &Answer) -> String {
    let words = match answer.media_type.as_deref() {
        Some("text/html") => String::new(),
        _ => String::from_utf8_lossy(&answer.body).lines().next().map(|line| plain(line.trim())).unwrap_or_default(),
    };
    let reason = answer.status.canonical_reason().unwrap_or_default();
    if words.is_empty() || words.eq_ignore_ascii_case(reason) {
        format!(" ({})", answer.status)
    } else {
        format!(" ({}: {words})", answer.status)
    }
}

/// The innermost cause, which says most; those around it repeat addresses.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    plain(&cause.to_string())
}
