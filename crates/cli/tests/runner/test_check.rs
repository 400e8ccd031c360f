use std::os::unix::fs::PermissionsExt;

use crate::common::{World, fails_with, parse_lines, stderr, stdout};

#[test]
fn a_sound_repository_has_no_errors() {
    let world = World::with_snapshot();
    for arguments in [&["check"][..], &["check", "--read-data"], &["check", "--read-data-subset", "50%"]] {
        let lines = world.lines(arguments);
        assert_eq!(lines.last().unwrap(), "no errors were found");
    }
    let objects = world.objects(["check", "--read-data"]);
    let summary = objects.last().unwrap();
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(summary["num_errors"], 0);
    assert_eq!(summary["broken_packs"], serde_json::Value::Null);
    assert_eq!(summary["suggest_repair_index"], false);
    assert_eq!(summary["packs_read"], summary["packs"]);
}

#[test]
fn a_flipped_bit_in_a_pack_is_found_and_the_pack_is_named() {
    let world = World::with_snapshot();
    let mut packs: Vec<_> = std::fs::read_dir(world.path("repository/data"))
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    packs.sort();
    let pack = packs.remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[20] ^= 1;
    std::fs::set_permissions(&pack, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();

    let assert = world.run(["check", "--read-data"]).code(1);
    assert!(stderr(assert.get_output()).contains(&name));
    assert!(stdout(assert.get_output()).contains("the repository is damaged"));

    let assert = world.run(["check", "--read-data", "--json"]).code(1);
    let errors = parse_lines(&stderr(assert.get_output()));
    assert!(errors.iter().all(|error| error["message_type"] == "error"), "{errors:?}");
    let summary = parse_lines(&stdout(assert.get_output())).pop().unwrap();
    assert!(summary["num_errors"].as_u64().unwrap() >= 1);
    assert_eq!(summary["broken_packs"][0], name);
}

#[test]
fn a_subset_that_is_none_is_refused() {
    let world = World::empty();
    fails_with(world.command(["check", "--read-data-subset", "9/3"]), 1, &["9/3"]);
    fails_with(world.command(["check", "--read-data-subset", "1/2", "--read-data"]), 1, &["--read-data"]);
}
