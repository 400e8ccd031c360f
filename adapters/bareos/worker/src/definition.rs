//! The plugin definition string (reference 1.2) and its overrides (1.5). No Python here.
//!
//! One thing is ours: `key@env=NAME` and `key@file=PATH` stand for `key=VALUE` with a value that is looked up here, in the
//! worker. So a password is in no process list, no job log, no repository: the definition that is stored names only where
//! the value is.

/// What a definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// The options as Python sees them: `key=value:` each, unchanged.
    pub options: String,
    /// Value of `module_path`, without backslashes.
    pub module_path: Option<String>,
    /// Value of `module_name`, without backslashes.
    pub module_name: Option<String>,
}

/// A definition that cannot be taken apart. The texts are the contract's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// No colon at all.
    #[error("python3-fd: Illegal plugin definition {0}")]
    NoColon(String),
    /// Something without an equals sign.
    #[error("python3-fd: Illegal argument {0} without value")]
    NoValue(String),
    /// A value that is kept elsewhere and cannot be had.
    #[error("the plugin option {key} cannot be had: {reason}")]
    Secret {
        /// The option, with its `@env` or `@file`.
        key: String,
        /// What went wrong; never the value.
        reason: String,
    },
}

/// Which of two values of the same key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    First,
    Last,
}

impl Definition {
    /// Takes a definition apart.
    ///
    /// # Errors
    /// See [`DefinitionError`].
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        Self::parse_keeping(text, Keep::Last)
    }

    /// Takes a stored definition apart behind an override that was remembered for it. The override's options come
    /// first, and of `module_path` and `module_name` the first value counts.
    ///
    /// # Errors
    /// See [`DefinitionError`].
    pub fn parse_overridden(over: &str, stored: &str) -> Result<Self, DefinitionError> {
        let Some((_, stored_options)) = stored.split_once(':') else {
            return Err(DefinitionError::NoColon(stored.to_owned()));
        };
        let separator = if over.ends_with(':') { "" } else { ":" };
        Self::parse_keeping(&format!("{over}{separator}{stored_options}"), Keep::First)
    }

    fn parse_keeping(text: &str, keep: Keep) -> Result<Self, DefinitionError> {
        let Some((_, mut rest)) = text.split_once(':') else {
            return Err(DefinitionError::NoColon(text.to_owned()));
        };
        let mut definition = Self::default();
        while !rest.is_empty() {
            let Some((key, after)) = rest.split_once('=') else {
                return Err(DefinitionError::NoValue(rest.to_owned()));
            };
            let end = end_of_value(after);
            let value = &after[..end];
            rest = after.get(end + 1..).unwrap_or("");

            let module = if key.eq_ignore_ascii_case("module_path") {
                &mut definition.module_path
            } else if key.eq_ignore_ascii_case("module_name") {
                &mut definition.module_name
            } else {
                match kept_elsewhere(key, value)? {
                    Some((key, value)) => definition.push_option(key, &value),
                    None => definition.push_option(key, value),
                }
                continue;
            };
            if module.is_none() || keep == Keep::Last {
                *module = Some(value.replace('\\', ""));
            }
        }
        Ok(definition)
    }

    fn push_option(&mut self, key: &str, value: &str) {
        for text in [key, "=", value, ":"] {
            self.options.push_str(text);
        }
    }
}

/// The option that `key@env=NAME` or `key@file=PATH` stands for, its value escaped as a definition wants it. None for
/// ordinary options. One line break at the end of a file is not part of the value.
pub(crate) fn kept_elsewhere<'a>(key: &'a str, place: &str) -> Result<Option<(&'a str, String)>, DefinitionError> {
    let place = place.replace('\\', "");
    let (name, value) = if let Some(name) = key.strip_suffix("@env") {
        (name, std::env::var(&place).map_err(|error| format!("the environment variable {place}: {error}")))
    } else if let Some(name) = key.strip_suffix("@file") {
        (name, std::fs::read_to_string(&place).map_err(|error| format!("the file {place}: {error}")))
    } else {
        return Ok(None);
    };
    let refused = |reason| DefinitionError::Secret { key: key.to_owned(), reason };
    let mut value = value.map_err(refused)?;
    if key.ends_with("@file") && value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    if value.ends_with('\\') {
        return Err(refused("a definition has no way to give a value that ends with a backslash".to_owned()));
    }
    Ok(Some((name, value.replace(':', "\\:"))))
}

/// Where a value ends: at the next colon that does not directly follow a backslash.
fn end_of_value(text: &str) -> usize {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&i| bytes[i] == b':' && (i == 0 || bytes[i - 1] != b'\\')).unwrap_or(bytes.len())
}

/// What an override text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    /// It is ours.
    Ours,
    /// A bare name or the name of another plugin: dropped without a word.
    NotOurs,
    /// No colon but a blank: reported, and handed to all plugins.
    Malformed,
}

