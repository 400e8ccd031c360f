//! Addresses of repositories: ours, and restic's spellings of the same places.
//!
//! An address is taken apart without looking anywhere. What it says about options (`?region=...`) is kept as settings for
//! the store to judge. A password in it is kept apart and never shown.

use std::path::PathBuf;

use crate::secret::Secret;

/// A place where a repository may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A folder of this computer.
    Local(PathBuf),
    /// A bucket of an S3 store.
    S3(Bucket),
    /// A bucket of Google Cloud Storage.
    Gcs(Bucket),
    /// A container of Azure Blob Storage.
    Azure(Bucket),
    /// A container of OpenStack Swift.
    Swift(Bucket),
    /// A folder that an SSH server shows by SFTP.
    Sftp(Sftp),
    /// A folder of a WebDAV server.
    WebDav(Web),
    /// A repository of restic's REST server: the whole address, which `rest.rs` takes apart. It can hold a password.
    Rest(Secret),
    /// Whatever a storage plugin of gpbackup stores to: the plugin's configuration file.
    Gpbackup(PathBuf),
}

/// A bucket or container and the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// The folder in it, without a slash at either end; may be empty.
    pub prefix: String,
    /// Scheme, host and port of the store, where the address names them.
    pub endpoint: Option<String>,
    /// What the address says about options.
    pub settings: Vec<(String, String)>,
}

/// A folder behind SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sftp {
    /// The user, if it is named.
    pub user: Option<String>,
    /// The host's name, address, or name in the SSH configuration.
    pub host: String,
    /// The port, if it is named.
    pub port: Option<u16>,
    /// The folder: absolute, or relative to where the server starts.
    pub path: String,
}

/// A folder behind HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// The address without user and password, ending in a slash.
    pub url: String,
    /// The user, if the address names one.
    pub user: Option<String>,
    /// The password, if the address holds one.
    pub password: Option<Secret>,
}

/// Why a text is not an address. The text is not repeated: it can hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(pub(crate) String);

/// Schemes that are known, with how their addresses look.
const SCHEMES: [(&str, &str); 10] = [
    ("local", "local:/srv/backup"),
    ("s3", "s3://bucket/prefix?endpoint=https://host"),
    ("gs", "gs:bucket:/prefix"),
    ("azure", "azure:container:/prefix"),
    ("swift", "swift:container:/prefix"),
    ("sftp", "sftp:user@host:/path"),
    ("webdav", "webdav://host/path"),
    ("webdavs", "webdavs://host/path"),
    ("rest", "rest:https://host/path"),
    ("gpbackup", "gpbackup:/etc/backup/plugin.yaml"),
];

impl Address {
    /// Takes an address apart. What begins with no scheme is a local path; so is `./s3:name`.
    ///
    /// # Errors
    /// [`AddressError`] with what is wrong and how it should look.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError("the repository's address is empty".to_owned()));
        }
        let Some((scheme, rest)) = scheme(text) else { return Ok(Self::Local(PathBuf::from(text))) };
        match scheme {
            "local" if rest.is_empty() => Err(wrong("local", "it names no folder")),
            "local" => Ok(Self::Local(PathBuf::from(rest))),
            "s3" => s3(rest).map(Self::S3),
            "gs" => bucket("gs", rest).map(Self::Gcs),
            "azure" => bucket("azure", rest).map(Self::Azure),
            "swift" => bucket("swift", rest).map(Self::Swift),
            "sftp" => sftp(rest).map(Self::Sftp),
            "webdav" => web("webdav", &format!("http:{rest}")).map(Self::WebDav),
            "webdavs" => web("webdavs", &format!("https:{rest}")).map(Self::WebDav),
            "rest" if rest.starts_with("http") && rest.contains(":/") => Ok(Self::Rest(Secret::new(text))),
            "rest" => Err(wrong("rest", "it is not an http:// or https:// address")),
            "gpbackup" if rest.is_empty() => Err(wrong("gpbackup", "it names no configuration file")),
            "gpbackup" => Ok(Self::Gpbackup(PathBuf::from(rest))),
            "rclone" => Err(AddressError(
                "rclone: is not supported: Backstay speaks to S3, Google Cloud Storage, Azure, Swift, SFTP, WebDAV and \
                 REST servers itself (\"rclone serve restic\" makes any remote of rclone's a rest: repository)"
                    .to_owned(),
            )),
            "b2" => Err(AddressError(
                "b2: is not supported: Backblaze speaks S3, write s3:s3.REGION.backblazeb2.com/BUCKET/PREFIX".to_owned(),
            )),
            "file" => {
                Err(AddressError("file: is not supported: write the folder's path, or local:/path".to_owned()))
            }
            other => Err(AddressError(match nearest(other) {
                Some((known, example)) => {
                    format!("\"{other}:\" is no kind of repository: did you mean \"{known}:\", as in {example}? (a folder of that name is ./{other}:...)")
                }
                None => format!(
                    "\"{other}:\" is no kind of repository: there are {} (a folder of that name is ./{other}:...)",
                    SCHEMES.map(|(name, _)| format!("{name}:")).join(", ")
                ),
            })),
        }
    }

    /// Where it is, for people. Without user names and passwords.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Local(path) => path.display().to_string(),
            Self::S3(bucket) => match &bucket.endpoint {
                Some(endpoint) => format!("s3:{endpoint}/{}", bucket.path()),
                None => format!("s3://{}", bucket.path()),
            },
            Self::Gcs(bucket) => format!("gs:{}:/{}", bucket.name, bucket.prefix),
            Self::Azure(bucket) => format!("azure:{}:/{}", bucket.name, bucket.prefix),
            Self::Swift(bucket) => format!("swift:{}:/{}", bucket.name, bucket.prefix),
            Self::Sftp(sftp) => match sftp.port {
                Some(port) => format!("sftp://{}:{port}/{}", sftp.host, sftp.path),
                None => format!("sftp:{}:{}", sftp.host, sftp.path),
            },
            Self::WebDav(web) => format!("webdav:{}", web.url),
            Self::Rest(text) => rest_shown(text.expose()),
            Self::Gpbackup(path) => format!("gpbackup:{}", path.display()),
        }
    }
}

