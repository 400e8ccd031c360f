use std::collections::HashMap;
use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, Store, StoreError, StoreErrorKind, Time};
use backstay_repository::error::Error;
use backstay_repository::maintenance::copy::copy;
use backstay_repository::maintenance::forget::{ForgetOptions, forget};
use backstay_repository::maintenance::ledgers::Ledgers;
use backstay_repository::maintenance::merge::{MergeOptions, merge};
use backstay_repository::maintenance::rewrite::{ChangeReport, Keep, RewriteOptions, rewrite};
use backstay_repository::maintenance::tag::{TagChange, change_tags};
use backstay_repository::pack::BlobKind;
use backstay_repository::snapshot::Summary;
use backstay_repository::{Reader, Tree, WriteOptions};

use crate::support::{Place, directory, file, files, killed_everywhere, node, reader, snapshot};

fn without(name: &'static str) -> impl Fn(&[u8], bool) -> Keep + Sync {
    move |path, _| if path.ends_with(format!("/{name}").as_bytes()) { Keep::No } else { Keep::Yes }
}

fn run(place: &Place, options: &RewriteOptions<'_>, ledgers: &dyn Ledgers) -> ChangeReport {
    rewrite(&place.repository, place.repository.snapshots().unwrap(), options, ledgers, &()).unwrap()
}

fn paths(place: &Place, id: &Id) -> Vec<String> {
    let snapshot = place.repository.load_snapshot(id).unwrap();
    files(&reader(&place.repository), &snapshot.tree).into_iter().map(|(path, _)| path).collect()
}

#[test]
fn what_is_left_out_is_gone_and_everything_else_is_as_it_was() {
    let (place, ids) = Place::with_snapshots();
    let before = place.contents();
    let keep = without("own");
    let options = RewriteOptions { keep: Some(&keep), ..RewriteOptions::default() };
    let dry = run(&place, &RewriteOptions { dry_run: true, ..options }, &());
    assert_eq!(dry.changed.len(), 3);
    assert_eq!(place.contents(), before);
    let packs = place.ids(ObjectKind::Pack).len();
    let report = run(&place, &options, &());
    assert_eq!(report.changed.len(), 3);
    assert_eq!(place.ids(ObjectKind::Snapshot).len(), 6);
    assert!(place.ids(ObjectKind::Pack).len() > packs);
    for one in &report.changed {
        let snapshot = place.repository.load_snapshot(&one.new.unwrap()).unwrap();
        assert!(ids.contains(&one.old) && snapshot.original == Some(one.old));
        assert!(snapshot.tags.contains(&"rewrite".to_owned()));
        assert!(snapshot.backstay_job.is_some() && snapshot.extra.contains_key("label"));
        assert_eq!(
            paths(&place, &one.new.unwrap()),
            ["/srv", "/srv/empty", "/srv/large", "/srv/same", "/srv/sub", "/srv/sub/deep"]
        );
    }
    // What matches nothing changes nothing.
    let keep = without("no such name");
    let report = run(&place, &RewriteOptions { keep: Some(&keep), ..options }, &());
    assert_eq!((report.unchanged, report.changed.len()), (6, 0));
}

#[test]
fn a_folder_that_is_wanted_for_what_is_in_it_goes_when_nothing_is() {
    let (place, _) = Place::with_snapshots();
    let keep = |path: &[u8], directory: bool| match path {
        b"/srv/same" => Keep::Yes,
        _ if directory => Keep::IfNotEmpty,
        _ => Keep::No,
    };
    let report = run(&place, &RewriteOptions { keep: Some(&keep), forget: true, ..RewriteOptions::default() }, &());
    for one in &report.changed {
        assert_eq!(paths(&place, &one.new.unwrap()), ["/srv", "/srv/same"]);
        assert!(one.forgotten);
    }
    assert_eq!(place.ids(ObjectKind::Snapshot).len(), 3);
}

#[test]
fn host_time_and_summary_are_changed_without_a_new_tree() {
    let (place, _) = Place::with_snapshots();
    let before = place.repository.snapshots().unwrap();
    let time = Time { seconds: 1_700_000_000, nanoseconds: 0 };
    let options = RewriteOptions {
        host: Some("new"),
        time: Some(time),
        summary: true,
        forget: true,
        ..RewriteOptions::default()
    };
    run(&place, &options, &());
    let after = place.repository.snapshots().unwrap();
    let trees = |list: &[(Id, backstay_repository::Snapshot)]| {
        let mut trees: Vec<Id> = list.iter().map(|(_, snapshot)| snapshot.tree).collect();
        trees.sort();
        trees
    };
    assert_eq!(trees(&before), trees(&after));
    for (_, snapshot) in after {
        assert_eq!((&*snapshot.hostname, snapshot.time.time()), ("new", time));
        assert!(!snapshot.tags.contains(&"rewrite".to_owned()));
        let summary = snapshot.summary.unwrap();
        assert_eq!(summary.total_files_processed, 5);
        assert!(summary.total_bytes_processed > 800_000);
    }
    let nothing = rewrite(&place.repository, vec![], &RewriteOptions::default(), &(), &());
    assert!(nothing.unwrap_err().to_string().contains("nothing to do"));
}

