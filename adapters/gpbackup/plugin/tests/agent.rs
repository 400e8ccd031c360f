//! The agent itself: there is one, it starts and ends by itself, and what happens to it or to its callers harms nothing.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use backstay_gpbackup_plugin::agent::{self, Status};
use rustix::process::{Pid, Signal, kill_process};

#[path = "lines/random.rs"]
mod random;
use random::random;

const T: &str = "20240131120000";
const PROGRAM: &str = env!("CARGO_BIN_EXE_backstay_gpbackup_plugin");

/// A host with a configuration.
struct Host(tempfile::TempDir);

impl Host {
    fn new(lines: &str) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let text = format!(
            "executablepath: {PROGRAM}\noptions:\n  repository: {}\n  agent: {}\n{lines}",
            host.path("repository").display(),
            host.path("agents").display()
        );
        std::fs::write(host.path("config.yaml"), text).unwrap();
        std::fs::create_dir_all(host.folder()).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.path(&format!("gpseg0/backups/{}/{T}", &T[..8]))
    }

    fn key(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn command(&self, command: &str, key: &str) -> Command {
        let mut process = Command::new(PROGRAM);
        process.arg(command).arg(self.path("config.yaml")).arg(self.key(key));
        process.env_clear().env("HOME", self.path("home")).env("BACKSTAY_PASSWORD", "correct horse");
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process
    }

    fn backup_file(&self, name: &str, content: &[u8]) -> Child {
        std::fs::write(self.key(name), content).unwrap();
        self.command("backup_file", name).spawn().unwrap()
    }

    fn store(&self, name: &str, content: &[u8]) {
        assert_silent(&self.backup_file(name, content).wait_with_output().unwrap());
    }

    fn stream(&self, name: &str) -> Child {
        self.command("backup_data", name).stdin(Stdio::piped()).spawn().unwrap()
    }

    fn fetch(&self, name: &str) -> Vec<u8> {
        let output = self.command("restore_data", name).output().unwrap();
        assert_silent(&output);
        output.stdout
    }

    fn is_missing(&self, name: &str) -> bool {
        let output = self.command("restore_data", name).output().unwrap();
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("there is no object")
    }

    fn agents(&self) -> Vec<Status> {
        agent::all(&self.path("agents")).unwrap().into_iter().map(|(_, status)| status).collect()
    }

    fn agent(&self) -> Status {
        let agents = self.agents();
        assert_eq!(agents.len(), 1, "{agents:?}");
        agents[0].clone()
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(&self.agent()), signal).unwrap();
    }

    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.path("home/gpAdminLogs")).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed says so itself.
        let _ = agent::stop_all(&self.path("agents"));
    }
}

fn pid(status: &Status) -> Pid {
    Pid::from_raw(i32::try_from(status.pid).unwrap()).unwrap()
}

fn assert_silent(output: &Output) {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come");
}

/// The most memory that a process had, in KiB.
fn peak(process: &Status) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_descriptors(process: &Status) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap().count()
}

#[test]
fn hundreds_of_commands_and_dozens_of_streams_share_one_agent() {
    let host = Host::new("");
    let name = |number: usize| format!("gpbackup_{number}_{T}");
    let data = |number: usize| random(8 << 20, number as u64);
    std::thread::scope(|scope| {
        for number in 0..32 {
            let (host, name) = (&host, &name);
            scope.spawn(move || {
                let mut child = host.stream(&name(number));
                let mut stdin = child.stdin.take().unwrap();
                stdin.write_all(&data(number)).unwrap();
                drop(stdin);
                assert_silent(&child.wait_with_output().unwrap());
            });
        }
        let files: Vec<Child> =
            (0..200).map(|number| host.backup_file(&format!("file{number}"), number.to_string().as_bytes())).collect();
        for file in files {
            assert_silent(&file.wait_with_output().unwrap());
        }
    });
    let agent = host.agent();
    // On a machine that is very busy some may have waited too long for it, and done without.
    assert!(agent.served > 116, "{agent:?}");
    assert!(agent.commits < 232, "those that wait together are committed together: {agent:?}");
    assert!(peak(&agent) < 400 << 10, "{} KiB", peak(&agent));
    assert_eq!(host.logs().matches(": serves").count(), 1);
    for number in 0..32 {
        assert!(host.fetch(&name(number)) == data(number), "{number}");
    }
    for number in 0..200 {
        assert_eq!(host.fetch(&format!("file{number}")), number.to_string().as_bytes());
    }
    // Nothing of all that is left in it.
    assert!(open_descriptors(&host.agent()) < 40);
}

#[test]
fn an_agent_that_was_killed_is_replaced() {
    let host = Host::new("");
    host.store("a", b"first");
    let first = host.agent();
    host.signal(Signal::KILL);
    host.store("b", b"second");
    assert_ne!(host.agent().pid, first.pid);
    assert_eq!((host.fetch("a"), host.fetch("b")), (b"first".to_vec(), b"second".to_vec()));
}

