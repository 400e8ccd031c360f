//! What restic wrote, we list, verify and restore, and we go on writing into it without storing anything twice.

use std::fs;

use serde_json::Value;

use crate::place::{Place, Restic, append, assert_same, below, count, noise, plant_tree, succeed};

/// A repository that `restic` made, of several packs, with a tag; the tree that it saved lies in `tree`.
fn written_by(restic: Restic) -> Place {
    let place = Place::new();
    let tree = place.path("tree");
    plant_tree(&tree);
    for index in 0..4 {
        fs::write(tree.join(format!("noise {index}")), noise(5000 + index, 6 << 20)).unwrap();
    }
    place.restic(restic, ["init", "--repository-version", "2"]);
    let arguments = ["backup", "--pack-size", "4", "--tag", "by-restic"];
    place.restic(restic, arguments.map(AsRef::as_ref).into_iter().chain([tree.as_os_str()]));
    assert!(fs::read_dir(place.repository().join("data")).unwrap().count() > 0);
    place
}

#[test]
fn a_repository_written_by_restic_is_listed_checked_and_restored() {
    for restic in Restic::BOTH {
        let place = written_by(restic);
        let tree = place.path("tree");
        let snapshots = place.snapshots();
        assert_eq!(snapshots.len(), 1);
        assert_eq!(snapshots[0]["tags"], serde_json::json!(["by-restic"]), "{snapshots:?}");
        assert_eq!(snapshots[0]["paths"], serde_json::json!([tree]), "{snapshots:?}");
        let listed = place.ours(["--json", "ls", "latest"]);
        let theirs = place.restic(restic, ["ls", "--json", "latest"]);
        let paths = |lines: &str| -> Vec<String> {
            let nodes = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let mut paths: Vec<String> =
                nodes.filter_map(|node| node["path"].as_str().map(ToOwned::to_owned)).collect();
            paths.sort();
            paths
        };
        assert!(paths(&listed).len() > 200);
        assert_eq!(paths(&listed), paths(&theirs), "restic {restic:?}");
        place.ours(["check", "--read-data"]);
        assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
    }
}

#[test]
fn a_repository_written_by_restic_keeps_its_chunker_so_that_nothing_is_stored_twice() {
    let place = written_by(Restic::Next);
    let tree = place.path("tree");
    let before = place.stored();
    let forced = place.back_up([tree.as_os_str(), "--force".as_ref()]);
    assert!(count(&forced, "files_new") > 200, "--force reads every file: {forced}");
    // A hole ends a chunk with us and not with restic: the chunks beside the one hole are new.
    assert!(count(&forced, "data_blobs") <= 2, "{forced}");
    assert!(place.stored() - before < 20_000, "{} of {before} bytes were added", place.stored() - before);
    // A change in the middle of a long file costs about the chunks around it.
    let path = tree.join("noise 1");
    let mut bytes = fs::read(&path).unwrap();
    bytes.splice(3_000_000..3_000_000, *b"inserted");
    fs::write(&path, bytes).unwrap();
    append(&tree.join("folder/small 9"), b"more");
    let changed = place.back_up([&tree]);
    assert_eq!(count(&changed, "files_changed"), 2, "{changed}");
    assert!(place.stored() - before < 5 << 20, "{} bytes were added", place.stored() - before);
    place.assert_sound();
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
}

#[test]
fn restic_and_we_take_turns_in_one_repository() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    for round in 0..2 {
        for writer in [None, Some(Restic::Old), None, Some(Restic::Next)] {
            append(&tree.join("folder/text"), format!("round {round} by {writer:?}\n").as_bytes());
            match writer {
                None => drop(place.back_up([&tree])),
                Some(restic) => drop(place.restic(restic, ["backup".as_ref(), tree.as_os_str()])),
            }
        }
    }
    // restic takes out what no snapshot needs; everything that the rest needs is still there.
    place.restic(Restic::Next, ["forget", "--keep-last", "3", "--prune", "--group-by", ""]);
    place.assert_sound();
    place.ours(["check", "--read-data"]);
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
    assert_eq!(place.snapshots().len(), 3);
}

#[test]
fn a_repository_of_version_one_is_read() {
    let place = Place::new();
    let tree = place.path("tree");
    plant_tree(&tree);
    place.restic(Restic::Next, ["init", "--repository-version", "1"]);
    place.restic(Restic::Next, ["backup".as_ref(), tree.as_os_str()]);
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
    succeed(&mut place.backstay(["check", "--read-data"]));
}
