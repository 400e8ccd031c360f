//! The host's half of the contract, item by item (reference 15, 45 to 53), against plugins that do one thing wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use backstay_gpbackup_host::plugin::{Fingerprint, Purpose};
use backstay_gpbackup_host::{Failure, Plugin, Timestamp};
use common::{Place, bytes, key};

const SEGMENTS: u16 = 3;

fn timestamp() -> Timestamp {
    Timestamp::parse("95972435002754").unwrap()
}

fn put(plugin: &Plugin, content: &[u8]) -> Result<Fingerprint, Failure> {
    plugin.put(&key("a"), 0, &mut &content[..]).map(|done| done.value)
}

/// The failure of a plugin whose `backup_data` does this.
fn put_with(backup_data: &str, content: &[u8]) -> String {
    let place = Place::with(&format!("if [ $word = backup_data ]; then {backup_data}\nfi"));
    let failure = put(&place.open(), content).unwrap_err().to_string();
    assert!(!failure.contains('\n'), "{failure}");
    failure
}

/// The failure of a plugin whose `restore_data` does this with an object of 200,000 bytes.
fn get_with(restore_data: &str) -> String {
    let place = Place::with(&format!("if [ $word = restore_data ]; then {restore_data}\nfi"));
    let plugin = place.open();
    let content = bytes(200_000);
    let stored = put(&plugin, &content).unwrap();
    let failure = plugin.get(&key("a"), 0, &stored, &mut std::io::sink()).unwrap_err().to_string();
    assert!(!failure.contains('\n'), "{failure}");
    failure
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

/// Processes whose command line has this text.
fn processes(of: &Path) -> Vec<String> {
    let of = of.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(of))
        .collect()
}

/// Nothing of the plugin runs any more. What SIGKILL ends beside the plugin's own process is gone a moment later.
#[track_caller]
fn nothing_is_left(place: &Place) {
    let begun = std::time::Instant::now();
    let mut left = processes(place.folder.path());
    while !left.is_empty() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
        left = processes(place.folder.path());
    }
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn versions_that_are_none_or_too_old_are_refused() {
    for (printed, part) in [
        ("echo 0.2.9", "0.3.0"),
        ("echo v0.4.0", "v0.4.0"),
        ("echo 0.4", "\"0.4\""),
        ("true", "\"\""),
        ("echo 0.5.0; echo oh no >&2; exit 3", "status 3; it said: oh no"),
    ] {
        let place = Place::with(&format!("if [ $word = plugin_api_version ]; then {printed}; exit; fi"));
        has(&place.try_open().unwrap_err().to_string(), &["plugin_api_version", part]);
    }
    for printed in ["echo 0.3.0", "echo 0.10.0", "echo; echo '  0.5.0 '", "echo noise >&2; echo 0.4.1"] {
        let place = Place::with(&format!("if [ $word = plugin_api_version ]; then {printed}; exit; fi"));
        place.open();
    }
}

#[test]
fn deletion_needs_version_0_4_0() {
    let place = Place::with("if [ $word = plugin_api_version ]; then echo 0.3.9; exit; fi");
    let plugin = place.open();
    has(&plugin.delete(&timestamp()).unwrap_err().to_string(), &["0.3.9", "0.4.0"]);
    assert_eq!(place.calls().len(), 2, "nothing was called");
}

#[test]
fn version_needs_three_words_and_exactly_three_with_encryption() {
    let with = |printed: &str| Place::with(&format!("if [ $word = --version ]; then echo {printed}; exit; fi"));
    has(&with("scripted 1.0").try_open().unwrap_err().to_string(), &["--version", "scripted 1.0"]);
    let place = with("scripted version 1.0 beta");
    assert_eq!(place.open().native.version, "1.0");
    let encrypt = |place: &Place| {
        let path = place.path("config.yaml");
        let text = std::fs::read_to_string(&path).unwrap() + "  password_encryption: on\n";
        std::fs::write(path, text).unwrap();
        place.try_open().unwrap_err().to_string()
    };
    has(&encrypt(&place), &["exactly three"]);
    has(&encrypt(&with("scripted version 1.0")), &["encrypted", "coordinator"]);
}

