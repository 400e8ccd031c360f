//! The REST store: the behaviour of every store against servers of both versions, and what only a network can get wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Retry, Store, StoreErrorKind};

use super::{RestOptions, RestStore};
use crate::LocalStore;
use crate::testing;
use crate::testing::http::{Answer, HttpServer, Manner, Request};
use crate::testing::rest_server::{RestServer, RestServerOptions};

struct Served {
    server: RestServer,
    folder: tempfile::TempDir,
}

fn serve(options: RestServerOptions) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let local = Arc::new(LocalStore::new(folder.path().join("repo")));
    Served { server: RestServer::start(local, options), folder }
}

impl Served {
    fn store(&self) -> RestStore {
        RestStore::new(&self.server.url(), RestOptions::default()).unwrap()
    }

    fn local(&self) -> LocalStore {
        LocalStore::new(self.folder.path().join("repo"))
    }
}

fn behaves(options: &RestServerOptions) {
    let servers = Mutex::new(Vec::new());
    testing::behaves(|| {
        let served = serve(options.clone());
        let store = served.store();
        servers.lock().unwrap().push(served);
        Arc::new(store)
    });
    assert!(!servers.lock().unwrap().is_empty());
}

#[test]
fn it_behaves_as_every_store_with_version_2() {
    behaves(&RestServerOptions { user: Some(("me".into(), "hush".into())), ..RestServerOptions::default() });
}

#[test]
fn it_behaves_as_every_store_with_version_1() {
    behaves(&RestServerOptions { version: 1, ..RestServerOptions::default() });
}

#[test]
fn it_behaves_as_every_store_with_a_server_that_knows_no_ranges() {
    behaves(&RestServerOptions { ignores_ranges: true, ..RestServerOptions::default() });
}

#[test]
fn it_behaves_as_every_store_through_a_unix_socket() {
    let places = Mutex::new(Vec::new());
    testing::behaves(|| {
        let folder = tempfile::tempdir().unwrap();
        let local = Arc::new(LocalStore::new(folder.path().join("repo")));
        let server = RestServer::start_on_socket(&folder.path().join("socket"), local, RestServerOptions::default());
        let store = RestStore::new(&server.url(), RestOptions::default()).unwrap();
        places.lock().unwrap().push((server, folder));
        Arc::new(store)
    });
    assert!(!places.lock().unwrap().is_empty());
}

#[test]
fn connections_are_kept() {
    let served = serve(RestServerOptions::default());
    let store = served.store();
    for number in 0..50_u32 {
        let body = number.to_le_bytes();
        store.put(ObjectKind::Pack, &Id::of(&body), &body).unwrap();
        assert_eq!(store.get(ObjectKind::Pack, &Id::of(&body), Some(1..3)).unwrap(), body[1..3]);
    }
    // A connection goes back among the idle ones a moment after its answer.
    assert!(served.server.connections() < 20, "{} for 150 requests", served.server.connections());
}

#[test]
fn many_are_deleted_at_once_and_on_few_connections() {
    for version in [1, 2] {
        let served = serve(RestServerOptions { version, ..RestServerOptions::default() });
        let store = served.store();
        let ids: Vec<Id> = (0..200_u32).map(|number| Id::of(&number.to_le_bytes())).collect();
        for number in 0..200_u32 {
            let body = number.to_le_bytes();
            served.local().put(ObjectKind::Index, &Id::of(&body), &body).unwrap();
        }
        let mut listed = store.list(ObjectKind::Index).unwrap();
        let mut expected: Vec<(Id, u64)> = ids.iter().map(|id| (*id, 4)).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        store.delete_all(ObjectKind::Index, &ids[..150]).unwrap();
        assert_eq!(store.list(ObjectKind::Index).unwrap().len(), 50);
        assert!(served.server.connections() <= 5 * store.calls_at_once() as u64, "{}", served.server.connections());
    }
}

