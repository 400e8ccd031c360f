//! Bareos plugins as the command line names them: definitions, how they run, backup and restore.

use std::path::PathBuf;

use backstay_core::Source;
use jiff::Zoned;

use crate::args::PluginOptions;
use crate::failure::Failure;

/// All definitions: those of the command line, then those in files.
///
/// # Errors
/// When a file cannot be read, or a definition is empty. What a file holds is not repeated.
pub fn definitions(texts: &[String], files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut definitions = Vec::new();
    for text in texts {
        if text.trim().is_empty() {
            return Err(Failure::fatal("--plugin is empty: a plugin definition is expected"));
        }
        definitions.push(text.clone());
    }
    for file in files {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::fatal(format!("cannot read the plugin definition {shown}: {error}")))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            return Err(Failure::fatal(format!("the plugin definition {shown} is empty")));
        }
        definitions.push(text.to_owned());
    }
    Ok(definitions)
}
