//! `backstay stats`: how much the snapshots hold.

use backstay_core::Id;
use backstay_repository::stats::{StatsMode, StatsReport, stats};
use clap::{Args, ValueEnum};

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;
use crate::format::{self, count};
use crate::selection::{self, reader};
use crate::session::Session;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Everything as if each snapshot were restored
    RestoreSize,
    /// Files with the same contents once
    FilesByContents,
    /// Each blob once for each file that holds it
    BlobsPerFile,
    /// Each blob once, as it is stored
    RawData,
}

/// Count files and bytes
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only these snapshots: ids, beginnings of ids, or "latest" [default: all]
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// What is counted
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::RestoreSize)]
    pub mode: Mode,
    /// Count also what Backstay keeps for itself in /.backstay (raw-data always does)
    #[arg(long)]
    pub internal: bool,
}

impl StatsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When a snapshot is not there or cannot be read.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.open_to_read()?;
        let list = selection::snapshots(&repository, &self.ids, &self.filter)?;
        let roots: Vec<Id> = list.iter().map(|(_, snapshot)| snapshot.tree).collect();
        let mode = match self.mode {
            Mode::RestoreSize => StatsMode::RestoreSize,
            Mode::FilesByContents => StatsMode::FilesByContents,
            Mode::BlobsPerFile => StatsMode::BlobsPerFile,
            Mode::RawData => StatsMode::RawData,
        };
        let report = stats(&*reader(&repository)?, &roots, mode, !self.internal)?;
        if session.output.json { session.output.object(&report) } else { session.output.line(&words(&report)) }
    }
}

fn words(report: &StatsReport) -> String {
    let mut lines = vec![count(report.snapshots_count, "snapshot", "snapshots")];
    if report.total_file_count > 0 {
        lines.push(count(report.total_file_count, "entry", "entries"));
    }
    if report.total_blob_count > 0 {
        lines.push(count(report.total_blob_count, "blob", "blobs"));
    }
    if report.total_uncompressed_size > 0 {
        lines.push(format!("{} before compression", format::bytes(report.total_uncompressed_size)));
        lines.push(format!(
            "compression ratio {:.2}, {:.1} % of the bytes are compressed, {:.1} % saved",
            report.compression_ratio, report.compression_progress, report.compression_space_saving
        ));
    }
    lines.push(format!("{} in total", format::bytes(report.total_size)));
    lines.join("\n")
}
