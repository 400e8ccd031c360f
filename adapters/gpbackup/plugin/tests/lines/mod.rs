//! The conformance checklist of gpbackup's storage plugins (reference 15), line by line, by the executable as gpbackup calls
//! it. Lines that need several segments or kinds of data have several of each. Whether an agent does the work, the program
//! that these tests are part of says.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use backstay_gpbackup_plugin::agent;
use rustix::process::{Pid, Signal, kill_process};

use crate::AGENT;
use random::random;

mod random;

const T: &str = "20240131120000";
const U: &str = "20240131120001";
/// No date (reference 1, fact 6).
const BENCH: &str = "95972435002754";
const PASSWORD: &str = "correct horse battery";

/// A host with a configuration and a place for a repository.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        host.write("password", PASSWORD);
        host.configure("config.yaml", "");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A configuration with the needed options and these lines.
    fn configure(&self, name: &str, lines: &str) -> String {
        let text = format!(
            "executablepath: {}\noptions:\n  repository: {}\n  password_file: {}\n  agent: {}\n{lines}",
            env!("CARGO_BIN_EXE_backstay_gpbackup_plugin"),
            self.text("repository"),
            self.text("password"),
            if AGENT { self.text("agents") } else { "off".to_owned() },
        );
        self.write(name, text).to_str().unwrap().to_owned()
    }

    fn config(&self) -> String {
        self.text("config.yaml")
    }

    /// The backup directory of a content.
    fn directory(&self, content: &str, timestamp: &str) -> String {
        self.text(&format!("gpseg{content}/backups/{}/{timestamp}", &timestamp[..8]))
    }

    fn key(&self, content: &str, timestamp: &str, name: &str) -> String {
        format!("{}/{name}", self.directory(content, timestamp))
    }

    /// The same, with the backup directory made.
    fn target(&self, content: &str, timestamp: &str, name: &str) -> String {
        std::fs::create_dir_all(self.directory(content, timestamp)).unwrap();
        self.key(content, timestamp, name)
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay_gpbackup_plugin"));
        command.args(arguments).env_clear().env("HOME", self.path("home")).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A command that succeeds, and says nothing on standard error.
    fn good<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Vec<u8> {
        let output = self.run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    }

    /// A command that fails with one line on standard error and nothing on standard output; the line.
    fn bad<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.run(arguments);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{line}");
        assert!(line.starts_with("backstay_gpbackup_plugin: ") && line.lines().count() == 1, "{line:?}");
        assert!(output.stdout.is_empty());
        assert!(!line.contains(PASSWORD));
        line
    }

    fn backup_data(&self, key: &str) -> Child {
        self.command(["backup_data", &self.config(), key]).stdin(Stdio::piped()).spawn().unwrap()
    }

    fn feed(&self, key: &str, data: &[u8]) -> Output {
        let mut child = self.backup_data(key);
        // A plugin that ends early is seen by its status.
        let _ = child.stdin.take().unwrap().write_all(data);
        child.wait_with_output().unwrap()
    }

    fn store(&self, key: &str, data: &[u8]) {
        let output = self.feed(key, data);
        assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
    }

    fn fetch(&self, key: &str) -> Vec<u8> {
        self.good(["restore_data", &self.config(), key])
    }

    fn is_missing(&self, key: &str) -> bool {
        self.bad(["restore_data", &self.config(), key]).contains("there is no object")
    }

    fn hook(&self, hook: &str, rest: &[&str]) {
        let config = self.config();
        let mut words = vec![hook, &config];
        words.extend(rest);
        self.good(words);
    }

    fn hooks(&self, what: &str, timestamp: &str) {
        let hook = format!("{what}_plugin_for_backup");
        self.hook(&hook, &[&self.directory("-1", timestamp), "master", "\"-1\""]);
        self.hook(&hook, &[&self.directory("0", timestamp), "segment_host"]);
        self.hook(&hook, &[&self.directory("0", timestamp), "segment", "\"0\""]);
    }

    /// Ends the agents; whether there was one.
    fn stop_agents(&self) -> bool {
        let folder = self.path("agents");
        let was = agent::stop_all(&folder).unwrap().len();
        while !agent::all(&folder).unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        was > 0
    }

    /// Another program's judgement of the repository.
    fn check(&self) {
        let restic = std::env::var_os("BACKSTAY_TEST_RESTIC").unwrap_or("restic".into());
        let output = Command::new(restic)
            .args(["-r", &self.text("repository"), "--no-cache", "--no-lock", "check", "--read-data"])
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.path("agents").exists() {
            // A test that failed says so itself.
            let _ = agent::stop_all(&self.path("agents"));
        }
    }
}

