//! Path patterns with restic's meaning: what `--include`, `--exclude` and `find` take. Bytes in, yes or no out; no I/O.
//!
//! A pattern that starts with `/` is anchored at the snapshot's root, any other one matches at every depth. A pattern that
//! matches a directory matches everything below it. `*`, `?` and `[a-z]` stay within one component, `**` spans any number
//! of them, `\` takes the next character literally. A pattern that starts with `!` takes back what earlier ones matched.

/// Text that is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?} is not valid: {reason}")]
pub struct PatternError {
    /// The pattern as it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`: any number of components.
    Any,
    /// One component that holds no special character.
    Plain(Vec<u8>),
    /// One component with wildcards.
    Glob(Vec<u8>),
}

impl Part {
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Plain(text) => text == name,
            Self::Glob(glob) => glob_matches(glob, name),
        }
    }
}

/// One pattern, ready to use.
#[derive(Clone, Debug)]
pub struct Pattern {
    parts: Vec<Part>,
    anchored: bool,
    negated: bool,
    fold_case: bool,
}

impl Pattern {
    /// Reads a pattern; `fold_case` makes it match without regard to upper and lower case.
    ///
    /// # Errors
    /// [`PatternError`] when it is empty, or a bracket or an escape is not finished.
    pub fn new(text: &str, fold_case: bool) -> Result<Self, PatternError> {
        let bad = |reason| PatternError { pattern: text.to_owned(), reason };
        let (negated, body) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(bad("it is empty"));
        }
        let anchored = body.starts_with('/');
        let mut parts = Vec::new();
        for component in body.split('/') {
            let folded = if fold_case { fold(component.as_bytes()) } else { component.as_bytes().to_vec() };
            match component {
                "" | "." => {}
                "**" => {
                    if parts.last() != Some(&Part::Any) {
                        parts.push(Part::Any);
                    }
                }
                _ if component.contains(['*', '?', '[', '\\']) => {
                    validate(&folded).map_err(bad)?;
                    parts.push(Part::Glob(folded));
                }
                _ => parts.push(Part::Plain(folded)),
            }
        }
        if parts.is_empty() && !anchored {
            return Err(bad("it names nothing"));
        }
        Ok(Self { parts, anchored, negated, fold_case })
    }

    /// Whether the pattern matches `path` or a directory above it. A leading slash of `path` does not matter.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.fold_case { self.matches_parts(&split(&fold(path))) } else { self.matches_parts(&split(path)) }
    }

    fn matches_parts(&self, path: &[&[u8]]) -> bool {
        if self.anchored {
            return prefix_matches(&self.parts, path);
        }
        (0..path.len()).any(|start| prefix_matches(&self.parts, &path[start..]))
    }

    /// Whether something below the directory `path` may match.
    #[must_use]
    pub fn may_match_below(&self, path: &[u8]) -> bool {
        if !self.anchored {
            return true;
        }
        let folded;
        let path = if self.fold_case {
            folded = fold(path);
            split(&folded)
        } else {
            split(path)
        };
        for (part, name) in self.parts.iter().zip(&path) {
            if *part == Part::Any {
                return true;
            }
            if !part.matches(name) {
                return false;
            }
        }
        true
    }
}

/// Several patterns, looked at in order.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
}

impl Patterns {
    /// Reads patterns: `exact` as they stand, `folded` without regard to upper and lower case.
    ///
    /// # Errors
    /// The first [`PatternError`].
    pub fn new(exact: &[String], folded: &[String]) -> Result<Self, PatternError> {
        let exact = exact.iter().map(|text| Pattern::new(text, false));
        let folded = folded.iter().map(|text| Pattern::new(text, true));
        Ok(Self { list: exact.chain(folded).collect::<Result<_, _>>()? })
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether `path` is matched, the last pattern that speaks about it deciding.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut matched = false;
        for pattern in &self.list {
            if matched == pattern.negated && pattern.matches(path) {
                matched = !pattern.negated;
            }
        }
        matched
    }

