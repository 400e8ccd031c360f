use crate::common::{World, fails_with, keys, stdout};

#[test]
fn the_table_shows_what_people_look_for() {
    let world = World::new();
    world.make_tree();
    world.backup(["tree", "--tag", "one,two", "--host", "elsewhere", "--time", "2026-01-02 03:04:05"]);
    let text = world.lines(["snapshots"]).join("\n");
    for part in ["elsewhere", "one,two", "2026-01-02 03:04:05", &world.shown("tree"), "1 snapshot"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_empty_repository_has_none() {
    let world = World::new();
    assert_eq!(world.lines(["snapshots"]), ["0 snapshots"]);
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn filters_choose_by_host_tags_and_path() {
    let world = World::new();
    world.make_tree();
    let one = world.backup(["tree", "--host", "a", "--tag", "x"]);
    let two = world.backup(["tree", "--host", "b", "--tag", "x,y"]);
    let three = world.backup(["tree/docs", "--host", "b"]);
    let found = |arguments: &[&str]| -> Vec<String> {
        let mut all = vec!["snapshots"];
        all.extend(arguments);
        world.objects(all).iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&[]), [one.clone(), two.clone(), three.clone()]);
    assert_eq!(found(&["--host", "a"]), std::slice::from_ref(&one));
    assert_eq!(found(&["--host", "a", "--host", "b"]).len(), 3);
    assert_eq!(found(&["--tag", "x"]), [one.clone(), two.clone()]);
    assert_eq!(found(&["--tag", "x,y"]), std::slice::from_ref(&two));
    assert_eq!(found(&["--path", &world.shown("tree/docs")]), std::slice::from_ref(&three));
    assert_eq!(found(&[&one[..8], "latest"]), [one, three]);
}

#[test]
fn latest_keeps_the_newest_of_each_host_and_set_of_paths() {
    let world = World::new();
    world.make_tree();
    world.backup(["tree", "--host", "a"]);
    let newer = world.backup(["tree", "--host", "a"]);
    let other = world.backup(["tree", "--host", "b"]);
    let ids: Vec<String> = world
        .objects(["snapshots", "--latest", "1"])
        .iter()
        .map(|object| object["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, [newer, other]);
}

#[test]
fn objects_have_every_field_that_restic_prints() {
    let world = World::with_snapshot();
    let ours = world.objects(["snapshots"]);
    let restic = world.restic(["snapshots", "--json"]).assert().success();
    let theirs: serde_json::Value = serde_json::from_str(&stdout(restic.get_output())).unwrap();
    let missing: Vec<String> = keys(&theirs[0]).difference(&keys(&ours[0])).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
    for field in ["id", "short_id", "tree", "hostname", "username", "paths"] {
        assert_eq!(ours[0][field], theirs[0][field], "{field}");
    }
}

#[test]
fn a_snapshot_that_was_named_has_to_be_there() {
    let world = World::with_snapshot();
    fails_with(world.command(["snapshots", "00112233"]), 1, &["00112233"]);
}

#[test]
fn a_damaged_snapshot_hides_no_other_and_stops_no_backup() {
    let world = World::new();
    world.make_tree();
    let bad = world.backup(["tree"]);
    let good = world.backup(["tree"]);
    let file = world.path("repository/snapshots").join(&bad);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, b"nothing like it").unwrap();

    let assert = world.run(["snapshots"]).code(1);
    assert!(stdout(assert.get_output()).contains(&good[..8]));
    let errors = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(errors.contains(&bad) && errors.contains("damaged"), "{errors}");

    let assert = world.run(["backup", "tree"]).success();
    assert!(String::from_utf8_lossy(&assert.get_output().stderr).contains(&bad), "the backup says so too");
    world.run(["restore", &good, "--target", "out"]).success();
}
