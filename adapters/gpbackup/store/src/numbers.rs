//! Which timestamps are ours, and what each of them holds.
//!
//! A timestamp is `SSSSSSSCNNNNNN`: a series, which is the number of one repository in its place; a class of objects; and a number
//! that is never used twice. The first digit is 3 to 8: no clock gives such a year, so nothing of gpbackup's own in the same
//! place is ever ours to delete, and the test bench of the plugins, whose timestamps begin with 9, is not in the way either. Plugins take any
//! 14 digits (reference 1, fact 6). Whoever knows the series knows the name of every copy of the journal.

use std::fmt;

use backstay_core::ObjectKind;
use backstay_gpbackup_host::Timestamp;

/// The number of a repository in its place: seven digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series(u32);

impl Series {
    /// One that nobody else has, most likely.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let number = getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?;
        let number = u32::try_from(number % 6_000_000).unwrap_or_default();
        Ok(Self(3_000_000 + number))
    }

    /// Seven digits, the first of them 3 to 8.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 7 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits)?;
        (3_000_000..9_000_000).contains(&number).then_some(Self(number))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What lies together. What is deleted at different times never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Copies of the journal.
    Journal,
    /// The config and the keys: nearly never deleted.
    Head,
    /// Snapshots.
    Snapshots,
    /// Index files: replaced by every prune.
    Index,
    /// Packs.
    Packs,
}

/// All of them, by their digits.
pub const CLASSES: [Class; 5] = [Class::Journal, Class::Head, Class::Snapshots, Class::Index, Class::Packs];

impl Class {
    /// Where objects of a kind go; locks go nowhere.
    #[must_use]
    pub fn of(kind: ObjectKind) -> Option<Self> {
        Some(match kind {
            ObjectKind::Config | ObjectKind::Key => Self::Head,
            ObjectKind::Snapshot => Self::Snapshots,
            ObjectKind::Index => Self::Index,
            ObjectKind::Pack => Self::Packs,
            ObjectKind::Lock => return None,
        })
    }

    /// After so many objects a generation is full: few large ones, so that little has to be written anew when most of them are
    /// garbage; many small ones.
    #[must_use]
    pub fn most(self) -> u64 {
        if self == Self::Packs { 8 } else { 64 }
    }
}

/// The objects of one timestamp: written by one process, deleted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// What lies in it.
    pub class: Class,
    /// Its number in the class.
    pub number: u32,
}

impl Generation {
    /// Numbers are below this.
    pub const END: u32 = 1_000_000;

    /// Its timestamp.
    #[must_use]
    pub fn timestamp(self, series: Series) -> Option<Timestamp> {
        Timestamp::parse(&format!("{series}{self}"))
    }

    /// Reads the last seven digits of a timestamp.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 7 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let class = *CLASSES.get(usize::from(text.as_bytes()[0] - b'0'))?;
        Some(Self { class, number: text[1..].parse().ok()? })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:06}", self.class as u8, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_no_dates_and_read_back() {
        for _ in 0..1000 {
            let series = Series::random().unwrap();
            assert_eq!(Series::parse(&series.to_string()), Some(series));
            let generation = Generation { class: Class::Packs, number: 42 };
            let timestamp = generation.timestamp(series).unwrap();
            assert_eq!(timestamp.as_str(), format!("{series}4000042"));
            assert!((b'3'..=b'8').contains(&timestamp.as_str().as_bytes()[0]));
            assert_eq!(Generation::parse(&timestamp.as_str()[7..]), Some(generation));
        }
        for text in ["2026112", "9000000", "812345", "81234567", "8123a56", ""] {
            assert_eq!(Series::parse(text), None, "{text}");
        }
        for text in ["5000000", "400000", "40000000", "x000000"] {
            assert_eq!(Generation::parse(text), None, "{text}");
        }
    }
}
