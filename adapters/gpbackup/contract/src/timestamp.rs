//! The name of a backup (reference 7.1).

use std::fmt;

/// Fourteen digits, which need not be a date (reference 1, fact 6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(String);

impl Timestamp {
    /// Nothing but fourteen digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| Self(text.to_owned()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight of them, by which its folder is found.
    #[must_use]
    pub fn date(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_one() {
        assert_eq!(Timestamp::parse("95972435002754").unwrap().date(), "95972435");
        for text in ["", "2026", "2026010100000", "202601010000000", "2026010100000x", "٢٠٢٦٠١٠١٠٠٠٠٠٠"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