    /// Whether something below the directory `path` may be matched.
    #[must_use]
    pub fn may_match_below(&self, path: &[u8]) -> bool {
        self.list.iter().any(|pattern| !pattern.negated && pattern.may_match_below(path))
    }
}

fn split(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect()
}

/// Lower case where the bytes are text; other bytes stay.
fn fold(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().to_lowercase().as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
    out
}

/// Whether the pattern matches the first components of `path` (what comes below a match is matched too).
fn prefix_matches(parts: &[Part], path: &[&[u8]]) -> bool {
    let Some((first, rest)) = parts.split_first() else { return true };
    if *first == Part::Any {
        // `a/**` is everything below `a`, not `a` itself.
        if rest.is_empty() {
            return !path.is_empty();
        }
        return (0..=path.len()).any(|skip| prefix_matches(rest, &path[skip..]));
    }
    match path.split_first() {
        Some((name, below)) => first.matches(name) && prefix_matches(rest, below),
        None => false,
    }
}

/// Takes one character off the front: its bytes and what follows. A byte that is not text is a character of its own.
fn character(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = *bytes.first()?;
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let whole = bytes.get(..length).is_some_and(|text| std::str::from_utf8(text).is_ok());
    Some(bytes.split_at(if whole { length } else { 1 }))
}

/// A character class behind its `[`: what it is made of, and the pattern behind its `]`.
struct Class<'a> {
    negated: bool,
    ranges: Vec<(&'a [u8], &'a [u8])>,
    rest: &'a [u8],
}

fn class(mut glob: &[u8]) -> Result<Class<'_>, &'static str> {
    const OPEN: &str = "a bracket is not closed";
    let negated = matches!(glob.first(), Some(b'^' | b'!'));
    if negated {
        glob = &glob[1..];
    }
    let mut ranges = Vec::new();
    loop {
        let (first, rest) = match glob {
            [b']', rest @ ..] if !ranges.is_empty() => return Ok(Class { negated, ranges, rest }),
            [b'\\', rest @ ..] => character(rest).ok_or(OPEN)?,
            _ => character(glob).ok_or(OPEN)?,
        };
        glob = rest;
        let mut last = first;
        if let [b'-', rest @ ..] = glob
            && rest.first().is_some_and(|byte| *byte != b']')
        {
            let rest = rest.strip_prefix(b"\\").unwrap_or(rest);
            (last, glob) = character(rest).ok_or(OPEN)?;
        }
        ranges.push((first, last));
    }
}

fn validate(mut glob: &[u8]) -> Result<(), &'static str> {
    loop {
        glob = match glob {
            [] => return Ok(()),
            [b'[', rest @ ..] => class(rest)?.rest,
            [b'\\'] => return Err("it ends with a single backslash"),
            [b'\\', _, rest @ ..] | [_, rest @ ..] => rest,
        };
    }
}

