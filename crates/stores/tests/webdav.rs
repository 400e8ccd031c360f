//! WebDAV through `open`, against a real server on loopback (nginx).

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};
use backstay_stores::environment::Environment;
use backstay_stores::testing::hostile::{Act, HostileServer, Rule};
use backstay_stores::testing::http::Manner;
use backstay_stores::testing::webdav::{PASSWORD, WebDavServer};
use backstay_stores::{LocalStore, StoreOptions, open, testing};
use tempfile::TempDir;

struct Served {
    server: WebDavServer,
    _folder: TempDir,
}

fn serve() -> Served {
    let folder = tempfile::tempdir().unwrap();
    Served { server: WebDavServer::start(folder.path()), _folder: folder }
}

fn options(retry_time: Duration) -> StoreOptions {
    StoreOptions { environment: Environment::fixed(WebDavServer::credentials()), retry_time, ..StoreOptions::default() }
}

impl Served {
    fn store(&self, name: &str) -> Arc<dyn Store> {
        open(&self.server.url(name), &options(Duration::ZERO)).unwrap()
    }

    /// A server that spoils what these rules say, and a store that speaks to it.
    fn spoiled(&self, rules: Vec<Rule>) -> (HostileServer, Arc<dyn Store>) {
        let hostile = HostileServer::start(self.server.address(), rules);
        let store = open(&format!("webdav://{}/repo", hostile.address()), &options(Duration::ZERO)).unwrap();
        (hostile, store)
    }
}

/// The names of all files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut list = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list.extend(files(&path)) } else { list.push(path.to_str().unwrap().to_owned()) }
    }
    list
}

#[test]
fn it_behaves_as_every_store() {
    let served = serve();
    let next = AtomicUsize::new(0);
    testing::behaves(|| served.store(&format!("a%20folder/{}", next.fetch_add(1, Ordering::Relaxed))));
    assert!(!files(&served.server.served()).iter().any(|name| name.contains("-tmp-")), "nothing lies about");
}

#[test]
fn files_are_what_a_local_store_reads() {
    let served = serve();
    let remote = served.store("repo");
    let local = LocalStore::new(served.server.served().join("repo"));
    for kind in [ObjectKind::Key, ObjectKind::Pack, ObjectKind::Snapshot, ObjectKind::Config] {
        let id = if kind == ObjectKind::Config { Id::default() } else { Id::of(b"x") };
        remote.put(kind, &id, b"x").unwrap();
        assert_eq!(local.get(kind, &id, None).unwrap(), b"x");
        assert_eq!(local.list(kind).unwrap(), remote.list(kind).unwrap());
    }
}

#[test]
fn a_broken_file_is_replaced_by_the_whole_one() {
    let served = serve();
    let id = Id::of(b"whole");
    let keys = served.server.served().join("repo/keys");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::write(keys.join(id.to_hex()), b"who").unwrap();
    let store = served.store("repo");
    store.put(ObjectKind::Key, &id, b"whole").unwrap();
    assert_eq!(store.get(ObjectKind::Key, &id, None).unwrap(), b"whole");
}

#[test]
fn looking_at_a_folder_that_is_not_there_does_not_make_it() {
    let served = serve();
    let store = served.store("mistyped");
    assert_eq!(store.list(ObjectKind::Snapshot).unwrap(), []);
    assert_eq!(store.get(ObjectKind::Config, &Id::default(), None).unwrap_err().kind, StoreErrorKind::NotFound);
    assert!(!served.server.served().join("mistyped").exists());
}

#[test]
fn a_wrong_password_is_refused_at_once() {
    let served = serve();
    let address = served.server.url("repo").replace("//", "//me:wrong-word@");
    let error = open(&address, &options(Duration::from_secs(600))).unwrap().list(ObjectKind::Key).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    let text = error.to_string();
    assert!(text.contains("credentials") && !text.contains("wrong-word") && !text.contains(PASSWORD), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn an_upload_that_breaks_off_leaves_no_object_behind() {
    let served = serve();
    let body = vec![7; 3_000_000];
    let id = Id::of(&body);
    for act in [Act::ResetInUpload(0), Act::ResetInUpload(1_000_000), Act::Spoil(Manner::Reset)] {
        let (hostile, store) = served.spoiled(vec![Rule::on("PUT", "", act)]);
        store.put(ObjectKind::Pack, &id, &body).unwrap_err();
        assert!(hostile.done()[0] >= 1);
        assert_eq!(served.store("repo").list(ObjectKind::Pack).unwrap(), []);
    }
    served.store("repo").put(ObjectKind::Pack, &id, &body).unwrap();
    assert_eq!(served.store("repo").list(ObjectKind::Pack).unwrap(), [(id, 3_000_000)]);
}

#[test]
fn bytes_that_are_missing_are_an_error() {
    let served = serve();
    let body: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    let id = Id::of(&body);
    served.store("repo").put(ObjectKind::Pack, &id, &body).unwrap();
    for manner in [Manner::Truncated(0), Manner::Truncated(500), Manner::ResetAfter(500), Manner::Reset] {
        let (hostile, store) = served.spoiled(vec![Rule::on("GET", "data", Act::Spoil(manner))]);
        store.get(ObjectKind::Pack, &id, None).unwrap_err();
        store.get(ObjectKind::Pack, &id, Some(1000..90_000)).unwrap_err();
        assert!(hostile.done()[0] >= 2);
    }
}

#[test]
fn a_server_that_is_killed_is_an_error_and_no_hang() {
    let mut served = serve();
    let store = served.store("repo");
    let body = vec![7; 100_000_000];
    let id = Id::of(&body);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| store.put(ObjectKind::Pack, &id, &body));
        let until = Instant::now() + Duration::from_secs(60);
        while !served.server.is_busy() {
            assert!(!written.is_finished() && Instant::now() < until, "the upload is not seen");
        }
        served.server.kill();
        let error = written.join().unwrap().unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    });
    served.server.restart();
    let store = open(&served.server.url("repo"), &options(Duration::from_secs(60))).unwrap();
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), []);
    store.put(ObjectKind::Pack, &id, &body).unwrap();
    assert!(store.get(ObjectKind::Pack, &id, None).unwrap() == body);
}
