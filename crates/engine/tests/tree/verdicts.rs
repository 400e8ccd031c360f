//! What is said about entries that could not be saved, and what becomes of the rest.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use backstay_core::{End, Id, ObjectKind, Outcome, Store, StoreError, StoreErrorKind};
use backstay_engine::tree::{TreeError, TreeOptions, back_up_tree};
use backstay_repository::writer::{WriteOptions, Writer};
use rustix::io::Errno;

use crate::kinds::noise;
use crate::support::{Fixture, Witness, repository_in};

#[test]
fn a_file_that_vanishes_before_it_is_opened_failed() {
    let fixture = Fixture::new();
    for number in 0..400 {
        fixture.write(&format!("f{number:03}"), b"x");
    }
    let last: Vec<PathBuf> = (350..400).map(|number| fixture.data().join(format!("f{number}"))).collect();
    let once = Once::new();
    let remove = |_: &Path| once.call_once(|| last.iter().for_each(|path| std::fs::remove_file(path).unwrap()));
    let witness = Witness { on_current: Some(&remove), ..Witness::default() };
    let done = fixture.back_up_with(&[fixture.data()], None, &TreeOptions::default(), witness).unwrap();
    for path in &last {
        let (errno, text) = done.failure(path);
        assert_eq!(errno, Some(Errno::NOENT.raw_os_error()));
        assert!(text.contains("vanished") && text.contains(path.to_str().unwrap()), "{text}");
        assert!(done.find(path).is_none());
    }
    assert_eq!(done.result.report.tally.failed, 50);
    assert_eq!(done.result.report.tally.saved, 351);
    assert_eq!(done.result.end, End::Whole);
}

#[test]
fn a_file_that_keeps_changing_failed_and_is_there_as_it_was_read() {
    let fixture = Fixture::new();
    let small = fixture.write("small", b"0123456789");
    let other = fixture.write("other", b"calm");
    let grow = |_: u64| OpenOptions::new().append(true).open(&small).unwrap().write_all(b"+").unwrap();
    let done = fixture
        .back_up_with(
            std::slice::from_ref(&small),
            None,
            &TreeOptions::default(),
            Witness { on_bytes: Some(&grow), ..Witness::default() },
        )
        .unwrap();
    assert!(done.failure(&small).1.contains("changed while it was read"));
    assert_eq!(done.contents(&small), b"0123456789++");
    // It is never taken for unchanged afterwards.
    let again = fixture.back_up_on(&done, &TreeOptions::default());
    assert_eq!(again.outcome(&small), &Outcome::Saved);
    assert_eq!(again.contents(&small), std::fs::read(&small).unwrap());
    assert_eq!(again.outcome(&other), &Outcome::Saved);
}

#[test]
fn a_small_file_that_changes_once_is_read_again() {
    let fixture = Fixture::new();
    let path = fixture.write("file", b"before");
    let once = Once::new();
    let change = |_: u64| once.call_once(|| std::fs::write(&path, b"after").unwrap());
    let witness = Witness { on_bytes: Some(&change), ..Witness::default() };
    let done = fixture.back_up_with(&[fixture.data()], None, &TreeOptions::default(), witness).unwrap();
    assert_eq!(done.outcome(&path), &Outcome::Saved);
    assert_eq!(done.contents(&path), b"after");
}

