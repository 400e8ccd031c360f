//! Whole files as objects under names of their own, in a bucket of an S3 store or a container of Swift, and as archives in a
//! vault of Glacier: for programs that keep archives there, not repositories. Names are taken as they are, byte for byte.
//!
//! * Whole or not at all: an object is seen when its upload is complete, and a large one's pieces are taken back when it is
//!   not.
//! * Calls and pieces that a disturbed store fails are tried again, a download from where it was cut off.
//! * Whoever waits can give up at any time ([`Watch`]).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use backstay_core::StoreError;
use bytes::Bytes;

use crate::open::OpenError;
use crate::options::StoreOptions;
use http::{Ask, Http};

mod glacier;
mod http;
mod s3;
mod signature;
mod swift;

pub use glacier::{Job, TreeHash, Vault, VaultPlace, Wanted};
pub use s3::S3Place;
pub use swift::SwiftPlace;

/// Who waits for a call.
pub trait Watch: Send + Sync {
    /// Whether nobody waits any longer.
    fn cancelled(&self) -> bool {
        false
    }

    /// So many more bytes went up or came down.
    fn moved(&self, _bytes: u64) {}
}

/// Somebody who waits to the end and wants to know nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patient;

impl Watch for Patient {}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    /// The store said so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file on this side: it could not be read or written.
    #[error(transparent)]
    File(io::Error),
    /// Nobody waits any longer.
    #[error("interrupted")]
    Interrupted,
}

/// What a call gives.
pub type Result<T> = std::result::Result<T, NamedError>;

/// How an archived object's way back is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returning {
    /// It was asked for just now.
    Requested,
    /// It was asked for before, and is on its way.
    Ongoing,
    /// It can be read.
    Ready,
}

/// A bucket or a container and the way to it.
#[derive(Debug)]
pub struct NamedObjects {
    http: Http,
    service: Service,
}

#[derive(Debug)]
enum Service {
    S3(s3::S3),
    Swift(swift::Swift),
}

impl NamedObjects {
    /// A bucket of an S3 store. Nothing is asked yet.
    ///
    /// # Errors
    /// An address or an option that cannot be.
    pub fn s3(place: &S3Place, options: &StoreOptions) -> std::result::Result<Self, OpenError> {
        let (service, location, secrets) = s3::S3::new(place)?;
        Ok(Self { http: Http::new(location, secrets, options)?, service: Service::S3(service) })
    }

    /// A container of Swift. The login is asked for a token.
    ///
    /// # Errors
    /// An address or an option that cannot be; a login that fails.
    pub fn swift(place: &SwiftPlace, options: &StoreOptions) -> std::result::Result<Self, OpenError> {
        let (location, secrets) = swift::described(place);
        let http = Http::new(location, secrets, options)?;
        let service = swift::Swift::new(place, &http)?;
        Ok(Self { http, service: Service::Swift(service) })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.http.location
    }

    /// Makes the bucket or the container where it is missing.
    ///
    /// # Errors
    /// The store's.
    pub fn ensure(&self, watch: &dyn Watch) -> Result<()> {
        match &self.service {
            Service::S3(s3) => s3.ensure(&self.http, watch),
            Service::Swift(swift) => swift.ensure(&self.http, watch),
        }
    }

    /// Stores a file under a name, in the place of what is there; `class` is a storage class where the store knows any.
    ///
    /// # Errors
    /// The store's, the file's; nobody waits any longer. What was there before is there still.
    pub fn upload(&self, name: &str, path: &Path, class: Option<&str>, watch: &dyn Watch) -> Result<()> {
        checked(&self.http, name)?;
        let file = File::open(path).map_err(NamedError::File)?;
        match &self.service {
            Service::S3(s3) => s3.upload(&self.http, name, &file, class, watch),
            Service::Swift(swift) => swift.upload(&self.http, name, &file, watch),
        }
    }

    /// Stores bytes under a name, in the place of what is there.
    ///
    /// # Errors
    /// As [`NamedObjects::upload`].
    pub fn put(&self, name: &str, bytes: Vec<u8>, class: Option<&str>, watch: &dyn Watch) -> Result<()> {
        checked(&self.http, name)?;
        match &self.service {
            Service::S3(s3) => s3.put(&self.http, name, &bytes.into(), class, watch),
            Service::Swift(swift) => swift.put(&self.http, name, &bytes.into(), watch),
        }
    }

    /// Writes an object to `out`; false where there is none. `length` is told how long it is before its first byte.
    ///
    /// # Errors
    /// The store's; the output's; nobody waits any longer.
    pub fn download(
        &self,
        name: &str,
        out: &mut (dyn Write + Send),
        length: &mut (dyn FnMut(u64) + Send),
        watch: &dyn Watch,
    ) -> Result<bool> {
        checked(&self.http, name)?;
        let ask = |headers: Vec<(&'static str, String)>| match &self.service {
            Service::S3(s3) => s3.ask("GET", Some(name), "").with(headers),
            Service::Swift(swift) => swift.ask("GET", Some(name), "").with(headers),
        };
        self.http.download(name, &ask, &|ask| self.prepared(ask), out, length, watch)
    }