#[test]
fn item_01_the_version_of_the_api_needs_nothing() {
    let host = Host::new();
    let folder = host.path("closed");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = host.command(["plugin_api_version"]).env_remove("HOME").current_dir(&folder).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"0.5.0\n"[..]));
    assert!(output.stderr.is_empty());
}

#[test]
fn item_02_the_version_is_three_words() {
    let text = String::from_utf8(Host::new().good(["--version"])).unwrap();
    let words: Vec<&str> = text.trim_end_matches('\n').split(' ').collect();
    assert_eq!((words.len(), words[0], words[1]), (3, "backstay_gpbackup_plugin", "version"));
}

#[test]
fn item_03_unknown_commands() {
    let host = Host::new();
    for words in [&[][..], &[""], &["unknown_command"], &["BACKUP_DATA"], &["backup_data "]] {
        host.bad(words);
    }
}

#[test]
fn item_04_numbers_of_arguments() {
    let host = Host::new();
    for command in ["backup_file", "restore_file", "backup_data", "restore_data", "delete_backup"] {
        assert!(host.bad([command, "a"]).contains(command));
        assert!(host.bad([command, "a", "b", "c"]).contains(command));
    }
    for hook in ["setup_plugin_for_backup", "cleanup_plugin_for_restore"] {
        assert!(host.bad([hook, "a"]).contains(hook));
        assert!(host.bad([hook, "a", "b", "c", "d", "e"]).contains(hook));
    }
}

#[test]
fn items_05_to_08_hooks() {
    let host = Host::new();
    let directory = host.directory("0", T);
    for hook in [
        "setup_plugin_for_backup",
        "setup_plugin_for_restore",
        "cleanup_plugin_for_backup",
        "cleanup_plugin_for_restore",
    ] {
        for rest in [
            &["master", "\"-1\""][..],
            &["coordinator", "\"-1\""],
            &["master", "-1"],
            &["segment_host"],
            &["segment", "\"0\""],
            &["segment", "12"],
            &["anything"],
            // The form of version 0.1.0.
            &[],
        ] {
            let words = [&[directory.as_str()][..], rest].concat();
            host.hook(hook, &words);
            host.hook(hook, &words);
        }
    }
    // Setup for a restore makes the directory, setup for a backup leaves it alone.
    assert!(Path::new(&directory).is_dir());
    // All at once, on a host where nobody was before.
    let host = Host::new();
    let directory = host.directory("0", U);
    let children: Vec<Child> = (0..32)
        .map(|_| host.command(["setup_plugin_for_backup", &host.config(), &directory, "segment_host"]).spawn().unwrap())
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    assert!(!Path::new(&directory).exists());
    host.store(&host.key("0", U, "x"), b"afterwards");
    host.check();
}

#[test]
fn item_09_configurations_as_written_and_rewritten() {
    let host = Host::new();
    host.store(&host.key("0", T, "x"), b"data");
    let rewritten = host.configure(
        "rewritten.yaml",
        "  limit_download: \"100000\"\n  pgport: \"6000\"\n  backup_plugin_version: \"\"\n  connections: 4\n",
    );
    assert_eq!(host.good(["restore_data", &rewritten, &host.key("0", T, "x")]), b"data");
}

