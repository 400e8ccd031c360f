//! Forget, prune and unlock beside restic of both ages and rustic: the same snapshots stay, locks keep everybody apart, and
//! after each of them everybody still finds the repository sound.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{InitOptions, Repository, Snapshot, gotext};
use backstay_stores::LocalStore;
use serde_json::Value;

use crate::place::{Place, Restic, append, assert_same, below, noise};

/// Saves `tree` three times: files come, grow and go.
fn history(place: &Place, mut back_up: impl FnMut(&Place)) {
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..60 {
        fs::write(tree.join(format!("file {number}")), noise(number, 40_000)).unwrap();
    }
    back_up(place);
    for number in 0..30 {
        fs::remove_file(tree.join(format!("file {}", number * 2))).unwrap();
    }
    append(&tree.join("file 1"), b"more");
    back_up(place);
    for number in 100..120 {
        fs::write(tree.join(format!("file {number}")), noise(number, 60_000)).unwrap();
    }
    back_up(place);
}

fn assert_restores(place: &Place, name: &str) {
    let target = place.restore("latest", name);
    assert_same(&place.path("tree"), &below(&target, &place.path("tree")), &[]);
}

#[test]
fn after_forget_and_prune_everybody_finds_the_repository_sound_and_smaller() {
    let place = Place::with_repository();
    history(&place, |place| {
        place.back_up([place.path("tree")]);
    });
    let before = place.stored();
    place.ours(["forget", "--keep-last", "1"]);
    place.assert_sound();
    place.ours(["prune", "--max-unused", "0"]);
    place.assert_sound();
    place.rustic(["check"]);
    let after = place.stored();
    assert!(after + 25 * 40_000 < before, "{before} bytes became {after}");
    assert_restores(&place, "back");
    // restic finds nothing left to do, and goes on from it.
    let left = place.restic(Restic::Next, ["prune", "--dry-run", "-v"]);
    assert!(left.contains("unused:                0 blobs"), "{left}");
    for restic in Restic::BOTH {
        place.restic(restic, ["backup", place.path("tree").to_str().unwrap()]);
    }
    place.assert_sound();
}

