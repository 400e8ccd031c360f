//! What a walk leaves out, and by which rule.
//!
//! Three kinds of rules look at the path alone: `--exclude` and `--iexclude` patterns with restic's meaning, and files of
//! gitignore rules. Two look at a directory's contents: cache directory tags (`CACHEDIR.TAG`) and `--exclude-if-present`.
//! One looks at the size. (`--one-file-system` is the walk's own: it needs to know the mount points on the way.)
//!
//! A walk asks from the top down and never enters what was left out, so that a rule which takes a later exception back
//! (`!keep`) works for entries whose directory is kept, as restic and git have it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The first bytes of a valid cache directory tag (the Cache Directory Tagging Specification of bford.info).
const CACHE_TAG_HEADER: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const CACHE_TAG_NAME: &[u8] = b"CACHEDIR.TAG";

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExcludeError {
    /// A pattern whose brackets or backslashes do not end.
    #[error("{option} \"{pattern}\" is not a valid pattern: {reason}")]
    Pattern {
        /// The option it came from.
        option: &'static str,
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of rules that cannot be read.
    #[error("{option} {}: {error}", file.display())]
    File {
        /// The option that it came from.
        option: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// A line of such a file that is no rule.
    #[error("{option} {}:{line}: \"{text}\" is not a valid gitignore rule: {reason}", file.display())]
    Line {
        /// The option that it came from.
        option: &'static str,
        /// The file.
        file: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The line.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The rules of all files together cannot be used.
    #[error("{0}: {1}")]
    Rules(&'static str, String),
    /// An `--exclude-if-present` that names no file.
    #[error("--exclude-if-present \"{0}\": NAME or NAME:HEADER is expected, where NAME is a file name without a slash")]
    Tag(String),
}

/// The rules of one backup, ready to be asked by several threads at once.
#[derive(Debug, Default)]
pub struct Excludes {
    patterns: Patterns,
    insensitive: Patterns,
    ignore: Option<Gitignore>,
    insensitive_ignore: Option<Gitignore>,
    tags: Vec<Tag>,
    larger_than: Option<u64>,
}

/// What the rules are made of; the fields are the options' own texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// `--exclude`.
    pub excludes: &'a [String],
    /// `--iexclude`.
    pub iexcludes: &'a [String],
    /// `--exclude-file`: files of gitignore rules, rooted at `/`.
    pub exclude_files: &'a [PathBuf],
    /// `--iexclude-file`: the same, upper and lower case alike.
    pub iexclude_files: &'a [PathBuf],
    /// `--exclude-caches`.
    pub exclude_caches: bool,
    /// `--exclude-if-present NAME[:HEADER]`.
    pub exclude_if_present: &'a [String],
    /// `--exclude-larger-than`, in bytes.
    pub exclude_larger_than: Option<u64>,
}

/// A file whose presence says that the directory's other entries are left out.
#[derive(Debug)]
pub struct Tag {
    /// The file's name: it is kept.
    pub name: Vec<u8>,
    /// What the file must begin with; empty if any object of that name will do.
    pub header: Vec<u8>,
    /// The rule, as a skipped entry names it.
    pub rule: String,
}

impl Excludes {
    /// Reads and checks all rules. An empty pattern is no rule, as in restic.
    ///
    /// # Errors
    /// [`ExcludeError`] names the option and the pattern, or the file and the line.
    pub fn new(rules: &Rules<'_>) -> Result<Self, ExcludeError> {
        let mut tags = Vec::new();
        if rules.exclude_caches {
            tags.push(Tag {
                name: CACHE_TAG_NAME.to_vec(),
                header: CACHE_TAG_HEADER.to_vec(),
                rule: "--exclude-caches".to_owned(),
            });
        }
        for text in rules.exclude_if_present {
            let (name, header) = text.split_once(':').unwrap_or((text, ""));
            if name.is_empty() || name == "." || name == ".." || name.contains('/') {
                return Err(ExcludeError::Tag(text.clone()));
            }
            tags.push(Tag {
                name: name.as_bytes().to_vec(),
                header: header.as_bytes().to_vec(),
                rule: format!("--exclude-if-present {text}"),
            });
        }
        Ok(Self {
            patterns: Patterns::new("--exclude", rules.excludes, false)?,
            insensitive: Patterns::new("--iexclude", rules.iexcludes, true)?,
            ignore: read_ignore_files("--exclude-file", rules.exclude_files, false)?,
            insensitive_ignore: read_ignore_files("--iexclude-file", rules.iexclude_files, true)?,
            tags,
            larger_than: rules.exclude_larger_than,
        })
    }

    /// The pattern that leaves `path` (absolute) out, if one does.
    #[must_use]
    pub fn by_pattern(&self, path: &[u8]) -> Option<&str> {
        self.patterns.rule_for(path).or_else(|| self.insensitive.rule_for(path))
    }

    /// Whether files of gitignore rules were given: only they need to know what is a directory.
    #[must_use]
    pub fn wants_kind(&self) -> bool {
        self.ignore.is_some()
    }

    /// The gitignore rule that leaves `path` (absolute) out, if one does. With `parents`, a rule that leaves out one of
    /// the directories above counts too: for paths that the walk did not reach from the top.
    #[must_use]
    pub fn by_ignore_file(&self, path: &[u8], is_directory: bool, parents: bool) -> Option<String> {
        let path = Path::new(OsStr::from_bytes(path));
        let rule = |option: &str, ignore: &Gitignore| {
            let found = if parents {
                ignore.matched_path_or_any_parents(path, is_directory)
            } else {
                ignore.matched(path, is_directory)
            };
            match found {
                Match::Ignore(rule) => Some(match rule.from() {
                    Some(file) => format!("{option} {}: {}", file.display(), rule.original()),
                    None => format!("{option}: {}", rule.original()),
                }),
                Match::None | Match::Whitelist(_) => None,
            }
        };
        let sensitive = self.ignore.as_ref().and_then(|ignore| rule("--exclude-file", ignore));
        sensitive.or_else(|| self.insensitive_ignore.as_ref().and_then(|ignore| rule("--iexclude-file", ignore)))
    }

    /// The rule that leaves out a regular file of `size` bytes, if one does.
    #[must_use]
    pub fn by_size(&self, size: u64) -> Option<String> {
        let limit = self.larger_than?;
        (size > limit).then(|| format!("--exclude-larger-than {limit}"))
    }

    /// Whether a limit on the size of files was given.
    #[must_use]
    pub fn wants_size(&self) -> bool {
        self.larger_than.is_some()
    }

    /// The files that mark a directory as one to leave out.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }
}

fn read_ignore_files(
    option: &'static str,
    files: &[PathBuf],
    fold_case: bool,
) -> Result<Option<Gitignore>, ExcludeError> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("/");
    builder.allow_unclosed_class(false);
    let rules = |error: ignore::Error| ExcludeError::Rules(option, error.to_string());
    builder.case_insensitive(fold_case).map_err(rules)?;
    for file in files {
        let bytes = std::fs::read(file).map_err(|error| ExcludeError::File { option, file: file.clone(), error })?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let bad = |reason: String| ExcludeError::Line {
                option,
                file: file.clone(),
                line: number + 1,
                text: String::from_utf8_lossy(line).into_owned(),
                reason,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = std::str::from_utf8(line).map_err(|_| bad("it is not UTF-8".to_owned()))?;
            builder.add_line(Some(file.clone()), text).map_err(|error| bad(glob_reason(&error)))?;
        }
    }
    let ignore = builder.build().map_err(rules)?;
    Ok((!ignore.is_empty()).then_some(ignore))
}

/// The reason alone: the pattern and the place are told by [`ExcludeError::Line`].
fn glob_reason(error: &ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err.clone(),
        ignore::Error::WithPath { err, .. }
        | ignore::Error::WithLineNumber { err, .. }
        | ignore::Error::WithDepth { err, .. } => glob_reason(err),
        other => other.to_string(),
    }
}

/// Patterns of one option in the order given; a later one that matches wins over an earlier one.
#[derive(Debug, Default)]
struct Patterns {
    list: Vec<Pattern>,
    fold_case: bool,
}

/// A path pattern with restic's meaning.
#[derive(Debug)]
struct Pattern {
    /// As a skipped entry names it.
    rule: String,
    /// `!`: takes back what earlier patterns left out.
    negated: bool,
    /// Begins with a slash: matches from the root only.
    anchored: bool,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// No metacharacters: bytes to compare.
    Plain(Vec<u8>),
    /// To be matched by [`glob`].
    Glob(Vec<u8>),
    /// `**`: any number of components, also none.
    Any,
}

impl Patterns {
    fn new(option: &'static str, texts: &[String], fold_case: bool) -> Result<Self, ExcludeError> {
        let list = texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| Pattern::new(option, text, fold_case))
            .collect::<Result<_, _>>()?;
        Ok(Self { list, fold_case })
    }

    fn rule_for(&self, path: &[u8]) -> Option<&str> {
        if self.list.is_empty() {
            return None;
        }
        let folded;
        let path = if self.fold_case {
            folded = lower_case(path);
            &folded
        } else {
            path
        };
        let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let mut found = None;
        for pattern in &self.list {
            // An exception matters only after a match, and a match only without one.
            if found.is_some() == pattern.negated && pattern.matches(&components) {
                found = if pattern.negated { None } else { Some(pattern.rule.as_str()) };
            }
        }
        found
    }
}

