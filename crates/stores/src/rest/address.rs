//! Where a server is, and who we are to it. What is shown of it never holds a password.

use std::fmt;
use std::path::PathBuf;

use backstay_core::{StoreError, StoreErrorKind};
use percent_encoding::percent_decode_str;
use reqwest::{RequestBuilder, Url};

/// A repository's address, without name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Ends with a slash.
    base: Url,
    /// The same for people.
    shown: String,
    /// The socket to go through instead of the host in `base`.
    pub(super) socket: Option<PathBuf>,
}

/// A name and a password, for basic authentication.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    user: String,
    password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn from_parts(user: Option<String>, password: Option<String>) -> Option<Self> {
        match (user, password) {
            (None, None) => None,
            (user, password) => Some(Self { user: user.unwrap_or_default(), password }),
        }
    }

    pub(super) fn attach(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(&self.user, self.password.as_ref())
    }
}

/// An address that cannot be used.
fn bad(text: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Other, "open", "rest:", text)
}

impl Address {
    /// Takes an address apart. Its text is in no error.
    pub(super) fn parse(text: &str) -> Result<(Self, Option<Credentials>), StoreError> {
        let text = text.strip_prefix("rest:").unwrap_or(text);
        if let Some(rest) = text.strip_prefix("http+unix://") {
            return Ok((Self::on_socket(rest)?, None));
        }
        let mut url = Url::parse(text).map_err(|error| {
            bad(format!("not an address of a REST server ({error}): write rest:https://host:8000/path/"))
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("a REST server is reached by http, https or http+unix"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("an address of a REST server has no ? or # in it (write %3F or %23 in a password)"));
        }
        let decoded = |part: &str| percent_decode_str(part).decode_utf8().map(std::borrow::Cow::into_owned);
        let user = decoded(url.username()).map_err(|_| bad("the user's name in the address is not UTF-8"))?;
        let password =
            url.password().map(decoded).transpose().map_err(|_| bad("the password in the address is not UTF-8"))?;
        let credentials = Credentials::from_parts(Some(user).filter(|user| !user.is_empty()), password);
        // Neither can fail for an address with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        with_slash(&mut url);
        Ok((Self { shown: url.to_string(), base: url, socket: None }, credentials))
    }

    /// `/path/to/socket:/path/`
    fn on_socket(text: &str) -> Result<Self, StoreError> {
        let (socket, path) = text.split_once(':').unwrap_or((text, "/"));
        if !socket.starts_with('/') || !path.starts_with('/') {
            return Err(bad("write a socket's address as rest:http+unix:///path/to/socket:/path/"));
        }
        let mut base = Url::parse("http://localhost/").map_err(|error| bad(error.to_string()))?;
        base.set_path(path);
        with_slash(&mut base);
        Ok(Self { shown: format!("http+unix://{socket}:{}", base.path()), base, socket: Some(PathBuf::from(socket)) })
    }

    /// The URL of something below the repository.
    pub(super) fn join(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("{}{path}", self.base.path()));
        url.set_query(query);
        url
    }

    /// The same for people.
    pub(super) fn shown(&self, path: &str) -> String {
        format!("{}{path}", self.shown)
    }

    /// The repository with the user's name and without the password, as restic shows it.
    pub(super) fn shown_for(&self, credentials: &Credentials) -> String {
        let mut url = self.base.clone();
        if self.socket.is_some() || url.set_username(&credentials.user).is_err() {
            return format!("rest:{}", self.shown);
        }
        if credentials.password.is_some() && url.set_password(Some("***")).is_err() {
            return format!("rest:{}", self.shown);
        }
        format!("rest:{url}")
    }

    /// An error about the address as a whole.
    pub(super) fn refused(&self, text: impl Into<String>) -> StoreError {
        StoreError::new(StoreErrorKind::Other, "open", format!("rest:{}", self.shown), text)
    }
}

fn with_slash(url: &mut Url) {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
}
