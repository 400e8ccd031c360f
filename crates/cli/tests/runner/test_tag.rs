use crate::common::{World, fails_with};

fn tags(world: &World) -> Vec<serde_json::Value> {
    world.objects(["snapshots"]).into_iter().map(|snapshot| snapshot["tags"].clone()).collect()
}

#[test]
fn tags_are_set_added_and_removed_by_id_and_by_filter() {
    let world = World::new();
    world.make_tree();
    let first = world.backup(["tree", "--tag", "a,b"]);
    let second = world.backup(["tree", "--tag", "c"]);
    let objects = world.objects(["tag", "--add", "x,y", "--remove", "a", &first[..10]]);
    assert_eq!(objects[0]["message_type"], "changed");
    assert_eq!(objects[0]["old_snapshot_id"], first.as_str());
    assert_eq!(objects[1], serde_json::json!({"message_type": "summary", "changed_snapshots": 1}));
    let list = world.objects(["snapshots"]);
    assert_eq!(list[0]["id"], objects[0]["new_snapshot_id"]);
    assert_eq!(list[0]["original"], first.as_str());
    assert_eq!(list[0]["backstay_job"], 1);
    assert_eq!(tags(&world), [serde_json::json!(["b", "x", "y"]), serde_json::json!(["c"])]);
    world.run(["tag", "--tag", "c", "--set", "d", "--set", "e"]).success();
    assert_eq!(tags(&world)[1], serde_json::json!(["d", "e"]));
    world.run(["tag", "--set", ""]).success();
    assert!(world.objects(["snapshots"]).iter().all(|snapshot| snapshot.get("tags").is_none()));
    fails_with(world.command(["tag", "--add", "z", &second]), 1, &["no snapshot matches"]);
}

#[test]
fn nothing_to_do_and_contradictions_are_refused() {
    let world = World::with_snapshot();
    fails_with(world.command(["tag"]), 1, &["nothing to do"]);
    fails_with(world.command(["tag", "--set", "a", "--add", "b"]), 1, &["--set", "--add"]);
    fails_with(world.command(["tag", "--add", "backstay-partial"]), 1, &["backstay-partial"]);
    fails_with(world.command(["tag", "--add", "a", "--no-lock"]), 1, &["--no-lock"]);
    let before = world.objects(["snapshots"]);
    // Nothing that matches is no mistake.
    let objects = world.objects(["tag", "--host", "elsewhere", "--add", "a"]);
    assert_eq!(objects, [serde_json::json!({"message_type": "summary", "changed_snapshots": 0})]);
    assert_eq!(world.objects(["snapshots"]), before);
}
