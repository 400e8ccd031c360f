use std::os::unix::fs::PermissionsExt;

use crate::common::{World, fails_with, parse_lines, stderr, stdout};

#[test]
fn the_summary_ends_with_the_sum_and_the_verdict() {
    let world = World::new();
    world.make_tree();
    let lines = world.lines(["backup", "tree"]);
    let sum = lines.iter().find(|line| line.starts_with("Entries:")).unwrap();
    assert_eq!(sum, "Entries: 7 announced = 7 saved + 0 unchanged + 0 skipped + 0 failed + 0 lost");
    assert!(lines.last().unwrap().ends_with("saved: complete"), "{lines:?}");
    world.restic(["check", "--read-data"]).assert().success();
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let world = World::with_snapshot();
    let summary = world.objects(["backup", "tree"]).pop().unwrap();
    assert_eq!(summary["files_unmodified"], 3);
    assert_eq!(summary["data_blobs"], 0);
    let summary = world.objects(["backup", "tree", "--force"]).pop().unwrap();
    assert_eq!(summary["files_unmodified"], 0);
}

#[test]
fn skip_if_unchanged_makes_no_snapshot() {
    let world = World::with_snapshot_in_peace();
    let text = world.lines(["backup", "tree", "--skip-if-unchanged"]).join("\n");
    assert!(text.contains("no snapshot was made"), "{text}");
    assert_eq!(world.objects(["snapshots"]).len(), 1);
    world.write("tree/new", "");
    world.run(["backup", "tree", "--skip-if-unchanged"]).success();
    assert_eq!(world.objects(["snapshots"]).len(), 2);
}

