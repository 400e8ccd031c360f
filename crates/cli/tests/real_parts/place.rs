//! A folder for one test: a repository, its password, the programs that work on it, and trees to save.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const BACKSTAY: &str = env!("CARGO_BIN_EXE_backstay");

/// Which restic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restic {
    /// Of this Debian release: 0.14.
    Old,
    /// Of the next one: 0.18.
    Next,
}

impl Restic {
    pub(crate) const BOTH: [Self; 2] = [Self::Old, Self::Next];

    fn program(self) -> PathBuf {
        match self {
            Self::Old => foreign("BACKSTAY_TEST_RESTIC", Path::new("/usr/bin/restic")),
            Self::Next => foreign("BACKSTAY_TEST_RESTIC_NEXT", &top().join("build/restic-next/usr/bin/restic")),
        }
    }
}

/// The top of the checkout.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn foreign(variable: &str, usual: &Path) -> PathBuf {
    let program = std::env::var_os(variable).map_or_else(|| usual.to_owned(), PathBuf::from);
    assert!(
        program.exists(),
        "{} is not there: run scripts/test, which fetches it, or set {variable}",
        program.display()
    );
    program
}

/// A folder of one test; it goes away with this value.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// An empty folder with a password, and no repository yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("backstay-real-").tempdir().unwrap();
        fs::write(folder.path().join("password"), "a password for a test\n").unwrap();
        Self { folder }
    }

    /// The same with a repository that we made.
    pub(crate) fn with_repository() -> Self {
        let place = Self::new();
        place.ours(["init"]);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// `program` with the repository and the password in its environment, and nothing else that could steer it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(b"RESTIC_") || name.as_bytes().starts_with(b"BACKSTAY_") {
                command.env_remove(name);
            }
        }
        command
            .env("RESTIC_REPOSITORY", self.repository())
            .env("RESTIC_PASSWORD_FILE", self.path("password"))
            .env("RESTIC_CACHE_DIR", self.path("cache"))
            .env("HOME", self.folder.path())
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::null());
        command
    }

    /// `backstay` on this place's repository.
    pub(crate) fn backstay<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(BACKSTAY);
        command.args(arguments);
        command
    }

    /// Runs `backstay`, which must succeed; its standard output.
    pub(crate) fn ours<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        succeed(&mut self.backstay(arguments))
    }

    /// Runs `backstay --json backup`, which must succeed; its summary.
    pub(crate) fn back_up<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let mut command = self.backstay(["--json", "backup"]);
        command.args(arguments);
        summary(&succeed(&mut command))
    }

    /// The snapshots that `backstay` lists, oldest first.
    pub(crate) fn snapshots(&self) -> Vec<Value> {
        let lines = self.ours(["--json", "snapshots"]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Restores `what` with `backstay` into the folder `name`, which must succeed; the folder.
    pub(crate) fn restore(&self, what: &str, name: &str) -> PathBuf {
        let target = self.path(name);
        succeed(self.backstay(["restore", what, "--target"]).arg(&target));
        target
    }

    /// Runs restic, which must succeed; its standard output.
    pub(crate) fn restic<A: AsRef<OsStr>>(&self, which: Restic, arguments: impl IntoIterator<Item = A>) -> String {
        succeed(self.command(which.program()).args(arguments))
    }

    /// restic on this place's repository, without arguments.
    pub(crate) fn restic_command(&self, which: Restic) -> Command {
        self.command(which.program())
    }

    /// Runs `rustic-reader`, which must succeed.
    pub(crate) fn rustic<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let usual =
            Path::new(BACKSTAY).parent().and_then(Path::parent).unwrap().join("rustic-reader/debug/rustic-reader");
        let program = foreign("BACKSTAY_TEST_RUSTIC", &usual);
        succeed(self.command(program).arg(self.repository()).arg(self.path("password")).args(arguments))
    }

    /// What independent tools say of the repository: sound to the last byte, and every tree encoded as restic would.
    pub(crate) fn assert_sound(&self) {
        for restic in Restic::BOTH {
            self.restic(restic, ["check", "--read-data"]);
        }
        let rewritten = self.restic(Restic::Next, ["rewrite", "--exclude", "nothing-matches", "--dry-run"]);
        assert!(!rewritten.contains("without losing information"), "{rewritten}");
    }

    /// How many bytes lie in the repository's packs.
    pub(crate) fn stored(&self) -> u64 {
        size_of_files(&self.repository().join("data"))
    }
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(command, &output));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command did, for the message of a failed assertion.
pub(crate) fn told(command: &Command, output: &Output) -> String {
    format!(
        "{command:?}\nended with {}\nstandard output:\n{}\nstandard error:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The summary among the lines that `backup --json` printed.
pub(crate) fn summary(lines: &str) -> Value {
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["message_type"] == "summary")
        .unwrap_or_else(|| panic!("no summary in {lines}"))
}

/// A count of a summary; restic leaves out what is zero.
pub(crate) fn count(summary: &Value, field: &str) -> u64 {
    summary.get(field).map_or(0, |value| value.as_u64().unwrap())
}

fn size_of_files(folder: &Path) -> u64 {
    let mut size = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        size += if metadata.is_dir() { size_of_files(&entry.path()) } else { metadata.len() };
    }
    size
}