impl Pattern {
    fn new(option: &'static str, text: &str, fold_case: bool) -> Result<Self, ExcludeError> {
        let bad = |reason| ExcludeError::Pattern { option, pattern: text.to_owned(), reason };
        let (negated, body) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(bad("nothing follows the exclamation mark"));
        }
        let body = if fold_case { lower_case(body.as_bytes()) } else { body.as_bytes().to_vec() };
        let anchored = body.starts_with(b"/");
        let mut parts = Vec::new();
        for component in body.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if parts.pop().is_none() && !anchored {
                        return Err(bad("it leads out of the tree"));
                    }
                }
                b"**" => parts.push(Part::Any),
                _ if component.iter().any(|byte| b"\\[]*?".contains(byte)) => {
                    glob(component, b"").map_err(bad)?;
                    parts.push(Part::Glob(component.to_vec()));
                }
                _ => parts.push(Part::Plain(component.to_vec())),
            }
        }
        if parts.is_empty() && !anchored {
            return Err(bad("it names nothing"));
        }
        Ok(Self { rule: format!("{option} {text}"), negated, anchored, parts })
    }

    /// Whether the pattern matches the path or a directory above it.
    fn matches(&self, components: &[&[u8]]) -> bool {
        if self.anchored {
            return begins(&self.parts, components);
        }
        (0..components.len()).any(|start| begins(&self.parts, &components[start..]))
    }
}

