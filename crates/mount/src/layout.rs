//! The folders above the snapshots: templates like `hosts/%h/%T` become folders, and each snapshot lies in all that fit it.
//!
//! What restic's `mount` shows is shown under the same names, with two differences on purpose: a slash in a tag, a host or
//! a user is written `_` (restic makes folders of it), and names that mean another folder (`.`, `..`) get a `_` in front.

use std::collections::BTreeMap;

use backstay_core::Id;
use backstay_repository::snapshot::Snapshot;

use crate::time_template;

/// The templates that restic has.
pub const DEFAULT_TEMPLATES: [&str; 4] = ["ids/%i", "snapshots/%T", "hosts/%h/%T", "tags/%t/%T"];
/// The link to the newest snapshot in a folder of times.
const LATEST: &str = "latest";

/// Text that is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{template}\" is no template for paths: {reason}")]
pub struct LayoutError {
    /// The text.
    pub template: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    ShortId,
    LongId,
    User,
    Host,
    Tag,
    Time,
}

/// Where snapshots lie.
#[derive(Clone, Debug)]
pub struct Layout {
    /// For each template the components of its path.
    templates: Vec<Vec<Vec<Piece>>>,
    time_sample: String,
}

impl Default for Layout {
    fn default() -> Self {
        let templates = DEFAULT_TEMPLATES.iter().filter_map(|template| parse(template).ok()).collect();
        Self { templates, time_sample: time_template::DEFAULT.to_owned() }
    }
}

/// What a folder above the snapshots holds.
#[derive(Clone, Debug)]
pub enum Item {
    /// Another folder.
    Folder(Folder),
    /// A snapshot, by its place in the list.
    Snapshot(usize),
    /// A symbolic link with this target.
    Link(String),
}

/// A folder above the snapshots.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// What it holds, by name.
    pub items: BTreeMap<String, Item>,
}

impl Layout {
    /// A layout by these templates (restic's where there are none) and this sample for times (restic's where none).
    ///
    /// # Errors
    /// [`LayoutError`] for a template that is none.
    pub fn new<S: AsRef<str>>(templates: &[S], time_sample: Option<&str>) -> Result<Self, LayoutError> {
        let mut layout = Self::default();
        if !templates.is_empty() {
            layout.templates = templates.iter().map(|template| parse(template.as_ref())).collect::<Result<_, _>>()?;
        }
        if let Some(sample) = time_sample {
            if sample.is_empty() || sample.contains('/') {
                return Err(LayoutError {
                    template: sample.to_owned(),
                    reason: "a time is one name: it must not be empty nor hold a slash".to_owned(),
                });
            }
            sample.clone_into(&mut layout.time_sample);
        }
        Ok(layout)
    }

    /// The folders for these snapshots, which are in the order of time.
    #[must_use]
    pub fn folders(&self, snapshots: &[(Id, Snapshot)]) -> Folder {
        let mut root = Folder::default();
        for template in &self.templates {
            // What needs no snapshot is there without one.
            let fixed: Vec<String> = template[..template.len() - 1]
                .iter()
                .map_while(|component| match &component[..] {
                    [Piece::Text(text)] => Some(text.clone()),
                    _ => None,
                })
                .collect();
            root.enter(&fixed);
        }
        for (number, (id, snapshot)) in snapshots.iter().enumerate() {
            let time = time_template::format(&snapshot.time, &self.time_sample);
            for template in &self.templates {
                let by_tag = template.iter().flatten().any(|piece| *piece == Piece::Tag);
                let tags: Vec<&str> =
                    if by_tag { snapshot.tags.iter().map(String::as_str).collect() } else { vec![""] };
                for tag in tags {
                    let names: Vec<String> = template
                        .iter()
                        .map(|component| {
                            name(
                                &component
                                    .iter()
                                    .map(|piece| piece.value(id, snapshot, tag, &time))
                                    .collect::<String>(),
                            )
                        })
                        .collect();
                    let Some((last, above)) = names.split_last() else { continue };
                    let of_times = template.last().is_some_and(|last| last.last() == Some(&Piece::Time));
                    let folder = root.enter(above);
                    let last = folder.free_name(last);
                    folder.items.insert(last.clone(), Item::Snapshot(number));
                    if of_times && !snapshot.is_partial() {
                        match folder.items.get_mut(LATEST) {
                            None => drop(folder.items.insert(LATEST.to_owned(), Item::Link(last))),
                            Some(Item::Link(target)) => *target = last,
                            Some(_) => {}
                        }
                    }
                }
            }
        }
        root
    }
}

