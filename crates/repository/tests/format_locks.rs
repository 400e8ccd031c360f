//! Locks, ours and restic's, against each other.

#![allow(clippy::unwrap_used)]

mod format_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind, Time};
use backstay_repository::lock::{LockInfo, LockTimes};
use backstay_repository::{Error, Repository, SnapshotTime};
use format_support::{open, repository, restic, restic_ok};

fn quick() -> LockTimes {
    LockTimes { settle: Duration::from_millis(5), first_retry: Duration::from_millis(20), ..LockTimes::default() }
}

fn count(repository: &Repository) -> usize {
    repository.store().list(ObjectKind::Lock).unwrap().len()
}

/// Stores a lock of someone else.
fn foreign(repository: &Repository, change: impl FnOnce(&mut LockInfo)) -> Id {
    let mut info = LockInfo {
        time: SnapshotTime::now(),
        exclusive: false,
        hostname: "elsewhere".to_owned(),
        username: "someone".to_owned(),
        pid: 4711,
        uid: 1,
        gid: 1,
    };
    change(&mut info);
    repository.save_unpacked(ObjectKind::Lock, &serde_json::to_vec(&info).unwrap()).unwrap()
}

#[test]
fn shared_locks_go_together_and_exclusive_ones_with_nothing() {
    let (_folder, repository) = repository();
    let first = repository.lock_with(false, None, quick()).unwrap();
    let second = repository.lock_with(false, None, quick()).unwrap();
    assert_eq!(count(&repository), 2);
    let error = repository.lock_with(true, None, quick()).unwrap_err();
    let Error::Locked(conflict) = &error else { panic!("{error}") };
    assert_eq!(conflict.holder.pid, std::process::id());
    drop((first, second));
    assert_eq!(count(&repository), 0);
    let exclusive = repository.lock_with(true, None, quick()).unwrap();
    for wanted in [false, true] {
        assert!(matches!(repository.lock_with(wanted, None, quick()).unwrap_err(), Error::Locked(_)));
    }
    drop(exclusive);
    assert_eq!(count(&repository), 0);
}

#[test]
fn a_lock_says_what_restics_say() {
    let (_folder, repository) = repository();
    let _lock = repository.lock_with(true, None, quick()).unwrap();
    let [(id, _)] = repository.store().list(ObjectKind::Lock).unwrap()[..] else { panic!("one lock") };
    let json = String::from_utf8(repository.load_unpacked(ObjectKind::Lock, &id).unwrap()).unwrap();
    let keys: Vec<&str> =
        json.split('"').filter(|part| part.chars().all(|c| c.is_ascii_lowercase()) && part.len() > 2).collect();
    let wanted = ["time", "exclusive", "hostname", "username", "pid"];
    let places: Vec<usize> = wanted.iter().map(|key| keys.iter().position(|have| have == key).unwrap()).collect();
    assert!(places.is_sorted(), "{json}");
    let info: LockInfo = serde_json::from_str(&json).unwrap();
    assert!(info.exclusive && !info.hostname.is_empty() && !info.is_stale());
}

