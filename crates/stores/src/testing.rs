//! What every store must do. A store's own tests call [`behaves`] with fresh, empty stores. Below are servers to test
//! against.

pub mod http;
pub mod rest_server;

use std::sync::Arc;

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};

const CONTENT_NAMED: [ObjectKind; 5] =
    [ObjectKind::Key, ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack];

/// Runs the suite. `make` gives a new, empty store each time.
///
/// # Panics
/// At the first thing that the store does wrong: this is a test.
pub fn behaves(make: impl Fn() -> Arc<dyn Store>) {
    an_empty_store_lists_nothing(&*make());
    what_is_put_comes_back(&*make());
    directories_are_made_on_demand(&*make());
    config_is_written_once(&*make());
    ranges_are_exact(&*make());
    putting_the_same_twice_is_no_error(&*make());
    what_is_missing_is_not_found(&*make());
    deleting_twice_is_no_error(&*make());
    many_threads_may_write(&make());
    creating_twice_keeps_everything(&*make());
}

fn an_empty_store_lists_nothing(store: &dyn Store) {
    for kind in CONTENT_NAMED {
        assert_eq!(store.list(kind).unwrap(), [], "{kind}");
    }
    assert_eq!(store.size(ObjectKind::Config, &Id::default()).unwrap(), None);
    assert!(!store.location().is_empty());
}

fn what_is_put_comes_back(store: &dyn Store) {
    store.create().unwrap();
    for kind in CONTENT_NAMED {
        let bodies: [&[u8]; 3] = [b"one", b"second", &[7; 100_000]];
        let mut expected: Vec<(Id, u64)> = bodies.iter().map(|body| (Id::of(body), body.len() as u64)).collect();
        for body in bodies {
            store.put(kind, &Id::of(body), body).unwrap();
            assert_eq!(store.get(kind, &Id::of(body), None).unwrap(), body);
            assert_eq!(store.size(kind, &Id::of(body)).unwrap(), Some(body.len() as u64));
        }
        let mut listed = store.list(kind).unwrap();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected, "{kind}");
    }
}

fn directories_are_made_on_demand(store: &dyn Store) {
    for kind in CONTENT_NAMED {
        store.put(kind, &Id::of(b"x"), b"x").unwrap();
        assert_eq!(store.list(kind).unwrap(), [(Id::of(b"x"), 1)], "{kind}");
    }
}

fn config_is_written_once(store: &dyn Store) {
    let any = Id::of(b"ignored");
    store.put(ObjectKind::Config, &Id::default(), b"first").unwrap();
    let error = store.put(ObjectKind::Config, &any, b"second").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists);
    assert_eq!(store.get(ObjectKind::Config, &any, None).unwrap(), b"first");
    assert_eq!(store.list(ObjectKind::Config).unwrap().len(), 1);
    for kind in CONTENT_NAMED {
        assert_eq!(store.list(kind).unwrap(), [], "{kind}");
    }
}

fn ranges_are_exact(store: &dyn Store) {
    let body: Vec<u8> = (0..=255).collect();
    let id = Id::of(&body);
    store.put(ObjectKind::Pack, &id, &body).unwrap();
    for range in [0..0, 0..1, 10..200, 255..256, 0..256, 256..256] {
        let bytes = store.get(ObjectKind::Pack, &id, Some(range.clone())).unwrap();
        assert_eq!(bytes, body[range.start as usize..range.end as usize], "{range:?}");
    }
    for range in [0..257, 256..257, 1000..1001] {
        assert!(store.get(ObjectKind::Pack, &id, Some(range.clone())).is_err(), "{range:?} is beyond the end");
    }
}

fn putting_the_same_twice_is_no_error(store: &dyn Store) {
    let id = Id::of(b"twice");
    store.put(ObjectKind::Pack, &id, b"twice").unwrap();
    store.put(ObjectKind::Pack, &id, b"twice").unwrap();
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [(id, 5)]);
}

fn what_is_missing_is_not_found(store: &dyn Store) {
    for kind in CONTENT_NAMED.into_iter().chain([ObjectKind::Config]) {
        let id = Id::of(b"nowhere");
        assert_eq!(store.get(kind, &id, None).unwrap_err().kind, StoreErrorKind::NotFound, "{kind}");
        assert_eq!(store.get(kind, &id, Some(0..1)).unwrap_err().kind, StoreErrorKind::NotFound, "{kind}");
        assert_eq!(store.size(kind, &id).unwrap(), None, "{kind}");
    }
}

fn deleting_twice_is_no_error(store: &dyn Store) {
    for kind in CONTENT_NAMED {
        let id = Id::of(b"gone");
        store.put(kind, &id, b"gone").unwrap();
        store.delete(kind, &id).unwrap();
        store.delete(kind, &id).unwrap();
        assert_eq!(store.list(kind).unwrap(), [], "{kind}");
    }
}

fn many_threads_may_write(store: &Arc<dyn Store>) {
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            scope.spawn(move || {
                for number in 0..20_u32 {
                    // Half of them are written by two threads at the same time.
                    let body = (number * 8 + thread / 2 * 2 + (thread & number & 1)).to_le_bytes();
                    store.put(ObjectKind::Pack, &Id::of(&body), &body).unwrap();
                    assert_eq!(store.get(ObjectKind::Pack, &Id::of(&body), None).unwrap(), body);
                }
            });
        }
    });
    for (id, size) in store.list(ObjectKind::Pack).unwrap() {
        assert_eq!(size, 4);
        assert_eq!(Id::of(&store.get(ObjectKind::Pack, &id, None).unwrap()), id);
    }
}

fn creating_twice_keeps_everything(store: &dyn Store) {
    store.create().unwrap();
    store.put(ObjectKind::Snapshot, &Id::of(b"kept"), b"kept").unwrap();
    store.create().unwrap();
    assert_eq!(store.list(ObjectKind::Snapshot).unwrap(), [(Id::of(b"kept"), 4)]);
}