impl Folder {
    /// The folder at this path, made where it is not there.
    fn enter(&mut self, path: &[String]) -> &mut Self {
        let mut folder = self;
        for name in path {
            let name = if matches!(folder.items.get(name), Some(Item::Folder(_))) {
                name.clone()
            } else {
                folder.free_name(name)
            };
            let item = folder.items.entry(name).or_insert_with(|| Item::Folder(Self::default()));
            let Item::Folder(next) = item else { unreachable!("a free name, or a folder's") };
            folder = next;
        }
        folder
    }

    /// The name, or the name with a number where it is taken.
    fn free_name(&self, name: &str) -> String {
        if !self.items.contains_key(name) {
            return name.to_owned();
        }
        let mut number = 1_u64;
        loop {
            let numbered = format!("{name}-{number}");
            if !self.items.contains_key(&numbered) {
                return numbered;
            }
            number += 1;
        }
    }

    /// What is at this path, whose components are parted by slashes.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Self> {
        let mut folder = self;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match folder.items.get(name) {
                Some(Item::Folder(next)) => folder = next,
                _ => return None,
            }
        }
        Some(folder)
    }
}

impl Piece {
    fn value(&self, id: &Id, snapshot: &Snapshot, tag: &str, time: &str) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::ShortId => id.short(),
            Self::LongId => id.to_hex(),
            Self::User => snapshot.username.clone(),
            Self::Host => snapshot.hostname.clone(),
            Self::Tag => tag.to_owned(),
            Self::Time => time.to_owned(),
        }
    }
}

/// What a value is called as a name of a file.
fn name(value: &str) -> String {
    let name = value.replace(['/', '\0'], "_");
    match name.as_str() {
        "" | "." | ".." => format!("_{name}"),
        _ => name,
    }
}

