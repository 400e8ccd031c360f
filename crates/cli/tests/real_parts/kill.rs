//! `kill -9` at random moments of a backup: the next backup works, restic finds nothing wrong, and every snapshot that is there
//! is whole.
//!
//! The moments come from a seed that a failure prints; `BACKSTAY_TEST_SEED` gives the same ones again.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::place::{Place, Restic, assert_same, below, noise};

const ROUNDS: u64 = 30;

fn seed() -> u64 {
    let seed = std::env::var("BACKSTAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into())
}

/// Replaces some of the tree's files, so that every backup has something to write: 20 MiB in files of many sizes.
fn change(tree: &Path, round: u64, seed: u64) {
    for index in 0..40 {
        let length = (100_usize << (index % 14)).min(1 << 20);
        fs::write(tree.join(format!("small {index}")), noise(seed ^ (round * 1000 + index), length)).unwrap();
    }
    fs::write(tree.join("long"), noise(seed ^ (round * 1000 + 999), 16 << 20)).unwrap();
}

#[test]
fn a_backup_killed_at_any_moment_hurts_nothing() {
    let seed = seed();
    println!("BACKSTAY_TEST_SEED={seed}");
    let place = Place::with_repository();
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    change(&tree, 0, seed);
    let started = Instant::now();
    place.back_up([&tree]);
    let whole = started.elapsed();
    let moments = noise(seed, ROUNDS as usize * 2);
    let mut expected = 1;
    let mut killed = 0;
    for round in 1..=ROUNDS {
        change(&tree, round, seed);
        let part = u16::from_le_bytes([moments[round as usize * 2 - 2], moments[round as usize * 2 - 1]]);
        let moment = whole.mul_f64(f64::from(part) / f64::from(u16::MAX));
        let mut backup =
            place.backstay(["-q", "backup"]).arg(&tree).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(moment);
        backup.kill().unwrap();
        let status = backup.wait().unwrap();
        if status.success() {
            expected += 1;
        } else {
            killed += 1;
        }
        let there = place.snapshots().len();
        // Killed after the snapshot was written and before the process ended: then it is there and must be whole.
        assert!(there == expected || (!status.success() && there == expected + 1), "seed {seed}, round {round}");
        expected = there;
        // restic's check wants the repository alone; the dead process left its lock.
        place.restic(Restic::Next, ["unlock"]);
        place.restic(Restic::Next, ["check"]);
        if round % 5 == 0 {
            place.back_up([&tree]);
            expected += 1;
            assert_eq!(place.snapshots().len(), expected, "seed {seed}, round {round}");
            let restored = place.restore("latest", "restored");
            assert_same(&tree, &below(&restored, &tree), &[]);
            fs::remove_dir_all(restored).unwrap();
        }
    }
    assert!(killed > 0, "seed {seed}: not one of {ROUNDS} backups was still running when its time had come");
    place.assert_sound();
}

/// The processes whose parent, or parent's parent, is `process`.
fn descendants(process: u32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut parents = vec![process as i32];
    while let Some(parent) = parents.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().map(|child| child.parse().unwrap()) {
                found.push(child);
                parents.push(child);
            }
        }
    }
    found
}

#[test]
fn a_killed_backup_takes_its_plugin_worker_with_it() {
    let place = Place::with_repository();
    let plugin = place.path("plugins");
    fs::create_dir(&plugin).unwrap();
    // Loading the module never ends: the worker is busy in Python when its host dies.
    fs::write(
        plugin.join("sleeper.py"),
        "import time\nopen('{ready}', 'w').close()\ntime.sleep(3600)\n"
            .replace("{ready}", place.path("ready").to_str().unwrap()),
    )
    .unwrap();
    let definition = format!("python3:module_path={}:module_name=sleeper", plugin.display());
    let mut backup = place
        .backstay(["-q", "backup", "--plugin", &definition])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !place.path("ready").exists() {
        assert!(Instant::now() < until && backup.try_wait().unwrap().is_none(), "the plugin was never loaded");
        thread::sleep(Duration::from_millis(20));
    }
    let workers = descendants(backup.id());
    assert!(!workers.is_empty());
    backup.kill().unwrap();
    backup.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    for worker in workers {
        let worker = Pid::from_raw(worker).unwrap();
        while alive(worker) {
            if Instant::now() > until {
                let _ = kill_process(worker, Signal::KILL);
                panic!("the worker outlived its host");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(place.snapshots().len(), 0);
}

/// Whether a process runs; one that is dead and not yet reaped by its new parent does not.
fn alive(process: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).unwrap_or_default();
    let state = state.rsplit(") ").next().and_then(|rest| rest.chars().next());
    test_kill_process(process).is_ok() && state != Some('Z')
}
