//! `backstay prune`: gives back the room of what no snapshot needs.

use std::sync::Arc;

use backstay_repository::error::Error;
use backstay_repository::maintenance::MaintenanceProgress;
use backstay_repository::maintenance::prune::{MaxUnused, PruneOptions, PruneReport, PruneStats, prune};
use backstay_repository::repository::Repository;
use clap::Args;

use crate::failure::Failure;
use crate::format::{self, count};
use crate::maintenance::fold_gpbackup;
use crate::output::Output;
use crate::progress::{Counters, Progress, Work};
use crate::session::Session;
use crate::signals;

/// Give back the room of what no snapshot needs
///
/// Works in two steps. The first chooses what goes and copies what is worth keeping out of packs that are mostly unused;
/// backups may run meanwhile. The second has the repository for itself for a few seconds: it looks again at what is used,
/// then deletes. Interrupted anywhere, nothing is lost, and the next run goes on.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Say what would be done, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How it is done.
    #[command(flatten)]
    pub choice: PruneChoice,
}

/// Options of `prune` that `forget --prune` has too.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "How room is given back")]
pub struct PruneChoice {
    /// How much may stay unused: a percentage of what stays, a size, or "unlimited" [default: 5%]
    #[arg(long, value_name = "LIMIT")]
    pub max_unused: Option<MaxUnused>,
    /// Copy out of packs of this size in all at the most
    #[arg(long, value_name = "SIZE", value_parser = format::parse_size)]
    pub max_repack_size: Option<u64>,
    /// Copy only out of packs that hold trees
    #[arg(long)]
    pub repack_cacheable_only: bool,
    /// Merge packs that are smaller than 80 % of the usual size
    #[arg(long)]
    pub repack_small: bool,
    /// Copy packs with blobs that are not compressed, and compress them
    #[arg(long)]
    pub repack_uncompressed: bool,
}

impl PruneChoice {
    /// Whether any of the options was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.max_unused.is_some()
            || self.max_repack_size.is_some()
            || self.repack_cacheable_only
            || self.repack_small
            || self.repack_uncompressed
    }

    /// The library's options.
    #[must_use]
    pub fn options(&self, session: &Session) -> PruneOptions {
        PruneOptions {
            max_unused: self.max_unused.unwrap_or_default(),
            max_repack_size: self.max_repack_size,
            repack_cacheable_only: self.repack_cacheable_only,
            repack_small: self.repack_small,
            repack_uncompressed: self.repack_uncompressed,
            retry_lock: session.global.retry_lock,
            ..PruneOptions::default()
        }
    }
}

impl PruneArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the repository is locked or not sound: nothing was deleted then.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let (repository, options) = if self.dry_run {
            (session.open_to_read()?, PruneOptions { dry_run: true, ..self.choice.options(session) })
        } else {
            session.needs_lock("prune")?;
            (session.open()?, self.choice.options(session))
        };
        signals::be_patient();
        if !self.dry_run {
            fold_gpbackup(session, &repository)?;
        }
        run_prune(session, &repository, &options)
    }
}

/// Prunes and tells what was done.
///
/// # Errors
/// As [`PruneArgs::run`].
pub(crate) fn run_prune(
    session: &Session,
    repository: &Arc<Repository>,
    options: &PruneOptions,
) -> Result<(), Failure> {
    let output = &session.output;
    let mut progress = Progress::start(output, Work::Check);
    let mut told = Ok(());
    let result = prune(repository, options, &Watch::new(session, &progress), &mut |stats| {
        if !output.json && !output.quiet {
            told = output.line(&plan_words(stats, output.verbosity)).and_then(|()| output.flush());
        }
    });
    progress.finish();
    let report = result.map_err(failure)?;
    told?;
    if output.json {
        output.object(&summary_object(&report, options.dry_run)?)?;
    } else if options.dry_run {
        output.note("Nothing was changed");
    } else if !output.quiet {
        output.line(&done_words(&report))?;
    }
    Ok(())
}

fn failure(error: Error) -> Failure {
    match Failure::from(error) {
        Failure::Fatal(_) if signals::interrupted() => {
            Failure::Interrupted("interrupted: nothing is lost, and the next prune goes on".to_owned())
        }
        other => other,
    }
}