#[test]
fn a_tree_that_another_program_wrote_in_its_own_way_is_refused_and_keeps_no_other_from_being_changed() {
    let (place, _) = Place::with_snapshots();
    let writer = place.writer();
    let nodes = [file(&writer, "own", &[b"x"]), file(&writer, "z", &[b"y"])];
    let json = String::from_utf8(Tree { nodes: nodes.to_vec() }.encode()).unwrap();
    let mut strange = vec![
        json.replace("\"links\":1", "\"novel\":7,\"links\":1"),
        json.trim_end().to_owned(),
        json.replace("{\"nodes\"", "{\"later\":1,\"nodes\""),
    ];
    let backwards = Tree { nodes: nodes.iter().rev().cloned().collect() };
    strange.push(String::from_utf8(backwards.encode()).unwrap());
    let trees: Vec<Id> = strange.iter().map(|json| writer.save(BlobKind::Tree, json.as_bytes()).unwrap()).collect();
    writer.finish().unwrap();
    let mut odd = Vec::new();
    for tree in trees {
        odd.push(place.repository.save_snapshot(&snapshot(tree, 9)).unwrap());
    }
    let keep = without("own");
    let report = run(&place, &RewriteOptions { keep: Some(&keep), forget: true, ..RewriteOptions::default() }, &());
    assert_eq!(report.changed.len(), 3);
    let mut failed: Vec<Id> = report.failed.iter().map(|(id, _)| *id).collect();
    failed.sort();
    odd.sort();
    assert_eq!(failed, odd);
    for (_, error) in &report.failed {
        assert!(error.to_string().contains("without losing information"), "{error}");
    }
    assert!(odd.iter().all(|id| place.ids(ObjectKind::Snapshot).contains(id)));
}

#[test]
fn a_rewrite_that_is_killed_loses_no_snapshot() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    let keep = without("sub");
    for forget in [false, true] {
        killed_everywhere(
            &place,
            |repository| {
                let options = RewriteOptions { keep: Some(&keep), forget, ..RewriteOptions::default() };
                rewrite(repository, repository.snapshots()?, &options, &(), &()).map(drop)
            },
            |left, _| {
                // Each of the three is there, as it was or without what was left out.
                let now = left.contents();
                for (time, content) in &before {
                    let less: Vec<_> =
                        content.iter().filter(|(path, _)| !path.starts_with("/srv/sub")).cloned().collect();
                    assert!(now.iter().any(|(t, found)| t == time && (found == content || *found == less)));
                    assert!(forget || now.iter().any(|(t, found)| t == time && found == content));
                }
            },
        );
    }
}

/// Ledgers that name what a test says.
struct Known(HashMap<String, Vec<Id>>);

impl Ledgers for Known {
    fn blobs(&self, _: &Arc<Reader>, _: &Id, source: &str, take: &mut dyn FnMut(Id)) -> Result<(), Error> {
        let known = self.0.get(source).ok_or_else(|| Error::Other("damaged".to_owned()))?;
        known.iter().for_each(|id| take(*id));
        Ok(())
    }
}

#[test]
fn a_ledger_goes_when_something_that_it_names_goes_and_stays_otherwise() {
    let place = Place::new();
    let writer = place.writer();
    let view = [file(&writer, "a", &[b"of a"]), file(&writer, "b", &[b"of b"]), file(&writer, "free", &[b"of none"])];
    let id = |text: &[u8]| Id::of(text);
    let source = |name: &str, content: &[&[u8]]| {
        directory(&writer, name, &[file(&writer, "content", content), file(&writer, "ledger", &[name.as_bytes()])])
    };
    let sources =
        [source("one", &[b"hidden one"]), source("two", &[b"hidden two"]), source("three", &[]), source("broken", &[])];
    let mut internal = directory(&writer, ".backstay", &sources);
    internal.mode = node(FileKind::Directory, "", 0o040_700).mode;
    // Sorted before the dot as well as behind it.
    place.finish(&writer, &[file(&writer, "+first", &[b"of first"]), internal, directory(&writer, "db", &view)], 0);
    let ledgers = Known(HashMap::from([
        ("one".to_owned(), vec![id(b"of a"), id(b"hidden one"), id(b"of first")]),
        ("two".to_owned(), vec![id(b"of b"), id(b"hidden two")]),
        // Names what lies in the file beside the second.
        ("three".to_owned(), vec![id(b"of first"), id(b"hidden two")]),
    ]));
    let internal_names = |place: &Place, new: &Id| -> Vec<String> {
        let names = paths(place, new).into_iter();
        names.filter(|path| path.starts_with("/.backstay/") && path.matches('/').count() == 2).collect()
    };
    let attempt = |name: &'static str| {
        let copy = place.copy();
        let keep = without(name);
        let report =
            run(&copy, &RewriteOptions { keep: Some(&keep), forget: true, ..RewriteOptions::default() }, &ledgers);
        let one = report.changed.into_iter().next().unwrap();
        let names = internal_names(&copy, &one.new.unwrap());
        let mut dropped: Vec<String> = one.dropped.into_iter().map(|ledger| ledger.source).collect();
        dropped.sort();
        (names, dropped)
    };
    assert_eq!(
        attempt("free"),
        (vec!["/.backstay/one".into(), "/.backstay/three".into(), "/.backstay/two".into()], vec!["broken".to_owned()])
    );
    assert_eq!(
        attempt("a"),
        (vec!["/.backstay/three".into(), "/.backstay/two".into()], vec!["broken".to_owned(), "one".to_owned()])
    );
    // The second takes the third with it.
    assert_eq!(
        attempt("b"),
        (vec!["/.backstay/one".into()], vec!["broken".to_owned(), "three".to_owned(), "two".to_owned()])
    );
    assert_eq!(attempt("db").1, ["broken", "one", "three", "two"].map(str::to_owned));
    // Asked to go, it goes, and nothing else changes.
    let (names, dropped) = attempt(".backstay");
    assert!(names.is_empty() && dropped.is_empty());
}

