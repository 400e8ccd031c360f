//! SFTP through `open`, against a real `sshd` on loopback.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};
use backstay_stores::testing::sshd::Sshd;
use backstay_stores::{LocalStore, StoreOptions, open, testing};
use tempfile::TempDir;

struct Served {
    sshd: Sshd,
    folder: TempDir,
}

fn serve() -> Served {
    let folder = tempfile::tempdir().unwrap();
    Served { sshd: Sshd::start(folder.path()), folder }
}

impl Served {
    fn store(&self, name: &str) -> Arc<dyn Store> {
        self.store_of(name, &self.sshd.client(), Duration::ZERO)
    }

    fn store_of(&self, name: &str, client: &str, retry_time: Duration) -> Arc<dyn Store> {
        let options = StoreOptions { retry_time, extended: vec![client.to_owned()], ..StoreOptions::default() };
        open(&self.sshd.url(&self.folder.path().join(name)), &options).unwrap()
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
    testing::behaves(|| served.store(&format!("a folder/{}", next.fetch_add(1, Ordering::Relaxed))));
    assert!(!files(served.folder.path()).iter().any(|name| name.contains("-tmp-")), "nothing lies about");
}

#[test]
fn files_are_what_a_local_store_reads() {
    let served = serve();
    let remote = served.store("repo");
    let local = LocalStore::new(served.folder.path().join("repo"));
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
    let keys = served.folder.path().join("repo/keys");
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
    assert!(!served.folder.path().join("mistyped").exists());
}

#[test]
fn strange_names_and_links_in_the_folder_are_no_obstacle() {
    use std::os::unix::ffi::OsStrExt as _;
    let served = serve();
    let repo = served.folder.path().join("repo");
    let store = served.store("repo");
    let id = Id::of(b"x");
    store.put(ObjectKind::Pack, &id, b"x").unwrap();
    std::fs::write(repo.join("data").join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", repo.join("data/zz")).unwrap();
    // Somebody moved packs to another disk.
    let two = repo.join("data").join(&id.to_hex()[..2]);
    std::fs::rename(&two, served.folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(served.folder.path().join("elsewhere"), &two).unwrap();
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [(id, 1)]);
}

#[test]
fn a_stranger_and_an_unknown_host_are_refused_at_once() {
    let served = serve();
    let patient = Duration::from_secs(600);
    let error = served.store_of("repo", &served.sshd.stranger(), patient).list(ObjectKind::Key).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    assert!(error.text.contains("credentials") && error.text.contains("Permission denied"), "{error}");
    let error = served.store_of("repo", &served.sshd.newcomer(), patient).list(ObjectKind::Key).unwrap_err();
    assert!(error.text.contains("host's key") && error.text.contains("Host key verification failed"), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[test]
fn a_new_host_is_noted_where_the_user_allows_it() {
    let served = serve();
    let options = StoreOptions {
        extended: vec![served.sshd.newcomer(), "sftp.known-hosts=add".to_owned()],
        ..StoreOptions::default()
    };
    let address = served.sshd.url(&served.folder.path().join("repo"));
    assert_eq!(open(&address, &options).unwrap().list(ObjectKind::Key).unwrap(), []);
    // From now on it is known.
    assert_eq!(served.store_of("repo", &served.sshd.newcomer(), Duration::ZERO).list(ObjectKind::Key).unwrap(), []);
}

#[test]
fn a_folder_that_nobody_may_write_to_is_a_refusal_in_one_line() {
    let served = serve();
    std::fs::write(served.folder.path().join("file"), b"").unwrap();
    // Where a file stands no folder can be made; and /proc takes nothing from anybody.
    for folder in ["file/repo", "file", "../../proc/repo"] {
        let error = served.store(folder).put(ObjectKind::Key, &Id::of(b"x"), b"x").unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let mut served = serve();
    let store = served.store_of("repo", &served.sshd.client(), Duration::from_secs(60));
    let id = Id::of(b"x");
    store.put(ObjectKind::Key, &id, b"x").unwrap();
    served.sshd.restart();
    assert_eq!(store.get(ObjectKind::Key, &id, None).unwrap(), b"x");
    store.put(ObjectKind::Pack, &id, b"x").unwrap();
}

#[test]
fn a_server_that_is_killed_is_an_error_and_no_hang() {
    let mut served = serve();
    let store = served.store("repo");
    let body = vec![7; 50_000_000];
    let id = Id::of(&body);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| store.put(ObjectKind::Pack, &id, &body));
        let repo = served.folder.path().join("repo");
        let until = Instant::now() + Duration::from_secs(60);
        while !(repo.exists() && files(&repo).iter().any(|name| name.contains("-tmp-"))) {
            assert!(!written.is_finished() && Instant::now() < until, "the upload is not seen");
        }
        served.sshd.kill();
        let error = written.join().unwrap().unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    });
    served.sshd.restart();
    let store = served.store("repo");
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), []);
    store.put(ObjectKind::Pack, &id, &body).unwrap();
    assert!(store.get(ObjectKind::Pack, &id, None).unwrap() == body);
}

#[test]
fn connections_end_with_the_store() {
    let served = serve();
    let store = served.store("repo");
    store.list(ObjectKind::Key).unwrap();
    assert!(served.sshd.connections() > 0);
    drop(store);
    let until = Instant::now() + Duration::from_secs(60);
    while served.sshd.connections() > 0 {
        assert!(Instant::now() < until, "{} connections are left", served.sshd.connections());
        std::thread::sleep(Duration::from_millis(20));
    }
}