#[test]
fn a_repository_that_restic_made_and_everybody_uses_in_turn_stays_sound() {
    let place = Place::new();
    place.restic(Restic::Old, ["init"]);
    let mut turn = 0;
    history(&place, |place| {
        let tree = place.path("tree");
        match turn {
            0 => drop(place.restic(Restic::Old, ["backup", tree.to_str().unwrap()])),
            1 => drop(place.back_up([tree])),
            _ => drop(place.restic(Restic::Next, ["backup", tree.to_str().unwrap()])),
        }
        turn += 1;
    });
    place.ours(["forget", "--keep-last", "2", "--prune", "--max-unused", "0"]);
    place.assert_sound();
    place.rustic(["check"]);
    place.restic(Restic::Old, ["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]);
    place.assert_sound();
    append(&place.path("tree/file 1"), b"and more");
    place.back_up([place.path("tree")]);
    place.ours(["forget", "--keep-last", "1", "--prune", "--max-unused", "0", "--repack-small"]);
    place.assert_sound();
    place.rustic(["check"]);
    place.restic(Restic::Next, ["prune", "--max-unused", "0"]);
    place.assert_sound();
    assert_restores(&place, "back");
}

/// Waits until there is a whole lock that was not there before.
fn wait_for_lock(place: &Place, child: &mut Child) {
    let begin = Instant::now();
    loop {
        let names = fs::read_dir(place.repository().join("locks")).unwrap();
        // Another name than an id is a file that is still being written.
        if names.filter(|name| name.as_ref().unwrap().file_name().len() == 64).count() > 0 {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it took its lock");
        assert!(begin.elapsed() < Duration::from_secs(120), "no lock came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A restic check that is stopped while it holds its exclusive lock.
fn stopped_check(place: &Place, restic: Restic) -> Child {
    for _ in 0..50 {
        let mut command = place.restic_command(restic);
        command.args(["check", "--read-data"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for_lock(place, &mut child);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        if fs::read_dir(place.repository().join("locks")).unwrap().count() == 1 {
            return child;
        }
        // It was quicker than the signal.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("no check could be stopped in time");
}

/// Our command, which must find the repository locked; its message.
fn is_locked_out(place: &Place, arguments: &[&str]) -> String {
    let output = place.backstay(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(11), "{arguments:?}: {text}");
    text
}

#[test]
fn a_restic_backup_beside_the_preparation_delays_the_commit_and_loses_nothing() {
    for restic in Restic::BOTH {
        let place = Place::with_repository();
        history(&place, |place| {
            place.back_up([place.path("tree")]);
        });
        place.ours(["forget", "--keep-last", "1"]);
        // It holds its lock for as long as its input is open.
        let mut child = place
            .restic_command(restic)
            .args(["backup", "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_lock(&place, &mut child);
        let text = is_locked_out(&place, &["-q", "prune", "--max-unused", "0"]);
        assert!(text.contains("What was prepared is kept"), "{text}");
        is_locked_out(&place, &["-q", "forget", "--keep-last", "1"]);
        // What it saves now was in a file that is forgotten: the index that it loaded knows these blobs.
        let mut input = child.stdin.take().unwrap();
        for number in 0..60 {
            input.write_all(&noise(number, 40_000)).unwrap();
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        place.ours(["prune", "--max-unused", "0"]);
        place.assert_sound();
        assert_eq!(place.snapshots().len(), 2);
    }
}

#[test]
fn exclusive_locks_keep_everybody_out_in_either_order() {
    let place = Place::with_repository();
    history(&place, |place| {
        place.back_up([place.path("tree")]);
    });
    for restic in Restic::BOTH {
        let mut child = stopped_check(&place, restic);
        is_locked_out(&place, &["-q", "forget", "--keep-last", "1"]);
        is_locked_out(&place, &["-q", "prune"]);
        assert!(place.ours(["unlock"]).contains("Removed 0 locks"), "its holder lives");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_locked_out(&place, &["-q", "prune"]).contains("backstay unlock"));
        assert!(place.ours(["unlock"]).contains("Removed 1 lock"));
    }
    let store = Arc::new(LocalStore::new(place.repository()));
    let repository = Arc::new(Repository::open(store, b"a password for a test").unwrap());
    let lock = repository.lock(true, None).unwrap();
    for restic in Restic::BOTH {
        for arguments in [&["prune"][..], &["forget", "--keep-last", "1"], &["backup", "/etc/hostname"]] {
            let output = place.restic_command(restic).args(arguments).output().unwrap();
            let status = if restic == Restic::Next { 11 } else { 1 };
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(status), "{restic:?} {arguments:?}: {text}");
            assert!(text.contains("locked"), "{text}");
        }
    }
    drop(lock);
    place.restic(Restic::Next, ["prune"]);
    place.assert_sound();
}

/// The next number of a sequence that a seed gives.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

/// Snapshots with times of all kinds, written as files of their own: retention looks at nothing else.
fn invent_snapshots(place: &Place, numbers: &mut Numbers) {
    let store = Arc::new(LocalStore::new(place.repository()));
    let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
    let repository = Repository::init(store, b"a password for a test", options).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for number in 0..70 {
        let age = match number % 3 {
            0 => numbers.below(3 * 86_400),
            1 => numbers.below(120 * 86_400),
            _ => numbers.below(4 * 366 * 86_400),
        };
        // Some are of the future.
        let seconds = i64::try_from(now + 90_000 - age).unwrap();
        let zone = ["Z", "+01:00", "+02:00", "-05:00", "-04:00", "+05:30"][numbers.below(6) as usize];
        let offset = match zone {
            "Z" => 0,
            zone => {
                let minutes = zone[1..3].parse::<i64>().unwrap() * 60 + zone[4..6].parse::<i64>().unwrap();
                if zone.starts_with('-') { -minutes * 60 } else { minutes * 60 }
            }
        };
        let point = backstay_core::Time { seconds: seconds + offset, nanoseconds: 1_000 + number };
        let time = backstay_repository::SnapshotTime::from(point).as_str().replace('Z', zone);
        let tags = ["a", "b", "c"].iter().filter(|_| numbers.below(4) == 0).map(|tag| (*tag).to_owned()).collect();
        let snapshot = Snapshot {
            time: serde_json::from_value(Value::from(time)).unwrap(),
            tree: Id::of(b"nobody reads it"),
            paths: [vec!["/p"], vec!["/p", "/q"], vec!["/q", "/p"]][numbers.below(3) as usize]
                .iter()
                .map(|path| (*path).to_owned())
                .collect(),
            hostname: ["one", "two"][numbers.below(2) as usize].to_owned(),
            tags,
            ..Snapshot::default()
        };
        repository.save_unpacked(ObjectKind::Snapshot, &gotext::to_json(&snapshot).unwrap()).unwrap();
    }
}

fn invent_policy(numbers: &mut Numbers) -> Vec<String> {
    let mut words = Vec::new();
    for rule in ["last", "hourly", "daily", "weekly", "monthly", "yearly"] {
        if numbers.below(4) == 0 {
            words.extend([format!("--keep-{rule}"), (1 + numbers.below(8)).to_string()]);
        }
    }
    for rule in ["within", "within-hourly", "within-daily", "within-weekly", "within-monthly", "within-yearly"] {
        if numbers.below(5) == 0 {
            let span = match numbers.below(4) {
                0 => format!("{}h", 1 + numbers.below(60)),
                1 => format!("{}d", 1 + numbers.below(50)),
                2 => format!("{}m{}d", 1 + numbers.below(14), 1 + numbers.below(31)),
                _ => format!("{}y{}h", 1 + numbers.below(2), 1 + numbers.below(30)),
            };
            words.extend([format!("--keep-{rule}"), span]);
        }
    }
    if numbers.below(4) == 0 {
        words.extend(["--keep-tag".to_owned(), ["a", "a,b", "c"][numbers.below(3) as usize].to_owned()]);
    }
    if words.is_empty() {
        words = vec!["--keep-last".to_owned(), "3".to_owned()];
    }
    match numbers.below(4) {
        0 => words.extend(["--group-by".to_owned(), String::new()]),
        1 => words.extend(["--group-by".to_owned(), "host,tags".to_owned()]),
        _ => {}
    }
    if numbers.below(5) == 0 {
        words.extend(["--host".to_owned(), "one".to_owned()]);
    }
    words
}

/// The groups in an order of their own, each as what it is and what becomes of its snapshots.
fn groups(text: &str) -> Vec<String> {
    let array: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let ids = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|one| one["short_id"].as_str().unwrap().to_owned()).collect()
    };
    let mut groups: Vec<String> = array
        .iter()
        .map(|group| {
            let mut text = format!("{} {} {}\n", group["host"], group["paths"], group["tags"]);
            text.push_str(&format!("keep {:?}\nremove {:?}\n", ids(&group["keep"]), ids(&group["remove"])));
            for reason in group["reasons"].as_array().into_iter().flatten() {
                text.push_str(&format!("{} {}\n", reason["snapshot"]["time"], reason["matches"]));
            }
            text
        })
        .collect();
    groups.sort();
    groups
}

/// Of each snapshot whether it is kept, and whether it is the oldest of its group.
fn fates(text: &str) -> BTreeMap<String, (bool, bool)> {
    let array: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let mut fates = BTreeMap::new();
    for group in &array {
        let list = |name: &str| group[name].as_array().cloned().unwrap_or_default();
        let both =
            list("keep").into_iter().map(|one| (one, true)).chain(list("remove").into_iter().map(|one| (one, false)));
        let mut all: Vec<(i64, String, bool)> = both
            .map(|(one, kept)| {
                let time: backstay_repository::SnapshotTime = serde_json::from_value(one["time"].clone()).unwrap();
                (time.time().seconds, one["id"].as_str().unwrap().to_owned(), kept)
            })
            .collect();
        all.sort();
        fates.extend(all.into_iter().enumerate().map(|(at, (_, id, kept))| (id, (kept, at == 0))));
    }
    fates
}

#[test]
fn random_policies_keep_what_restic_keeps_and_for_the_same_reasons() {
    let seed = std::env::var("BACKSTAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    });
    println!("BACKSTAY_TEST_SEED={seed}");
    let mut numbers = Numbers(seed);
    let place = Place::new();
    invent_snapshots(&place, &mut numbers);
    let mut compared = 0;
    for _ in 0..30 {
        let policy = invent_policy(&mut numbers);
        let zone = ["UTC", "Europe/Berlin", "America/New_York"][numbers.below(3) as usize];
        let arguments = [&["--json".to_owned(), "forget".to_owned(), "--dry-run".to_owned()][..], &policy].concat();
        let ours = place.backstay(&arguments).env("TZ", zone).output().unwrap();
        for restic in Restic::BOTH {
            let theirs = place.restic_command(restic).args(&arguments).env("TZ", zone).output().unwrap();
            let said = || format!("{restic:?} TZ={zone} {policy:?}: {}", String::from_utf8_lossy(&theirs.stderr));
            if restic == Restic::Next && !theirs.status.success() {
                // A policy that would leave nothing of a group.
                assert!(!ours.status.success(), "{}", said());
            }
            if !ours.status.success() {
                continue;
            }
            assert!(theirs.status.success(), "{}", said());
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
            if restic == Restic::Next {
                let all = |bytes: &[u8]| groups(&text(bytes)).join("\n");
                assert_eq!(all(&ours.stdout), all(&theirs.stdout), "{}", said());
            } else {
                // 0.14 does not keep the oldest snapshot of a group for the sake of a count that is left.
                let (ours, theirs) = (fates(&text(&ours.stdout)), fates(&text(&theirs.stdout)));
                assert_eq!(ours.len(), theirs.len(), "{}", said());
                for (id, (kept, oldest)) in &ours {
                    let theirs = theirs[id].0;
                    assert!(*kept == theirs || (*kept && *oldest), "{id}: {kept} and {theirs}, {}", said());
                }
            }
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared} comparisons");
}
