//! `kill -9` at random moments while a repository behind a plugin is written, thinned out and copied from: the next command works,
//! and in the end everything is sound and restic agrees.
//!
//! The moments come from a seed that a failure prints; `BACKSTAY_TEST_SEED` gives the same ones again.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::place::{Place, Restic, assert_same, below, noise, succeed, top};

const ROUNDS: usize = 18;

struct Behind {
    place: Place,
}

impl Behind {
    fn new() -> Self {
        let place = Place::new();
        let plugin = top().join("adapters/gpbackup/examples/folder_plugin");
        let behind = place.path("behind");
        let text = format!("executablepath: {}\noptions:\n  folder: {}\n", plugin.display(), behind.display());
        fs::write(place.path("c.yaml"), text).unwrap();
        Self { place }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.backstay(arguments);
        command.env("BACKSTAY_REPOSITORY", format!("gpbackup:{}", self.place.path("c.yaml").display()));
        // The system's Python starts sooner than a wrapper that looks for another one, and it is started many times.
        command.env("PATH", format!("/usr/bin:/bin:{}", std::env::var("PATH").unwrap_or_default()));
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }
}

fn seed() -> u64 {
    let seed = std::env::var("BACKSTAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into())
}

#[test]
fn commands_killed_at_any_moment_hurt_no_repository_behind_a_plugin() {
    let seed = seed();
    println!("BACKSTAY_TEST_SEED={seed}");
    let behind = Behind::new();
    let tree = behind.place.path("tree");
    fs::create_dir(&tree).unwrap();
    let shown = tree.to_str().unwrap().to_owned();
    let change = |round: usize| {
        for index in 0..10_u64 {
            let length = 1000 << (index % 9);
            fs::write(tree.join(format!("file {index}")), noise(seed ^ (round as u64 * 100 + index), length)).unwrap();
        }
    };
    change(0);
    behind.run(&["init"]);
    let backup = ["-q", "backup", &shown, "--pack-size", "4"];
    let thin = ["-q", "forget", "--keep-last", "3", "--prune", "--max-unused", "0"];
    let timed = |arguments: &[&str]| {
        let begun = Instant::now();
        behind.run(arguments);
        begun.elapsed()
    };
    let whole = [timed(&backup), {
        change(1);
        behind.run(&backup);
        timed(&thin)
    }];
    let moments = noise(seed, ROUNDS * 2);
    let mut killed = 0;
    for round in 0..ROUNDS {
        change(round + 2);
        let which = round % 2;
        let part = u16::from_le_bytes([moments[round * 2], moments[round * 2 + 1]]);
        let moment: Duration = whole[which].mul_f64(f64::from(part) / f64::from(u16::MAX) * 1.1);
        let mut command = behind.command([&backup[..], &thin[..]][which]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(moment);
        // Nothing happens to one that has ended.
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        // The dead process left its lock.
        behind.run(&["-q", "unlock"]);
        behind.run(&["-q", "check"]);
        if round % 6 == 5 {
            behind.run(&backup);
            behind.run(&thin);
            behind.run(&["-q", "check", "--read-data"]);
        }
    }
    assert!(killed > 0, "seed {seed}: nothing was still running when its time had come");
    behind.run(&backup);
    behind.run(&thin);
    let lines = behind.run(&["--json", "snapshots"]);
    assert_eq!(lines.lines().count(), 3, "seed {seed}");
    let restored = behind.place.path("restored");
    behind.run(&["-q", "restore", "latest", "--target", restored.to_str().unwrap()]);
    assert_same(&tree, &below(&restored, &tree), &[]);

    behind.place.ours(["init", "--restic-chunker"]);
    let mut copy = behind.place.backstay(["-q", "copy", "--from-repo"]);
    copy.arg(format!("gpbackup:{}", behind.place.path("c.yaml").display()));
    copy.arg("--from-password-file").arg(behind.place.path("password"));
    succeed(&mut copy);
    behind.place.restic(Restic::Old, ["check", "--read-data"]);
}
