//! The configuration file, by gpbackup's rules (reference 3.1).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    executablepath: Option<String>,
    #[serde(default)]
    options: Option<BTreeMap<String, Option<String>>>,
}

/// What stands in it. Options can hold secrets: nothing here prints a value.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The plugin as it was written: not empty, variables not expanded.
    pub executable: String,
    /// Its options, each the text that was written; empty where there was none.
    pub options: BTreeMap<String, String>,
}

impl ConfigFile {
    /// Reads a file, and makes something of it.
    ///
    /// # Errors
    /// One line with the file, and what is wrong with it or what `make` says. No value is repeated.
    pub fn read<T>(path: &Path, make: impl FnOnce(Self) -> Result<T, String>) -> Result<T, String> {
        let text = read(path).map_err(|error| error.to_string());
        let made = text.and_then(|text| Self::parse(&text)).and_then(make);
        made.map_err(|reason| format!("configuration {}: {reason}", path.display()))
    }

    /// Reads its text.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Written = serde_saphyr::from_str(first_document(text)).map_err(|error| {
            // The first line of it says what and where; those below repeat the text.
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("it is not formatted correctly: {}", line.strip_prefix("error: ").unwrap_or(line))
        })?;
        let executable = written.executablepath.filter(|path| !path.is_empty()).ok_or("executablepath is required")?;
        let options = written.options.unwrap_or_default().into_iter();
        Ok(Self { executable, options: options.map(|(key, value)| (key, value.unwrap_or_default())).collect() })
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(std::io::Error::other("it is too large to be one"));
    }
    std::fs::read_to_string(path)
}

/// The text up to a second document, which does not count.
fn first_document(text: &str) -> &str {
    let mut begun = false;
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        let mark = line.trim_end() == "---" || line.starts_with("--- ");
        if begun && (mark || line.trim_end() == "...") {
            return &text[..position];
        }
        let bare = line.trim();
        begun |= mark || !(bare.is_empty() || bare.starts_with(['#', '%']));
        position += line.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_document_and_missing_options_do_not_count() {
        for end in ["---", "--- ", "..."] {
            let text = format!("# first\n---\nexecutablepath: /x\noptions:\n{end}\nother: 1\n");
            let file = ConfigFile::parse(&text).unwrap();
            assert!(file.executable == "/x" && file.options.is_empty(), "{end}");
        }
    }
}
