use crate::common::{World, fails_with};

#[test]
fn the_contents_come_byte_for_byte() {
    let world = World::new();
    let content: Vec<u8> =
        (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    world.write("tree/big", &content);
    world.backup(["tree"]);
    for command in ["dump", "cat"] {
        let place = format!("latest:{}", world.shown("tree/big"));
        let assert = world.run([command, &place]).success();
        assert!(assert.get_output().stdout == content, "{command}");
    }
    // As restic takes it.
    let assert = world.run(["dump", "latest", &world.shown("tree/big")]).success();
    assert!(assert.get_output().stdout == content);
}

#[test]
fn a_target_takes_the_file_and_is_never_overwritten() {
    let world = World::with_snapshot();
    let place = format!("latest:{}", world.shown("tree/hello.txt"));
    world.run(["dump", &place, "--target", "copy"]).success();
    assert_eq!(std::fs::read_to_string(world.path("copy")).unwrap(), "hello\n");
    world.write("copy", "mine");
    fails_with(world.command(["dump", &place, "--target", "copy"]), 1, &["copy", "exists"]);
    assert_eq!(std::fs::read_to_string(world.path("copy")).unwrap(), "mine");
}

#[test]
fn what_is_no_file_is_refused() {
    let world = World::with_snapshot();
    fails_with(world.command(["dump", "latest:/missing"]), 1, &["/missing"]);
    fails_with(world.command(["dump", "latest"]), 1, &["SNAPSHOT:PATH"]);
    let folder = format!("latest:{}", world.shown("tree"));
    fails_with(world.command(["dump", &folder]), 1, &["folder", "restore"]);
    let link = format!("latest:{}", world.shown("tree/link"));
    fails_with(world.command(["dump", &link]), 1, &["no regular file"]);
}
