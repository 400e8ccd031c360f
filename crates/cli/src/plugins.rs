//! Bareos plugins as the command line names them: definitions, how they run, backup and restore.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_bareos_host::{
    BareosOptions, BareosSink, ConfineOptions, LEAST_MEMORY, OutputNames, PluginLine, PluginUser, SandboxOptions, Trace,
};
use backstay_core::{Job, Level, Outcome, Source, Tally, Verdict};
use backstay_engine::backup::BackupReport;
use backstay_engine::job::{JobControl, state_directory};
use backstay_engine::ledger::{INTERNAL_DIRECTORY, LedgerReader};
use backstay_engine::restore_through::{ThroughObserver, restore_through};
use backstay_repository::pattern::{PatternError, Patterns};
use backstay_repository::{Reader, Repository};

use crate::args::{LevelOptions, PluginOptions, SandboxPart};
use crate::commands::restore::{OverwriteChoice, RestoreArgs};
use crate::failure::{Failure, chain, one_line};
use crate::format::{self, count};
use crate::hooks::{Ended, Told};
use crate::output::Output;
use crate::progress::{Counters, Progress, Work};
use crate::selection::{Selected, reader};
use crate::session::Session;
use crate::{job, signals};

/// Where plugins of another user than root have their folders.
const SYSTEM_STATE: &str = "/var/lib/backstay";

/// All definitions: those of the command line, then those in files.
///
/// # Errors
/// When a file cannot be read, or a definition is empty. What a file holds is not repeated.
pub fn definitions(texts: &[String], files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut definitions = Vec::new();
    for text in texts {
        if text.trim().is_empty() {
            return Err(Failure::fatal("--plugin is empty: a plugin definition is expected"));
        }
        definitions.push(text.clone());
    }
    for file in files {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::fatal(format!("cannot read the plugin definition {shown}: {error}")))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            return Err(Failure::fatal(format!("the plugin definition {shown} is empty")));
        }
        definitions.push(text.to_owned());
    }
    Ok(definitions)
}

/// How the options say that plugins run. Once for a job: a trace is made anew.
///
/// # Errors
/// When what they ask for cannot be had.
pub fn options(options: &PluginOptions, verbosity: u8) -> Result<BareosOptions, Failure> {
    let confine = confine(options)?;
    // Another user cannot enter root's home folder.
    let own_state = confine.user.is_some() && std::env::var_os("XDG_STATE_HOME").is_none_or(|value| value.is_empty());
    let state = if own_state { PathBuf::from(SYSTEM_STATE) } else { state_directory() };
    let mut bareos = BareosOptions::new(state);
    bareos.confine = confine;
    bareos.job_name.clone_from(&options.job_name);
    if let Some(client) = &options.client {
        bareos.client.clone_from(client);
    }
    bareos.working_directory.clone_from(&options.working_dir);
    bareos.python.clone_from(&options.python);
    bareos.callback_timeout = options.plugin_timeout;
    bareos.cancel_grace = options.cancel_grace;
    // Bareos' own plugins use levels 100 to 250.
    bareos.debug_level = match verbosity {
        0 | 1 => 0,
        2 => 100,
        _ => 1000,
    };
    if let Some(path) = &options.trace_plugin {
        let trace = Trace::create(path)
            .map_err(|error| Failure::fatal(format!("cannot write the trace {}: {error}", path.display())))?;
        bareos.trace = Some(trace);
    }
    Ok(bareos)
}

