use crate::common::{World, fails_with, keys, stdout};

#[test]
fn names_are_found_in_every_snapshot() {
    let world = World::with_snapshot();
    world.backup(["tree/docs"]);
    assert_eq!(
        world.lines(["find", "READ*", "-i"]),
        [world.shown("tree/docs/readme"), world.shown("tree/docs/readme")]
    );
    assert_eq!(world.lines(["find", "hello.txt", "--snapshot", "latest"]), [] as [String; 0]);
    assert_eq!(world.lines(["find", "READ*"]), [] as [String; 0]);
}

#[test]
fn times_bound_the_search() {
    let world = World::with_snapshot();
    assert!(world.lines(["find", "readme", "--newest", "2020-01-01"]).is_empty());
    assert_eq!(world.lines(["find", "readme", "--oldest", "2020-01-01"]).len(), 1);
}

#[test]
fn objects_are_the_elements_of_restics_array() {
    let world = World::with_snapshot();
    let ours = world.objects(["find", "note"]);
    let restic = world.restic(["find", "--json", "note"]).assert().success();
    let theirs: serde_json::Value = serde_json::from_str(stdout(restic.get_output()).trim()).unwrap();
    assert_eq!(ours.len(), theirs.as_array().unwrap().len());
    let missing: Vec<String> = keys(&theirs[0]).difference(&keys(&ours[0])).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(ours[0]["hits"], theirs[0]["hits"]);
    let (ours, theirs) = (&ours[0]["matches"][0], &theirs[0]["matches"][0]);
    let missing: Vec<String> = keys(theirs).difference(&keys(ours)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(ours["path"], theirs["path"]);
}

#[test]
fn a_tree_is_found_by_the_beginning_of_its_id() {
    let world = World::with_snapshot();
    let tree = world.objects(["snapshots"])[0]["tree"].as_str().unwrap().to_owned();
    let lines = world.lines(["find", "--tree", &tree[..10]]);
    assert!(lines.len() == 1 && lines[0].contains(&tree), "{lines:?}");
    fails_with(world.command(["find", "--blob", "zz"]), 1, &["zz"]);
}

#[test]
fn a_pattern_that_is_none_is_refused_before_the_repository_is_opened() {
    let world = World::empty();
    fails_with(world.command(["find", "[a"]), 1, &["[a"]);
}

#[test]
fn the_newest_snapshot_comes_first_and_with_reverse_last() {
    let world = World::with_snapshot();
    let first = world.objects(["snapshots"])[0]["id"].clone();
    let second = world.backup(["tree"]);
    let order = |arguments: &[&str]| -> Vec<serde_json::Value> {
        world.objects(arguments).iter().map(|object| object["snapshot"].clone()).collect()
    };
    assert_eq!(order(&["find", "note"]), [second.clone().into(), first.clone()]);
    assert_eq!(order(&["find", "note", "--reverse"]), [first, second.into()]);
}

#[test]
fn sizes_bound_the_search() {
    let world = World::with_snapshot();
    let place = world.shown("tree/docs/readme");
    assert_eq!(world.lines(["find", "*", "--min-size", "8", "--max-size", "8"]), [place]);
    assert!(world.lines(["find", "readme", "--min-size", "1K"]).is_empty());
}

#[test]
fn files_are_found_by_the_hash_of_their_whole_contents() {
    let world = World::new();
    // Several blobs in one case, one in the next, none in the last.
    let noise: Vec<u8> =
        (0..5_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    world.write("tree/big", &noise);
    world.write("tree/small", "small");
    world.write("tree/empty", "");
    world.backup(["tree"]);
    for name in ["tree/big", "tree/small", "tree/empty"] {
        let output = std::process::Command::new("sha256sum").arg(world.path(name)).output().unwrap();
        let sum = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
        assert_eq!(world.lines(["find", "--hash", &sum]), [world.shown(name)]);
        assert_eq!(world.lines(["find", "--hash", &sum[..12].to_uppercase()]), [world.shown(name)]);
        assert_eq!(world.objects(["find", "--hash", &sum])[0]["matches"][0]["path"], world.shown(name));
        assert!(world.lines(["find", "--hash", &sum, "--min-size", "100M"]).is_empty());
    }
    fails_with(world.command(["find", "--hash", "xyz"]), 1, &["xyz", "SHA-256"]);
}

#[test]
fn uses_of_a_blob_are_told_with_the_pack_that_holds_it() {
    let world = World::with_snapshot();
    let restic = world.restic(["list", "packs"]).assert().success();
    let packs = stdout(restic.get_output());
    let output = std::process::Command::new("sha256sum").arg(world.path("tree/docs/readme")).output().unwrap();
    let blob = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
    let lines = world.lines(["find", "--blob", "--show-pack-id", &blob[..16]]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains(&blob) && lines[0].contains("docs/readme"), "{lines:?}");
    let pack = packs.lines().find(|pack| lines[1].contains(pack)).expect("the line names a pack");
    let objects = world.objects(["find", "--blob", "--show-pack-id", &blob]);
    assert_eq!(objects[0]["object_type"], "blob");
    assert!(objects[0]["parent_tree"].is_string(), "{objects:?}");
    assert_eq!(objects[1]["pack"], pack);
    assert!(world.lines(["find", "--pack", &pack[..12]]).iter().any(|line| line.contains(&blob)));
    fails_with(world.command(["find", "--show-pack-id", "x"]), 1, &["--show-pack-id", "--blob"]);
    fails_with(world.command(["find", "--tree", "--long", "00"]), 1, &["--tree", "--long"]);
}
