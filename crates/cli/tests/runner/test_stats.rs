use crate::common::{World, fails_with, stdout};

#[test]
fn sums_are_those_of_restic_in_every_mode() {
    let world = World::with_snapshot();
    world.write("tree/copy", "hello\n");
    world.backup(["tree"]);
    for mode in ["restore-size", "files-by-contents", "blobs-per-file", "raw-data"] {
        let ours = world.objects(["stats", "--mode", mode]);
        let restic = world.restic(["stats", "--json", "--mode", mode]).assert().success();
        let theirs: serde_json::Value = serde_json::from_str(&stdout(restic.get_output())).unwrap();
        for (field, value) in theirs.as_object().unwrap() {
            let value = if value == 0 { None } else { Some(value) };
            assert_eq!(ours[0].get(field).filter(|ours| **ours != 0), value, "{mode} {field}");
        }
    }
}

#[test]
fn words_name_what_was_counted() {
    let world = World::with_snapshot();
    let lines = world.lines(["stats", "latest"]);
    assert_eq!(lines[0], "1 snapshot");
    assert!(lines.last().unwrap().ends_with("in total"), "{lines:?}");
    let lines = world.lines(["stats", "--mode", "raw-data"]);
    assert!(lines.iter().any(|line| line.starts_with("compression ratio")), "{lines:?}");
}

#[test]
fn an_unknown_mode_is_refused_with_the_known_ones() {
    let world = World::empty();
    fails_with(world.command(["stats", "--mode", "all"]), 1, &["all", "raw-data"]);
}
