//! The index cache: where it is kept, that it can be declined, and that no command fails for want of it.

use std::path::Path;

use crate::common::{World, stderr};

/// How many files of indexes are in a cache folder.
fn cached(folder: &Path) -> usize {
    let Ok(folders) = std::fs::read_dir(folder) else { return 0 };
    let folders = folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.map(|folder| std::fs::read_dir(folder).unwrap().count()).sum()
}

fn world() -> World {
    let world = World::new();
    world.write("files/a", "contents");
    world.run(["backup", "files", "--no-cache"]).success();
    world
}

#[test]
fn the_cache_is_in_the_first_place_that_is_named() {
    let world = world();
    world.run(["ls", "latest"]).success();
    assert_eq!(cached(&world.path("home/.cache/backstay")), 1);
    assert!(world.path("home/.cache/backstay/CACHEDIR.TAG").is_file());

    let mut command = world.command(["ls", "latest"]);
    command.env("XDG_CACHE_HOME", world.path("standard")).assert().success();
    assert_eq!(cached(&world.path("standard/backstay")), 1);

    let mut command = world.command(["ls", "latest"]);
    command.env("XDG_CACHE_HOME", world.path("unused")).env("BACKSTAY_CACHE_DIR", world.path("named"));
    command.assert().success();
    assert_eq!(cached(&world.path("named")), 1);

    let mut command = world.command(["ls", "latest", "--cache-dir", "option"]);
    command.env("BACKSTAY_CACHE_DIR", world.path("unused")).assert().success();
    assert_eq!(cached(&world.path("option")), 1);
    assert!(!world.path("unused").exists());
}

#[test]
fn a_declined_cache_is_neither_made_nor_read() {
    let world = world();
    world.run(["ls", "latest", "--no-cache"]).success();
    assert_eq!(cached(&world.path("home/.cache/backstay")), 0);
    let output = world.run(["ls", "latest", "--no-cache", "--cache-dir", "x"]).failure();
    assert!(stderr(output.get_output()).contains("--no-cache"));
}

#[test]
fn a_place_that_cannot_be_used_is_mentioned_once_to_those_who_want_to_know() {
    let world = world();
    world.write("taken", "a file");
    let output = world.run(["ls", "latest", "--cache-dir", "taken"]).success();
    assert!(!stderr(output.get_output()).contains("cache"));
    let output = world.run(["ls", "latest", "--cache-dir", "taken", "-v"]).success();
    let words = stderr(output.get_output());
    assert_eq!(words.matches("cache").count(), 1, "{words}");
    assert!(words.contains("taken"), "{words}");
}

#[test]
fn a_backup_after_a_backup_finds_everything_through_the_cache() {
    let world = world();
    for round in 0..3 {
        world.write("files/b", format!("contents {round}"));
        world.run(["backup", "files"]).success();
    }
    assert!(cached(&world.path("home/.cache/backstay")) > 0);
    world.run(["check", "--read-data"]).success();
    world.run(["restore", "latest", "--target", "out"]).success();
}
