//! S3 through `open`, against a server in this process: the behaviour of every store, what only S3 can get wrong, and
//! servers that misbehave.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};
use backstay_stores::environment::Environment;
use backstay_stores::testing::hostile::{Act, HostileServer, Rule};
use backstay_stores::testing::http::{Answer, Manner};
use backstay_stores::testing::s3::S3Server;
use backstay_stores::{StoreOptions, open, testing};
use tempfile::TempDir;

const BUCKET: &str = "backup";

struct Served {
    server: S3Server,
    folder: TempDir,
}

fn serve() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path());
    server.create_bucket(BUCKET);
    Served { server, folder }
}

fn options() -> StoreOptions {
    StoreOptions {
        environment: Environment::fixed(S3Server::credentials()),
        retry_time: Duration::ZERO,
        ..StoreOptions::default()
    }
}

impl Served {
    fn store(&self, prefix: &str) -> Arc<dyn Store> {
        self.store_at(self.server.address(), prefix)
    }

    fn store_at(&self, address: std::net::SocketAddr, prefix: &str) -> Arc<dyn Store> {
        open(&format!("s3://{BUCKET}{prefix}?endpoint=http://{address}"), &options()).unwrap()
    }

    /// A server that spoils what these rules say, and a store that speaks to it.
    fn spoiled(&self, rules: Vec<Rule>) -> (HostileServer, Arc<dyn Store>) {
        let hostile = HostileServer::start(self.server.address(), rules);
        let store = self.store_at(hostile.address(), "/repo");
        (hostile, store)
    }
}

/// As Amazon words a refusal.
fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>The words for it</Message>\
         <RequestId>4442587FB7D0A2F9</RequestId></Error>"
    );
    Answer::new(status, body).with("Content-Type", "application/xml")
}

#[test]
fn it_behaves_as_every_store() {
    for prefix in ["", "/a prefix/of two"] {
        let servers = Mutex::new(Vec::new());
        testing::behaves(|| {
            let served = serve();
            let store = served.store(prefix);
            servers.lock().unwrap().push(served);
            store
        });
        assert!(!servers.lock().unwrap().is_empty());
    }
}

#[test]
fn repositories_in_one_bucket_do_not_see_each_other() {
    let served = serve();
    let (whole, one, two) = (served.store(""), served.store("/one"), served.store("/one/two"));
    for (store, body) in [(&whole, b"w"), (&one, b"1"), (&two, b"2")] {
        store.put(ObjectKind::Snapshot, &Id::of(body), body).unwrap();
    }
    for (store, body) in [(&whole, b"w"), (&one, b"1"), (&two, b"2")] {
        assert_eq!(store.list(ObjectKind::Snapshot).unwrap(), [(Id::of(body), 1)]);
    }
}

#[test]
fn objects_lie_where_restic_looks_for_them() {
    let served = serve();
    let store = served.store("/repo");
    let id = Id::of(b"x");
    store.create().unwrap();
    for kind in [ObjectKind::Config, ObjectKind::Key, ObjectKind::Snapshot, ObjectKind::Pack] {
        store.put(kind, &id, b"x").unwrap();
    }
    let names: Vec<String> = served.server.objects(BUCKET).into_iter().map(|(name, _)| name).collect();
    let pack = format!("repo/data/{}/{id}", &id.to_hex()[..2]);
    assert_eq!(names, ["repo/config".to_owned(), pack, format!("repo/keys/{id}"), format!("repo/snapshots/{id}")]);
}

