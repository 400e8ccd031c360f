//! `backstay find`: in which snapshots a file is, or which files a blob belongs to.

use backstay_core::Id;
use backstay_repository::find::{FindMatch, FindOptions, ObjectMatch, Objects, find, find_objects};
use backstay_repository::pattern::Patterns;
use backstay_repository::reader::Reader;
use backstay_repository::snapshot::Snapshot;
use backstay_repository::walk::{WalkEntry, WalkError};
use clap::Args;
use jiff::Zoned;

use crate::args::SnapshotFilterOptions;
use crate::commands::ls;
use crate::commands::snapshots::time;
use crate::failure::Failure;
use crate::format;
use crate::selection::{self, reader};
use crate::session::Session;

/// Find files in the snapshots
///
/// A pattern without a slash at its start matches at every depth; "*" and "?" stay within one name, "**" spans folders.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Patterns, any of them; with --blob, --tree or --pack the beginnings of ids
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Look only in these snapshots (repeatable)
    #[arg(short, long = "snapshot", value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// Which snapshots are looked at.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Upper and lower case alike
    #[arg(short, long)]
    pub ignore_case: bool,
    /// Mode, owner, size and time too
    #[arg(short, long)]
    pub long: bool,
    /// Only what changed at or after this time
    #[arg(short = 'O', long, value_name = "TIME", value_parser = format::parse_time)]
    pub oldest: Option<Zoned>,
    /// Only what changed at or before this time
    #[arg(short = 'N', long, value_name = "TIME", value_parser = format::parse_time)]
    pub newest: Option<Zoned>,
    /// Look for files that hold these data blobs
    #[arg(long, conflicts_with_all = ["tree", "pack"])]
    pub blob: bool,
    /// Look for folders that are these trees
    #[arg(long, conflicts_with = "pack")]
    pub tree: bool,
    /// Look for what is stored in these packs
    #[arg(long)]
    pub pack: bool,
    /// Look also in what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,
}

impl FindArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When a pattern is not one, a snapshot is not there, or a part of one cannot be read.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let by_object = self.blob || self.tree || self.pack;
        let options = if by_object { FindOptions::default() } else { self.options()? };
        let repository = session.open_to_read()?;
        let list = selection::snapshots(&repository, &self.snapshots, &self.filter)?;
        let reader = reader(&repository)?;
        let objects = by_object.then(|| self.objects(&reader)).transpose()?;
        let mut errors = 0;
        for (id, snapshot) in &list {
            let failed = match &objects {
                Some(objects) => in_objects(session, &reader, id, snapshot, objects)?,
                None => self.in_names(session, &reader, id, snapshot, &options)?,
            };
            errors += failed.len();
            for error in failed {
                session.output.item_error("find", &format::path(&error.path), &error.to_string(), None);
            }
        }
        if errors > 0 { Err(Failure::Reported) } else { Ok(()) }
    }

    fn options(&self) -> Result<FindOptions, Failure> {
        let (exact, folded) =
            if self.ignore_case { (Vec::new(), self.patterns.clone()) } else { (self.patterns.clone(), Vec::new()) };
        let patterns = Patterns::new(&exact, &folded).map_err(|error| Failure::fatal(error.to_string()))?;
        Ok(FindOptions {
            patterns,
            oldest: self.oldest.as_ref().map(format::point),
            newest: self.newest.as_ref().map(format::point),
            skip_internal: !self.internal,
        })
    }

    fn objects(&self, reader: &Reader) -> Result<Objects, Failure> {
        let mut objects = Objects::default();
        for text in &self.patterns {
            if self.blob {
                objects.add_blob(reader, text)?;
            } else if self.tree {
                objects.add_tree(reader, text)?;
            } else {
                objects.add_pack(reader, text)?;
            }
        }
        Ok(objects)
    }

    fn in_names(
        &self,
        session: &Session,
        reader: &Reader,
        id: &Id,
        snapshot: &Snapshot,
        options: &FindOptions,
    ) -> Result<Vec<WalkError>, Failure> {
        let mut matches = Vec::new();
        let mut lines = Vec::new();
        let mut found = |entry: &WalkEntry| {
            let path = format::path(&entry.path);
            if session.output.json {
                matches.push(FindMatch::new(&entry.path, &entry.node));
            } else if self.long {
                lines.push(ls::long(entry, &path));
            } else {
                lines.push(path);
            }
        };
        let errors = find(reader, &snapshot.tree, options, &mut found);
        if session.output.json {
            if !matches.is_empty() {
                session.output.object(&serde_json::json!({
                    "message_type": "matches",
                    "hits": matches.len(),
                    "snapshot": id.to_hex(),
                    "matches": matches,
                }))?;
            }
        } else if !lines.is_empty() {
            session.output.note(&format!("in snapshot {} of {}", id.short(), time(snapshot)));
            lines.iter().try_for_each(|line| session.output.line(line))?;
        }
        Ok(errors)
    }
}

fn in_objects(
    session: &Session,
    reader: &Reader,
    id: &Id,
    snapshot: &Snapshot,
    objects: &Objects,
) -> Result<Vec<WalkError>, Failure> {
    let mut matches: Vec<ObjectMatch> = Vec::new();
    let errors = find_objects(reader, &snapshot.tree, objects, &mut |found| matches.push(found));
    for found in &matches {
        if session.output.json {
            session.output.object(&serde_json::json!({
                "message_type": "object",
                "object_type": found.object_type,
                "id": found.id,
                "path": found.path,
                "parent_tree": found.parent_tree,
                "snapshot": id.to_hex(),
                "time": snapshot.time,
            }))?;
        } else {
            session.output.line(&format!(
                "{} {} in {} (snapshot {})",
                found.object_type,
                found.id,
                format::path(found.path.as_bytes()),
                id.short()
            ))?;
        }
    }
    Ok(errors)
}
