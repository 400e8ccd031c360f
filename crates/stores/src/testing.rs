//! What every store must do. A store's own tests call [`behaves`] with fresh, empty stores. Below are servers to test
//! against.

mod daemon;
pub mod hostile;
pub mod http;
pub mod rest_server;
#[cfg(feature = "testing-s3")]
pub mod s3;
pub mod sshd;
pub mod webdav;

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
    many_are_deleted_in_one_call(&*make());
    large_objects_come_back_whole_and_in_parts(&*make());
    what_many_threads_wrote_many_threads_read(&make());
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

fn many_are_deleted_in_one_call(store: &dyn Store) {
    let ids: Vec<Id> = (0..30_u32).map(|number| Id::of(&number.to_le_bytes())).collect();
    for kind in CONTENT_NAMED {
        for (number, id) in (0..30_u32).zip(&ids) {
            store.put(kind, id, &number.to_le_bytes()).unwrap();
        }
        store.delete_all(kind, &[]).unwrap();
        let gone = Id::of(b"never there");
        let some: Vec<Id> = ids[..29].iter().copied().chain([gone]).collect();
        store.delete_all(kind, &some).unwrap();
        assert_eq!(store.list(kind).unwrap(), [(ids[29], 4)], "{kind}");
        store.delete_all(kind, &ids).unwrap();
        assert_eq!(store.list(kind).unwrap(), [], "{kind}");
    }
}

fn large_objects_come_back_whole_and_in_parts(store: &dyn Store) {
    let body: Vec<u8> = (0..20_000_003_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (id, size) = (Id::of(&body), body.len());
    store.put(ObjectKind::Pack, &id, &body).unwrap();
    assert_eq!(store.size(ObjectKind::Pack, &id).unwrap(), Some(size as u64));
    // Not assert_eq: nobody wants to read twenty megabytes.
    assert!(store.get(ObjectKind::Pack, &id, None).unwrap() == body);
    for range in [0..1, 1..10_000_000, size - 1..size, size - 9_000_000..size, 0..size] {
        let bytes = store.get(ObjectKind::Pack, &id, Some(range.start as u64..range.end as u64)).unwrap();
        assert!(bytes == body[range.clone()], "{range:?}");
    }
}

fn what_many_threads_wrote_many_threads_read(store: &Arc<dyn Store>) {
    let body = |number: u32| number.to_le_bytes().repeat(1000 + number as usize);
    let each = |work: &(dyn Fn(u32) + Sync)| {
        std::thread::scope(|scope| {
            for thread in 0..16 {
                scope.spawn(move || (0..4).for_each(|number| work(thread * 4 + number)));
            }
        });
    };
    each(&|number| store.put(ObjectKind::Pack, &Id::of(&body(number)), &body(number)).unwrap());
    each(&|number| {
        let (id, body) = (Id::of(&body(number)), body(number));
        assert_eq!(store.get(ObjectKind::Pack, &id, None).unwrap(), body);
        assert_eq!(store.get(ObjectKind::Pack, &id, Some(3..9)).unwrap(), body[3..9]);
        assert_eq!(store.size(ObjectKind::Pack, &id).unwrap(), Some(body.len() as u64));
    });
    assert_eq!(store.list(ObjectKind::Pack).unwrap().len(), 64);
}