#[test]
fn arguments_are_those_of_gpbackup_and_hooks_come_in_their_order() {
    let place = Place::with("");
    let plugin = place.open();
    std::fs::remove_file(place.path("calls")).unwrap();
    plugin.set_up(Purpose::Backup, &timestamp(), SEGMENTS).unwrap();
    let config = plugin.config().display().to_string();
    let directory =
        |content: i32| place.path(&format!("run/gpseg{content}/backups/95972435/95972435002754")).display().to_string();
    let mut calls = place.calls();
    assert_eq!(calls.len(), 7);
    calls[1..4].sort();
    calls[4..].sort();
    let mut expected = vec![format!("setup_plugin_for_backup {config} {} master \"-1\"", directory(-1))];
    let hosts = (0..3).map(|content| format!("setup_plugin_for_backup {config} {} segment_host", directory(content)));
    expected.extend(hosts);
    expected.extend(
        (0..3).map(|content| format!("setup_plugin_for_backup {config} {} segment \"{content}\"", directory(content))),
    );
    assert_eq!(calls, expected);

    std::fs::remove_file(place.path("calls")).unwrap();
    let stored = put(&plugin, b"x").unwrap();
    plugin.get(&key("a"), 2, &stored, &mut std::io::sink()).unwrap();
    std::fs::write(key("f").path(&plugin.data_directory(-1)), "file").unwrap();
    let file = plugin.put_file(&key("f"), -1).unwrap().value;
    plugin.get_file(&key("f"), 1, &file).unwrap();
    assert!(plugin.clean_up(Purpose::Restore, &timestamp(), 1).is_empty());
    plugin.delete(&timestamp()).unwrap();
    assert_eq!(
        place.calls(),
        [
            format!("backup_data {config} {}/a", directory(0)),
            format!("restore_data {config} {}/a", directory(2)),
            format!("backup_file {config} {}/f", directory(-1)),
            format!("restore_file {config} {}/f", directory(1)),
            format!("cleanup_plugin_for_restore {config} {} master \"-1\"", directory(-1)),
            format!("cleanup_plugin_for_restore {config} {} segment_host", directory(0)),
            format!("cleanup_plugin_for_restore {config} {} segment \"0\"", directory(0)),
            format!("delete_backup {config} 95972435002754"),
        ]
    );
    drop(plugin);
    assert!(!Path::new(&config).exists(), "it can hold passwords");
}

#[test]
fn a_setup_hook_that_fails_stops_everything() {
    let failing = "if [ \"$word $4\" = 'setup_plugin_for_backup segment_host' ]; then echo no room >&2; exit 7; fi";
    let place = Place::with(failing);
    let failure = place.open().set_up(Purpose::Backup, &timestamp(), 2).unwrap_err().to_string();
    has(&failure, &["setup_plugin_for_backup", "segment_host", "status 7", "no room"]);
    assert!(!place.calls().iter().any(|call| call.contains(" segment ")), "the scopes after it are not called");
}

#[test]
fn a_cleanup_hook_that_fails_is_a_warning() {
    let place = Place::with("if [ \"$word $4\" = 'cleanup_plugin_for_backup segment' ]; then echo oh >&2; exit 1; fi");
    let plugin = place.open();
    let warnings = plugin.clean_up(Purpose::Backup, &timestamp(), 2);
    assert_eq!(warnings.len(), 2);
    has(&warnings[0].to_string(), &["cleanup_plugin_for_backup", "status 1", "oh"]);
    let place = Place::with("if [ \"$word $4\" = 'cleanup_plugin_for_backup master' ]; then exit 1; fi");
    assert_eq!(place.open().clean_up(Purpose::Backup, &timestamp(), 2).len(), 1);
    assert_eq!(place.calls().len(), 3, "the others are skipped: {:?}", place.calls());
}

#[test]
fn a_put_that_fails_anyhow_is_a_failure_with_what_was_said() {
    let big = bytes(3_000_000);
    has(&put_with("echo no such bucket >&2; exit 4", &big), &["backup_data", "status 4", "no such bucket"]);
    has(&put_with("echo no >&2; exit 4", b""), &["status 4", "no"]);
    has(&put_with("cat >/dev/null; echo at the end >&2; exit 5", &big), &["status 5", "at the end"]);
    has(&put_with("head -c 1500000 >/dev/null; echo half >&2; exit 6", &big), &["status 6", "half"]);
    has(&put_with("kill -9 $$", &big), &["signal 9"]);
    has(&put_with("head -c 1500000 >/dev/null; kill -9 $$", &big), &["signal 9", "after"]);
}

#[test]
fn status_0_without_reading_everything_is_a_failure() {
    for content in [&bytes(3_000_000)[..], b"little"] {
        has(&put_with("exit 0", content), &["status 0", "not read"]);
    }
    has(&put_with("head -c 1500000 >/dev/null; exit 0", &bytes(3_000_000)), &["status 0", "not read"]);
    has(&put_with("exec <&-; sleep 1; exit 0", b"little"), &["status 0", "not read"]);
}

