//! Archives in a vault of Glacier: against a server that answers by script, is disturbed now and then, and does damage.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_core::StoreErrorKind;
use backstay_stores::named::{NamedError, Patient, TreeHash, Vault, VaultPlace, Wanted, Watch};
use backstay_stores::testing::http::{Answer, HttpServer, Request};
use backstay_stores::{Secret, StoreOptions};

const MIB: usize = 1 << 20;

/// What the server holds, and what it was asked.
#[derive(Default)]
struct Held {
    description: String,
    archive: Vec<u8>,
    requests: Vec<String>,
    parts: Vec<Vec<u8>>,
    /// The next part is refused so often.
    disturbed: u32,
    /// The tree hash of the archive is said to be another.
    damaged: bool,
}

/// A vault of one archive; the jobs of it are done at once.
fn answer(held: &mut Held, request: &mut Request<'_>) -> Answer {
    let body = request.body().unwrap();
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let path = request.path.strip_prefix("/-/vaults/a%20vault").unwrap().to_owned();
    held.requests.push(format!("{} {path}", request.method));
    let signed = header("authorization");
    assert!(signed.contains("/eu-west-1/glacier/aws4_request, SignedHeaders=host;x-amz-"), "{signed}");
    let hash = header("x-amz-sha256-tree-hash");
    match (request.method.as_str(), path.as_str()) {
        ("PUT", "") => Answer::new(201, ""),
        ("POST", "/archives") => {
            assert_eq!(hash, TreeHash::of(&body));
            held.description = header("x-amz-archive-description");
            held.archive = body;
            Answer::new(201, "").with("x-amz-archive-id", "the id")
        }
        ("POST", "/multipart-uploads") => {
            assert_eq!(header("x-amz-part-size"), MIB.to_string());
            held.description = header("x-amz-archive-description");
            Answer::new(201, "").with("x-amz-multipart-upload-id", "up")
        }
        ("PUT", "/multipart-uploads/up") if held.disturbed > 0 => {
            held.disturbed -= 1;
            Answer::new(500, "{\"code\": \"ServiceUnavailableException\", \"message\": \"later\"}")
        }
        ("PUT", "/multipart-uploads/up") => {
            assert_eq!(hash, TreeHash::of(&body));
            let from = held.parts.iter().map(Vec::len).sum::<usize>();
            assert_eq!(header("content-range"), format!("bytes {from}-{}/*", from + body.len() - 1));
            held.parts.push(body);
            Answer::new(204, "")
        }
        ("POST", "/multipart-uploads/up") => {
            held.archive = held.parts.concat();
            assert_eq!(
                (header("x-amz-archive-size"), hash),
                (held.archive.len().to_string(), TreeHash::of(&held.archive))
            );
            Answer::new(201, "").with("x-amz-archive-id", "the id")
        }
        ("DELETE", "/multipart-uploads/up" | "/archives/the%20id") => Answer::new(204, ""),
        ("POST", "/jobs") => {
            let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
            Answer::new(202, "").with("x-amz-job-id", asked["Type"].as_str().unwrap())
        }
        ("GET", "/jobs/archive-retrieval") => {
            let hash = if held.damaged { TreeHash::of(b"other") } else { TreeHash::of(&held.archive) };
            let job = serde_json::json!({
                "JobId": "archive-retrieval", "Action": "ArchiveRetrieval", "StatusCode": "Succeeded", "Completed": true,
                "ArchiveSizeInBytes": held.archive.len(), "ArchiveSHA256TreeHash": hash,
            });
            Answer::new(200, job.to_string())
        }
        ("GET", "/jobs/archive-retrieval/output") => {
            let range = header("range");
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            Answer::new(206, &held.archive[first..=last])
        }
        ("GET", "/jobs/inventory-retrieval/output") => Answer::new(200, "{\"ArchiveList\": []}"),
        _ => Answer::new(404, "{\"code\": \"ResourceNotFoundException\", \"message\": \"there is none\"}"),
    }
}

