//! `backstay nbdkit` and the program `backstay-nbdkit`, also as a link named `nbdkit`: which program serves what. What is served,
//! and how, is tested where the server is (`crates/backstay-python/tests/nbdkit.rs`).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{World, fails_with};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../adapters/nbdkit/examples");

/// One of the three ways to say it.
fn ways(world: &World) -> [(PathBuf, &'static [&'static str]); 3] {
    let link = world.path("nbdkit");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_backstay-nbdkit"), &link).unwrap();
    [
        (env!("CARGO_BIN_EXE_backstay").into(), &["nbdkit"]),
        (env!("CARGO_BIN_EXE_backstay-nbdkit").into(), &[]),
        (link, &[]),
    ]
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    let worker = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay-python");
    assert!(worker.exists(), "run \"cargo build -p backstay-python\" first: there is no {}", worker.display());
    Command::new(program).args(arguments).env("BACKSTAY_PYTHON_WORKER", worker).output().unwrap()
}

fn good(program: &Path, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn script(name: &str) -> String {
    format!("{EXAMPLES}/{name}")
}

/// An executable file.
fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_name_of_it_serves_a_script() {
    let world = World::empty();
    for (program, first) in ways(&world) {
        let memory = script("memory.py");
        let line = [first, &["python", &memory, "size=3M", "--run", "nbdinfo --size \"$uri\""]].concat();
        assert_eq!(good(&program, &line).trim(), "3145728", "{program:?}");
    }
}

#[test]
fn questions_are_answered_with_and_without_a_plugin() {
    let world = World::empty();
    for (program, first) in ways(&world) {
        let ask = |words: &[&str]| good(&program, &[first, words].concat());
        assert!(ask(&["--version"]).starts_with("nbdkit 1.42"));
        assert_eq!(ask(&["python", "--version"]).lines().nth(1).map(|line| &line[..7]), Some("python "));
        assert!(ask(&["--help"]).contains("--exit-with-parent"));
        assert!(ask(&["python", "--help"]).contains("script=<FILENAME>"));
        assert!(ask(&["python", "--dump-plugin"]).contains("\npython_version="));
        assert!(ask(&["--dump-config"]).contains("\nplugindir="));
    }
}

#[test]
fn what_is_no_plugin_is_refused_by_name_with_what_there_is() {
    let world = World::empty();
    for (program, first) in ways(&world) {
        for (words, parts) in [
            (&["curl", "url=x"][..], &["curl", "python"][..]),
            (&["./x.so"], &["./x.so", "shared objects"]),
            (&["disk.py"], &["disk.py", "nbdkit python disk.py"]),
            (&[], &["no plugin", "--help"]),
            (&["--filter=xz", "python", "x.py"], &["filter", "xz"]),
        ] {
            let output = run(&program, &[first, words].concat());
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{words:?}: {text}");
            assert!(output.stdout.is_empty());
        }
    }
}

#[test]
fn a_missing_worker_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_backstay-nbdkit"))
        .args(["python", "x.py"])
        .env("BACKSTAY_PYTHON_WORKER", "/nowhere/worker")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nowhere/worker") && text.contains("backstay-python"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_script_in_a_plugin_folder_is_run_with_the_options_first() {
    let world = World::empty();
    executable(&world.path("nbdkit-shows-plugin"), "#!/bin/sh\nprintf '%s\\n' \"$0\" \"$@\"\n");
    let output = Command::new(env!("CARGO_BIN_EXE_backstay-nbdkit"))
        .args(["-v", "shows", "a=b", "-U", "-", "c", "--run=x y"])
        .env("NBDKIT_PLUGINDIR", world.path("."))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("/nbdkit-shows-plugin"), "{text}");
    assert_eq!(lines[1..], ["-v", "-U", "-", "--run=x y", "a=b", "c"]);
}

#[test]
fn a_script_whose_first_line_names_us_takes_options_itself() {
    let world = World::empty();
    let text = std::fs::read_to_string(script("memory.py")).unwrap();
    let body = text.split_once('\n').unwrap().1;
    executable(&world.path("disk.py"), &format!("#!{} python\n{body}", env!("CARGO_BIN_EXE_backstay-nbdkit")));
    let out = good(&world.path("disk.py"), &["size=1M", "-U", "-", "--run", "nbdinfo --size \"$uri\""]);
    assert_eq!(out.trim(), "1048576");
}

#[test]
fn sockets_are_handed_over_through_both_programs() {
    let output = Command::new("nbdinfo")
        .args(["--size", "--", "[", env!("CARGO_BIN_EXE_backstay"), "nbdkit", "python"])
        .args([&script("memory.py"), "size=2M", "]"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "2097152", "{output:?}");
}

#[test]
fn options_of_other_commands_before_it_are_refused() {
    let world = World::empty();
    fails_with(world.command(["-q", "nbdkit", "python", "x.py"]), 1, &["before \"nbdkit\""]);
}
