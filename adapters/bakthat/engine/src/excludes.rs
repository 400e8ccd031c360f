//! What a pattern file leaves out (bakthat reference, section 7).
//!
//! A pattern is a shell pattern: `*` (which also crosses `/`), `?`, `[..]`, upper and lower case told apart. Without a
//! slash it is set against the whole last component of the path, with one against the end of the path from any component
//! on. Lines that begin with `#` do not count, nor does one slash at the end. The original set each pattern against any
//! end of the path, so that `tmp` also took `mytmp`: [`Excludes::new`] does that when it is told to be wide.

use std::path::{Path, PathBuf};

use crate::error::{About, Result};

/// The patterns of one backup.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    patterns: Vec<Pattern>,
    wide: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    parts: Vec<Part>,
    has_slash: bool,
}

#[derive(Clone, Debug)]
enum Part {
    One(u32),
    Any,
    Many,
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

impl Part {
    fn takes(&self, c: u32) -> bool {
        match self {
            Self::One(own) => *own == c,
            Self::Any => true,
            Self::Many => false,
            Self::Class { negated, ranges } => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated,
        }
    }
}

/// The letters of a path; a byte that is no text stands for itself.
fn letters(path: &[u8]) -> Vec<u32> {
    let mut letters = Vec::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        letters.extend(chunk.valid().chars().map(u32::from));
        letters.extend(chunk.invalid().iter().map(|byte| 0xdc00 + u32::from(*byte)));
    }
    letters
}

const SLASH: u32 = '/' as u32;

impl Excludes {
    /// Takes the lines of a pattern file.
    #[must_use]
    pub fn new<L: AsRef<[u8]>>(lines: &[L], wide: bool) -> Self {
        let patterns = lines
            .iter()
            .map(AsRef::as_ref)
            .filter(|line| !line.is_empty() && (wide || line[0] != b'#'))
            .filter_map(|line| {
                let line = if wide { line } else { line.strip_suffix(b"/").unwrap_or(line) };
                let line = if wide { line } else { line.strip_prefix(b"/").unwrap_or(line) };
                (!line.is_empty()).then(|| Pattern { parts: parse(&letters(line)), has_slash: line.contains(&b'/') })
            })
            .collect();
        Self { patterns, wide }
    }

    /// Takes the lines of a pattern file that is there.
    ///
    /// # Errors
    /// The system's.
    pub fn read(path: &Path, wide: bool) -> Result<Self> {
        let text = std::fs::read(path).about(path)?;
        Ok(Self::new(&text.split(|byte| *byte == b'\n').collect::<Vec<_>>(), wide))
    }

    /// Whether a path, as the walk came to it, is left out.
    #[must_use]
    pub fn excludes(&self, path: &[u8]) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let path = letters(path);
        let last = path.iter().rposition(|c| *c == SLASH).map_or(0, |at| at + 1);
        self.patterns.iter().any(|pattern| {
            if self.wide {
                (0..=path.len()).any(|from| matches(&pattern.parts, &path[from..]))
            } else if pattern.has_slash {
                let borders = path.iter().enumerate().filter(|(_, c)| **c == SLASH).map(|(at, _)| at + 1);
                std::iter::once(0).chain(borders).any(|from| matches(&pattern.parts, &path[from..]))
            } else {
                matches(&pattern.parts, &path[last..])
            }
        })
    }
}

/// The pattern file that holds for a folder: the one that was named, beside us or in the folder, and no other then; else the
/// first of the usual names that the folder has.
#[must_use]
pub fn choose(folder: &Path, named: Option<&Path>, usual: &[PathBuf]) -> Option<PathBuf> {
    let candidates = match named {
        Some(named) => vec![std::path::absolute(named).unwrap_or_else(|_| named.to_owned()), folder.join(named)],
        None => usual.iter().map(|name| folder.join(name)).collect(),
    };
    candidates.into_iter().find(|path| path.is_file())
}

/// Takes a pattern apart, as Python's fnmatch does it: a bracket that is not closed is a letter.
fn parse(pattern: &[u32]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        let c = pattern[at];
        at += 1;
        match char::from_u32(c) {
            Some('*') => {
                if !matches!(parts.last(), Some(Part::Many)) {
                    parts.push(Part::Many);
                }
            }
            Some('?') => parts.push(Part::Any),
            Some('[') => {
                let mut end = at;
                if pattern.get(end) == Some(&u32::from('!')) {
                    end += 1;
                }
                if pattern.get(end) == Some(&u32::from(']')) {
                    end += 1;
                }
                while end < pattern.len() && pattern[end] != u32::from(']') {
                    end += 1;
                }
                if end >= pattern.len() {
                    parts.push(Part::One(c));
                    continue;
                }
                let inner = &pattern[at..end];
                at = end + 1;
                let negated = inner.first() == Some(&u32::from('!'));
                parts.push(Part::Class { negated, ranges: ranges(&inner[usize::from(negated)..]) });
            }
            _ => parts.push(Part::One(c)),
        }
    }
    parts
}