fn vault() -> (HttpServer, Arc<Mutex<Held>>, Vault) {
    let held: Arc<Mutex<Held>> = Arc::default();
    let served = Arc::clone(&held);
    let server = HttpServer::start(move |request: &mut Request<'_>| answer(&mut served.lock().unwrap(), request));
    let place = VaultPlace {
        vault: "a vault".to_owned(),
        endpoint: Some(format!("http://{}/", server.address())),
        region: "eu-west-1".to_owned(),
        access_key: "key".to_owned(),
        secret_key: Secret::new("secret"),
    };
    let options = StoreOptions { retry_time: Duration::from_secs(20), ..StoreOptions::default() };
    let vault = Vault::new(&place, &options).unwrap();
    vault.ensure(&Patient).unwrap();
    (server, held, vault)
}

fn file(length: usize) -> tempfile::NamedTempFile {
    let bytes: Vec<u8> = (0..length).map(|at| (at ^ (at >> 9)) as u8).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn an_archive_goes_up_whole_or_in_parts_and_comes_back_by_ranges() {
    let (_server, held, vault) = vault();
    for length in [0, 1, MIB, 5 * MIB + 7] {
        held.lock().unwrap().disturbed = 1;
        let file = file(length);
        let id = vault.upload(file.path(), "two  blanks", MIB as u64, &Patient).unwrap();
        assert_eq!((id.as_str(), held.lock().unwrap().description.as_str()), ("the id", "two  blanks"));
        let id = vault.start_job(Wanted::Archive(&id), &Patient).unwrap();
        let job = vault.job(&id, &Patient).unwrap();
        assert_eq!((job.completed, job.archive_size), (true, Some(length as u64)));
        let mut back = Vec::new();
        vault.download(&job, &mut back, &Patient).unwrap();
        assert!(back == std::fs::read(file.path()).unwrap(), "{length}");
    }
    assert_eq!(held.lock().unwrap().parts.len(), 6);
    vault.delete("the id", &Patient).unwrap();
    let id = vault.start_job(Wanted::Inventory, &Patient).unwrap();
    assert_eq!(vault.output(&id, None, &Patient).unwrap(), b"{\"ArchiveList\": []}");
}

#[test]
fn what_comes_back_damaged_is_refused() {
    let (_server, held, vault) = vault();
    vault.upload(file(100).path(), "d", MIB as u64, &Patient).unwrap();
    held.lock().unwrap().damaged = true;
    let job = vault.job("archive-retrieval", &Patient).unwrap();
    let error = vault.download(&job, &mut Vec::new(), &Patient).unwrap_err().to_string();
    assert!(error.contains("is damaged: try again"), "{error}");
}

#[test]
fn a_job_that_the_service_has_forgotten_is_not_found() {
    let (_server, _, vault) = vault();
    match vault.job("gone", &Patient) {
        Err(NamedError::Store(error)) => {
            assert_eq!(error.kind, StoreErrorKind::NotFound);
            assert!(error.text.contains("ResourceNotFoundException: there is none"), "{}", error.text);
        }
        other => panic!("{other:?}"),
    }
}

/// Gives up after so many bytes.
struct Impatient(AtomicU64);

impl Watch for Impatient {
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 2 * MIB as u64
    }

    fn moved(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[test]
fn whoever_gives_up_takes_the_parts_back() {
    let (_server, held, vault) = vault();
    let watch = Impatient(AtomicU64::new(0));
    let given_up = vault.upload(file(5 * MIB).path(), "d", MIB as u64, &watch);
    assert!(matches!(given_up, Err(NamedError::Interrupted)), "{given_up:?}");
    assert_eq!(held.lock().unwrap().requests.last().unwrap(), "DELETE /multipart-uploads/up");
}

#[test]
fn descriptions_and_parts_that_glacier_cannot_take_are_refused_before_anything_is_sent() {
    let (_server, held, vault) = vault();
    for (description, part) in [("ä", MIB as u64), ("d", 3 * MIB as u64), ("d", 512)] {
        assert!(vault.upload(file(1).path(), description, part, &Patient).is_err(), "{description} {part}");
    }
    assert_eq!(held.lock().unwrap().requests, ["PUT "]);
}