/// Matches one component. Only the last `*` is gone back to: a star behind another one makes the earlier choice final.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut glob, mut name) = (glob, name);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match glob {
            [b'*', rest @ ..] => {
                retry = Some((rest, name));
                glob = rest;
                continue;
            }
            [] => name.is_empty().then_some((glob, name)),
            [b'?', rest @ ..] => character(name).map(|(_, left)| (rest, left)),
            [b'[', rest @ ..] => class(rest).ok().and_then(|class| {
                let (letter, left) = character(name)?;
                let inside = class.ranges.iter().any(|(from, to)| {
                    // Characters of UTF-8 sort like their code points.
                    *from <= letter && letter <= *to
                });
                (inside != class.negated).then_some((class.rest, left))
            }),
            [b'\\', literal, rest @ ..] | [literal, rest @ ..] => match name.split_first() {
                Some((byte, left)) if byte == literal => Some((rest, left)),
                _ => None,
            },
        };
        match step {
            Some((next, left)) => {
                if next.is_empty() && left.is_empty() {
                    return true;
                }
                (glob, name) = (next, left);
            }
            None => match retry {
                Some((after, from)) if !from.is_empty() => {
                    let left = character(from).map_or(&[][..], |(_, left)| left);
                    retry = Some((after, left));
                    (glob, name) = (after, left);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::new(pattern, false).unwrap().matches(path.as_bytes())
    }

    #[test]
    fn a_pattern_without_a_leading_slash_matches_at_every_depth() {
        assert!(matches("*.rs", "/src/main.rs"));
        assert!(matches("src/*.rs", "/home/src/main.rs"));
        assert!(!matches("src/*.rs", "/src/deep/main.rs"));
        assert!(matches("main.rs", "/main.rs"));
        assert!(!matches("main.rs", "/domain.rs"));
    }

    #[test]
    fn a_leading_slash_anchors_at_the_root() {
        assert!(matches("/src", "/src"));
        assert!(!matches("/src", "/home/src"));
        assert!(matches("/", "/anything"));
    }

    #[test]
    fn what_lies_below_a_matched_directory_is_matched() {
        assert!(matches("/src", "/src/deep/main.rs"));
        assert!(matches("node_modules", "/a/node_modules/b/c"));
        assert!(matches("node_modules/", "/a/node_modules/b/c"));
    }

    #[test]
    fn two_stars_span_any_number_of_directories() {
        assert!(matches("/a/**/z", "/a/z"));
        assert!(matches("/a/**/z", "/a/b/c/z"));
        assert!(!matches("/a/**/z", "/b/z"));
        assert!(matches("/a/**", "/a/b"));
        assert!(!matches("/a/**", "/a"));
        assert!(matches("foo/**/bar", "/x/foo/1/2/bar/y"));
    }

    #[test]
    fn wildcards_stay_within_a_component() {
        assert!(matches("a*c", "abbbc"));
        assert!(!matches("a*c", "a/c"));
        assert!(matches("a*b*c", "aXbYbZc"));
        assert!(!matches("a*b*c", "aXbYbZ"));
        assert!(matches("?.txt", "ä.txt"));
        assert!(!matches("?.txt", "ab.txt"));
        assert!(matches("[a-c]x", "bx"));
        assert!(!matches("[^a-c]x", "bx"));
        assert!(matches("[ä-ü]", "ö"));
        assert!(matches(r"\*", "*"));
        assert!(!matches(r"\*", "x"));
        assert!(matches("*", "x"));
    }

    #[test]
    fn names_that_are_not_text_can_be_matched() {
        let pattern = Pattern::new("a?b", false).unwrap();
        assert!(pattern.matches(b"/dir/a\xffb"));
        assert!(Pattern::new("A*", true).unwrap().matches(b"a\xff"));
    }

    #[test]
    fn case_can_be_ignored() {
        assert!(Pattern::new("/Ä*.TXT", true).unwrap().matches("/äB.txt".as_bytes()));
        assert!(!matches("/A.TXT", "/a.txt"));
    }

    #[test]
    fn a_negated_pattern_takes_back_what_earlier_ones_matched() {
        let patterns = Patterns::new(&["*.log".into(), "!keep.log".into()], &[]).unwrap();
        assert!(patterns.matches(b"/a/x.log"));
        assert!(!patterns.matches(b"/a/keep.log"));
    }

    #[test]
    fn directories_above_an_anchored_pattern_are_entered() {
        let patterns = Patterns::new(&["/a/b/c".into()], &[]).unwrap();
        assert!(patterns.may_match_below(b"/a"));
        assert!(patterns.may_match_below(b"/a/b"));
        assert!(!patterns.may_match_below(b"/x"));
        assert!(Patterns::new(&["c".into()], &[]).unwrap().may_match_below(b"/x"));
    }

    #[test]
    fn unfinished_patterns_are_refused() {
        assert!(Pattern::new("[a-", false).is_err());
        assert!(Pattern::new("a\\", false).is_err());
        assert!(Pattern::new("", false).is_err());
        assert!(Pattern::new("!", false).is_err());
    }
}
