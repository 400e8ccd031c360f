//! `backstay agent`: the process that holds a repository open for the commands of gpbackup's plugin.

use std::path::PathBuf;

use backstay_gpbackup_plugin::agent::{self, Status};
use backstay_gpbackup_plugin::config::Config;
use clap::Args;

use crate::failure::{Failure, chain};
use crate::session::Session;
use crate::signals;

/// Hold a repository open for backstay_gpbackup_plugin
///
/// The plugin starts its agent by itself and it ends by itself: there is nothing to set up. This command says which agents of this
/// user run, asks them to end, or is an agent in the foreground.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The configuration that gpbackup is given: whose agent to be, or (with --status, --stop) whose folder to look into
    #[arg(value_name = "CONFIG", required_unless_present_any = ["status", "stop"])]
    pub config: Option<PathBuf>,
    /// Say which agents run and what they do
    #[arg(long)]
    pub status: bool,
    /// Ask all agents to end, each when nothing runs in it any more
    #[arg(long, conflicts_with = "status")]
    pub stop: bool,
}

impl AgentArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The configuration; a folder that others may enter; an agent that runs already.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let config = self.config.as_deref().map(Config::read).transpose().map_err(told)?;
        if let Some(config) = config.as_ref().filter(|_| !self.status && !self.stop) {
            // The agent hears signals itself, and ends what it is doing first.
            signals::be_patient();
            return match agent::run(config).map_err(told)? {
                true => Ok(()),
                false => Err(Failure::fatal("an agent of this configuration runs already: backstay agent --status")),
            };
        }
        let folder = config.map_or_else(agent::usual_folder, |config| config.agent_folder());
        let agents = if self.stop { agent::stop_all(&folder) } else { agent::all(&folder) }.map_err(told)?;
        for (name, status) in &agents {
            if session.output.json {
                session.output.object(&object(name, status))?;
            } else if !session.output.quiet {
                session.output.line(&line(name, status, self.stop))?;
            }
        }
        if agents.is_empty() {
            session.output.note(&format!("no agent runs in {}", folder.display()));
        }
        Ok(())
    }
}

fn line(name: &str, status: &Status, stopping: bool) -> String {
    let Status { pid, seconds, served, running, commits } = status;
    let what = if stopping { "ends" } else { "runs" };
    format!(
        "{name}: process {pid} {what}, started {seconds} s ago, {served} commands, {commits} commits, {running} commands now"
    )
}

fn object(name: &str, status: &Status) -> serde_json::Value {
    serde_json::json!({
        "message_type": "agent", "name": name, "pid": status.pid, "seconds": status.seconds, "served": status.served,
        "running": status.running, "commits": status.commits,
    })
}

#[allow(clippy::needless_pass_by_value)] // as map_err wants it
fn told(failure: backstay_gpbackup_plugin::Failure) -> Failure {
    Failure::Fatal(chain(&failure))
}
