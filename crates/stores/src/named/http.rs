//! Calls of plain HTTP: sent, judged by the table of troubles, tried again.

use std::io::Write;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backstay_core::{Retry, StoreError, StoreErrorKind};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{NamedError, Result, Watch};
use crate::keystone::Login;
use crate::limit::Bandwidth;
use crate::open::OpenError;
use crate::options::StoreOptions;
use crate::retry::Retrying;
use crate::runtime;
use crate::secret::{Secret, scrub};
use crate::transport::{self, Ear, Outgoing, code_and_message, of_reqwest, words};
use crate::trouble::{SILENCE, Trouble};

/// So often it is asked whether anybody still waits.
const LOOK: Duration = Duration::from_millis(50);
/// No answer that is kept whole is longer.
const LONGEST_ANSWER: usize = 64 << 20;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: &'static str,
    /// Scheme and host.
    pub(super) origin: String,
    /// The path as it is sent, with a leading slash.
    pub(super) path: String,
    /// The query as it is sent, without a question mark.
    pub(super) query: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    login: Option<Arc<Login>>,
}

impl Ask {
    pub(super) fn new(method: &'static str, origin: &str, path: String, query: &str) -> Self {
        Self {
            method,
            origin: origin.to_owned(),
            path,
            query: query.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            login: None,
        }
    }

    /// Where it goes, as it is sent.
    pub(super) fn address(&self) -> String {
        let question_mark = if self.query.is_empty() { "" } else { "?" };
        format!("{}{}{question_mark}{}", self.origin, self.path, self.query)
    }

