use crate::common::{PASSWORD, World, fails_with, keys, stderr, stdout};

#[test]
fn init_makes_a_repository_that_restic_opens() {
    let world = World::empty();
    let objects = world.objects(["init"]);
    assert_eq!(objects.len(), 1);
    assert_eq!(keys(&objects[0]), ["id", "message_type", "repository"].map(str::to_owned).into());
    assert_eq!(objects[0]["message_type"], "initialized");
    assert_eq!(objects[0]["id"].as_str().unwrap().len(), 64);
    let config = world.restic(["cat", "config"]).assert().success();
    assert!(stdout(config.get_output()).contains(objects[0]["id"].as_str().unwrap()));
}

#[test]
fn init_says_where_and_warns_about_the_password() {
    let world = World::empty();
    let assert = world.run(["init"]).success();
    let text = stderr(assert.get_output());
    assert!(text.contains(&world.shown("repository")) && text.contains("password"), "{text}");
    assert!(!text.contains(PASSWORD));
    assert_eq!(stdout(assert.get_output()), "");
}

#[test]
fn init_says_nothing_when_quiet() {
    let world = World::empty();
    let assert = world.run(["-q", "init"]).success();
    assert_eq!((stdout(assert.get_output()), stderr(assert.get_output())), (String::new(), String::new()));
}

#[test]
fn a_repository_that_is_there_is_left_as_it_is() {
    let world = World::new();
    let before = std::fs::read(world.path("repository/config")).unwrap();
    fails_with(world.command(["init"]), 1, &["repository", "already"]);
    assert_eq!(std::fs::read(world.path("repository/config")).unwrap(), before);
    assert_eq!(std::fs::read_dir(world.path("repository/keys")).unwrap().count(), 1);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let world = World::empty();
    world.write("file", "");
    let mut command = world.command(["init"]);
    command.env("BACKSTAY_REPOSITORY", world.path("file/repository"));
    fails_with(command, 1, &["file/repository", "Not a directory"]);
}

#[test]
fn with_restics_chunker_both_programs_share_contents() {
    let world = World::empty();
    world.run(["init", "--restic-chunker"]).success();
    // Several chunks: where they are cut decides whether they are shared.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(6 << 20)
    .collect();
    world.write("tree/noise", noise);
    world.restic(["backup", "tree"]).assert().success();
    let objects = world.objects(["backup", "tree", "--force"]);
    assert_eq!(objects.last().unwrap()["data_blobs"], 0, "{objects:?}");
}
