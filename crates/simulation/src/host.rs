//! A host whose files are backed up: what it has, how that changes, and the source that announces it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use backstay_core::{
    Data, End, Entry, EntryError, Fatal, FileKind, Ingest, Job, Outcome, Source, SourceInfo, Start, Stat, Tally, Time,
    Verdict,
};
use backstay_stores::faults::mix;

use crate::random::Random;

/// Different contents that files can have. Few, so that hosts share them and a prune finds blobs that others use.
const CONTENTS: u64 = 40;
/// Files that a host has at the most.
const FILES: usize = 9;

/// The files of one host, by path without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Host {
    files: BTreeMap<String, u64>,
}

/// The bytes of one of the possible contents.
#[must_use]
pub fn content(number: u64) -> Vec<u8> {
    let length = match number % 8 {
        0 => 0,
        1 => 1,
        step => step * 130 + number,
    };
    (0..length.div_ceil(8))
        .flat_map(|at| mix(number << 32 | at).to_le_bytes())
        .take(usize::try_from(length).unwrap_or(0))
        .collect()
}

impl Host {
    /// Some files are written, some are removed.
    pub fn change(&mut self, random: &mut Random) {
        for _ in 0..=random.below(3) {
            let path = format!("folder-{}/file-{}", random.below(3), random.below(5));
            if self.files.len() >= FILES || random.percent(25) {
                self.files.pop_first();
            }
            self.files.insert(path, random.below(CONTENTS));
        }
    }

    /// What happens to each file in the next backup.
    #[must_use]
    pub fn script(&self, random: &mut Random) -> Script {
        let mut steps = Vec::new();
        let mut folders = Vec::new();
        for (path, content) in &self.files {
            let folder = path.split('/').next().unwrap_or_default().to_owned();
            if !folders.contains(&folder) {
                folders.push(folder.clone());
                steps.push((folder, Step::Folder));
            }
            let step = match random.below(20) {
                0 => Step::Fails(*content),
                1 => Step::Skipped,
                _ => Step::File(*content),
            };
            steps.push((path.clone(), step));
        }
        let dies = random.percent(6).then(|| (random.index(steps.len() + 1), random.below(4)));
        Script { steps, dies }
    }
}

/// What a source does with one name.
#[derive(Clone, Copy, Debug)]
enum Step {
    Folder,
    File(u64),
    /// Some of these contents come, then the entry fails.
    Fails(u64),
    Skipped,
}

/// What a source does in one backup.
#[derive(Clone, Debug)]
pub struct Script {
    steps: Vec<(String, Step)>,
    /// Before which step it dies, and how many entries are lost with it that nobody saw.
    dies: Option<(usize, u64)>,
}

/// What a backup must have in its snapshot and in its count, as far as the source got.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Contents by path with a leading slash.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Folders.
    pub folders: Vec<Vec<u8>>,
    /// How the announced entries ended, by the source's own count.
    pub tally: Tally,
    /// The source stopped before its end.
    pub died: bool,
    /// Whether there is a ledger.
    pub ledger: bool,
}

/// Shared by the source that fills it and by those who judge.
pub type Shared = Arc<Mutex<Expected>>;

/// Announces a host's files.
#[derive(Debug)]
pub struct HostSource {
    script: Script,
    expected: Shared,
    ledger: bool,
}

impl HostSource {
    /// A source that follows the script and writes down what it did.
    #[must_use]
    pub fn new(script: Script, expected: Shared, ledger: bool) -> Self {
        Self { script, expected, ledger }
    }

    fn note(&self, change: impl FnOnce(&mut Expected)) {
        change(&mut self.expected.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn entry(name: &str, kind: FileKind, size: u64) -> Entry {
    let stat = Stat {
        mode: kind.type_bits() | 0o640,
        links: 1,
        size,
        mtime: Time { seconds: 1_700_000_000, nanoseconds: 0 },
        ..Stat::default()
    };
    Entry { name: name.into(), kind, link: Vec::new(), hard_link: false, stat, native: Vec::new() }
}

impl Source for HostSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            name: "simulation".to_owned(),
            path: "/simulation".to_owned(),
            adapter: self.ledger.then_some("simulation"),
            ..SourceInfo::default()
        }
    }

    fn run(&mut self, _job: &dyn Job, _start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        let stopped = |text: String| Ok(End::Stopped(text));
        for (at, (path, step)) in self.script.steps.iter().enumerate() {
            if let Some((_, lost)) = self.script.dies.filter(|(when, _)| *when == at) {
                out.lost(lost);
                self.note(|expected| {
                    expected.died = true;
                    expected.tally.announced += lost;
                    expected.tally.lost += lost;
                });
                return stopped("the source died".to_owned());
            }
            let (kind, contents) = match step {
                Step::Skipped => {
                    self.note(|expected| expected.tally.count(&Outcome::Skipped(String::new())));
                    out.skipped(path.as_bytes(), "a rule of the simulation");
                    continue;
                }
                Step::Folder => (FileKind::Directory, Vec::new()),
                Step::File(number) | Step::Fails(number) => (FileKind::File, content(*number)),
            };
            if let Err(stop) = out.entry(entry(path, kind, contents.len() as u64)) {
                return stopped(stop.0);
            }
            let fails = matches!(step, Step::Fails(_));
            let given = if fails { &contents[..contents.len() / 2] } else { &contents[..] };
            for part in given.chunks(700) {
                if let Err(error) = out.data(Data::Bytes(part)) {
                    return stopped(error.to_string());
                }
            }
            let result = if fails { Err(EntryError::new("this file cannot be read")) } else { Ok(()) };
            let outcome = out.end(result);
            self.note(|expected| {
                expected.tally.count(&outcome);
                let path = [b"/", path.as_bytes()].concat();
                match (&outcome, kind) {
                    (Outcome::Saved, FileKind::Directory) => expected.folders.push(path),
                    (Outcome::Saved, _) => {
                        expected.files.insert(path, contents);
                    }
                    _ => {}
                }
            });
        }
        Ok(End::Whole)
    }

    fn finish(&mut self, _verdict: &Verdict) {}
}