/// Whether the parts match the first of the components; what follows lies below a match.
fn begins(parts: &[Part], components: &[&[u8]]) -> bool {
    let Some((part, rest)) = parts.split_first() else { return true };
    if let Part::Any = part {
        return (0..=components.len()).any(|skip| begins(rest, &components[skip..]));
    }
    let Some((component, below)) = components.split_first() else { return false };
    let fits = match part {
        Part::Plain(name) => name == component,
        Part::Glob(pattern) => glob(pattern, component).unwrap_or(false),
        Part::Any => true,
    };
    fits && begins(rest, below)
}

/// Matches one component with the meaning of Go's `filepath.Match`: `*` any characters, `?` one character, `[a-z]` and
/// `[^a-z]` one of a class, a backslash takes the next character as it is. A byte that is not UTF-8 is one character.
///
/// The whole pattern is checked whatever `name` is.
fn glob(pattern: &[u8], name: &[u8]) -> Result<bool, &'static str> {
    let tokens = tokens(pattern)?;
    // The classic two-pointer match: on a failure go back to the last star and let it take one character more.
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        let (character, width) = first_character(&name[at..]);
        match tokens.get(token) {
            Some(Token::Star) => {
                star = Some((token, at));
                token += 1;
                continue;
            }
            Some(other) if other.takes(character) => {
                token += 1;
                at += width;
                continue;
            }
            _ => {}
        }
        let Some((star_token, star_at)) = star else { return Ok(false) };
        let taken = star_at + first_character(&name[star_at..]).1;
        star = Some((star_token, taken));
        token = star_token + 1;
        at = taken;
    }
    Ok(tokens[token..].iter().all(|token| matches!(token, Token::Star)))
}

/// A character, or a byte that is no part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Character {
    Byte(u8),
    Unicode(char),
}

#[derive(Debug)]
enum Token {
    Star,
    One,
    Exactly(Character),
    Class { negated: bool, ranges: Vec<(Character, Character)> },
}

impl Token {
    fn takes(&self, character: Character) -> bool {
        match self {
            Self::Star => false,
            Self::One => true,
            Self::Exactly(wanted) => *wanted == character,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| *low <= character && character <= *high) != *negated
            }
        }
    }
}

