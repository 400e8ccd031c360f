//! S3 by names: the bucket, its objects, uploads in parts, signed addresses, the archive classes.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use backstay_core::StoreErrorKind;
use bytes::Bytes;

use super::http::{Ask, Http};
use super::signature::{Signer, encoded, encoded_path};
use super::{NamedError, Result, Returning, Watch, piece};
use crate::open::OpenError;
use crate::secret::Secret;

/// A file of up to this many bytes goes up in one request.
const SINGLE: u64 = 16 << 20;
/// Parts have at least this many bytes,
const PART: u64 = 8 << 20;
/// and there are not more of them.
const MOST_PARTS: u64 = 10_000;
/// How many parts are on their way at once.
const AT_ONCE: usize = 3;
/// Bodies of uploads are of this kind.
const CONTENT_TYPE: &str = "application/octet-stream";
/// The region that needs no name when a bucket is made.
const FIRST_REGION: &str = "us-east-1";
/// The longest time that an address can be signed for: seven days.
const LONGEST_SIGNED: u64 = 7 * 86_400;
/// Classes whose objects must be asked back before they are read.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// A bucket and the way to it.
#[derive(Clone, Debug)]
pub struct S3Place {
    /// The bucket's name.
    pub bucket: String,
    /// Scheme, host and port; none for Amazon.
    pub endpoint: Option<String>,
    /// Where the bucket is made when it is missing.
    pub region: String,
    /// The key's name.
    pub access_key: String,
    /// The key.
    pub secret_key: Secret,
}

/// A bucket.
#[derive(Debug)]
pub(super) struct S3 {
    place: S3Place,
    /// Where the bucket really is.
    region: Mutex<String>,
}

/// Where Amazon's stores of a region are.
fn domain(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("{region}.amazonaws.com{china}")
}

/// What stands between two tags, the first time.
fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let from = text.find(&format!("<{name}>"))? + name.len() + 2;
    let to = from + text[from..].find(&format!("</{name}>"))?;
    Some(&text[from..to])
}

/// XML's way of writing letters, undone.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(end) = rest.find(';') else { break };
        let letter = match &rest[1..end] {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            number => number
                .strip_prefix("#x")
                .map(|digits| u32::from_str_radix(digits, 16).ok())
                .or_else(|| number.strip_prefix('#').map(|digits| digits.parse().ok()))
                .flatten()
                .and_then(char::from_u32),
        };
        match letter {
            Some(letter) => plain.push(letter),
            None => plain.push_str(&rest[..=end]),
        }
        rest = &rest[end + 1..];
    }
    plain.push_str(rest);
    plain
}

impl S3 {
    /// The bucket, where it is for people, and what nobody may see.
    pub(super) fn new(place: &S3Place) -> std::result::Result<(Self, String, Vec<Secret>), OpenError> {
        let mut place = place.clone();
        if place.bucket.is_empty() || place.bucket.contains('/') {
            return Err(OpenError::Option(format!("{:?} is no bucket's name", place.bucket)));
        }
        if let Some(endpoint) = &place.endpoint {
            let whole = if endpoint.contains("://") { endpoint.clone() } else { format!("https://{endpoint}") };
            let url = url::Url::parse(&whole).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let url = url.filter(|url| url.path() == "/" && url.query().is_none() && url.host().is_some());
            let url = url.ok_or_else(|| {
                OpenError::Option(format!("{endpoint:?} is no address of an S3 store: it is http(s)://HOST[:PORT]"))
            })?;
            place.endpoint = Some(url.as_str().trim_end_matches('/').to_owned());
        }
        let location = match &place.endpoint {
            Some(endpoint) => format!("{endpoint}/{}", place.bucket),
            None => format!("s3://{}", place.bucket),
        };
        let secrets = vec![place.secret_key.clone()];
        let region = Mutex::new(place.region.clone());
        Ok((Self { place, region }, location, secrets))
    }

