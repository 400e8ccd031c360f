//! `backstay check`: is the repository sound?

use std::sync::Arc;

use backstay_repository::check::{CheckOptions, CheckProgress, CheckReport, ReadData, check};
use clap::Args;

use crate::failure::Failure;
use crate::format::{self, count};
use crate::output::Output;
use crate::progress::{Counters, Progress, Work};
use crate::session::Session;
use crate::signals;

/// Verify the repository
///
/// Verifies that all snapshots can be read and that everything they need is there. With --read-data every byte is
/// verified too. Takes an exclusive lock unless --no-lock is given. Nothing is changed.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read all packs and verify every blob
    #[arg(long, conflicts_with = "read_data_subset")]
    pub read_data: bool,
    /// Read a part of the packs: part N of T ("2/7"), a percentage ("2.5%") or a size ("500M")
    #[arg(long, value_name = "SUBSET")]
    pub read_data_subset: Option<ReadData>,
}

impl CheckArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When something is wrong with the repository ([`Failure::Reported`]), or it could not be looked at.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let output = &session.output;
        let repository = session.open_alone()?;
        let read_data = match self.read_data_subset {
            Some(subset) => subset,
            None if self.read_data => ReadData::All,
            None => ReadData::None,
        };
        signals::be_patient();
        let mut progress = Progress::start(output, Work::Check);
        let watch = Watch { output: Arc::clone(output), counters: Arc::clone(progress.counters()) };
        let result = check(&repository, CheckOptions { read_data, threads: None }, &watch);
        progress.finish();
        let report = result.map_err(|error| match Failure::from(error) {
            Failure::Fatal(text) if signals::interrupted() => Failure::Interrupted(text),
            other => other,
        })?;
        if output.json {
            output.object(&summary_object(&report))?;
        } else {
            output.line(&words(&report, output.quiet))?;
        }
        if report.errors.is_empty() { Ok(()) } else { Err(Failure::Reported) }
    }
}

fn words(report: &CheckReport, quiet: bool) -> String {
    let mut lines = Vec::new();
    if !quiet {
        lines.push(format!(
            "Looked at {}, {}, {}",
            count(report.snapshots, "snapshot", "snapshots"),
            count(report.trees, "tree", "trees"),
            count(report.packs, "pack", "packs")
        ));
        if report.packs_read > 0 {
            lines.push(format!(
                "Read {} ({})",
                count(report.packs_read, "pack", "packs"),
                format::bytes(report.bytes_read)
            ));
        }
    }
    if report.suggest_repair_index {
        lines.push("The index needs repair: \"backstay repair index\" makes it anew".to_owned());
    }
    if report.suggest_prune {
        lines.push("A prune would tidy up: \"backstay prune\"".to_owned());
    }
    lines.push(if report.errors.is_empty() {
        "no errors were found".to_owned()
    } else {
        format!("the repository is damaged: {}", count(report.errors.len() as u64, "error", "errors"))
    });
    lines.join("\n")
}

/// restic's `summary`, then what only Backstay counts.
fn summary_object(report: &CheckReport) -> serde_json::Value {
    let broken: Option<Vec<String>> =
        (!report.broken_packs.is_empty()).then(|| report.broken_packs.iter().map(backstay_core::Id::to_hex).collect());
    serde_json::json!({
        "message_type": "summary",
        "num_errors": report.errors.len(),
        "broken_packs": broken,
        "suggest_repair_index": report.suggest_repair_index,
        "suggest_prune": report.suggest_prune,
        "hints": report.hints,
        "snapshots": report.snapshots,
        "trees": report.trees,
        "packs": report.packs,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
    })
}

/// Hears how the check goes on.
struct Watch {
    output: Arc<Output>,
    counters: Arc<Counters>,
}

impl CheckProgress for Watch {
    fn stage(&self, name: &str, total: u64) {
        self.counters.stage(name, total);
        self.output.verbose(1, &format!("checking {name}"));
    }

    fn advanced(&self, steps: u64) {
        self.counters.add(steps, 0);
    }

    fn error(&self, message: &str) {
        self.counters.error();
        self.output.check_error(message);
    }

    fn hint(&self, message: &str) {
        if !self.output.quiet {
            self.output.warning(message);
        }
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}
