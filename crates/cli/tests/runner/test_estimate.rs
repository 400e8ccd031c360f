//! `backstay estimate`: what a backup through plugins would save.

use crate::common::{World, fails_with};
use crate::test_plugins::tree_lister;

#[test]
fn an_estimate_counts_what_a_backup_of_that_level_would_save() {
    let world = World::new();
    world.write("tree/a", "1234");
    world.write("tree/b", "12345678");
    let definition = tree_lister(&world);
    let sum = |world: &World, more: &[&str]| {
        let mut words = vec!["estimate", "--plugin", &definition];
        words.extend(more);
        let summary = world.objects(words).pop().unwrap();
        (summary["files"].as_u64().unwrap(), summary["bytes"].as_u64().unwrap())
    };
    assert_eq!(sum(&world, &[]), (3, 12), "two files and their folder");
    assert!(world.objects(["snapshots"]).is_empty(), "nothing is written");
    // What has the second of the job's start for its time counts as changed after it.
    world.sleep_past_this_second();
    world.run(["-q", "backup", "--plugin", &definition]).success();
    world.sleep_past_this_second();
    world.write("tree/b", "changed");
    let (files, bytes) = sum(&world, &["--level", "incremental"]);
    assert!(files < 3 && bytes == 7, "{files} {bytes}");
    let lines = world.lines(["estimate", "--listing", "--plugin", &definition]);
    assert!(lines.iter().any(|line| line.ends_with("/tree/a")), "{lines:#?}");
}

#[test]
fn an_estimate_needs_a_plugin() {
    let world = World::new();
    fails_with(world.command(["estimate"]), 1, &["--plugin"]);
}
