//! `backstay restore`: a snapshot, or a part of it, back to a folder or through the plugin that saved it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_core::Verdict;
use backstay_repository::reader::Reader;
use backstay_repository::restore::{Overwrite, RestoreAction, RestoreOptions, RestoreProgress, RestoreReport, restore};
use clap::{Args, ValueEnum};

use crate::args::{HookOptions, PatternOptions, PluginOptions, SnapshotFilterOptions};
use crate::failure::Failure;
use crate::format::{self, count};
use crate::hooks::{Ended, Told};
use crate::output::Output;
use crate::progress::{Counters, Progress, Work};
use crate::selection::{Selected, reader, select};
use crate::session::Session;
use crate::{job, plugins, signals};

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverwriteChoice {
    /// It is written again
    Always,
    /// It is written again if its contents, size or time differ
    IfChanged,
    /// It is left alone
    Never,
}

/// Bring a snapshot back, to a folder or through the plugin that saved it
///
/// Every byte is verified against its hash before it is written. A target that is not empty is refused unless
/// --overwrite or --delete says what happens to what is there. Exit status 3 means that some entries could not be
/// restored: each is listed.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The snapshot (an id, the beginning of one, or "latest") and, after a colon, the folder in it that is restored
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: OsString,
    /// Where to restore to; it is made if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub target: PathBuf,
    /// Which snapshots "latest" looks at.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Which entries are restored.
    #[command(flatten)]
    pub patterns: PatternOptions,
    /// What happens to files that are there already [default: always, in a target that must be empty]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub overwrite: Option<OverwriteChoice>,
    /// Delete what is in the target and not in the snapshot
    #[arg(long)]
    pub delete: bool,
    /// Read everything again after it was written, and compare
    #[arg(long)]
    pub verify: bool,
    /// Say what would be done, write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Restore also what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,

    /// Hand the entries to the plugin that saved them instead of writing files; the target becomes the plugin's "where"
    #[arg(long, conflicts_with_all = ["delete", "verify", "dry_run", "internal"], help_heading = "Plugins")]
    pub through_plugin: bool,
    /// Options that go before those of the stored definition, "python:NAME=VALUE:..."
    #[arg(long, value_name = "TEXT", requires = "through_plugin", help_heading = "Plugins")]
    pub plugin_options: Option<String>,
    /// Names that plugins restore to, by rules as Bareos' RegexWhere has them ("!PATTERN!REPLACEMENT!,..."), instead of
    /// below the target
    #[arg(long, value_name = "RULES", requires = "through_plugin", help_heading = "Plugins")]
    pub regex_where: Option<String>,
    /// Targets of symbolic links go below the target, or by the rules, too
    #[arg(long, requires = "through_plugin", help_heading = "Plugins")]
    pub prefix_links: bool,
    /// How plugins run.
    #[command(flatten)]
    pub plugin: PluginOptions,
    /// Who is told of the job.
    #[command(flatten)]
    pub hooks: HookOptions,
}

