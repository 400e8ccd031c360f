use backstay_core::{FileKind, Id, ObjectKind, Time};
use backstay_repository::maintenance::merge::{MergeOptions, MergeReport, merge};
use backstay_repository::{BlobKind, Error, Node};

use crate::support::{Place, directory, file, files, killed_everywhere, node, reader};

/// With a modification time of so many seconds.
fn at(node: Node, seconds: i64) -> Node {
    Node { mtime: Time { seconds, nanoseconds: 0 }, ..node }
}

fn run(place: &Place, options: MergeOptions) -> Result<MergeReport, Error> {
    merge(&place.repository, place.repository.snapshots().unwrap(), options, &(), &())
}

/// Two snapshots: each with files of its own, and with one path that the other has too.
fn two(place: &Place) {
    for number in [0, 1] {
        let writer = place.writer();
        // The first snapshot's copy of "newer" was modified last; "even" at the same time in both.
        let newer = at(file(&writer, "newer", &[&[number; 9]]), if number == 0 { 500 } else { 400 });
        let even = at(file(&writer, "even", &[&[number + 10; 9]]), 300);
        let own = file(&writer, &format!("own{number}"), &[&[number + 20; 9]]);
        // A folder in one, a link in the other, modified later.
        let both = match number {
            0 => at(directory(&writer, "both", &[file(&writer, "below", &[b"below"])]), 100),
            _ => at(Node { link_target: b"elsewhere".to_vec(), ..node(FileKind::Symlink, "both", 0o120_777) }, 200),
        };
        let deep = directory(&writer, "deep", &[file(&writer, &format!("in{number}"), &[&[number + 30; 9]])]);
        let srv = directory(&writer, "srv", &[newer, even, own, both, deep]);
        place.finish(&writer, &[srv], number);
    }
}

fn content(place: &Place, tree: &Id, path: &str) -> Vec<u8> {
    let reader = reader(&place.repository);
    let node = reader.node_at(tree, path.as_bytes()).unwrap().unwrap();
    node.content.unwrap().iter().flat_map(|id| reader.load(BlobKind::Data, id).unwrap()).collect()
}

#[test]
fn what_any_of_them_holds_is_in_the_new_one_and_what_was_modified_last_wins() {
    let place = Place::new();
    two(&place);
    let report = run(&place, MergeOptions::default()).unwrap();
    let new = place.repository.load_snapshot(&report.new.unwrap()).unwrap();
    let paths: Vec<String> = files(&reader(&place.repository), &new.tree).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [
            "/srv",
            "/srv/both",
            "/srv/deep",
            "/srv/deep/in0",
            "/srv/deep/in1",
            "/srv/even",
            "/srv/newer",
            "/srv/own0",
            "/srv/own1"
        ]
    );
    assert_eq!(content(&place, &new.tree, "/srv/newer"), [0; 9]);
    assert_eq!(content(&place, &new.tree, "/srv/even"), [11; 9], "between equal times the later snapshot's");
    assert_eq!(report.summary.total_files_processed, 6);
    assert_eq!(new.paths, ["/srv"]);
    assert_eq!(new.tags, ["first", "number0", "number1"]);
    assert_eq!(place.ids(ObjectKind::Snapshot).len(), 3);
}

#[test]
fn the_merged_ones_go_only_when_asked_for() {
    let (place, ids) = Place::with_snapshots();
    let before = place.ids(ObjectKind::Pack);
    let dry = run(&place, MergeOptions { dry_run: true, forget: true, ..MergeOptions::default() }).unwrap();
    assert_eq!(dry.new, None);
    assert_eq!((place.ids(ObjectKind::Snapshot).len(), place.ids(ObjectKind::Pack)), (3, before));
    let report = run(&place, MergeOptions { forget: true, ..MergeOptions::default() }).unwrap();
    assert_eq!(place.ids(ObjectKind::Snapshot), [report.new.unwrap()]);
    assert!(!ids.contains(&report.new.unwrap()));
}

#[test]
fn one_snapshot_or_a_partial_one_is_refused() {
    let place = Place::new();
    place.save(0);
    assert!(run(&place, MergeOptions::default()).unwrap_err().to_string().contains("two snapshots"));
    let (id, mut partial) = place.repository.snapshots().unwrap().pop().unwrap();
    partial.tags.push(backstay_repository::snapshot::PARTIAL_TAG.to_owned());
    place.repository.save_snapshot(&partial).unwrap();
    let text = run(&place, MergeOptions::default()).unwrap_err().to_string();
    assert!(text.contains("partial") && !text.contains(&id.short()), "{text}");
}

#[test]
fn killed_anywhere_every_snapshot_is_whole() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    killed_everywhere(
        &place,
        |repository| merge(repository, repository.snapshots()?, MergeOptions::default(), &(), &()).map(drop),
        |left, _| {
            let contents = left.contents();
            assert!(before.iter().all(|snapshot| contents.contains(snapshot)));
        },
    );
}
