use crate::common::{World, fails_with};

fn paths(world: &World, snapshot: &str) -> Vec<String> {
    let top = world.shown("tree");
    let lines = world.objects(["ls", snapshot]);
    lines
        .iter()
        .filter_map(|node| node["path"].as_str()?.strip_prefix(&top).map(str::to_owned))
        .filter(|path| !path.is_empty())
        .collect()
}

#[test]
fn files_are_left_out_and_the_old_snapshot_stays_unless_it_is_forgotten() {
    let world = World::with_snapshot();
    let first = world.objects(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    let dry = world.objects(["rewrite", "--exclude", "docs", "--dry-run"]);
    assert_eq!(dry[1]["changed_snapshots"], 1);
    assert_eq!(world.objects(["snapshots"]).len(), 1);
    let changed = world.objects(["rewrite", "--exclude", "docs"]);
    assert_eq!(changed[0]["old_snapshot_id"], first.as_str());
    let new = changed[0]["new_snapshot_id"].as_str().unwrap().to_owned();
    assert_eq!(paths(&world, &new), ["/hello.txt", "/link"]);
    let list = world.objects(["snapshots"]);
    assert_eq!(list.len(), 2);
    let copy = list.iter().find(|one| one["id"] == new.as_str()).unwrap();
    assert_eq!((&copy["original"], &copy["tags"]), (&first.clone().into(), &serde_json::json!(["rewrite"])));
    assert_eq!(copy["summary"]["total_files_processed"], 1);
    assert_eq!(copy["backstay_job"], 1);

    world.run(["rewrite", "--forget", "--iinclude", "NOTE", &first]).success();
    let last = world
        .objects(["snapshots"])
        .into_iter()
        .find(|one| one["original"] == first.as_str() && one["id"] != new.as_str());
    let last = last.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(paths(&world, &last), ["/docs", "/docs/deep", "/docs/deep/note"]);
    assert_eq!(world.objects(["snapshots"]).len(), 2);
    world.restic(["check", "--read-data"]).assert().success();
}

#[test]
fn host_and_time_are_changed() {
    let world = World::with_snapshot();
    world.run(["rewrite", "--new-host", "attic", "--new-time", "2020-01-02T03:04:05Z", "--forget"]).success();
    let list = world.objects(["snapshots"]);
    assert_eq!(list.len(), 1);
    assert_eq!((&list[0]["hostname"], &list[0]["time"]), (&"attic".into(), &"2020-01-02T03:04:05Z".into()));
    assert!(list[0].get("tags").is_none());
}

#[test]
fn an_exclude_file_has_the_rules_of_gitignore() {
    let world = World::with_snapshot();
    world.write("rules", "# a comment\n*.txt\ndeep/\n");
    let changed = world.objects(["rewrite", "--exclude-file", "rules", "--forget"]);
    let new = changed[0]["new_snapshot_id"].as_str().unwrap();
    assert_eq!(paths(&world, new), ["/docs", "/docs/readme", "/link"]);
}

#[test]
fn an_iexclude_file_tells_no_cases_apart() {
    let world = World::with_snapshot();
    world.write("rules", "*.TXT\n/**/Deep/\n");
    let changed = world.objects(["rewrite", "--exclude-file", "rules"]);
    assert_eq!(changed[0]["changed_snapshots"], 0);
    let changed = world.objects(["rewrite", "--iexclude-file", "rules", "--forget"]);
    let new = changed[0]["new_snapshot_id"].as_str().unwrap();
    assert_eq!(paths(&world, new), ["/docs", "/docs/readme", "/link"]);
    let backup = ["backup", "tree", "--iexclude-file", "rules"];
    world.run(backup).success();
    assert_eq!(paths(&world, "latest"), ["/docs", "/docs/readme", "/link"]);
    fails_with(world.command(["rewrite", "--iexclude-file", "missing"]), 1, &["--iexclude-file", "missing"]);
}

#[test]
fn nothing_to_do_and_contradictions_are_refused() {
    let world = World::with_snapshot();
    fails_with(world.command(["rewrite"]), 1, &["nothing to do"]);
    fails_with(world.command(["rewrite", "--exclude", "a", "--include", "b"]), 1, &["not both"]);
    fails_with(world.command(["rewrite", "--exclude", "[a"]), 1, &["[a"]);
    fails_with(world.command(["rewrite", "--exclude", "a", "--no-lock"]), 1, &["--no-lock"]);
    fails_with(world.command(["rewrite", "--exclude", "a", "0123456789"]), 1, &["no snapshot", "0123456789"]);
    fails_with(world.command(["rewrite", "--new-time", "soon"]), 1, &["soon"]);
    let objects = world.objects(["rewrite", "--exclude", "matches-nothing"]);
    assert_eq!((&objects[0]["changed_snapshots"], &objects[0]["unchanged_snapshots"]), (&0.into(), &1.into()));
}