#[test]
fn an_agent_that_is_killed_in_mid_stream_fails_the_stream_and_nothing_is_seen_of_it() {
    let host = Host::new("");
    host.store("a", b"first");
    let mut child = host.stream("stream");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&random(5 << 20, 1)).unwrap();
    host.signal(Signal::KILL);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the agent died"), "{output:?}");
    assert!(host.is_missing("stream"));
    assert_eq!(host.fetch("a"), b"first");
}

#[test]
fn an_agent_that_hangs_is_done_without() {
    let host = Host::new("");
    host.store("a", b"first");
    let agent = host.agent();
    kill_process(pid(&agent), Signal::STOP).unwrap();
    host.store("b", b"second");
    assert!(host.logs().contains("the agent does not answer"));
    kill_process(pid(&agent), Signal::CONT).unwrap();
    assert_eq!(host.fetch("b"), b"second");
    assert_eq!(host.agent().pid, agent.pid);
}

#[test]
fn a_command_that_is_killed_in_mid_stream_takes_its_stream_with_it() {
    let host = Host::new("");
    host.store("a", b"first");
    let mut child = host.stream("stream");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&random(5 << 20, 1)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The agent lets go of the pipe, so its writer does not wait for ever.
    eventually("a broken pipe", || (&stdin).write_all(&[0; 4096]).is_err());
    drop(stdin);
    eventually("the end of the work", || host.agent().running == 0);
    assert!(host.is_missing("stream"));
    // And one that waits for its first byte.
    let mut child = host.stream("silent");
    let stdin = child.stdin.take().unwrap();
    eventually("a command", || host.agent().running == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the end of the work", || host.agent().running == 0);
    drop(stdin);
    assert!(host.is_missing("silent"));
}

#[test]
fn descriptors_that_the_caller_left_open_do_not_stay_open() {
    let host = Host::new("");
    std::fs::write(host.key("a"), "data").unwrap();
    // Were descriptor 9 still open in the agent, the end of this output would not come.
    let output = Command::new("sh")
        .args(["-c", "\"$0\" backup_file \"$1\" \"$2\" 9>&1", PROGRAM])
        .args([host.path("config.yaml"), host.key("a")])
        .env_clear()
        .env("HOME", host.path("home"))
        .env("PATH", "/usr/bin:/bin")
        .env("BACKSTAY_PASSWORD", "correct horse")
        .output()
        .unwrap();
    assert_silent(&output);
    assert!(output.stdout.is_empty());
    let agent = host.agent();
    let environment = std::fs::read(format!("/proc/{}/environ", agent.pid)).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("correct horse"));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", agent.pid)).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains("correct horse"));
    assert_eq!(rustix::process::getsid(Some(pid(&agent))).unwrap(), pid(&agent));
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", agent.pid)).unwrap(), Path::new("/"));
}

#[test]
fn a_folder_that_others_may_enter_is_not_used() {
    let host = Host::new("");
    std::fs::create_dir(host.path("agents")).unwrap();
    std::fs::set_permissions(host.path("agents"), std::fs::Permissions::from_mode(0o755)).unwrap();
    host.store("a", b"data");
    assert!(host.logs().contains("its mode must be 0700"), "{}", host.logs());
    std::fs::set_permissions(host.path("agents"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(host.agents().is_empty());
    assert_eq!(host.fetch("a"), b"data");
}

#[test]
fn an_agent_that_nobody_needs_ends() {
    let host = Host::new("  agent_idle: 1\n");
    host.store("a", b"data");
    eventually("the agent's end", || host.agents().is_empty());
    assert_eq!(std::fs::read_dir(host.path("repository/locks")).unwrap().count(), 0);
    assert_eq!(host.fetch("a"), b"data");
}

#[test]
fn other_credentials_have_another_agent() {
    let host = Host::new("");
    host.store("a", b"data");
    let mut other = host.command("restore_data", "a");
    assert_silent(&other.env("AWS_ACCESS_KEY_ID", "somebody").output().unwrap());
    assert_eq!(host.agents().len(), 2);
    // A wrong password opens nothing that a right one has opened.
    let output = host.command("restore_data", "a").env("BACKSTAY_PASSWORD", "wrong").output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("password"), "{output:?}");
}

#[test]
fn another_repository_in_the_old_ones_place_is_seen() {
    let host = Host::new("");
    host.store("a", b"data");
    std::fs::remove_dir_all(host.path("repository")).unwrap();
    host.store("b", b"other");
    assert!(host.is_missing("a"));
    assert_eq!(host.fetch("b"), b"other");
}

#[test]
fn asked_to_end_an_agent_ends_its_work_first() {
    let host = Host::new("");
    let mut child = host.stream("stream");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one ").unwrap();
    eventually("an agent with work", || host.agents().iter().any(|agent| agent.running == 1));
    let old = host.agent();
    assert_eq!(agent::stop_all(&host.path("agents")).unwrap().len(), 1);
    eventually("that it is found no more", || host.agents().is_empty());
    // Whoever comes now has another one.
    host.store("a", b"data");
    assert_ne!(host.agent().pid, old.pid);
    stdin.write_all(b"two").unwrap();
    drop(stdin);
    assert_silent(&child.wait_with_output().unwrap());
    assert_eq!(host.fetch("stream"), b"one two");
}