/// What plugins may do.
fn confine(options: &PluginOptions) -> Result<ConfineOptions, Failure> {
    if let Some(memory) = options.plugin_memory.filter(|memory| *memory < LEAST_MEMORY) {
        return Err(Failure::fatal(format!(
            "--plugin-memory of {} is too little: Python and a plugin need {} at least",
            format::bytes(memory),
            format::bytes(LEAST_MEMORY)
        )));
    }
    let user = options.plugin_user.as_deref().map(PluginUser::named).transpose();
    let user = user.map_err(|error| Failure::fatal(format!("--plugin-user cannot be used: {error}")))?;
    let sandbox = options.sandbox.as_ref().map(|parts| SandboxOptions {
        no_network: parts.contains(&SandboxPart::NoNetwork),
        closed: parts.contains(&SandboxPart::Closed),
        partial: parts.contains(&SandboxPart::Partial),
        allow: options.sandbox_allow.clone(),
        allow_write: options.sandbox_allow_write.clone(),
    });
    if sandbox.as_ref().is_some_and(|sandbox| !sandbox.closed && !sandbox.allow.is_empty()) {
        return Err(Failure::fatal(
            "--sandbox-allow is for --sandbox=closed: in another sandbox a plugin may read everything that its user may",
        ));
    }
    Ok(ConfineOptions { memory: options.plugin_memory, time_limit: options.plugin_time_limit, user, sandbox })
}

/// The sources that announce what `lines` name, and take files of the walk that `option_lines` want. `options` say how plugins run, where there are any.
///
/// # Errors
/// When a definition is none.
pub fn sources(
    options: Option<BareosOptions>,
    announce: &LevelOptions,
    lines: Vec<PluginLine>,
    option_lines: Vec<PluginLine>,
) -> Result<Vec<Box<dyn Source>>, Failure> {
    let some = !lines.is_empty() || !option_lines.is_empty();
    if !some && !announce.plugin_options.is_empty() {
        return Err(Failure::fatal(
            "--plugin-options needs a plugin: name one with --plugin, --plugin-file or --fileset",
        ));
    }
    let Some(mut options) = options.filter(|_| some) else { return Ok(Vec::new()) };
    options.level = announce.level;
    options.accurate = announce.accurate;
    options.overrides.extend(announce.plugin_options.iter().cloned());
    options.accurate_options = announce.accurate_options.unwrap_or_default();
    options.since = announce.since.as_ref().map(|time| time.timestamp().as_second());
    let sources = backstay_bareos_host::sources(lines, option_lines, &options)
        .map_err(|error| Failure::fatal(format!("the plugin definition cannot be used: {}", chain(&error))))?;
    Ok(sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect())
}

/// What Bareos tells at the end of a job.
pub fn report(plugin: &PluginOptions, report: &BackupReport, job: &JobControl, elapsed: Duration) -> String {
    let counts = job.counts();
    let word = |level: &Level| match level {
        Level::Full => "Full",
        Level::Differential => "Differential",
        Level::Incremental => "Incremental",
    };
    let levels: Vec<String> = report
        .levels
        .iter()
        .map(|(path, level)| format!("{} ({})", word(level), path.trim_start_matches('/')))
        .collect();
    let bytes = report.summary.total_bytes_processed;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let end = match &report.verdict {
        Verdict::Complete => "Backup OK",
        Verdict::WithErrors => "Backup OK -- with warnings",
        Verdict::Partial(_) if job.cancelled().is_some() => "Backup Canceled",
        Verdict::Partial(_) => "*** Backup Error ***",
    };
    [
        format!("  Job:          {}, number {}", plugin.job_name, job.id()),
        format!("  Level:        {}", levels.join(", ")),
        format!("  Files:        {} saved, {} unchanged", report.tally.saved, report.tally.unchanged),
        format!("  Bytes:        {}", format::bytes(bytes)),
        format!("  Rate:         {}/s", format::bytes(rate)),
        format!(
            "  Messages:     {} fatal, {}, {}, {} info",
            counts.fatal,
            count(counts.errors, "error", "errors"),
            count(counts.warnings, "warning", "warnings"),
            counts.info
        ),
        format!("  Termination:  {end}"),
    ]
    .join("\n")
}

