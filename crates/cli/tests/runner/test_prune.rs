use crate::common::{World, fails_with, keys};

/// A repository whose first snapshot is gone, with what only that one needed.
fn worn() -> World {
    let world = World::new();
    world.make_tree();
    for number in 0..20 {
        world.write(&format!("tree/many/{number}"), format!("number {number}\n").repeat(50));
    }
    let first = world.backup(["tree"]);
    for number in 0..10 {
        std::fs::remove_file(world.path(format!("tree/many/{number}"))).unwrap();
    }
    world.backup(["tree"]);
    world.run(["forget", &first]).success();
    world
}

#[test]
fn what_nobody_needs_goes_and_the_rest_is_sound() {
    let world = worn();
    let lines = world.lines(["prune", "--max-unused", "0"]).join("\n");
    for part in ["to repack:", "this removes:", "to delete:", "remaining:", "Deleted ", "copied "] {
        assert!(lines.contains(part), "{part} in {lines}");
    }
    assert_eq!(world.lines(["check", "--read-data"]).last().unwrap(), "no errors were found");
    let output = world.restic(["check", "--read-data"]).assert().success();
    let text = crate::common::stdout(output.get_output());
    assert!(text.contains("no errors were found"), "{text}");
    world.run(["restore", "latest", "--target", "back"]).success();
    let restored = world.path("back").join(world.path("tree").strip_prefix("/").unwrap());
    assert_eq!(std::fs::read_dir(restored.join("many")).unwrap().count(), 10);
    assert!(!world.path("repository/locks").read_dir().unwrap().any(|_| true), "no lock is left");
}

#[test]
fn a_dry_run_says_what_would_be_done() {
    let world = worn();
    let packs = || std::fs::read_dir(world.path("repository/index")).unwrap().count();
    let before = packs();
    let lines = world.lines(["prune", "--dry-run", "--max-unused", "0", "-v"]).join("\n");
    for part in ["used:", "unused:", "total:", "to repack:", "partly used packs:", "unused size after prune: 0 B"] {
        assert!(lines.contains(part), "{part} in {lines}");
    }
    assert_eq!(packs(), before);
}

#[test]
fn the_summary_has_blobs_bytes_and_packfiles() {
    let world = worn();
    let would = world.objects(["prune", "--max-unused", "unlimited", "--dry-run"]).pop().unwrap();
    assert_eq!((&would["message_type"], &would["dry_run"]), (&"summary".into(), &true.into()));
    assert!(would["blobs"]["unused"].as_u64().unwrap() >= 10);
    assert!(keys(&would["packfiles"]).contains("partly_used"));
    let limited = world.objects(["prune", "--max-unused", "0", "--max-repack-size", "1", "--dry-run"]).pop().unwrap();
    assert_eq!(limited["packfiles"]["repack"], 0);
    let trees = world.objects(["prune", "--max-unused", "0", "--repack-cacheable-only"]).pop().unwrap();
    assert!(trees["bytes"]["unused"].as_u64().unwrap() > 0);
    let all = world.objects(["prune", "--max-unused", "0"]).pop().unwrap();
    assert!(all["copied_bytes"].as_u64().unwrap() > 0 && all["deleted_packs"].as_u64().unwrap() > 0, "{all}");
    let nothing = world.objects(["prune", "--max-unused", "0"]).pop().unwrap();
    assert_eq!((&nothing["deleted_packs"], &nothing["index_written"]), (&0.into(), &0.into()));
}

#[test]
fn small_and_plain_packs_are_written_anew_when_that_is_asked_for() {
    let world = World::new();
    for number in 0..12 {
        world.write(&format!("tree/{number}"), format!("number {number}\n").repeat(50));
        world.backup(["tree", "--compression", "off"]);
    }
    let plain = world.objects(["prune", "--repack-uncompressed"]).pop().unwrap();
    assert!(plain["bytes"]["repack"].as_u64().unwrap() > 0, "{plain}");
    let again = world.objects(["prune", "--repack-uncompressed"]).pop().unwrap();
    assert_eq!(again["bytes"]["uncompressed"], 0, "{again}");
    let small = world.objects(["prune", "--repack-small"]).pop().unwrap();
    assert_eq!(small["copied_bytes"], 0, "they are together already: {small}");
    assert_eq!(world.lines(["check", "--read-data"]).last().unwrap(), "no errors were found");
}

#[test]
fn bad_limits_are_refused() {
    let world = World::new();
    fails_with(world.command(["prune", "--max-unused", "many"]), 1, &["many", "unlimited"]);
    fails_with(world.command(["prune", "--max-unused", "101%"]), 1, &["101%"]);
    fails_with(world.command(["prune", "--max-repack-size", "x"]), 1, &["size"]);
    fails_with(world.command(["prune", "--no-lock"]), 1, &["--no-lock"]);
}

#[test]
fn a_snapshot_that_cannot_be_read_stops_it_in_one_line() {
    let world = worn();
    let folder = world.path("repository/snapshots");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "garbage").unwrap();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let packs = || walk(&world.path("repository/data"));
    let before = packs();
    fails_with(world.command(["-q", "prune"]), 1, &[&name, "nothing was deleted", "backstay forget"]);
    assert_eq!(packs(), before);
    world.run(["forget", &name[..10]]).success();
    world.run(["prune"]).success();
    assert_eq!(packs(), 0, "no snapshot is left");
}

fn walk(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap().count()).sum()
}
