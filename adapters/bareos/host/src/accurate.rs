//! What makes a file that the accurate list knows a changed one: the letters of Bareos' FileSet option `Accurate`
//! (reference 6.2).

use std::str::FromStr;

/// The letters, with the bits that plugins see.
const LETTERS: [(char, i32); 11] = [
    ('i', 1),
    ('p', 2),
    ('n', 4),
    ('u', 8),
    ('g', 16),
    ('s', 32),
    ('a', 64),
    ('m', 128),
    ('c', 256),
    ('d', 512),
    ('A', 1024),
];

/// A choice of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccurateOptions(i32);

impl Default for AccurateOptions {
    /// `mcs`: times of change and size.
    fn default() -> Self {
        Self(128 | 256 | 32)
    }
}

/// A letter that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccurateError {
    /// A comparison by checksum.
    #[error("accurate option {0}: comparing by checksum would read every file: use A, which saves every file again")]
    Checksum(char),
    /// No letter of Bareos'.
    #[error("there is no accurate option {0}: use letters of ipnugsamcdA")]
    Unknown(char),
}

impl AccurateOptions {
    /// The bits, each by itself, as bVarAccurateOptions has them.
    #[must_use]
    pub fn bits(self) -> Vec<i32> {
        LETTERS.iter().map(|(_, bit)| *bit).filter(|bit| self.0 & bit != 0).collect()
    }
}

impl FromStr for AccurateOptions {
    type Err = AccurateError;

    fn from_str(text: &str) -> Result<Self, AccurateError> {
        let mut bits = 0;
        for letter in text.chars() {
            match LETTERS.iter().find(|(known, _)| *known == letter) {
                Some((_, bit)) => bits |= bit,
                None if matches!(letter, '5' | '1') => return Err(AccurateError::Checksum(letter)),
                None => return Err(AccurateError::Unknown(letter)),
            }
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_become_the_bits_that_plugins_see() {
        assert_eq!(AccurateOptions::default().bits(), [32, 128, 256]);
        assert_eq!(
            "pinugsmcdaA".parse::<AccurateOptions>().unwrap().bits(),
            [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
        );
        assert_eq!("ms5".parse::<AccurateOptions>().unwrap_err(), AccurateError::Checksum('5'));
        assert_eq!("z".parse::<AccurateOptions>().unwrap_err(), AccurateError::Unknown('z'));
    }
}