#[test]
fn item_10_configurations_that_are_none() {
    let host = Host::new();
    let key = host.key("0", T, "x");
    let directory = host.directory("0", T);
    let file = host.target("0", T, "f");
    std::fs::write(&file, "data").unwrap();
    for (name, text, part) in [
        ("not yaml", "executablepath: [", "formatted"),
        ("unknown key", "executablepath: /x\nother: 1\n", "other"),
        ("no path", "options: {repository: /r}\n", "executablepath"),
        ("no repository", "executablepath: /x\n", "repository"),
        ("bad value", "executablepath: /x\noptions: {repository: /r, compression: best}\n", "compression"),
    ] {
        let config = host.write(name, text);
        let config = config.to_str().unwrap();
        for words in [
            &["setup_plugin_for_backup", config, &directory, "master", "\"-1\""][..],
            &["cleanup_plugin_for_backup", config, &directory, "segment_host"],
            &["backup_file", config, &file],
            &["restore_file", config, &key],
            &["backup_data", config, &key],
            &["restore_data", config, &key],
            &["delete_backup", config, T],
        ] {
            let line = host.bad(words);
            assert!(line.contains(part) && line.contains(config), "{name} {words:?}: {line}");
        }
    }
    for config in [host.text("nowhere"), host.text("gpseg0")] {
        assert!(host.bad(["restore_data", &config, &key]).contains(&config));
    }
    assert!(!host.path("repository").exists());
}

