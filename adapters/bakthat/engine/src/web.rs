//! A request to a server that speaks JSON or forms, whatever it answers: for the sync server and the monitoring service.

use std::pin::pin;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};

use crate::control::Control;
use crate::error::{Error, Result};

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often it is asked whether anybody still waits.
const LOOK: Duration = Duration::from_millis(50);

/// What is asked.
#[derive(Debug)]
pub struct Request<'a> {
    /// As in `POST`.
    pub method: &'a str,
    /// Where.
    pub url: &'a str,
    /// Name and password.
    pub login: (&'a str, &'a str),
    /// Further headers.
    pub headers: &'a [(String, String)],
    /// What is sent with it.
    pub body: Option<Vec<u8>>,
}

/// Status and text of the answer.
///
/// # Errors
/// [`Error::NoAnswer`]; an address or a header that cannot be. [`Error::Interrupted`].
pub fn ask(request: Request<'_>, control: &Control) -> Result<(u16, String)> {
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::other)?;
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).map_err(Error::other)?);
    }
    let method = Method::from_bytes(request.method.as_bytes()).map_err(Error::other)?;
    let no_answer =
        |error: reqwest::Error| Error::NoAnswer(format!("{}: {}", request.url, words(&error.without_url())));
    let client = reqwest::Client::builder().user_agent("bakthat").timeout(PATIENCE).build().map_err(no_answer)?;
    let (name, password) = request.login;
    let mut asked = client.request(method, request.url).headers(headers).basic_auth(name, Some(password));
    if let Some(body) = request.body {
        if body.is_empty() {
            asked = asked.header(CONTENT_LENGTH, "0");
        }
        asked = asked.body(body);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::other)?;
    runtime.block_on(async {
        let mut answered = pin!(async {
            let answer = asked.send().await?;
            let status = answer.status().as_u16();
            Ok((status, String::from_utf8_lossy(&answer.bytes().await?).into_owned()))
        });
        loop {
            if let Ok(answer) = tokio::time::timeout(LOOK, answered.as_mut()).await {
                return answer.map_err(no_answer);
            }
            control.check()?;
        }
    })
}

/// What lies behind a failure: the innermost cause says it best.
fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
