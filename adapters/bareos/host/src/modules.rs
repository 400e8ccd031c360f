//! The helper modules that plugins import (`BareosFdPluginBaseclass` and the others) travel inside the program.
//!
//! They are written to a folder named after their contents, so that programs of two versions never share one, and a
//! file that somebody changed or cut is written anew.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use backstay_core::Id;

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../python/modules/", $name)))),*]
    };
}

/// File name and text of each.
const MODULES: &[(&str, &str)] = modules![
    "BareosDirPluginBaseclass.py",
    "BareosDirWrapper.py",
    "BareosFdPluginBaseclass.py",
    "BareosFdPluginLocalFilesBaseclass.py",
    "BareosFdWrapper.py",
    "BareosSdPluginBaseclass.py",
    "BareosSdWrapper.py",
];

/// Writes the modules below `state` where they are not there already; returns their folder.
pub(crate) fn install(state: &Path) -> io::Result<PathBuf> {
    let mut all = Vec::new();
    for (name, text) in MODULES {
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(&(text.len() as u64).to_le_bytes());
        all.extend_from_slice(text.as_bytes());
    }
    let folder = state.join(format!("python-{}", Id::of(&all).short()));
    private_folder(&folder)?;
    for (name, text) in MODULES {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
            continue;
        }
        // Another job may be importing, or writing the same: a file appears whole or not at all.
        let part = folder.join(format!(".{name}.{}", std::process::id()));
        fs::write(&part, text)?;
        fs::rename(&part, &path)?;
    }
    Ok(folder)
}

/// Makes a folder that only its owner can enter, with its parents.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_helper_module_of_the_source_tree_is_inside() {
        let mut present: Vec<String> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../python/modules"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".py"))
            .collect();
        present.sort();
        assert_eq!(present, MODULES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn a_module_that_was_cut_is_written_anew() {
        let state = tempfile::tempdir().unwrap();
        let folder = install(state.path()).unwrap();
        let file = folder.join(MODULES[0].0);
        fs::write(&file, "cut").unwrap();
        assert_eq!(install(state.path()).unwrap(), folder);
        assert_eq!(fs::read_to_string(&file).unwrap(), MODULES[0].1);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), MODULES.len());
    }
}