fn parse(template: &str) -> Result<Vec<Vec<Piece>>, LayoutError> {
    let bad = |reason: String| LayoutError { template: template.to_owned(), reason };
    let mut components = Vec::new();
    for text in template.split('/').filter(|text| !text.is_empty()) {
        if matches!(text, "." | "..") {
            return Err(bad(format!("\"{text}\" leads elsewhere")));
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut plain = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                plain.push(letter);
                continue;
            }
            let piece = match letters.next() {
                Some('i') => Piece::ShortId,
                Some('I') => Piece::LongId,
                Some('u') => Piece::User,
                Some('h') => Piece::Host,
                Some('t') => Piece::Tag,
                Some('T') => Piece::Time,
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                Some(other) => return Err(bad(format!("%{other} is unknown: there are %i %I %u %h %t %T and %%"))),
                None => return Err(bad("it ends with a single %".to_owned())),
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        components.push(pieces);
    }
    match components.last() {
        None => Err(bad("it is empty".to_owned())),
        Some(last) if last.iter().all(|piece| matches!(piece, Piece::Text(_))) => {
            Err(bad("its last name is the same for every snapshot".to_owned()))
        }
        Some(_) => Ok(components),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(number: u8, time: &str, host: &str, tags: &[&str]) -> (Id, Snapshot) {
        let snapshot = Snapshot {
            time: serde_json::from_value(time.into()).unwrap(),
            hostname: host.to_owned(),
            username: "ann".to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Snapshot::default()
        };
        (Id([number; 32]), snapshot)
    }

    /// Every path with what is there.
    fn paths(folder: &Folder, above: &str, out: &mut Vec<String>) {
        for (name, item) in &folder.items {
            match item {
                Item::Folder(below) => {
                    out.push(format!("{above}{name}/"));
                    paths(below, &format!("{above}{name}/"), out);
                }
                Item::Snapshot(number) => out.push(format!("{above}{name} = {number}")),
                Item::Link(target) => out.push(format!("{above}{name} -> {target}")),
            }
        }
    }

    fn list(layout: &Layout, snapshots: &[(Id, Snapshot)]) -> Vec<String> {
        let mut out = Vec::new();
        paths(&layout.folders(snapshots), "", &mut out);
        out
    }

    #[test]
    fn an_empty_repository_has_its_four_folders() {
        assert_eq!(list(&Layout::default(), &[]), ["hosts/", "ids/", "snapshots/", "tags/"]);
    }

    #[test]
    fn a_snapshot_lies_under_its_id_its_time_its_host_and_each_of_its_tags() {
        let snapshots = [
            snapshot(0x11, "2026-01-01T10:00:00.5Z", "one", &["a", "b"]),
            snapshot(0x22, "2026-01-02T10:00:00+01:00", "two", &["b"]),
        ];
        assert_eq!(
            list(&Layout::default(), &snapshots),
            [
                "hosts/",
                "hosts/one/",
                "hosts/one/2026-01-01T10:00:00Z = 0",
                "hosts/one/latest -> 2026-01-01T10:00:00Z",
                "hosts/two/",
                "hosts/two/2026-01-02T10:00:00+01:00 = 1",
                "hosts/two/latest -> 2026-01-02T10:00:00+01:00",
                "ids/",
                "ids/11111111 = 0",
                "ids/22222222 = 1",
                "snapshots/",
                "snapshots/2026-01-01T10:00:00Z = 0",
                "snapshots/2026-01-02T10:00:00+01:00 = 1",
                "snapshots/latest -> 2026-01-02T10:00:00+01:00",
                "tags/",
                "tags/a/",
                "tags/a/2026-01-01T10:00:00Z = 0",
                "tags/a/latest -> 2026-01-01T10:00:00Z",
                "tags/b/",
                "tags/b/2026-01-01T10:00:00Z = 0",
                "tags/b/2026-01-02T10:00:00+01:00 = 1",
                "tags/b/latest -> 2026-01-02T10:00:00+01:00",
            ]
        );
    }

    #[test]
    fn snapshots_of_one_second_get_numbers_and_a_partial_one_is_never_the_latest() {
        let mut snapshots = [
            snapshot(1, "2026-01-01T10:00:00.1Z", "h", &[]),
            snapshot(2, "2026-01-01T10:00:00.2Z", "h", &[]),
            snapshot(3, "2026-01-01T10:00:00.3Z", "h", &[]),
        ];
        snapshots[2].1.tags.push(backstay_repository::snapshot::PARTIAL_TAG.to_owned());
        assert_eq!(
            list(&Layout::new(&["%T"], None).unwrap(), &snapshots),
            [
                "2026-01-01T10:00:00Z = 0",
                "2026-01-01T10:00:00Z-1 = 1",
                "2026-01-01T10:00:00Z-2 = 2",
                "latest -> 2026-01-01T10:00:00Z-1",
            ]
        );
    }

    #[test]
    fn names_stay_in_their_folder() {
        let snapshots = [snapshot(1, "2026-01-01T10:00:00Z", "../../etc", &["..", ".", "", "a/b"])];
        let layout = Layout::new(&["t/%t", "h/%h", "u-%u%%/x %i"], None).unwrap();
        assert_eq!(
            list(&layout, &snapshots),
            [
                "h/",
                "h/.._.._etc = 0",
                "t/",
                "t/_ = 0",
                "t/_. = 0",
                "t/_.. = 0",
                "t/a_b = 0",
                "u-ann%/",
                "u-ann%/x 01010101 = 0"
            ]
        );
    }

    #[test]
    fn a_folder_and_a_snapshot_of_one_name_stand_side_by_side() {
        let snapshots = [snapshot(1, "2026-01-01T10:00:00Z", "h", &[])];
        assert_eq!(
            list(&Layout::new(&["%h", "%h/%I"], None).unwrap(), &snapshots),
            ["h = 0".to_owned(), "h-1/".to_owned(), format!("h-1/{} = 0", "01".repeat(32))]
        );
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (template, reason) in
            [("", "empty"), ("/", "empty"), ("a/%x", "%x"), ("%T/b", "same"), ("../%T", ".."), ("a%", "single")]
        {
            let text = Layout::new(&[template], None).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
        }
        assert!(Layout::new(&["%T"], Some("2006/01")).is_err());
        assert!(Layout::new(&["%T"], Some("")).is_err());
    }
}