#[test]
fn items_11_and_12_files() {
    let host = Host::new();
    let name = format!("gpbackup_{T}_metadata.sql");
    let path = host.target("-1", T, &name);
    std::fs::write(&path, "create table t();\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    host.good(["backup_file", &host.config(), &path]);
    assert_eq!(std::fs::read(&path).unwrap(), b"create table t();\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    for (content, mode) in [("7", None), ("8", Some(0o755)), ("9", Some(0o644))] {
        let target = host.target(content, T, &name);
        if let Some(mode) = mode {
            std::fs::write(&target, "something longer that was here before and has to go").unwrap();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        host.good(["restore_file", &host.config(), &target]);
        assert_eq!(std::fs::read(&target).unwrap(), b"create table t();\n");
    }
}

#[test]
fn items_13_and_21_streams_of_every_size() {
    let host = Host::new();
    let sizes = [0, 1, 1001, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 20 << 20];
    let mut streams: Vec<Vec<u8>> = sizes.iter().map(|size| random(*size, *size as u64)).collect();
    streams.push(vec![0; 20 << 20]);
    for (number, data) in streams.iter().enumerate() {
        let key = host.key("0", T, &format!("gpbackup_0_{T}_{number}"));
        host.store(&key, data);
        assert!(host.fetch(&key) == *data, "{number}");
    }
    host.check();
}

#[test]
fn item_14_writers_of_every_pace() {
    let host = Host::new();
    let pause = || std::thread::sleep(Duration::from_millis(300));
    for (number, (piece, pieces)) in [(1, 3000), (4096, 50), (1 << 20, 3)].into_iter().enumerate() {
        let key = host.key("0", T, &number.to_string());
        let data = random(piece * pieces, 9);
        let mut child = host.backup_data(&key);
        let mut stdin = child.stdin.take().unwrap();
        pause();
        for (at, piece) in data.chunks(piece).enumerate() {
            stdin.write_all(piece).unwrap();
            if at == pieces / 2 {
                pause();
            }
        }
        pause();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(host.fetch(&key) == data, "{piece}");
    }
}

#[test]
fn items_15_to_18_keys() {
    let host = Host::new();
    let name = format!("gpbackup_4_{T}.gz");
    host.store(&host.key("4", T, &name), b"of segment four");
    for root in ["/b/c/gpseg7", "/data/gpseg0", ""] {
        assert_eq!(host.fetch(&format!("{root}/backups/{}/{T}/{name}", &T[..8])), b"of segment four");
    }
    // One name space.
    let report = format!("gpbackup_{T}_report");
    let path = host.target("-1", T, &report);
    std::fs::write(&path, "a report").unwrap();
    host.good(["backup_file", &host.config(), &path]);
    assert_eq!(host.fetch(&path), b"a report");
    assert_eq!(host.fetch(&format!("/anywhere/{report}")), b"a report");
    let target = host.target("1", T, &name);
    host.good(["restore_file", &host.config(), &target]);
    assert_eq!(std::fs::read(target).unwrap(), b"of segment four");
}

#[test]
fn item_19_keys_that_are_none() {
    let host = Host::new();
    host.store(&host.key("0", T, "x"), b"data");
    for key in ["x", "/x", "/a/b/c", &format!("/backups/{}/{T}/../x", &T[..8]), &format!("/backups/{}/{T}/", &T[..8])] {
        for command in ["backup_data", "restore_data", "restore_file"] {
            assert!(host.bad([command, &host.config(), key]).contains("key"), "{command} {key}");
        }
    }
}

#[test]
fn item_20_timestamps_that_are_no_dates_and_neighbours() {
    let host = Host::new();
    let timestamps = [BENCH, "95972435002755", "20249999999999", "20250000000000"];
    for timestamp in timestamps {
        host.store(&host.key("0", timestamp, "x"), timestamp.as_bytes());
    }
    for timestamp in timestamps {
        assert_eq!(host.fetch(&host.key("0", timestamp, "x")), timestamp.as_bytes());
    }
    host.good(["delete_backup", &host.config(), "20249999999999"]);
    assert_eq!(host.fetch(&host.key("0", "20250000000000", "x")), b"20250000000000");
    assert!(host.is_missing(&host.key("0", "20249999999999", "x")));
}

#[test]
fn items_22_to_25_nothing_depends_on_hooks() {
    let host = Host::new();
    let key = host.key("0", T, "x");
    host.hooks("setup", T);
    host.store(&key, b"the first, which is longer");
    assert_eq!(host.fetch(&key), b"the first, which is longer");
    host.hooks("cleanup", T);
    host.store(&key, b"the second");
    assert_eq!(host.fetch(&key), b"the second");
    host.hooks("cleanup", T);
    assert_eq!(host.fetch(&key), b"the second", "folded");
    host.hooks("setup", U);
    let target = host.target("3", T, "x");
    host.good(["restore_file", &host.config(), &target]);
    assert_eq!(std::fs::read(target).unwrap(), b"the second");
    host.check();
}

#[test]
fn items_26_27_and_42_many_at_once() {
    let host = Host::new();
    let key = |content: usize, table: usize| {
        let timestamp = if content.is_multiple_of(2) { T } else { U };
        host.key(&content.to_string(), timestamp, &format!("gpbackup_{content}_{timestamp}_{table}"))
    };
    let data = |content: usize, table: usize| random(10_000 + 1000 * table, (content * 100 + table) as u64);
    std::thread::scope(|scope| {
        for content in 0..16 {
            let (host, key) = (&host, &key);
            scope.spawn(move || (0..4).for_each(|table| host.store(&key(content, table), &data(content, table))));
        }
    });
    // All cleanup hooks of a host run at once.
    std::thread::scope(|scope| {
        for timestamp in [T, U, T, U] {
            scope.spawn(|| host.hooks("cleanup", timestamp));
        }
    });
    for content in 0..16 {
        for table in 0..4 {
            assert!(host.fetch(&key(content, table)) == data(content, table), "{content} {table}");
        }
    }
    let snapshots = std::fs::read_dir(host.path("repository/snapshots")).unwrap().count();
    assert_eq!(snapshots, 2, "one for each backup");
    host.check();
}

#[test]
fn what_is_read_while_its_backup_is_folded_is_found() {
    let host = Host::new();
    let key = |number: usize| host.key("0", T, &number.to_string());
    for round in 0..3 {
        for number in 0..4 {
            host.store(&key(number), format!("{round} {number}").as_bytes());
        }
        std::thread::scope(|scope| {
            scope.spawn(|| host.hooks("cleanup", T));
            for number in 0..4 {
                let (host, key) = (&host, &key);
                scope.spawn(move || {
                    for _ in 0..4 {
                        assert_eq!(host.fetch(&key(number)), format!("{round} {number}").as_bytes());
                    }
                });
            }
        });
    }
}

#[test]
fn item_28_ranges() {
    let host = Host::new();
    let key = host.key("0", T, "x");
    let data = random(3_000_000, 11);
    host.store(&key, &data);
    for (text, ranges) in [
        ("2 1000 152000 453000 904000", &[(1000, 152_000), (453_000, 904_000)][..]),
        ("3 0 10 10 20 20 20\n", &[(0, 10), (10, 20)]),
        ("1 0 3000000", &[(0, 3_000_000)]),
        ("0", &[]),
    ] {
        let offsets = host.write("offsets", text);
        let found = host.good(["restore_data_subset", &host.config(), &key, offsets.to_str().unwrap()]);
        let expected: Vec<u8> = ranges.iter().flat_map(|(start, end)| data[*start..*end].to_vec()).collect();
        assert!(found == expected, "{text}");
    }
    for text in ["1 0 3000001", "1 5", "x", "1 9 5"] {
        let offsets = host.write("offsets", text);
        host.bad(["restore_data_subset", &host.config(), &key, offsets.to_str().unwrap()]);
    }
}

#[test]
fn items_29_and_30_what_is_not_there() {
    let host = Host::new();
    host.store(&host.key("0", T, "x"), b"data");
    assert!(host.is_missing(&host.key("0", T, "y")));
    assert!(host.is_missing(&host.key("0", U, "x")));
    let target = host.target("5", T, "y");
    host.bad(["restore_file", &host.config(), &target]);
    assert!(!Path::new(&target).exists());
    host.bad(["backup_file", &host.config(), &target]);
    host.bad(["backup_file", &host.config(), &host.directory("5", T)]);
    assert!(host.is_missing(&target));
}

#[test]
fn items_31_to_33_killed_in_mid_stream() {
    let host = Host::new();
    let other = host.key("0", T, "other");
    host.store(&other, b"other data");
    let before = Some(&b"whole"[..]);
    for (signal, before) in [(Signal::KILL, None), (Signal::TERM, None), (Signal::INT, None), (Signal::KILL, before)] {
        let key = host.key("0", T, &format!("x{}{}", signal.as_raw(), before.is_some()));
        if let Some(before) = before {
            host.store(&key, before);
        }
        let mut child = host.backup_data(&key);
        child.stdin.as_mut().unwrap().write_all(&random(40 << 20, 3)).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(!child.wait().unwrap().success());
        match before {
            Some(before) => assert_eq!(host.fetch(&key), before),
            None => assert!(host.is_missing(&key)),
        }
        host.store(&key, b"again");
        assert_eq!(host.fetch(&key), b"again");
    }
    assert_eq!(host.fetch(&other), b"other data");
    host.good(["delete_backup", &host.config(), T]);
    assert!(host.is_missing(&other));
}

#[test]
fn item_34_a_place_that_cannot_be_written() {
    let host = Host::new();
    host.store(&host.key("0", T, "x"), b"data");
    // Even root cannot write where there is no folder.
    let (data, moved) = (host.path("repository/data"), host.path("moved"));
    std::fs::rename(&data, &moved).unwrap();
    std::fs::write(&data, "").unwrap();
    let output = host.feed(&host.key("0", T, "y"), &random(1 << 20, 1));
    assert!(!output.status.success() && !output.stderr.is_empty());
    std::fs::remove_file(&data).unwrap();
    std::fs::rename(moved, data).unwrap();
    assert!(host.is_missing(&host.key("0", T, "y")));
    assert_eq!(host.fetch(&host.key("0", T, "x")), b"data");
}

#[test]
fn item_35_readers_that_have_enough() {
    let host = Host::new();
    let key = host.key("0", T, "x");
    host.store(&key, &random(30 << 20, 8));
    for wanted in [0, 1 << 20] {
        let mut child = host.command(["restore_data", &host.config(), &key]).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        std::io::copy(&mut (&mut stdout).take(wanted), &mut std::io::sink()).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(host.stop_agents(), AGENT);
    let locks = || std::fs::read_dir(host.path("repository/locks")).unwrap().count();
    // What an agent holds goes with it.
    while AGENT && locks() > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(locks(), 0);
}

#[test]
fn item_36_damage_ends_the_stream() {
    let host = Host::new();
    let key = host.key("0", T, "x");
    let data = random(40 << 20, 21);
    host.store(&key, &data);
    let mut packs: Vec<PathBuf> = std::fs::read_dir(host.path("repository/data"))
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    packs.sort_by_key(|pack| pack.metadata().unwrap().len());
    let pack = packs.last().unwrap();
    let mut bytes = std::fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(pack, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(pack, bytes).unwrap();
    let output = host.run(["restore_data", &host.config(), &key]);
    assert!(!output.status.success() && !output.stderr.is_empty());
    assert!(output.stdout.len() < data.len() && data.starts_with(&output.stdout));
}

#[test]
fn items_38_39_and_43_deleting() {
    let host = Host::new();
    host.store(&host.key("0", T, "x"), b"data");
    for timestamp in ["", "2026", "2024013112000", "202401311200000", "2024013112000x", "..", "*", "/backups/20240131"]
    {
        assert!(host.bad(["delete_backup", &host.config(), timestamp]).contains("14 digits"));
    }
    assert_eq!(host.fetch(&host.key("0", T, "x")), b"data");
    host.good(["delete_backup", &host.config(), U]);
    host.good(["delete_backup", &host.config(), T]);
    host.good(["delete_backup", &host.config(), T]);
    assert!(host.is_missing(&host.key("0", T, "x")));
    host.hooks("cleanup", T);
    host.hooks("cleanup", "20300101000000");
}

#[test]
fn items_40_and_41_deleting_what_shares_data() {
    let host = Host::new();
    let data = random(10 << 20, 77);
    host.store(&host.key("0", T, "x"), &data);
    let mut child = host.backup_data(&host.key("0", U, "x"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&data[..5 << 20]).unwrap();
    host.good(["delete_backup", &host.config(), T]);
    stdin.write_all(&data[5 << 20..]).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(host.is_missing(&host.key("0", T, "x")));
    assert!(host.fetch(&host.key("0", U, "x")) == data);
    host.check();
}

#[test]
fn item_44_wrong_passwords_and_places() {
    let host = Host::new();
    let key = host.key("0", T, "x");
    host.store(&key, b"data");
    host.write("password", "wrong");
    assert!(host.bad(["restore_data", &host.config(), &key]).contains("password"));
    assert!(host.bad(["backup_data", &host.config(), &key]).contains("password"));
    assert!(host.bad(["delete_backup", &host.config(), T]).contains("password"));
    std::fs::remove_file(host.path("password")).unwrap();
    assert!(host.bad(["restore_data", &host.config(), &key]).contains(&host.text("password")));
    host.write("password", PASSWORD);
    std::fs::rename(host.path("repository"), host.path("away")).unwrap();
    assert!(host.bad(["restore_data", &host.config(), &key]).contains("repository"));
}

#[test]
fn unknown_options_are_told_in_the_log_and_nowhere_else() {
    let host = Host::new();
    let config = host.configure("config.yaml", "  folderr: x\n");
    host.good(["setup_plugin_for_backup", &config, &host.directory("-1", T), "master", "\"-1\""]);
    let logs: String = std::fs::read_dir(host.path("home/gpAdminLogs"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert!(logs.contains("[WARNING]:-the option folderr is unknown"), "{logs}");
    assert!(!logs.contains(PASSWORD));
}

#[test]
fn objects_are_listed_with_their_sizes_and_a_whole_backup_is_deleted_by_its_folder() {
    let host = Host::new();
    host.store(&host.key("3", T, &format!("gpbackup_3_{T}.zst")), b"12345");
    host.store(&host.key("3", U, "x"), b"1");
    let list = |path: &[&str]| {
        let config = host.config();
        String::from_utf8(host.good([&["list_directory", &config], path].concat())).unwrap()
    };
    let (first, second) = (format!("/gpbackup/{T}/3/gpbackup_3_{T}.zst 5\n"), format!("/gpbackup/{U}/-1/x 1\n"));
    assert_eq!(list(&[]), format!("{first}{second}"));
    assert_eq!(list(&[&host.directory("9", T)]), first);
    host.bad(["delete_directory", &host.config(), "/"]);
    host.good(["delete_directory", &host.config(), &host.directory("9", T)]);
    assert_eq!(list(&[]), second);
}
