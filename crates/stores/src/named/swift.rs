//! Swift by names: a container and its objects. A file that is too large for one object goes up in segments, which lie in a
//! container of their own beside it, as Swift's own client lays them.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::http::{Ask, Http};
use super::signature::{encoded, encoded_path};
use super::{NamedError, Result, Watch, piece};
use crate::environment::Environment;
use crate::keystone::Login;
use crate::open::OpenError;
use crate::runtime;
use crate::secret::{Secret, scrub};

/// A file of up to this many bytes is one object.
const SINGLE: u64 = 32 << 20;
/// Segments have at least this many bytes,
const SEGMENT: u64 = 16 << 20;
/// and there are not more of them.
const MOST_SEGMENTS: u64 = 1000;
/// Objects that one answer to a list names at the most.
const PAGE: usize = 10_000;

/// A container and the way to it.
#[derive(Clone, Debug)]
pub struct SwiftPlace {
    /// The container's name.
    pub container: String,
    /// Where to log in.
    pub auth_url: String,
    /// How: `1` for Swift's own way, `2` or `3` for Keystone's.
    pub auth_version: String,
    /// Who: `ACCOUNT:USER`.
    pub user: String,
    /// The key.
    pub password: Secret,
    /// The region whose store is meant, where there are several.
    pub region: Option<String>,
}

/// A container.
#[derive(Debug)]
pub(super) struct Swift {
    container: String,
    /// Scheme and host of the account's objects.
    origin: String,
    /// The account's path, without a slash at its end.
    account: String,
    pub(super) login: Arc<Login>,
}

/// Where it is for people, and what nobody may see.
pub(super) fn described(place: &SwiftPlace) -> (String, Vec<Secret>) {
    (format!("swift:{}", place.container), vec![place.password.clone()])
}

/// The login in the words of its environment.
fn environment(place: &SwiftPlace) -> std::result::Result<Environment, OpenError> {
    let key = place.password.expose().to_owned();
    let (account, user) = match place.user.split_once(':') {
        Some((account, user)) => (Some(account.to_owned()), user.to_owned()),
        None => (None, place.user.clone()),
    };
    let url = place.auth_url.clone();
    let mut variables = match place.auth_version.split('.').next() {
        Some("1" | "") | None => vec![("ST_AUTH", url), ("ST_USER", place.user.clone()), ("ST_KEY", key)],
        Some("2" | "3") => {
            let version = if place.auth_version.starts_with('2') { "2" } else { "3" };
            let mut variables = vec![
                ("OS_IDENTITY_API_VERSION", version.to_owned()),
                ("OS_AUTH_URL", url),
                ("OS_USERNAME", user),
                ("OS_PASSWORD", key),
            ];
            variables.extend(account.map(|account| ("OS_PROJECT_NAME", account)));
            variables
        }
        Some(other) => {
            return Err(OpenError::Option(format!("auth_version {other:?} is not known: there are 1, 2 and 3")));
        }
    };
    variables.extend(place.region.clone().map(|region| ("OS_REGION_NAME", region)));
    Ok(Environment::fixed(variables))
}

impl Swift {
    pub(super) fn new(place: &SwiftPlace, http: &Http) -> std::result::Result<Self, OpenError> {
        if place.container.is_empty() || place.container.contains('/') {
            return Err(OpenError::Option(format!("{:?} is no container's name", place.container)));
        }
        let environment = environment(place)?;
        let login = runtime::wait(Login::new(&environment, http.client().map_err(OpenError::Option)?))
            .map_err(|error| error.to_string())
            .and_then(|login| login);
        let (login, storage) = login.map_err(|text| {
            let secrets = [place.password.clone()];
            OpenError::Credentials(format!("{}: {}", http.location, scrub(&text, &secrets)))
        })?;
        let wrong = || OpenError::Service(format!("{}: the login names no address of objects", http.location));
        let scheme = storage.find("://").ok_or_else(wrong)? + 3;
        let slash = storage[scheme..].find('/').map_or(storage.len(), |at| scheme + at);
        let (origin, account) = storage.split_at(slash);
        Ok(Self {
            container: place.container.clone(),
            origin: origin.to_owned(),
            account: account.trim_end_matches('/').to_owned(),
            login: Arc::new(login),
        })
    }

    fn in_container(&self, method: &'static str, container: &str, name: Option<&str>, query: &str) -> Ask {
        let slash = if name.is_some() { "/" } else { "" };
        let key = name.map(encoded_path).unwrap_or_default();
        let path = format!("{}/{}{slash}{key}", self.account, encoded(container));
        Ask::new(method, &self.origin, path, query)
    }

