//! A repository's place behind a plugin: what every store does, what the plugin sees of it, and what comes of plugins that fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::{Arc, Mutex};

use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};
use common::Place;

fn put(store: &dyn Store, kind: ObjectKind, body: &[u8]) -> Id {
    let id = Id::of(body);
    store.put(kind, &id, body).unwrap();
    id
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

/// A pack of so many KiB that no other number gives.
fn pack(number: u32, kib: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(kib * 256)
}

#[test]
fn behaves_like_every_store() {
    let places: Mutex<Vec<Place>> = Mutex::default();
    backstay_stores::testing::behaves(|| {
        let place = Place::new();
        let store = place.open();
        places.lock().unwrap().push(place);
        store
    });
}

#[test]
fn hooks_come_once_for_each_way_and_the_cleanup_last() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), []);
    let lock = put(&*store, ObjectKind::Lock, b"lock");
    assert_eq!(place.calls(), Vec::<String>::new(), "nothing of this is the plugin's business");
    let one = put(&*store, ObjectKind::Pack, b"one");
    put(&*store, ObjectKind::Index, b"two");
    store.delete(ObjectKind::Lock, &lock).unwrap();
    store.get(ObjectKind::Pack, &one, None).unwrap();
    assert!(store.get(ObjectKind::Pack, &Id::of(b"missing"), None).is_err());
    drop(store);
    let series = place.series();
    let calls: Vec<_> = place.calls().into_iter().map(|call| call.replace(&series, "N")).collect();
    let hooks = |word: &str, number: &str| {
        [
            format!("{word} N{number} master \"-1\""),
            format!("{word} N{number} segment_host"),
            format!("{word} N{number} segment \"0\""),
        ]
    };
    let mut expected = vec!["plugin_api_version".to_owned(), "--version".to_owned()];
    expected.extend(hooks("setup_plugin_for_backup", "4000000"));
    assert_eq!(calls[..5], expected);
    assert!(calls[5].starts_with("backup_data pack-") && calls[6].starts_with("backup_data index-"), "{calls:?}");
    assert_eq!(calls[7..10], hooks("setup_plugin_for_restore", "4000000"));
    assert!(calls[10].starts_with("restore_data pack-"));
    assert_eq!(calls[11], "backup_data journal", "{calls:?}");
    assert_eq!(calls[12..15], hooks("cleanup_plugin_for_backup", "4000000"));
    assert_eq!(calls[15..], hooks("cleanup_plugin_for_restore", "4000000"));
    assert_eq!(std::fs::read_dir(place.state().join("run")).unwrap().count(), 0, "nothing private stays");
}

#[test]
fn what_is_stored_is_there_for_the_next_process_and_one_beside() {
    let place = Place::new();
    let first = place.open();
    let one = put(&*first, ObjectKind::Pack, b"one");
    let second = place.open();
    assert_eq!(second.get(ObjectKind::Pack, &one, None).unwrap(), b"one");
    let two = put(&*second, ObjectKind::Pack, b"two");
    let lock = put(&*second, ObjectKind::Lock, b"lock");
    assert_eq!(first.list(ObjectKind::Lock).unwrap(), [(lock, 4)]);
    assert_eq!(first.get(ObjectKind::Pack, &two, None).unwrap(), b"two");
    assert_eq!(place.timestamps('4').len(), 2, "each process has generations of its own");
    drop((first, second));
    let third = place.open();
    assert_eq!(third.list(ObjectKind::Pack).unwrap().len(), 2);
    assert_eq!(place.heard().len(), 1, "the number is told once");
}