/// Fails with the list of differences unless both trees are the same in names, types, modes, owners, times, attributes,
/// links and contents.
pub(crate) fn assert_same(first: &Path, second: &Path, options: &[&str]) {
    succeed(Command::new(top().join("scripts/compare-trees")).args(options).arg(first).arg(second));
}

/// Where a path that was saved whole lies below the folder it was restored to.
pub(crate) fn below(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").unwrap())
}

/// Bytes that do not compress and that no other `seed` gives.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A tree of everything that restic can restore: every type but the socket, names and attributes of every kind.
///
/// Link targets are UTF-8: restic 0.14 loses others.
pub(crate) fn plant_tree(top: &Path) {
    let at = |name: &[u8]| top.join(OsStr::from_bytes(name));
    let write = |name: &[u8], bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    fs::create_dir(top).unwrap();
    for folder in ["folder", "folder/deeper", "folder/empty", "closed"] {
        fs::create_dir(top.join(folder)).unwrap();
    }
    write(b"empty", b"");
    write(b"one byte", b"1");
    write(b"folder/text", "A line of text that says little.\n".repeat(5000).as_bytes());
    write(b"folder/deeper/long", &noise(1, 9 << 20));
    write(b"folder/deeper/zeros and noise", &[vec![0; 1 << 20], noise(2, 1 << 20), vec![0; 3 << 20]].concat());
    for index in 0..200 {
        write(format!("folder/small {index}").as_bytes(), &noise(100 + index, 20 * index as usize));
    }
    write(b"not UTF-8 \xff\xfe", b"a name that no text can hold");
    write(b"quote\" backslash\\ newline\n tab\t <&> bell\x07", b"a name that JSON must escape");
    write("Grüße, \u{2028}世界 \u{1f980}".as_bytes(), b"a name from everywhere");
    write(&[b'n'; 255], b"the longest name");
    fs::hard_link(at(b"folder/text"), at(b"another name of text")).unwrap();
    fs::hard_link(at(b"folder/text"), at(b"folder/deeper/third name of text")).unwrap();
    symlink("folder/text", at(b"link")).unwrap();
    symlink("nowhere at all", at(b"dangling link")).unwrap();
    symlink("..", at(b"folder/link to the parent")).unwrap();

    let sparse = File::create(at(b"sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 40 << 20).unwrap();

    rustix::fs::mknodat(CWD, at(b"pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, at(b"character device"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), null)
            .unwrap();
        let block = rustix::fs::makedev(7, 200);
        rustix::fs::mknodat(CWD, at(b"block device"), FileType::BlockDevice, Mode::from_raw_mode(0o600), block)
            .unwrap();
        std::os::unix::fs::chown(at(b"one byte"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::lchown(at(b"link"), Some(1), Some(2)).unwrap();
    }
    let attribute = CString::new("user.colour").unwrap();
    rustix::fs::setxattr(at(b"one byte"), &attribute, b"green\0\xff", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(at(b"folder"), &attribute, b"", XattrFlags::empty()).unwrap();
    succeed(Command::new("setfacl").args(["-m", "user:4711:rw-"]).arg(at(b"folder/small 3")));
    succeed(Command::new("setfacl").args(["-d", "-m", "group:4712:r-x"]).arg(at(b"folder/empty")));

    let set_mode = |name: &[u8], mode| fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
    set_mode(b"folder/small 1", 0o4755);
    set_mode(b"folder/small 2", 0o000);
    set_mode(b"folder/deeper", 0o2775);
    set_mode(b"folder/empty", 0o1777);
    write(b"closed/inside", b"in a folder that nobody may write to");
    let set_time = |name: &[u8], tv_sec, tv_nsec| {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    set_time(b"empty", -86_400, 999_999_999);
    set_time(b"one byte", 0, 1);
    set_time(b"link", 1_000_000_000, 123_456_789);
    set_time(b"pipe", 4_102_444_800, 5);
    set_time(b"closed", 1_500_000_000, 0);
    set_mode(b"closed", 0o555);
}

/// What [`plant_tree`] leaves out because a foreign tool cannot take it: a socket and a link whose target is not UTF-8.
pub(crate) fn plant_rarities(top: &Path) {
    drop(UnixListener::bind(top.join("socket")).unwrap());
    symlink(OsStr::from_bytes(b"to \xff nowhere"), top.join("link to no text")).unwrap();
}

/// Writes `text` to the file's end.
pub(crate) fn append(path: &Path, text: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text).unwrap();
}
