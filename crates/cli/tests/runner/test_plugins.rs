//! Bareos plugins through the command line: what misbehaves ends in one clear line, the plugin's own traceback and the
//! right status; nothing that claims to be whole is saved.

use std::path::Path;

use crate::common::{World, fails_with, stderr, stdout};

const PLUGINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../adapters/bareos/python");

/// A definition of one of the misbehaving plugins. The worker program is built by another package of the workspace.
fn probe(module: &str, options: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay-python");
    assert!(program.exists(), "run \"cargo build -p backstay-python\" first: there is no {}", program.display());
    format!("python3:module_path={PLUGINS}/tests/plugins:module_name={module}{options}")
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
