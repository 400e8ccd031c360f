//! `backstay backup`: from files, streams and plugins to a snapshot.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backstay_bareos_host::PluginLine;
use backstay_core::{FileKind, Outcome, Source, Time, Verdict};
use backstay_engine::backup::{BackupOptions, BackupReport, ParentChoice, backup, now};
use backstay_engine::job::JobControl;
use backstay_engine::stream_source::StreamSource;
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::lock::{host_name, user_name};
use clap::Args;
use jiff::Zoned;

use crate::args::{HookOptions, LevelOptions, PluginOptions, WritingOptions};
use crate::estimate::Estimate;
use crate::failure::{Failure, one_line};
use crate::format::{self, count, point};
use crate::hooks::{Ended, Told};
use crate::output::Output;
use crate::progress::{Counters, Progress, Work};
use crate::selection::split_tags;
use crate::session::Session;
use crate::{fileset, job, lists, plugins, signals};

/// Save files, streams and what plugins announce in a new snapshot
///
/// Everything that the command names goes into one snapshot. An unchanged file (same size, times and inode as in the
/// parent snapshot) is not read again. Exit status 3 means that the snapshot was made and some entries could not be
/// saved: each is listed.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Files and folders to save; with --stdin-from-command the command and its arguments, after "--"
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,

    /// Save what a FileSet of Bareos' configuration names: files, with its rules, and plugins
    #[arg(
        long, value_name = "FILE", help_heading = "Plugins",
        conflicts_with_all = [
            "paths", "stdin", "stdin_from_command", "files_from", "files_from_verbatim", "files_from_raw",
            "one_file_system"
        ]
    )]
    pub fileset: Option<PathBuf>,
    /// The FileSet with this name, where the file has several
    #[arg(long, value_name = "NAME", help_heading = "Plugins")]
    pub fileset_name: Option<String>,
    /// What plugins are asked to announce.
    #[command(flatten)]
    pub announce: LevelOptions,
    /// How plugins run.
    #[command(flatten)]
    pub plugin: PluginOptions,
    /// Who is told of the job.
    #[command(flatten)]
    pub hooks: HookOptions,

    /// Save standard input as one file
    #[arg(long, conflicts_with = "stdin_from_command", help_heading = "Streams")]
    pub stdin: bool,
    /// Run a command (after "--") and save what it prints as one file; nothing is saved as whole if it fails
    #[arg(long, help_heading = "Streams")]
    pub stdin_from_command: bool,
    /// The file's name in the snapshot
    #[arg(long, value_name = "NAME", default_value = "stdin", help_heading = "Streams")]
    pub stdin_filename: String,

    /// Save the paths that this file lists, one pattern a line, "#" starts a comment ("-": standard input; repeatable)
    #[arg(long, value_name = "FILE")]
    pub files_from: Vec<PathBuf>,
    /// The same, each line taken word for word (repeatable)
    #[arg(long, value_name = "FILE")]
    pub files_from_verbatim: Vec<PathBuf>,
    /// The same, names end with a zero byte (repeatable)
    #[arg(long, value_name = "FILE")]
    pub files_from_raw: Vec<PathBuf>,

    /// Leave out what matches this pattern (repeatable)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What is left out")]
    pub exclude: Vec<String>,
    /// The same, upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN", help_heading = "What is left out")]
    pub iexclude: Vec<String>,
    /// Leave out what matches the rules in this file, written as in a .gitignore (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "What is left out")]
    pub exclude_file: Vec<PathBuf>,
    /// The same, upper and lower case alike (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "What is left out")]
    pub iexclude_file: Vec<PathBuf>,
    /// Leave out the contents of folders with a CACHEDIR.TAG
    #[arg(long, help_heading = "What is left out")]
    pub exclude_caches: bool,
    /// Leave out the contents of folders that hold this file, optionally with this first line (repeatable)
    #[arg(long, value_name = "NAME[:HEADER]", help_heading = "What is left out")]
    pub exclude_if_present: Vec<String>,
    /// Leave out files larger than this: 4096, 64K, 100M, 2G
    #[arg(long, value_name = "SIZE", value_parser = format::parse_size, help_heading = "What is left out")]
    pub exclude_larger_than: Option<u64>,
    /// Stay on the file systems of the paths named
    #[arg(short = 'x', long, help_heading = "What is left out")]
    pub one_file_system: bool,

    /// Compare with this snapshot [default: the newest of this host with the same paths]
    #[arg(long, value_name = "SNAPSHOT", help_heading = "What counts as unchanged")]
    pub parent: Option<String>,
    /// Read every file again, whatever the parent says
    #[arg(short, long, conflicts_with = "parent", help_heading = "What counts as unchanged")]
    pub force: bool,
    /// A file with another inode number can be unchanged
    #[arg(long, help_heading = "What counts as unchanged")]
    pub ignore_inode: bool,
    /// A file with another ctime can be unchanged
    #[arg(long, help_heading = "What counts as unchanged")]
    pub ignore_ctime: bool,
    /// Make no snapshot when it would equal its parent
    #[arg(long, help_heading = "What counts as unchanged")]
    pub skip_if_unchanged: bool,

    /// Tags of the snapshot, separated by commas (repeatable)
    #[arg(long = "tag", value_name = "TAG[,TAG]", help_heading = "The snapshot")]
    pub tags: Vec<String>,
    /// The host that the snapshot names [default: this host]
    #[arg(short = 'H', long, value_name = "HOST", help_heading = "The snapshot")]
    pub host: Option<String>,
    /// The time that the snapshot names: "2026-11-22 13:45:00" [default: now]
    #[arg(long, value_name = "TIME", value_parser = format::parse_time, help_heading = "The snapshot")]
    pub time: Option<Zoned>,
    /// Store the time of last access too
    #[arg(long, help_heading = "The snapshot")]
    pub with_atime: bool,
    /// Save a snapshot, tagged "partial", even if a source stops before its end
    #[arg(long, help_heading = "The snapshot")]
    pub save_partial: bool,
    /// Read and count everything, write nothing
    #[arg(short = 'n', long, help_heading = "The snapshot")]
    pub dry_run: bool,

    /// How blobs are written.
    #[command(flatten)]
    pub writing: WritingOptions,
}