#[test]
fn a_large_object_arrives_whole_both_ways() {
    let served = serve(RestServerOptions::default());
    let store = served.store();
    let body: Vec<u8> = (0..20_000_000_u32).map(|number| (number >> 9) as u8 ^ number as u8).collect();
    store.put(ObjectKind::Pack, &Id::of(&body), &body).unwrap();
    assert_eq!(Id::of(&store.get(ObjectKind::Pack, &Id::of(&body), None).unwrap()), Id::of(&body));
    let range = 5_000_000..15_000_000_u64;
    let part = store.get(ObjectKind::Pack, &Id::of(&body), Some(range.clone())).unwrap();
    assert_eq!(part, body[range.start as usize..range.end as usize]);
}

#[test]
fn name_and_password_come_from_the_address_first_and_then_from_the_options() {
    let user = Some(("an@user".to_owned(), "p/w d:?".to_owned()));
    let served = serve(RestServerOptions { user, ..RestServerOptions::default() });
    let bare = served.server.bare_url();
    let with = bare.replace("://", "://an%40user:p%2Fw%20d%3A%3F@");
    let good = RestOptions { user: Some("an@user".into()), password: Some("p/w d:?".into()), ..RestOptions::default() };
    let bad = RestOptions { user: Some("other".into()), password: Some("hush".into()), ..RestOptions::default() };
    assert_eq!(RestStore::new(&with, bad.clone()).unwrap().list(ObjectKind::Key).unwrap(), []);
    assert_eq!(RestStore::new(&bare, good).unwrap().list(ObjectKind::Key).unwrap(), []);
    for options in [bad, RestOptions::default()] {
        let store = RestStore::new(&bare, options).unwrap();
        let error = store.list(ObjectKind::Key).unwrap_err();
        assert_eq!((error.kind, error.retry), (StoreErrorKind::Denied, Retry::Never));
        assert!(error.text.contains("another user name or password (401 Unauthorized)"), "{error}");
    }
}

#[test]
fn the_environment_names_user_password_and_certificates_ours_first() {
    let options = RestOptions::from_environment(|name| {
        let value = match name {
            "RESTIC_REST_USERNAME" => "theirs",
            "BACKSTAY_REST_USERNAME" => "ours",
            "BACKSTAY_REST_PASSWORD" => "",
            "RESTIC_REST_PASSWORD" => "hush",
            "RESTIC_CACERT" => "/ca.pem",
            _ => return None,
        };
        Some(value.to_owned())
    });
    assert_eq!(options.user.as_deref(), Some("ours"));
    assert_eq!(options.password.as_deref(), Some("hush"));
    assert_eq!(options.certificates.as_deref(), Some("/ca.pem".as_ref()));
    assert!(!format!("{options:?}").contains("hush"));
}