#[test]
fn a_generation_goes_when_nothing_in_it_is_wanted_and_kinds_do_not_hold_each_other() {
    let place = Place::new();
    let store = place.open();
    let packs: Vec<_> = (0..10).map(|number| put(&*store, ObjectKind::Pack, &pack(number, 1))).collect();
    let snapshot = put(&*store, ObjectKind::Snapshot, b"snapshot");
    assert_eq!((place.timestamps('4').len(), place.timestamps('2').len()), (2, 1), "eight packs are a generation");
    store.delete(ObjectKind::Snapshot, &snapshot).unwrap();
    assert_eq!((place.timestamps('4').len(), place.timestamps('2').len()), (2, 0));
    let calls = place.calls();
    let at = |word: &str| calls.iter().position(|call| call.starts_with(word)).unwrap();
    assert!(at("backup_data journal") < at("delete_backup"), "first a copy says so: {calls:?}");
    store.delete_all(ObjectKind::Pack, &packs[8..]).unwrap();
    assert_eq!(place.timestamps('4').len(), 1);
    // Half of it is garbage: it stays.
    store.delete_all(ObjectKind::Pack, &packs[..4]).unwrap();
    let before = place.timestamps('4');
    assert_eq!(before.len(), 1);
    // A quarter of it is wanted: that is written anew.
    store.delete_all(ObjectKind::Pack, &packs[4..6]).unwrap();
    let after = place.timestamps('4');
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    for (number, id) in (6..8).zip(&packs[6..8]) {
        assert_eq!(store.get(ObjectKind::Pack, id, None).unwrap(), pack(number, 1));
    }
    drop(store);
    let again = place.open();
    assert_eq!(again.get(ObjectKind::Pack, &packs[7], Some(4..8)).unwrap(), 7_u32.to_le_bytes());
    assert_eq!(again.list(ObjectKind::Pack).unwrap().len(), 2);
}

#[test]
fn the_generation_that_another_process_fills_stays() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    let one = put(&*first, ObjectKind::Pack, b"one");
    let two = put(&*second, ObjectKind::Pack, b"two");
    second.delete_all(ObjectKind::Pack, &[one, two]).unwrap();
    assert_eq!(place.timestamps('4').len(), 1, "the first may be storing something there");
    let three = put(&*first, ObjectKind::Pack, b"three");
    drop(first);
    second.delete(ObjectKind::Pack, &three).unwrap();
    assert_eq!(place.timestamps('4'), Vec::<String>::new());
}

#[test]
fn a_full_generation_stays_while_anything_is_on_its_way_into_it() {
    // The first eight wait.
    let place = Place::with(
        "case $word$timestamp in backup_data???????4000000) touch $place/waits.$$; for i in $(seq 1000); do [ -e $place/go ] && break; \
         sleep 0.02; done;; esac",
    );
    let store = place.try_open(&["connections=20"]).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let store = &store;
                scope.spawn(move || put(&**store, ObjectKind::Pack, &pack(number, 1)))
            })
            .collect();
        let waiting = || {
            let all = std::fs::read_dir(place.path("")).unwrap().flatten();
            all.filter(|entry| entry.file_name().to_str().unwrap().starts_with("waits")).count()
        };
        for _ in 0..1000 {
            if waiting() == 8 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let ninth = put(&*store, ObjectKind::Pack, b"ninth");
        store.delete(ObjectKind::Pack, &ninth).unwrap();
        let second = place.open();
        let tenth = put(&*second, ObjectKind::Pack, b"tenth");
        second.delete(ObjectKind::Pack, &tenth).unwrap();
        assert!(!place.calls().iter().any(|call| call.starts_with("delete_backup") && call.ends_with("4000000")));
        std::fs::write(place.path("go"), "").unwrap();
        for (number, thread) in (0..8).zip(threads) {
            let id = thread.join().unwrap();
            assert_eq!(second.get(ObjectKind::Pack, &id, None).unwrap(), pack(number, 1));
        }
    });
}

