//! Objects under names of their own: against an S3 server in this process, and servers that answer by script: Swift, archives,
//! disturbances.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_stores::named::{NamedError, NamedObjects, Patient, Returning, S3Place, SwiftPlace, Watch};
use backstay_stores::testing::http::{Answer, HttpServer, Manner, Request};
use backstay_stores::testing::s3::{ACCESS_KEY, S3Server, SECRET_KEY};
use backstay_stores::{Secret, StoreOptions};

fn options() -> StoreOptions {
    StoreOptions { retry_time: Duration::from_secs(20), ..StoreOptions::default() }
}

fn bucket(endpoint: &str) -> NamedObjects {
    let place = S3Place {
        bucket: "backup".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: Secret::new(SECRET_KEY),
    };
    NamedObjects::s3(&place, &options()).unwrap()
}

fn file(length: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
    let bytes: Vec<u8> = (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    (file, bytes)
}

fn read(objects: &NamedObjects, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    objects.download(name, &mut bytes, &mut |_| {}, &Patient).unwrap().then_some(bytes)
}

/// Counts bytes, and gives up when so many have moved.
#[derive(Default)]
struct Impatient {
    moved: AtomicU64,
    limit: Option<u64>,
}

impl Watch for Impatient {
    fn cancelled(&self) -> bool {
        self.limit.is_some_and(|limit| self.moved.load(Ordering::Relaxed) >= limit)
    }

    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[test]
fn what_was_stored_in_a_bucket_comes_back_in_one_piece_and_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path());
    let objects = bucket(&server.endpoint());
    objects.ensure(&Patient).unwrap();
    objects.ensure(&Patient).unwrap();
    for length in [0, 1, 16 << 20, (16 << 20) + 1, 35_000_000] {
        let (file, bytes) = file(length);
        let watch = Impatient::default();
        objects.upload("name", file.path(), None, &watch).unwrap();
        assert_eq!(watch.moved.load(Ordering::Relaxed), length as u64);
        assert_eq!(objects.size("name", &Patient).unwrap(), Some(length as u64));
        assert!(read(&objects, "name").unwrap() == bytes, "{length}");
    }
    assert!(server.requests().iter().any(|request| request.contains("partNumber=5")));
    objects.delete("name", &Patient).unwrap();
    objects.delete("name", &Patient).unwrap();
    assert_eq!(objects.size("name", &Patient).unwrap(), None);
    assert_eq!(read(&objects, "name"), None);
}

#[test]
fn names_with_signs_in_them_are_names() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path());
    let objects = bucket(&server.endpoint());
    objects.ensure(&Patient).unwrap();
    let mut names = ["a b+c", "ä/ö", "x&y<z>", "per%20cent", "[*?]", "q'\"", "k.20200101000000.tgz.enc"];
    for name in names {
        objects.put(name, name.into(), None, &Patient).unwrap();
        assert_eq!(read(&objects, name).unwrap(), name.as_bytes());
    }
    names.sort_unstable();
    let mut listed = objects.list(&Patient).unwrap();
    listed.sort_unstable();
    assert_eq!(listed, names);
    for name in ["", "..", "a/../b", "./a"] {
        assert!(objects.put(name, Vec::new(), None, &Patient).is_err(), "{name:?}");
    }
}

#[test]
fn a_list_of_more_than_a_page_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path());
    let objects = bucket(&server.endpoint());
    objects.ensure(&Patient).unwrap();
    for number in 0..1005 {
        std::fs::write(folder.path().join(format!("backup/{number:04}")), "").unwrap();
    }
    assert_eq!(objects.list(&Patient).unwrap().len(), 1005);
}

#[test]
fn whoever_gives_up_leaves_nothing_in_the_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path());
    let objects = bucket(&server.endpoint());
    objects.ensure(&Patient).unwrap();
    let (file, _) = file(60 << 20);
    let watch = Impatient { limit: Some(8 << 20), ..Impatient::default() };
    let done = objects.upload("name", file.path(), None, &watch);
    assert!(matches!(done, Err(NamedError::Interrupted)), "{done:?}");
    assert!(objects.list(&Patient).unwrap().is_empty());
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.starts_with("DELETE") && request.contains("uploadId=")));
}

