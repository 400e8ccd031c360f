//! `backstay rewrite`: snapshots without some of their files, or with another host or time.

use std::path::PathBuf;

use backstay_engine::excludes::{Excludes, Rules};
use backstay_engine::ledgers::EngineLedgers;
use backstay_repository::maintenance::rewrite::{Keep, KeepNode, RewriteOptions, rewrite};
use backstay_repository::pattern::Patterns;
use backstay_repository::repository::ReadableSnapshots;
use clap::Args;

use crate::args::{PatternOptions, SnapshotFilterOptions};
use crate::failure::Failure;
use crate::format;
use crate::maintenance::{Watcher, report_changes};
use crate::selection::readable;
use crate::session::Session;

/// Make snapshots anew: without some of their files, with another host or time
///
/// The old snapshots stay, and the new ones get the tag "rewrite", unless --forget is given. What is left out is freed
/// by a prune, once no snapshot has it any more. A plugin's ledger goes with the first file of the plugin that is left
/// out: then that plugin's files come back as files, not through the plugin.
#[derive(Debug, Args)]
pub struct RewriteArgs {
    /// Only these snapshots: ids, beginnings of ids, or "latest" [default: all]
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Which entries stay.
    #[command(flatten)]
    pub patterns: PatternOptions,
    /// A file of patterns to leave out, one a line, with the rules of .gitignore (repeatable)
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// The same, upper and lower case alike (repeatable)
    #[arg(long, value_name = "FILE")]
    pub iexclude_file: Vec<PathBuf>,
    /// Another host
    #[arg(long, value_name = "HOST")]
    pub new_host: Option<String>,
    /// Another time
    #[arg(long, value_name = "TIME", value_parser = format::parse_time)]
    pub new_time: Option<jiff::Zoned>,
    /// Count files and bytes of snapshots that do not say how many they have
    #[arg(short = 's', long)]
    pub snapshot_summary: bool,
    /// Delete the old snapshots after the new ones were made
    #[arg(long)]
    pub forget: bool,
    /// Say what would be done, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

impl RewriteArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is nothing to do, a pattern is none, the repository cannot be written, or a snapshot could not be made
    /// anew ([`Failure::Reported`]).
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        if !self.dry_run {
            session.needs_lock("rewrite")?;
        }
        let bad = |error: &dyn std::error::Error| Failure::fatal(error.to_string());
        let PatternOptions { include, iinclude, exclude, iexclude } = &self.patterns;
        let rules = Rules {
            excludes: exclude,
            iexcludes: iexclude,
            exclude_files: &self.exclude_file,
            iexclude_files: &self.iexclude_file,
            ..Rules::default()
        };
        let excludes = Excludes::new(&rules).map_err(|error| bad(&error))?;
        let includes = Patterns::new(include, iinclude).map_err(|error| bad(&error))?;
        let files = self.exclude_file.len() + self.iexclude_file.len();
        let leaves_out = !(exclude.is_empty() && iexclude.is_empty() && files == 0);
        if leaves_out && !includes.is_empty() {
            return Err(Failure::fatal("either name what to leave out or what to keep: not both"));
        }
        let without = |path: &[u8], directory: bool| {
            let out = excludes.by_pattern(path).is_some() || excludes.by_ignore_file(path, directory, false).is_some();
            if out { Keep::No } else { Keep::Yes }
        };
        let only = |path: &[u8], directory: bool| {
            if path == b"/.backstay" || path.starts_with(b"/.backstay/") || includes.matches(path) {
                Keep::Yes
            } else if directory && includes.may_match_below(path) {
                Keep::IfNotEmpty
            } else {
                Keep::No
            }
        };
        let keep: Option<KeepNode<'_>> = match (leaves_out, includes.is_empty()) {
            (true, _) => Some(&without),
            (false, false) => Some(&only),
            (false, true) => None,
        };
        let options = RewriteOptions {
            keep,
            host: self.new_host.as_deref(),
            time: self.new_time.as_ref().map(format::point),
            summary: self.snapshot_summary,
            forget: self.forget,
            dry_run: self.dry_run,
        };
        if keep.is_none() && options.host.is_none() && options.time.is_none() && !options.summary {
            return Err(Failure::fatal("nothing to do: name what to leave out or to keep, or another host or time"));
        }
        let repository = if self.forget && !self.dry_run { session.open_alone()? } else { session.open_to_read()? };
        let ReadableSnapshots { snapshots: list, damaged } = readable(&repository, &self.ids, &self.filter)?;
        let watcher = Watcher::start(&session.output);
        let result = rewrite(&repository, list, &options, &EngineLedgers, &watcher);
        let report = watcher.end(result)?;
        report_changes(session, "rewrite", &report, &damaged, self.dry_run, self.forget)
    }
}
