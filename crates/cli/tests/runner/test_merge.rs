use crate::common::{World, fails_with};

#[test]
fn snapshots_become_one_that_holds_what_any_of_them_holds() {
    let world = World::new();
    world.write("tree/old", "old");
    world.write("tree/both", "first");
    let first = world.backup(["tree", "--tag", "a"]);
    std::fs::remove_file(world.path("tree/old")).unwrap();
    world.write("tree/both", "second");
    world.write("tree/new", "new");
    let second = world.backup(["tree", "--tag", "b"]);
    let dry = world.objects(["merge", "--dry-run"]).pop().unwrap();
    assert_eq!((&dry["snapshot_id"], &dry["merged_snapshots"]), (&serde_json::Value::Null, &2.into()));
    let summary = world.objects(["merge", &first[..10], &second[..10]]).pop().unwrap();
    assert_eq!(summary["total_files_processed"], 3);
    let new = summary["snapshot_id"].as_str().unwrap();
    for (name, text) in [("old", "old"), ("new", "new"), ("both", "second")] {
        let path = format!("{new}:{}", world.shown(&format!("tree/{name}")));
        assert_eq!(world.lines(["dump", &path]), [text]);
    }
    assert_eq!(world.objects(["snapshots"]).len(), 3);
    world.run(["merge", "--tag", "a,b", "--tag", "b", "--forget"]).success();
    let left = world.objects(["snapshots"]);
    assert_eq!(left.len(), 2, "the first one has neither list of tags");
    assert_eq!(left[1]["tags"], serde_json::json!(["a", "b"]));
    world.restic(["check", "--read-data"]).assert().success();
}

#[test]
fn what_cannot_be_merged_is_one_line() {
    let world = World::with_snapshot();
    fails_with(world.command(["merge"]), 1, &["two snapshots"]);
    fails_with(world.command(["merge", "latest", "latest"]), 1, &["two snapshots"]);
    fails_with(world.command(["merge", "beef", "latest"]), 1, &["beef"]);
    fails_with(world.command(["merge", "--no-lock"]), 1, &["--no-lock"]);
}