/// A REST address without what stands before an `@`.
fn rest_shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return "rest:".to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

impl Bucket {
    fn path(&self) -> String {
        if self.prefix.is_empty() { self.name.clone() } else { format!("{}/{}", self.name, self.prefix) }
    }
}

/// The scheme and what follows, where the text has the look of an address: a known word before a colon, or `word://`.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let word = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let known = SCHEMES.iter().any(|(name, _)| *name == scheme) || ["rclone", "b2"].contains(&scheme);
    // A slip of the keyboard at a known scheme that has an address behind it: better asked than made a folder.
    let slip = scheme.len() >= 2 && nearest(scheme).is_some() && (rest.contains('/') || rest.contains('@'));
    (word && (known || rest.starts_with("//") || slip)).then_some((scheme, rest))
}

fn wrong(scheme: &str, what: &str) -> AddressError {
    let example = SCHEMES.iter().find(|(name, _)| *name == scheme).map_or("", |(_, example)| example);
    AddressError(format!("the {scheme}: address is not complete: {what} (it looks like {example})"))
}

/// The known scheme that one or two slips lead to.
fn nearest(word: &str) -> Option<(&'static str, &'static str)> {
    if ["http", "https"].contains(&word) {
        return Some(("rest", "rest:https://host/path"));
    }
    if ["dav", "davs"].contains(&word) {
        return Some(("webdavs", "webdavs://host/path"));
    }
    if ["ssh", "scp"].contains(&word) {
        return Some(("sftp", "sftp:user@host:/path"));
    }
    if ["gcs", "google"].contains(&word) {
        return Some(("gs", "gs:bucket:/prefix"));
    }
    if ["az", "azblob", "azurerm"].contains(&word) {
        return Some(("azure", "azure:container:/prefix"));
    }
    let lower = word.to_ascii_lowercase();
    SCHEMES
        .into_iter()
        .map(|known| (distance(&lower, known.0), known))
        .filter(|(slips, (name, _))| *slips <= if name.len() > 3 { 2 } else { 1 })
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}

/// How many letters to change, add or take away from one word to the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut line: Vec<usize> = (0..=other.len()).collect();
    for (row, a) in one.bytes().enumerate() {
        let mut diagonal = line[0];
        line[0] = row + 1;
        for (column, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = line[column + 1];
            line[column + 1] = changed.min(diagonal + 1).min(line[column] + 1);
        }
    }
    line[other.len()]
}

fn trimmed(prefix: &str) -> String {
    prefix.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// `s3://bucket/prefix?endpoint=...`, restic's `s3:https://host/bucket/prefix`, `s3:host/bucket/prefix` and
/// `s3://host:port/bucket/prefix`.
fn s3(rest: &str) -> Result<Bucket, AddressError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut settings: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes())
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .filter(|(key, _)| !key.is_empty())
        .collect();
    if settings.iter().any(|(key, _)| key.contains("secret") || key.contains("access") || key.contains("token")) {
        return Err(AddressError(
            "credentials do not belong in an address, where others can read them: set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials"
                .to_owned(),
        ));
    }
    let position = settings.iter().position(|(key, _)| key == "endpoint");
    let named = position.map(|position| settings.remove(position).1);
    let no_userinfo = |text: &str| {
        if text.contains('@') {
            return Err(AddressError(
                "credentials do not belong in an address, where others can read them: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY"
                    .to_owned(),
            ));
        }
        Ok(())
    };
    let host_first = |scheme: &str, text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        no_userinfo(host)?;
        let path = trimmed(path);
        let (name, prefix) = path.split_once('/').unwrap_or((&path, ""));
        if host.is_empty() {
            return Err(wrong("s3", "it names no host"));
        }
        if name.is_empty() {
            return Err(wrong("s3", "it names no bucket"));
        }
        Ok((name.to_owned(), prefix.to_owned(), format!("{scheme}://{host}")))
    };
    let ours = place.strip_prefix("//");
    let (name, prefix, endpoint) = if let Some(text) = place.strip_prefix("https://") {
        let (name, prefix, endpoint) = host_first("https", text)?;
        (name, prefix, Some(endpoint))
    } else if let Some(text) = place.strip_prefix("http://") {
        let (name, prefix, endpoint) = host_first("http", text)?;
        (name, prefix, Some(endpoint))
    } else if let Some(text) = ours {
        let first = text.split('/').next().unwrap_or_default();
        no_userinfo(first)?;
        // A bucket's name has no colon; a port does. The host of Amazon's is nobody's bucket.
        let host = first.contains(':') || first == "localhost" || first.ends_with("amazonaws.com");
        if host && named.is_none() {
            let (name, prefix, endpoint) = host_first("https", text)?;
            (name, prefix, Some(endpoint))
        } else {
            let path = trimmed(text);
            let (name, prefix) = path.split_once('/').unwrap_or((&path, ""));
            if name.is_empty() {
                return Err(wrong("s3", "it names no bucket"));
            }
            (name.to_owned(), prefix.to_owned(), None)
        }
    } else {
        let (name, prefix, endpoint) = host_first("https", place)?;
        (name, prefix, Some(endpoint))
    };
    let endpoint = match named {
        Some(named) => Some(endpoint_of(&named)?),
        None => endpoint,
    };
    Ok(Bucket { name, prefix, endpoint, settings })
}

