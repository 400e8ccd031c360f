//! `backstay find`: in which snapshots a file is, or which files a blob belongs to.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstay_core::Id;
use backstay_repository::find::{ContentHashes, FindMatch, FindOptions, ObjectMatch, Objects, find, find_objects};
use backstay_repository::pack::BlobKind;
use backstay_repository::pattern::Patterns;
use backstay_repository::reader::Reader;
use backstay_repository::snapshot::{Snapshot, SnapshotTime};
use backstay_repository::walk::{WalkEntry, WalkError};
use clap::Args;
use jiff::Zoned;
use serde::Serialize;

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
/// The newest snapshot is looked at first.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Patterns, any of them; with --blob, --tree, --pack or --hash ids and hashes, or their beginnings
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
    /// With --long: sizes in KiB, MiB and so on
    #[arg(long)]
    pub human_readable: bool,
    /// The oldest snapshot first
    #[arg(short = 'R', long)]
    pub reverse: bool,
    /// Only what changed at or after this time
    #[arg(short = 'O', long, value_name = "TIME", value_parser = format::parse_time)]
    pub oldest: Option<Zoned>,
    /// Only what changed at or before this time
    #[arg(short = 'N', long, value_name = "TIME", value_parser = format::parse_time)]
    pub newest: Option<Zoned>,
    /// Only files of at least this size, e.g. 100K
    #[arg(long, value_name = "SIZE", value_parser = format::parse_size)]
    pub min_size: Option<u64>,
    /// Only files of at most this size
    #[arg(long, value_name = "SIZE", value_parser = format::parse_size)]
    pub max_size: Option<u64>,
    /// Look for files that hold these data blobs
    #[arg(long, conflicts_with_all = ["tree", "pack", "hash"])]
    pub blob: bool,
    /// Look for folders that are these trees
    #[arg(long, conflicts_with_all = ["pack", "hash"])]
    pub tree: bool,
    /// Look for what is stored in these packs
    #[arg(long, conflicts_with = "hash")]
    pub pack: bool,
    /// Look for files whose whole contents have these SHA-256 hashes: reads every file of several blobs that can fit
    #[arg(long, conflicts_with = "ignore_case")]
    pub hash: bool,
    /// With --blob, --tree or --pack: say also which packs hold what was found
    #[arg(long)]
    pub show_pack_id: bool,
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
        if self.show_pack_id && !by_object {
            return Err(Failure::fatal("--show-pack-id goes with --blob, --tree or --pack"));
        }
        let bounded =
            self.oldest.is_some() || self.newest.is_some() || self.min_size.is_some() || self.max_size.is_some();
        if by_object && (bounded || self.long || self.ignore_case) {
            return Err(Failure::fatal(
                "with --blob, --tree or --pack every use is found: leave out bounds on time and size, --long and --ignore-case",
            ));
        }
        let options = self.options(by_object || self.hash)?;
        let mut hashes = self.hashes()?;
        let repository = session.open_to_read()?;
        let mut list = selection::snapshots(&repository, &self.snapshots, &self.filter)?;
        list.sort_by_key(|(_, snapshot)| snapshot.time.time());
        if !self.reverse {
            list.reverse();
        }
        let reader = reader(&repository)?;
        let objects = by_object.then(|| self.objects(&reader)).transpose()?;
        let mut errors = 0;
        let mut shown = BTreeSet::new();
        for (id, snapshot) in &list {
            let failed = match &objects {
                Some(objects) => in_objects(session, &reader, id, snapshot, objects, &mut shown)?,
                None => self.in_names(session, &reader, id, snapshot, &options, hashes.as_mut())?,
            };
            errors += failed.len();
            for error in failed {
                session.output.item_error("find", &format::path(&error.path), &error.to_string(), None);
            }
        }
        if self.show_pack_id {
            shown.iter().try_for_each(|(kind, id)| places(session, &reader, *kind, id))?;
        }
        if errors > 0 { Err(Failure::Reported) } else { Ok(()) }
    }

    fn hashes(&self) -> Result<Option<ContentHashes>, Failure> {
        if !self.hash {
            return Ok(None);
        }
        let mut hashes = ContentHashes::default();
        self.patterns.iter().try_for_each(|text| hashes.add(text))?;
        Ok(Some(hashes))
    }

    /// `by_id` says that the arguments are no patterns.
    fn options(&self, by_id: bool) -> Result<FindOptions, Failure> {
        let patterns = if by_id { Vec::new() } else { self.patterns.clone() };
        let (exact, folded) = if self.ignore_case { (Vec::new(), patterns) } else { (patterns, Vec::new()) };
        let patterns = Patterns::new(&exact, &folded).map_err(|error| Failure::fatal(error.to_string()))?;
        Ok(FindOptions {
            patterns,
            oldest: self.oldest.as_ref().map(format::point),
            newest: self.newest.as_ref().map(format::point),
            smallest: self.min_size,
            largest: self.max_size,
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
        reader: &Arc<Reader>,
        id: &Id,
        snapshot: &Snapshot,
        options: &FindOptions,
        hashes: Option<&mut ContentHashes>,
    ) -> Result<Vec<WalkError>, Failure> {
        let mut matches = Vec::new();
        let mut lines = Vec::new();
        let mut found = |entry: &WalkEntry| {
            let path = format::path(&entry.path);
            if session.output.json {
                matches.push(FindMatch::new(&entry.path, &entry.node));
            } else if self.long {
                lines.push(ls::long(entry, &path, self.human_readable));
            } else {
                lines.push(path);
            }
        };
        let errors = match hashes {
            Some(hashes) => hashes.find(reader, &snapshot.tree, options, &mut found),
            None => find(reader, &snapshot.tree, options, &mut found),
        };
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
    shown: &mut BTreeSet<(BlobKind, Id)>,
) -> Result<Vec<WalkError>, Failure> {
    let mut matches: Vec<ObjectMatch> = Vec::new();
    let errors = find_objects(reader, &snapshot.tree, objects, &mut |found| matches.push(found));
    for found in &matches {
        shown.insert((if found.object_type == "tree" { BlobKind::Tree } else { BlobKind::Data }, found.id));
        if session.output.json {
            session.output.object(&ObjectLine {
                message_type: "object",
                found,
                snapshot: *id,
                time: &snapshot.time,
            })?;
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

/// restic's object for a use of a blob or a tree.
#[derive(Serialize)]
struct ObjectLine<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    found: &'a ObjectMatch,
    snapshot: Id,
    time: &'a SnapshotTime,
}

/// Says which packs hold a blob.
fn places(session: &Session, reader: &Reader, kind: BlobKind, id: &Id) -> Result<(), Failure> {
    for place in reader.index().get_all(kind, id) {
        if session.output.json {
            session.output.object(&serde_json::json!({
                "message_type": "pack",
                "object_type": if kind == BlobKind::Tree { "tree" } else { "blob" },
                "id": id,
                "pack": place.pack,
                "offset": place.offset,
                "length": place.length,
                "uncompressed_length": place.uncompressed,
            }))?;
        } else {
            session.output.line(&format!(
                "{kind} blob {id} is in pack {} at offset {}, {} bytes",
                place.pack, place.offset, place.length
            ))?;
        }
    }
    Ok(())
}
