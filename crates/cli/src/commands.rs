//! The commands, one file each.

pub mod agent;
pub mod backup;
pub mod cat;
pub mod check;
pub mod completions;
pub mod copy;
pub mod diff;
pub mod dump;
pub mod estimate;
pub mod find;
pub mod forget;
pub mod init;
pub mod key;
pub mod ls;
pub mod man;
pub mod merge;
pub mod mount;
pub mod nbdkit;
pub mod plugin;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod rewrite;
pub mod snapshots;
pub mod stats;
pub mod tag;
pub mod unlock;
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
    /// Tell what a backup through plugins would save, without reading any of it
    Estimate(Box<estimate::EstimateArgs>),
    /// Bring a snapshot back, to a folder or through the plugin that saved it
    Restore(Box<restore::RestoreArgs>),
    /// List the snapshots
    Snapshots(snapshots::SnapshotsArgs),
    /// List the files of a snapshot
    Ls(ls::LsArgs),
    /// Write a file of a snapshot, or a folder as an archive, to standard output
    Dump(dump::DumpArgs),
    /// Print an object of the repository, or a file of a snapshot
    Cat(cat::CatArgs),
    /// Show what differs between two snapshots
    Diff(diff::DiffArgs),
    /// Find files in the snapshots
    Find(find::FindArgs),
    /// Show the snapshots as folders, read only
    Mount(mount::MountArgs),
    /// Serve a disk by the NBD protocol: one that a Python script makes up, a file, memory
    Nbdkit(nbdkit::NbdkitArgs),
    /// Try out plugins that others made or that are being written
    Plugin(plugin::PluginArgs),
    /// Hold a repository open for backstay_gpbackup_plugin
    Agent(agent::AgentArgs),
    /// Count files and bytes
    Stats(stats::StatsArgs),
    /// Verify the repository
    Check(check::CheckArgs),
    /// List, add and remove the keys of the repository, change its password
    Key(key::KeyArgs),
    /// Change the tags of snapshots
    Tag(tag::TagArgs),
    /// Make snapshots anew: without some of their files, with another host or time
    Rewrite(Box<rewrite::RewriteArgs>),
    /// Make one snapshot out of several
    Merge(merge::MergeArgs),
    /// Copy snapshots of another repository into this one
    Copy(Box<copy::CopyArgs>),
    /// Repair the index, damaged packs, or snapshots that miss something
    Repair(repair::RepairArgs),
    /// Remove snapshots by rules, or those named
    Forget(Box<forget::ForgetArgs>),
    /// Give back the room of what no snapshot needs
    Prune(prune::PruneArgs),
    /// Remove locks that nobody holds any more
    Unlock(unlock::UnlockArgs),
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
            Self::Estimate(args) => args.run(session),
            Self::Restore(args) => args.run(session),
            Self::Snapshots(args) => args.run(session),
            Self::Ls(args) => args.run(session),
            Self::Dump(args) => args.run(session),
            Self::Cat(args) => args.run(session),
            Self::Diff(args) => args.run(session),
            Self::Find(args) => args.run(session),
            Self::Mount(args) => args.run(session),
            Self::Nbdkit(args) => args.run(session),
            Self::Plugin(args) => args.run(session),
            Self::Agent(args) => args.run(session),
            Self::Stats(args) => args.run(session),
            Self::Check(args) => args.run(session),
            Self::Key(args) => args.run(session),
            Self::Tag(args) => args.run(session),
            Self::Rewrite(args) => args.run(session),
            Self::Merge(args) => args.run(session),
            Self::Copy(args) => args.run(session),
            Self::Repair(args) => args.run(session),
            Self::Forget(args) => args.run(session),
            Self::Prune(args) => args.run(session),
            Self::Unlock(args) => args.run(session),
            Self::Completions(args) => args.run(session),
            Self::Man(args) => args.run(session),
            Self::Version(args) => args.run(session),
        }
    }
}
