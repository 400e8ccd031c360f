//! `backstay forget`: which snapshots stay, and the removal of the others.

use backstay_core::Id;
use backstay_repository::maintenance::forget::{
    ForgetGroup, ForgetOptions, ForgetReport, GroupBy, KeepCount, KeepReason, KeepWithin, Policy, forget,
};
use backstay_repository::maintenance::prune::PruneOptions;
use backstay_repository::snapshot::Snapshot;
use clap::Args;
use serde::Serialize;

use crate::args::SnapshotFilterOptions;
use crate::commands::prune::{PruneChoice, Watch, run_prune};
use crate::commands::snapshots::time;
use crate::failure::Failure;
use crate::format::{self, count};
use crate::maintenance::fold_gpbackup;
use crate::progress::{Progress, Work};
use crate::selection::split_tags;
use crate::session::Session;
use crate::signals;

/// Remove snapshots by rules, or those named
///
/// Without names, looks at each group of snapshots (of one host and one set of paths, unless --group-by says otherwise)
/// and removes what no --keep-... rule keeps. What the removed snapshots alone needed is given back by "backstay prune",
/// or at once with --prune.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Remove these, whatever the rules: ids, beginnings of ids, or "latest"
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// What makes a group: host, paths, tags, separated by commas; "" for one group of all
    #[arg(short, long, value_name = "LIST", default_value = "host,paths")]
    pub group_by: GroupBy,
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Remove everything that --host, --tag and --path let through when no rule is given
    #[arg(long)]
    pub unsafe_allow_remove_all: bool,
    /// A shorter table of the snapshots
    #[arg(short, long)]
    pub compact: bool,
    /// Give back the room at once, if anything was removed
    #[arg(long)]
    pub prune: bool,
    /// What stays.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// How it is given back.
    #[command(flatten)]
    pub choice: PruneChoice,
}

/// The rules.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What stays")]
pub struct KeepArgs {
    /// The newest N ("unlimited": all)
    #[arg(short = 'l', long, value_name = "N", allow_hyphen_values = true)]
    pub keep_last: Option<KeepCount>,
    /// The newest of each of the newest N hours that have one
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_hourly: Option<KeepCount>,
    /// The newest of each of the newest N days that have one
    #[arg(short = 'd', long, value_name = "N", allow_hyphen_values = true)]
    pub keep_daily: Option<KeepCount>,
    /// The newest of each of the newest N weeks that have one
    #[arg(short = 'w', long, value_name = "N", allow_hyphen_values = true)]
    pub keep_weekly: Option<KeepCount>,
    /// The newest of each of the newest N months that have one
    #[arg(short = 'm', long, value_name = "N", allow_hyphen_values = true)]
    pub keep_monthly: Option<KeepCount>,
    /// The newest of each of the newest N years that have one
    #[arg(short = 'y', long, value_name = "N", allow_hyphen_values = true)]
    pub keep_yearly: Option<KeepCount>,
    /// All that are less than this older than the newest, e.g. 1y5m7d2h (m: months)
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within: Option<KeepWithin>,
    /// The newest of each hour in that time
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_hourly: Option<KeepWithin>,
    /// The newest of each day in that time
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_daily: Option<KeepWithin>,
    /// The newest of each week in that time
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_weekly: Option<KeepWithin>,
    /// The newest of each month in that time
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_monthly: Option<KeepWithin>,
    /// The newest of each year in that time
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_yearly: Option<KeepWithin>,
    /// All with all of these tags, separated by commas (repeatable: any of the lists)
    #[arg(long, value_name = "TAG[,TAG]")]
    pub keep_tag: Vec<String>,
}

