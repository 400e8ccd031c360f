//! A source tree with everything that a file system can hold, saved by the real restic.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use backstay_core::Id;
use backstay_repository::{Reader, Repository, SnapshotFilter};
use backstay_stores::LocalStore;
use rustix::fs::{FileType, Mode, Timespec, Timestamps, XattrFlags};

pub(crate) const PASSWORD: &str = "test";

/// A repository of its own and a place for restores; removed in the end.
pub(crate) struct Fixture {
    pub(crate) home: tempfile::TempDir,
    source: PathBuf,
}

/// The source tree and the repository that most tests start from: made once, changed by nobody.
fn shared() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in fs::read_dir(base).unwrap() {
            // What a process that is gone left behind.
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap_or_default();
            if let Some(process) = name.strip_prefix("reading-")
                && !Path::new("/proc").join(process).exists()
            {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let home = base.join(format!("reading-{}", std::process::id()));
        fs::create_dir(&home).unwrap();
        fs::create_dir(home.join("source")).unwrap();
        build_source(&home.join("source"));
        restic(&home.join("repository"), &["init"]);
        save(&home.join("repository"), &home.join("source"), "first");
        home
    })
}

fn save(repository: &Path, source: &Path, tag: &str) {
    restic(repository, &["--pack-size", "4", "backup", "--tag", tag, source.to_str().unwrap()]);
}

fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The restic that the tests run: without it they fail, they are not skipped.
pub(crate) fn restic(repository: &Path, arguments: &[&str]) -> Output {
    let program = std::env::var("BACKSTAY_TEST_RESTIC").unwrap_or_else(|_| "/usr/bin/restic".to_owned());
    let output = Command::new(&program)
        .args(["--no-cache", "--repo"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap_or_else(|error| panic!("these tests need restic ({program}): {error}"));
    assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub(crate) fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn build_source(source: &Path) {
    let path = |name: &str| source.join(name);
    for directory in ["empty", "many", "deep/er/still", "sticky"] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    fs::write(path("big"), noise(12 << 20, 1)).unwrap();
    fs::write(path("nothing"), "").unwrap();
    for number in 0..200 {
        fs::write(path(&format!("many/file {number}")), format!("contents of {number}\n").repeat(number)).unwrap();
    }
    fs::write(source.join(OsStr::from_bytes(b"not \xff text")), "raw name").unwrap();
    fs::write(path("deep/er/still/one"), "one file, two names").unwrap();
    fs::hard_link(path("deep/er/still/one"), path("many/another name")).unwrap();
    fs::hard_link(path("nothing"), path("deep/nothing either")).unwrap();
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"end", 40 << 20).unwrap();
    symlink("deep/er", path("link")).unwrap();
    symlink("/nowhere at all", path("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::write(path("labelled"), "with attributes").unwrap();
    for (name, value) in [("user.test", &b"binary \0\xff"[..]), ("user.empty", b"")] {
        rustix::fs::setxattr(path("labelled"), name, value, XattrFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(path("deep"), "user.dir", b"x", XattrFlags::empty()).unwrap();
    for (name, mode) in
        [("many/file 1", 0o444), ("many/file 2", 0o4755), ("sticky", 0o1777), ("deep/er", 0o750), ("empty", 0o555)]
    {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path("many/file 3"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::lchown(path("link"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::chown(path("deep"), Some(1234), Some(5678)).unwrap();
    }
    set_time(&path("big"), 1_600_000_000, 123_456_789);
    set_time(&path("labelled"), -86_400, 5);
    set_time(&path("link"), 1_000_000_000, 1);
    set_time(&path("pipe"), 1_000_000_000, 2);
    set_time(&path("deep/er/still"), 1_000_000_000, 3);
    set_time(&path("deep/er"), 1_000_000_000, 4);
    set_time(&path("empty"), 1_000_000_000, 5);
}

impl Fixture {
    /// The saved source tree, which must not be changed: one snapshot, several packs, a repository of its own.
    pub(crate) fn new() -> Self {
        let fixture = Self { home: tempfile::tempdir().unwrap(), source: shared().join("source") };
        copy(&shared().join("repository"), &fixture.store());
        fixture
    }

    /// The same with a source of its own, which may be changed and saved again.
    pub(crate) fn with_source() -> Self {
        let fixture = Self::empty();
        fs::remove_dir(&fixture.source).unwrap();
        copy(&shared().join("source"), &fixture.source);
        fixture.backup("first");
        fixture
    }

    /// An empty source, and a repository without a snapshot.
    pub(crate) fn empty() -> Self {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("source");
        fs::create_dir(&source).unwrap();
        let fixture = Self { home, source };
        copy(&shared().join("repository"), &fixture.store());
        fs::remove_dir_all(fixture.store().join("snapshots")).unwrap();
        fs::create_dir(fixture.store().join("snapshots")).unwrap();
        fixture
    }

    pub(crate) fn backup(&self, tag: &str) {
        save(&self.store(), &self.source, tag);
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.source.clone()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home.path().join("repository")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.home.path().join("target")
    }

    pub(crate) fn repository(&self) -> Arc<Repository> {
        open(&self.store())
    }

    pub(crate) fn reader(&self) -> Arc<Reader> {
        let repository = self.repository();
        let index = Arc::new(repository.load_index().unwrap());
        Arc::new(Reader::new(repository, index))
    }

    /// The root tree of the newest snapshot.
    pub(crate) fn root(&self) -> Id {
        self.repository().snapshot("latest", &SnapshotFilter::default()).unwrap().1.tree
    }

    /// The path of the source in snapshots.
    pub(crate) fn subpath(&self) -> Vec<u8> {
        self.source().into_os_string().into_vec()
    }

    /// The stored objects of a kind, by their folder's name, the largest last.
    pub(crate) fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![self.store().join(folder)];
        while let Some(path) = waiting.pop() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort_by_key(|path| (fs::metadata(path).unwrap().len(), path.clone()));
        found
    }
}

pub(crate) fn open(store: &Path) -> Arc<Repository> {
    Arc::new(Repository::open(Arc::new(LocalStore::new(store)), PASSWORD.as_bytes()).unwrap())
}

/// Changes one byte of a stored object.
pub(crate) fn flip(path: &Path, offset: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Everything about one name that a restore has to bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    contents: Option<Id>,
    link: Option<PathBuf>,
    device: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same object.
    same_as: Option<PathBuf>,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// Looks at everything below `root`.
pub(crate) fn survey(root: &Path) -> BTreeMap<PathBuf, Record> {
    let mut records = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    for path in all {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let same_as = (!metadata.is_dir() && metadata.nlink() > 1)
            .then(|| first_names.entry(metadata.ino()).or_insert_with(|| name.clone()).clone());
        let record = Record {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            size: if metadata.is_file() { metadata.len() } else { 0 },
            contents: metadata.is_file().then(|| Id::of(&fs::read(&path).unwrap())),
            link: metadata.is_symlink().then(|| fs::read_link(&path).unwrap()),
            device: metadata.rdev(),
            xattrs: xattrs(&path),
            same_as,
        };
        records.insert(name, record);
    }
    records
}

/// Compares two directories, naming what differs.
pub(crate) fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (survey(left), survey(right));
    let names = |records: &BTreeMap<PathBuf, Record>| records.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right));
    for (name, record) in &left {
        assert_eq!(record, &right[name], "{}", name.display());
    }
}

/// Runs one test of this binary again as another process, with `command` in front of it. `prepare` is told to the
/// test by the variable that it looks at.
pub(crate) fn again(command: &[&str], test: &str, variable: &str, value: &Path) -> Output {
    Command::new(command[0])
        .args(&command[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable, value)
        .output()
        .unwrap()
}
