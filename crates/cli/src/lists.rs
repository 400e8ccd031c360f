//! Files that list the paths of a backup: patterns, lines, or names that end with a zero byte.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use backstay_repository::pattern::Pattern;

use crate::failure::Failure;
use crate::format;
use crate::output::Output;

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|all| bytes = all)
    };
    read.map_err(|error| Failure::fatal(format!("cannot read the list {}: {error}", file.display())))?;
    Ok(bytes)
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// One path a line, word for word; empty lines do not count.
///
/// # Errors
/// When the file cannot be read.
pub fn lines(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    Ok(split_lines(&read(file)?).filter(|line| !line.is_empty()).map(path).collect())
}

/// Names that end with a zero byte.
///
/// # Errors
/// When the file cannot be read, a name is empty, or the last one does not end.
pub fn raw(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let bytes = read(file)?;
    let Some(body) = bytes.strip_suffix(b"\0") else {
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        return Err(Failure::fatal(format!("the list {} does not end with a zero byte", file.display())));
    };
    let names: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
    if names.iter().any(|name| name.is_empty()) {
        return Err(Failure::fatal(format!("the list {} holds an empty name", file.display())));
    }
    Ok(names.into_iter().map(path).collect())
}

/// One pattern a line; empty lines and those that start with `#` do not count. A pattern that matches nothing is
/// reported and left out, one without wildcards is a path whether it exists or not.
///
/// # Errors
/// When the file cannot be read, or a pattern is none.
pub fn patterns(file: &Path, output: &Output) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for line in split_lines(&read(file)?) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let found = expand(line)?;
        if found.is_empty() {
            output.warning(&format!("{}: \"{}\" matches nothing", file.display(), format::path(line)));
        }
        paths.extend(found);
    }
    Ok(paths)
}

fn has_wildcards(part: &[u8]) -> bool {
    part.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// What a pattern matches, sorted. A wildcard stays within one name, as in a shell; names with a dot count too.
fn expand(pattern: &[u8]) -> Result<Vec<PathBuf>, Failure> {
    if !has_wildcards(pattern) {
        return Ok(vec![path(pattern)]);
    }
    let mut found = vec![PathBuf::from(if pattern.starts_with(b"/") { "/" } else { "" })];
    for part in pattern.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        found = if has_wildcards(part) {
            let text = std::str::from_utf8(part)
                .map_err(|_| Failure::fatal(format!("pattern \"{}\" is not valid UTF-8", format::path(pattern))))?;
            let rule = Pattern::new(&format!("/{text}"), false).map_err(|error| Failure::fatal(error.to_string()))?;
            found.iter().flat_map(|folder| children(folder, &rule)).collect()
        } else {
            found.into_iter().map(|folder| folder.join(OsStr::from_bytes(part))).collect()
        };
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    found.sort();
    Ok(found)
}

fn children(folder: &Path, rule: &Pattern) -> Vec<PathBuf> {
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .filter(|name| rule.matches(&[b"/", name.as_bytes()].concat()))
        .map(|name| folder.join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list");
        std::fs::write(&file, content).unwrap();
        (folder, file)
    }

    #[test]
    fn patterns_match_within_one_name_and_comments_do_not_count() {
        let (folder, file) = list(b"");
        for name in ["a1", "a2", "b1"] {
            std::fs::create_dir_all(folder.path().join(name).join("deep")).unwrap();
        }
        let text = format!("# a comment\n\n  {0}/a*/de?p\n{0}/missing\n{0}/x*\n", folder.path().display());
        std::fs::write(&file, text).unwrap();
        let output = Output::new(false, true, 0, true);
        let found = patterns(&file, &output).unwrap();
        let expected: Vec<PathBuf> =
            ["a1/deep", "a2/deep", "missing"].iter().map(|name| folder.path().join(name)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_are_taken_word_for_word() {
        let (_folder, file) = list(b" /a*\r\n\n#b\n\xff");
        assert_eq!(lines(&file).unwrap(), [path(b" /a*"), path(b"#b"), path(b"\xff")]);
    }

    #[test]
    fn raw_names_end_with_a_zero_byte() {
        let (_folder, file) = list(b"a\nb\0c\0");
        assert_eq!(raw(&file).unwrap(), [path(b"a\nb"), path(b"c")]);
        let (_folder, file) = list(b"a\0b");
        assert!(raw(&file).is_err());
        let (_folder, file) = list(b"a\0\0");
        assert!(raw(&file).is_err());
    }
}
