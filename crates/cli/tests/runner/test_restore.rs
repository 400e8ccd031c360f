use std::os::unix::fs::MetadataExt;

use crate::common::{World, fails_with, keys, parse_lines, stderr, stdout};

fn restored(world: &World, target: &str, name: &str) -> std::path::PathBuf {
    world.path(target).join(world.shown(name).trim_start_matches('/'))
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let world = World::with_snapshot();
    let lines = world.lines(["restore", "latest", "--target", "out"]);
    assert_eq!(lines.last().unwrap(), "complete");
    let same = assert_cmd::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(world.path("tree"))
        .arg(restored(&world, "out", "tree"))
        .assert();
    same.success();
    let (one, two) = (world.path("tree/hello.txt"), restored(&world, "out", "tree/hello.txt"));
    assert_eq!(one.metadata().unwrap().mtime_nsec(), two.metadata().unwrap().mtime_nsec());
}

#[test]
fn a_folder_after_the_colon_comes_directly_into_the_target() {
    let world = World::with_snapshot();
    let place = format!("latest:{}", world.shown("tree/docs"));
    world.run(["restore", &place, "--target", "out", "--verify"]).success();
    assert_eq!(std::fs::read_to_string(world.path("out/readme")).unwrap(), "read me\n");
    assert!(world.path("out/deep/note").exists());
    fails_with(world.command(["-q", "restore", "latest:/missing", "--target", "elsewhere"]), 1, &["/missing"]);
}

#[test]
fn patterns_choose_what_comes_back() {
    let world = World::with_snapshot();
    world.run(["restore", "latest", "--target", "only", "--include", "readme"]).success();
    assert!(restored(&world, "only", "tree/docs/readme").exists());
    assert!(!restored(&world, "only", "tree/hello.txt").exists());
    world.run(["restore", "latest", "--target", "without", "--iexclude", "DOCS"]).success();
    assert!(restored(&world, "without", "tree/hello.txt").exists());
    assert!(!restored(&world, "without", "tree/docs").exists());
}

#[test]
fn a_target_that_is_not_empty_is_refused_and_nothing_is_written() {
    let world = World::with_snapshot();
    world.write("out/mine", "mine");
    fails_with(world.command(["restore", "latest", "--target", "out"]), 1, &["out", "not empty", "--overwrite"]);
    assert_eq!(std::fs::read_dir(world.path("out")).unwrap().count(), 1);
    world.write("file", "");
    fails_with(world.command(["restore", "latest", "--target", "file"]), 1, &["file", "Not a directory"]);
}

#[test]
fn overwrite_says_what_happens_to_what_is_there() {
    let world = World::with_snapshot();
    world.run(["restore", "latest", "--target", "out"]).success();
    let file = restored(&world, "out", "tree/hello.txt");
    std::fs::write(&file, "changed by hand").unwrap();
    world.run(["restore", "latest", "--target", "out", "--overwrite", "never"]).success();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "changed by hand");
    world.run(["restore", "latest", "--target", "out", "--overwrite", "if-changed"]).success();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello\n");
}

#[test]
fn delete_removes_what_the_snapshot_does_not_have() {
    let world = World::with_snapshot();
    let place = format!("latest:{}", world.shown("tree"));
    world.write("out/extra", "");
    world.run(["restore", &place, "--target", "out", "--delete"]).success();
    assert!(!world.path("out/extra").exists());
    assert!(world.path("out/hello.txt").exists());
}

#[test]
fn a_dry_run_writes_nothing() {
    let world = World::with_snapshot();
    let text = world.lines(["restore", "latest", "--target", "out", "--dry-run"]).join("\n");
    assert!(text.contains("nothing was written"), "{text}");
    assert!(!restored(&world, "out", "tree/hello.txt").exists());
}

#[test]
fn the_summary_has_restics_fields() {
    let world = World::with_snapshot();
    let summary = world.objects(["restore", "latest", "--target", "out"]).pop().unwrap();
    for field in ["message_type", "total_files", "files_restored", "total_bytes", "bytes_restored", "seconds_elapsed"] {
        assert!(keys(&summary).contains(field), "{field}: {summary}");
    }
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(summary["files_restored"], summary["total_files"]);
    assert_eq!(summary["error_count"], 0);
}

#[test]
fn an_entry_that_fails_is_listed_and_the_status_is_3() {
    let world = World::with_snapshot();
    let packs = world.path("repository/data");
    for folder in std::fs::read_dir(&packs).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            // The packs of contents are told from those of trees by whether a listing still works.
            let original = bytes.clone();
            bytes[20] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
            if world.command(["ls", "latest"]).output().unwrap().status.success() {
                let assert = world.run(["restore", "latest", "--target", "out"]).code(3);
                let text = stdout(assert.get_output());
                assert!(text.contains("with errors"), "{text}");
                assert!(stderr(assert.get_output()).contains("error:"));
                let assert = world.run(["restore", "latest", "--target", "other", "--json"]).code(3);
                let errors = parse_lines(&stderr(assert.get_output()));
                assert_eq!(errors[0]["message_type"], "error");
                assert!(errors[0]["item"].is_string() && errors[0]["error"]["message"].is_string());
                return;
            }
            std::fs::write(&path, original).unwrap();
        }
    }
    panic!("no pack of contents was found");
}

#[test]
fn a_repository_that_restic_wrote_comes_back() {
    let world = World::empty();
    world.restic(["init"]).assert().success();
    world.make_tree();
    world.restic(["backup", &world.shown("tree"), "--tag", "theirs"]).assert().success();
    assert!(world.lines(["snapshots", "--tag", "theirs"]).join("\n").contains("1 snapshot"));
    world.run(["restore", "latest", "--target", "out", "--verify"]).success();
    assert_eq!(std::fs::read_to_string(restored(&world, "out", "tree/docs/deep/note")).unwrap(), "a note\n");
}

#[test]
fn through_plugin_needs_plugin_data_and_refuses_what_plugins_cannot_do() {
    let world = World::with_snapshot();
    fails_with(world.command(["-q", "restore", "latest", "--target", "out", "--through-plugin"]), 1, &["plugin"]);
    fails_with(
        world.command(["restore", "latest", "--target", "out", "--plugin-options", "x"]),
        1,
        &["--through-plugin"],
    );
    fails_with(
        world.command(["restore", "latest", "--target", "out", "--through-plugin", "--delete"]),
        1,
        &["--through-plugin", "--delete"],
    );
    fails_with(
        world.command(["restore", "latest", "--target", "out", "--through-plugin", "--overwrite", "if-changed"]),
        1,
        &["--through-plugin", "never"],
    );
}
