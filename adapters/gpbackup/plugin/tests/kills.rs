//! The program, its agent or both are killed at some moment, over and over: what was called stored is there, whole; nothing
//! else is.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use backstay_gpbackup_plugin::agent;
use rustix::process::{Pid, Signal, kill_process};

const T: &str = "20240131120000";

/// Who is killed.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Command,
    Agent,
    Both,
}

fn plugin(folder: &Path, command: &str, key: &str) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_backstay_gpbackup_plugin"));
    process.arg(command).arg(folder.join("config.yaml"));
    process.arg(format!("/data/gpseg0/backups/{}/{T}/{key}", &T[..8]));
    process.env_clear().env("HOME", folder.join("home")).env("BACKSTAY_PASSWORD", "correct horse");
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process
}

/// What the stream of a number is: some of it is in every stream.
fn data(number: u64) -> Vec<u8> {
    let length = 200_000 + number * 70_001 % 3_000_000;
    let mut bytes: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    bytes.extend(number.to_le_bytes());
    bytes
}

fn kill_agents(folder: &Path) {
    // One that is killed while it is asked does not answer.
    for (_, status) in agent::all(&folder.join("agents")).unwrap_or_default() {
        let _ = kill_process(Pid::from_raw(i32::try_from(status.pid).unwrap()).unwrap(), Signal::KILL);
    }
}

/// Stores a stream, and kills somebody after this time, if that comes first; whether it was called stored.
fn store(folder: &Path, number: u64, kill: Option<(Victim, Duration)>) -> bool {
    let mut child = plugin(folder, "backup_data", &number.to_string()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        // One that was killed takes no more.
        let _ = stdin.write_all(&data(number));
    });
    if let Some((victim, time)) = kill {
        std::thread::sleep(time);
        if victim != Victim::Agent {
            // Nothing happens to one that has ended.
            child.kill().unwrap();
        }
        if victim != Victim::Command {
            kill_agents(folder);
        }
    }
    let status = child.wait().unwrap();
    feeding.join().unwrap();
    status.success()
}

fn killed_over_and_over(with_agent: bool, victims: &[Victim], rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let agents = folder.path().join("agents");
    let config = format!(
        "executablepath: /x\noptions:\n  repository: {}\n  agent: {}\n",
        folder.path().join("repository").display(),
        if with_agent { agents.display().to_string() } else { "off".to_owned() }
    );
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let seed = std::env::var("BACKSTAY_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1_u64);
    assert!(store(folder.path(), 0, None));
    // How long it takes on this machine, now: kills go from its start to some time after its end.
    let begun = std::time::Instant::now();
    let mut stored = vec![true, store(folder.path(), 1, None)];
    let whole = begun.elapsed();
    for number in 2..rounds {
        let part = (number * 7919 + seed * 104_729) % 1000;
        let victim = victims[(number % victims.len() as u64) as usize];
        stored.push(store(folder.path(), number, Some((victim, whole * part as u32 / 500))));
    }
    assert!(stored.contains(&true) && stored.contains(&false), "{stored:?}");
    for (number, stored) in stored.iter().enumerate() {
        let output = plugin(folder.path(), "restore_data", &number.to_string()).output().unwrap();
        if output.status.success() {
            // Killed between the snapshot and the exit it may be there: then whole.
            assert!(output.stdout == data(number as u64), "{number}");
        } else {
            assert!(!stored && output.stdout.is_empty(), "{number}: {output:?}");
        }
    }
    kill_agents(folder.path());
    let restic = std::env::var_os("BACKSTAY_TEST_RESTIC").unwrap_or("restic".into());
    let repository = folder.path().join("repository");
    let mut check = Command::new(restic);
    check.arg("-r").arg(&repository).args(["--no-cache", "--no-lock", "check", "--read-data"]);
    let output = check.env("RESTIC_PASSWORD", "correct horse").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_was_called_stored_is_there_and_nothing_else() {
    killed_over_and_over(false, &[Victim::Command], 60);
}

#[test]
fn with_an_agent_that_is_killed_too() {
    killed_over_and_over(true, &[Victim::Command, Victim::Agent, Victim::Both], 90);
}