    /// An object's length in bytes, if there is one.
    ///
    /// # Errors
    /// The store's.
    pub fn size(&self, name: &str, watch: &dyn Watch) -> Result<Option<u64>> {
        checked(&self.http, name)?;
        let answer = self.call("look at", name, "HEAD", Some(name), "", watch)?;
        let length = |answer: http::Answer| {
            answer.header("content-length").and_then(|length| length.parse().ok()).ok_or_else(|| {
                self.http.error("look at", name, crate::trouble::Trouble::Other, "the answer says no length", None)
            })
        };
        Ok(answer.map(length).transpose()?)
    }

    /// When an object was stored, as the store's header says it, if there is one.
    ///
    /// # Errors
    /// The store's.
    pub fn last_modified(&self, name: &str, watch: &dyn Watch) -> Result<Option<String>> {
        checked(&self.http, name)?;
        let answer = self.call("look at", name, "HEAD", Some(name), "", watch)?;
        Ok(answer.and_then(|answer| answer.header("last-modified").map(str::to_owned)))
    }

    /// Lets others read an object or not, by one of S3's own lists of rights (`private`, `public-read`).
    ///
    /// # Errors
    /// The store's; the store has no such lists.
    pub fn set_acl(&self, name: &str, acl: &str, watch: &dyn Watch) -> Result<()> {
        checked(&self.http, name)?;
        let Service::S3(s3) = &self.service else {
            return Err(self.http.refusal("share", name, "rights of an object are there for S3 only").into());
        };
        let make = || s3.sign(s3.ask("PUT", Some(name), "acl").with(vec![("x-amz-acl", acl.to_owned())]));
        self.http.call("share", name, &make, &[], watch).map(drop)
    }

    /// Removes an object; that there is none is fine.
    ///
    /// # Errors
    /// The store's.
    pub fn delete(&self, name: &str, watch: &dyn Watch) -> Result<()> {
        checked(&self.http, name)?;
        match &self.service {
            Service::S3(_) => self.call("delete", name, "DELETE", Some(name), "", watch).map(drop),
            Service::Swift(swift) => swift.delete(&self.http, name, watch),
        }
    }

    /// The names of all objects.
    ///
    /// # Errors
    /// The store's.
    pub fn list(&self, watch: &dyn Watch) -> Result<Vec<String>> {
        match &self.service {
            Service::S3(s3) => s3.list(&self.http, watch),
            Service::Swift(swift) => swift.list(&self.http, watch),
        }
    }

    /// An address by which anybody may do one thing with an object, for so many seconds.
    ///
    /// # Errors
    /// The store has no such addresses, or not for so long.
    pub fn presign(&self, name: &str, seconds: u64, method: &str) -> Result<String> {
        checked(&self.http, name)?;
        match &self.service {
            Service::S3(s3) => s3.presign(&self.http, name, seconds, method),
            Service::Swift(_) => {
                Err(self.http.refusal("sign", name, "addresses that are signed are there for S3 only").into())
            }
        }
    }

    /// Asks for an object to come back from S3's archive classes for so many days, and says how that is going.
    ///
    /// # Errors
    /// The store's; the store has no archive.
    pub fn restore_request(&self, name: &str, days: u32, watch: &dyn Watch) -> Result<Returning> {
        checked(&self.http, name)?;
        match &self.service {
            Service::S3(s3) => s3.restore_request(&self.http, name, days, watch),
            Service::Swift(_) => Err(self.http.refusal("ask back", name, "only S3 has an archive").into()),
        }
    }

    fn prepared(&self, ask: Ask) -> Ask {
        match &self.service {
            Service::S3(s3) => s3.sign(ask),
            Service::Swift(swift) => ask.login(&swift.login),
        }
    }

    /// One call without a body; none where the object is missing.
    fn call(
        &self,
        operation: &'static str,
        object: &str,
        method: &'static str,
        name: Option<&str>,
        query: &str,
        watch: &dyn Watch,
    ) -> Result<Option<http::Answer>> {
        match &self.service {
            Service::S3(s3) => {
                self.http.call(operation, object, &|| s3.sign(s3.ask(method, name, query)), &[404], watch)
            }
            Service::Swift(swift) => {
                let make = || swift.ask(method, name, query).login(&swift.login);
                self.http.call(operation, object, &make, &[404], watch)
            }
        }
        .map(|answer| (answer.status != 404).then_some(answer))
    }
}

/// Refuses names that HTTP cannot say: they would become other ones on the way.
fn checked(http: &Http, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(http.refusal("name", name, "an object needs a name").into());
    }
    if name.split('/').any(|part| part == "." || part == "..") {
        return Err(http.refusal("name", name, "\".\" and \"..\" cannot be parts of an object's name").into());
    }
    Ok(())
}

/// Bytes of a file.
fn piece(file: &File, from: u64, length: u64) -> Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, from).map_err(|error| {
        let short = error.kind() == io::ErrorKind::UnexpectedEof;
        NamedError::File(if short { io::Error::other("it became shorter while it was read") } else { error })
    })?;
    Ok(bytes.into())
}
