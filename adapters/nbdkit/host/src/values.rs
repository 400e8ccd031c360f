//! Values of parameters: read as nbdkit spells them, refused in one sentence that says where and what to do. No I/O.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::numbers::{parse_bool, parse_probability, parse_size};
use crate::plugin::{End, Step};

/// A parameter as it stands on the command line.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Whose it is.
    pub(crate) owner: &'static str,
    pub(crate) key: &'a str,
    pub(crate) value: &'a OsStr,
}

/// Nobody takes this parameter.
pub(crate) fn unknown(owner: &str, key: &str, known: &[&str]) -> End {
    End::Line(format!("{owner}: unknown parameter '{key}': there are {}", known.join(", ")))
}

/// Switches are `true` or `false`, or a path whose existence decides while the server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Switch {
    #[default]
    Off,
    On,
    /// On while this path exists.
    While(PathBuf),
}

impl Switch {
    pub(crate) fn is_on(&self) -> bool {
        match self {
            Self::Off => false,
            Self::On => true,
            Self::While(path) => path.exists(),
        }
    }
}

impl<'a> Given<'a> {
    /// What is wrong with the value.
    pub(crate) fn wrong(&self, what: impl std::fmt::Display) -> End {
        End::Line(format!("{}: {}={}: {what}", self.owner, self.key, self.value.display()))
    }

    /// The value as text.
    pub(crate) fn text(&self) -> Step<&'a str> {
        self.value.to_str().ok_or_else(|| self.wrong("this is not UTF-8"))
    }

    /// A size in bytes.
    pub(crate) fn size(&self) -> Step<u64> {
        let size = parse_size(self.text()?).map_err(|error| self.wrong(error))?;
        u64::try_from(size).map_err(|_| self.wrong("a size cannot be negative"))
    }

    /// A size that is a power of two in a range.
    pub(crate) fn power_of_two(&self, least: u64, most: u64) -> Step<u64> {
        let size = self.size()?;
        if size.is_power_of_two() && (least..=most).contains(&size) {
            return Ok(size);
        }
        Err(self.wrong(format!("it must be a power of two, {least} to {most} bytes")))
    }

    pub(crate) fn boolean(&self) -> Step<bool> {
        parse_bool(self.text()?).ok_or_else(|| self.wrong("it must be true or false"))
    }

    /// `true`, `false`, or an absolute path.
    pub(crate) fn switch(&self) -> Step<Switch> {
        if Path::new(self.value).is_absolute() {
            return Ok(Switch::While(self.value.into()));
        }
        match self.value.to_str().and_then(parse_bool) {
            Some(true) => Ok(Switch::On),
            Some(false) => Ok(Switch::Off),
            None => Err(self.wrong("it must be true, false or an absolute path")),
        }
    }

    /// A probability from 0 to 1.
    pub(crate) fn probability(&self) -> Step<f64> {
        let value = parse_probability(self.key, self.text()?).map_err(|error| self.wrong(error))?;
        if value <= 1.0 { Ok(value) } else { Err(self.wrong("it must be between 0% and 100%, or 0 and 1")) }
    }

    /// A whole number in a range.
    pub(crate) fn number(&self, least: u64, most: u64) -> Step<u64> {
        let number = self.text()?.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(format!("it must be a number from {least} to {most}")))
    }

    /// A path that still means the same after the server has gone into the background.
    pub(crate) fn path(&self) -> Step<PathBuf> {
        std::path::absolute(self.value).map_err(|error| self.wrong(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given<'a>(value: &'a str) -> Given<'a> {
        Given { owner: "owner", key: "key", value: OsStr::new(value) }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_owner_and_key() {
        for step in [
            given("x").size().map(|_| ()),
            given("5000").power_of_two(4096, 1 << 20).map(|_| ()),
            given("maybe").boolean().map(|_| ()),
            given("relative/path").switch().map(|_| ()),
            given("101%").probability().map(|_| ()),
            given("0").number(1, 100).map(|_| ()),
        ] {
            let Err(End::Line(line)) = step else { panic!("{step:?}") };
            assert!(line.starts_with("owner: key="), "{line}");
        }
    }

    #[test]
    fn a_switch_can_be_a_path() {
        assert_eq!(given("on").switch(), Ok(Switch::On));
        assert_eq!(given("false").switch(), Ok(Switch::Off));
        assert!(given("/").switch().unwrap().is_on());
        assert!(!given("/nonexistent").switch().unwrap().is_on());
    }
}
