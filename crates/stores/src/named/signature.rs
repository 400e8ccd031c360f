//! Amazon's signatures, version 4: in headers, and in addresses that others may use for a while.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use backstay_core::Id;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::http::Ask;
use crate::secret::Secret;

/// What stays as it is in a path or a query.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const KEPT_IN_PATH: &AsciiSet = &KEPT.remove(b'/');

/// Signs for one account, in one region, for one service.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    /// The key's name.
    pub(super) access_key: String,
    /// The key.
    pub(super) secret_key: Secret,
    /// As in `us-east-1`.
    pub(super) region: String,
    /// As in `s3`.
    pub(super) service: String,
}

/// A text as a part of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

/// A text as a path: slashes stay.
pub(super) fn encoded_path(text: &str) -> String {
    utf8_percent_encode(text, KEPT_IN_PATH).to_string()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Id::of(bytes).to_hex()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// `YYYYMMDDTHHMMSSZ`; a clock that stands before 1970 or behind all calendars counts as 1970.
pub(super) fn stamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The host that a request names.
fn host(origin: &str) -> &str {
    origin.split_once("://").map_or(origin, |(_, host)| host)
}

/// A header's value as it is signed.
fn one_blank(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The query's parts in the order in which they are signed.
fn sorted(query: &str) -> String {
    let mut parts: Vec<String> = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| if part.contains('=') { part.to_owned() } else { format!("{part}=") })
        .collect();
    parts.sort_unstable();
    parts.join("&")
}

impl Signer {
    fn scope(&self, stamp: &str) -> String {
        format!("{}/{}/{}/aws4_request", &stamp[..8], self.region, self.service)
    }

    fn signature(&self, stamp: &str, request: &str) -> String {
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{}\n{}", self.scope(stamp), sha256(request.as_bytes()));
        let mut key = format!("AWS4{}", self.secret_key.expose()).into_bytes();
        for part in [&stamp[..8], &self.region, &self.service, "aws4_request"] {
            key = hmac(&key, part);
        }
        hex(&hmac(&key, &text))
    }

    /// The headers that sign a request, to be sent beside `headers`, of which those that begin with `x-amz-` are signed too.
    /// `url` is encoded as it will be sent, `sum` is the SHA-256 of the body in hexadecimal digits.
    fn headers(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        sum: &str,
        now: SystemTime,
    ) -> Vec<(String, String)> {
        let stamp = stamp(now);
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let after_scheme = address.find("://").map_or(0, |at| at + 3);
        let slash = address[after_scheme..].find('/').map_or(address.len(), |at| after_scheme + at);
        let (origin, path) = address.split_at(slash);
        let path = if path.is_empty() { "/" } else { path };
        let own = [("x-amz-date".to_owned(), stamp.clone()), ("x-amz-content-sha256".to_owned(), sum.to_owned())];
        let mut signed: Vec<(String, String)> = headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), one_blank(value)))
            .filter(|(name, _)| name.starts_with("x-amz-"))
            .chain(own.clone())
            .collect();
        signed.push(("host".to_owned(), host(origin).to_owned()));
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let request = format!("{method}\n{path}\n{}\n{lines}\n{names}\n{sum}", sorted(query));
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={}",
            self.access_key,
            self.scope(&stamp),
            self.signature(&stamp, &request)
        );
        own.into_iter().chain([("authorization".to_owned(), value)]).collect()
    }

    /// Signs a request in its headers, its body included.
    pub(super) fn sign(&self, mut ask: Ask, now: SystemTime) -> Ask {
        let own = self.headers(ask.method, &ask.address(), &ask.headers, &sha256(&ask.body), now);
        ask.headers.extend(own);
        ask
    }

    /// The address of a request, signed for so many seconds.
    pub(super) fn presign(&self, ask: &Ask, seconds: u64, now: SystemTime) -> String {
        let stamp = stamp(now);
        let query = sorted(&format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={stamp}&X-Amz-Expires={seconds}\
             &X-Amz-SignedHeaders=host",
            encoded(&format!("{}/{}", self.access_key, self.scope(&stamp))),
        ));
        let request =
            format!("{}\n{}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD", ask.method, ask.path, host(&ask.origin));
        let signature = self.signature(&stamp, &request);
        format!("{}{}?{query}&X-Amz-Signature={signature}", ask.origin, ask.path)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_reads_as_a_date() {
        let at = |seconds| stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_399), "20000228T235959Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_369_353_600), "20130524T000000Z");
    }

    /// The worked examples of Amazon's documentation of the signature.
    #[test]
    fn the_published_examples_come_out() {
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            region: "us-east-1".to_owned(),
            service: "s3".to_owned(),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let origin = "https://examplebucket.s3.amazonaws.com";
        let headers = signer.headers("GET", &format!("{origin}/?lifecycle"), &[], &sha256(b""), now);
        assert!(
            headers[2].1.ends_with("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            "{}",
            headers[2].1
        );
        let address = signer.presign(&Ask::new("GET", origin, "/test.txt".to_owned(), ""), 86400, now);
        assert!(address.ends_with("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"), "{address}");
    }
}
