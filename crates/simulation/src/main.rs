//! Runs seeds of the simulation, several at a time, and prints what came of them.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backstay_simulation::{Options, Report, run};

const USAGE: &str =
    "simulate [--seeds N] [--operations N] [--seed S]: runs seeds 1 to N (2000), or S alone with its log";

fn say(text: &str) {
    // Nobody to tell it to.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn main() -> ExitCode {
    let (mut seeds, mut operations, mut one) = (2000_u64, 50_u32, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        match (argument.as_str(), value) {
            ("--seeds", Some(value)) => seeds = value,
            ("--operations", Some(value)) => operations = u32::try_from(value).unwrap_or(u32::MAX),
            ("--seed", Some(value)) => one = Some(value),
            _ => {
                let _ = writeln!(std::io::stderr().lock(), "{USAGE}");
                return ExitCode::FAILURE;
            }
        }
    }
    if let Some(seed) = one {
        return match run(Options { seed, operations, bug: None }) {
            Ok(report) => {
                report.log.iter().for_each(|line| say(line));
                say(&format!("seed {seed}: nothing lost, digest {:016x}", report.digest));
                ExitCode::SUCCESS
            }
            Err(failure) => {
                say(&failure.to_string());
                ExitCode::FAILURE
            }
        };
    }
    many(seeds, operations)
}

fn many(seeds: u64, operations: u32) -> ExitCode {
    let next = AtomicU64::new(1);
    let failed = AtomicBool::new(false);
    let sum = Mutex::new(Report::default());
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (next, failed, sum) = (&next, &failed, &sum);
            scope.spawn(move || {
                pin(worker);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    match run(Options { seed, operations, bug: None }) {
                        Ok(report) => {
                            if let Ok(mut sum) = sum.lock() {
                                sum.add(&report);
                            }
                        }
                        Err(failure) => {
                            failed.store(true, Ordering::Relaxed);
                            say(&failure.to_string());
                        }
                    }
                }
            });
        }
    });
    if failed.load(Ordering::Relaxed) {
        return ExitCode::FAILURE;
    }
    let sum = sum.into_inner().unwrap_or_default();
    let begun: u64 = sum.operations.values().map(|(begun, _)| begun).sum();
    let ended: u64 = sum.operations.values().map(|(_, ended)| ended).sum();
    say(&format!("{seeds} seeds of {operations} operations: {begun} begun, {ended} came to their end"));
    for (name, (begun, ended)) in &sum.operations {
        say(&format!("  {name:<16} {begun:>8} begun {ended:>8} ended"));
    }
    let faults = sum.faults;
    say(&format!("{} operations killed, {} turns given in the middle of others' work", sum.kills, sum.interleavings));
    say(&format!(
        "{} calls of the store: {} failed before, {} failed after the work was done, {} reads came short, {} with another byte, {} held up",
        faults.calls, faults.failed_before, faults.failed_after, faults.short_reads, faults.flipped, faults.delayed
    ));
    let points: Vec<String> = sum.points.iter().map(|(name, count)| format!("{name} {count}")).collect();
    say(&format!("named points: {}", points.join(", ")));
    say(&format!("{} snapshots written, {} times one was compared byte for byte", sum.snapshots, sum.compared));
    say("nothing lost");
    ExitCode::SUCCESS
}

/// All threads of one seed share one processor: they take turns anyway, and wake each other faster.
fn pin(worker: usize) {
    let mut set = rustix::thread::CpuSet::new();
    let Ok(all) = rustix::thread::sched_getaffinity(None) else { return };
    let allowed: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    if let Some(cpu) = worker.checked_rem(allowed.len()).and_then(|at| allowed.get(at)) {
        set.set(*cpu);
        // Without it the run is slower, nothing else.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}