    /// A request about the container, or about an object in it; without a token yet.
    pub(super) fn ask(&self, method: &'static str, name: Option<&str>, query: &str) -> Ask {
        self.in_container(method, &self.container, name, query)
    }

    fn segments(&self) -> String {
        format!("{}_segments", self.container)
    }

    pub(super) fn ensure(&self, http: &Http, watch: &dyn Watch) -> Result<()> {
        let look = || self.ask("HEAD", None, "").login(&self.login);
        if http.call("look at", "", &look, &[404], watch)?.status != 404 {
            return Ok(());
        }
        let make = || self.ask("PUT", None, "").login(&self.login);
        http.call("create", "", &make, &[], watch).map(drop)
    }

    pub(super) fn put(&self, http: &Http, name: &str, body: &Bytes, watch: &dyn Watch) -> Result<()> {
        let length = body.len() as u64;
        let type_ = vec![("content-type", "application/octet-stream".to_owned())];
        let make = || self.ask("PUT", Some(name), "").with(type_.clone()).body(body.clone()).login(&self.login);
        http.call("write", name, &make, &[], watch)?;
        watch.moved(length);
        Ok(())
    }

    pub(super) fn upload(&self, http: &Http, name: &str, file: &File, watch: &dyn Watch) -> Result<()> {
        let length = file.metadata().map_err(NamedError::File)?.len();
        if length <= SINGLE {
            return self.put(http, name, &piece(file, 0, length)?, watch);
        }
        let container = self.segments();
        let make = || self.in_container("PUT", &container, None, "").login(&self.login);
        http.call("create", "", &make, &[], watch)?;
        let random = getrandom::u64().map_err(|error| http.refusal("write", name, &error.to_string()))?;
        let size = SEGMENT.max(length.div_ceil(MOST_SEGMENTS).next_multiple_of(1 << 20));
        let mut manifest: Vec<Value> = Vec::new();
        let mut sent: Vec<String> = Vec::new();
        let done = (0..length.div_ceil(size)).try_for_each(|number| {
            let from = number * size;
            let body = piece(file, from, size.min(length - from))?;
            let segment = format!("{name}/{random:016x}/{number:08}");
            let make =
                || self.in_container("PUT", &container, Some(&segment), "").body(body.clone()).login(&self.login);
            sent.push(segment.clone());
            let answer = http.call("write", name, &make, &[], watch)?;
            let mut entry = json!({"path": format!("/{container}/{segment}"), "size_bytes": body.len()});
            if let Some(tag) = answer.header("etag") {
                entry["etag"] = tag.trim_matches('"').into();
            }
            manifest.push(entry);
            watch.moved(body.len() as u64);
            Ok(())
        });
        let done = done.and_then(|()| {
            let body = Bytes::from(Value::from(manifest).to_string());
            let make = || self.ask("PUT", Some(name), "multipart-manifest=put").body(body.clone()).login(&self.login);
            http.call("write", name, &make, &[], watch).map(drop)
        });
        if done.is_err() {
            for segment in &sent {
                let make = || self.in_container("DELETE", &container, Some(segment), "").login(&self.login);
                // The error that counts is the first one.
                let _ = http.call("delete", name, &make, &[404], &super::Patient);
            }
        }
        done
    }

    pub(super) fn delete(&self, http: &Http, name: &str, watch: &dyn Watch) -> Result<()> {
        let look = || self.ask("HEAD", Some(name), "").login(&self.login);
        let there = http.call("look at", name, &look, &[404], watch)?;
        if there.status == 404 {
            return Ok(());
        }
        // Of a large one the segments go, too.
        let large = there.header("x-static-large-object").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let query = if large { "multipart-manifest=delete" } else { "" };
        let make = || self.ask("DELETE", Some(name), query).login(&self.login);
        http.call("delete", name, &make, &[404], watch).map(drop)
    }

    pub(super) fn list(&self, http: &Http, watch: &dyn Watch) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let mut query = "format=json".to_owned();
            if let Some(last) = names.last() {
                query.push_str(&format!("&marker={}", encoded(last)));
            }
            let make = || self.ask("GET", None, &query).login(&self.login);
            let answer = http.call("list", "", &make, &[204], watch)?;
            if answer.body.is_empty() {
                return Ok(names);
            }
            let page: Vec<Value> = serde_json::from_slice(&answer.body)
                .map_err(|_| http.refusal("list", "", "the answer is no list of objects"))?;
            let before = names.len();
            names.extend(page.iter().filter_map(|object| object["name"].as_str()).map(str::to_owned));
            if names.len() == before || (page.len() < PAGE && page.len() < 1000) {
                return Ok(names);
            }
        }
    }
}
