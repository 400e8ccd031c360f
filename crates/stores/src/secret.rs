//! Words that must not be seen: they have no readable `Debug`, and texts of other programs are searched for them.

use std::fmt;

/// A password, a key, a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps this text from being seen.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who needs it to log in.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Replaces each of the secrets in a text that another program made. Very short secrets are left alone: they would match
/// parts of ordinary words, and hide nothing.
#[must_use]
pub(crate) fn scrub(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for Secret(secret) in secrets {
        if secret.len() >= 4 && text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), "***");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_neither_printed_nor_left_in_a_text() {
        let secret = Secret::new("hush-hush");
        assert!(!format!("{secret:?}").contains("hush"));
        assert_eq!(scrub("key hush-hush is wrong", std::slice::from_ref(&secret)), "key *** is wrong");
        assert_eq!(scrub("the key", &[Secret::new("key")]), "the key");
        assert_eq!(secret.expose(), "hush-hush");
    }
}
