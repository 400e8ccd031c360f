//! `backstay cat`: one object of the repository, or one file of a snapshot, as it is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use backstay_core::{FileKind, Id, ObjectKind};
use backstay_repository::maintenance::objects::{find_blob, find_object, indented, master_key_json, object_json};
use backstay_repository::open_file::OpenFile;
use backstay_repository::pack::BlobKind;
use backstay_repository::repository::Repository;
use clap::Args;

use crate::args::SnapshotFilterOptions;
use crate::commands::dump::{Thing, to_output};
use crate::failure::Failure;
use crate::format;
use crate::selection::{reader, select};
use crate::session::Session;

/// Print an object of the repository, or a file of a snapshot
///
/// Objects are: config, masterkey, snapshot ID, index ID, key ID, lock ID, pack ID, blob ID, tree SNAPSHOT[:PATH].
/// Anything else is taken for SNAPSHOT:PATH, a file. "cat masterkey" prints what opens the repository without a
/// password: keep it secret.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// The kind of an object, or a snapshot and, after a colon, a file in it
    #[arg(value_name = "OBJECT|SNAPSHOT:PATH")]
    pub what: OsString,
    /// The object's id, or the beginning of it; the file, where it was not named after a colon
    #[arg(value_name = "ID|PATH")]
    pub which: Option<OsString>,
    /// Which snapshots "latest" looks at.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
}

impl CatArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the object is not there, is damaged, or the output fails.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let kind = match self.what.to_str() {
            Some("config") => Some(ObjectKind::Config),
            Some("snapshot") => Some(ObjectKind::Snapshot),
            Some("index") => Some(ObjectKind::Index),
            Some("key") => Some(ObjectKind::Key),
            Some("lock") => Some(ObjectKind::Lock),
            Some("pack") => Some(ObjectKind::Pack),
            Some("masterkey" | "blob" | "tree") => None,
            _ => return self.file(session),
        };
        let word = self.what.to_string_lossy().into_owned();
        let single = matches!(&*word, "config" | "masterkey");
        if single != self.which.is_none() {
            return Err(Failure::fatal(if single {
                format!("there is one {word} only: it takes no id")
            } else if word == "tree" {
                "which tree? Name it as \"tree SNAPSHOT[:PATH]\"".to_owned()
            } else {
                format!("which {word}? Name its id behind the word")
            }));
        }
        let repository = session.open_to_read()?;
        if word == "tree" {
            let which = self.which.unwrap_or_default();
            let selected = select(&repository, &which, &self.filter)?;
            let reader = reader(&repository)?;
            let tree = reader.tree_at(&selected.snapshot.tree, &selected.path)?;
            return raw(session, &reader.load(BlobKind::Tree, &tree)?);
        }
        let id = match &self.which {
            None => "",
            Some(text) => text
                .to_str()
                .ok_or_else(|| Failure::fatal(format!("\"{}\" is not an id", text.as_bytes().escape_ascii())))?,
        };
        match (kind, &*word) {
            (_, "masterkey") => text(session, &indented(&master_key_json(&repository)?)),
            (_, "blob") => {
                let reader = reader(&repository)?;
                let (kind, id) = find_blob(reader.index(), id)?;
                raw(session, &reader.load(kind, &id)?)
            }
            (Some(ObjectKind::Config), _) => {
                text(session, &indented(&object_json(&repository, ObjectKind::Config, &Id::default())?))
            }
            (Some(ObjectKind::Pack), _) => {
                let id = find_object(&repository, ObjectKind::Pack, id)?;
                pack(session, &repository, &id)
            }
            (Some(ObjectKind::Snapshot), _) => {
                let id = if id == "latest" {
                    repository.snapshot(id, &self.filter.filter())?.0
                } else {
                    find_object(&repository, ObjectKind::Snapshot, id)?
                };
                text(session, &indented(&object_json(&repository, ObjectKind::Snapshot, &id)?))
            }
            (Some(kind), _) => {
                let id = find_object(&repository, kind, id)?;
                let json = object_json(&repository, kind, &id)?;
                // An index is long, and restic leaves it on its one line.
                text(session, &if kind == ObjectKind::Index { json } else { indented(&json) })
            }
            (None, _) => Ok(()),
        }
    }

    /// The contents of a file.
    fn file(self, session: &Session) -> Result<(), Failure> {
        let repository = session.open_to_read()?;
        let selected = select(&repository, &self.what, &self.filter)?;
        let mut path = selected.path;
        if let Some(below) = &self.which {
            path.push(b'/');
            path.extend_from_slice(below.as_bytes());
        }
        let name = format::path(&path);
        if path.iter().all(|byte| *byte == b'/') {
            return Err(Failure::fatal(
                "which file? Name it as SNAPSHOT:PATH, or an object: see \"backstay cat --help\"",
            ));
        }
        let reader = reader(&repository)?;
        let node = reader
            .node_at(&selected.snapshot.tree, &path)?
            .ok_or_else(|| Failure::fatal(format!("there is no {name} in snapshot {}", selected.id.short())))?;
        match node.kind {
            FileKind::File => to_output(&Thing::File(OpenFile::new(reader, &node)?), session),
            FileKind::Directory => Err(Failure::fatal(format!(
                "{name} is a folder: \"backstay cat tree {}:{name}\" prints its tree",
                selected.id.short()
            ))),
            _ => Err(Failure::fatal(format!("{name} is no regular file: it has no contents"))),
        }
    }
}

fn raw(session: &Session, bytes: &[u8]) -> Result<(), Failure> {
    session.output.raw(bytes)?;
    session.output.flush()
}

fn text(session: &Session, bytes: &[u8]) -> Result<(), Failure> {
    session.output.raw(bytes.strip_suffix(b"\n").unwrap_or(bytes))?;
    raw(session, b"\n")
}

/// A pack is printed whatever is in it: whoever asks for one wants to look at what is wrong.
fn pack(session: &Session, repository: &Repository, id: &Id) -> Result<(), Failure> {
    let bytes = repository.store().get(ObjectKind::Pack, id, None).map_err(backstay_repository::Error::from)?;
    if Id::of(&bytes) != *id {
        session.output.warning(&format!("pack {id} is damaged: its contents do not match its name"));
    }
    raw(session, &bytes)
}
