//! The messages between the host and the worker of a storage-daemon or director plugin (reference 7): the plugin hears of
//! events and reads values; no file data passes. One process serves one instance of one daemon's plugin for a job.
//!
//! The host asks, the worker answers, one at a time: [`ToHook::Options`] and [`ToHook::Event`] are each answered by one
//! [`FromHook::Answered`]. The process ends when the host closes the socket.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Raised when a message of this page changes.
pub const HOOK_PROTOCOL_VERSION: u32 = 1;

/// Highest number of an instance.
pub const LAST_INSTANCE: i64 = 127;

/// Whose plugin it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Daemon {
    /// The storage daemon's: the module `bareossd`.
    Storage,
    /// The director's: the module `bareosdir`.
    Director,
}

impl Daemon {
    /// The name of the module that its plugins import.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::Storage => "bareossd",
            Self::Director => "bareosdir",
        }
    }

    /// The worker's command that serves it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Storage => "bareos-sd",
            Self::Director => "bareos-dir",
        }
    }

    /// The name of the original's shared object, as its messages have it.
    #[must_use]
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Storage => "python3-sd",
            Self::Director => "python3-dir",
        }
    }
}

/// What GetValue gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// `None`.
    None,
    /// An int.
    Int(i64),
    /// A str.
    Text(String),
}

/// What the host tells the worker before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSpec {
    /// [`HOOK_PROTOCOL_VERSION`] of the host.
    pub protocol: u32,
    /// Whose plugin it is.
    pub daemon: Daemon,
    /// How many instances the daemon has in this job: GetInstanceCount.
    pub instances: u32,
    /// The values by their read number. A number that is missing reads as `None`.
    pub values: Vec<(i32, Value)>,
    /// Folders put on `sys.path` behind `module_path`.
    pub module_directories: Vec<String>,
    /// DebugMessage texts up to this level are sent.
    pub debug_level: i32,
    /// Every callback is told in a [`FromHook::Trace`].
    pub trace: bool,
}

/// From the host to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHook {
    /// First frame. Answered by [`FromHook::Ready`].
    Start(Box<HookSpec>),
    /// Event NewPluginOptions, with the definition word for word. Loads the script the first time.
    Options(String),
    /// Another event, with the values that differ from what was told before.
    Event {
        /// Its number.
        number: u8,
        /// Values by their read number.
        values: Vec<(i32, Value)>,
    },
}

/// From the worker to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHook {
    /// Answer to Start.
    Ready {
        /// [`HOOK_PROTOCOL_VERSION`] of the worker.
        protocol: u32,
        /// Version of the interpreter.
        python: String,
    },
    /// A JobMessage (with its M_* number and the newline that is appended), or a traceback (M_FATAL).
    Message {
        /// M_* number of the reference, 2.1.
        kind: i32,
        /// The text.
        text: String,
    },
    /// One callback, as a line of JSON.
    Trace(String),
    /// Answer to Options and Event. Messages of the call came before it.
    Answered {
        /// What the plugin answered.
        answer: HookAnswer,
        /// The volume's name, if the plugin set one since the last answer.
        volume: Option<String>,
    },
}

/// What a plugin made of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookAnswer {
    /// The callback returned this integer.
    Code(i64),
    /// The event is not registered: nothing was called.
    NotRegistered,
    /// The script has no such callback.
    Missing,
    /// It raised; the traceback was sent.
    Raised,
    /// It returned something that is no integer.
    NotAnInteger,
    /// The script could not be loaded; what the contract says about it was sent.
    NotLoaded(String),
}

/// What a definition of these two daemons says (reference 1.2, last paragraph).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookDefinition {
    /// Key and value of each option, in order, unchanged.
    pub options: Vec<(String, String)>,
    /// Value of `module_path`, without backslashes.
    pub module_path: Option<String>,
    /// Value of `module_name`, without backslashes.
    pub module_name: Option<String>,
    /// Value of `instance`.
    pub instance: u8,
}

/// A definition that cannot be used. No text from inside it that could be a secret is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookDefinitionError {
    /// No colon at all.
    NoColon(Daemon),
    /// Another plugin system than `python3`.
    OtherPlugin(Daemon),
    /// Something without an equals sign, by its place among the arguments, from 1.
    NoValue(Daemon, usize),
    /// An equals sign without a key before it, by its place.
    NoKey(Daemon, usize),
    /// `instance` is no number from 0 to 127.
    NoInstance(Daemon),
}

