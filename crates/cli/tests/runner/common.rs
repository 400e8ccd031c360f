//! What every test starts with: an empty world with a repository, a folder to back up, and our program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// The password of every repository that the tests make.
pub(crate) const PASSWORD: &str = "correct horse";

/// A folder of its own for one test.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    /// A world without a repository.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A world with a repository and one snapshot, in a folder whose parents no other test touches: their times are a
    /// part of the snapshot.
    pub(crate) fn with_snapshot_in_peace() -> Self {
        let world = Self { folder: tempfile::tempdir_in("/var/tmp").unwrap() };
        world.run(["init"]).success();
        world.make_tree();
        world.run(["backup", "tree"]).success();
        world
    }

    /// A world with an empty repository.
    pub(crate) fn new() -> Self {
        let world = Self::empty();
        world.run(["init"]).success();
        world
    }

    /// A world with a repository and one snapshot of a small tree.
    pub(crate) fn with_snapshot() -> Self {
        let world = Self::new();
        world.make_tree();
        world.run(["backup", "tree"]).success();
        world
    }

    /// A folder `tree` with a few of everything.
    pub(crate) fn make_tree(&self) {
        self.write("tree/hello.txt", "hello\n");
        self.write("tree/docs/readme", "read me\n");
        self.write("tree/docs/deep/note", "a note\n");
        std::os::unix::fs::symlink("hello.txt", self.path("tree/link")).unwrap();
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until files written from now on show another second: the times that plugins see have no more than that.
    pub(crate) fn sleep_past_this_second(&self) {
        let second = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let now = second();
        while second() == now {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // The kernel stamps files by a clock that is up to a tick, 10 ms, behind the one read here.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    /// The absolute path as the snapshot has it.
    pub(crate) fn shown(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Our program in this world, without arguments and without a word about repository or password.
    pub(crate) fn bare(&self) -> Command {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("backstay");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("BACKSTAY_") || text.starts_with("RESTIC_") || text == "NO_COLOR" {
                command.env_remove(&name);
            }
        }
        command.current_dir(self.folder.path());
        command.env("HOME", self.path("home")).env("XDG_STATE_HOME", self.path("state"));
        command.env_remove("XDG_CACHE_HOME");
        command
    }

    /// Our program with this world's repository and password.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.bare();
        command.env("BACKSTAY_REPOSITORY", self.path("repository")).env("BACKSTAY_PASSWORD", PASSWORD);
        command.args(arguments);
        command
    }

    /// Runs our program with this world's repository and password.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> assert_cmd::assert::Assert {
        self.command(arguments).assert()
    }

    /// Runs it, expects success and gives the lines of its standard output.
    pub(crate) fn lines<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Vec<String> {
        stdout(self.run(arguments).success().get_output()).lines().map(str::to_owned).collect()
    }

    /// Runs it with `--json`, expects success and gives the objects of its standard output.
    pub(crate) fn objects<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Vec<Value> {
        let mut command = self.command(arguments);
        command.arg("--json");
        parse_lines(&stdout(command.assert().success().get_output()))
    }

    /// Makes a snapshot and gives its id.
    pub(crate) fn backup<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(["backup", "--json"]);
        command.args(arguments);
        let objects = parse_lines(&stdout(command.assert().success().get_output()));
        objects.last().unwrap()["snapshot_id"].as_str().unwrap().to_owned()
    }

    /// Runs restic on this world's repository.
    pub(crate) fn restic<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let program = std::env::var_os("BACKSTAY_TEST_RESTIC").unwrap_or_else(|| "/usr/bin/restic".into());
        let shown = Path::new(&program).display();
        assert!(
            Path::new(&program).exists(),
            "install restic, or name one in BACKSTAY_TEST_RESTIC: there is no {shown}"
        );
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        command.env("HOME", self.path("home")).env("RESTIC_CACHE_DIR", self.path("cache"));
        command.env("RESTIC_REPOSITORY", self.path("repository")).env("RESTIC_PASSWORD", PASSWORD);
        command.env_remove("RESTIC_PASSWORD_FILE").env_remove("RESTIC_PASSWORD_COMMAND");
        command.args(arguments);
        command
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Each line as an object: the promise of `--json`.
pub(crate) fn parse_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(value.is_object(), "{line}");
            value
        })
        .collect()
}

/// The names of an object's fields.
pub(crate) fn keys(value: &Value) -> std::collections::BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// Expects one line on standard error that holds all of `parts`, with this status.
pub(crate) fn fails_with(mut command: Command, status: i32, parts: &[&str]) {
    let assert = command.assert().code(status);
    let text = stderr(assert.get_output());
    assert_eq!(text.lines().count(), 1, "one line is expected: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is expected in {text}");
    }
    assert_eq!(stdout(assert.get_output()), "");
}
