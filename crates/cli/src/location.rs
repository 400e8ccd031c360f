//! Which repository is meant: the option, else the environment, else nothing, and what places are possible.

use std::path::{Path, PathBuf};

use crate::args::GlobalOptions;
use crate::failure::Failure;

/// A variable of the environment as text; one that is empty counts as not set.
///
/// # Errors
/// [`Failure::Fatal`] when it is set to something that is not UTF-8; its value is not repeated.
pub fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::fatal(format!("{name} is not valid UTF-8"))),
    }
}

/// The folder of the repository that the options or the environment name.
///
/// # Errors
/// [`Failure::Fatal`] when none is named, or what is named is not a local path.
pub fn repository(options: &GlobalOptions) -> Result<PathBuf, Failure> {
    let text = name(options)?.ok_or_else(|| {
        Failure::fatal("which repository? Name its folder with --repo or in the variable BACKSTAY_REPOSITORY")
    })?;
    local_path(&text)
}

fn name(options: &GlobalOptions) -> Result<Option<String>, Failure> {
    if let Some(path) = &options.repo {
        return Ok(Some(path.clone()));
    }
    if let Some(file) = &options.repository_file {
        return from_file(file).map(Some);
    }
    for family in ["BACKSTAY", "RESTIC"] {
        if let Some(path) = variable(&format!("{family}_REPOSITORY"))? {
            return Ok(Some(path));
        }
        if let Some(file) = variable(&format!("{family}_REPOSITORY_FILE"))? {
            return from_file(Path::new(&file)).map(Some);
        }
    }
    Ok(None)
}

fn from_file(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::fatal(format!("cannot read the repository file {}: {error}", file.display())))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::fatal(format!("the repository file {} is empty", file.display())));
    }
    Ok(text.to_owned())
}

/// Only folders for now. The text is not repeated in the error: addresses can hold passwords.
fn local_path(text: &str) -> Result<PathBuf, Failure> {
    const SCHEMES: [&str; 9] = ["s3", "sftp", "rest", "b2", "azure", "gs", "swift", "rclone", "opendal"];
    if text.is_empty() {
        return Err(Failure::fatal("the repository's path is empty"));
    }
    if let Some(path) = text.strip_prefix("local:") {
        return Ok(PathBuf::from(path));
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    if let Some(scheme) = scheme
        && (SCHEMES.contains(&scheme) || text[scheme.len()..].starts_with("://"))
    {
        return Err(Failure::fatal(format!(
            "a repository at \"{scheme}:\" is not supported yet: name a local folder (write ./{scheme}:... for a folder of that name)"
        )));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_folders_and_addresses_are_refused_without_repeating_them() {
        assert_eq!(local_path("/srv/backup").unwrap(), PathBuf::from("/srv/backup"));
        assert_eq!(local_path("local:/srv/backup").unwrap(), PathBuf::from("/srv/backup"));
        assert_eq!(local_path("./s3:x").unwrap(), PathBuf::from("./s3:x"));
        assert_eq!(local_path("a:b").unwrap(), PathBuf::from("a:b"));
        for address in ["s3:host/bucket", "sftp:u@h:/x", "rest:https://me:hush@host/", "https://me:hush@host/"] {
            let text = local_path(address).unwrap_err().message().unwrap().to_owned();
            assert!(text.contains("not supported yet"), "{text}");
            assert!(!text.contains("hush"), "{text}");
        }
    }
}