/// Restores a snapshot's plugin data through the plugins that saved it.
///
/// # Errors
/// When the snapshot holds none, a plugin cannot start or stops before its end, or entries failed.
pub fn restore(
    args: &RestoreArgs,
    session: &Session,
    repository: &Arc<Repository>,
    selected: &Selected,
    target: &Path,
) -> Result<(), Failure> {
    let output = &session.output;
    let pattern = |error: PatternError| Failure::fatal(error.to_string());
    let include = Patterns::new(&args.patterns.include, &args.patterns.iinclude).map_err(pattern)?;
    let exclude = Patterns::new(&args.patterns.exclude, &args.patterns.iexclude).map_err(pattern)?;
    let below = components(&selected.path);
    let wanted = |name: &[u8]| {
        let parts = components(name);
        let path: Vec<u8> = parts.iter().flat_map(|part| [b"/", *part].concat()).collect();
        parts.starts_with(&below) && (include.is_empty() || include.matches(&path)) && !exclude.matches(&path)
    };

    let reader = reader(repository)?;
    let names = ledgers(&reader, selected)?;
    let mut options = options(&args.plugin, output.verbosity)?;
    options.where_prefix = Some(target.to_owned());
    options.prefix_links = args.prefix_links;
    if let Some(rules) = &args.regex_where {
        options.regex_where = Some(OutputNames::parse(rules).map_err(|error| Failure::fatal(error.to_string()))?);
    }
    options.replace = if args.overwrite == Some(OverwriteChoice::Never) { 'n' } else { 'a' };
    options.overrides.extend(args.plugin_options.clone());
    let job = Arc::new(job::control(session, repository)?);
    let mut told = Told::new(&args.hooks, Some(&options), repository, &job, None)?;
    told.begin("nothing was restored")?;

    output.note(&format!("restoring snapshot {} through its plugins to {}", selected.id.short(), target.display()));
    let started = Instant::now();
    let mut progress = Progress::start(output, Work::Restore);
    let watch = Watch { output: Arc::clone(output), counters: Arc::clone(progress.counters()) };
    let mut tally = Tally::default();
    let mut bytes = 0;
    let mut verdict = Verdict::Complete;
    let mut failure = None;
    for name in &names {
        let report = LedgerReader::open(&reader, &selected.snapshot.tree, name).and_then(|mut ledger| {
            let mut sink = BareosSink::new(options.clone(), Arc::clone(&job) as Arc<dyn Job>);
            restore_through(&reader, &mut ledger, &mut sink, &wanted, &*job, &watch)
        });
        match report {
            Ok(report) => {
                tally.add(&report.tally);
                bytes += report.bytes;
                verdict = worse(verdict, report.verdict);
            }
            Err(error) => {
                verdict = worse(verdict, Verdict::Partial(error.to_string()));
                failure = Some(error);
            }
        }
        if matches!(verdict, Verdict::Partial(_)) {
            break;
        }
    }
    progress.finish();
    let ended = Ended::with(&verdict, tally.saved + tally.unchanged, bytes, tally.failed + tally.lost);
    if !told.end(ended) {
        verdict = worse(verdict, Verdict::WithErrors);
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    let elapsed = started.elapsed();
    if output.json {
        output.object(&summary_object(&tally, bytes, &verdict, elapsed))?;
    } else if !output.quiet {
        output.line(&words(&tally, bytes, &verdict, elapsed))?;
    }
    match verdict {
        Verdict::Complete => Ok(()),
        Verdict::WithErrors => Err(Failure::WithErrors),
        Verdict::Partial(reason) => {
            let text = format!("the restore did not reach its end: {reason}");
            Err(if signals::interrupted() { Failure::Interrupted(text) } else { Failure::Fatal(text) })
        }
    }
}

fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect()
}

/// The names of the plugin sources whose ledgers the snapshot holds.
fn ledgers(reader: &Reader, selected: &Selected) -> Result<Vec<String>, Failure> {
    let root = &selected.snapshot.tree;
    let tree = match reader.node_at(root, INTERNAL_DIRECTORY.as_bytes())?.and_then(|node| node.subtree) {
        Some(id) => reader.tree(&id)?,
        None => {
            return Err(Failure::fatal(format!(
                "snapshot {} holds nothing that a plugin saved: restore it without --through-plugin",
                selected.id.short()
            )));
        }
    };
    Ok(tree.nodes.iter().map(|node| String::from_utf8_lossy(&node.name).into_owned()).collect())
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Partial(reason), _) | (_, Verdict::Partial(reason)) => Verdict::Partial(reason),
        (Verdict::WithErrors, _) | (_, Verdict::WithErrors) => Verdict::WithErrors,
        (Verdict::Complete, Verdict::Complete) => Verdict::Complete,
    }
}

