//! Output names by rules: Bareos' `RegexWhere`, a list like `!etc!rescue/etc!i,/\.bak$//` (reference 4.7).
//!
//! A rule begins with its separator; pattern (a POSIX extended expression) and replacement follow, each ended by the
//! separator, then `i` for a pattern that does not look at upper and lower case. `\1` or `$1` stand for a group. Every
//! rule changes the first place that fits it, one rule after the other.

use regex::bytes::{Captures, Regex, RegexBuilder};

/// Characters that can separate the parts of a rule.
const SEPARATORS: &str = "!:;|,&%=~/<#";

/// Rules that make output names.
#[derive(Clone, Debug)]
pub struct OutputNames(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    pattern: Regex,
    replacement: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

/// A text that is no list of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputNamesError {
    /// It does not begin with a separator.
    #[error("\"{0}\" is no rule for names: it should read !PATTERN!REPLACEMENT! (the first of {SEPARATORS} separates)")]
    NoRule(String),
    /// A part is not ended.
    #[error("the rule for names \"{0}\" is not ended: pattern and replacement each end with the separator")]
    NotEnded(String),
    /// A letter after the rule that is not `i`.
    #[error("the rule for names \"{0}\" ends with a letter other than i")]
    Option(String),
    /// The pattern is none.
    #[error("the pattern \"{pattern}\" of a rule for names cannot be used: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the parser said.
        reason: String,
    },
}

impl OutputNames {
    /// Reads a list of rules.
    ///
    /// # Errors
    /// See [`OutputNamesError`].
    pub fn parse(text: &str) -> Result<Self, OutputNamesError> {
        let mut rules = Vec::new();
        let mut rest = text;
        loop {
            let Some(separator) = rest.chars().next().filter(|first| SEPARATORS.contains(*first)) else {
                return Err(OutputNamesError::NoRule(rest.to_owned()));
            };
            let not_ended = || OutputNamesError::NotEnded(rest.to_owned());
            let (pattern, after) = part(&rest[1..], separator).ok_or_else(not_ended)?;
            let (replacement, after) = part(after, separator).ok_or_else(not_ended)?;
            let (options, next) = after.split_once(',').map_or((after, None), |(options, next)| (options, Some(next)));
            if options.chars().any(|letter| letter != 'i') {
                return Err(OutputNamesError::Option(rest.to_owned()));
            }
            let refused =
                |error: regex::Error| OutputNamesError::Pattern { pattern: pattern.clone(), reason: error.to_string() };
            let regex = RegexBuilder::new(&pattern).unicode(false).case_insensitive(options.contains('i')).build();
            rules.push(Rule { pattern: regex.map_err(refused)?, replacement: parts(&replacement) });
            match next {
                None | Some("") => return Ok(Self(rules)),
                Some(next) => rest = next,
            }
        }
    }

    /// The output name of `name`.
    #[must_use]
    pub fn apply(&self, name: &[u8]) -> Vec<u8> {
        self.0.iter().fold(name.to_vec(), |name, rule| {
            rule.pattern.replace(&name, |found: &Captures<'_>| rule.replaced(found)).into_owned()
        })
    }
}

impl Rule {
    fn replaced(&self, found: &Captures<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.replacement {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Group(number) => out.extend(found.get(*number).map_or(&[][..], |group| group.as_bytes())),
            }
        }
        out
    }
}

/// The text up to the separator, in which a backslash takes the separator's meaning away, and what follows it.
fn part(text: &str, separator: char) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => match letters.next()? {
                (_, next) if next == separator => out.push(next),
                (_, next) => out.extend(['\\', next]),
            },
            _ if letter == separator => return Some((out, &text[at + separator.len_utf8()..])),
            _ => out.push(letter),
        }
    }
    None
}

fn parts(replacement: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        let group = letters.peek().and_then(|next| next.to_digit(10)).filter(|_| matches!(letter, '\\' | '$'));
        match group {
            Some(number) => {
                letters.next();
                parts.push(Part::Text(std::mem::take(&mut text)));
                parts.push(Part::Group(number as usize));
            }
            None => {
                // A backslash before anything else stands for that.
                let letter = if letter == '\\' { letters.next().unwrap_or('\\') } else { letter };
                text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    parts.push(Part::Text(text));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(rules: &str, name: &str) -> String {
        String::from_utf8(OutputNames::parse(rules).unwrap().apply(name.as_bytes())).unwrap()
    }

    #[test]
    fn each_rule_changes_the_first_place_that_fits() {
        assert_eq!(named("!/etc!/rescue/etc!", "/etc/etc"), "/rescue/etc/etc");
        assert_eq!(named("!^/!/x/!,!\\.txt$!.old!", "/a.txt"), "/x/a.old");
        assert_eq!(named("/ETC/var/i", "/etc/x"), "/var/x");
        assert_eq!(named("!nothing!else!", "/a"), "/a");
    }

    #[test]
    fn groups_and_escapes_are_put_in() {
        assert_eq!(named(r"!^(/[a-z]+)/(.*)!\2\1!", "/home/me"), "me/home");
        assert_eq!(named("!^(.*)$!/copy$1!", "/a"), "/copy/a");
        assert_eq!(named(r"/\/a/\/b\/c/", "/a"), "/b/c");
        assert_eq!(named(r"!a!\$1!", "a"), "$1");
    }

    #[test]
    fn what_is_no_list_of_rules_is_refused() {
        let error = |text: &str| OutputNames::parse(text).unwrap_err();
        assert!(matches!(error(""), OutputNamesError::NoRule(_)));
        assert!(matches!(error("abc"), OutputNamesError::NoRule(_)));
        assert!(matches!(error("!a!b"), OutputNamesError::NotEnded(_)));
        assert!(matches!(error("!a!b!x"), OutputNamesError::Option(_)));
        assert!(matches!(error("!(!b!"), OutputNamesError::Pattern { .. }));
    }

    #[test]
    fn names_may_be_any_bytes() {
        let names = OutputNames::parse("!^/a!/b!").unwrap();
        assert_eq!(names.apply(b"/a\xff"), b"/b\xff");
    }
}