impl KeepArgs {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last.unwrap_or_default(),
            hourly: self.keep_hourly.unwrap_or_default(),
            daily: self.keep_daily.unwrap_or_default(),
            weekly: self.keep_weekly.unwrap_or_default(),
            monthly: self.keep_monthly.unwrap_or_default(),
            yearly: self.keep_yearly.unwrap_or_default(),
            within: self.keep_within.unwrap_or_default(),
            within_hourly: self.keep_within_hourly.unwrap_or_default(),
            within_daily: self.keep_within_daily.unwrap_or_default(),
            within_weekly: self.keep_within_weekly.unwrap_or_default(),
            within_monthly: self.keep_within_monthly.unwrap_or_default(),
            within_yearly: self.keep_within_yearly.unwrap_or_default(),
            tags: self.keep_tag.iter().map(|list| split_tags(list)).collect(),
        }
    }
}

impl ForgetArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When nothing says what stays, or a rule would leave nothing of a group; [`Failure::WithErrors`] when some could
    /// not be removed.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let output = &session.output;
        if !self.dry_run {
            session.needs_lock("forget")?;
        }
        if self.choice.is_given() && !self.prune {
            return Err(Failure::fatal("options about how room is given back need --prune beside them"));
        }
        let repository = session.open()?;
        // Rules count backups, not what is left of their commands.
        if !self.dry_run && self.ids.is_empty() {
            fold_gpbackup(session, &repository)?;
        }
        let lock = if session.global.no_lock {
            None
        } else {
            Some(repository.lock(!self.dry_run, session.global.retry_lock)?)
        };
        signals::be_patient();
        let options = ForgetOptions {
            snapshots: self.ids.clone(),
            filter: self.filter.filter(),
            policy: self.keep.policy(),
            group_by: self.group_by,
            dry_run: self.dry_run,
            allow_remove_all: self.unsafe_allow_remove_all,
        };
        // Standard output is one array, as restic's: no status objects before it.
        let report = if output.json {
            forget(&repository, &options, &())?
        } else {
            let progress = Progress::start(output, Work::Check);
            forget(&repository, &options, &Watch::new(session, &progress))?
        };
        drop(lock);
        for error in &report.damaged {
            output.warning(&format!("{error}: it is left as it is"));
        }
        for (id, error) in &report.failed {
            output.item_error("forget", &id.short(), &error.to_string(), None);
        }
        self.tell(session, &report)?;
        if self.prune && !report.chosen.is_empty() {
            let options = PruneOptions { without_snapshots: report.chosen.clone(), ..self.choice.options(session) };
            let options = PruneOptions { dry_run: self.dry_run, ..options };
            // What is really gone needs no leaving out; what could not be removed must not be left out.
            let options =
                if self.dry_run { options } else { PruneOptions { without_snapshots: Vec::new(), ..options } };
            run_prune(session, &repository, &options)?;
        }
        if report.failed.is_empty() { Ok(()) } else { Err(Failure::WithErrors) }
    }

    fn tell(&self, session: &Session, report: &ForgetReport) -> Result<(), Failure> {
        let output = &session.output;
        if output.json {
            // As restic: no array where snapshots were named.
            if self.ids.is_empty() {
                let groups: Vec<GroupObject<'_>> = report.groups.iter().map(GroupObject::new).collect();
                output.object(&groups)?;
            }
            return Ok(());
        }
        if output.quiet {
            return Ok(());
        }
        for group in &report.groups {
            let mut names = Vec::new();
            if let Some(host) = &group.host {
                names.push(format!("host {}", format::path(host.as_bytes())));
            }
            if let Some(paths) = &group.paths {
                names.push(format!("paths {}", format::path(paths.join(", ").as_bytes())));
            }
            if let Some(tags) = &group.tags {
                names.push(format!("tags {}", format::path(tags.join(", ").as_bytes())));
            }
            if report.groups.len() > 1 {
                output.line(&format!("Snapshots of {}:", names.join(", ")))?;
            }
            self.table(session, "Keep", group, true)?;
            self.table(session, if self.dry_run { "Would remove" } else { "Remove" }, group, false)?;
        }
        let number = if self.dry_run { report.chosen.len() } else { report.removed.len() };
        let what = count(number as u64, "snapshot", "snapshots");
        output.line(&if self.dry_run { format!("Would remove {what}") } else { format!("Removed {what}") })?;
        if number > 0 && !self.prune && !self.dry_run {
            output.note("Room is given back by \"backstay prune\"");
        }
        Ok(())
    }

    fn table(&self, session: &Session, title: &str, group: &ForgetGroup, keep: bool) -> Result<(), Failure> {
        let list = if keep { &group.keep } else { &group.remove };
        if list.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = list
            .iter()
            .rev()
            .map(|(id, snapshot)| {
                let mut row = vec![
                    id.short(),
                    time(snapshot),
                    format::path(snapshot.hostname.as_bytes()),
                    format::path(snapshot.tags.join(",").as_bytes()),
                ];
                if keep && !self.compact {
                    row.push(reasons(group, id));
                }
                if !self.compact {
                    let paths = snapshot.paths.iter().map(|path| format::path(path.as_bytes()));
                    row.push(paths.collect::<Vec<_>>().join("\n"));
                }
                row
            })
            .collect();
        let headings: &[&str] = match (self.compact, keep) {
            (true, _) => &["ID", "Time", "Host", "Tags"],
            (false, true) => &["ID", "Time", "Host", "Tags", "Reasons", "Paths"],
            (false, false) => &["ID", "Time", "Host", "Tags", "Paths"],
        };
        let number = count(list.len() as u64, "snapshot", "snapshots");
        session.output.line(&format!("{title} {number}:\n{}", format::table(headings, &rows)))
    }
}

