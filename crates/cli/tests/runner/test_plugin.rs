//! The bench for storage plugins of gpbackup: it passes good ones, and finds what is wrong with each of the others.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use assert_cmd::Command;

use crate::common::{World, fails_with, parse_lines, stderr, stdout};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../adapters/gpbackup/examples/folder_plugin").canonicalize().unwrap()
}

/// A configuration for the example with a store of its own.
fn configure(world: &World, more: &str) {
    let store = world.path("store");
    world.write(
        "c.yaml",
        format!("executablepath: {}\noptions:\n  folder: {}\n{more}", example().display(), store.display()),
    );
}

fn bench(world: &World, plugin: &Path) -> Command {
    let mut command = world.bare();
    // The system's Python starts sooner than a wrapper that looks for another one, and it is started many times.
    command.env("PATH", format!("/usr/bin:/bin:{}", std::env::var("PATH").unwrap_or_default()));
    command.args(["plugin", "test", "gpbackup", "--size", "1M", "--time-limit", "60"]).arg(plugin).arg("c.yaml");
    command
}

/// The example with something wrong: `case` is shell, `$plugin` the example.
fn broken(world: &World, case: &str) -> PathBuf {
    let text = format!("#!/bin/sh\nplugin={}\n{case}\nexec $plugin \"$@\"\n", example().display());
    // Another process writes it: while one of ours had it open for writing, no thread could start it.
    let path = world.path("broken");
    let mut writer = std::process::Command::new("/bin/sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    path
}

/// The checks that fail with such a plugin, with their reasons.
fn failures(case: &str, arguments: &[&str]) -> Vec<(String, String)> {
    let world = World::empty();
    configure(&world, "");
    let plugin = broken(&world, case);
    let mut command = bench(&world, &plugin);
    let assert = command.arg("--json").args(arguments).assert().code(1);
    let lines = parse_lines(&stdout(assert.get_output()));
    assert_eq!(stderr(assert.get_output()), "");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let failed = lines.iter().filter(|line| line["outcome"] == "failed");
    failed.map(|line| (text(&line["name"]), text(&line["reason"]))).collect()
}

#[track_caller]
fn only(case: &str, expected: &[(&str, &str)]) {
    let found = failures(case, &[]);
    let as_expected = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.0 == expected.0 && found.1.contains(expected.1));
    assert!(as_expected, "{found:#?}");
}

#[test]
fn the_example_passes_every_check_and_nothing_is_left() {
    let world = World::empty();
    configure(&world, "  restore_subset: on\n");
    let assert = bench(&world, &example()).assert().success();
    let text = stdout(assert.get_output());
    assert!(text.lines().all(|line| line.contains(" ok")), "{text}");
    assert!(text.ends_with("35 ok, 0 failed, 0 skipped\n"), "{text}");
    assert_eq!(std::fs::read_dir(world.path("store/backups")).unwrap().count(), 0);
}

#[test]
fn our_own_plugin_passes_every_check() {
    let program = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay_gpbackup_plugin");
    assert!(
        program.exists(),
        "run \"cargo build -p backstay-gpbackup-plugin\" first: there is no {}",
        program.display()
    );
    let world = World::empty();
    let repository = world.path("repository");
    world.write(
        "c.yaml",
        format!(
            "executablepath: {}\noptions:\n  repository: {}\n  password: x\n  restore_subset: on\n",
            program.display(),
            repository.display()
        ),
    );
    let assert = bench(&world, &program).assert().success();
    assert!(stdout(assert.get_output()).ends_with("35 ok, 0 failed, 0 skipped\n"));
}

#[test]
fn json_has_an_object_for_each_check_and_a_summary() {
    let world = World::empty();
    configure(&world, "");
    let assert = bench(&world, &example()).arg("--json").assert().success();
    let lines = parse_lines(&stdout(assert.get_output()));
    let (summary, checks) = lines.split_last().unwrap();
    assert_eq!(summary["message_type"], "summary");
    assert_eq!((summary["ok"].as_u64(), summary["failed"].as_u64()), (Some(34), Some(0)));
    let ranges = checks.iter().find(|check| check["name"] == "ranges").unwrap();
    assert_eq!(ranges["outcome"], "skipped");
    assert!(ranges["reason"].as_str().unwrap().contains("restore_subset"));
}

#[test]
fn a_short_stream_with_status_0_is_found() {
    let found = failures("if [ $1 = restore_data ]; then $plugin \"$@\" | head -c 1000; exit 0; fi", &[]);
    let (_, reason) = found.iter().find(|(name, _)| name == "streams-at-once").unwrap();
    assert!(reason.contains("1000 bytes of the 1048576"), "{reason}");
    assert!(found.iter().any(|(name, reason)| name == "missing-object" && reason.contains("status 0")), "{found:#?}");
}

#[test]
fn a_wrong_byte_is_found() {
    let found = failures("if [ $1 = backup_data ]; then printf x; tail -c +2; fi | exec $plugin \"$@\"; exit", &[]);
    let (_, reason) = found.iter().find(|(name, _)| name == "streams-at-once").unwrap();
    assert!(reason.contains("other bytes"), "{reason}");
}

