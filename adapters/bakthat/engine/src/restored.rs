//! The way back from an object: into a folder, or into an archive whose contents can be compared with another's.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use tar::EntryType;

use crate::archive::{ArchiveOptions, unpack_archive, write_archive};
use crate::container::decrypt_file;
use crate::control::Control;
use crate::error::{About, Error, Result};
use crate::excludes::Excludes;
use crate::gzip::{copy, gunzip_file, open};
use crate::names::is_archive;
use crate::output::refused_in;
use crate::unpack::{components, read, verify};

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Its name.
    pub stored_name: &'a str,
    /// What a single file in it is called; only the last component counts.
    pub name: &'a str,
    /// It is encrypted under this password.
    pub password: Option<&'a [u8]>,
    /// It is a value, not an archive, whatever its name ends with.
    pub is_value: bool,
    /// It is a value in gzip.
    pub is_gzipped: bool,
}

impl Object<'_> {
    /// The plain bytes of an object at `path`.
    fn decrypted(&self, path: &Path, aside: &Path, control: &Control) -> Result<PathBuf> {
        let Some(password) = self.password else { return Ok(path.to_owned()) };
        let plain = aside.join("decrypted");
        decrypt_file(path, &plain, password, control)?;
        Ok(plain)
    }

    /// An error about the object itself, which people know by its name. What a wrong password makes of it can be any bytes: they
    /// are not shown.
    fn named(&self, error: Error, path: &Path, aside: &Path) -> Error {
        let own = |text: &str| {
            let own = [path.to_owned(), aside.join("decrypted")].map(|path| path.display().to_string());
            own.iter().find_map(|own| text.strip_prefix(own)).map(|rest| format!("{}{rest}", self.stored_name))
        };
        match error {
            Error::Other(text) if own(&text).is_some() && self.password.is_some() => {
                Error::Other(format!("{} is damaged, or the password is wrong", self.stored_name))
            }
            Error::Other(text) => Error::Other(own(&text).unwrap_or(text)),
            Error::WrongPassword(text) => Error::WrongPassword(own(&text).unwrap_or(text)),
            Error::UnsafeMember(text) => Error::UnsafeMember(own(&text).unwrap_or(text)),
            other => other,
        }
    }

    /// Decrypts and unpacks into a folder what is at `path`. `aside` is a folder for what is needed meanwhile; `told` is
    /// told of each step.
    ///
    /// # Errors
    /// As [`unpack_archive`] and [`decrypt_file`]; a name that no file can have.
    pub fn put_in_place(
        &self,
        path: &Path,
        aside: &Path,
        folder: &Path,
        told: &mut dyn FnMut(&'static str),
        control: &Control,
    ) -> Result<()> {
        self.placed(path, aside, folder, told, control).map_err(|error| self.named(error, path, aside))
    }

    fn placed(
        &self,
        path: &Path,
        aside: &Path,
        folder: &Path,
        told: &mut dyn FnMut(&'static str),
        control: &Control,
    ) -> Result<()> {
        if self.password.is_some() {
            told("Decrypting...");
        }
        let mut path = self.decrypted(path, aside, control)?;
        if is_archive(self.stored_name) && !self.is_value {
            told("Uncompressing...");
            return unpack_archive(&path, folder, control);
        }
        let name = self.name.rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") {
            return Err(Error::Other(format!("{} has no name that a file can have", self.stored_name)));
        }
        if self.is_value && self.is_gzipped {
            told("Uncompressing...");
            let plain = aside.join("plain");
            gunzip_file(&path, &plain, control)?;
            path = plain;
        } else {
            told("Backup is not compressed");
        }
        let target = folder.join(name);
        let mut whole = tempfile::Builder::new()
            .prefix(".bakthat-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(refused_in(folder))
            .about(folder)?;
        copy(&mut open(&path, control)?, &path, &mut whole, &target)?;
        whole.persist(&target).map(drop).map_err(|error| error.error).about(&target)
    }

    /// The archive that an object at `path` is, decrypted; a single file becomes the only member of one, of that time.
    ///
    /// # Errors
    /// The system's; as [`decrypt_file`].
    pub fn as_archive(&self, path: &Path, aside: &Path, time: f64, control: &Control) -> Result<PathBuf> {
        let named = |error| self.named(error, path, aside);
        let plain = self.decrypted(path, aside, control).map_err(named)?;
        if is_archive(self.stored_name) {
            if self.password.is_some() {
                // Whoever gets it does not know that there was a password.
                verify(&plain, control).map_err(named)?;
            }
            return Ok(plain);
        }
        let mut path = plain;
        if self.password.is_none() {
            // One of our own, to change its mode and its time.
            let own = aside.join("plain");
            std::fs::copy(&path, &own).about(&path)?;
            path = own;
        }
        let file = File::open(&path).about(&path)?;
        file.set_permissions(Permissions::from_mode(0o644)).about(&path)?;
        let time = Duration::try_from_secs_f64(time).map_err(Error::other)?;
        let time = SystemTime::UNIX_EPOCH + time;
        file.set_times(FileTimes::new().set_accessed(time).set_modified(time)).about(&path)?;
        let archive = aside.join("archive");
        let arcname = self.name.rsplit('/').next().unwrap_or_default().as_bytes();
        let options = ArchiveOptions { arcname, excludes: &Excludes::default(), compress: true };
        write_archive(&path, &archive, &options, control, &mut |_| ())?;
        Ok(archive)
    }
}

/// A member of an archive, as far as a snapshot keeps it.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    kind: EntryType,
    sum: Vec<u8>,
    mode: u32,
    seconds: i64,
    link: Vec<u8>,
}

