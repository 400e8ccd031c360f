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
