use serde_json::Value;

use crate::common::{World, fails_with, keys, stderr, stdout};

/// Snapshots of three days, the oldest first.
fn world() -> (World, Vec<String>) {
    let world = World::new();
    world.make_tree();
    let ids = ["2020-01-01 10:00:00", "2020-01-02 10:00:00", "2020-01-02 12:00:00"]
        .map(|time| world.backup(["tree", "--time", time, "--tag", &time[8..10]]));
    (world, ids.to_vec())
}

fn ids(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

fn forget(world: &World, arguments: &[&str]) -> Vec<Value> {
    let output = world.run([&["forget", "--json"], arguments].concat()).success();
    serde_json::from_str(&stdout(output.get_output())).unwrap()
}

#[test]
fn a_rule_keeps_what_it_says_and_the_rest_goes() {
    let (world, snapshots) = world();
    let all = || world.objects(["snapshots"]).len();
    let groups = forget(&world, &["--keep-daily", "5", "--dry-run"]);
    assert_eq!(all(), 3, "a dry run removes nothing");
    assert_eq!(ids(&groups[0]["keep"]), [&snapshots[2], &snapshots[0]]);
    assert_eq!(ids(&groups[0]["remove"]), [&snapshots[1]]);
    assert_eq!(forget(&world, &["--keep-daily", "5"]), groups);
    assert_eq!(all(), 2);
    let again = forget(&world, &["--keep-last", "unlimited"]);
    assert_eq!(again[0]["remove"], Value::Null);
    assert_eq!(again[0]["reasons"][0]["counters"]["last"], -1);
}

#[test]
fn each_kind_of_rule_is_heard() {
    let (world, snapshots) = world();
    let kept = |arguments: &[&str]| {
        let groups = forget(&world, &[&["--dry-run"], arguments].concat());
        ids(&groups[0]["keep"]).iter().map(|id| snapshots.iter().position(|one| one == id).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&["--keep-last", "1"]), [2]);
    assert_eq!(kept(&["--keep-hourly", "-1"]), [2, 1, 0]);
    assert_eq!(kept(&["--keep-daily", "1"]), [2]);
    assert_eq!(kept(&["--keep-weekly", "1"]), [2]);
    assert_eq!(kept(&["--keep-monthly", "2"]), [2, 0]);
    assert_eq!(kept(&["--keep-yearly", "1"]), [2]);
    assert_eq!(kept(&["--keep-within", "3h"]), [2, 1]);
    assert_eq!(kept(&["--keep-within-hourly", "1y"]), [2, 1, 0]);
    assert_eq!(kept(&["--keep-within-daily", "7d"]), [2, 0]);
    assert_eq!(kept(&["--keep-within-weekly", "7d"]), [2, 0]);
    assert_eq!(kept(&["--keep-within-monthly", "1d"]), [2]);
    assert_eq!(kept(&["--keep-within-yearly", "5y"]), [2, 0]);
    assert_eq!(kept(&["--keep-tag", "01"]), [0]);
    assert_eq!(kept(&["--tag", "01", "--keep-last", "9"]), [0]);
    let by_tags = forget(&world, &["--dry-run", "--keep-last", "1", "--group-by", "tags"]);
    assert_eq!(by_tags.len(), 2);
    assert_eq!(
        (&by_tags[0]["host"], &by_tags[0]["paths"], &by_tags[0]["tags"][0]),
        (&"".into(), &Value::Null, &"01".into())
    );
}

#[test]
fn the_objects_have_restics_fields() {
    let (world, _) = world();
    let ours = forget(&world, &["--keep-last", "1", "--dry-run"]);
    let output = world.restic(["forget", "--keep-last", "1", "--dry-run", "--json"]).assert().success();
    let theirs: Vec<Value> = serde_json::from_str(stdout(output.get_output()).trim()).unwrap();
    assert_eq!(keys(&ours[0]), keys(&theirs[0]));
    assert_eq!(keys(&ours[0]["reasons"][0]), keys(&theirs[0]["reasons"][0]));
    for field in ["tags", "host", "paths"] {
        assert_eq!(ours[0][field], theirs[0][field]);
    }
    assert_eq!(ids(&ours[0]["remove"]), ids(&theirs[0]["remove"]));
}

#[test]
fn people_see_what_stays_and_why() {
    let (world, _) = world();
    let lines = world.lines(["forget", "--keep-last", "2", "--dry-run"]).join("\n");
    for part in ["Keep 2 snapshots", "last snapshot", "Would remove 1 snapshot", &world.shown("tree")] {
        assert!(lines.contains(part), "{part} in {lines}");
    }
    let compact = world.lines(["forget", "--keep-last", "2", "--dry-run", "--compact"]).join("\n");
    assert!(!compact.contains("last snapshot") && !compact.contains(&world.shown("tree")), "{compact}");
}

#[test]
fn snapshots_that_are_named_go_whatever_the_rules() {
    let (world, snapshots) = world();
    world.run(["forget", &snapshots[0][..8], "latest"]).success();
    let left = world.objects(["snapshots"]);
    assert_eq!(left.iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&Value::from(snapshots[1].clone())]);
    fails_with(world.command(["forget", "1234567"]), 1, &["1234567"]);
}