#[test]
fn a_plugin_that_cannot_delete_keeps_everything_and_says_so() {
    let place = Place::with("if [ $word = plugin_api_version ]; then echo 0.3.0; exit; fi");
    let store = place.open();
    let one = put(&*store, ObjectKind::Pack, b"one");
    let lock = put(&*store, ObjectKind::Lock, b"lock");
    store.delete(ObjectKind::Lock, &lock).unwrap();
    let error = store.delete(ObjectKind::Pack, &one).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    has(&error.to_string(), &["0.3.0", "0.4.0", "nothing was deleted"]);
    assert_eq!(store.get(ObjectKind::Pack, &one, None).unwrap(), b"one");
}

#[test]
fn a_put_that_fails_is_tried_under_another_key_and_its_remains_are_garbage() {
    let place = Place::with("");
    let store = place.open();
    let one = put(&*store, ObjectKind::Pack, b"one");
    // It stores half of the object and fails, once.
    place.becomes(
        "if [ $word = backup_data ] && [ ! -e $place/failed ]; then touch $place/failed; head -c 2 >\"$file\"; echo full >&2; exit 7; fi",
    );
    let body = pack(1, 100);
    let two = put(&*store, ObjectKind::Pack, &body);
    assert_eq!(store.get(ObjectKind::Pack, &two, None).unwrap(), body);
    let files = std::fs::read_dir(place.path("store").join(&place.timestamps('4')[0])).unwrap().count();
    assert_eq!(files, 3, "the dead one has a name of its own");
    // Garbage counts: what is wanted is less than a quarter of it.
    store.delete(ObjectKind::Pack, &two).unwrap();
    assert_eq!(store.get(ObjectKind::Pack, &one, None).unwrap(), b"one");
    let after = place.timestamps('4');
    assert_eq!((after.len(), &after[0][7..]), (1, "4000001"));
}

#[test]
fn a_plugin_that_fails_for_good_is_told_with_its_words() {
    for (case, parts) in [
        ("[ $word = backup_data ] && { echo no room here >&2; exit 7; }", &["status 7", "no room here"][..]),
        ("[ $word = backup_data ] && exit 0", &["had not read its input"]),
        ("[ $word = backup_data ] && kill -9 $$", &["signal 9"]),
        ("[ $word = setup_plugin_for_backup ] && { echo closed >&2; exit 1; }", &["setup_plugin_for_backup", "closed"]),
        ("[ $word = plugin_api_version ] && { echo 0.2.0; exit; }", &["0.2.0", "0.3.0"]),
        ("[ $word = backup_data ] && sleep 100", &["did not end for 1 second"]),
    ] {
        let place = Place::with(case);
        let folder = place.path("state/x");
        let store = backstay_gpbackup_store::open(
            &place.path("config.yaml"),
            &backstay_stores::StoreOptions {
                extended: vec!["gpbackup.patience=1".to_owned()],
                ..backstay_stores::StoreOptions::default()
            },
            &folder,
        )
        .unwrap();
        let body = pack(1, 500);
        let error = store.put(ObjectKind::Pack, &Id::of(&body), &body).unwrap_err().to_string();
        has(&error, parts);
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(store.list(ObjectKind::Pack).unwrap(), [], "{case}");
        assert!(store.get(ObjectKind::Pack, &Id::of(&body), None).is_err());
    }
}

#[test]
fn what_comes_otherwise_than_it_was_stored_is_not_believed() {
    let body = pack(5, 200);
    for (case, part) in [
        ("head -c 1000 \"$file\"; exit", "1000 bytes of the 204800"),
        ("cat \"$file\"; echo more; exit", "more than the 204800"),
        ("tr '\\005' '\\006' <\"$file\"; exit", "other bytes"),
        ("cat \"$file\"; echo broken >&2; exit 3", "broken"),
        ("exit 0", "0 bytes of"),
        ("head -c 1000 \"$file\"; kill -9 $$", "signal 9"),
    ] {
        let place = Place::new();
        let store = place.open();
        let id = put(&*store, ObjectKind::Pack, &body);
        place.becomes(&format!("if [ $word = restore_data ]; then {case}; fi"));
        for range in [None, Some(10..20)] {
            let error = store.get(ObjectKind::Pack, &id, range).unwrap_err().to_string();
            has(&error, &[part, &id.to_hex()]);
        }
        // It recovers, and comes once more.
        place.becomes("");
        assert_eq!(store.get(ObjectKind::Pack, &id, Some(10..20)).unwrap(), body[10..20]);
        assert!(store.get(ObjectKind::Pack, &id, None).unwrap() == body);
    }
}