#[test]
fn a_plugin_that_hangs_is_ended_with_all_that_it_started() {
    for (hanging, content) in [
        ("trap '' TERM; sleep 300", bytes(3_000_000)),
        ("sleep 300 & cat >/dev/null; wait", b"x".to_vec()),
        ("head -c 100000 >/dev/null; sleep 300", bytes(3_000_000)),
    ] {
        let case = format!("if [ $word = backup_data ]; then echo stuck >&2; {hanging}; fi");
        let mut place = Place::with(&case);
        place.limits.patience = Duration::from_secs(1);
        let failure = put(&place.open(), &content).unwrap_err().to_string();
        has(&failure, &["backup_data", "did not end for 1 seconds", "stuck"]);
        nothing_is_left(&place);
    }
    let mut place = Place::with("case $word in restore_data) sleep 300 ;; setup*) sleep 300 ;; esac");
    place.limits.patience = Duration::from_secs(1);
    let plugin = place.open();
    let stored = put(&plugin, b"x").unwrap();
    has(
        &plugin.get(&key("a"), 0, &stored, &mut std::io::sink()).unwrap_err().to_string(),
        &["restore_data", "gave none"],
    );
    has(&plugin.set_up(Purpose::Backup, &timestamp(), 1).unwrap_err().to_string(), &["did not end"]);
    nothing_is_left(&place);
}

#[test]
fn a_slow_plugin_and_a_slow_source_are_given_their_time() {
    struct Slow(u32);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1500));
            self.0 -= 1;
            buffer[0] = 1;
            Ok(usize::from(self.0 > 0))
        }
    }
    let mut place = Place::with("");
    place.limits.patience = Duration::from_secs(1);
    let plugin = place.open();
    assert_eq!(plugin.put(&key("a"), 0, &mut Slow(3)).unwrap().value.size, 2);
    // It takes longer than its patience in all, and moves all the time.
    let slow = "if [ $word = backup_data ]; then for i in 1 2 3 4 5; do head -c 60000 >/dev/null; sleep 0.4; done; fi";
    let mut place = Place::with(slow);
    place.limits.patience = Duration::from_secs(1);
    put(&place.open(), &bytes(600_000)).unwrap();
}

#[test]
fn streams_that_are_short_long_or_wrong_are_found_whatever_the_status() {
    has(&get_with("head -c 150000 \"$name\"; exit 0"), &["150000 bytes of the 200000", "status 0"]);
    has(&get_with("exit 0"), &["0 bytes of the 200000"]);
    has(&get_with("cat \"$name\"; echo"), &["more than the 200000"]);
    has(&get_with("cat /dev/zero"), &["more than the 200000"]);
    has(&get_with("printf x; tail -c +2 \"$name\"; exit 0"), &["other bytes"]);
    has(&get_with("cat \"$name\"; echo late >&2; exit 3"), &["status 3", "late"]);
    has(&get_with("head -c 99999 \"$name\"; kill -9 $$"), &["signal 9"]);
}

#[test]
fn files_that_come_back_otherwise_do_not_stay() {
    for (restoring, part) in [
        ("exit 0", "no file"),
        ("printf fil >$path; exit 0", "3 bytes instead of 4"),
        ("printf fill >$path; exit 0", "other bytes"),
        ("printf file >$path; exit 1", "status 1"),
    ] {
        let place = Place::with(&format!("if [ $word = restore_file ]; then {restoring}; fi"));
        let plugin = place.open();
        plugin.set_up(Purpose::Backup, &timestamp(), 1).unwrap();
        let path = key("f").path(&plugin.data_directory(0));
        std::fs::write(&path, "file").unwrap();
        let stored = plugin.put_file(&key("f"), 0).unwrap().value;
        std::fs::remove_file(&path).unwrap();
        has(&plugin.get_file(&key("f"), 0, &stored).unwrap_err().to_string(), &["restore_file", part]);
        assert!(!path.exists());
    }
    let place = Place::with("if [ $word = backup_file ]; then echo more >>$path; exit 0; fi");
    let plugin = place.open();
    plugin.set_up(Purpose::Backup, &timestamp(), 1).unwrap();
    std::fs::write(key("f").path(&plugin.data_directory(0)), "file").unwrap();
    has(&plugin.put_file(&key("f"), 0).unwrap_err().to_string(), &["changed the local file"]);
}

#[test]
fn much_on_standard_error_blocks_nothing_and_is_a_warning_with_status_0() {
    let noise = "head -c 1048576 /dev/zero | tr '\\0' 'x' >&2; echo end >&2";
    let place = Place::with(&format!("case $word in backup_data|restore_data) {noise} ;; esac"));
    let plugin = place.open();
    let content = bytes(3_000_000);
    let done = plugin.put(&key("a"), 0, &mut &content[..]).unwrap();
    assert!(done.said.len() < 5000 && done.said.ends_with("end"), "{}", done.said.len());
    let mut read = Vec::new();
    let said = plugin.get(&key("a"), 0, &done.value, &mut read).unwrap().said;
    assert!(read == content && said.starts_with("xxx"));
}