#[test]
fn a_wrong_key_is_told_and_a_signed_address_opens_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path());
    let objects = bucket(&server.endpoint());
    objects.ensure(&Patient).unwrap();
    objects.put("a b", b"hello".to_vec(), None, &Patient).unwrap();
    let address = objects.presign("a b", 60, "get").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let body = runtime.block_on(async { reqwest::get(&address).await.unwrap().bytes().await.unwrap() });
    assert_eq!(&body[..], b"hello");
    assert!(objects.presign("a b", 8 * 86_400, "GET").is_err());
    assert!(objects.presign("a b", 60, "PATCH").is_err());
    let place = S3Place {
        bucket: "backup".to_owned(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: Secret::new("not the secret"),
    };
    let error = NamedObjects::s3(&place, &options()).unwrap().ensure(&Patient).unwrap_err().to_string();
    assert!(error.contains("does not accept the credentials"), "{error}");
    assert!(!error.contains("not the secret"), "{error}");
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_was() {
    let body: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
    let whole = body.clone();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let server = HttpServer::start(move |request: &mut Request<'_>| {
        let range = request.header("range").map(str::to_owned);
        let first = log.lock().unwrap().is_empty();
        log.lock().unwrap().push((range.clone(), request.header("if-match").map(str::to_owned)));
        let from: usize =
            range.map_or(0, |range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
        let answer = Answer::new(if from > 0 { 206 } else { 200 }, &whole[from..]).with("ETag", "\"tag\"");
        if first { answer.sent(Manner::ResetAfter(100_000)) } else { answer }
    });
    let objects = bucket(&format!("http://{}", server.address()));
    let mut told = 0;
    let mut out = Vec::new();
    assert!(objects.download("name", &mut out, &mut |length| told = length, &Patient).unwrap());
    assert!(out == body);
    assert_eq!(told, 300_000);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].1.as_deref(), Some("\"tag\""));
}

#[test]
fn an_upload_that_a_disturbed_store_refuses_is_tried_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = HttpServer::start(move |request: &mut Request<'_>| {
        let body = request.body().unwrap();
        match seen.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::new(503, "<Error><Code>SlowDown</Code></Error>"),
            _ if body == b"hello" => Answer::new(200, ""),
            _ => Answer::new(400, ""),
        }
    });
    bucket(&format!("http://{}", server.address())).put("name", b"hello".to_vec(), None, &Patient).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn an_object_comes_back_from_the_archive_in_the_course_of_time() {
    let state = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&state);
    let server = HttpServer::start(move |request: &mut Request<'_>| {
        let body = String::from_utf8(request.body().unwrap()).unwrap();
        match (request.method.as_str(), now.load(Ordering::SeqCst)) {
            ("HEAD", 0) => Answer::new(200, "x").with("x-amz-storage-class", "GLACIER"),
            ("POST", 0) => {
                assert!(request.query.starts_with("restore") && body.contains("<Days>3</Days>"), "{body}");
                now.store(1, Ordering::SeqCst);
                Answer::new(202, "")
            }
            ("HEAD", 1) => Answer::new(200, "x")
                .with("x-amz-storage-class", "GLACIER")
                .with("x-amz-restore", "ongoing-request=\"true\""),
            ("HEAD", 2) => Answer::new(200, "x").with("x-amz-restore", "ongoing-request=\"false\", expiry-date=\"x\""),
            ("HEAD", 3) => Answer::new(200, "x").with("x-amz-storage-class", "STANDARD_IA"),
            _ => Answer::new(403, "<Error><Code>InvalidObjectState</Code></Error>"),
        }
    });
    let objects = bucket(&format!("http://{}", server.address()));
    let ask = || objects.restore_request("name", 3, &Patient).unwrap();
    assert_eq!(ask(), Returning::Requested);
    assert_eq!(ask(), Returning::Ongoing);
    state.store(2, Ordering::SeqCst);
    assert_eq!(ask(), Returning::Ready);
    state.store(3, Ordering::SeqCst);
    assert_eq!(ask(), Returning::Ready);
    let error = objects.download("name", &mut Vec::new(), &mut |_| {}, &Patient).unwrap_err().to_string();
    assert!(error.contains("archive"), "{error}");
}