#[test]
fn noise_on_standard_error_is_found() {
    only("if [ $1 = restore_data ]; then echo reading on >&2; fi", &[("silence", "reading on")]);
}

#[test]
fn a_version_that_gpbackups_bench_would_refuse_is_found() {
    only("if [ $1 = plugin_api_version ]; then echo 0.10.0; exit; fi", &[("version-text", "0.10.0")]);
}

#[test]
fn a_plugin_that_cannot_be_used_gets_one_reason_and_no_other_call() {
    only("if [ $1 = --version ]; then echo 'broken 1'; exit; fi", &[("versions", "broken 1")]);
}

#[test]
fn a_command_that_never_ends_is_found_and_the_rest_skipped() {
    let world = World::empty();
    configure(&world, "");
    let plugin = broken(&world, "if [ $1$# = restore_file3 ] && [ -e $2 ]; then sleep 1000; fi");
    let mut command = world.bare();
    command.args(["plugin", "test", "gpbackup", "--time-limit", "5"]).arg(plugin).arg("c.yaml");
    let assert = command.assert().code(1);
    let text = stdout(assert.get_output());
    let file = text.lines().find(|line| line.starts_with("file ")).unwrap();
    assert!(file.contains("FAILED: restore_file") && file.contains("did not end for 5 seconds"), "{text}");
    assert!(text.contains("streams-at-once       skipped: "), "{text}");
    assert!(text.contains("all-deleted           ok: "), "what was stored is deleted all the same: {text}");
}

#[test]
fn what_is_cut_short_and_can_be_read_is_found() {
    // No temporary name: what came is there at once.
    let case = "place=${3#*/backups/}; there=STORE/backups/$place\n\
                if [ $1 = backup_data ]; then mkdir -p ${there%/*}; cat >$there; exit; fi";
    let store = "$(sed -n 's/.*folder: \"*\\([^\"]*\\)\"*$/\\1/p' \"$2\" 2>/dev/null)";
    let found = failures(&case.replace("STORE", store), &[]);
    for name in ["killed", "killed-overwrite", "terminated"] {
        assert!(found.iter().any(|(found, _)| found == name), "{name}: {found:#?}");
    }
}

#[test]
fn deletion_of_too_much_and_of_anything_is_found() {
    let found = failures("if [ $1 = delete_backup ]; then set -- $1 $2 $(echo $3 | head -c 14); fi", &[]);
    assert!(found.iter().any(|(name, _)| name == "malformed-timestamps"), "{found:#?}");
    let greedy = "if [ $1 = delete_backup ]; then\n\
                  rm -rf $(sed -n 's/.*folder: \"*\\([^\"]*\\)\"*$/\\1/p' $2)/backups/$(echo $3 | head -c 8); exit; fi";
    assert!(failures(greedy, &[]).iter().any(|(name, _)| name == "neighbours"));
}

#[test]
fn hooks_that_fail_in_one_form_are_found() {
    only("case \"$1 $4\" in setup*coordinator) echo what scope >&2; exit 1 ;; esac", &[("hook-forms", "coordinator")]);
}

#[test]
fn keys_by_the_whole_path_are_found() {
    let case = "case $1 in backup_data|restore_data|backup_file|restore_file)\n\
                name=$(echo \"$3\" | cksum | cut -d' ' -f1) ;; esac\n\
                case $1 in backup_data|restore_data) set -- $1 $2 ${3%/*}/$name.${3##*/} ;; esac";
    let found = failures(case, &[]);
    assert!(found.iter().any(|(name, _)| name == "key-reduction"), "{found:#?}");
}

#[test]
fn a_configuration_that_is_none_is_one_line() {
    let world = World::empty();
    world.write("c.yaml", "executablepath: x\n");
    fails_with(bench(&world, &example()), 1, &["c.yaml", "absolute"]);
    let mut command = world.bare();
    command.args(["plugin", "test", "gpbackup", "x"]);
    fails_with(command, 1, &["CONFIG", "backstay plugin --help"]);
}

#[test]
fn an_interrupt_in_the_middle_leaves_no_process_and_no_configuration() {
    let world = World::empty();
    configure(&world, "");
    let started = world.path("started");
    let case = format!("if [ $1$# = backup_data3 ] && [ -e $2 ]; then touch {}; sleep 1000; fi", started.display());
    let plugin = broken(&world, &case);
    std::fs::create_dir(world.path("tmp")).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_backstay"))
        .args(["plugin", "test", "gpbackup"])
        .args([&plugin, &world.path("c.yaml")])
        .env("TMPDIR", world.path("tmp"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !started.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before anything was stored");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(stderr(&output), "backstay: interrupted\n");
    assert_eq!(std::fs::read_dir(world.path("tmp")).unwrap().count(), 0, "the copy of the configuration has gone");
    // What SIGKILL ends beside the plugin's own process is gone a moment later.
    let begun = std::time::Instant::now();
    while runs(&plugin) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the plugin still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process has this in its command line.
fn runs(program: &Path) -> bool {
    let of = program.to_str().unwrap();
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(of))
}