#[test]
fn one_that_comes_wrong_once_is_read_again() {
    let place = Place::new();
    let store = place.open();
    let body = pack(5, 200);
    let id = put(&*store, ObjectKind::Pack, &body);
    place.becomes(
        "if [ $word = restore_data ] && [ ! -e $place/once ]; then touch $place/once; head -c 9 \"$file\"; exit; fi",
    );
    assert!(store.get(ObjectKind::Pack, &id, None).unwrap() == body);
}

#[test]
fn many_ranges_of_a_pack_are_one_read_unless_the_plugin_reads_ranges() {
    let place = Place::new();
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let id = {
        let store = place.open();
        put(&*store, ObjectKind::Pack, &body)
    };
    let read = |store: &Arc<dyn Store>| {
        place.calls();
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                let body = &body;
                scope.spawn(move || {
                    for number in 0..20_usize {
                        let range = thread * 1000 + number * 7..thread * 1000 + number * 7 + 500;
                        let bytes =
                            store.get(ObjectKind::Pack, &id, Some(range.start as u64..range.end as u64)).unwrap();
                        assert_eq!(bytes, body[range]);
                    }
                });
            }
        });
        let calls = place.calls();
        let count = |word: &str| calls.iter().filter(|call| call.split(' ').next() == Some(word)).count();
        (count("restore_data"), count("restore_data_subset"))
    };
    assert_eq!(read(&place.open()), (1, 0));
    let config = place.path("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap() + "  restore_subset: on\n";
    std::fs::write(config, text).unwrap();
    assert_eq!(read(&place.open()), (0, 160));
}

#[test]
fn no_more_processes_run_at_once_than_connections_allow() {
    let place = Place::with(
        "if [ $word = backup_data ]; then mkdir -p $place/busy; touch $place/busy/$$; ls $place/busy | wc -l >>$place/most; sleep 0.05; \
         rm $place/busy/$$; fi",
    );
    let store = place.try_open(&["connections=3"]).unwrap();
    assert_eq!(store.calls_at_once(), 3);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let store = &store;
            scope.spawn(move || put(&**store, ObjectKind::Pack, &pack(number, 1)));
        }
    });
    let most = std::fs::read_to_string(place.path("most")).unwrap();
    let most: Vec<u32> = most.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!(most.len() == 12 && most.iter().all(|count| *count <= 3), "{most:?}");
}

/// Objects of several runs, with some deleted.
fn fill(place: &Place) -> Vec<(ObjectKind, Id, Vec<u8>)> {
    let mut there = Vec::new();
    for run in 0..5_u32 {
        let store = place.open();
        if run == 0 {
            store.put(ObjectKind::Config, &Id::default(), b"config").unwrap();
            there.push((ObjectKind::Config, Id::default(), b"config".to_vec()));
        }
        for number in 0..4 {
            let body = pack(run * 10 + number, 1);
            there.push((ObjectKind::Pack, put(&*store, ObjectKind::Pack, &body), body));
        }
        let body = run.to_le_bytes().to_vec();
        there.push((ObjectKind::Snapshot, put(&*store, ObjectKind::Snapshot, &body), body));
        if run == 3 {
            let (gone, stays): (Vec<_>, Vec<_>) =
                there.into_iter().partition(|(kind, _, body)| *kind == ObjectKind::Pack && body[0] < 4);
            there = stays;
            let ids: Vec<_> = gone.iter().map(|(_, id, _)| *id).collect();
            store.delete_all(ObjectKind::Pack, &ids).unwrap();
        }
    }
    there
}