/// Scheme, host and port of an endpoint as people write it.
pub(crate) fn endpoint_of(text: &str) -> Result<String, AddressError> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let error = || AddressError("the endpoint is not an address like https://host or http://host:port".to_owned());
    let url = url::Url::parse(&whole).map_err(|_| error())?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(error());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(AddressError("an endpoint holds neither user, password nor options".to_owned()));
    }
    Ok(whole.trim_end_matches('/').to_owned())
}

/// restic's `scheme:name:/prefix`, and `scheme://name/prefix`.
fn bucket(scheme: &str, rest: &str) -> Result<Bucket, AddressError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let settings = url::form_urlencoded::parse(query.as_bytes())
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .filter(|(key, _)| !key.is_empty())
        .collect();
    let (name, prefix) = match place.strip_prefix("//") {
        Some(text) => text.split_once('/').unwrap_or((text, "")),
        None => place.split_once(':').unwrap_or((place, "")),
    };
    if name.is_empty() {
        return Err(wrong(scheme, "it names no bucket or container"));
    }
    if name.contains('/') {
        return Err(wrong(scheme, "a colon stands between the name and the folder"));
    }
    Ok(Bucket { name: name.to_owned(), prefix: trimmed(prefix), endpoint: None, settings })
}

/// restic's `sftp:user@host:path` and `sftp://user@host:port/path` (there `//path` is absolute).
fn sftp(rest: &str) -> Result<Sftp, AddressError> {
    let (login, host, port, path) = if let Some(text) = rest.strip_prefix("//") {
        let (place, path) = text.split_once('/').ok_or_else(|| wrong("sftp", "it names no folder"))?;
        let (login, place) = place.rsplit_once('@').map_or((None, place), |(login, host)| (Some(login), host));
        let (host, port) = match place.rsplit_once(':') {
            // Not within the brackets of an IPv6 address.
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().map_err(|_| wrong("sftp", "its port is not a number"))?;
                (host, Some(port))
            }
            _ => (place, None),
        };
        (login, host.trim_start_matches('[').trim_end_matches(']'), port, path)
    } else {
        let (place, path) = rest.split_once(':').ok_or_else(|| wrong("sftp", "a colon stands before the folder"))?;
        let (login, host) = place.rsplit_once('@').map_or((None, place), |(login, host)| (Some(login), host));
        (login, host, None, path)
    };
    if host.is_empty() {
        return Err(wrong("sftp", "it names no host"));
    }
    if host.starts_with('-') || login.is_some_and(|login| login.starts_with('-')) {
        return Err(wrong("sftp", "a host or user does not begin with a dash"));
    }
    if path.is_empty() {
        return Err(wrong("sftp", "it names no folder"));
    }
    if login.is_some_and(|login| login.contains(':')) {
        return Err(AddressError(
            "an sftp: address holds no password: use a key (ssh-agent, ~/.ssh/config)".to_owned(),
        ));
    }
    Ok(Sftp { user: login.map(str::to_owned), host: host.to_owned(), port, path: path.to_owned() })
}

fn web(scheme: &str, text: &str) -> Result<Web, AddressError> {
    let mut url = url::Url::parse(text).map_err(|_| wrong(scheme, "it is not an http:// or https:// address"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(wrong(scheme, "it is not an http:// or https:// address"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong(scheme, "it names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(scheme, "it has no place for options (?) or fragments (#)"));
    }
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| AddressError("user and password in an address are UTF-8".to_owned()))
    };
    let user = (!url.username().is_empty()).then(|| decoded(url.username())).transpose()?;
    let password = url.password().map(decoded).transpose()?.map(Secret::new);
    // Neither can fail for an address with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(Web { url: url.to_string(), user, password })
}

#[cfg(test)]
mod tests;
