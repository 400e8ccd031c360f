//! After everything that we change, restic finds the repository sound and every tree as it would write it.

use std::fs;

use serde_json::Value;

use crate::place::{Place, Restic, append, assert_same, below, plant_tree};

/// A repository with three of our snapshots and one of restic's, of a tree that changes in between.
fn place() -> Place {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    for round in 0..3 {
        append(&tree.join("folder/text"), format!("round {round}\n").as_bytes());
        place.back_up(["--tag".as_ref(), "ours".as_ref(), tree.as_os_str()]);
    }
    place.restic(Restic::Next, ["backup".as_ref(), tree.as_os_str()]);
    place
}

#[test]
fn tags_and_keys_that_we_change_are_right_for_restic() {
    let place = place();
    place.ours(["tag", "--tag", "ours", "--add", "kept,long"]);
    place.restic(Restic::Next, ["tag", "--tag", "kept", "--remove", "long"]);
    place.restic(Restic::Old, ["tag", "--tag", "kept", "--add", "old"]);
    place.ours(["tag", "--set", "last"]);
    fs::write(place.path("next"), "the next password\n").unwrap();
    let next = place.path("next");
    place.ours(["key".as_ref(), "passwd".as_ref(), "--new-password-file".as_ref(), next.as_os_str()]);
    fs::copy(&next, place.path("password")).unwrap();
    let listed: Value = serde_json::from_str(&place.restic(Restic::Next, ["key", "list", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    for which in Restic::BOTH {
        let snapshots: Value = serde_json::from_str(&place.restic(which, ["snapshots", "--json"])).unwrap();
        let tags: Vec<&Value> = snapshots.as_array().unwrap().iter().map(|snapshot| &snapshot["tags"]).collect();
        assert_eq!(tags, vec![&serde_json::json!(["last"]); 4]);
    }
    place.assert_sound();
    let tree = place.path("tree");
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
}

#[test]
fn what_we_leave_out_of_snapshots_is_gone_for_restic_and_its_trees_are_as_it_writes_them() {
    let place = place();
    place.ours(["rewrite", "--exclude", "deeper", "--tag", "ours"]);
    place.assert_sound();
    place.ours(["rewrite", "--exclude", "small 1*", "--new-host", "attic", "--forget"]);
    place.assert_sound();
    let listed = place.restic(Restic::Next, ["ls", "--json", "latest"]);
    assert!(!listed.contains("small 1") && listed.contains("small 2"), "{listed}");
    place.restic(Restic::Next, ["prune"]);
    place.assert_sound();
    place.ours(["check", "--read-data"]);
}

#[test]
fn an_index_that_we_made_anew_is_right_for_restic() {
    let place = place();
    for file in fs::read_dir(place.repository().join("index")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    place.ours(["repair", "index"]);
    place.assert_sound();
    place.ours(["repair", "index", "--read-all-packs"]);
    place.assert_sound();
    place.ours(["repair", "snapshots"]);
    let tree = place.path("tree");
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
}

#[test]
fn a_copy_is_sound_and_restic_knows_what_was_copied() {
    let place = place();
    let second = place.path("second");
    fs::rename(place.repository(), &second).unwrap();
    place.restic(Restic::Next, ["init"]);
    let copy = |place: &Place| {
        let password = place.path("password");
        let arguments = ["copy".as_ref(), "--from-repo".as_ref(), second.as_os_str(), "--from-password-file".as_ref()];
        place.ours(arguments.into_iter().chain([password.as_os_str()]));
    };
    copy(&place);
    place.assert_sound();
    assert_eq!(place.snapshots().len(), 4);
    // restic finds nothing left to copy, and neither do we after it.
    let password = place.path("password");
    let arguments = ["copy".as_ref(), "--from-repo".as_ref(), second.as_os_str(), "--from-password-file".as_ref()];
    place.restic(Restic::Next, arguments.into_iter().chain([password.as_os_str()]));
    copy(&place);
    assert_eq!(place.snapshots().len(), 4);
    let tree = place.path("tree");
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
}

#[test]
fn what_we_merge_restic_finds_sound_and_restores() {
    let place = place();
    let newest = place.ours(["merge", "--json"]);
    let summary: Value = serde_json::from_str(newest.lines().last().unwrap()).unwrap();
    assert_eq!(summary["merged_snapshots"], 4);
    place.assert_sound();
    let tree = place.path("tree");
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
}
