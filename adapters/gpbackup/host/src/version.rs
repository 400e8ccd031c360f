//! What plugins say of themselves (reference 2, 5): the version of the contract, their name and their own version.

use std::fmt;

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u64, pub u64, pub u64);

impl ApiVersion {
    /// The oldest that gpbackup accepts.
    pub const OLDEST: Self = Self(0, 3, 0);
    /// The first with `delete_backup`.
    pub const DELETES: Self = Self(0, 4, 0);
    /// The first with `list_directory`.
    pub const LISTS: Self = Self(0, 5, 0);

    /// Reads what `plugin_api_version` printed: three numbers without leading zeros, white space around them.
    #[must_use]
    pub fn parse(printed: &str) -> Option<Self> {
        let mut parts = printed.trim().split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits && (part == "0" || !part.starts_with('0')) { part.parse().ok() } else { None }
        });
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() { None } else { Some(version) }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What `--version` printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeVersion {
    /// The first word.
    pub name: String,
    /// The third word, which a history records.
    pub version: String,
    words: usize,
}

impl NativeVersion {
    /// Reads it: at least three words.
    #[must_use]
    pub fn parse(printed: &str) -> Option<Self> {
        let line = printed.trim();
        let mut words = line.split(' ');
        let (name, _, version) = (words.next()?, words.next()?, words.next()?);
        Some(Self { name: name.to_owned(), version: version.trim_end().to_owned(), words: line.split(' ').count() })
    }

    /// Whether there are exactly three words, as encrypted passwords need.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.words == 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_are_a_version() {
        assert_eq!(ApiVersion::parse(" \n0.3.0\n"), Some(ApiVersion(0, 3, 0)));
        assert!(ApiVersion::parse("0.10.0").unwrap() > ApiVersion::DELETES);
        assert!(ApiVersion::parse("0.2.9").unwrap() < ApiVersion::OLDEST);
        for text in ["v0.4.0", "0.4", "", "0.4.0.1", "0.04.0", "0.-4.0", "0.+4.0", "a.b.c", "0.4.0 x"] {
            assert_eq!(ApiVersion::parse(text), None, "{text}");
        }
    }

    #[test]
    fn three_words_are_needed_and_more_are_allowed() {
        let version = NativeVersion::parse("x version 1.2+dev\n").unwrap();
        assert_eq!((version.name.as_str(), version.version.as_str(), version.is_exact()), ("x", "1.2+dev", true));
        assert!(!NativeVersion::parse("x version 1.2 beta").unwrap().is_exact());
        assert_eq!(NativeVersion::parse("x 1.2"), None);
    }
}