/// Says whom an override addresses.
#[must_use]
pub fn classify_override(text: &str) -> Override {
    match text.split_once(':') {
        Some((name, _)) if is_our_name(name) => Override::Ours,
        None if text.contains(' ') => Override::Malformed,
        Some(_) | None => Override::NotOurs,
    }
}

/// Whether a definition's prefix selects the Python host: `python3`, or `python` by leaving out the last character.
#[must_use]
pub fn is_our_name(name: &str) -> bool {
    name == "python3" || name == "python"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Option<String>, Option<String>) {
        let definition = Definition::parse(text).unwrap();
        (definition.options, definition.module_path, definition.module_name)
    }

    fn m() -> Option<String> {
        Some("m".to_owned())
    }

    #[test]
    fn the_table_of_the_reference_holds() {
        assert_eq!(
            parsed("python3:module_path=/p:module_name=m:option=value"),
            ("option=value:".to_owned(), Some("/p".to_owned()), m())
        );
        assert_eq!(parsed("python3:module_name=m"), (String::new(), None, m()));
        assert_eq!(parsed(r"python:module_name=m:a=1:b=x\:y:c="), (r"a=1:b=x\:y:c=:".to_owned(), None, m()));
        assert_eq!(
            parsed("python3:module_name=m:mycnf=my.cnf::dumpbinary=/b"),
            ("mycnf=my.cnf::dumpbinary=/b:".to_owned(), None, m())
        );
        assert_eq!(parsed("python3:module_name=m:option1 = value1"), ("option1 = value1:".to_owned(), None, m()));
    }

    #[test]
    fn a_definition_without_a_colon_is_illegal() {
        let error = Definition::parse("python3").unwrap_err();
        assert_eq!(error.to_string(), "python3-fd: Illegal plugin definition python3");
    }

    #[test]
    fn an_option_without_a_value_is_illegal() {
        let error = Definition::parse("python3:module_name=m:flag").unwrap_err();
        assert_eq!(error.to_string(), "python3-fd: Illegal argument flag without value");
    }

    #[test]
    fn a_key_runs_to_the_next_equals_sign() {
        assert_eq!(parsed("python3:foo:module_name=x"), ("foo:module_name=x:".to_owned(), None, None));
    }

    #[test]
    fn module_keys_match_in_any_case_but_only_in_full() {
        assert_eq!(parsed("python3:Module_NAME=m:m=4"), ("m=4:".to_owned(), None, m()));
    }

    #[test]
    fn module_values_lose_their_backslashes_and_the_last_one_counts() {
        assert_eq!(
            parsed(r"python3:module_name=x:module_path=/a\:b:module_name=m:"),
            (String::new(), Some("/a:b".to_owned()), m())
        );
    }

    #[test]
    fn a_value_kept_elsewhere_is_looked_up_and_escaped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "pa:ss word\n").unwrap();
        let definition = format!("python3:module_name=m:user=u:password@file={}:last=1", file.path().display());
        assert_eq!(parsed(&definition).0, r"user=u:password=pa\:ss word:last=1:");
        let home = std::env::var("PATH").unwrap().replace(':', r"\:");
        assert_eq!(parsed("python3:p@env=PATH:module_name=m").0, format!("p={home}:"));
    }

    #[test]
    fn a_value_that_cannot_be_had_is_named_by_its_option_and_place() {
        let error = Definition::parse("python3:password@env=NO_SUCH_VARIABLE:module_name=m").unwrap_err().to_string();
        assert!(error.contains("password@env") && error.contains("NO_SUCH_VARIABLE"), "{error}");
        let error = Definition::parse("python3:password@file=/no/such/file:module_name=m").unwrap_err().to_string();
        assert!(error.contains("password@file") && error.contains("/no/such/file"), "{error}");
    }

    #[test]
    fn an_override_comes_first_and_may_redirect_the_module() {
        let both =
            Definition::parse_overridden("python3:a=9:module_path=/q", "python3:module_path=/p:module_name=m:a=1");
        let both = both.unwrap();
        assert_eq!(both.options, "a=9:a=1:");
        assert_eq!(both.module_path.as_deref(), Some("/q"));
        assert_eq!(both.module_name.as_deref(), Some("m"));
    }

    #[test]
    fn an_override_is_for_us_by_its_prefix_only() {
        assert_eq!(classify_override("python3:a=1"), Override::Ours);
        assert_eq!(classify_override("python:a=1"), Override::Ours);
        assert_eq!(classify_override("bogus:k=v"), Override::NotOurs);
        assert_eq!(classify_override("python3"), Override::NotOurs);
        assert_eq!(classify_override("a b"), Override::Malformed);
    }
}
