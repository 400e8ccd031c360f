//! `backstay plugin`: for authors of plugins.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_gpbackup_host::bench::{self, Check, Options, Outcome};
use backstay_gpbackup_host::process::Limits;
use backstay_gpbackup_host::{Failure as HostFailure, UserConfig};
use clap::{Args, Subcommand};

use crate::failure::{Failure, chain};
use crate::format;
use crate::session::Session;
use crate::signals;

/// Try out plugins that others made or that are being written
///
/// plugin test gpbackup EXECUTABLE CONFIG tries a storage plugin of gpbackup without a database: every command, several segments at
/// once, processes that are killed, readers that go away, names that are not there. It takes no repository.
#[derive(Debug, Args)]
pub struct PluginArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: PluginCommand,
}

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Run every check of a contract against a plugin
    Test(TestArgs),
}

/// A test of a plugin.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The contract.
    #[command(subcommand)]
    pub contract: Contract,
}

/// A contract that plugins can be tested by.
#[derive(Debug, Subcommand)]
pub enum Contract {
    /// The storage plugins of gpbackup
    Gpbackup(GpbackupArgs),
}

/// Run every check against a storage plugin of gpbackup
///
/// It stores on timestamps that no clock gives, and deletes them at the end. Give it a configuration whose store holds nothing
/// else: a plugin that is broken can delete what it should not.
#[derive(Debug, Args)]
pub struct GpbackupArgs {
    /// The plugin
    #[arg(value_name = "EXECUTABLE")]
    pub executable: PathBuf,
    /// Its configuration, as gpbackup takes it with --plugin-config
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// How large a big stream is
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = format::parse_size)]
    pub size: u64,
    /// How many segments work at once
    #[arg(long, value_name = "NUMBER", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub segments: u16,
    /// How long a command may move no byte and not end
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = format::parse_duration)]
    pub time_limit: Duration,
}

impl PluginArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure::Reported`] when a check failed; [`Failure::Fatal`] when none could be made.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let PluginCommand::Test(TestArgs { contract: Contract::Gpbackup(args) }) = self.what;
        args.run(session)
    }
}

impl GpbackupArgs {
    fn run(self, session: &Session) -> Result<(), Failure> {
        signals::be_patient();
        let mut config = UserConfig::read(&self.config).map_err(told)?;
        config.executable = std::path::absolute(&self.executable)
            .map_err(|error| Failure::fatal(format!("{}: {error}", self.executable.display())))?;
        let folder = tempfile::Builder::new().prefix("backstay-plugin-test-").tempdir();
        let folder = folder.map_err(|error| Failure::fatal(format!("cannot make a temporary folder: {error}")))?;
        let limits = Limits { patience: self.time_limit, stop: Arc::new(signals::interrupted) };
        let options = Options { size: self.size, segments: self.segments, limits };
        let (mut count, mut wrote) = ([0_u64; 3], Ok(()));
        let good = bench::try_out(&config, folder.path(), &options, &mut |check| {
            count[match &check.outcome {
                Outcome::Good => 0,
                Outcome::Failed(_) => 1,
                Outcome::Skipped(_) => 2,
            }] += 1;
            if wrote.is_ok() {
                // A check takes a while: each is seen when it is done.
                wrote = tell(session, check).and_then(|()| session.output.flush());
            }
        });
        let good = good.map_err(told)?;
        wrote?;
        let [passed, failed, skipped] = count;
        if session.output.json {
            session.output.object(&serde_json::json!({
                "message_type": "summary", "ok": passed, "failed": failed, "skipped": skipped,
            }))?;
        } else if !session.output.quiet {
            session.output.line(&format!("{passed} ok, {failed} failed, {skipped} skipped"))?;
        }
        if good { Ok(()) } else { Err(Failure::Reported) }
    }
}

fn tell(session: &Session, check: &Check) -> Result<(), Failure> {
    let (word, reason) = match &check.outcome {
        Outcome::Good => ("ok", None),
        Outcome::Failed(reason) => ("failed", Some(reason)),
        Outcome::Skipped(reason) => ("skipped", Some(reason)),
    };
    if session.output.json {
        return session.output.object(&serde_json::json!({
            "message_type": "check", "name": check.name, "what": check.what, "outcome": word, "reason": reason,
        }));
    }
    session.output.line(&match reason {
        None => format!("{:<21} ok: {}", check.name, check.what),
        Some(reason) if word == "failed" => format!("{:<21} FAILED: {reason}", check.name),
        Some(reason) => format!("{:<21} skipped: {reason}", check.name),
    })
}

fn told(failure: HostFailure) -> Failure {
    match failure {
        HostFailure::Interrupted => Failure::Interrupted("interrupted".to_owned()),
        other => Failure::Fatal(chain(&other)),
    }
}
