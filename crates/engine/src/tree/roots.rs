//! Where a walk starts: absolute paths, each once, none inside another.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A root that cannot be made absolute.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The empty path.
    #[error("an empty path cannot be backed up: name a file or a directory, \".\" for the current one")]
    Empty,
    /// A relative path, and the current directory is not known.
    #[error("\"{}\" is relative, and the current directory cannot be told: {error}", path.display())]
    CurrentDirectory {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// The absolute path that a root stands for, as restic has it (Go's `filepath.Abs`): `.`, `..` and double slashes are
/// resolved in the text alone, symbolic links are not looked at.
///
/// # Errors
/// [`RootError`].
pub fn absolute(root: &Path) -> Result<PathBuf, RootError> {
    if root.as_os_str().is_empty() {
        return Err(RootError::Empty);
    }
    let mut whole = Vec::new();
    if !root.is_absolute() {
        let current =
            std::env::current_dir().map_err(|error| RootError::CurrentDirectory { path: root.to_owned(), error })?;
        whole.extend_from_slice(current.as_os_str().as_bytes());
        whole.push(b'/');
    }
    whole.extend_from_slice(root.as_os_str().as_bytes());
    let mut components: Vec<&[u8]> = Vec::new();
    for component in whole.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    let mut path = vec![b'/'];
    path.extend_from_slice(&components.join(&b'/'));
    Ok(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// Roots in the order of their directories.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Roots {
    /// `/` is a root: then it is the only one.
    pub whole_system: bool,
    /// The directory of each root (absolute, empty for `/`) with the roots' names in it, sorted.
    pub places: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Roots inside other roots: the walk passes them anyway.
    pub nested: BTreeSet<Vec<u8>>,
}

impl Roots {
    /// Whether there is one root, with a directory that it is in.
    pub(super) fn is_single(&self) -> bool {
        !self.whole_system && self.nested.is_empty() && self.places.values().map(Vec::len).sum::<usize>() == 1
    }
}

/// Makes roots absolute and drops those that lie in another one.
pub(super) fn plan(roots: &[PathBuf]) -> Result<Roots, RootError> {
    let mut all = BTreeSet::new();
    for root in roots {
        let path = absolute(root)?.into_os_string().into_vec();
        // Without its trailing slash the root directory is the empty text: paths below are "" + "/" + name.
        all.insert(if path == b"/" { Vec::new() } else { path });
    }
    let mut out = Roots::default();
    for path in &all {
        let inside = path.iter().enumerate().any(|(at, byte)| *byte == b'/' && all.contains(&path[..at]));
        if inside {
            out.nested.insert(path.clone());
        } else if let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
            out.places.entry(path[..slash].to_vec()).or_default().push(path[slash + 1..].to_vec());
        } else {
            out.whole_system = true;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(roots: &[&str]) -> Roots {
        plan(&roots.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn paths_become_absolute_in_the_text_alone() {
        let current = std::env::current_dir().unwrap();
        for (given, expected) in [
            ("/a/b/", "/a/b".into()),
            ("/a//./b/../c", "/a/c".into()),
            ("/../..", "/".into()),
            (".", current.clone()),
            ("x/../y", current.join("y")),
            ("..", current.parent().unwrap().to_owned()),
        ] {
            assert_eq!(absolute(Path::new(given)).unwrap(), expected, "{given}");
        }
        assert!(matches!(absolute(Path::new("")), Err(RootError::Empty)));
    }

    #[test]
    fn a_root_in_another_root_is_walked_once() {
        let roots = planned(&["/srv/b", "/srv/a", "/srv/a/x/y", "/srv/a", "/srv/ab", "/top"]);
        let places: Vec<_> = roots.places.into_iter().collect();
        assert_eq!(
            places,
            [
                (b"".to_vec(), vec![b"top".to_vec()]),
                (b"/srv".to_vec(), vec![b"a".to_vec(), b"ab".to_vec(), b"b".to_vec()])
            ]
        );
        assert_eq!(roots.nested.into_iter().collect::<Vec<_>>(), [b"/srv/a/x/y".to_vec()]);
    }

    #[test]
    fn the_root_directory_holds_all_others() {
        let roots = planned(&["/home", "/"]);
        assert!(roots.whole_system && roots.places.is_empty());
        assert!(roots.nested.contains(b"/home".as_slice()));
    }
}