/// restic's lines; more of them with `-v`.
fn plan_words(stats: &PruneStats, verbosity: u8) -> String {
    let PruneStats { blobs, bytes, packfiles } = stats;
    let line = |name: &str, blobs: u64, bytes: u64| format!("{name:<14}{blobs:>10} blobs / {}", format::bytes(bytes));
    let share = |part: u64, whole: u64| {
        let percent = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
        format!("{percent:.2} %")
    };
    let (total_blobs, total_bytes) = (stats.total_blobs(), stats.total_bytes());
    let mut lines = Vec::new();
    if verbosity > 0 {
        lines.push(line("used:", blobs.used, bytes.used));
        if blobs.duplicate > 0 {
            lines.push(line("duplicates:", blobs.duplicate, bytes.duplicate));
        }
        lines.push(line("unused:", blobs.unused, bytes.unused));
        if bytes.unref > 0 {
            lines.push(format!("unreferenced: {}", format::bytes(bytes.unref)));
        }
        lines.push(line("total:", total_blobs, total_bytes));
        lines.push(format!("unused size: {} of total size", share(bytes.unused + bytes.duplicate, total_bytes)));
        lines.push(String::new());
    }
    let removed_blobs = blobs.remove + blobs.repackrm;
    let remaining = total_bytes.saturating_sub(stats.freed_bytes());
    lines.push(line("to repack:", blobs.repack, bytes.repack));
    lines.push(line("this removes:", blobs.repackrm, bytes.repackrm));
    lines.push(line("to delete:", blobs.remove, bytes.remove + bytes.unref));
    lines.push(line("total prune:", removed_blobs, stats.freed_bytes()));
    if verbosity > 0 && bytes.uncompressed > 0 {
        lines.push(format!("stored plain: {}", format::bytes(bytes.uncompressed)));
    }
    lines.push(line("remaining:", total_blobs.saturating_sub(removed_blobs), remaining));
    let unused = stats.unused_after();
    lines.push(format!(
        "unused size after prune: {} ({} of remaining size)",
        format::bytes(unused),
        share(unused, remaining)
    ));
    if verbosity > 0 {
        lines.push(String::new());
        for (name, number) in [
            ("totally used packs:", packfiles.used),
            ("partly used packs:", packfiles.partly_used),
            ("unused packs:", packfiles.unused),
            ("packs to keep:", packfiles.keep),
            ("packs to repack:", packfiles.repack),
            ("packs to delete:", packfiles.remove),
            ("unreferenced packs to delete:", packfiles.unref),
        ] {
            lines.push(format!("{name:<30}{number:>8}"));
        }
    }
    lines.join("\n")
}

fn done_words(report: &PruneReport) -> String {
    let mut text =
        format!("Deleted {} ({})", count(report.deleted_packs, "pack", "packs"), format::bytes(report.deleted_bytes));
    if report.copied_bytes > 0 {
        text.push_str(&format!(", copied {}", format::bytes(report.copied_bytes)));
    }
    if report.kept_back > 0 {
        text.push_str(&format!(
            ", left {} that a backup needed again meanwhile",
            count(report.kept_back, "pack", "packs")
        ));
    }
    text
}

/// A `summary`: newer versions of restic have the objects `blobs`, `bytes`, `packfiles`, then what was done.
fn summary_object(report: &PruneReport, dry_run: bool) -> Result<serde_json::Value, Failure> {
    let mut value =
        serde_json::to_value(report).map_err(|error| Failure::fatal(format!("cannot write JSON: {error}")))?;
    if let Some(map) = value.as_object_mut() {
        map.insert("message_type".to_owned(), "summary".into());
        if dry_run {
            map.insert("dry_run".to_owned(), true.into());
        }
    }
    Ok(value)
}

/// Hears how maintenance goes on.
pub(crate) struct Watch {
    output: Arc<Output>,
    counters: Arc<Counters>,
}

impl Watch {
    pub(crate) fn new(session: &Session, progress: &Progress) -> Self {
        Self { output: Arc::clone(&session.output), counters: Arc::clone(progress.counters()) }
    }
}

impl MaintenanceProgress for Watch {
    fn stage(&self, name: &str, total: u64) {
        self.counters.stage(name, total);
        self.output.verbose(2, name);
    }

    fn advanced(&self, steps: u64) {
        self.counters.add(steps, 0);
    }

    fn note(&self, message: &str) {
        if !self.output.quiet {
            self.output.warning(message);
        }
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}