impl BackupArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When no snapshot was made ([`Failure::Fatal`], [`Failure::Interrupted`]), or one with errors
    /// ([`Failure::WithErrors`]).
    pub fn run(mut self, session: &Session) -> Result<(), Failure> {
        if !self.dry_run {
            session.needs_lock("backup")?;
        }
        let now = now();
        let mut sources = self.streams(now)?;
        let definitions = plugins::definitions(&self.announce.plugins, &self.announce.plugin_files)?;
        if self.fileset_name.is_some() && self.fileset.is_none() {
            return Err(Failure::fatal("--fileset-name needs --fileset: the file that the FileSet stands in"));
        }
        let mut paths = self.paths(session)?;
        let (mut lines, mut option_lines) = (Vec::new(), Vec::new());
        let mut selector = None;
        if let Some(file) = &self.fileset {
            let planned = fileset::read(file, self.fileset_name.as_deref(), &session.output)?;
            (paths, selector) = (planned.roots, Some(planned.selector));
            (lines, option_lines) = (planned.lines, planned.option_lines);
            self.announce.accurate_options = self.announce.accurate_options.or(planned.accurate);
        }
        lines.extend(definitions.iter().map(PluginLine::from));
        if paths.is_empty() && sources.is_empty() && lines.is_empty() {
            return Err(Failure::fatal(
                "nothing to back up: name a path, --fileset, --plugin, --stdin, --stdin-from-command or --files-from",
            ));
        }
        let mut options = self.options(session, paths, now)?;
        options.tree.selector = selector;
        let repository = session.open()?;
        signals::be_patient();
        let job = Arc::new(job::control(session, &repository)?);
        // A dry run is nothing that happened.
        let hooks = if self.dry_run { HookOptions::default() } else { self.hooks.clone() };
        let bareos = (!lines.is_empty() || !option_lines.is_empty() || !hooks.is_empty())
            .then(|| plugins::options(&self.plugin, session.output.verbosity))
            .transpose()?;
        let mut told = Told::new(&hooks, bareos.as_ref(), &repository, &job, Some(self.announce.level))?;
        sources.extend(plugins::sources(bareos, &self.announce, lines, option_lines)?);
        told.begin("no snapshot was made")?;
        let started = Instant::now();
        let mut progress = Progress::start(&session.output, Work::Backup);
        let mut estimate = Estimate::start(&session.output, progress.counters(), &options);
        let watch = Watch::new(&session.output, progress.counters());
        let mut result = backup(&repository, &options, &mut sources, &*job, &watch);
        let elapsed = started.elapsed();
        estimate.stop();
        progress.finish();
        let clean = told.end(result.as_ref().map_or(Ended::early(), Ended::backup));
        if let (Ok(report), false) = (&mut result, clean)
            && report.verdict == Verdict::Complete
        {
            report.verdict = Verdict::WithErrors;
        }
        self.conclude(session, result?, &watch, &job, elapsed)
    }

    /// Standard input, or a command, as sources.
    fn streams(&mut self, now: Time) -> Result<Vec<Box<dyn Source>>, Failure> {
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        let name = &self.stdin_filename;
        if (self.stdin || self.stdin_from_command) && name.trim_matches('/').is_empty() {
            return Err(Failure::fatal("--stdin-filename is empty: the file needs a name"));
        }
        if self.stdin {
            if !self.paths.is_empty() {
                return Err(Failure::fatal("--stdin takes no paths: save them in a snapshot of their own"));
            }
            let input = std::io::stdin().as_fd().try_clone_to_owned();
            let input = input.map_err(|error| Failure::fatal(format!("cannot read standard input: {error}")))?;
            sources.push(Box::new(StreamSource::from_descriptor(name, input, now)));
        }
        if self.stdin_from_command {
            let command = std::mem::take(&mut self.paths);
            if command.is_empty() {
                return Err(Failure::fatal("--stdin-from-command needs a command after \"--\""));
            }
            sources.push(Box::new(StreamSource::from_command(name, command, now)));
        }
        Ok(sources)
    }

    /// All paths that are named, on the command line and in files.
    fn paths(&self, session: &Session) -> Result<Vec<PathBuf>, Failure> {
        let lists = self.files_from.iter().chain(&self.files_from_verbatim).chain(&self.files_from_raw);
        let from_input = lists.filter(|file| file.as_os_str() == "-").count() + usize::from(self.stdin);
        if from_input > 1 {
            return Err(Failure::fatal("standard input can be read for one purpose only"));
        }
        let mut paths: Vec<PathBuf> = self.paths.iter().map(PathBuf::from).collect();
        if let Some(path) = paths.iter().find(|path| path.as_os_str().is_empty()) {
            return Err(Failure::fatal(format!("\"{}\" is no path", path.display())));
        }
        for file in &self.files_from {
            paths.extend(lists::patterns(file, &session.output)?);
        }
        for file in &self.files_from_verbatim {
            paths.extend(lists::lines(file)?);
        }
        for file in &self.files_from_raw {
            paths.extend(lists::raw(file)?);
        }
        Ok(paths)
    }

    fn options(&self, session: &Session, paths: Vec<PathBuf>, now: Time) -> Result<BackupOptions, Failure> {
        Ok(BackupOptions {
            paths,
            tree: TreeOptions {
                excludes: self.exclude.clone(),
                iexcludes: self.iexclude.clone(),
                exclude_files: self.exclude_file.clone(),
                iexclude_files: self.iexclude_file.clone(),
                exclude_caches: self.exclude_caches,
                exclude_if_present: self.exclude_if_present.clone(),
                exclude_larger_than: self.exclude_larger_than,
                one_file_system: self.one_file_system,
                ignore_inode: self.ignore_inode,
                ignore_ctime: self.ignore_ctime,
                force: self.force,
                with_atime: self.with_atime,
                placed_as: None,
                selector: None,
                taker: None,
            },
            host: self.host.clone().unwrap_or_else(host_name),
            username: user_name(),
            tags: self.tags.iter().flat_map(|list| split_tags(list)).collect(),
            time: self.time.as_ref().map_or(now, point),
            parent: match &self.parent {
                Some(name) => ParentChoice::Named(name.clone()),
                None if self.force => ParentChoice::None,
                None => ParentChoice::Newest,
            },
            skip_if_unchanged: self.skip_if_unchanged,
            dry_run: self.dry_run,
            save_partial: self.save_partial,
            retry_lock: session.global.retry_lock,
            write: self.writing.write_options()?,
        })
    }

    /// Prints what came of it, and decides how the command ends.
    fn conclude(
        &self,
        session: &Session,
        report: BackupReport,
        watch: &Watch,
        job: &JobControl,
        elapsed: Duration,
    ) -> Result<(), Failure> {
        let output = &session.output;
        if output.json {
            output.object(&summary_object(self.dry_run, &report, elapsed))?;
        } else if !output.quiet {
            if !report.levels.is_empty() {
                output.line(&plugins::report(&self.plugin, &report, job, elapsed))?;
            }
            output.line(&self.words(&report, watch, elapsed))?;
        }
        match report.verdict {
            Verdict::Complete => Ok(()),
            Verdict::WithErrors => Err(Failure::WithErrors),
            Verdict::Partial(reason) => {
                let kept = match report.snapshot {
                    Some(id) => format!("what was read so far is in the partial snapshot {}", id.short()),
                    None => "no snapshot was made".to_owned(),
                };
                let reason = reason.trim_end_matches(['.', '\n']);
                let text = format!("the backup did not reach its end: {reason}; {kept}");
                Err(if signals::interrupted() { Failure::Interrupted(text) } else { Failure::Fatal(text) })
            }
        }
    }

    fn words(&self, report: &BackupReport, watch: &Watch, elapsed: Duration) -> String {
        let (summary, tally) = (&report.summary, &report.tally);
        let sum = format!(
            "Entries: {} announced = {} saved + {} unchanged + {} skipped + {} failed + {} lost",
            tally.announced, tally.saved, tally.unchanged, tally.skipped, tally.failed, tally.lost
        );
        if report.snapshot.is_none() && matches!(report.verdict, Verdict::Partial(_)) {
            // Nothing came of it: figures would look like a result.
            return [sum].into_iter().chain(failed_lines(report, watch)).collect::<Vec<_>>().join("\n");
        }
        let mut lines = vec![
            format!(
                "Files:   {:>8} new, {:>8} changed, {:>8} unmodified",
                summary.files_new, summary.files_changed, summary.files_unmodified
            ),
            format!(
                "Folders: {:>8} new, {:>8} changed, {:>8} unmodified",
                summary.dirs_new, summary.dirs_changed, summary.dirs_unmodified
            ),
            format!(
                "{} to the repository: {} ({} stored)",
                if self.dry_run { "Would add" } else { "Added" },
                format::bytes(summary.data_added),
                format::bytes(summary.data_added_packed)
            ),
            format!(
                "Processed {}, {} in {}",
                count(summary.total_files_processed, "file", "files"),
                format::bytes(summary.total_bytes_processed),
                format::duration(elapsed)
            ),
            sum,
        ];
        lines.extend(failed_lines(report, watch));
        let what = match (report.snapshot, self.dry_run) {
            (Some(id), _) => format!("snapshot {} saved", id.short()),
            (None, true) => "dry run: nothing was stored".to_owned(),
            (None, false) => "nothing changed: no snapshot was made".to_owned(),
        };
        lines.push(match &report.verdict {
            Verdict::Complete => format!("{what}: complete"),
            Verdict::WithErrors => match tally.failed + tally.lost {
                0 => format!("{what}: with errors, see the messages above"),
                missing => format!("{what}: with errors, {} not saved", count(missing, "entry was", "entries were")),
            },
            Verdict::Partial(reason) => format!("{what}: partial ({})", one_line(reason)),
        });
        lines.join("\n")
    }
}