#[test]
fn a_dry_run_stores_nothing() {
    let world = World::new();
    world.make_tree();
    let summary = world.objects(["backup", "tree", "--dry-run"]).pop().unwrap();
    assert_eq!(summary["dry_run"], true);
    assert_eq!(summary["files_new"], 3);
    assert!(summary.get("snapshot_id").is_none());
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn rules_leave_out_and_are_named_with_vv() {
    let world = World::new();
    world.make_tree();
    world.write("tree/big", vec![1; 5000]);
    world.write("tree/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    world.write("tree/cache/thing", "");
    world.write("rules", "deep/\n");
    let assert = world
        .run([
            "backup",
            "tree",
            "-vv",
            "--exclude",
            "READ*",
            "--iexclude",
            "READ*",
            "--exclude-file",
            "rules",
            "--exclude-caches",
            "--exclude-larger-than",
            "4K",
        ])
        .success();
    let text = stderr(assert.get_output());
    assert!(text.contains("skipped") && text.contains("--exclude-larger-than"), "{text}");
    let lines = world.lines(["ls", "latest"]);
    for gone in ["tree/docs/readme", "tree/docs/deep", "tree/big", "tree/cache/thing"] {
        assert!(!lines.contains(&world.shown(gone)), "{gone}: {lines:?}");
    }
    assert!(lines.contains(&world.shown("tree/hello.txt")));
    let excludes = &world.objects(["snapshots"])[0]["excludes"];
    assert_eq!(excludes[0], "READ*");
}

#[test]
fn the_snapshot_says_what_the_options_said() {
    let world = World::new();
    world.make_tree();
    world.backup(["tree", "--host", "h", "--tag", "a,b", "--tag", "c", "--time", "2026-01-02T03:04:05Z"]);
    let snapshot = world.objects(["snapshots"]).remove(0);
    assert_eq!(snapshot["hostname"], "h");
    assert_eq!(snapshot["tags"], serde_json::json!(["a", "b", "c"]));
    assert_eq!(snapshot["time"], "2026-01-02T03:04:05Z");
    assert_eq!(snapshot["paths"], serde_json::json!([world.shown("tree")]));
}

#[test]
fn a_parent_can_be_named_and_has_to_be_there() {
    let world = World::new();
    world.make_tree();
    let first = world.backup(["tree", "--host", "other"]);
    world.backup(["tree", "--parent", &first[..8]]);
    assert_eq!(world.objects(["snapshots"])[1]["parent"], first.as_str());
    fails_with(world.command(["-q", "backup", "tree", "--parent", "00ff00ff"]), 1, &["00ff00ff"]);
    fails_with(world.command(["backup", "tree", "--parent", "x", "--force"]), 1, &["--parent", "--force"]);
}

#[test]
fn standard_input_becomes_a_file() {
    let world = World::new();
    let mut command = world.command(["backup", "--stdin", "--stdin-filename", "dumps/all.sql"]);
    command.write_stdin("select 1;\n").assert().success();
    assert_eq!(world.lines(["cat", "latest:/dumps/all.sql"]), ["select 1;"]);
    fails_with(world.command(["backup", "--stdin", "tree"]), 1, &["--stdin"]);
    fails_with(world.command(["backup", "--stdin", "--stdin-filename", "/"]), 1, &["--stdin-filename"]);
    fails_with(world.command(["backup", "--stdin", "--files-from", "-"]), 1, &["standard input"]);
}

#[test]
fn a_command_becomes_a_file_and_one_that_fails_makes_no_snapshot() {
    let world = World::new();
    world
        .run(["backup", "--stdin-from-command", "--stdin-filename", "out", "--", "sh", "-c", "echo from a command"])
        .success();
    assert_eq!(world.lines(["cat", "latest:/out"]), ["from a command"]);
    let assert = world.run(["backup", "--stdin-from-command", "--", "sh", "-c", "echo half; exit 7"]).code(1);
    let text = stderr(assert.get_output());
    assert!(text.contains('7') && text.contains("no snapshot was made"), "{text}");
    assert_eq!(world.objects(["snapshots"]).len(), 1);
    let assert = world.run(["backup", "--stdin-from-command", "--", "no-such-program-here"]).code(1);
    assert!(stderr(assert.get_output()).contains("no-such-program-here"));
    fails_with(world.command(["backup", "--stdin-from-command"]), 1, &["command after"]);
}

#[test]
fn a_partial_snapshot_is_kept_only_when_asked_for_and_is_never_latest() {
    let world = World::with_snapshot();
    let arguments = ["backup", "--save-partial", "--stdin-from-command", "--", "sh", "-c", "echo half; exit 7"];
    let assert = world.run(arguments).code(1);
    assert!(stdout(assert.get_output()).contains("partial"));
    let snapshots = world.objects(["snapshots"]);
    assert_eq!(snapshots.len(), 2);
    assert_eq!(snapshots[1]["tags"], serde_json::json!(["backstay-partial"]));
    assert_eq!(world.lines(["cat", &format!("latest:{}", world.shown("tree/hello.txt"))]), ["hello"]);
}

#[test]
fn lists_name_paths() {
    let world = World::new();
    world.make_tree();
    world.write("patterns", "# a comment\ntree/he*\n");
    world.write("lines", "tree/docs/readme\n");
    world.write("raw", "tree/docs/deep\0");
    world.backup(["--files-from", "patterns", "--files-from-verbatim", "lines", "--files-from-raw", "raw"]);
    let lines = world.lines(["ls", "latest"]);
    for name in ["tree/hello.txt", "tree/docs/readme", "tree/docs/deep/note"] {
        assert!(lines.contains(&world.shown(name)), "{name}: {lines:?}");
    }
    let mut command = world.command(["backup", "--files-from", "-"]);
    command.write_stdin("tree/docs\n").assert().success();
    assert_eq!(world.objects(["snapshots", "latest"])[0]["paths"], serde_json::json!([world.shown("tree/docs")]));
    fails_with(world.command(["backup", "--files-from", "missing"]), 1, &["missing", "No such file"]);
}

#[test]
fn an_entry_that_fails_is_listed_and_the_status_is_3() {
    let world = World::new();
    world.make_tree();
    // A path that is missing is an entry that was announced and not saved, for root too.
    let assert = world.run(["backup", "tree", "missing"]).code(3);
    let text = stdout(assert.get_output());
    assert!(text.contains("with errors, 1 entry was not saved") && text.contains("1 failed"), "{text}");
    assert!(text.contains(&world.shown("missing")), "{text}");
    assert!(stderr(assert.get_output()).contains(&world.shown("missing")));

    let assert = world.run(["backup", "tree", "missing", "--json"]).code(3);
    let errors = parse_lines(&stderr(assert.get_output()));
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["message_type"], "error");
    assert_eq!(errors[0]["during"], "archival");
    assert_eq!(errors[0]["item"], world.shown("missing").as_str());
    let summary = parse_lines(&stdout(assert.get_output())).pop().unwrap();
    assert_eq!(summary["verdict"], "with errors");
    assert_eq!(summary["entries"]["failed"], 1);
}

#[test]
fn nothing_to_back_up_is_one_line() {
    let world = World::new();
    fails_with(world.command(["backup"]), 1, &["nothing to back up", "--plugin"]);
    fails_with(world.command(["backup", ""]), 1, &["no path"]);
    let assert = world.run(["-q", "backup", "missing"]).code(1);
    assert!(stderr(assert.get_output()).contains("missing"));
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn a_repository_that_cannot_be_written_is_one_line() {
    if rustix::process::geteuid().is_root() {
        // Root writes anyway: a file in a folder's place stops root too.
        let world = World::new();
        world.make_tree();
        std::fs::remove_dir_all(world.path("repository/index")).unwrap();
        world.write("repository/index", "");
        let assert = world.run(["-q", "backup", "tree"]).code(1);
        assert_eq!(stderr(assert.get_output()).lines().count(), 1);
        return;
    }
    let world = World::new();
    world.make_tree();
    std::fs::set_permissions(world.path("repository/data"), std::fs::Permissions::from_mode(0o500)).unwrap();
    fails_with(world.command(["-q", "backup", "tree"]), 1, &["denied"]);
}

#[test]
fn plugin_definitions_are_looked_at_before_anything_starts() {
    let world = World::new();
    fails_with(world.command(["backup", "--plugin", " "]), 1, &["--plugin is empty"]);
    fails_with(world.command(["backup", "--plugin-file", "missing"]), 1, &["missing", "No such file"]);
    let mut command = world.command(["backup", "--plugin"]);
    command.arg("python:password=hush-hush");
    let text = stderr(command.assert().code(1).get_output());
    assert!(text.contains("module_name") && !text.contains("hush-hush"), "{text}");
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn nothing_is_said_when_quiet() {
    let world = World::new();
    world.make_tree();
    let assert = world.run(["-q", "backup", "tree"]).success();
    assert_eq!((stdout(assert.get_output()), stderr(assert.get_output())), (String::new(), String::new()));
}

#[test]
fn compression_is_chosen_by_option_or_variable() {
    let world = World::new();
    // Words in an order that no short pattern explains, so that levels differ.
    let mut state = 7_u64;
    let words: String = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ["snow ", "harbour ", "stay ", "mast ", "halyard ", "keel\n", "reef ", "lee "][(state >> 60) as usize % 8]
        })
        .collect();
    world.write("words", &words);
    let stored = |mode: &str, variable: Option<&str>| {
        let fresh = World::new();
        fresh.write("words", &words);
        let mut command = fresh.command(["backup", "words", "--json"]);
        match variable {
            Some(variable) => command.env(variable, mode),
            None => command.args(["--compression", mode]),
        };
        let summary = parse_lines(&stdout(command.assert().success().get_output())).pop().unwrap();
        fresh.restic(["check", "--read-data"]).assert().success();
        summary["data_added_packed"].as_u64().unwrap()
    };
    let off = stored("off", None);
    let fastest = stored("fastest", None);
    let max = stored("max", None);
    assert!(off > words.len() as u64, "{off}");
    assert!(max < fastest && fastest < off, "{max} {fastest} {off}");
    // Each repository cuts in its own places.
    let near = |a: u64, b: u64| a.abs_diff(b) < a / 20;
    assert!(near(stored("1", None), fastest));
    assert!(near(stored("off", Some("RESTIC_COMPRESSION")), off));
    assert!(near(stored("max", Some("BACKSTAY_COMPRESSION")), max));
}

#[test]
fn compression_and_pack_sizes_that_there_are_not_are_refused_before_anything_starts() {
    let world = World::with_snapshot();
    fails_with(world.command(["backup", "tree", "--compression", "hard"]), 1, &["--compression", "hard", "fastest"]);
    fails_with(world.command(["backup", "tree", "--compression", "20"]), 1, &["--compression", "1 to 19"]);
    fails_with(world.command(["backup", "tree", "--pack-size", "3"]), 1, &["--pack-size", "4 to 128"]);
    let mut command = world.command(["backup", "tree"]);
    command.env("RESTIC_PACK_SIZE", "much");
    fails_with(command, 1, &["RESTIC_PACK_SIZE", "much"]);
    assert_eq!(world.objects(["snapshots"]).len(), 1);
}
