//! The commands, one file each.

pub mod backup;
pub mod check;
pub mod completions;
pub mod diff;
pub mod dump;
pub mod find;
pub mod init;
pub mod ls;
pub mod man;
pub mod mount;
pub mod restore;
pub mod snapshots;
pub mod stats;
pub mod version;

use clap::Subcommand;

use crate::failure::Failure;
use crate::session::Session;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new repository
    Init(init::InitArgs),
    /// Save files, streams and what plugins announce in a new snapshot
    Backup(Box<backup::BackupArgs>),
    /// Bring a snapshot back, to a folder or through the plugin that saved it
    Restore(Box<restore::RestoreArgs>),
    /// List the snapshots
    Snapshots(snapshots::SnapshotsArgs),
    /// List the files of a snapshot
    Ls(ls::LsArgs),
    /// Write a file of a snapshot, or a folder as an archive, to standard output
    #[command(visible_alias = "cat")]
    Dump(dump::DumpArgs),
    /// Show what differs between two snapshots
    Diff(diff::DiffArgs),
    /// Find files in the snapshots
    Find(find::FindArgs),
    /// Show the snapshots as folders, read only
    Mount(mount::MountArgs),
    /// Count files and bytes
    Stats(stats::StatsArgs),
    /// Verify the repository
    Check(check::CheckArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages into a folder
    Man(man::ManArgs),
    /// Print the version
    Version(version::VersionArgs),
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// How it ended, where it did not end well.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Init(args) => args.run(session),
            Self::Backup(args) => args.run(session),
            Self::Restore(args) => args.run(session),
            Self::Snapshots(args) => args.run(session),
            Self::Ls(args) => args.run(session),
            Self::Dump(args) => args.run(session),
            Self::Diff(args) => args.run(session),
            Self::Find(args) => args.run(session),
            Self::Mount(args) => args.run(session),
            Self::Stats(args) => args.run(session),
            Self::Check(args) => args.run(session),
            Self::Completions(args) => args.run(session),
            Self::Man(args) => args.run(session),
            Self::Version(args) => args.run(session),
        }
    }
}
