//! A second reader and writer for the tests: rustic's library, which shares no code with restic or with us, checks a repository,
//! restores from it, saves into it and prunes it.
//!
//! `rustic-reader REPOSITORY PASSWORD-FILE WHAT`, where `check` reads and verifies every pack; `restore SNAPSHOT[:PATH] TARGET`
//! restores; `backup PATH` saves a folder and prints the snapshot's id; `prune` keeps nothing that is not used, and marks packs for
//! deletion, to be deleted by a prune a day later; `prune-at-once` deletes them. rustic tells of a failed entry in its log and goes
//! on: every logged error counts as failure here.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustic_backend::BackendOptions;
use rustic_core::{
    BackupOptions, CheckOptions, Credentials, LimitOption, LocalDestination, LsOptions, PathList, PruneOptions,
    Repository, RepositoryOptions, RestoreOptions, SnapshotOptions,
};

/// Prints warnings and errors, and counts the errors.
struct Counting {
    errors: AtomicUsize,
}

impl Log for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("rustic {}: {}", record.level(), record.args());
            if record.level() == Level::Error {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&self) {}
}

static LOG: Counting = Counting { errors: AtomicUsize::new(0) };

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let [repository, password_file, what @ ..] = arguments else {
        return Err("usage: rustic-reader REPOSITORY PASSWORD-FILE (check | restore SNAPSHOT[:PATH] TARGET | backup PATH | prune | \
                    prune-at-once)"
            .into());
    };
    let password = std::fs::read_to_string(password_file)?;
    let backends = BackendOptions::default().repository(*repository).to_backends()?;
    let repository = Repository::new(&RepositoryOptions::default().no_cache(true), &backends)?
        .open(&Credentials::password(password.trim_end_matches('\n')))?;
    match what {
        ["check"] => {
            let found = repository.check(CheckOptions::default().read_data(true))?;
            for (level, finding) in &found.0 {
                println!("{level:?}: {finding}");
            }
            found.is_ok()?;
        }
        ["restore", snapshot, target] => {
            let repository = repository.to_indexed()?;
            let node = repository.node_from_snapshot_path(snapshot, |_| true)?;
            let entries = repository.ls(&node, &LsOptions::default())?;
            let target = LocalDestination::new(target, true, !node.is_dir())?;
            let options = RestoreOptions::default().numeric_id(true);
            let plan = repository.prepare_restore(&options, entries.clone(), &target, false)?;
            repository.restore(plan, &options, entries, &target)?;
        }
        ["backup", path] => {
            let snapshot = SnapshotOptions::default().to_snapshot()?;
            let source = PathList::from_iter([path]).sanitize()?;
            let saved = repository.to_indexed_ids()?.backup(&BackupOptions::default(), &source, snapshot)?;
            println!("{}", saved.id);
        }
        [how @ ("prune" | "prune-at-once")] => {
            let options = PruneOptions::default()
                .max_unused(LimitOption::Percentage(0))
                .max_repack(LimitOption::Unlimited)
                .instant_delete(*how == "prune-at-once");
            let plan = repository.prune_plan(&options)?;
            repository.prune(&options, plan)?;
        }
        _ => return Err(format!("does not know {what:?}").into()),
    }
    match LOG.errors.load(Ordering::Relaxed) {
        0 => Ok(()),
        errors => Err(format!("rustic logged {errors} errors").into()),
    }
}

fn main() -> ExitCode {
    log::set_max_level(LevelFilter::Warn);
    if log::set_logger(&LOG).is_err() {
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rustic-reader: {error}");
            ExitCode::FAILURE
        }
    }
}