/// The names of members that two archives do not have alike.
///
/// # Errors
/// An archive that is none; the system's. [`Error::Interrupted`].
pub fn differing_members(one: &Path, other: &Path, control: &Control) -> Result<Vec<String>> {
    let (one, other) = (members(one, control)?, members(other, control)?);
    let names = one.iter().filter(|(name, member)| other.get(*name) != Some(member)).map(|(name, _)| name);
    let names = names.chain(other.keys().filter(|name| !one.contains_key(*name)));
    let mut names: Vec<String> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

fn members(archive: &Path, control: &Control) -> Result<BTreeMap<Vec<u8>, Member>> {
    let mut members = BTreeMap::new();
    let mut links = Vec::new();
    read(archive, control, &mut |head, contents| {
        let mut sum = Context::new(&SHA256);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match contents.read(&mut buffer).map_err(|error| crate::unpack::damaged(archive, error))? {
                0 => break,
                read => sum.update(&buffer[..read]),
            }
        }
        let name = head.name.join(&b'/');
        // Which of a file's names comes first is the archiver's choice.
        let kind = if head.kind == EntryType::Link { EntryType::Regular } else { head.kind };
        if head.kind == EntryType::Link {
            links.push((name.clone(), components(&head.link).join(&b'/')));
        }
        let link = if head.kind == EntryType::Symlink { head.link.clone() } else { Vec::new() };
        let sum = sum.finish().as_ref().to_vec();
        members.insert(name, Member { kind, sum, mode: head.mode, seconds: head.mtime.tv_sec, link });
        Ok(())
    })?;
    for (name, target) in links {
        let sum = members.get(&target).map(|target| target.sum.clone());
        if let (Some(sum), Some(member)) = (sum, members.get_mut(&name)) {
            member.sum = sum;
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Container, encrypt_file};

    fn archive(folder: &Path, out: &Path) {
        let options = ArchiveOptions { arcname: b"data", excludes: &Excludes::default(), compress: true };
        write_archive(folder, out, &options, &Control::default(), &mut |_| ()).unwrap();
    }

    fn object<'a>(stored_name: &'a str, password: Option<&'a [u8]>) -> Object<'a> {
        Object { stored_name, name: "some/name", password, is_value: false, is_gzipped: false }
    }

    #[test]
    fn two_archives_differ_in_what_their_members_hold() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a"), "one").unwrap();
        std::fs::hard_link(folder.join("a"), folder.join("b")).unwrap();
        std::os::unix::fs::symlink("a", folder.join("c")).unwrap();
        let (one, other) = (top.path().join("one"), top.path().join("other"));
        archive(&folder, &one);
        assert_eq!(differing_members(&one, &one, &Control::default()).unwrap(), Vec::<String>::new());
        std::fs::set_permissions(folder.join("a"), Permissions::from_mode(0o600)).unwrap();
        std::fs::remove_file(folder.join("c")).unwrap();
        archive(&folder, &other);
        let differing = differing_members(&one, &other, &Control::default()).unwrap();
        assert!(
            ["data/a", "data/b", "data/c"].iter().all(|name| differing.iter().any(|own| own == name)),
            "{differing:?}"
        );
    }

    #[test]
    fn a_single_file_takes_the_place_of_what_is_there_even_of_a_link() {
        let top = tempfile::tempdir().unwrap();
        let (stored, folder) = (top.path().join("stored"), top.path().join("folder"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&stored, "bytes").unwrap();
        std::os::unix::fs::symlink("../outside", folder.join("name")).unwrap();
        let mut steps = Vec::new();
        let object = object("name.20240203040506", None);
        object.put_in_place(&stored, top.path(), &folder, &mut |step| steps.push(step), &Control::default()).unwrap();
        assert_eq!(steps, ["Backup is not compressed"]);
        assert_eq!(std::fs::read_link(folder.join("name")).ok(), None);
        assert_eq!(std::fs::read(folder.join("name")).unwrap(), b"bytes");
        assert!(!top.path().join("outside").exists());
    }

    #[test]
    fn a_wrong_password_is_named_as_what_may_be_wrong() {
        let top = tempfile::tempdir().unwrap();
        let (plain, stored) = (top.path().join("plain"), top.path().join("stored"));
        std::fs::write(&plain, vec![7; 999]).unwrap();
        encrypt_file(&plain, &stored, b"right", Container::Blowfish, &Control::default()).unwrap();
        let object = object("name.20240203040506.tgz.enc", Some(b"wrong"));
        let mut steps = Vec::new();
        let error =
            object.put_in_place(&stored, top.path(), top.path(), &mut |step| steps.push(step), &Control::default());
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "name.20240203040506.tgz.enc is damaged, or the password is wrong");
        assert_eq!(steps, ["Decrypting...", "Uncompressing..."]);
    }

    #[test]
    fn a_single_file_becomes_a_member_of_its_name_and_time() {
        let top = tempfile::tempdir().unwrap();
        let stored = top.path().join("stored");
        std::fs::write(&stored, "bytes").unwrap();
        let control = Control::default();
        let made =
            object("name.20240203040506", None).as_archive(&stored, top.path(), 1_706_933_106.0, &control).unwrap();
        let members = members(&made, &control).unwrap();
        let seconds =
            members.iter().map(|(name, member)| (name.as_slice(), member.seconds, member.mode)).collect::<Vec<_>>();
        assert_eq!(seconds, [(&b"name"[..], 1_706_933_106, 0o644)]);
    }
}
