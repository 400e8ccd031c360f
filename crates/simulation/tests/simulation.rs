//! A short run of the simulation, the proof that it finds what it looks for, and that a seed is a run.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use backstay_simulation::{Bug, Options, Report, run};
use backstay_stores::faults::{FaultPoint, points};

/// Runs seeds until one fails, and returns what failed; none if all are sound.
fn first_failure(bug: Option<Bug>, seeds: u64, operations: u32) -> Result<Report, String> {
    let mut sum = Report::default();
    for seed in 1..=seeds {
        match run(Options { seed, operations, bug }) {
            Ok(report) => sum.add(&report),
            Err(failure) => return Err(failure.to_string()),
        }
    }
    Ok(sum)
}

/// The bug is found within so many seeds, as a breach of this invariant or because an operation cannot do its work although
/// nothing was done to it, and the message says how to see it again.
fn is_found(bug: Bug, seeds: u64, invariant: &str) {
    let failure = first_failure(Some(bug), seeds, 50).unwrap_err();
    let found = failure.contains(invariant) || failure.contains("although nothing was wrong");
    assert!(found, "{bug:?}: {failure}");
    assert!(failure.contains("scripts/simulate --seed "), "{failure}");
}

#[test]
fn nothing_is_lost_whatever_fails_and_whoever_is_killed() {
    let sum = match first_failure(None, 100, 50) {
        Ok(sum) => sum,
        Err(failure) => panic!("{failure}"),
    };
    assert!(sum.kills > 100 && sum.interleavings > 1000 && sum.snapshots > 100, "{sum:?}");
    let missed: Vec<_> = points::ALL.iter().filter(|point| !sum.points.contains_key(point.name)).collect();
    assert_eq!(missed, Vec::<&FaultPoint>::new(), "points that no operation reached");
    for (name, (begun, ended)) in sum.operations {
        // Three of four are killed, held up or kept out by somebody else's lock: of a few that can be all.
        assert!(ended > 0 || begun < 15, "none of {begun} came to its end: {name}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 77, 1234, 8, 9, 10] {
        let options = Options { seed, operations: 50, bug: None };
        let first = run(options).unwrap();
        let second = run(options).unwrap();
        assert_eq!(first.log, second.log);
        assert_eq!(first.digest, second.digest);
        assert_ne!(first.digest, run(Options { seed: seed + 1, ..options }).unwrap().digest);
    }
}

#[test]
fn a_snapshot_written_before_its_index_is_found() {
    is_found(Bug::SnapshotBeforeIndex, 20, "invariant 1");
}

#[test]
fn a_pack_that_was_only_promised_is_found() {
    is_found(Bug::PackPromised, 20, "invariant 1");
}

#[test]
fn a_failed_entry_that_is_dropped_is_found() {
    is_found(Bug::FailureDropped, 20, "invariant 3");
}

#[test]
fn a_prune_that_does_not_look_again_is_found() {
    is_found(Bug::NoSecondLook, 1000, "invariant 1");
}

#[test]
fn locks_that_nobody_sees_are_found() {
    is_found(Bug::LocksIgnored, 60, "invariant");
}