/// The failed entries with their reasons.
fn failed_lines(report: &BackupReport, watch: &Watch) -> Vec<String> {
    let failed = watch.failed();
    if failed.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["Not saved:".to_owned()];
    lines.extend(failed.iter().map(|text| format!("  {text}")));
    let more = report.tally.failed.saturating_sub(failed.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more: standard error has them all"));
    }
    lines
}

/// restic's `summary`, then what only Backstay can say.
fn summary_object(dry_run: bool, report: &BackupReport, elapsed: Duration) -> serde_json::Value {
    let mut object = serde_json::to_value(&report.summary).unwrap_or_default();
    if let Some(map) = object.as_object_mut() {
        map.insert("message_type".to_owned(), "summary".into());
        map.insert("total_duration".to_owned(), elapsed.as_secs_f64().into());
        if let Some(id) = report.snapshot {
            map.insert("snapshot_id".to_owned(), id.to_hex().into());
        }
        if dry_run {
            map.insert("dry_run".to_owned(), true.into());
        }
        let (verdict, reason) = match &report.verdict {
            Verdict::Complete => ("complete", None),
            Verdict::WithErrors => ("with errors", None),
            Verdict::Partial(reason) => ("partial", Some(reason.clone())),
        };
        map.insert("verdict".to_owned(), verdict.into());
        if let Some(reason) = reason {
            map.insert("reason".to_owned(), reason.into());
        }
        map.insert("entries".to_owned(), serde_json::to_value(report.tally).unwrap_or_default());
    }
    object
}