fn ranges(inner: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < inner.len() {
        if inner.get(at + 1) == Some(&u32::from('-')) && at + 2 < inner.len() {
            ranges.push((inner[at], inner[at + 2]));
            at += 3;
        } else {
            ranges.push((inner[at], inner[at]));
            at += 1;
        }
    }
    ranges
}

fn matches(pattern: &[Part], text: &[u32]) -> bool {
    // The last star, and how much of the text it has taken: going back further never helps.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(Part::Many) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(part) if t < text.len() && part.takes(text[t]) => {
                p += 1;
                t += 1;
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        match &mut star {
            Some((at, taken)) if *taken < text.len() => {
                *taken += 1;
                (p, t) = (*at + 1, *taken);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(patterns: &[&str], path: &str) -> bool {
        Excludes::new(patterns, false).excludes(path.as_bytes())
    }

    #[test]
    fn without_a_slash_the_whole_last_component_counts() {
        for (pattern, path, is) in [
            ("tmp", "mydir/tmp", true),
            ("tmp", "tmp", true),
            ("tmp", "mydir/sub/tmp", true),
            ("tmp", "mydir/mytmp", false),
            ("tmp/", "mydir/tmp", true),
            ("*.log", "mydir/sub/x.log", true),
            ("*.log", "mydir/x.LOG", false),
            ("x?z", "mydir/xäz", true),
            ("[a-c]1", "mydir/b1", true),
            ("[!a-c]1", "mydir/b1", false),
            ("[]]", "mydir/]", true),
            ("[x", "mydir/[x", true),
            ("#tmp", "mydir/#tmp", false),
            ("", "mydir/", false),
        ] {
            assert_eq!(excluded(&[pattern], path), is, "{pattern} {path}");
        }
    }

    #[test]
    fn with_a_slash_the_end_of_the_path_counts_from_a_component_on() {
        for (pattern, path, is) in [
            ("sub/tmp", "mydir/sub/tmp", true),
            ("sub/tmp", "mydir/mysub/tmp", false),
            ("sub/*.log", "mydir/sub/deep/x.log", true),
            ("mydir/sub", "mydir/sub", true),
            ("/sub", "mydir/sub", true),
            ("sub/tmp", "mydir/sub/tmp/more", false),
        ] {
            assert_eq!(excluded(&[pattern], path), is, "{pattern} {path}");
        }
    }

    #[test]
    fn the_wide_way_takes_any_end_of_the_path() {
        let wide = |pattern: &str, path: &str| Excludes::new(&[pattern], true).excludes(path.as_bytes());
        assert!(wide("tmp", "mydir/mytmp"));
        assert!(wide("b/tmp", "mydir/sub/tmp"));
        assert!(!wide("tmp/", "mydir/tmp"));
        assert!(!wide("tmp", "mydir/tmp2"));
    }

    #[test]
    fn a_named_pattern_file_comes_before_those_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let usual = [PathBuf::from(".bakthatexclude"), PathBuf::from(".gitignore")];
        let chosen = |named: Option<&str>| choose(folder.path(), named.map(Path::new), &usual);
        assert_eq!(chosen(None), None);
        std::fs::write(folder.path().join(".gitignore"), "a").unwrap();
        assert_eq!(chosen(None), Some(folder.path().join(".gitignore")));
        std::fs::write(folder.path().join(".bakthatexclude"), "#a\nb/\n\nc d").unwrap();
        assert_eq!(chosen(None), Some(folder.path().join(".bakthatexclude")));
        assert_eq!(chosen(Some(".gitignore")), Some(folder.path().join(".gitignore")));
        assert_eq!(chosen(Some("/nowhere")), None);
        let patterns = Excludes::read(&chosen(None).unwrap(), false).unwrap();
        let excluded = ["d/a", "d/b", "d/c d", "d/"].map(|path| patterns.excludes(path.as_bytes()));
        assert_eq!(excluded, [false, true, true, false]);
    }

    #[test]
    fn bytes_that_are_no_text_are_letters() {
        assert!(Excludes::new(&[&b"a\xff*"[..]], false).excludes(b"dir/a\xffb"));
        assert!(Excludes::new(&["a?b"], false).excludes(b"dir/a\xffb"));
    }
}