    pub(super) fn with(mut self, headers: Vec<(&'static str, String)>) -> Self {
        self.headers.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// The token of a login goes with it.
    pub(super) fn login(mut self, login: &Arc<Login>) -> Self {
        self.login = Some(Arc::clone(login));
        self
    }
}

/// An answer that was kept whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Why one attempt failed.
enum Broken {
    Trouble(Trouble, String, Option<Duration>),
    Other(NamedError),
}

impl From<NamedError> for Broken {
    fn from(error: NamedError) -> Self {
        Self::Other(error)
    }
}

/// How requests are sent.
pub(super) struct Http {
    pub(super) location: String,
    /// The client, and the process that it belongs to: the threads that hold its connections do not follow through a fork.
    client: Mutex<(u32, reqwest::Client)>,
    /// Another one of the kind.
    another: Box<dyn Fn() -> std::result::Result<reqwest::Client, String> + Send + Sync>,
    secrets: Vec<Secret>,
    bandwidth: Arc<Bandwidth>,
    retrying: Retrying,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(
        location: String,
        secrets: Vec<Secret>,
        options: &StoreOptions,
    ) -> std::result::Result<Self, OpenError> {
        let (certificates, insecure, proxy) =
            (options.certificates.clone(), options.insecure_tls, options.proxy.clone());
        let another = move || {
            let proxy = proxy.as_ref().map(Secret::expose);
            transport::client(certificates.as_deref(), insecure, proxy)
        };
        let client = another().map_err(OpenError::Option)?;
        Ok(Self {
            location,
            client: Mutex::new((std::process::id(), client)),
            another: Box::new(another),
            secrets,
            bandwidth: Arc::new(Bandwidth::new(options.limit_upload, options.limit_download)),
            retrying: Retrying::new(options.retry_time, options.notice.clone()),
        })
    }

    /// The client of this process.
    pub(super) fn client(&self) -> std::result::Result<reqwest::Client, String> {
        let mut known = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != std::process::id() {
            let inherited = std::mem::replace(&mut *known, (std::process::id(), (self.another)()?));
            // Its connections are the parent's.
            std::mem::forget(inherited);
        }
        Ok(known.1.clone())
    }

    /// Sends what `make` makes, anew for each attempt, and keeps the answer. Answers with one of the statuses in `fine` are
    /// answers too.
    pub(super) fn call(
        &self,
        operation: &'static str,
        object: &str,
        make: &(dyn Fn() -> Ask + Sync),
        fine: &[u16],
        watch: &dyn Watch,
    ) -> Result<Answer> {
        self.again(operation, object, watch, || {
            self.wait(watch, async |ear: Ear| {
                let mut response = self.send(make(), fine, &ear).await?;
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                let mut body = Vec::new();
                while let Some(piece) = response.chunk().await.map_err(cut)? {
                    ear.moved();
                    body.extend_from_slice(&piece);
                    if body.len() > LONGEST_ANSWER {
                        return Err(Broken::Trouble(Trouble::Other, "the answer is too long".to_owned(), None));
                    }
                }
                Ok(Answer { status, headers, body })
            })
        })
    }

    /// Writes the answer to `out` as it comes, and goes on where it was cut off; false for a missing object.
    pub(super) fn download(
        &self,
        object: &str,
        ask: &(dyn Fn(Vec<(&'static str, String)>) -> Ask + Sync),
        prepared: &(dyn Fn(Ask) -> Ask + Sync),
        out: &mut (dyn Write + Send),
        length: &mut (dyn FnMut(u64) + Send),
        watch: &dyn Watch,
    ) -> Result<bool> {
        struct State<'a> {
            out: &'a mut (dyn Write + Send),
            length: &'a mut (dyn FnMut(u64) + Send),
            written: u64,
            /// The length, where the store says it, and the tag.
            whole: Option<(Option<u64>, String)>,
        }
        let state = Mutex::new(State { out, length, written: 0, whole: None });
        self.again("read", object, watch, || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let state = &mut *state;
            self.wait(watch, async |ear: Ear| {
                let headers = match &state.whole {
                    Some((Some(length), _)) if state.written == *length => return Ok(true),
                    // The rest, of the very same object.
                    Some((_, tag)) if state.written > 0 => {
                        vec![("range", format!("bytes={}-", state.written)), ("if-match", tag.clone())]
                    }
                    _ => Vec::new(),
                };
                let resumed = !headers.is_empty();
                let mut response = self.send(prepared(ask(headers)), &[404], &ear).await?;
                if response.status() == http::StatusCode::NOT_FOUND {
                    return Ok(false);
                }
                let changed = || Broken::Trouble(Trouble::Refused, "it was cut off and cannot go on".to_owned(), None);
                if resumed && response.status() != http::StatusCode::PARTIAL_CONTENT {
                    return Err(changed());
                }
                if !resumed {
                    let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
                    let length = response.content_length();
                    state.whole = Some((length, tag.unwrap_or("*").to_owned()));
                    (state.length)(length.unwrap_or(0));
                }
                while let Some(piece) = response.chunk().await.map_err(cut)? {
                    ear.moved();
                    state.out.write_all(&piece).map_err(NamedError::File)?;
                    state.written += piece.len() as u64;
                    watch.moved(piece.len() as u64);
                    let pause = self.bandwidth.down(piece.len());
                    if !pause.is_zero() {
                        ear.pausing(pause);
                        tokio::time::sleep(pause).await;
                    }
                }
                match &state.whole {
                    Some((Some(length), _)) if *length != state.written => {
                        Err(Broken::Trouble(Trouble::Cut, format!("{} bytes came of {length}", state.written), None))
                    }
                    _ => Ok(true),
                }
            })
        })
    }

    /// Tries until it works, fails for good, or nobody waits any longer.
    fn again<T>(
        &self,
        operation: &'static str,
        object: &str,
        watch: &dyn Watch,
        attempt: impl Fn() -> std::result::Result<T, Broken>,
    ) -> Result<T> {
        let other: Mutex<Option<NamedError>> = Mutex::new(None);
        let done = self.retrying.again(Some(&|| watch.cancelled()), |_| {
            attempt().map_err(|broken| match broken {
                Broken::Trouble(trouble, words, wait) => self.error(operation, object, trouble, &words, wait),
                Broken::Other(error) => {
                    *other.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    StoreError::new(StoreErrorKind::Other, operation, "", "")
                }
            })
        });
        done.map_err(|error| match other.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(other) => other,
            None if watch.cancelled() => NamedError::Interrupted,
            None => error.into(),
        })
    }

    /// Runs an attempt: ends it when nothing moves any more, or nobody waits.
    fn wait<T>(
        &self,
        watch: &dyn Watch,
        work: impl AsyncFnOnce(Ear) -> std::result::Result<T, Broken>,
    ) -> std::result::Result<T, Broken> {
        let ear = Ear::new();
        let run = async {
            let mut work = pin!(work(ear.clone()));
            loop {
                match tokio::time::timeout(LOOK, work.as_mut()).await {
                    Ok(done) => return done,
                    Err(_) if watch.cancelled() => return Err(NamedError::Interrupted.into()),
                    Err(_) if ear.last() + SILENCE > Instant::now() => {}
                    Err(_) => {
                        let text = format!("not a byte moved for {} seconds", SILENCE.as_secs());
                        return Err(Broken::Trouble(Trouble::Silent, text, None));
                    }
                }
            }
        };
        match runtime::wait(run) {
            Ok(done) => done,
            Err(error) => Err(Broken::Trouble(Trouble::Other, format!("no threads for it: {error}"), None)),
        }
    }

    /// Sends one request and judges the answer.
    async fn send(&self, ask: Ask, fine: &[u16], ear: &Ear) -> std::result::Result<reqwest::Response, Broken> {
        let bad = |what: &str| Broken::Trouble(Trouble::Other, what.to_owned(), None);
        let url = reqwest::Url::parse(&ask.address()).map_err(|_| bad("it cannot be an address"))?;
        let method = Method::from_bytes(ask.method.as_bytes()).map_err(|_| bad("no method"))?;
        let mut token = match &ask.login {
            Some(login) => Some(login.token().await),
            None => None,
        };
        let mut again = true;
        loop {
            let mut headers = HeaderMap::new();
            for (name, value) in &ask.headers {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("a header's name"))?;
                headers.append(name, HeaderValue::from_str(value).map_err(|_| bad("a header's value"))?);
            }
            if let Some(token) = &token {
                let mut value = HeaderValue::from_str(token.expose()).map_err(|_| bad("the token is not text"))?;
                value.set_sensitive(true);
                headers.insert("x-auth-token", value);
            }
            let client = self.client().map_err(|text| Broken::Trouble(Trouble::Other, text, None))?;
            let mut request = client.request(method.clone(), url.clone()).headers(headers);
            if !ask.body.is_empty() {
                let body = Outgoing::new(ask.body.clone().into(), Arc::clone(&self.bandwidth), ear.clone());
                request = request.body(reqwest::Body::wrap(body));
            } else if matches!(ask.method, "PUT" | "POST") {
                request = request.header(http::header::CONTENT_LENGTH, "0");
            }
            ear.moved();
            let response = request.send().await.map_err(|error| {
                let error = error.without_url();
                Broken::Trouble(of_reqwest(&error), words(&error), None)
            })?;
            ear.moved();
            let status = response.status();
            if status.is_success() || fine.contains(&status.as_u16()) {
                return Ok(response);
            }
            match (&ask.login, &token) {
                (Some(login), Some(old)) if again && status == http::StatusCode::UNAUTHORIZED => {
                    again = false;
                    let renewed = login.renewed(old).await;
                    token = Some(renewed.map_err(|text| Broken::Trouble(Trouble::Expired, text, None))?);
                    continue;
                }
                _ => {}
            }
            let headers = response.headers().clone();
            let body = transport::beginning(response).await;
            let (code, message) = code_and_message(&headers, &body);
            let trouble = Trouble::of_answer(status.as_u16(), &code);
            let said = [code, message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
            let words = format!("it answers {} {said}", status.as_u16()).trim_end().to_owned();
            return Err(Broken::Trouble(trouble, words, transport::wait(&headers)));
        }
    }

    pub(super) fn error(
        &self,
        operation: &'static str,
        object: &str,
        trouble: Trouble,
        words: &str,
        wait: Option<Duration>,
    ) -> StoreError {
        let row = trouble.row();
        let words = scrub(words, &self.secrets);
        let text = if words.is_empty() { row.advice.to_owned() } else { format!("{} ({words})", row.advice) };
        StoreError { kind: row.kind, retry: trouble.retry(wait), operation, object: self.shown(object), text }
    }

    /// What we refuse ourselves.
    pub(super) fn refusal(&self, operation: &'static str, object: &str, text: &str) -> StoreError {
        StoreError {
            kind: StoreErrorKind::Other,
            retry: Retry::Never,
            operation,
            object: self.shown(object),
            text: text.to_owned(),
        }
    }

    fn shown(&self, object: &str) -> String {
        if object.is_empty() { self.location.clone() } else { format!("{}/{object}", self.location) }
    }
}

fn cut(error: reqwest::Error) -> Broken {
    Broken::Trouble(Trouble::Cut, words(&error.without_url()), None)
}