impl fmt::Display for HookDefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon(daemon) => write!(
                f,
                "{}: Illegal plugin definition: it should read python3:module_path=FOLDER:module_name=NAME:OPTION=VALUE",
                daemon.plugin()
            ),
            Self::OtherPlugin(daemon) => {
                write!(f, "{}: Illegal plugin definition: it has to start with python3:", daemon.plugin())
            }
            Self::NoValue(daemon, place) => {
                write!(f, "{}: Illegal argument number {place} without value", daemon.plugin())
            }
            Self::NoKey(daemon, place) => write!(f, "{}: Illegal argument number {place} without key", daemon.plugin()),
            Self::NoInstance(daemon) => {
                write!(f, "{}: instance takes a number from 0 to {LAST_INSTANCE}", daemon.plugin())
            }
        }
    }
}

impl std::error::Error for HookDefinitionError {}

impl HookDefinition {
    /// Takes a definition apart. The last value of a key that is consumed counts.
    ///
    /// # Errors
    /// See [`HookDefinitionError`].
    pub fn parse(daemon: Daemon, text: &str) -> Result<Self, HookDefinitionError> {
        let Some((plugin, mut rest)) = text.split_once(':') else { return Err(HookDefinitionError::NoColon(daemon)) };
        if !plugin.eq_ignore_ascii_case("python3") {
            return Err(HookDefinitionError::OtherPlugin(daemon));
        }
        let mut definition = Self::default();
        let mut place = 0;
        while !rest.is_empty() {
            place += 1;
            let Some((key, after)) = rest.split_once('=') else {
                return Err(HookDefinitionError::NoValue(daemon, place));
            };
            if key.is_empty() {
                return Err(HookDefinitionError::NoKey(daemon, place));
            }
            let bytes = after.as_bytes();
            let end = (0..bytes.len())
                .find(|&at| bytes[at] == b':' && (at == 0 || bytes[at - 1] != b'\\'))
                .unwrap_or(bytes.len());
            let value = &after[..end];
            rest = after.get(end + 1..).unwrap_or("");
            if key.eq_ignore_ascii_case("instance") {
                let number = value.parse().ok().filter(|number| (0..=LAST_INSTANCE).contains(number));
                let number = number.ok_or(HookDefinitionError::NoInstance(daemon))?;
                definition.instance = u8::try_from(number).map_err(|_| HookDefinitionError::NoInstance(daemon))?;
            } else if key.eq_ignore_ascii_case("module_path") {
                definition.module_path = Some(value.replace('\\', ""));
            } else if key.eq_ignore_ascii_case("module_name") {
                definition.module_name = Some(value.replace('\\', ""));
            } else {
                definition.options.push((key.to_owned(), value.to_owned()));
            }
        }
        Ok(definition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> HookDefinition {
        HookDefinition::parse(Daemon::Director, text).unwrap()
    }

    fn refused(text: &str) -> String {
        HookDefinition::parse(Daemon::Storage, text).unwrap_err().to_string()
    }

    #[test]
    fn the_three_keys_match_in_full_and_in_any_case_and_the_rest_stays_as_it_is() {
        let definition = parsed(r"Python3:Instance=7:MODULE_path=/a\:b:module_name=x:module_name=m:m=4:o = v\:w:e=:");
        assert_eq!(definition.instance, 7);
        assert_eq!(definition.module_path.as_deref(), Some("/a:b"));
        assert_eq!(definition.module_name.as_deref(), Some("m"));
        let options: Vec<_> = definition.options.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(options, [("m", "4"), ("o ", r" v\:w"), ("e", "")]);
        assert_eq!(parsed("python3:").instance, 0);
    }

    #[test]
    fn what_is_no_definition_is_refused_without_repeating_it() {
        assert!(refused("secret").starts_with("python3-sd: Illegal plugin definition"));
        // The shorter name is the file daemon's.
        assert!(refused("python:module_name=m").contains("python3:"));
        assert_eq!(refused("python3:module_name=m:secret"), "python3-sd: Illegal argument number 2 without value");
        assert_eq!(refused("python3:=secret"), "python3-sd: Illegal argument number 1 without key");
        for number in ["128", "-1", "x", ""] {
            assert!(refused(&format!("python3:instance={number}")).contains("from 0 to 127"), "{number}");
        }
    }
}
