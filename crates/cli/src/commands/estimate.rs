//! `backstay estimate`: what a backup through plugins would save.

use std::time::Instant;

use backstay_bareos_host::PluginLine;
use backstay_core::{End, FileKind};
use backstay_engine::backup::{BackupOptions, ParentChoice, now};
use backstay_engine::estimate::estimate;
use backstay_engine::tree::TreeOptions;
use backstay_repository::WriteOptions;
use backstay_repository::lock::{host_name, user_name};
use clap::Args;

use crate::args::{LevelOptions, PluginOptions};
use crate::failure::Failure;
use crate::format::{self, count};
use crate::session::Session;
use crate::{job, plugins, signals};

/// Tell what a backup through plugins would save, without reading any of it
///
/// The plugins announce their entries as in a backup of this level; nothing is read and nothing is written. Sizes are what
/// the plugins say, so that streams of unknown length count as nothing. (For paths, "backup --dry-run" tells.)
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// List the entries
    #[arg(long)]
    pub listing: bool,
    /// Build on this snapshot [default: the newest of this host with the same plugins]
    #[arg(long, value_name = "SNAPSHOT")]
    pub parent: Option<String>,
    /// The host that snapshots name [default: this host]
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Option<String>,
    /// What plugins are asked to announce.
    #[command(flatten)]
    pub announce: LevelOptions,
    /// How plugins run.
    #[command(flatten)]
    pub plugin: PluginOptions,
}

impl EstimateArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is no plugin, a plugin cannot start, or one of them did not reach its end.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let definitions = plugins::definitions(&self.announce.plugins, &self.announce.plugin_files)?;
        if definitions.is_empty() {
            return Err(Failure::fatal("nothing to estimate: name a plugin with --plugin or --plugin-file"));
        }
        let lines = definitions.iter().map(PluginLine::from).collect();
        let repository = session.open_to_read()?;
        signals::be_patient();
        let output = &session.output;
        let bareos = plugins::options(&self.plugin, output.verbosity)?;
        let mut sources = plugins::sources(Some(bareos), &self.announce, lines, Vec::new())?;
        let job = job::without_number(session);
        let options = BackupOptions {
            paths: Vec::new(),
            tree: TreeOptions::default(),
            host: self.host.clone().unwrap_or_else(host_name),
            username: user_name(),
            tags: Vec::new(),
            time: now(),
            parent: self.parent.clone().map_or(ParentChoice::Newest, ParentChoice::Named),
            skip_if_unchanged: false,
            dry_run: true,
            save_partial: false,
            retry_lock: None,
            write: WriteOptions::default(),
        };
        let started = Instant::now();
        let (mut entries, mut bytes) = (0, 0);
        let mut broken = None;
        let end = estimate(&repository, &options, &mut sources, &job, &mut |entry| {
            entries += 1;
            // A size that the plugin does not know is all ones.
            let known = entry.kind == FileKind::File && entry.stat.size != u64::MAX;
            let size = if known { entry.stat.size } else { 0 };
            bytes += size;
            if !self.listing || broken.is_some() {
                return;
            }
            let path = format::path(&entry.name);
            let told = if output.json {
                output.object(&serde_json::json!({ "message_type": "entry", "path": path, "size": size }))
            } else {
                output.line(&path)
            };
            broken = told.err();
        })?;
        if let Some(error) = broken {
            return Err(error);
        }
        if output.json {
            output.object(&serde_json::json!({ "message_type": "summary", "files": entries, "bytes": bytes }))?;
        } else {
            let elapsed = format::duration(started.elapsed());
            output.line(&format!("{} ({}) in {elapsed}", count(entries, "entry", "entries"), format::bytes(bytes)))?;
        }
        match end {
            End::Whole => Ok(()),
            End::Stopped(reason) => {
                let text = format!("the estimate did not reach its end: {reason}");
                Err(if signals::interrupted() { Failure::Interrupted(text) } else { Failure::Fatal(text) })
            }
        }
    }
}
