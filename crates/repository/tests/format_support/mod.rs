//! What the tests of the format share: temporary repositories, and the restic program.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use backstay_core::{Id, ObjectKind, Store};
use backstay_repository::container::decompress_into;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{BlobKind, InitOptions, Repository};
use backstay_stores::LocalStore;

pub(crate) const PASSWORD: &str = "a test password";

/// Key derivation that costs nothing: for tests only.
pub(crate) const CHEAP: InitOptions =
    InitOptions { kdf: KdfParams { log_n: 10, r: 1, p: 1 }, restic_chunker: false, polynomial: None };

pub(crate) fn store(path: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::new(path))
}

/// A new repository in a new temporary directory.
pub(crate) fn repository() -> (tempfile::TempDir, Arc<Repository>) {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::init(store(&folder.path().join("repo")), PASSWORD.as_bytes(), CHEAP).unwrap();
    (folder, Arc::new(repository))
}

pub(crate) fn open(path: &Path) -> Arc<Repository> {
    Arc::new(Repository::open(store(path), PASSWORD.as_bytes()).unwrap())
}

/// The program that `BACKSTAY_TEST_RESTIC` names, or `restic`. A test that needs it fails where it is missing.
pub(crate) fn restic(repository: &Path, arguments: &[&str]) -> Output {
    let program = std::env::var("BACKSTAY_TEST_RESTIC").unwrap_or_else(|_| "restic".to_owned());
    Command::new(&program)
        .args(["--no-cache", "-r"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run ({error}): install restic or set BACKSTAY_TEST_RESTIC"))
}

/// The same; it must succeed. Returns what it printed.
pub(crate) fn restic_ok(repository: &Path, arguments: &[&str]) -> String {
    let output = restic(repository, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "restic {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

/// Overwrites an object, which no store would do.
pub(crate) fn overwrite(root: &Path, kind: ObjectKind, id: &Id, bytes: &[u8]) {
    let path = match kind {
        ObjectKind::Config => root.join("config"),
        _ => root.join(kind.directory()).join(id.to_hex()),
    };
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// Reads a blob as a reader does: index, pack, envelope, zstd.
pub(crate) fn blob(repository: &Repository, kind: BlobKind, id: &Id) -> Vec<u8> {
    let location = repository.load_index().unwrap().get(kind, id).unwrap();
    let range = u64::from(location.offset)..u64::from(location.offset) + u64::from(location.length);
    let envelope = repository.store().get(ObjectKind::Pack, &location.pack, Some(range)).unwrap();
    let mut plain = repository.key().open(&envelope).unwrap();
    if let Some(length) = location.uncompressed {
        let compressed = std::mem::take(&mut plain);
        decompress_into(&compressed, length.get() as usize, &mut plain).unwrap();
    }
    assert_eq!(Id::of(&plain), *id);
    plain
}