fn tokens(pattern: &[u8]) -> Result<Vec<Token>, &'static str> {
    const UNFINISHED: &str = "a bracket is not closed";
    fn literal(rest: &mut &[u8]) -> Result<Character, &'static str> {
        if rest.first() == Some(&b'\\') {
            *rest = &rest[1..];
            if rest.is_empty() {
                return Err("nothing follows the backslash");
            }
        }
        let (character, width) = first_character(rest);
        *rest = &rest[width..];
        Ok(character)
    }
    let mut rest = pattern;
    let mut out = Vec::new();
    while let Some(first) = rest.first() {
        match first {
            b'*' => {
                rest = &rest[1..];
                out.push(Token::Star);
            }
            b'?' => {
                rest = &rest[1..];
                out.push(Token::One);
            }
            b'[' => {
                rest = &rest[1..];
                let negated = rest.first() == Some(&b'^');
                if negated {
                    rest = &rest[1..];
                }
                let mut ranges = Vec::new();
                loop {
                    match rest.first() {
                        None => return Err(UNFINISHED),
                        Some(b']') if !ranges.is_empty() => {
                            rest = &rest[1..];
                            break;
                        }
                        Some(b']' | b'-') => return Err("a class is empty or begins with - or ]"),
                        Some(_) => {}
                    }
                    let low = literal(&mut rest)?;
                    let mut high = low;
                    if rest.first() == Some(&b'-') {
                        rest = &rest[1..];
                        match rest.first() {
                            None => return Err(UNFINISHED),
                            Some(b']' | b'-') => return Err("a range in a class has no end"),
                            Some(_) => high = literal(&mut rest)?,
                        }
                    }
                    ranges.push((low, high));
                }
                out.push(Token::Class { negated, ranges });
            }
            _ => out.push(Token::Exactly(literal(&mut rest)?)),
        }
    }
    Ok(out)
}

/// The first character of `bytes` (not empty) and its width in bytes.
fn first_character(bytes: &[u8]) -> (Character, usize) {
    let first = bytes.first().copied().unwrap_or(0);
    if first < 0x80 {
        return (Character::Unicode(char::from(first)), 1);
    }
    let window = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or(""),
    };
    match valid.chars().next() {
        Some(character) => (Character::Unicode(character), character.len_utf8()),
        None => (Character::Byte(first), 1),
    }
}

