//! A script in a process of its own: there is one interpreter and one `__main__` in a process, so each test runs itself
//! again as a child and does its work there.

#![allow(clippy::unwrap_used)] // these are helpers of tests

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use backstay_core::{Client, Disk, OpenDisk};
use backstay_nbdkit_worker::{Script, ScriptDisk, register_module};
use backstay_python_runtime::{interpreter, interpreter_path};

const CHILD: &str = "BACKSTAY_NBDKIT_TEST_CHILD";

/// What came of a test's child.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) stderr: String,
    pub(crate) stdout: String,
}

/// Runs `work` in a child whose only test is `name`, and gives its output. In the child it runs `work` and ends.
pub(crate) fn alone(name: &str, work: impl FnOnce()) -> Option<Ended> {
    if std::env::var_os(CHILD).is_some() {
        work();
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "{name} did not run: {stdout}");
    Some(Ended { stderr, stdout })
}

/// A folder with a script in it.
pub(crate) fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.py");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

pub(crate) fn start() {
    register_module();
    interpreter::start(&interpreter_path(None)).unwrap();
}

pub(crate) fn load(path: &Path) -> Result<Arc<Script>, String> {
    Script::load(path).map(Arc::new).map_err(|failed| failed.0)
}

/// Starts Python with a script and makes a disk of it.
pub(crate) fn disk(text: &str) -> ScriptDisk {
    start();
    let (_folder, path) = write(text);
    let script = load(&path).unwrap();
    let model = script.thread_model().unwrap();
    ScriptDisk::new(script, model)
}

pub(crate) fn client() -> Client {
    Client { number: 1, ..Client::default() }
}

pub(crate) fn open(disk: &ScriptDisk) -> Box<dyn OpenDisk> {
    disk.open(b"", &client()).unwrap()
}
