//! The configuration file (reference 3): as the user wrote it, by gpbackup's rules, and the copy that a plugin gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use backstay_gpbackup_contract::ConfigFile;

use crate::Failure;
use crate::key::is_plain;

/// What the user wrote. Options can hold secrets: nothing here prints a value.
#[derive(Clone, PartialEq, Eq)]
pub struct UserConfig {
    /// The plugin: an absolute path, variables expanded.
    pub executable: PathBuf,
    /// Its options, each a text.
    pub options: BTreeMap<String, String>,
    /// The name of the file, which copies keep.
    pub base_name: String,
}

impl std::fmt::Debug for UserConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserConfig").field("executable", &self.executable).finish_non_exhaustive()
    }
}

impl UserConfig {
    /// Reads a file. Variables in `executablepath` are those of this process.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let base_name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
        let base_name = base_name.unwrap_or("plugin_config.yaml");
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        ConfigFile::read(path, |file| Self::of(file, base_name, variable)).map_err(Failure::refused)
    }

    fn of(file: ConfigFile, base_name: &str, variable: impl Fn(&str) -> String) -> Result<Self, String> {
        let ConfigFile { executable, options } = file;
        let mut path = expand(&executable, &variable);
        if path == "~" || path.starts_with("~/") {
            path.replace_range(..1, &variable("HOME"));
        }
        if !path.starts_with('/') {
            return Err("executablepath is not an absolute path".to_owned());
        }
        Ok(Self { executable: path.into(), options, base_name: base_name.to_owned() })
    }

    /// Whether the options say that passwords in them are encrypted (reference 3.5).
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        let is_on = |name: &str| self.options.get(name).is_some_and(|value| value == "on");
        is_on("password_encryption") || (is_on("replication") && is_on("remote_password_encryption"))
    }

    /// Whether the plugin is said to have `restore_data_subset` (reference 9.6).
    #[must_use]
    pub fn reads_ranges(&self) -> bool {
        let subset = self.options.get("restore_subset").map(String::as_str);
        subset == Some("on") || (subset != Some("off") && self.executable.to_string_lossy().ends_with("ddboost_plugin"))
    }

    /// Writes the copy that the plugin gets, for its owner's eyes only: every value quoted, with the port and the version that the
    /// plugin had when the backup was made (empty in a backup).
    ///
    /// # Errors
    /// [`Failure::Refused`] when it cannot be written.
    pub fn write_copy(&self, folder: &Path, port: u16, version: &str) -> Result<PathBuf, Failure> {
        let path = folder.join(&self.base_name);
        let mut options = self.options.clone();
        options.insert("pgport".to_owned(), port.to_string());
        options.insert("backup_plugin_version".to_owned(), version.to_owned());
        let mut text = format!("executablepath: {}\noptions:\n", quoted(&self.executable.to_string_lossy()));
        for (key, value) in &options {
            let key = if is_word(key) { key.clone() } else { quoted(key) };
            let _ = writeln!(text, "  {key}: {}", quoted(value));
        }
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::refused(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }
}

/// Whether YAML takes a key for the text that it is.
fn is_word(key: &str) -> bool {
    const OTHERS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !OTHERS.contains(&key.to_ascii_lowercase().as_str())
}

