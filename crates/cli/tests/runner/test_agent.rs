//! `backstay agent`, and what maintenance does with backups of gpbackup that no cleanup came for. What the agent does is tested
//! where it is (`adapters/gpbackup/plugin/tests`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{World, fails_with, stdout};

const T: &str = "20240131120000";

fn plugin() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay_gpbackup_plugin");
    assert!(program.exists(), "run \"cargo build --workspace\" first: there is no {}", program.display());
    program
}

fn configure(world: &World) -> PathBuf {
    let text = format!(
        "executablepath: {}\noptions:\n  repository: {}\n  password: geheim\n  agent: {}\n",
        plugin().display(),
        world.path("objects").display(),
        world.path("agents").display()
    );
    world.write("c.yaml", text);
    world.path("c.yaml")
}

fn stream(world: &World, name: &str) -> Child {
    let mut command = Command::new(plugin());
    command.arg("backup_data").arg(world.path("c.yaml")).arg(format!("/data/backups/{}/{T}/{name}", &T[..8]));
    alike(&mut command, world).stdin(Stdio::piped()).spawn().unwrap()
}

/// With the environment of everybody who shall share an agent.
fn alike<'a>(command: &'a mut Command, world: &World) -> &'a mut Command {
    command.env_clear().env("HOME", world.path("home")).env("PATH", "/usr/bin:/bin")
}

fn store(world: &World, name: &str) {
    let output = stream(world, name).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn kill(process: &Child) {
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
}

#[test]
fn agents_are_listed_and_asked_to_end() {
    let world = World::empty();
    let config = configure(&world);
    let run = |arguments: &[&str]| {
        let assert = world.bare().arg("agent").args(arguments).arg(&config).assert().success();
        stdout(assert.get_output())
    };
    assert_eq!(run(&["--status"]), "");
    store(&world, "x");
    let line = run(&["--status"]);
    assert!(line.contains(" runs, ") && line.contains("1 commits, 0 commands now"), "{line}");
    let object: serde_json::Value = serde_json::from_str(&run(&["--json", "--status"])).unwrap();
    assert_eq!((&object["message_type"], &object["running"]), (&"agent".into(), &0.into()));
    assert!(run(&["--stop"]).contains(" ends, "));
    while !run(&["--status"]).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_agent_can_run_in_the_foreground_and_there_is_one() {
    let world = World::empty();
    let config = configure(&world);
    let foreground = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
        alike(&mut command, &world).arg("agent").arg(&config);
        command
    };
    let mut agent = foreground().spawn().unwrap();
    let status = || {
        let assert = world.bare().args(["agent", "--status"]).arg(&config).assert().success();
        stdout(assert.get_output())
    };
    while status().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    store(&world, "x");
    assert!(status().contains(&format!("process {} runs", agent.id())), "{}", status());
    let second = assert_cmd::Command::from_std(foreground());
    fails_with(second, 1, &["an agent of this configuration runs already"]);
    // A signal asks for its end: the stream that it has in its hands comes first.
    let mut stream = stream(&world, "stream");
    while !status().contains(" 1 commands now") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    kill(&agent);
    while !status().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    stream.stdin.take().unwrap().write_all(b"to its end").unwrap();
    assert!(stream.wait().unwrap().success());
    assert!(agent.wait().unwrap().success());
}

#[test]
fn bad_input_is_told() {
    let world = World::empty();
    for (arguments, status, part) in [
        (&["agent"][..], 1, "CONFIG"),
        (&["agent", "nowhere.yaml"], 1, "nowhere.yaml"),
        (&["agent", "--status", "--stop"], 1, "--stop"),
    ] {
        let mut command = world.bare();
        command.args(arguments);
        fails_with(command, status, &[part]);
    }
}

#[test]
fn maintenance_folds_backups_whose_cleanup_never_came() {
    for command in [&["prune"][..], &["forget", "--keep-last", "10"]] {
        let world = World::new();
        let save = |name: &str, time: &str| {
            let tag = format!("gpbackup:{T}");
            let path = format!("gpbackup/{T}/0/{name}");
            let arguments = ["backup", "--stdin", "--stdin-filename", &path, "--host", "segments", "--tag", &tag];
            world.command(arguments).args(["--time", time]).write_stdin(name).assert().success();
        };
        save("a", "2024-01-31 12:00:00");
        save("b", "2024-01-31 12:00:01");
        let count = || std::fs::read_dir(world.path("repository/snapshots")).unwrap().count();
        world.command(command).arg("--dry-run").assert().success();
        assert_eq!(count(), 2);
        world.run(command).success();
        assert_eq!(count(), 1, "{command:?}");
        // It is no newer than what it holds: what is stored over it while it is made counts.
        assert!(world.lines(["--json", "snapshots"]).concat().contains("2024-01-31T12:00:01"));
        for name in ["a", "b"] {
            let path = format!("/gpbackup/{T}/0/{name}");
            assert_eq!(world.lines(["dump", "latest", &path]), [name]);
        }
        // One that may be running still is left alone.
        let time = now();
        save("c", &time);
        save("d", &time);
        world.run(command).success();
        assert_eq!(count(), 3);
    }
}

fn now() -> String {
    let output = Command::new("date").arg("+%Y-%m-%d %H:%M:%S").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
