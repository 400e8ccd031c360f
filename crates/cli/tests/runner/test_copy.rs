use assert_cmd::Command;

use crate::common::{PASSWORD, World, fails_with, parse_lines, stderr, stdout};

/// Our program on the second repository, with the first as the one to copy from.
fn second(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    command.env("BACKSTAY_REPOSITORY", world.path("second"));
    command.env("BACKSTAY_FROM_REPOSITORY", world.path("repository")).env("BACKSTAY_FROM_PASSWORD", PASSWORD);
    command
}

fn objects(world: &World, arguments: &[&str]) -> Vec<serde_json::Value> {
    let mut command = second(world, arguments);
    command.arg("--json");
    parse_lines(&stdout(command.assert().success().get_output()))
}

#[test]
fn snapshots_are_copied_once_and_restore_the_same() {
    let world = World::with_snapshot();
    world.write("tree/later", "later\n");
    world.backup(["tree"]);
    second(&world, &["init"]).assert().success();
    let assert = second(&world, &["copy"]).assert().success();
    assert!(stderr(assert.get_output()).contains("different ways"), "{}", stderr(assert.get_output()));
    let copied = objects(&world, &["snapshots"]);
    let theirs = world.objects(["snapshots"]);
    assert_eq!(copied.len(), 2);
    for (copy, first) in copied.iter().zip(&theirs) {
        assert_eq!(copy["original"], first["id"]);
        assert_eq!(copy["tree"], first["tree"]);
    }
    second(&world, &["check", "--read-data"]).assert().success();
    second(&world, &["restore", "latest", "--target", "out"]).assert().success();
    let restored = world.path("out").join(world.shown("tree/later").trim_start_matches('/'));
    assert_eq!(std::fs::read_to_string(restored).unwrap(), "later\n");
    let summary = objects(&world, &["copy"]).pop().unwrap();
    assert_eq!((&summary["copied_snapshots"], &summary["skipped_snapshots"]), (&0.into(), &2.into()));
}

#[test]
fn every_way_to_name_the_source_works_and_only_what_is_asked_for_is_copied() {
    let world = World::with_snapshot();
    let id = world.backup(["tree", "--tag", "wanted"]);
    world.write("password", PASSWORD);
    world.write("place", world.shown("repository"));
    second(&world, &["init"]).assert().success();
    let mut command = second(&world, &["copy", "--from-repository-file", "place", "--tag", "wanted"]);
    command.args(["--from-password-file", "password"]);
    command.env_remove("BACKSTAY_FROM_REPOSITORY").env_remove("BACKSTAY_FROM_PASSWORD").assert().success();
    let list = objects(&world, &["snapshots"]);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["original"], id.as_str());
    let mut command = second(&world, &["copy", "--from-password-command", "cat password"]);
    command.env_remove("BACKSTAY_FROM_REPOSITORY").env("RESTIC_FROM_REPOSITORY", world.path("repository"));
    command.env_remove("BACKSTAY_FROM_PASSWORD").assert().success();
    assert_eq!(objects(&world, &["snapshots"]).len(), 2);
}

#[test]
fn what_cannot_be_copied_is_one_clear_line() {
    let world = World::with_snapshot();
    second(&world, &["init"]).assert().success();
    let mut command = second(&world, &["copy"]);
    command.env_remove("BACKSTAY_FROM_REPOSITORY");
    fails_with(command, 1, &["--from-repo"]);
    fails_with(second(&world, &["copy", "--from-repo", "nowhere"]), 10, &["nowhere", "no repository"]);
    let mut command = second(&world, &["copy"]);
    command.env("BACKSTAY_FROM_PASSWORD", "wrong");
    fails_with(command, 12, &["wrong password"]);
    let mut command = second(&world, &["copy"]);
    command.env("BACKSTAY_FROM_REPOSITORY", world.path("second"));
    fails_with(command, 1, &["the same"]);
    fails_with(second(&world, &["copy", "0123456789"]), 1, &["no snapshot"]);
    fails_with(second(&world, &["copy", "--no-lock"]), 1, &["--no-lock"]);
}

#[test]
fn a_new_repository_cuts_as_the_one_that_is_to_be_copied() {
    let world = World::empty();
    world.run(["init", "--restic-chunker"]).success();
    world.make_tree();
    world.backup(["tree"]);
    second(&world, &["init", "--copy-chunker-params"]).assert().success();
    let assert = second(&world, &["copy"]).assert().success();
    assert!(!stderr(assert.get_output()).contains("different ways"));
    let polynomial = |mut command: Command| {
        let config = stdout(command.args(["cat", "config"]).assert().success().get_output());
        serde_json::from_str::<serde_json::Value>(&config).unwrap()["chunker_polynomial"].clone()
    };
    assert_eq!(polynomial(second(&world, &[])), polynomial(world.command::<&str>([])));
    // FastCDC's table cannot be shared.
    let other = World::new();
    let mut command = other.command(["init", "--copy-chunker-params", "--from-repo"]);
    command.arg(other.path("repository")).env("BACKSTAY_REPOSITORY", other.path("second"));
    command.env("BACKSTAY_FROM_PASSWORD", PASSWORD);
    fails_with(command, 1, &["FastCDC"]);
    fails_with(other.command(["init", "-r", "third", "--from-repo", "x"]), 1, &["--copy-chunker-params"]);
}