fn assert_holds(store: &dyn Store, there: &[(ObjectKind, Id, Vec<u8>)]) {
    for kind in [ObjectKind::Config, ObjectKind::Key, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack] {
        let expected = there.iter().filter(|(of, ..)| *of == kind).count();
        assert_eq!(store.list(kind).unwrap().len(), expected, "{kind}");
    }
    for (kind, id, body) in there {
        assert!(store.get(*kind, id, None).unwrap() == *body, "{kind} {id}");
    }
}

#[test]
fn a_lost_journal_is_found_again_by_its_number_and_by_the_last_copy() {
    let place = Place::new();
    let there = fill(&place);
    let series = place.series();
    let copies = place.timestamps('0');
    assert_eq!(copies.len(), 5, "one a run");
    for from in [&series, copies.last().unwrap()] {
        let last = place.timestamps('0').pop().unwrap();
        place.lose_the_journal();
        assert_eq!(place.open().size(ObjectKind::Config, &Id::default()).unwrap(), None);
        has(&place.heard()[0], &["no journal", "gpbackup.rebuild"]);
        place.calls();
        let store = place.try_open(&[&format!("rebuild={from}")]).unwrap();
        has(&place.heard()[0], &["rebuilt from ", &last, "must not write"]);
        let misses = place.calls().iter().filter(|call| call.starts_with("restore_data ")).count();
        assert!(misses <= 5 + 1 + 2 * 4, "{misses}");
        assert_holds(&*store, &there);
        // Numbers that the lost host may have used are not used again.
        put(&*store, ObjectKind::Pack, b"new");
        assert!(place.timestamps('4').last().unwrap()[7..] >= *"4001005");
        store.delete(ObjectKind::Pack, &Id::of(b"new")).unwrap();
        drop(store);
    }
    // What the second host did is found by a third one.
    place.lose_the_journal();
    assert_holds(&*place.try_open(&[&format!("rebuild={series}")]).unwrap(), &there);
    let error = place.try_open(&[&format!("rebuild={series}")]).unwrap_err().to_string();
    has(&error, &["a journal already"]);
}

#[test]
fn copies_that_failed_or_are_damaged_do_not_hide_the_later_ones() {
    let place = Place::new();
    let mut there = fill(&place);
    let series = place.series();
    // Three runs whose copies fail: one after it was stored whole, as when only the answer is lost.
    for (number, after) in [(100, "cat >/dev/null"), (101, "mkdir -p $store/$timestamp; cat >$file"), (102, ":")] {
        place.becomes(&format!("if [ $word = backup_data ] && [ $name = journal ]; then {after}; exit 9; fi"));
        let store = place.open();
        let body = pack(number, 1);
        there.push((ObjectKind::Pack, put(&*store, ObjectKind::Pack, &body), body));
        drop(store);
        has(&place.heard().join(";"), &["no copy of the journal", "status 9"]);
    }
    place.becomes("");
    {
        let store = place.open();
        let body = pack(103, 1);
        there.push((ObjectKind::Pack, put(&*store, ObjectKind::Pack, &body), body));
    }
    place.lose_the_journal();
    assert_holds(&*place.try_open(&[&format!("rebuild={series}")]).unwrap(), &there);
    // A damaged copy in the middle: what comes after it does not fit any more.
    place.lose_the_journal();
    let copy = &place.timestamps('0')[2];
    std::fs::write(place.path("store").join(copy).join("journal"), "rubbish").unwrap();
    let error = place.try_open(&[&format!("rebuild={series}")]).unwrap_err().to_string();
    has(&error, &["does not continue the one before it"]);
}

