//! `backstay man`: the manual pages, one for each command.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::failure::Failure;
use crate::format::count;
use crate::session::Session;

/// Write the manual pages into a folder
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

impl ManArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::fatal(format!("cannot write manual pages into {}: {error}", self.folder.display()))
        };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let root = Cli::command().disable_help_subcommand(true);
        let pages = root.get_subcommands().count() + 1;
        clap_mangen::generate_to(root, &self.folder).map_err(failed)?;
        session.output.note(&format!(
            "wrote {} into {}",
            count(pages as u64, "manual page", "manual pages"),
            self.folder.display()
        ));
        Ok(())
    }
}