/// A store that fails while ledgers are read.
struct Cut;

impl Ledgers for Cut {
    fn blobs(&self, _: &Arc<Reader>, _: &Id, _: &str, _: &mut dyn FnMut(Id)) -> Result<(), Error> {
        Err(StoreError::new(StoreErrorKind::Other, "read", "data/00", "the network is gone").into())
    }
}

#[test]
fn a_ledger_that_the_store_cannot_give_now_stays_and_so_does_its_snapshot() {
    let place = Place::new();
    let writer = place.writer();
    let source = directory(&writer, "one", &[file(&writer, "ledger", &[b"one"])]);
    let internal = directory(&writer, ".backstay", &[source]);
    place.finish(&writer, &[internal, file(&writer, "own", &[b"own"])], 0);
    let before = place.ids(ObjectKind::Snapshot);
    let keep = without("own");
    let options = RewriteOptions { keep: Some(&keep), forget: true, ..RewriteOptions::default() };
    let snapshots = place.repository.snapshots().unwrap();
    let error = rewrite(&place.repository, snapshots, &options, &Cut, &()).unwrap_err();
    assert_eq!(error.to_string(), "read data/00: the network is gone");
    assert_eq!(place.ids(ObjectKind::Snapshot), before);
}

#[test]
fn what_other_programs_say_about_a_snapshot_survives_every_change_and_protects_it() {
    let (place, ids) = Place::with_snapshots();
    let mut snapshot = place.repository.load_snapshot(&ids[0]).unwrap();
    snapshot.extra.insert("delete".to_owned(), "Never".into());
    snapshot.extra.insert("description".to_owned(), serde_json::json!({"nested": [1, "two"]}));
    let mut summary = Summary::default();
    summary.extra.insert("command".to_owned(), "rustic backup".into());
    snapshot.summary = Some(summary);
    let (extra, words) = (snapshot.extra.clone(), snapshot.summary.clone().unwrap().extra);
    let id = place.repository.save_snapshot(&snapshot).unwrap();
    for old in ids {
        place.store.delete(ObjectKind::Snapshot, &old).unwrap();
    }

    let change = TagChange { add: vec!["more".to_owned()], ..TagChange::default() };
    change_tags(&place.repository, vec![(id, snapshot)], &change, &(), &mut |_, _| {}).unwrap();
    let keep = without("own");
    let options = RewriteOptions { keep: Some(&keep), forget: true, host: Some("other"), ..RewriteOptions::default() };
    assert_eq!(run(&place, &options, &()).changed.len(), 1);
    let other = Place::new();
    let all = place.repository.snapshots().unwrap();
    copy(&place.repository, &other.repository, all, WriteOptions::default(), &()).unwrap();
    for repository in [&place.repository, &other.repository] {
        let (id, snapshot) = repository.snapshots().unwrap().pop().unwrap();
        assert!(snapshot.tags.contains(&"more".to_owned()) && snapshot.hostname == "other");
        assert_eq!((&snapshot.extra, &snapshot.summary.unwrap().extra), (&extra, &words));
        // Named, it stays, and the reason is said; by a rule it stays as well.
        let options = ForgetOptions { snapshots: vec![id.to_hex(), "latest".to_owned()], ..ForgetOptions::default() };
        let report = forget(repository, &options, &()).unwrap();
        assert!(report.removed.is_empty() && report.chosen.is_empty());
        assert_eq!(report.failed.len(), 1);
        assert!(report.failed[0].1.to_string().contains("is protected from deletion: \"rustic tag --remove-delete\""));
        assert_eq!(repository.snapshot_ids().unwrap(), [id]);
    }
    let newer = place.save(9);
    let all = place.repository.snapshots().unwrap();
    let merged = MergeOptions { forget: true, ..MergeOptions::default() };
    let error = merge(&place.repository, all, merged, &(), &()).unwrap_err();
    assert!(error.to_string().contains("is protected from deletion"), "{error}");
    assert!(place.ids(ObjectKind::Snapshot).contains(&newer) && place.ids(ObjectKind::Snapshot).len() == 2);
}