#[test]
fn nothing_is_removed_by_mistake() {
    let (world, _) = world();
    fails_with(world.command(["forget"]), 1, &["--keep-"]);
    fails_with(world.command(["forget", "--keep-last", "0"]), 1, &["--keep-"]);
    fails_with(world.command(["forget", "--keep-tag", "none"]), 1, &["would leave no snapshot", &world.shown("tree")]);
    fails_with(world.command(["forget", "--keep-within", "3"]), 1, &["1y5m7d2h"]);
    fails_with(world.command(["forget", "--keep-last", "-3"]), 1, &["unlimited"]);
    fails_with(world.command(["forget", "--keep-last", "1", "--group-by", "size"]), 1, &["size"]);
    fails_with(world.command(["forget", "--unsafe-allow-remove-all"]), 1, &["--host"]);
    fails_with(world.command(["forget", "--keep-last", "1", "--no-lock"]), 1, &["--no-lock"]);
    fails_with(world.command(["forget", "--keep-last", "1", "--max-unused", "0"]), 1, &["--prune"]);
    assert_eq!(world.objects(["snapshots"]).len(), 3);
    world.run(["forget", "--unsafe-allow-remove-all", "--tag", "02"]).success();
    assert_eq!(world.objects(["snapshots"]).len(), 1);
}

#[test]
fn the_room_is_given_back_at_once_when_that_is_asked_for() {
    let (world, _) = world();
    world.write("tree/new", "something else\n".repeat(100));
    world.backup(["tree"]);
    let would = world.lines(["forget", "--keep-last", "1", "--prune", "--dry-run"]).join("\n");
    assert!(would.contains("to delete:") && !would.contains("Deleted"), "{would}");
    let lines = world.lines(["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]).join("\n");
    assert!(lines.contains("Removed 3 snapshots") && lines.contains("Deleted "), "{lines}");
    assert_eq!(world.lines(["check", "--read-data"]).last().unwrap(), "no errors were found");
    let stats = world.objects(["prune", "--dry-run"]).pop().unwrap();
    assert_eq!(stats["blobs"]["unused"], 0);
}

#[test]
fn what_cannot_be_removed_is_named_and_the_status_is_3() {
    if rustix::process::geteuid().is_root() && !std::path::Path::new("/usr/bin/chattr").exists() {
        panic!("chattr is needed to keep root from deleting a file");
    }
    let (world, snapshots) = world();
    let file = world.path("repository/snapshots").join(&snapshots[0]);
    let immutable = |flag: &str| std::process::Command::new("chattr").arg(flag).arg(&file).status().unwrap().success();
    if !immutable("+i") {
        // This file system has no such flag; what the library does then is tested there.
        return;
    }
    let result = world.run(["forget", "--keep-last", "1"]);
    assert!(immutable("-i"));
    let result = result.code(3);
    assert!(stderr(result.get_output()).contains(&snapshots[0][..8]));
    assert_eq!(world.objects(["snapshots"]).len(), 2);
}