#[test]
fn a_source_that_fails_stores_nothing() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.min(buffer.len());
            self.0 -= count;
            if count == 0 { Err(std::io::Error::other("the disk is gone")) } else { Ok(count) }
        }
    }
    let place = Place::example();
    let plugin = place.open();
    has(&plugin.put(&key("a"), 0, &mut Broken(300_000)).unwrap_err().to_string(), &["the disk is gone"]);
    let empty = Fingerprint::of(b"");
    has(&plugin.get(&key("a"), 0, &empty, &mut std::io::sink()).unwrap_err().to_string(), &["there is no"]);
    nothing_is_left(&place);
}

#[test]
fn whoever_stops_in_the_middle_leaves_no_process_and_disturbs_no_later_run() {
    let mut place = Place::example();
    place.stop_at("stop");
    let plugin = place.open();
    struct Endless<'a>(&'a Place, usize);
    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 += buffer.len();
            if self.1 > 1_000_000 {
                std::fs::write(self.0.path("stop"), "").unwrap();
            }
            Ok(buffer.len())
        }
    }
    let failure = plugin.put(&key("a"), 0, &mut Endless(&place, 0)).unwrap_err();
    assert!(matches!(failure, Failure::Interrupted));
    nothing_is_left(&place);
    std::fs::remove_file(place.path("stop")).unwrap();
    let empty = Fingerprint::of(b"");
    assert!(plugin.get(&key("a"), 0, &empty, &mut std::io::sink()).is_err());
    let stored = put(&plugin, b"again").unwrap();
    plugin.get(&key("a"), 0, &stored, &mut std::io::sink()).unwrap();
}

#[test]
fn a_sink_that_fails_is_told_as_such() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let place = Place::with("");
    let plugin = place.open();
    let stored = put(&plugin, &bytes(1_000_000)).unwrap();
    assert!(matches!(plugin.get(&key("a"), 0, &stored, &mut Full).unwrap_err(), Failure::Sink(_)));
    nothing_is_left(&place);
}

#[test]
fn a_program_that_is_none_is_named() {
    let place = Place::with("");
    std::fs::remove_file(place.path("plugin")).unwrap();
    has(&place.try_open().unwrap_err().to_string(), &["cannot start", "plugin"]);
}

#[test]
fn ranges_need_the_option_and_come_from_the_example() {
    let place = Place::example();
    let content = bytes(300_000);
    let plugin = place.open();
    let mut out = Vec::new();
    let failure = plugin.get_ranges(&key("a"), 0, 10, &[(0, 1)], &mut out).unwrap_err();
    has(&failure.to_string(), &["restore_subset"]);
    drop(plugin);
    let path = place.path("config.yaml");
    let text = std::fs::read_to_string(&path).unwrap() + "  restore_subset: on\n";
    std::fs::write(path, text).unwrap();
    let plugin = place.open();
    let size = put(&plugin, &content).unwrap().size;
    let ranges = [(5, 100), (100, 100), (100, 200_000), (299_999, 300_000)];
    plugin.get_ranges(&key("a"), 0, size, &ranges, &mut out).unwrap();
    assert!(out == [&content[5..200_000], &content[299_999..]].concat());
    assert!(plugin.get_ranges(&key("a"), 0, size, &[(0, 300_001)], &mut out).is_err());
    assert!(plugin.get_ranges(&key("a"), 0, size, &[(9, 10), (3, 4)], &mut out).is_err());
    // A host that is wrong about the length is told so by the plugin.
    assert!(plugin.get_ranges(&key("a"), 0, size + 1, &[(0, 300_001)], &mut out).is_err());
}

#[test]
fn the_example_serves_a_whole_cycle() {
    let place = Place::example();
    let plugin = place.open();
    plugin.set_up(Purpose::Backup, &timestamp(), SEGMENTS).unwrap();
    let content = bytes(2_500_000);
    let stored = put(&plugin, &content).unwrap();
    std::fs::write(key("f").path(&plugin.data_directory(-1)), "file").unwrap();
    let file = plugin.put_file(&key("f"), -1).unwrap();
    assert_eq!(file.said, "");
    assert!(plugin.clean_up(Purpose::Backup, &timestamp(), SEGMENTS).is_empty());
    drop(plugin);
    let plugin = place.open();
    plugin.set_up(Purpose::Restore, &timestamp(), SEGMENTS).unwrap();
    let mut read = Vec::new();
    assert_eq!(plugin.get(&key("a"), 2, &stored, &mut read).unwrap().said, "");
    assert!(read == content);
    let path = plugin.get_file(&key("f"), 1, &file.value).unwrap().value;
    assert_eq!(std::fs::read_to_string(path).unwrap(), "file");
    assert!(plugin.clean_up(Purpose::Restore, &timestamp(), SEGMENTS).is_empty());
    plugin.delete(&timestamp()).unwrap();
    has(&plugin.get(&key("a"), 0, &stored, &mut read).unwrap_err().to_string(), &["status 1", "there is no"]);
}