#[test]
fn a_bucket_elsewhere_is_followed_and_a_missing_one_is_made_where_it_is_asked_for() {
    let made = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&made);
    let server = HttpServer::start(move |request: &mut Request<'_>| {
        let body = String::from_utf8(request.body().unwrap()).unwrap();
        let region = request.header("authorization").unwrap().split('/').nth(2).unwrap().to_owned();
        match request.method.as_str() {
            "HEAD" if region != "eu-south-1" && request.path == "/elsewhere" => {
                Answer::new(301, "").with("x-amz-bucket-region", "eu-south-1")
            }
            "HEAD" if request.path == "/elsewhere" => Answer::new(200, ""),
            "HEAD" => Answer::new(404, ""),
            "PUT" => {
                *seen.lock().unwrap() = Some(body);
                Answer::new(200, "")
            }
            _ => Answer::new(400, ""),
        }
    });
    let at = |bucket: &str| {
        let place = S3Place {
            bucket: bucket.to_owned(),
            endpoint: Some(format!("http://{}", server.address())),
            region: "eu-west-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: Secret::new("secret"),
        };
        NamedObjects::s3(&place, &options()).unwrap().ensure(&Patient).unwrap();
    };
    at("elsewhere");
    assert_eq!(*made.lock().unwrap(), None);
    at("missing");
    let body = made.lock().unwrap().clone().unwrap();
    assert!(body.contains("<LocationConstraint>eu-west-1</LocationConstraint>"), "{body}");
}

#[test]
fn a_region_that_only_the_body_of_a_refusal_names_is_taken() {
    let server = HttpServer::start(|request: &mut Request<'_>| {
        let region = request.header("authorization").unwrap().split('/').nth(2).unwrap().to_owned();
        let refusal = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>garage</Region></Error>";
        match (request.method.as_str(), region.as_str()) {
            ("HEAD", "garage") => Answer::new(200, ""),
            ("HEAD", _) => Answer::new(400, ""),
            ("GET", "garage") => {
                Answer::new(200, "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>")
            }
            _ => Answer::new(400, refusal),
        }
    });
    let objects = bucket(&format!("http://{}", server.address()));
    objects.ensure(&Patient).unwrap();
    assert_eq!(objects.list(&Patient).unwrap(), ["a"]);
}

#[test]
fn a_bucket_that_another_process_makes_at_the_same_moment_is_ours_too_and_a_strangers_is_not() {
    for theirs in [false, true] {
        let looks = AtomicUsize::new(0);
        let server = HttpServer::start(move |request: &mut Request<'_>| match request.method.as_str() {
            "HEAD" if looks.fetch_add(1, Ordering::SeqCst) == 0 => Answer::new(404, ""),
            "HEAD" if theirs => Answer::new(403, ""),
            "HEAD" => Answer::new(200, ""),
            _ => Answer::new(409, "<Error><Code>BucketAlreadyExists</Code></Error>"),
        });
        let done = bucket(&format!("http://{}", server.address())).ensure(&Patient);
        assert_eq!(done.is_err(), theirs, "{done:?}");
    }
}

/// A Swift of one account, with TempAuth and Keystone 2; the first token runs out after some requests.
struct Swift {
    server: HttpServer,
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    expired: Arc<AtomicBool>,
}

