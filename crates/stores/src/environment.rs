//! Where credentials and defaults come from when the address does not say them: the environment of the process, or a
//! map that stands for it in tests.

use std::collections::HashMap;
use std::fmt;

/// A source of variables.
#[derive(Clone, Default)]
pub enum Environment {
    /// The environment of this process.
    #[default]
    Process,
    /// These variables and no others.
    Fixed(HashMap<String, String>),
}

impl Environment {
    /// These variables and no others.
    pub fn fixed<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Self::Fixed(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A variable's value; one that is empty or not UTF-8 counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        match self {
            Self::Process => std::env::var(name).ok(),
            Self::Fixed(map) => map.get(name).cloned(),
        }
        .filter(|value| !value.is_empty())
    }

    /// The first of these variables that is set.
    #[must_use]
    pub fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    /// Whether these are the process's own variables, so that libraries that read those may be asked, too.
    #[must_use]
    pub fn is_process(&self) -> bool {
        matches!(self, Self::Process)
    }
}

/// Values can be secrets: only names are shown.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("Process"),
            Self::Fixed(map) => f.debug_tuple("Fixed").field(&map.keys().collect::<Vec<_>>()).finish(),
        }
    }
}