#[test]
fn no_password_is_ever_shown() {
    // Nothing listens there.
    let store = RestStore::new("rest:http://me:hush@127.0.0.1:1/repo", RestOptions::default()).unwrap();
    assert_eq!(store.location(), "rest:http://me:***@127.0.0.1:1/repo/");
    let error = store.size(ObjectKind::Config, &Id::default()).unwrap_err();
    assert_eq!(error.retry, Retry::Soon);
    assert!(error.to_string().starts_with("look at http://127.0.0.1:1/repo/config: cannot connect: "), "{error}");
    for text in
        [format!("{store:?}"), error.to_string(), format!("{error:?}"), format!("{:?}", store.server.credentials)]
    {
        assert!(!text.contains("hush"), "{text}");
    }
    for address in
        ["rest:http://me:hush@", "rest:me:hush@host", "rest:ftp://me:hush@host/", "rest:http://a:hush@h/?x", ""]
    {
        let error = RestStore::new(address, RestOptions::default()).unwrap_err();
        assert!(!error.to_string().contains("hush") && !error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn addresses_of_sockets_are_shown_as_they_are_written() {
    let store = RestStore::new("rest:http+unix:///run/rest:/repo", RestOptions::default()).unwrap();
    assert_eq!(store.location(), "rest:http+unix:///run/rest:/repo/");
    assert!(RestStore::new("rest:http+unix://run/rest:/repo", RestOptions::default()).is_err());
}

#[test]
fn an_append_only_server_lets_locks_go_and_nothing_else() {
    let served = serve(RestServerOptions { append_only: true, ..RestServerOptions::default() });
    let store = served.store();
    let id = Id::of(b"x");
    for kind in [ObjectKind::Lock, ObjectKind::Snapshot] {
        store.put(kind, &id, b"x").unwrap();
    }
    store.delete(ObjectKind::Lock, &id).unwrap();
    for error in [
        store.delete(ObjectKind::Snapshot, &id).unwrap_err(),
        store.delete_all(ObjectKind::Snapshot, &[id]).unwrap_err(),
    ] {
        assert_eq!((error.kind, error.retry), (StoreErrorKind::Denied, Retry::Never));
        assert!(error.text.contains("append-only"), "{error}");
    }
    assert_eq!(store.list(ObjectKind::Snapshot).unwrap(), [(id, 1)]);
}

#[test]
fn an_object_that_is_there_whole_counts_as_written_and_one_of_another_size_is_left_to_the_server() {
    let served = serve(RestServerOptions::default());
    let (store, id) = (served.store(), Id::of(b"whole"));
    // What an upload looks like to some servers that has not ended, or that the server does not yet know to be broken off.
    served.local().put(ObjectKind::Pack, &id, b"who").unwrap();
    let error = store.put(ObjectKind::Pack, &id, b"whole").unwrap_err();
    assert_eq!(error.retry, Retry::Soon);
    assert!(error.text.contains("3 instead of 5 bytes"), "{error}");
    assert_eq!(store.size(ObjectKind::Pack, &id).unwrap(), Some(3));
    served.local().delete(ObjectKind::Pack, &id).unwrap();
    store.put(ObjectKind::Pack, &id, b"whole").unwrap();
    store.put(ObjectKind::Pack, &id, b"whole").unwrap();
    assert_eq!(store.get(ObjectKind::Pack, &id, None).unwrap(), b"whole");
}

#[test]
fn a_config_whose_answer_was_lost_counts_as_written_when_it_is_sent_again() {
    let served = serve(RestServerOptions::default());
    let store = served.store();
    store.put(ObjectKind::Config, &Id::default(), b"ours").unwrap();
    store.put(ObjectKind::Config, &Id::default(), b"ours").unwrap();
    assert_eq!(store.put(ObjectKind::Config, &Id::default(), b"other").unwrap_err().kind, StoreErrorKind::Exists);
}

/// What a store says that reads from a server which answers everything with `answer`.
fn against(answer: Answer) -> (HttpServer, RestStore) {
    let server = HttpServer::start(move |request: &mut Request<'_>| {
        request.body().unwrap();
        answer.clone()
    });
    let options = RestOptions { stall: Duration::from_millis(300), ..RestOptions::default() };
    let store = RestStore::new(&format!("http://{}/repo/", server.address()), options).unwrap();
    (server, store)
}

#[test]
fn every_status_says_whether_it_may_pass() {
    let soon = Retry::Soon;
    for (status, kind, retry) in [
        (301, StoreErrorKind::Other, Retry::Never),
        (400, StoreErrorKind::Other, soon),
        (401, StoreErrorKind::Denied, Retry::Never),
        (403, StoreErrorKind::Denied, Retry::Never),
        (404, StoreErrorKind::NotFound, Retry::Never),
        (405, StoreErrorKind::Other, Retry::Never),
        (408, StoreErrorKind::Other, soon),
        (416, StoreErrorKind::Other, Retry::Never),
        (429, StoreErrorKind::Other, Retry::Throttled(None)),
        (500, StoreErrorKind::Other, soon),
        (502, StoreErrorKind::Other, soon),
        (503, StoreErrorKind::Other, soon),
        (507, StoreErrorKind::Full, Retry::Never),
    ] {
        let (_server, store) = against(Answer::new(status, "the server's\nown words"));
        let id = Id::of(b"x");
        for error in [
            store.get(ObjectKind::Pack, &id, None).unwrap_err(),
            store.get(ObjectKind::Pack, &id, Some(3..9)).unwrap_err(),
            store.put(ObjectKind::Pack, &id, b"x").unwrap_err(),
        ] {
            assert_eq!((error.kind, error.retry), (kind, retry), "{status}: {error}");
            assert!(error.text.contains(&status.to_string()) && error.text.contains("the server's"), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

#[test]
fn a_busy_server_says_for_how_long() {
    for status in [429, 503] {
        let (_server, store) = against(Answer::new(status, "").with("Retry-After", 7));
        let error = store.list(ObjectKind::Pack).unwrap_err();
        assert_eq!(error.retry, Retry::Throttled(Some(Duration::from_secs(7))));
    }
}

#[test]
fn where_a_server_points_is_told_without_its_secrets() {
    let (_server, store) = against(Answer::new(307, "").with("Location", "https://me:hush@other/repo/?token=hush"));
    let error = store.list(ObjectKind::Pack).unwrap_err();
    assert!(error.text.contains("https://other/repo/") && !error.text.contains("hush"), "{error}");
}

#[test]
fn bytes_that_are_missing_are_an_error_that_may_pass() {
    let id = Id::of(b"x");
    let broken = [Manner::Truncated(10), Manner::ResetAfter(10), Manner::Reset];
    for manner in broken {
        let (_server, store) = against(Answer::new(200, vec![7; 1000]).sent(manner));
        let error = store.get(ObjectKind::Pack, &id, None).unwrap_err();
        assert_eq!(error.retry, Retry::Soon, "{manner:?}: {error}");
        let part = Answer::new(206, vec![7; 1000]).with("Content-Range", "bytes 500-1499/9000").sent(manner);
        let (_server, store) = against(part);
        let error = store.get(ObjectKind::Pack, &id, Some(500..1500)).unwrap_err();
        assert_eq!(error.retry, Retry::Soon, "{manner:?}: {error}");
    }
    // An answer that is in itself whole.
    let (_server, store) = against(Answer::new(206, vec![7; 10]).with("Content-Range", "bytes 500-509/9000"));
    let error = store.get(ObjectKind::Pack, &id, Some(500..1500)).unwrap_err();
    assert_eq!(error.retry, Retry::Soon);
    assert!(error.text.contains("10 of 1000 bytes"), "{error}");
}

#[test]
fn other_bytes_than_those_asked_for_are_refused() {
    let (_server, store) = against(Answer::new(206, vec![7; 10]).with("Content-Range", "bytes 0-9/9000"));
    let error = store.get(ObjectKind::Pack, &Id::of(b"x"), Some(500..510)).unwrap_err();
    assert_eq!(error.retry, Retry::Never);
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    for silent_after in [0, 5, 60] {
        let (_server, store) = against(Answer::new(200, vec![7; 1000]).sent(Manner::SilentAfter(silent_after)));
        let error = store.get(ObjectKind::Pack, &Id::of(b"x"), None).unwrap_err();
        assert_eq!(error.retry, Retry::Soon);
        assert!(error.text.contains("nothing moved for 0.3 s"), "{error}");
        assert_eq!(store.put(ObjectKind::Pack, &Id::of(b"x"), b"x").unwrap_err().retry, Retry::Soon);
    }
}

#[test]
fn a_page_for_people_is_no_list() {
    let (_server, store) =
        against(Answer::new(200, "<html>Hello</html>").with("Content-Type", "text/html; charset=utf-8"));
    let error = store.list(ObjectKind::Pack).unwrap_err();
    assert_eq!(error.retry, Retry::Never);
    assert!(error.text.contains("(text/html) is no list of objects"), "{error}");
}

#[test]
fn a_list_of_nothing_may_be_null_and_foreign_names_are_left_out() {
    let (_server, store) = against(Answer::new(200, "null"));
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), []);
    let id = Id::of(b"x");
    let text = format!(
        r#"[{{"name":"{id}","size":5}},{{"name":"{}","size":5}},{{"name":"x","size":1}}]"#,
        id.to_hex().to_uppercase()
    );
    let (_server, store) = against(Answer::new(200, text).with("Content-Type", super::VERSION_2));
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [(id, 5)]);
}

#[test]
fn a_certificate_file_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let open = || {
        let options = RestOptions { certificates: Some(path.clone()), ..RestOptions::default() };
        RestStore::new("https://127.0.0.1:1/", options).unwrap_err().to_string()
    };
    assert!(open().contains("cannot read the certificate file") && open().contains("ca.pem"), "{}", open());
    std::fs::write(&path, "no certificate").unwrap();
    assert!(open().contains("holds no certificate"), "{}", open());
}
