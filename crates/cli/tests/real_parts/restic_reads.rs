//! What we write, restic 0.14, restic 0.18 and rustic verify, restore, and go on from.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::place::{Place, Restic, append, assert_same, below, count, plant_rarities, plant_tree, summary};

#[test]
fn a_tree_of_everything_comes_back_identical_from_us_both_restics_and_rustic() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    place.back_up([&tree]);
    place.assert_sound();

    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
    for restic in Restic::BOTH {
        let target = place.path(&format!("restored by restic {restic:?}"));
        place.restic(restic, ["restore".as_ref(), "latest".as_ref(), "--target".as_ref(), target.as_os_str()]);
        assert_same(&tree, &below(&target, &tree), &[]);
    }
    place.rustic(["check"]);
    let target = place.path("restored by rustic");
    let what = format!("latest:{}", tree.display());
    place.rustic(["restore".as_ref(), what.as_ref(), target.as_os_str()]);
    // rustic takes mode 000 for no mode at all, and leaves the top folder's time alone.
    fs::set_permissions(tree.join("folder/small 2"), Permissions::from_mode(0o644)).unwrap();
    assert_same(&tree, &target, &["--not-the-top"]);
}

#[test]
fn sockets_and_link_targets_that_are_no_text_come_back_from_us() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    plant_rarities(&tree);
    place.back_up([&tree]);
    place.assert_sound();
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
    // The target that is no text is one that restic 0.18 understands.
    let target = place.path("restored by restic");
    place.restic(Restic::Next, ["restore".as_ref(), "latest".as_ref(), "--target".as_ref(), target.as_os_str()]);
    let name = "link to no text";
    assert_eq!(fs::read_link(below(&target, &tree).join(name)).unwrap(), fs::read_link(tree.join(name)).unwrap());
}

#[test]
fn restic_takes_every_file_from_our_snapshot_as_parent() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    let ours = place.back_up([&tree]);
    for restic in Restic::BOTH {
        let lines = place.restic(restic, ["backup".as_ref(), "--json".as_ref(), tree.as_os_str()]);
        let theirs = summary(&lines);
        assert_eq!(count(&theirs, "files_new"), 0, "{restic:?}: {theirs}");
        assert_eq!(count(&theirs, "files_changed"), 0, "{restic:?}: {theirs}");
        assert!(count(&theirs, "files_unmodified") > 200, "{restic:?}: {theirs}");
        assert_eq!(count(&theirs, "data_blobs"), 0, "{restic:?}: {theirs}");
        // No tree differs either, since ours are encoded byte for byte as restic's; only the two trees that name the folder
        // for temporary files and our place in it, which changed meanwhile.
        assert!(count(&theirs, "tree_blobs") <= 2, "{restic:?}: {theirs}");
    }
    assert!(count(&ours, "data_blobs") > 0, "{ours}");
    // And we go on from restic's.
    append(&tree.join("folder/small 7"), b"changed");
    let again = place.back_up([&tree]);
    assert_eq!(count(&again, "files_changed"), 1, "{again}");
    assert_eq!(count(&again, "files_new"), 0, "{again}");
    place.assert_sound();
}

#[test]
fn snapshots_of_every_kind_are_sound_to_restic() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    place.back_up([
        tree.as_os_str(),
        "--tag".as_ref(),
        "first,second".as_ref(),
        "--host".as_ref(),
        "elsewhere".as_ref(),
    ]);
    fs::remove_file(tree.join("empty")).unwrap();
    fs::write(tree.join("new"), "new").unwrap();
    place.back_up([&tree]);
    place.back_up(["--stdin-from-command", "--stdin-filename", "dump.sql", "--", "seq", "1", "500000"]);
    // A single file, and two trees at once.
    place.back_up([tree.join("link").as_os_str(), tree.join("folder/text").as_os_str()]);
    place.back_up([tree.join("folder/deeper").as_os_str(), tree.join("folder/empty").as_os_str()]);
    place.assert_sound();
    place.rustic(["check"]);

    let listed: serde_json::Value = serde_json::from_str(&place.restic(Restic::Next, ["snapshots", "--json"])).unwrap();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 5);
    assert_eq!(listed[0]["hostname"], "elsewhere");
    assert_eq!(listed[0]["tags"], serde_json::json!(["first", "second"]));
    assert_eq!(listed[0]["paths"], serde_json::json!([tree]));
    let dumped = place.restic(Restic::Old, ["dump", listed[2]["id"].as_str().unwrap(), "/dump.sql"]);
    assert_eq!(dumped.lines().count(), 500_000);
    assert_eq!(dumped.lines().last(), Some("500000"));
}

#[test]
fn a_listing_for_ncdu_is_the_one_that_restic_prints() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    plant_tree(&tree);
    place.back_up([&tree]);
    let listing = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
    let folder = tree.join("folder").to_str().unwrap().to_owned();
    for arguments in [vec!["latest"], vec!["latest", &folder], vec!["latest", &folder, "--recursive"]] {
        let arguments: Vec<&str> = [vec!["ls", "--ncdu"], arguments].concat();
        let (ours, theirs) = (place.ours(&arguments), place.restic(Restic::Next, &arguments));
        let (ours_lines, theirs_lines) = (ours.lines().count(), theirs.lines().count());
        assert_eq!(ours_lines, theirs_lines, "{arguments:?}");
        let (ours, theirs) = (listing(&ours), listing(&theirs));
        assert_eq!((&ours[0], &ours[1], &ours[3]), (&theirs[0], &theirs[1], &theirs[3]), "{arguments:?}");
        assert_eq!(ours[2]["tree"], theirs[2]["tree"]);
    }
}