#[test]
fn a_conflict_tells_who_holds_it_since_when_and_what_to_do() {
    let (_folder, repository) = repository();
    let id = foreign(&repository, |info| {
        info.exclusive = true;
        info.time = Time { seconds: info.time.time().seconds - 7300, nanoseconds: 0 }.into();
    });
    let text = repository.lock_with(false, None, quick()).unwrap_err().to_string();
    for part in ["exclusively locked", "4711", "someone", "elsewhere", "2 hours", &id.short(), "unlock"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(count(&repository), 1, "a foreign lock is never deleted, and our own does not stay");
}

#[test]
fn a_lock_of_a_dead_process_of_this_host_is_recognised_and_left_alone() {
    let (_folder, repository) = repository();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    foreign(&repository, |info| {
        info.exclusive = true;
        info.pid = child.id();
        info.hostname = backstay_repository::lock::host_name();
    });
    let error = repository.lock_with(false, None, quick()).unwrap_err().to_string();
    assert!(error.contains("process is gone") && error.contains("unlock"), "{error}");
    assert!(repository.locks().unwrap()[0].1.is_stale());
    assert_eq!(count(&repository), 1);
}

#[test]
fn a_lock_is_waited_for_as_long_as_asked() {
    let (_folder, repository) = repository();
    let held = repository.lock_with(true, None, quick()).unwrap();
    let started = Instant::now();
    let error = repository.lock_with(false, Some(Duration::from_millis(150)), quick()).unwrap_err();
    assert!(matches!(error, Error::Locked(_)));
    assert!(started.elapsed() >= Duration::from_millis(150), "it gave up before its time");
    let other = Arc::clone(&repository);
    let waiting = std::thread::spawn(move || other.lock_with(false, Some(Duration::from_secs(60)), quick()));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    drop(held);
    waiting.join().unwrap().unwrap().check().unwrap();
}

#[test]
fn a_lock_is_refreshed_by_a_new_file_before_the_old_one_goes() {
    let (_folder, repository) = repository();
    let times = LockTimes { refresh: Duration::from_millis(100), ..quick() };
    let lock = repository.lock_with(false, None, times).unwrap();
    let mut seen = std::collections::HashSet::new();
    let end = Instant::now() + Duration::from_secs(20);
    while seen.len() < 4 && Instant::now() < end {
        let now = repository.store().list(ObjectKind::Lock).unwrap();
        assert!(!now.is_empty() && now.len() <= 2, "{} locks", now.len());
        seen.extend(now.into_iter().map(|(id, _)| id));
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(seen.len() >= 4, "it was refreshed {} times", seen.len());
    lock.check().unwrap();
    drop(lock);
    assert_eq!(count(&repository), 0);
}

#[test]
fn a_lock_that_cannot_be_refreshed_is_lost() {
    let (folder, repository) = repository();
    let times = LockTimes { refresh: Duration::from_millis(50), lost_after: Duration::from_millis(400), ..quick() };
    let lock = repository.lock_with(false, None, times).unwrap();
    lock.check().unwrap();
    // Nothing can be written any more: a file stands where the folder was.
    let locks = folder.path().join("repo/locks");
    std::fs::remove_dir_all(&locks).unwrap();
    std::fs::write(&locks, "").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match lock.check() {
            Err(error) => break error,
            Ok(()) => assert!(Instant::now() < end, "the lock is never counted as lost"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(matches!(error, Error::LockLost(_)), "{error}");
    assert!(error.to_string().contains("locks"), "the reason is told: {error}");
}

#[test]
fn a_lock_that_came_at_the_same_moment_makes_ours_give_way() {
    let (_folder, repository) = repository();
    let times = LockTimes { settle: Duration::from_millis(300), ..quick() };
    let other = Arc::clone(&repository);
    let taking = std::thread::spawn(move || other.lock_with(false, None, times));
    while count(&repository) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let rival = foreign(&repository, |info| info.exclusive = true);
    assert!(matches!(taking.join().unwrap().unwrap_err(), Error::Locked(_)));
    assert_eq!(
        repository.store().list(ObjectKind::Lock).unwrap()[..].iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [rival]
    );
}

#[test]
fn empty_lock_files_are_ignored_and_unreadable_ones_are_named() {
    let (folder, repository) = repository();
    let locks = folder.path().join("repo/locks");
    std::fs::write(locks.join(Id::of(b"empty").to_hex()), "").unwrap();
    drop(repository.lock_with(true, None, quick()).unwrap());
    let broken = Id::of(b"broken");
    std::fs::write(locks.join(broken.to_hex()), "broken").unwrap();
    let error = repository.lock_with(false, None, quick()).unwrap_err().to_string();
    assert!(error.contains(&format!("lock {broken} is damaged")), "{error}");
}

#[test]
fn restic_and_we_respect_each_others_locks() {
    let (folder, _) = repository();
    let path = folder.path().join("repo");
    let repository = open(&path);
    let shared = repository.lock_with(false, None, quick()).unwrap();
    restic_ok(&path, &["snapshots"]);
    let pruned = restic(&path, &["prune"]);
    assert!(!pruned.status.success());
    let text = String::from_utf8_lossy(&pruned.stderr).into_owned();
    assert!(text.contains("already locked") && text.contains(&std::process::id().to_string()), "{text}");
    drop(shared);
    restic_ok(&path, &["prune"]);
    let exclusive = repository.lock_with(true, None, quick()).unwrap();
    assert!(!restic(&path, &["snapshots"]).status.success());
    restic_ok(&path, &["snapshots", "--no-lock"]);
    // Fresh, and of a process that lives (restic asks by SIGHUP): restic leaves it alone.
    restic_ok(&path, &["unlock"]);
    assert_eq!(count(&repository), 1);
    drop(exclusive);
    restic_ok(&path, &["snapshots"]);
}