/// How many failed entries are repeated at the end.
const REPEATED: usize = 1000;

/// Hears of every entry: counts it, reports it if it failed, lists it if asked to.
struct Watch {
    output: Arc<Output>,
    counters: Arc<Counters>,
    failed: Mutex<Vec<String>>,
}

impl Watch {
    fn new(output: &Arc<Output>, counters: &Arc<Counters>) -> Self {
        Self { output: Arc::clone(output), counters: Arc::clone(counters), failed: Mutex::default() }
    }

    /// The failed entries with their reasons, as many as are repeated at the end.
    fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failure(&self, path: &[u8], message: &str, traceback: Option<&str>) {
        self.counters.error();
        let path = format::path(path);
        let message = one_line(message);
        self.output.item_error("archival", &path, &message, traceback);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() < REPEATED {
            failed.push(if message.contains(&path) { message } else { format!("{path}: {message}") });
        }
    }
}

impl Observer for Watch {
    fn entry(&self, path: &[u8], outcome: &Outcome, kind: FileKind, size: u64, change: Change) {
        if kind == FileKind::File && matches!(outcome, Outcome::Saved | Outcome::Unchanged) {
            self.counters.add(1, 0);
        }
        let action = match (outcome, change) {
            (Outcome::Failed(error), _) => {
                self.failure(path, &error.message, error.traceback.as_deref());
                return;
            }
            (Outcome::Lost, _) => "lost",
            (Outcome::Skipped(_), _) => "skipped",
            (_, Change::New) => "new",
            (_, Change::Changed) => "modified",
            (_, Change::Unmodified) => "unchanged",
        };
        if self.output.verbosity < 2 {
            return;
        }
        let path = format::path(path);
        if self.output.json {
            // Nobody to tell when standard output is gone: the backup itself goes on.
            let _ = self.output.object(&serde_json::json!({
                "message_type": "verbose_status",
                "action": action,
                "item": path,
                "duration": 0.0,
                "data_size": size,
                "data_size_in_repo": 0,
                "metadata_size": 0,
                "metadata_size_in_repo": 0,
                "total_files": 0,
            }));
            return;
        }
        match outcome {
            Outcome::Skipped(rule) => self.output.verbose(2, &format!("{action:<10}{path} ({rule})")),
            _ => self.output.verbose(2, &format!("{action:<10}{path} ({})", format::bytes(size))),
        }
    }

    fn bytes(&self, count: u64) {
        self.counters.add(0, count);
    }

    fn current(&self, path: &[u8]) {
        self.counters.current(path);
    }
}