#[test]
fn more_objects_than_fit_a_page_are_listed_and_deleted() {
    let served = serve();
    let store = served.store("/repo");
    let ids: Vec<Id> = (0..2345_u32).map(|number| Id::of(&number.to_le_bytes())).collect();
    let repo = served.folder.path().join(BUCKET).join("repo");
    for id in &ids {
        let hex = id.to_hex();
        let pack = repo.join("data").join(&hex[..2]);
        std::fs::create_dir_all(&pack).unwrap();
        std::fs::write(pack.join(&hex), b"four").unwrap();
        std::fs::create_dir_all(repo.join("index")).unwrap();
        std::fs::write(repo.join("index").join(&hex), b"four").unwrap();
    }
    let mut expected: Vec<(Id, u64)> = ids.iter().map(|id| (*id, 4)).collect();
    expected.sort_unstable();
    for kind in [ObjectKind::Pack, ObjectKind::Index] {
        let mut listed = store.list(kind).unwrap();
        listed.sort_unstable();
        assert_eq!(listed, expected, "{kind}");
    }
    store.delete_all(ObjectKind::Index, &ids[..2000]).unwrap();
    let mut listed = store.list(ObjectKind::Index).unwrap();
    listed.sort_unstable();
    let mut left: Vec<(Id, u64)> = ids[2000..].iter().map(|id| (*id, 4)).collect();
    left.sort_unstable();
    assert_eq!(listed, left);
}

#[test]
fn a_large_object_arrives_whole_both_ways() {
    let served = serve();
    let store = served.store("/repo");
    let body: Vec<u8> = (0..40_000_000_u32).map(|number| (number >> 9) as u8 ^ number as u8).collect();
    let id = Id::of(&body);
    store.put(ObjectKind::Pack, &id, &body).unwrap();
    assert_eq!(store.size(ObjectKind::Pack, &id).unwrap(), Some(body.len() as u64));
    assert_eq!(Id::of(&store.get(ObjectKind::Pack, &id, None).unwrap()), id);
    let range = 9_000_000..31_000_000_u64;
    let part = store.get(ObjectKind::Pack, &id, Some(range.clone())).unwrap();
    assert!(part == body[range.start as usize..range.end as usize]);
    assert_eq!(served.server.objects(BUCKET).len(), 1);
}