/// A text in YAML's double quotes.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            letter if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// `$NAME` and `${NAME}`; a dollar before anything else stays.
fn expand(text: &str, variable: &impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some((name, after)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            out.push_str(&variable(name));
            rest = after;
            continue;
        }
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let length = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        if length == 0 {
            out.push('$');
        } else {
            out.push_str(&variable(&rest[..length]));
            rest = &rest[length..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UserConfig, String> {
        let variable = |name: &str| match name {
            "GPHOME" => "/usr/local/gp".to_owned(),
            "HOME" => "/home/gp".to_owned(),
            _ => String::new(),
        };
        ConfigFile::parse(text).and_then(|file| UserConfig::of(file, "c.yaml", variable))
    }

    fn option(line: &str) -> Result<String, String> {
        parse(&format!("executablepath: /x\noptions:\n  k: {line}\n")).map(|config| config.options["k"].clone())
    }

    #[test]
    fn scalars_are_the_text_that_was_written() {
        for text in ["12", "1.50", "0x1F", "1e3", "012", "2020-01-01", "yes", "ON", "True", "-1", "off", "a b"] {
            assert_eq!(option(text).as_deref(), Ok(text));
        }
        for (text, value) in [
            ("", ""),
            ("~", ""),
            ("null", ""),
            ("\"\"", ""),
            ("'it''s'", "it's"),
            ("\"a\\tb\"", "a\tb"),
            ("|\n    a\n    b", "a\nb\n"),
            ("!!binary aGVsbG8=", "hello"),
            ("x # comment", "x"),
        ] {
            assert_eq!(option(text).as_deref(), Ok(value), "{text:?}");
        }
        let config = parse("executablepath: /x\noptions:\n  1: a\n  true: &m b\n  c: *m\n").unwrap();
        assert_eq!(
            config.options.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
            ["1=a", "c=b", "true=b"]
        );
    }

    #[test]
    fn what_gpbackup_refuses_is_refused_with_its_reason_and_without_values() {
        for (text, part) in [
            ("", "executablepath is required"),
            ("options: {a: b}", "executablepath is required"),
            ("executablepath: bin/x", "absolute"),
            ("executablepath: 5", "absolute"),
            ("executablepath: $NONE/x\nother: secret", "other"),
            ("ExecutablePath: /x", "ExecutablePath"),
            ("executablepath: /x\nexecutablepath: /x", "formatted"),
            ("executablepath: /x\noptions:\n  a: secret\n  a: secret", "formatted"),
            ("executablepath: /x\noptions:\n\ta: secret", "formatted"),
            ("executablepath: /x\noptions:\n  a: [secret]", "formatted"),
            ("executablepath: /x\noptions:\n  a: {b: secret}", "formatted"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(
                reason.contains(part) && !reason.contains("secret") && !reason.contains('\n'),
                "{text:?}: {reason}"
            );
        }
    }

    #[test]
    fn variables_and_the_home_are_expanded_in_the_path_only() {
        for (written, path) in [
            ("$GPHOME/bin/p", "/usr/local/gp/bin/p"),
            ("${GPHOME}bin", "/usr/local/gpbin"),
            ("/a/$NONE/b", "/a//b"),
            ("~/p", "/home/gp/p"),
            ("/a$", "/a$"),
        ] {
            let config = parse(&format!("executablepath: {written}\noptions: {{a: $GPHOME}}\n")).unwrap();
            assert_eq!(config.executable, Path::new(path));
            assert_eq!(config.options["a"], "$GPHOME");
        }
    }

    #[test]
    fn a_second_document_and_missing_options_do_not_count() {
        let config = parse("# first\n---\nexecutablepath: /x\noptions:\n---\nother: 1\n").unwrap();
        assert!(config.options.is_empty());
    }

    #[test]
    fn the_copy_is_private_quoted_and_reads_back() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let written = "executablepath: $GPHOME/p\noptions:\n  b: 12\n  a: \"q\\\"\\\\\\n\\x07é\"\n  yes: ~\n";
        let config = parse(written).unwrap();
        let path = config.write_copy(folder.path(), 6000, "1.2").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "executablepath: \"/usr/local/gp/p\"\noptions:\n  a: \"q\\\"\\\\\\n\\u0007é\"\n  b: \"12\"\n  \
                        backup_plugin_version: \"1.2\"\n  pgport: \"6000\"\n  \"yes\": \"\"\n";
        assert_eq!(text, expected);
        let mut again = parse(&text).unwrap();
        assert_eq!(again.options.remove("pgport").as_deref(), Some("6000"));
        assert_eq!(again.options.remove("backup_plugin_version").as_deref(), Some("1.2"));
        assert_eq!(again, config);
        assert!(config.write_copy(folder.path(), 1, "").is_err(), "an older file is not written over");
    }

    #[test]
    fn encryption_and_ranges_are_on_by_their_options() {
        let with = |lines: &str| parse(&format!("executablepath: /x\noptions: {{{lines}}}\n")).unwrap();
        assert!(with("password_encryption: on").is_encrypted());
        assert!(with("replication: on, remote_password_encryption: on").is_encrypted());
        assert!(!with("remote_password_encryption: on").is_encrypted());
        assert!(with("restore_subset: on").reads_ranges() && !with("").reads_ranges());
        assert!(parse("executablepath: /x_ddboost_plugin").unwrap().reads_ranges());
    }
}