impl RestoreArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the snapshot is not there, the target is not empty, the restore did not reach its end, or some entries
    /// failed ([`Failure::WithErrors`]).
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        if self.through_plugin && self.overwrite == Some(OverwriteChoice::IfChanged) {
            return Err(Failure::fatal("--through-plugin knows --overwrite always and --overwrite never only"));
        }
        self.look_at(&self.target)?;
        let repository = session.open_to_read()?;
        let selected = select(&repository, &self.snapshot, &self.filter)?;
        signals::be_patient();
        if self.through_plugin {
            return plugins::restore(&self, session, &repository, &selected, &self.target);
        }
        let reader = reader(&repository)?;
        // A dry run is nothing that happened.
        if self.dry_run || self.hooks.is_empty() {
            return self.to_folder(session, &reader, &selected, &mut |_| true);
        }
        let job = Arc::new(job::control(session, &repository)?);
        let bareos = plugins::options(&self.plugin, session.output.verbosity)?;
        let mut told = Told::new(&self.hooks, Some(&bareos), &repository, &job, None)?;
        told.begin("nothing was restored")?;
        self.to_folder(session, &reader, &selected, &mut |ended| told.end(ended))
    }

    /// Refuses a target that is no folder, or holds something while nothing says what shall happen to it.
    fn look_at(&self, target: &Path) -> Result<(), Failure> {
        if target.as_os_str().is_empty() {
            return Err(Failure::fatal("--target is empty"));
        }
        let shown = target.display();
        match std::fs::read_dir(target) {
            Ok(mut entries) => {
                if self.overwrite.is_none() && !self.delete && entries.next().is_some() {
                    return Err(Failure::fatal(format!(
                        "the target {shown} is not empty: say with --overwrite (always, if-changed, never) what happens to what is there"
                    )));
                }
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Failure::fatal(format!("cannot restore to {shown}: {error}"))),
        }
    }

    /// `told` hears how it ended, before anybody else does; false: that itself went wrong.
    fn to_folder(
        &self,
        session: &Session,
        reader: &Reader,
        selected: &Selected,
        told: &mut dyn FnMut(Ended) -> bool,
    ) -> Result<(), Failure> {
        let output = &session.output;
        let options = RestoreOptions {
            target: self.target.clone(),
            include: self.patterns.include.clone(),
            iinclude: self.patterns.iinclude.clone(),
            exclude: self.patterns.exclude.clone(),
            iexclude: self.patterns.iexclude.clone(),
            overwrite: match self.overwrite {
                None | Some(OverwriteChoice::Always) => Overwrite::Always,
                Some(OverwriteChoice::IfChanged) => Overwrite::IfChanged,
                Some(OverwriteChoice::Never) => Overwrite::Never,
            },
            delete: self.delete,
            verify: self.verify,
            dry_run: self.dry_run,
            skip_internal: !self.internal,
            threads: None,
        };
        output.note(&format!("restoring snapshot {} to {}", selected.id.short(), options.target.display()));
        let started = Instant::now();
        let mut progress = Progress::start(output, Work::Restore);
        let watch = Watch { output: Arc::clone(output), counters: Arc::clone(progress.counters()) };
        let result = restore(reader, &selected.snapshot.tree, &selected.path, &options, &watch);
        progress.finish();
        let elapsed = started.elapsed();
        let clean = told(result.as_ref().map_or(Ended::early(), |report| {
            let failed = report.errors.len() as u64;
            let verdict = if failed == 0 { Verdict::Complete } else { Verdict::WithErrors };
            Ended::with(&verdict, report.files_restored, report.bytes_restored, failed)
        }));
        let report = result.map_err(|error| {
            let failure = Failure::from(error);
            match failure {
                Failure::Fatal(text) if signals::interrupted() => Failure::Interrupted(text),
                other => other,
            }
        })?;
        if output.json {
            output.object(&summary_object(&report, self.dry_run, elapsed))?;
        } else if !output.quiet {
            output.line(&self.words(&report, elapsed))?;
        }
        if report.errors.is_empty() && clean { Ok(()) } else { Err(Failure::WithErrors) }
    }

    fn words(&self, report: &RestoreReport, elapsed: Duration) -> String {
        let mut lines = vec![format!(
            "{} {} of {} ({} of {}) in {}",
            if self.dry_run { "Would restore" } else { "Restored" },
            report.files_restored,
            count(report.total_files, "entry", "entries"),
            format::bytes(report.bytes_restored),
            format::bytes(report.total_bytes),
            format::duration(elapsed)
        )];
        if report.files_skipped > 0 {
            lines.push(format!(
                "Left alone: {} ({}) that were there",
                count(report.files_skipped, "entry", "entries"),
                format::bytes(report.bytes_skipped)
            ));
        }
        if report.files_deleted > 0 {
            lines.push(format!("Deleted: {}", count(report.files_deleted, "entry", "entries")));
        }
        if report.files_verified > 0 {
            lines.push(format!("Verified: {} read again and right", count(report.files_verified, "file", "files")));
        }
        if report.owners_refused > 0 {
            lines.push(format!(
                "The owner of {} was not set: only root may do that",
                count(report.owners_refused, "entry", "entries")
            ));
        }
        if report.xattrs_unsupported > 0 {
            lines.push(format!(
                "{} left out: the target's file system cannot hold them",
                count(report.xattrs_unsupported, "extended attribute was", "extended attributes were")
            ));
        }
        if report.errors.is_empty() {
            lines.push(if self.dry_run { "dry run: nothing was written" } else { "complete" }.to_owned());
        } else {
            lines.push("Not restored, or not whole:".to_owned());
            lines.extend(
                report.errors.iter().map(|failed| format!("  {}: {}", format::path(&failed.path), failed.message)),
            );
            let failed = report.errors.len() as u64;
            lines.push(format!("with errors: {} failed", count(failed, "entry", "entries")));
        }
        lines.join("\n")
    }
}

/// restic's `summary`: numbers that are zero are left out, as restic does.
fn summary_object(report: &RestoreReport, dry_run: bool, elapsed: Duration) -> serde_json::Value {
    let mut object = serde_json::to_value(report).unwrap_or_default();
    if let Some(map) = object.as_object_mut() {
        map.retain(|_, value| value.as_u64() != Some(0));
        map.insert("message_type".to_owned(), "summary".into());
        map.insert("seconds_elapsed".to_owned(), elapsed.as_secs().into());
        map.insert("error_count".to_owned(), report.errors.len().into());
        if dry_run {
            map.insert("dry_run".to_owned(), true.into());
        }
    }
    object
}

/// Hears how the restore goes on.
struct Watch {
    output: Arc<Output>,
    counters: Arc<Counters>,
}

impl RestoreProgress for Watch {
    fn planned(&self, files: u64, bytes: u64) {
        self.counters.expect(files, bytes);
    }

    fn advanced(&self, files: u64, bytes: u64) {
        self.counters.add(files, bytes);
    }

    fn item(&self, action: RestoreAction, path: &[u8], size: u64) {
        self.counters.current(path);
        if self.output.verbosity < 2 {
            return;
        }
        let (word, shown) = match action {
            RestoreAction::Restored => ("restored", "restored"),
            RestoreAction::Unchanged => ("unchanged", "unchanged"),
            RestoreAction::Kept => ("unchanged", "kept"),
            RestoreAction::Deleted => ("deleted", "deleted"),
        };
        let path = format::path(path);
        if self.output.json {
            // Nobody to tell when standard output is gone: the restore itself goes on.
            let _ = self.output.object(&serde_json::json!({
                "message_type": "verbose_status",
                "action": word,
                "item": path,
                "size": size,
            }));
        } else {
            self.output.verbose(2, &format!("{shown:<10}{path} ({})", format::bytes(size)));
        }
    }

    fn error(&self, path: &[u8], message: &str) {
        self.counters.error();
        self.output.item_error("restore", &format::path(path), message, None);
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}