fn swift() -> Swift {
    let objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
    let expired: Arc<AtomicBool> = Arc::default();
    let (held, old) = (Arc::clone(&objects), Arc::clone(&expired));
    let logins = AtomicUsize::new(0);
    let server = HttpServer::start(move |request: &mut Request<'_>| {
        let body = request.body().unwrap();
        let storage = format!("http://{}/v1/AUTH_x", request.header("host").unwrap());
        if request.path == "/auth/v1.0" {
            if request.header("x-auth-user") != Some("account:me") || request.header("x-auth-key") != Some("secret") {
                return Answer::new(401, "");
            }
            let token = format!("token{}", logins.fetch_add(1, Ordering::SeqCst));
            return Answer::new(200, "").with("X-Storage-Url", storage).with("X-Auth-Token", token);
        }
        if request.path == "/keystone/v2.0/tokens" {
            let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(asked["auth"]["tenantName"], "account");
            assert_eq!(asked["auth"]["passwordCredentials"]["username"], "me");
            let answer = serde_json::json!({"access": {"token": {"id": "token9"}, "serviceCatalog": [
                {"type": "object-store", "endpoints": [
                    {"region": "other", "publicURL": "http://nowhere"},
                    {"region": "here", "publicURL": storage},
                ]},
            ]}});
            return Answer::new(200, answer.to_string());
        }
        let token = request.header("x-auth-token").unwrap_or_default().to_owned();
        if token.is_empty() || (token == "token0" && old.load(Ordering::SeqCst)) {
            return Answer::new(401, "");
        }
        let path = request.path.strip_prefix("/v1/AUTH_x/").unwrap().to_owned();
        let mut objects = held.lock().unwrap();
        if request.method == "GET" && !path.contains('/') {
            let marker = request.query.split("marker=").nth(1).unwrap_or_default();
            let names = objects.keys().filter_map(|name| name.strip_prefix(&format!("{path}/")));
            let page: Vec<_> =
                names.filter(|name| *name > marker).map(|name| serde_json::json!({"name": name})).collect();
            return Answer::new(200, serde_json::Value::from(page).to_string());
        }
        match request.method.as_str() {
            "PUT" if request.query.contains("multipart-manifest=put") => {
                let list: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
                let whole = list.iter().flat_map(|segment| {
                    let path = segment["path"].as_str().unwrap().trim_start_matches('/');
                    objects.get(path).cloned().unwrap()
                });
                let whole: Vec<u8> = whole.collect();
                objects.insert(path, whole);
                Answer::new(201, "")
            }
            "PUT" => {
                objects.insert(path, body);
                Answer::new(201, "").with("ETag", "\"sum\"")
            }
            "DELETE" => match objects.remove(&path) {
                Some(_) => Answer::new(204, ""),
                None => Answer::new(404, ""),
            },
            _ => match objects.get(&path) {
                Some(body) => Answer::new(200, body.clone()),
                None => Answer::new(404, ""),
            },
        }
    });
    Swift { server, objects, expired }
}

impl Swift {
    fn place(&self, version: &str) -> SwiftPlace {
        let path = if version == "1" { "auth/v1.0" } else { "keystone/v2.0/" };
        SwiftPlace {
            container: "backup".to_owned(),
            auth_url: format!("http://{}/{path}", self.server.address()),
            auth_version: version.to_owned(),
            user: "account:me".to_owned(),
            password: Secret::new("secret"),
            region: (version != "1").then(|| "here".to_owned()),
        }
    }
}

#[test]
fn swift_stores_lists_and_deletes_and_logs_in_again_when_the_token_has_run_out() {
    let swift = swift();
    let objects = NamedObjects::swift(&swift.place("1"), &options()).unwrap();
    objects.ensure(&Patient).unwrap();
    assert!(swift.objects.lock().unwrap().contains_key("backup"));
    let (file, bytes) = file(100_000);
    objects.upload("some name", file.path(), None, &Patient).unwrap();
    swift.expired.store(true, Ordering::SeqCst);
    assert!(read(&objects, "some name").unwrap() == bytes);
    assert_eq!(objects.size("some name", &Patient).unwrap(), Some(100_000));
    assert_eq!(objects.list(&Patient).unwrap(), ["some%20name"]);
    objects.delete("some name", &Patient).unwrap();
    objects.delete("some name", &Patient).unwrap();
    assert_eq!(read(&objects, "some name"), None);
    assert!(objects.presign("some name", 60, "GET").is_err());
}

#[test]
fn a_large_file_goes_to_swift_in_segments_beside_the_container() {
    let swift = swift();
    let objects = NamedObjects::swift(&swift.place("2"), &options()).unwrap();
    let (file, bytes) = file((32 << 20) + 5);
    objects.upload("large", file.path(), None, &Patient).unwrap();
    assert!(read(&objects, "large").unwrap() == bytes);
    assert_eq!(objects.list(&Patient).unwrap(), ["large"]);
    let held = swift.objects.lock().unwrap();
    assert_eq!(held.keys().filter(|name| name.starts_with("backup_segments/large/")).count(), 3);
}

#[test]
fn a_login_at_swift_that_fails_says_so_without_the_password() {
    let swift = swift();
    let place = SwiftPlace { password: Secret::new("not the secret"), ..swift.place("1") };
    let error = NamedObjects::swift(&place, &options()).unwrap_err().to_string();
    assert!(error.contains("cannot log in") && !error.contains("not the secret"), "{error}");
    let place = SwiftPlace { auth_version: "7".to_owned(), ..swift.place("1") };
    assert!(NamedObjects::swift(&place, &options()).unwrap_err().to_string().contains("auth_version"));
}