#[test]
fn what_the_store_refuses_is_said_in_one_line_without_the_secret() {
    let served = serve();
    for (status, code, kind, words) in [
        (403, "InvalidAccessKeyId", StoreErrorKind::Denied, "credentials"),
        (403, "SignatureDoesNotMatch", StoreErrorKind::Denied, "credentials"),
        (400, "ExpiredToken", StoreErrorKind::Denied, "expired"),
        (403, "RequestTimeTooSkewed", StoreErrorKind::Denied, "clock"),
        (403, "AccessDenied", StoreErrorKind::Denied, "denied"),
        (404, "NoSuchBucket", StoreErrorKind::Other, "bucket"),
    ] {
        let (_hostile, store) = served.spoiled(vec![Rule::always(Act::Answer(refusal(status, code)))]);
        let id = Id::of(b"x");
        let mut errors = vec![
            store.get(ObjectKind::Pack, &id, None).unwrap_err(),
            store.list(ObjectKind::Snapshot).unwrap_err(),
            store.put(ObjectKind::Pack, &id, b"x").unwrap_err(),
        ];
        // The answer to HEAD has no body that could name the reason.
        errors.extend(store.size(ObjectKind::Pack, &id).err().filter(|_| status != 404));
        for error in &errors[..3] {
            assert_eq!(error.kind, kind, "{code}: {error}");
            assert!(error.text.to_lowercase().contains(words), "{code}: {error}");
        }
        for error in errors {
            let text = error.to_string();
            assert!(!text.contains('\n') && !text.contains("a-secret-that"), "{code}: {text}");
        }
    }
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let served = serve();
    let address = format!("s3://nowhere/repo?endpoint={}", served.server.endpoint());
    let error = open(&address, &options()).unwrap().list(ObjectKind::Snapshot).unwrap_err();
    assert!(error.to_string().contains("nowhere") && error.text.contains("bucket"), "{error}");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing_behind() {
    let served = serve();
    let body = vec![7; 3_000_000];
    let id = Id::of(&body);
    for act in [
        Act::ResetInUpload(0),
        Act::ResetInUpload(1_000_000),
        Act::Answer(refusal(503, "SlowDown")),
        Act::Answer(refusal(500, "InternalError")),
    ] {
        let (hostile, store) = served.spoiled(vec![Rule::on("PUT", "", act)]);
        store.put(ObjectKind::Pack, &id, &body).unwrap_err();
        assert_eq!(served.server.objects(BUCKET), []);
        assert!(hostile.done()[0] >= 1);
    }
}

#[test]
fn an_upload_whose_answer_is_lost_is_found_to_be_there() {
    let served = serve();
    let body = b"a body".as_slice();
    let id = Id::of(body);
    for kind in [ObjectKind::Pack, ObjectKind::Config] {
        let hostile = HostileServer::start(
            served.server.address(),
            vec![Rule::on("PUT", "", Act::Spoil(Manner::Reset)).times(1)],
        );
        let address = format!("s3://{BUCKET}/repo?endpoint=http://{}", hostile.address());
        let patient = StoreOptions { retry_time: Duration::from_secs(60), ..options() };
        let store = open(&address, &patient).unwrap();
        store.put(kind, &id, body).unwrap();
        assert_eq!(hostile.done(), [1]);
        assert_eq!(store.get(kind, &id, None).unwrap(), body);
    }
}

#[test]
fn bytes_that_are_missing_are_an_error() {
    let served = serve();
    let body: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    let id = Id::of(&body);
    served.store("/repo").put(ObjectKind::Pack, &id, &body).unwrap();
    for manner in [Manner::Truncated(0), Manner::Truncated(500), Manner::ResetAfter(500), Manner::Reset] {
        let (hostile, store) = served.spoiled(vec![Rule::on("GET", "data", Act::Spoil(manner))]);
        let error = store.get(ObjectKind::Pack, &id, None).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
        store.get(ObjectKind::Pack, &id, Some(1000..90_000)).unwrap_err();
        assert!(hostile.done()[0] >= 2);
    }
    // An answer that is whole in itself, and too short.
    let short = Answer::new(206, vec![0; 10]).with("Content-Range", "bytes 1000-1009/100000");
    let (_hostile, store) = served.spoiled(vec![Rule::on("GET", "data", Act::Answer(short))]);
    store.get(ObjectKind::Pack, &id, Some(1000..90_000)).unwrap_err();
}

/// Taken for an empty list it would look like a repository without snapshots, and a prune would delete every pack.
#[test]
fn an_answer_that_is_no_list_is_never_an_empty_list() {
    let served = serve();
    for page in ["<html><body>Welcome</body></html>", "<?xml version=\"1.0\"?><Something/>", "", "Welcome"] {
        for lists in ["", "&list-objects-v1=true"] {
            let answer = Answer::new(200, page).with("Content-Type", "text/html");
            let rules = vec![Rule::always(Act::Answer(answer))];
            let hostile = HostileServer::start(served.server.address(), rules);
            let address = format!("s3://{BUCKET}/repo?endpoint=http://{}{lists}", hostile.address());
            let store = open(&address, &options()).unwrap();
            for kind in [ObjectKind::Snapshot, ObjectKind::Pack] {
                let error = store.list(kind).unwrap_err();
                assert!(error.text.contains("no list") && !error.to_string().contains('\n'), "{page:?}: {error}");
            }
        }
    }
}

#[test]
fn a_host_that_nobody_knows_is_said_so() {
    let store = open(&format!("s3://{BUCKET}/repo?endpoint=http://nothing.invalid"), &options()).unwrap();
    let error = store.list(ObjectKind::Snapshot).unwrap_err();
    assert!(error.to_string().contains("nothing.invalid") && error.text.contains("DNS"), "{error}");
}

#[test]
fn a_store_that_is_busy_for_a_while_is_asked_again() {
    let served = serve();
    let rules = vec![Rule::always(Act::Answer(refusal(503, "SlowDown"))).times(2)];
    let hostile = HostileServer::start(served.server.address(), rules);
    let address = format!("s3://{BUCKET}/repo?endpoint=http://{}", hostile.address());
    let store = open(&address, &StoreOptions { retry_time: Duration::from_secs(120), ..options() }).unwrap();
    store.put(ObjectKind::Pack, &Id::of(b"x"), b"x").unwrap();
    assert_eq!(hostile.done(), [2]);
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [(Id::of(b"x"), 1)]);
}