#[test]
fn long_histories_are_found_too_and_old_copies_go() {
    let place = Place::new();
    let mut last = Vec::new();
    let mut series = String::new();
    for run in 0..130_u32 {
        let store = place.open();
        last = run.to_le_bytes().to_vec();
        put(&*store, ObjectKind::Snapshot, &last);
        drop(store);
        if run == 0 {
            series = place.series();
        }
    }
    let snapshots = place.open().list(ObjectKind::Snapshot).unwrap();
    assert_eq!(snapshots.len(), 130);
    assert_eq!(place.timestamps('0').len(), 130);
    for (id, _) in &snapshots[..20] {
        place.open().delete(ObjectKind::Snapshot, id).unwrap();
    }
    assert!(place.timestamps('0').len() < 110, "{}", place.timestamps('0').len());
    place.lose_the_journal();
    let store = place.try_open(&[&format!("rebuild={series}")]).unwrap();
    assert_eq!(store.list(ObjectKind::Snapshot).unwrap().len(), 110);
    let _ = store.get(ObjectKind::Snapshot, &Id::of(&last), None);
}

#[test]
fn nothing_is_rebuilt_from_nothing_or_with_a_plugin_that_fails() {
    let place = Place::new();
    let error = place.try_open(&["rebuild=4123456"]).unwrap_err().to_string();
    has(&error, &["no copy of the journal", "4123456"]);
    fill(&place);
    let series = place.series();
    place.lose_the_journal();
    place.becomes("[ $word = restore_data ] && { echo the line is down >&2; exit 1; }");
    let error = place.try_open(&[&format!("rebuild={series}")]).unwrap_err().to_string();
    has(&error, &["no copy of the journal", "the line is down"]);
    // It ceases to read in the midst.
    place.becomes(
        "if [ $word = restore_data ]; then case $timestamp in *0000400) touch $place/down;; esac; [ ! -e $place/down ] || exit 1; fi",
    );
    let error = place.try_open(&[&format!("rebuild={series}"), "connections=1"]).unwrap_err().to_string();
    has(&error, &["ceased to read"]);
    for wrong in ["rebuild=2123456", "rebuild=412345", "rebuild=41234564000001", "cache=0", "patience=x", "colour=red"]
    {
        let error = place.try_open(&[wrong]).unwrap_err().to_string();
        has(&error, &[wrong.split('=').next().unwrap()]);
    }
}

#[test]
fn the_host_that_took_over_is_the_one_that_counts() {
    let place = Place::new();
    fill(&place);
    let series = place.series();
    let first = place.path("first");
    std::fs::rename(place.path("state"), &first).unwrap();
    {
        let store = place.try_open(&[&format!("rebuild={series}")]).unwrap();
        put(&*store, ObjectKind::Pack, b"of the second host");
        drop(store);
        let store = place.open();
        put(&*store, ObjectKind::Pack, b"of the second host again");
    }
    std::fs::rename(place.path("state"), place.path("second")).unwrap();
    std::fs::rename(&first, place.path("state")).unwrap();
    // This plugin lets nobody store under a key again: the first host's copy is refused, its object is not.
    put(&*place.open(), ObjectKind::Pack, b"of the first host");
    place.lose_the_journal();
    let store = place.try_open(&[&format!("rebuild={series}")]).unwrap();
    assert!(store.size(ObjectKind::Pack, &Id::of(b"of the second host again")).unwrap().is_some());
}

#[test]
fn addresses_and_configurations_that_are_none_are_refused() {
    let place = Place::new();
    std::fs::write(place.path("config.yaml"), "executablepath: bin/x\n").unwrap();
    has(&place.try_open(&[]).unwrap_err().to_string(), &["config.yaml", "absolute"]);
    std::fs::remove_file(place.path("config.yaml")).unwrap();
    has(&place.try_open(&[]).unwrap_err().to_string(), &["config.yaml", "No such file"]);
    let options = backstay_stores::StoreOptions::default();
    let error = backstay_stores::open("gpbackup:/x", &options).unwrap_err().to_string();
    has(&error, &["without gpbackup stores"]);
    assert!(
        backstay_stores::open("gpbackup:", &options).unwrap_err().to_string().contains("names no configuration file")
    );
}
