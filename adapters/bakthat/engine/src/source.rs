//! What is backed up: what its object is called, and how it is made.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive::{ArchiveOptions, write_archive};
use crate::control::Control;
use crate::error::{About, Result};
use crate::excludes::Excludes;

/// Endings of files that are archives already.
const TARBALLS: [&[u8]; 4] = [b".tgz", b".tar.gz", b".taz", b".tz"];

/// A file or a folder that is backed up.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    is_folder: bool,
    compress: bool,
    precompressed: bool,
    arcname: Vec<u8>,
    base: Vec<u8>,
    kind: &'static str,
}

impl Source {
    /// Looks at a file or a folder. `compress` is the profile's setting; with `as_tree` its contents are stored, not an
    /// object made of them.
    ///
    /// # Errors
    /// The system's: it is not there.
    pub fn new(path: &Path, compress: bool, as_tree: bool) -> Result<Self> {
        let is_folder = std::fs::metadata(path).about(path)?.is_dir();
        let arcname = arcname(path)?;
        let precompressed = !is_folder && TARBALLS.iter().any(|ending| arcname.ends_with(ending));
        let mut base = arcname.clone();
        let mut kind = ".tgz";
        if !compress && !as_tree {
            // A folder cannot be stored as it is: it becomes a tar that is not compressed.
            kind = if is_folder { ".tar" } else { "" };
        } else if precompressed {
            base = without(&without(&arcname, b".tgz"), b".tar.gz");
        }
        Ok(Self { path: path.to_owned(), is_folder, compress, precompressed, arcname, base, kind })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// Whether it is an archive already, by its name.
    #[must_use]
    pub fn precompressed(&self) -> bool {
        self.precompressed
    }

    /// Its name: what the members of its archive begin with.
    #[must_use]
    pub fn arcname(&self) -> &[u8] {
        &self.arcname
    }

    /// What its stored name begins with.
    #[must_use]
    pub fn base(&self) -> &[u8] {
        &self.base
    }

    /// What its stored name ends with: `.tgz`, `.tar` or nothing.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    fn is_archived(&self) -> bool {
        self.kind == ".tar" || (self.compress && !self.precompressed)
    }

    /// What the user is told before [`Source::object`].
    #[must_use]
    pub fn step(&self) -> &'static str {
        match (self.compress, self.precompressed) {
            (false, _) => "Compression disabled",
            (true, true) => "File already compressed",
            (true, false) => "Compressing...",
        }
    }

    /// The file with the object's bytes: the source itself, or an archive at `out`. `excluded` as in [`write_archive`].
    ///
    /// # Errors
    /// As [`write_archive`].
    pub fn object(
        &self,
        out: &Path,
        excludes: &Excludes,
        control: &Control,
        excluded: &mut dyn FnMut(&[u8]),
    ) -> Result<PathBuf> {
        if !self.is_archived() {
            return Ok(self.path.clone());
        }
        let options = ArchiveOptions { arcname: &self.arcname, excludes, compress: self.compress };
        write_archive(&self.path, out, &options, control, excluded)?;
        Ok(out.to_owned())
    }
}

/// The last component of a path; that of the folder itself where it is only pointed to.
fn arcname(path: &Path) -> Result<Vec<u8>> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let last = bytes[..end].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if !matches!(last, b"" | b"." | b"..") {
        return Ok(last.to_vec());
    }
    let real = std::fs::canonicalize(path).about(path)?;
    Ok(real.file_name().map_or(b"root".to_vec(), |name| name.as_bytes().to_vec()))
}

/// A text with each occurrence of a part left out.
fn without(text: &[u8], part: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(part) {
            at += part.len();
        } else {
            rest.push(text[at]);
            at += 1;
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &Path, compress: bool) -> (String, String, &'static str) {
        let source = Source::new(path, compress, false).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(source.arcname()), text(source.base()), source.kind())
    }

    #[test]
    fn names_of_folders_and_files() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("data.tgz");
        std::fs::create_dir(&folder).unwrap();
        for name in ["f.txt", "a.tgz", "b.tar.gz", "c.taz", "d.tar.bz2", "x.tgz.tar.gz"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let named = |arcname: &str, base: &str, kind| (arcname.to_owned(), base.to_owned(), kind);
        assert_eq!(of(&folder, true), named("data.tgz", "data.tgz", ".tgz"));
        assert_eq!(of(&folder.join("."), true), named("data.tgz", "data.tgz", ".tgz"));
        assert_eq!(of(&top.path().join("data.tgz//"), false), named("data.tgz", "data.tgz", ".tar"));
        for (name, base) in [
            ("f.txt", "f.txt"),
            ("a.tgz", "a"),
            ("b.tar.gz", "b"),
            ("c.taz", "c.taz"),
            ("d.tar.bz2", "d.tar.bz2"),
            ("x.tgz.tar.gz", "x"),
        ] {
            assert_eq!(of(&folder.join(name), true), named(name, base, ".tgz"));
            assert_eq!(of(&folder.join(name), false), named(name, name, ""));
        }
        assert_eq!(of(Path::new("/"), true), named("root", "root", ".tgz"));
        assert!(Source::new(&folder.join("missing"), true, false).is_err());
    }

    #[test]
    fn what_is_compressed_already_is_its_own_object() {
        let top = tempfile::tempdir().unwrap();
        let (file, out) = (top.path().join("a.tgz"), top.path().join("out"));
        std::fs::write(&file, "x").unwrap();
        let object = |compress| {
            let source = Source::new(&file, compress, false).unwrap();
            let made = source.object(&out, &Excludes::default(), &Control::default(), &mut |_| ()).unwrap();
            (source.step(), made)
        };
        assert_eq!(object(true), ("File already compressed", file.clone()));
        assert_eq!(object(false), ("Compression disabled", file.clone()));
        std::fs::rename(&file, top.path().join("a")).unwrap();
        let source = Source::new(&top.path().join("a"), true, false).unwrap();
        let made = source.object(&out, &Excludes::default(), &Control::default(), &mut |_| ()).unwrap();
        assert_eq!((source.step(), made), ("Compressing...", out));
    }
}
