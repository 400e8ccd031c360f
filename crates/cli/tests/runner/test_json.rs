//! `--json`: one object a line on both outputs, whatever happens.

use crate::common::{World, keys, parse_lines, stderr, stdout};

#[test]
fn the_summary_of_a_backup_has_every_field_that_restic_prints() {
    let world = World::new();
    world.make_tree();
    let ours = world.objects(["backup", "tree"]).pop().unwrap();
    let restic = world.restic(["backup", "tree", "--json", "--force"]).assert().success();
    let theirs = parse_lines(&stdout(restic.get_output())).pop().unwrap();
    let missing: Vec<String> = keys(&theirs).difference(&keys(&ours)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
    for field in ["message_type", "files_new", "total_files_processed", "total_bytes_processed"] {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
    assert_eq!(ours["verdict"], "complete");
    let entries = &ours["entries"];
    let sum: u64 =
        ["saved", "unchanged", "skipped", "failed", "lost"].iter().map(|field| entries[*field].as_u64().unwrap()).sum();
    assert_eq!(entries["announced"].as_u64().unwrap(), sum);
}

#[test]
fn verbose_status_names_each_entry() {
    let world = World::new();
    world.make_tree();
    let objects = world.objects(["backup", "tree", "-vv"]);
    let item = |name: &str| {
        let path = world.shown(name);
        objects.iter().find(|object| object["item"] == path.as_str()).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(item("tree/hello.txt")["action"], "new");
    assert_eq!(item("tree/hello.txt")["data_size"], 6);
    let objects = world.objects(["backup", "tree", "-vv"]);
    let again = objects.iter().find(|object| object["item"] == world.shown("tree/hello.txt").as_str()).unwrap();
    assert_eq!(again["action"], "unchanged");
}

#[test]
fn every_command_speaks_lines_of_objects() {
    let world = World::with_snapshot();
    for command in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["find", "note"],
        &["stats"],
        &["check"],
        &["version"],
        &["diff", "latest", "latest"],
        &["restore", "latest", "--target", "out"],
        &["backup", "tree"],
    ] {
        let mut json = world.command(command);
        let assert = json.arg("--json").assert().success();
        assert!(!parse_lines(&stdout(assert.get_output())).is_empty(), "{command:?}");
        assert_eq!(stderr(assert.get_output()), "", "{command:?}");
    }
}