    fn region(&self) -> String {
        self.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A request about the bucket, or about an object in it; not signed yet.
    pub(super) fn ask(&self, method: &'static str, name: Option<&str>, query: &str) -> Ask {
        let (region, bucket) = (self.region(), &self.place.bucket);
        let key = name.map(encoded_path).unwrap_or_default();
        match &self.place.endpoint {
            Some(endpoint) => {
                let slash = if name.is_some() { "/" } else { "" };
                Ask::new(method, endpoint, format!("/{bucket}{slash}{key}"), query)
            }
            // A dot in the name does not fit the certificate.
            None if bucket.contains('.') => {
                let slash = if name.is_some() { "/" } else { "" };
                let origin = format!("https://s3.{}", domain(&region));
                Ask::new(method, &origin, format!("/{bucket}{slash}{key}"), query)
            }
            None => {
                let origin = format!("https://{bucket}.s3.{}", domain(&region));
                Ask::new(method, &origin, format!("/{key}"), query)
            }
        }
    }

    fn signer(&self) -> Signer {
        Signer {
            access_key: self.place.access_key.clone(),
            secret_key: self.place.secret_key.clone(),
            region: self.region(),
            service: "s3".to_owned(),
        }
    }

    pub(super) fn sign(&self, ask: Ask) -> Ask {
        self.signer().sign(ask, SystemTime::now())
    }

    pub(super) fn ensure(&self, http: &Http, watch: &dyn Watch) -> Result<()> {
        let look = || self.sign(self.ask("HEAD", None, ""));
        let answer = http.call("look at", "", &look, &[301, 307, 400, 403, 404], watch)?;
        let mut there = answer.header("x-amz-bucket-region").map(str::to_owned);
        if answer.status == 400 && there.is_none() {
            there = self.told_region(http, watch)?;
        }
        if let Some(region) = there.filter(|region| *region != self.region() && answer.status != 404) {
            *self.region.lock().unwrap_or_else(PoisonError::into_inner) = region;
            let answer = http.call("look at", "", &look, &[403, 404], watch)?;
            return if answer.status == 404 { self.create(http, watch) } else { Ok(()) };
        }
        match answer.status {
            404 => self.create(http, watch),
            // It is there, although this key may not look at it as a whole; or the key is wrong, which a request with an
            // answer tells.
            300..=499 => {
                let list = || self.sign(self.ask("GET", None, "list-type=2&max-keys=1"));
                match http.call("look at", "", &list, &[], watch) {
                    Err(NamedError::Store(error))
                        if error.kind == StoreErrorKind::Denied && error.text.contains("AccessDenied") =>
                    {
                        Ok(())
                    }
                    other => other.map(drop),
                }
            }
            _ => Ok(()),
        }
    }

    /// The region that a store wants in signatures, which it says in the body of its refusal only; so Garage does.
    fn told_region(&self, http: &Http, watch: &dyn Watch) -> Result<Option<String>> {
        let list = || self.sign(self.ask("GET", None, "list-type=2&max-keys=1"));
        let answer = http.call("look at", "", &list, &[301, 307, 400, 403, 404], watch)?;
        let text = String::from_utf8_lossy(&answer.body);
        let told = tag(&text, "Region").filter(|_| tag(&text, "Code") == Some("AuthorizationHeaderMalformed"));
        Ok(told.map(plain))
    }

    fn create(&self, http: &Http, watch: &dyn Watch) -> Result<()> {
        let region = self.region();
        let body = if region == FIRST_REGION || (self.place.endpoint.is_some() && region.is_empty()) {
            Bytes::new()
        } else {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>\
                 {region}</LocationConstraint></CreateBucketConfiguration>"
            )
            .into()
        };
        let make = || self.sign(self.ask("PUT", None, "").body(body.clone()));
        match http.call("create", "", &make, &[], watch) {
            Err(NamedError::Store(error)) if error.text.contains("BucketAlready") => {
                // Another process of ours was faster; or somebody else has a bucket of this name, which we may not look at.
                let look = || self.sign(self.ask("HEAD", None, ""));
                match http.call("look at", "", &look, &[403], watch)?.status {
                    403 => Err(error.into()),
                    _ => Ok(()),
                }
            }
            other => other.map(drop),
        }
    }

    fn headers(class: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", CONTENT_TYPE.to_owned())];
        headers.extend(class.map(|class| ("x-amz-storage-class", class.to_owned())));
        headers
    }