#[test]
fn a_long_file_that_is_cut_while_it_is_read_has_the_size_of_what_was_read() {
    let fixture = Fixture::new();
    let path = fixture.write("file", noise(12 << 20, 4));
    let once = Once::new();
    let cut = |_: u64| once.call_once(|| OpenOptions::new().write(true).open(&path).unwrap().set_len(5 << 20).unwrap());
    let witness = Witness { on_bytes: Some(&cut), ..Witness::default() };
    let done = fixture.back_up_with(&[fixture.data()], None, &TreeOptions::default(), witness).unwrap();
    assert!(done.failure(&path).1.contains("changed while it was read"));
    assert!(done.contents(&path).len() < 12 << 20);
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_failed_with_the_errno() {
    let fixture = Fixture::new();
    let path = PathBuf::from(format!("/proc/{}/mem", std::process::id()));
    let calm = fixture.write("calm", b"calm");
    let done = fixture
        .back_up_with(&[path.clone(), fixture.data()], None, &TreeOptions::default(), Witness::default())
        .unwrap();
    let (errno, text) = done.failure(&path);
    assert_eq!(errno, Some(Errno::IO.raw_os_error()), "{text}");
    assert!(text.contains("cannot read it"), "{text}");
    assert!(done.find(&path).is_none());
    assert_eq!(done.contents(&calm), b"calm");
}

/// Runs `test` as a user without any right, on a thread of its own: Linux keeps credentials by the thread.
fn unprivileged(fixture: &Fixture, test: impl FnOnce() + Send) {
    let root = rustix::process::geteuid().is_root();
    if root {
        let nobody = rustix::fs::Uid::from_raw(65534);
        let own = |path: &Path| rustix::fs::chown(path, Some(nobody), None).unwrap();
        let mut left = vec![fixture.folder.path().to_owned()];
        while let Some(path) = left.pop() {
            own(&path);
            if path.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if root {
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn what_may_not_be_read_failed_and_the_rest_is_saved() {
    let fixture = Fixture::new();
    let secret = fixture.write("secret", b"s");
    let locked = fixture.write("locked/inside", b"i").parent().unwrap().to_owned();
    let unsearchable = fixture.write("unsearchable/inside", b"i");
    let calm = fixture.write("calm", b"c");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o100)).unwrap();
    std::fs::set_permissions(unsearchable.parent().unwrap(), PermissionsExt::from_mode(0o400)).unwrap();
    // The owner's own rights are taken away: only root could read them.
    unprivileged(&fixture, || {
        let done = fixture.back_up(&TreeOptions::default());
        for path in [&secret, &locked, &unsearchable] {
            let (errno, text) = done.failure(path);
            assert_eq!(errno, Some(Errno::ACCESS.raw_os_error()), "{text}");
            assert!(text.starts_with(path.to_str().unwrap()), "{text}");
            assert!(done.find(path).is_none());
        }
        // Nothing is said of what lies in a directory that could not be listed.
        assert!(!done.seen.contains_key(&locked.join("inside")));
        assert_eq!(done.contents(&calm), b"c");
        assert_eq!(done.names(unsearchable.parent().unwrap()), Vec::<String>::new());
        assert_eq!(done.result.report.tally.failed, 3);
        assert_eq!(done.result.report.tally.saved, 3);
    });
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::set_permissions(unsearchable.parent().unwrap(), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn an_attribute_that_may_not_be_read_is_told_and_the_file_is_saved_without_it() {
    let fixture = Fixture::new();
    let path = fixture.write("file", b"x");
    rustix::fs::setxattr(&path, "user.mark", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    unprivileged(&fixture, || {
        let options = TreeOptions { ignore_ctime: true, ..TreeOptions::default() };
        let first = fixture.back_up(&options);
        assert_eq!(first.node(&path).xattrs.len(), 1);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
        let second = fixture.back_up_on(&first, &options);
        let (errno, text) = second.failure(&path);
        assert_eq!(errno, Some(Errno::ACCESS.raw_os_error()));
        assert!(text.contains("saved without extended attribute user.mark"), "{text}");
        assert_eq!(second.node(&path).xattrs, []);
        assert_eq!(second.contents(&path), b"x");
    });
}

#[test]
fn a_store_that_takes_no_more_ends_the_walk() {
    let fixture = Fixture::new();
    for number in 0..300 {
        fixture.write(&format!("d{}/f{number}", number % 10), noise(100_000, number));
    }
    let folder = fixture.folder.path().join("small");
    let store = FullStore { inner: backstay_stores::LocalStore::new(&folder), left: AtomicUsize::new(1) };
    let repository = Arc::new(repository_in(Arc::new(store)));
    let options = WriteOptions { pack_size: 1 << 20, ..WriteOptions::default() };
    let writer = Writer::new(repository, Arc::default(), options).unwrap();
    let witness = Witness::default();
    let result = back_up_tree(&writer, None, &[fixture.data()], &TreeOptions::default(), &witness, &witness);
    let error = result.err().unwrap();
    assert!(matches!(error, TreeError::Repository(_)), "{error}");
    assert!(error.to_string().contains("no room left for the test"), "{error}");
}

/// Takes some packs and then no more.
#[derive(Debug)]
struct FullStore {
    inner: backstay_stores::LocalStore,
    left: AtomicUsize,
}

impl Store for FullStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        let room = |left: usize| left.checked_sub(1);
        if kind == ObjectKind::Pack && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Err(StoreError::new(StoreErrorKind::Full, "write", id.short(), "no room left for the test"));
        }
        self.inner.put(kind, id, body)
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.inner.get(kind, id, range)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.inner.list(kind)
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.inner.size(kind, id)
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.inner.delete(kind, id)
    }
}

#[test]
fn a_file_of_somebody_else_is_read_without_the_owners_privileges() {
    let fixture = Fixture::new();
    let path = fixture.write("theirs", b"for all to read");
    unprivileged(&fixture, || {
        // Only the owner and root may leave the access time alone; everybody else must be able to read all the same.
        let theirs = PathBuf::from("/etc/passwd");
        let done =
            fixture.back_up_with(&[theirs.clone(), path.clone()], None, &TreeOptions::default(), Witness::default());
        let done = done.unwrap();
        assert_eq!(done.contents(&theirs), std::fs::read(&theirs).unwrap());
    });
}

#[test]
fn a_root_that_is_missing_failed_and_the_others_are_saved() {
    let fixture = Fixture::new();
    let file = fixture.write("there", b"x");
    let missing = [fixture.data().join("missing"), PathBuf::from("/no such place/x"), fixture.data().join("x/y")];
    let mut roots = vec![fixture.data(), file.clone()];
    roots.extend(missing.iter().cloned());
    let done = fixture.back_up_with(&roots, None, &TreeOptions::default(), Witness::default()).unwrap();
    for path in &missing {
        assert_eq!(done.failure(path).0, Some(Errno::NOENT.raw_os_error()));
    }
    assert_eq!(done.contents(&file), b"x");
    assert_eq!(done.result.report.tally.failed, 3);
    assert!(done.find(Path::new("/no such place")).is_none());
}

#[test]
fn there_is_no_tree_when_no_root_is_there() {
    let fixture = Fixture::new();
    let missing = fixture.data().join("missing");
    for roots in [vec![missing.clone()], vec![missing.clone(), "/no such place".into()]] {
        let error = fixture.back_up_with(&roots, None, &TreeOptions::default(), Witness::default()).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, TreeError::NothingThere(_)) && text.contains("nothing to back up"), "{text}");
        assert!(text.contains("No such file") && !text.contains('\n'), "{text}");
    }
}

#[test]
fn a_cancelled_walk_stops_and_keeps_what_it_has() {
    let fixture = Fixture::new();
    for number in 0..2000 {
        fixture.write(&format!("d{}/f{number}", number % 20), b"x");
    }
    let count = AtomicUsize::new(0);
    let flag = Arc::new(AtomicBool::new(false));
    let seen = |_: &Path| {
        if count.fetch_add(1, Ordering::Relaxed) == 300 {
            flag.store(true, Ordering::Relaxed);
        }
    };
    let witness = Witness { on_entry: Some(&seen), stop: Some(Arc::clone(&flag)), ..Witness::default() };
    let done = fixture.back_up_with(&[fixture.data()], None, &TreeOptions::default(), witness).unwrap();
    assert_eq!(done.result.end, End::Stopped("the job was interrupted".to_owned()));
    let tally = done.result.report.tally;
    assert!(tally.announced > 300 && tally.announced < 1000, "{tally:?}");
    for (path, seen) in &done.seen {
        if seen[0].outcome == Outcome::Saved {
            done.node(path);
        }
    }
}

#[test]
fn a_long_file_is_given_up_when_the_job_is_cancelled() {
    let fixture = Fixture::new();
    let path = fixture.write("long", noise(40 << 20, 6));
    let flag = Arc::new(AtomicBool::new(false));
    let cancel = |_: u64| flag.store(true, Ordering::Relaxed);
    let witness = Witness { on_bytes: Some(&cancel), stop: Some(Arc::clone(&flag)), ..Witness::default() };
    let done = fixture.back_up_with(&[fixture.data()], None, &TreeOptions::default(), witness).unwrap();
    assert!(done.failure(&path).1.contains("stopped while it was read"));
    assert!(done.result.report.bytes_read < 10 << 20);
    assert!(matches!(done.result.end, End::Stopped(_)));
}
