//! The program `backstay` in a folder of its own with a repository: for what shows only over several jobs.
#![allow(dead_code, unreachable_pub)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a repository.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// A world with an empty repository.
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.good(["init"]);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        let worker = Path::new(env!("CARGO_BIN_EXE_backstay-python"));
        let program = worker.with_file_name("backstay");
        assert!(program.exists(), "run \"cargo build --bins\" first: there is no {}", program.display());
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BACKSTAY_") {
                command.env_remove(&name);
            }
        }
        command.current_dir(self.folder.path());
        command.env("HOME", self.path("home")).env("XDG_STATE_HOME", self.path("state")).env_remove("XDG_CACHE_HOME");
        command.env("BACKSTAY_REPOSITORY", self.path("repository")).env("BACKSTAY_PASSWORD", "correct horse");
        command.env("BACKSTAY_PYTHON_WORKER", worker);
        command.args(arguments).output().unwrap()
    }

    /// Runs the program, expects success, and gives all that it said.
    pub fn good<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// Runs the program, expects that it fails, and gives all that it said.
    pub fn fails<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// Waits until files written from now on show another second: since times have no more than that.
    pub fn wait_for_the_next_second(&self) {
        let second = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let now = second();
        while second() == now {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // The kernel stamps files by a clock that is up to a tick, 10 ms, behind the one read here.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