    pub(super) fn put(
        &self,
        http: &Http,
        name: &str,
        body: &Bytes,
        class: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<()> {
        let length = body.len() as u64;
        let make = || self.sign(self.ask("PUT", Some(name), "").with(Self::headers(class)).body(body.clone()));
        http.call("write", name, &make, &[], watch)?;
        watch.moved(length);
        Ok(())
    }

    pub(super) fn upload(
        &self,
        http: &Http,
        name: &str,
        file: &File,
        class: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<()> {
        let length = file.metadata().map_err(NamedError::File)?.len();
        if length <= SINGLE {
            return self.put(http, name, &piece(file, 0, length)?, class, watch);
        }
        let begin = || self.sign(self.ask("POST", Some(name), "uploads").with(Self::headers(class)));
        let answer = http.call("write", name, &begin, &[], watch)?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let upload = tag(&text, "UploadId")
            .map(plain)
            .ok_or_else(|| http.refusal("write", name, "the answer to the beginning of an upload names none"))?;
        let done = self.parts(http, name, file, length, &upload, watch).and_then(|tags| {
            let list: String = tags
                .iter()
                .zip(1..)
                .map(|(tag, number)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"))
                .collect();
            let body = Bytes::from(format!(
                "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{list}\
                 </CompleteMultipartUpload>"
            ));
            let query = format!("uploadId={}", encoded(&upload));
            let make = || self.sign(self.ask("POST", Some(name), &query).body(body.clone()));
            let answer = http.call("write", name, &make, &[], watch)?;
            // It can fail after it has answered that all is well.
            let text = String::from_utf8_lossy(&answer.body);
            match tag(&text, "Code").filter(|_| text.contains("<Error>")) {
                Some(code) => {
                    Err(http.refusal("write", name, &format!("the store could not put it together: {code}")).into())
                }
                None => Ok(()),
            }
        });
        if done.is_err() {
            let query = format!("uploadId={}", encoded(&upload));
            let make = || self.sign(self.ask("DELETE", Some(name), &query));
            // What the parts cost is the store's to show; the error that counts is the first one.
            let _ = http.call("write", name, &make, &[404], &super::Patient);
        }
        done
    }

    /// Sends a file's parts, several at once, and gives their tags in order.
    fn parts(
        &self,
        http: &Http,
        name: &str,
        file: &File,
        length: u64,
        upload: &str,
        watch: &dyn Watch,
    ) -> Result<Vec<String>> {
        let size = PART.max(length.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let count = usize::try_from(length.div_ceil(size)).unwrap_or(usize::MAX);
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let tags: Mutex<Vec<Option<String>>> = Mutex::new(vec![None; count]);
        let first: Mutex<Option<NamedError>> = Mutex::new(None);
        let one = |number: usize| -> Result<()> {
            let from = number as u64 * size;
            let body = piece(file, from, size.min(length - from))?;
            let query = format!("partNumber={}&uploadId={}", number + 1, encoded(upload));
            let make = || self.sign(self.ask("PUT", Some(name), &query).body(body.clone()));
            let answer = http.call("write", name, &make, &[], watch)?;
            let tag = answer.header("etag").ok_or_else(|| http.refusal("write", name, "a part got no tag"))?;
            let tag = tag.replace('&', "&amp;").replace('<', "&lt;");
            tags.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(tag);
            watch.moved(body.len() as u64);
            Ok(())
        };
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                if let Err(error) = one(number) {
                    failed.store(true, Ordering::Relaxed);
                    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..AT_ONCE.min(count) {
                // A thread that cannot be had is one that we do without.
                let _ = std::thread::Builder::new().name("upload".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        if let Some(error) = first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let tags = tags.into_inner().unwrap_or_else(PoisonError::into_inner);
        let tags: Option<Vec<String>> = tags.into_iter().collect();
        tags.ok_or_else(|| http.refusal("write", name, "a part is missing").into())
    }

    pub(super) fn list(&self, http: &Http, watch: &dyn Watch) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let mut query = "list-type=2".to_owned();
            if let Some(token) = &from {
                query.push_str(&format!("&continuation-token={}", encoded(token)));
            }
            let make = || self.sign(self.ask("GET", None, &query));
            let answer = http.call("list", "", &make, &[], watch)?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if !text.contains("<ListBucketResult") {
                return Err(http.refusal("list", "", "the answer is no list of objects").into());
            }
            for part in text.split("<Contents>").skip(1) {
                names.extend(tag(part, "Key").map(plain));
            }
            let next = tag(&text, "NextContinuationToken").map(plain);
            if tag(&text, "IsTruncated") != Some("true") {
                return Ok(names);
            }
            if next.is_none() || next == from {
                return Err(http.refusal("list", "", "the list does not go on where it says so").into());
            }
            from = next;
        }
    }

    pub(super) fn presign(&self, http: &Http, name: &str, seconds: u64, method: &str) -> Result<String> {
        let method = match method.to_ascii_uppercase().as_str() {
            "GET" => "GET",
            "PUT" => "PUT",
            "HEAD" => "HEAD",
            "DELETE" => "DELETE",
            other => {
                let text = format!("{other:?} cannot be signed: there are GET, HEAD, PUT and DELETE");
                return Err(http.refusal("sign", name, &text).into());
            }
        };
        if !(1..=LONGEST_SIGNED).contains(&seconds) {
            let text =
                format!("an address is signed for 1 to {LONGEST_SIGNED} seconds (seven days), not for {seconds}");
            return Err(http.refusal("sign", name, &text).into());
        }
        Ok(self.signer().presign(&self.ask(method, Some(name), ""), seconds, SystemTime::now()))
    }

    pub(super) fn restore_request(&self, http: &Http, name: &str, days: u32, watch: &dyn Watch) -> Result<Returning> {
        let look = || self.sign(self.ask("HEAD", Some(name), ""));
        let there = http.call("look at", name, &look, &[], watch)?;
        match there.header("x-amz-restore") {
            Some(state) if state.contains("ongoing-request=\"true\"") => return Ok(Returning::Ongoing),
            Some(_) => return Ok(Returning::Ready),
            None => {}
        }
        if !there.header("x-amz-storage-class").is_some_and(|class| ARCHIVES.contains(&class)) {
            return Ok(Returning::Ready);
        }
        let body = Bytes::from(format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{days}</Days></RestoreRequest>"
        ));
        let ask = || self.sign(self.ask("POST", Some(name), "restore").body(body.clone()));
        let answer = http.call("ask back", name, &ask, &[409], watch)?;
        match answer.status {
            // It came back meanwhile, for longer now.
            200 => Ok(Returning::Ready),
            409 => Ok(Returning::Ongoing),
            _ => Ok(Returning::Requested),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(endpoint: Option<&str>, bucket: &str) -> std::result::Result<S3, OpenError> {
        let place = S3Place {
            bucket: bucket.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            region: "eu-west-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: Secret::new("secret"),
        };
        S3::new(&place).map(|(s3, _, _)| s3)
    }

    #[test]
    fn names_go_into_addresses_byte_for_byte() {
        for (endpoint, name, key, address) in [
            (None, "bucket", "a b/c+d", "https://bucket.s3.eu-west-1.amazonaws.com/a%20b/c%2Bd"),
            (None, "buck.et", "ä", "https://s3.eu-west-1.amazonaws.com/buck.et/%C3%A4"),
            (Some("http://127.0.0.1:9000/"), "bucket", "/x//y", "http://127.0.0.1:9000/bucket//x//y"),
            (Some("minio.example"), "bucket", "k", "https://minio.example/bucket/k"),
        ] {
            assert_eq!(bucket(endpoint, name).unwrap().ask("GET", Some(key), "").address(), address);
        }
        assert_eq!(bucket(Some("http://h:1"), "bucket").unwrap().ask("HEAD", None, "").address(), "http://h:1/bucket");
        for endpoint in ["ftp://x", "http://host/path", "http://"] {
            assert!(bucket(Some(endpoint), "bucket").is_err(), "{endpoint}");
        }
        assert!(bucket(None, "").is_err());
    }

    #[test]
    fn letters_of_xml_are_read() {
        assert_eq!(plain("a&amp;b&lt;&#x41;&#66;&quot;&nbsp;&"), "a&b<AB\"&nbsp;&");
        assert_eq!(tag("<Key>x</Key><Key>y</Key>", "Key"), Some("x"));
    }
}