fn summary_object(tally: &Tally, bytes: u64, verdict: &Verdict, elapsed: Duration) -> serde_json::Value {
    let (word, reason) = match verdict {
        Verdict::Complete => ("complete", None),
        Verdict::WithErrors => ("with errors", None),
        Verdict::Partial(reason) => ("partial", Some(reason)),
    };
    let mut object = serde_json::json!({
        "message_type": "summary",
        "total_files": tally.announced,
        "files_restored": tally.saved,
        "files_skipped": tally.skipped,
        "bytes_restored": bytes,
        "seconds_elapsed": elapsed.as_secs(),
        "error_count": tally.failed + tally.lost,
        "verdict": word,
        "entries": tally,
    });
    if let (Some(map), Some(reason)) = (object.as_object_mut(), reason) {
        map.insert("reason".to_owned(), reason.as_str().into());
    }
    object
}

fn words(tally: &Tally, bytes: u64, verdict: &Verdict, elapsed: Duration) -> String {
    let last = match verdict {
        Verdict::Complete => "complete".to_owned(),
        Verdict::WithErrors => match tally.failed + tally.lost {
            0 => "with errors: see the messages above".to_owned(),
            failed => format!("with errors: {} failed", count(failed, "entry", "entries")),
        },
        Verdict::Partial(reason) => format!("partial: {}", one_line(reason)),
    };
    format!(
        "Handed {} to the plugin ({}) in {}\nEntries: {} chosen = {} restored + {} left out by the plugin + {} failed + {} lost\n{last}",
        count(tally.announced, "entry", "entries"),
        format::bytes(bytes),
        format::duration(elapsed),
        tally.announced,
        tally.saved + tally.unchanged,
        tally.skipped,
        tally.failed,
        tally.lost
    )
}

/// Hears how a restore through a plugin goes on.
struct Watch {
    output: Arc<Output>,
    counters: Arc<Counters>,
}

impl ThroughObserver for Watch {
    fn entry(&self, name: &[u8], outcome: &Outcome, size: u64) {
        self.counters.current(name);
        let path = format::path(name);
        match outcome {
            Outcome::Saved | Outcome::Unchanged => {
                self.counters.add(1, size);
                self.output.verbose(2, &format!("restored  {path} ({})", format::bytes(size)));
            }
            Outcome::Skipped(rule) => self.output.verbose(2, &format!("skipped   {path} ({rule})")),
            Outcome::Failed(error) => {
                self.counters.error();
                self.output.item_error("restore", &path, &error.message, error.traceback.as_deref());
            }
            Outcome::Lost => {
                self.counters.error();
                self.output.item_error("restore", &path, "the plugin died before it was done with it", None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_come_from_the_command_line_and_from_files_without_their_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("definition");
        std::fs::write(&file, "python:module_name=b:password=hush\n").unwrap();
        let found = definitions(&["python:module_name=a".to_owned()], &[file]).unwrap();
        assert_eq!(found, ["python:module_name=a", "python:module_name=b:password=hush"]);
    }

    #[test]
    fn an_empty_definition_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("definition");
        std::fs::write(&file, "\n").unwrap();
        assert!(definitions(&[], &[file]).is_err());
        assert!(definitions(&[" ".to_owned()], &[]).is_err());
        assert!(definitions(&[], &[folder.path().join("missing")]).is_err());
    }

    #[test]
    fn the_worst_verdict_counts() {
        let partial = || Verdict::Partial("x".to_owned());
        assert_eq!(worse(Verdict::Complete, Verdict::WithErrors), Verdict::WithErrors);
        assert_eq!(worse(partial(), Verdict::Complete), partial());
        assert_eq!(worse(Verdict::WithErrors, partial()), partial());
        assert_eq!(worse(Verdict::Complete, Verdict::Complete), Verdict::Complete);
    }
}