/// Lower case of everything that is text; other bytes stay.
fn lower_case(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().to_lowercase().as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
    out
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let rules = Rules { excludes: &patterns, ..Rules::default() };
        Excludes::new(&rules).unwrap().by_pattern(path.as_bytes()).is_some()
    }

    fn problem(rules: &Rules<'_>) -> String {
        Excludes::new(rules).unwrap_err().to_string()
    }

    /// Cases and answers of restic's own filter tests (internal/filter/filter_test.go).
    #[test]
    fn patterns_mean_what_they_mean_in_restic() {
        for (pattern, path, expected) in [
            ("*.go", "/foo/bar/test.go", true),
            ("*.go", "/foo/bar/test.c", false),
            ("*", "/foo", true),
            ("foo*", "/foobar", true),
            ("foo/", "/foo", true),
            ("foo", "/x/foo/bar", true),
            ("foo", "/x/foobar", false),
            ("/*", "/foo", true),
            ("bar", "/foo", false),
            ("bar", "/foo/bar", true),
            ("/foo/bar", "/foo/bar/baz", true),
            ("/foo/bar", "/x/foo/bar", false),
            ("foo/bar", "/x/foo/bar/y", true),
            ("foo/*/baz", "/foo/bar/baz", true),
            ("foo/*/baz", "/foo/bar/x/baz", false),
            ("foo/**/baz", "/foo/bar/x/baz", true),
            ("foo/**/baz", "/foo/baz", true),
            ("/home/user/**/*.o", "/home/user/x/y/z.o", true),
            ("/home/user/**", "/home/user/x", true),
            ("**/bar", "/foo/bar", true),
            ("/foo/**/bar/*", "/foo/a/b/bar/c", true),
            ("/foo/**/bar/*", "/foo/a/b/bar", false),
            ("file?.txt", "/file1.txt", true),
            ("file?.txt", "/file12.txt", false),
            ("[a-c]x", "/bx", true),
            ("[^a-c]x", "/bx", false),
            ("[^a-c]x", "/dx", true),
            ("a\\*b", "/a*b", true),
            ("a\\*b", "/axb", false),
            ("*a*b*c", "/xxayybzzc", true),
            ("*a*b*c", "/xxaybzzcd", false),
            ("gr?n", "/grün", true),
            ("./foo/./bar//", "/foo/bar", true),
        ] {
            assert_eq!(excluded(&[pattern], path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_later_pattern_wins() {
        assert!(excluded(&["*.log", "!keep.log"], "/a/b.log"));
        assert!(!excluded(&["*.log", "!keep.log"], "/a/keep.log"));
        assert!(excluded(&["*.log", "!keep.log", "/a/keep.log"], "/a/keep.log"));
        assert!(!excluded(&["!keep.log"], "/a/keep.log"));
        assert!(!excluded(&["/a/*", "!/a/b"], "/a/b/c"));
    }

    #[test]
    fn case_is_ignored_where_asked_also_beyond_ascii() {
        let patterns = vec!["*.ISO".to_owned(), "Öl".to_owned()];
        let rules = Rules { iexcludes: &patterns, ..Rules::default() };
        let excludes = Excludes::new(&rules).unwrap();
        assert_eq!(excludes.by_pattern(b"/x/Debian.iso"), Some("--iexclude *.ISO"));
        assert!(excludes.by_pattern("/x/öL".as_bytes()).is_some());
        assert!(excludes.by_pattern(b"/x/\xff.Iso").is_some());
        assert!(excludes.by_pattern(b"/x/isolated").is_none());
    }

    #[test]
    fn a_byte_that_is_not_text_is_one_character() {
        assert_eq!(glob(b"a?c", b"a\xffc"), Ok(true));
        assert_eq!(glob(b"a?c", b"a\xff\xffc"), Ok(false));
        assert_eq!(glob(b"*", b"\xff\xfe"), Ok(true));
    }

    #[test]
    fn bad_patterns_are_named() {
        for (pattern, reason) in [
            ("a[b", "not closed"),
            ("[]a]", "empty"),
            ("[-x]", "begins with"),
            ("[a-]", "no end"),
            ("x\\", "backslash"),
            ("!", "exclamation"),
            ("../x", "leads out"),
            (".", "names nothing"),
        ] {
            let list = vec!["fine".to_owned(), pattern.to_owned()];
            let text = problem(&Rules { excludes: &list, ..Rules::default() });
            assert!(text.contains(&format!("--exclude \"{pattern}\"")) && text.contains(reason), "{text}");
        }
        for tag in ["", ":x", "a/b", ".."] {
            let list = vec![tag.to_owned()];
            assert!(problem(&Rules { exclude_if_present: &list, ..Rules::default() }).contains("NAME"));
        }
    }

    #[test]
    fn gitignore_files_keep_their_meaning_and_name_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules");
        std::fs::write(&file, "# comment\r\n*.o\n!keep.o\n/top\nbuild/\n").unwrap();
        let files = vec![file.clone()];
        let excludes = Excludes::new(&Rules { exclude_files: &files, ..Rules::default() }).unwrap();
        let rule = |path: &str, directory| excludes.by_ignore_file(path.as_bytes(), directory, false);
        assert_eq!(rule("/a/x.o", false), Some(format!("--exclude-file {}: *.o", file.display())));
        assert_eq!(rule("/a/keep.o", false), None);
        assert!(rule("/top", false).is_some());
        assert!(rule("/a/top", false).is_none());
        assert!(rule("/a/build", true).is_some());
        assert!(rule("/a/build", false).is_none());
        assert!(rule("/a/build/x", false).is_none());
        assert!(excludes.by_ignore_file(b"/a/build/x", false, true).is_some());

        std::fs::write(&file, "fine\n[z\n").unwrap();
        let text = problem(&Rules { exclude_files: &files, ..Rules::default() });
        assert!(text.contains(&format!("{}:2:", file.display())) && text.contains("[z"), "{text}");
        std::fs::write(&file, b"fine\n\xff\n").unwrap();
        assert!(problem(&Rules { exclude_files: &files, ..Rules::default() }).contains("UTF-8"));
        let missing = vec![folder.path().join("missing")];
        assert!(problem(&Rules { exclude_files: &missing, ..Rules::default() }).contains("missing"));
    }
}
