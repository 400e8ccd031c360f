//! What the host has to know of a plugin definition: that it is one, and which module it names (reference 1.2).
//!
//! The worker takes it apart; this page only groups the definitions of a job by module. No text from inside a definition
//! that could be a secret is repeated in an error.

/// The Python module that a definition names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// `module_name`, without backslashes.
    pub name: String,
    /// `module_path`, without backslashes.
    pub path: Option<String>,
}

/// A definition that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// No colon at all. The first words are the contract's own.
    #[error(
        "python3-fd: Illegal plugin definition {0}: it should read python3:module_path=FOLDER:module_name=NAME:OPTION=VALUE"
    )]
    NoColon(String),
    /// Something without an equals sign. The text is the contract's own.
    #[error("python3-fd: Illegal argument {0} without value")]
    NoValue(String),
    /// Another plugin system.
    #[error("the plugin \"{0}\" is not there: a plugin definition starts with python3: (or python:)")]
    OtherPlugin(String),
    /// No `module_name`.
    #[error("a plugin definition names no module: add module_name=NAME (and module_path=FOLDER)")]
    NoModule,
}

impl Module {
    /// The module that `definition` names.
    ///
    /// # Errors
    /// See [`DefinitionError`].
    pub fn of(definition: &str) -> Result<Self, DefinitionError> {
        let Some((plugin, mut rest)) = definition.split_once(':') else {
            return Err(DefinitionError::NoColon(definition.to_owned()));
        };
        if plugin != "python3" && plugin != "python" {
            return Err(DefinitionError::OtherPlugin(plugin.to_owned()));
        }
        let (mut name, mut path) = (None, None);
        while !rest.is_empty() {
            let Some((key, after)) = rest.split_once('=') else {
                return Err(DefinitionError::NoValue(rest.to_owned()));
            };
            let bytes = after.as_bytes();
            let end = (0..bytes.len())
                .find(|&at| bytes[at] == b':' && (at == 0 || bytes[at - 1] != b'\\'))
                .unwrap_or(bytes.len());
            // Both are full names in any case; the last one counts.
            if key.eq_ignore_ascii_case("module_path") {
                path = Some(after[..end].replace('\\', ""));
            } else if key.eq_ignore_ascii_case("module_name") {
                name = Some(after[..end].replace('\\', ""));
            }
            rest = after.get(end + 1..).unwrap_or("");
        }
        match name {
            Some(name) if !name.is_empty() => Ok(Self { name, path }),
            _ => Err(DefinitionError::NoModule),
        }
    }
}

/// A definition as the job log may show it: what tells plugins apart, none of the options, which may hold secrets.
pub(crate) fn shown(definition: &str) -> String {
    match Module::of(definition) {
        Ok(module) => format!("python3:module_name={}:...", module.name),
        Err(_) => "...".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(definition: &str) -> (String, Option<String>) {
        let module = Module::of(definition).unwrap();
        (module.name, module.path)
    }

    #[test]
    fn the_module_is_found_wherever_it_stands() {
        assert_eq!(module("python3:module_name=m"), ("m".into(), None));
        assert_eq!(
            module("python:a=b\\:module_name=x:MODULE_NAME=m:module_path=/p\\:q:c="),
            ("m".into(), Some("/p:q".into()))
        );
        assert_eq!(module("python3:module_name=x:o=1::module_name=y"), ("x".into(), None));
        assert_eq!(module("python3:module_name=x:module_name=y:"), ("y".into(), None));
    }

    #[test]
    fn options_are_not_shown() {
        assert_eq!(shown("python3:password=secret:module_name=m:a=1"), "python3:module_name=m:...");
        assert_eq!(shown("secret"), "...");
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        assert!(
            Module::of("python3").unwrap_err().to_string().starts_with("python3-fd: Illegal plugin definition python3")
        );
        assert_eq!(
            Module::of("python3:module_name=m:flag").unwrap_err().to_string(),
            "python3-fd: Illegal argument flag without value"
        );
        assert_eq!(Module::of("bpipe:file=x").unwrap_err(), DefinitionError::OtherPlugin("bpipe".into()));
        assert_eq!(Module::of("python3:m=4:password=secret").unwrap_err(), DefinitionError::NoModule);
        assert!(!DefinitionError::NoModule.to_string().contains("secret"));
    }
}
