//! Bareos plugins through the command line: what misbehaves ends in one clear line, the plugin's own traceback and the
//! right status; nothing that claims to be whole is saved.

use std::path::Path;

use crate::common::{World, fails_with, stderr, stdout};

/// Where the example plugins are.
pub(crate) const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../adapters/bareos/python/examples");
const PLUGINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../adapters/bareos/python");

/// A definition of one of the misbehaving plugins. The worker program is built by another package of the workspace.
pub(crate) fn probe(module: &str, options: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay-python");
    assert!(program.exists(), "run \"cargo build -p backstay-python\" first: there is no {}", program.display());
    format!("python3:module_path={PLUGINS}/tests/plugins:module_name={module}{options}")
}

/// A definition of the example plugin that lists the folder `tree`.
pub(crate) fn tree_lister(world: &World) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay-python");
    assert!(program.exists(), "run \"cargo build -p backstay-python\" first: there is no {}", program.display());
    format!("python3:module_path={PLUGINS}/examples:module_name=tree_lister:path={}", world.shown("tree"))
}

/// Backs up with this plugin, expects the status, and gives standard output and standard error.
fn backup(world: &World, definition: &str, status: i32, more: &[&str]) -> (String, String) {
    let mut command = world.command(["backup", "--plugin", definition]);
    command.args(more);
    let assert = command.assert().code(status);
    (stdout(assert.get_output()), stderr(assert.get_output()))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn a_plugin_that_cannot_start_makes_no_snapshot_and_says_why() {
    let world = World::new();
    for (module, reason) in [
        ("no_such_module", "No module named 'no_such_module'"),
        ("syntax_error", "SyntaxError: '(' was never closed"),
        ("raises_on_import", "No module named 'a_module_that_is_not_installed'"),
        ("missing", "start_backup_file"),
    ] {
        let (out, err) = backup(&world, &probe(module, ""), 1, &[]);
        assert!(err.contains(reason), "{module}: {err}");
        assert!(last_line(&err).contains("no snapshot was made"), "{module}: {err}");
        assert!(!out.contains("complete"), "{module}: {out}");
    }
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn a_plugins_own_traceback_reaches_the_user_whole() {
    let world = World::new();
    let (_, err) = backup(&world, &probe("raises", ":where=start_backup_file"), 1, &[]);
    assert!(err.contains("Traceback (most recent call last):"), "{err}");
    assert!(err.contains("ValueError: raised in start_backup_file"), "{err}");
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn a_plugin_that_dies_leaves_no_snapshot_unless_a_partial_one_was_asked_for() {
    let world = World::new();
    let definition = probe("exits", ":where=plugin_io_read");
    let (_, err) = backup(&world, &definition, 1, &[]);
    assert!(last_line(&err).contains("no snapshot was made"), "{err}");
    assert!(world.objects(["snapshots"]).is_empty());

    let (out, err) = backup(&world, &definition, 1, &["--save-partial"]);
    assert!(last_line(&out).contains("partial"), "{out}");
    assert!(last_line(&err).contains("partial snapshot"), "{err}");
    assert_eq!(world.objects(["snapshots"])[0]["tags"], serde_json::json!(["backstay-partial"]));
    fails_with(world.command(["-q", "ls", "latest"]), 1, &["snapshot"]);
}

#[test]
fn a_plugin_that_hangs_is_ended_when_its_time_is_over() {
    let world = World::new();
    let definition = probe("sleeps", ":where=plugin_io_read");
    let (_, err) = backup(&world, &definition, 1, &["--plugin-timeout", "1s", "--cancel-grace", "1s"]);
    assert!(last_line(&err).contains("no snapshot was made"), "{err}");
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn an_entry_that_fails_is_listed_with_status_3() {
    let world = World::new();
    let (out, err) = backup(&world, &probe("big_buffer", ""), 3, &[]);
    assert!(err.contains("/probe/big_buffer"), "{err}");
    assert!(last_line(&out).contains("with errors, 1 entry was not saved"), "{out}");
    assert!(out.contains("Not saved:\n") && out.contains("1 failed"), "{out}");
}

#[test]
fn what_a_plugin_prints_goes_to_the_log_and_never_into_the_result() {
    let world = World::new();
    let mut command = world.command(["backup", "--json", "--plugin", &probe("prints", "")]);
    let assert = command.assert().success();
    let objects = crate::common::parse_lines(&stdout(assert.get_output()));
    assert_eq!(objects.last().unwrap()["verdict"], "complete");
    crate::common::parse_lines(&stderr(assert.get_output()));
}

#[test]
fn a_folder_comes_back_through_the_plugin_that_listed_it() {
    let world = World::new();
    world.make_tree();
    let text = format!("python3:module_path={PLUGINS}/examples:module_name=tree_lister:path={}\n", world.shown("tree"));
    world.write("definition", text);
    world.run(["backup", "--plugin-file", "definition"]).success();
    let snapshot = world.objects(["snapshots"]).remove(0);
    assert_eq!(snapshot["paths"], serde_json::json!(["/bareos-fd/tree_lister"]));

    let same = |target: &str| {
        let back = world.path(target).join(world.shown("tree").trim_start_matches('/'));
        let mut diff = assert_cmd::Command::new("diff");
        diff.args(["-r", "--no-dereference"]).arg(world.path("tree")).arg(back).assert().success();
    };
    let lines = world.lines(["restore", "latest", "--target", "through", "--through-plugin"]);
    assert_eq!(lines.last().unwrap(), "complete");
    same("through");
    let options = ["--through-plugin", "--plugin-options", "python3:io=plugin"];
    let mut command = world.command(["restore", "latest", "--target", "blocks"]);
    command.args(options).assert().success();
    same("blocks");
    world.run(["restore", "latest", "--target", "plain"]).success();
    same("plain");

    // Patterns and a place choose by announced names.
    let place = format!("latest:{}", world.shown("tree/docs"));
    let summary =
        world.objects(["restore", &place, "--target", "some", "--through-plugin", "--exclude", "note"]).pop().unwrap();
    assert_eq!(summary["verdict"], "complete");
    let back = world.path("some").join(world.shown("tree").trim_start_matches('/'));
    assert!(back.join("docs/readme").exists());
    assert!(!back.join("docs/deep/note").exists() && !back.join("hello.txt").exists());
}

#[test]
fn a_plugin_restore_into_a_target_that_is_not_empty_is_refused() {
    let world = World::new();
    world.write("out/mine", "");
    fails_with(
        world.command(["restore", "latest", "--target", "out", "--through-plugin"]),
        1,
        &["out", "not empty", "--overwrite"],
    );
}

#[test]
fn a_worker_or_an_interpreter_that_is_not_there_is_named() {
    let world = World::new();
    let mut command = world.command(["-q", "backup", "--plugin", &probe("prints", "")]);
    command.env("BACKSTAY_PYTHON_WORKER", "/nowhere/worker");
    fails_with(command, 1, &["backstay-python", "/nowhere/worker"]);
    let (_, err) = backup(&world, &probe("prints", ""), 1, &["--python", "/nowhere/python"]);
    assert!(err.contains("/nowhere/python"), "{err}");
}

#[test]
fn plugins_see_the_job_as_the_options_name_it() {
    let world = World::new();
    let module = "import bareosfd\nfrom bareosfd import *\n\
        def load_bareos_plugin(definition):\n    return bRC_OK\n\
        def parse_plugin_definition(definition):\n\
        \x20   for variable in (bVarJobName, bVarClient, bVarSinceTime, bVarWorkingDir, bVarJobId):\n\
        \x20       bareosfd.JobMessage(M_INFO, f'seen {GetValue(variable)}\\n')\n    return bRC_OK\n\
        def handle_plugin_event(event):\n    return bRC_OK\n\
        def start_backup_file(packet):\n    return bRC_Stop\n\
        def end_backup_file():\n    return bRC_OK\n";
    world.write("plugins/shows.py", module);
    let definition = format!("python3:module_path={}:module_name=shows", world.shown("plugins"));
    let mut command = world.command(["backup", "-v", "--plugin", &definition, "--job-name", "nightly"]);
    command.args(["--client", "db-fd", "--since", "1970-01-02T00:00:00Z", "--working-dir", "work"]);
    let err = stderr(command.assert().get_output());
    for part in ["seen nightly.", "seen db-fd", "seen 86400", &format!("seen {}", world.shown("work")), "seen 1\n"] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

/// The restored tree at `target` is the tree as it is now.
fn same_tree(world: &World, target: &str) {
    let back = world.path(target).join(world.shown("tree").trim_start_matches('/'));
    let mut diff = assert_cmd::Command::new("diff");
    diff.args(["-r", "--no-dereference"]).arg(world.path("tree")).arg(back).assert().success();
}

#[test]
fn an_incremental_chain_brings_back_the_tree_as_it_is_now() {
    let world = World::new();
    for name in ["stays", "changes", "goes", "deep/one", "deep/two"] {
        world.write(&format!("tree/{name}"), name);
    }
    let definition = tree_lister(&world);
    let backup = |level: &[&str]| {
        let mut words = vec!["backup", "--plugin", &definition];
        words.extend(level);
        world.objects(words).pop().unwrap()
    };
    let full = backup(&[]);
    assert_eq!(full["files_new"], 5);
    world.sleep_past_this_second();
    world.write("tree/changes", "changed");
    world.write("tree/new", "new");
    std::fs::remove_file(world.path("tree/goes")).unwrap();
    std::fs::remove_file(world.path("tree/deep/two")).unwrap();
    let second = backup(&["--level", "incremental", "--accurate"]);
    assert_eq!((&second["verdict"], &second["files_new"]), (&"complete".into(), &2.into()), "{second}");
    let entries = &second["entries"];
    assert_eq!((&entries["failed"], &entries["lost"]), (&0.into(), &0.into()), "{second}");
    assert!(entries["unchanged"].as_u64().unwrap() >= 2, "{second}");
    world.run(["restore", "latest", "--target", "plain"]).success();
    same_tree(&world, "plain");
    world.run(["restore", "latest", "--target", "through", "--through-plugin"]).success();
    same_tree(&world, "through");

    world.sleep_past_this_second();
    world.write("tree/deep/three", "3");
    let third = backup(&["--level", "differential", "--accurate"]);
    assert_eq!(third["files_new"], 3, "everything since the full job: {third}");
    world.run(["restore", "latest", "--target", "third", "--through-plugin"]).success();
    same_tree(&world, "third");

    // Not accurate: what is not mentioned stays.
    std::fs::remove_file(world.path("tree/stays")).unwrap();
    backup(&["--level", "incremental"]);
    let lines = world.lines(["ls", "latest"]);
    assert!(lines.iter().any(|line| line.ends_with("/tree/stays")), "{lines:#?}");
    world.run(["check", "--read-data"]).success();
}

#[test]
fn a_job_report_tells_level_files_and_messages() {
    let world = World::new();
    world.write("tree/a", "1234");
    let definition = tree_lister(&world);
    let lines = world.lines(["backup", "--plugin", &definition, "--level", "incremental", "--job-name", "nightly"]);
    let text = lines.join("\n");
    for part in [
        "Job:          nightly, number 1",
        "Level:        Full (bareos-fd/tree_lister)",
        "Files:        2 saved, 0 unchanged",
        "Messages:     0 fatal, 0 errors, 1 warning, ",
        "Termination:  Backup OK",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn levels_that_are_not_there_say_what_to_do_instead() {
    let world = World::new();
    let level = |level: &str| world.command(["backup", "--plugin", "python3:module_name=m", "--level", level]);
    fails_with(level("VirtualFull"), 1, &["--level", "every snapshot here is whole"]);
    fails_with(level("base"), 1, &["--level", "base jobs are not needed"]);
    fails_with(level("verify"), 1, &["--level", "backstay check"]);
    fails_with(level("often"), 1, &["often", "full, differential or incremental"]);
}

#[test]
fn a_trace_is_a_private_file_of_json_lines() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.write("tree/a", "1234");
    world.run(["-q", "backup", "--plugin", &tree_lister(&world), "--trace-plugin", "trace"]).success();
    let path = world.path("trace");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(path).unwrap();
    let calls: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(calls.iter().all(|call| call["module"] == "tree_lister"), "{text}");
    assert_eq!(calls[0]["call"], "load_bareos_plugin");
    assert!(calls.iter().any(|call| call["call"] == "end_backup_file"), "{text}");
}

#[test]
fn options_beside_the_definition_reach_the_plugin_between_its_two_looks_at_the_definition() {
    let world = World::new();
    world.make_tree();
    let plugin = ["-q", "backup", "--plugin", &tree_lister(&world), "--trace-plugin", "trace"];
    world.run([&plugin[..], &["--plugin-options", "python:x=1", "--plugin-options", "y=2"]].concat()).success();
    let text = std::fs::read_to_string(world.path("trace")).unwrap();
    let calls = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let parsed: Vec<String> = calls
        .filter(|call| call["call"] == "parse_plugin_definition")
        .map(|call| call["arguments"][0].as_str().unwrap_or_default().chars().take(5).collect())
        .collect();
    assert_eq!(parsed, ["path=", "x=1:", "y=2:", "path="], "{text}");
    fails_with(world.command(["backup", "tree", "--plugin-options", "x=1"]), 1, &["--plugin-options needs a plugin"]);
    fails_with(world.command([&plugin[..], &["--plugin-options", "bpipe:x=1"]].concat()), 1, &["bpipe", "KEY=VALUE"]);
}

#[test]
fn rules_make_the_names_that_a_plugin_restores_to() {
    let world = World::new();
    world.write("tree/a", "1234");
    world.run(["-q", "backup", "--plugin", &tree_lister(&world)]).success();
    let rule = format!("!^{}!{}!", world.shown("tree"), world.shown("elsewhere"));
    let words = ["restore", "latest", "--target", "unused", "--through-plugin", "--regex-where", &rule];
    world.run(words).success();
    assert_eq!(std::fs::read_to_string(world.path("elsewhere/a")).unwrap(), "1234");
    assert!(!world.path("unused").exists());
    let words = ["restore", "latest", "--target", "unused", "--through-plugin", "--regex-where", "abc"];
    fails_with(world.command(words), 1, &["abc", "!PATTERN!REPLACEMENT!"]);
}
