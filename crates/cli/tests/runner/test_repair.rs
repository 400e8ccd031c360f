use std::path::{Path, PathBuf};

use crate::common::{World, fails_with, stderr, stdout};

fn objects(world: &World, folder: &str) -> Vec<PathBuf> {
    let mut waiting = vec![world.path(format!("repository/{folder}"))];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    found
}

fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_lost_index_is_made_anew() {
    let world = World::with_snapshot();
    objects(&world, "index").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    world.run(["check"]).code(1);
    let summary = world.objects(["repair", "index"]).pop().unwrap();
    assert_eq!(summary["changed"], true);
    assert_eq!(summary["packs_added"].as_array().unwrap().len(), objects(&world, "data").len());
    assert_eq!(world.lines(["check", "--read-data"]).last().unwrap(), "no errors were found");
    assert_eq!(world.objects(["repair", "index"])[0]["changed"], false);
    assert_eq!(world.objects(["repair", "index", "--read-all-packs"])[0]["changed"], true);
    world.restic(["check", "--read-data"]).assert().success();
    fails_with(world.command(["repair", "index", "--no-lock"]), 1, &["--no-lock"]);
}

#[test]
fn what_is_left_of_a_damaged_repository_is_saved_step_by_step() {
    let world = World::new();
    for number in 0..4_u8 {
        let noise: Vec<u8> =
            (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761 + u32::from(number)) >> 13) as u8).collect();
        world.write(&format!("tree/file {number}"), noise);
    }
    let snapshot = world.backup(["tree"]);
    let pack = objects(&world, "data").pop().unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(&pack, &bytes);
    world.run(["check", "--read-data"]).code(1);

    let assert = world.run(["repair", "packs", &name[..20]]).success();
    assert!(stderr(assert.get_output()).contains("is lost"), "{}", stderr(assert.get_output()));
    assert_eq!(std::fs::read(world.path(format!("pack-{name}"))).unwrap(), bytes);
    assert!(!pack.exists());
    fails_with(world.command(["repair", "packs", &name]), 1, &["no pack", &name]);

    let dry = world.objects(["repair", "snapshots", "--dry-run"]);
    assert_eq!((&dry[0]["old_snapshot_id"], &dry[0]["new_snapshot_id"]), (&snapshot.clone().into(), &().into()));
    let changed = world.objects(["repair", "snapshots", "--forget"]);
    assert_eq!(changed[0]["forgotten"], true);
    assert_eq!(changed[1]["changed_snapshots"], 1);
    let list = world.objects(["snapshots"]);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["original"], snapshot.as_str());
    assert_eq!(world.lines(["check", "--read-data"]).last().unwrap(), "no errors were found");
    world.restic(["check", "--read-data"]).assert().success();
    // Three of the four are whole.
    world.run(["restore", "latest", "--target", "out"]).success();
    let whole = (0..4).filter(|number| {
        let restored = world.path("out").join(world.shown(&format!("tree/file {number}")).trim_start_matches('/'));
        std::fs::read(restored).unwrap() == std::fs::read(world.path(format!("tree/file {number}"))).unwrap()
    });
    assert_eq!(whole.count(), 3);
    let assert = world.run(["repair", "snapshots"]).success();
    assert_eq!(stdout(assert.get_output()), "");
}

#[test]
fn a_pack_without_a_header_is_reported_and_stays_listed() {
    let world = World::with_snapshot();
    let pack = objects(&world, "data").pop().unwrap();
    let bytes = std::fs::read(&pack).unwrap();
    replace(&pack, &bytes[..bytes.len() - 3]);
    let assert = world.run(["repair", "index"]).code(1);
    assert!(stderr(assert.get_output()).contains("backstay repair packs"));
    fails_with(world.command(["repair", "snapshots"]), 1, &["repair index", "repair packs"]);
}