fn reasons(group: &ForgetGroup, id: &Id) -> String {
    let reason = group.reasons.iter().find(|reason| reason.id == *id);
    reason.map_or_else(String::new, |reason| format::path(reason.matches.join(", ").as_bytes()))
}

/// restic's object for a snapshot in a list of `forget`.
#[derive(Serialize)]
struct ListedSnapshot<'a> {
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    id: String,
    short_id: String,
}

impl<'a> ListedSnapshot<'a> {
    fn new(id: &Id, snapshot: &'a Snapshot) -> Self {
        Self { snapshot, id: id.to_hex(), short_id: id.short() }
    }

    fn list(list: &'a [(Id, Snapshot)]) -> Option<Vec<Self>> {
        (!list.is_empty()).then(|| list.iter().map(|(id, snapshot)| Self::new(id, snapshot)).collect())
    }
}

/// restic's object for a group: `null` for what it was not grouped by, or has none of, but an empty host.
#[derive(Serialize)]
struct GroupObject<'a> {
    tags: Option<&'a Vec<String>>,
    host: &'a str,
    paths: Option<&'a Vec<String>>,
    keep: Option<Vec<ListedSnapshot<'a>>>,
    remove: Option<Vec<ListedSnapshot<'a>>>,
    reasons: Option<Vec<ReasonObject<'a>>>,
}

#[derive(Serialize)]
struct ReasonObject<'a> {
    snapshot: ListedSnapshot<'a>,
    matches: &'a [String],
    counters: backstay_repository::maintenance::forget::Counters,
}

impl<'a> GroupObject<'a> {
    fn new(group: &'a ForgetGroup) -> Self {
        let reason = |reason: &'a KeepReason| ReasonObject {
            snapshot: ListedSnapshot::new(&reason.id, &reason.snapshot),
            matches: &reason.matches,
            counters: reason.counters,
        };
        Self {
            tags: group.tags.as_ref().filter(|tags| !tags.is_empty()),
            host: group.host.as_deref().unwrap_or_default(),
            paths: group.paths.as_ref().filter(|paths| !paths.is_empty()),
            keep: ListedSnapshot::list(&group.keep),
            remove: ListedSnapshot::list(&group.remove),
            reasons: (!group.reasons.is_empty()).then(|| group.reasons.iter().map(reason).collect()),
        }
    }
}
