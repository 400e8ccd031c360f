use crate::common::{World, fails_with, keys, parse_lines, stdout};

fn two_snapshots() -> (World, String, String) {
    let world = World::new();
    world.make_tree();
    let before = world.backup(["tree"]);
    world.write("tree/hello.txt", "hello again\n");
    world.write("tree/new", "new");
    std::fs::remove_file(world.path("tree/docs/readme")).unwrap();
    std::fs::remove_file(world.path("tree/link")).unwrap();
    std::fs::create_dir(world.path("tree/link")).unwrap();
    let after = world.backup(["tree"]);
    (world, before, after)
}

#[test]
fn every_change_has_its_letter() {
    let (world, before, after) = two_snapshots();
    let lines = world.lines(["diff", &before, &after]);
    for (letter, name) in [("M", "tree/hello.txt"), ("+", "tree/new"), ("-", "tree/docs/readme"), ("T", "tree/link/")] {
        assert!(lines.contains(&format!("{letter:<5}{}", world.shown(name))), "{letter} {name}: {lines:?}");
    }
    assert!(lines.contains(&"1 file changed".to_owned()), "{lines:?}");
}

#[test]
fn objects_are_those_of_restic() {
    let (world, before, after) = two_snapshots();
    let ours = world.objects(["diff", &before, &after]);
    let restic = world.restic(["diff", "--json", &before, &after]).assert().success();
    let theirs = parse_lines(&stdout(restic.get_output()));
    let changes = |objects: &[serde_json::Value]| -> Vec<String> {
        let mut list: Vec<String> = objects
            .iter()
            .filter(|object| object["message_type"] == "change")
            .map(|object| format!("{} {}", object["modifier"], object["path"]))
            .collect();
        list.sort();
        list
    };
    assert_eq!(changes(&ours), changes(&theirs));
    let (ours, theirs) = (ours.last().unwrap(), theirs.last().unwrap());
    assert_eq!(keys(ours), keys(theirs));
    for field in ["changed_files", "added", "removed"] {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
}

#[test]
fn a_snapshot_does_not_differ_from_itself() {
    let world = World::with_snapshot();
    let objects = world.objects(["diff", "latest", "latest"]);
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["changed_files"], 0);
}

#[test]
fn both_snapshots_have_to_be_there() {
    let world = World::with_snapshot();
    fails_with(world.command(["diff", "latest", "0000"]), 1, &["0000"]);
    fails_with(world.command(["diff", "latest"]), 1, &["backstay diff --help"]);
}
