//! Backups and restores with the real worker and the test plugins: what the contract promises, and every way in which a
//! plugin can go wrong.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use backstay_core::{Attr, End, FileKind, MessageLevel, Tally};
use common::{Kept, TestJob, WAYS, backup, definition, is_alive, restore, restore_by, run};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn the_traces_of_a_minimal_backup_and_restore_are_those_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("trace");
    let options = format!("option=value:log={}", log.display());
    let ran = backup("probe_trace", &options);
    ran.whole();
    let parsed = format!("parse_plugin_definition('{options}:')");
    assert_eq!(
        lines(&log),
        [
            "constructor",
            &parsed,
            "handle_plugin_event(16)",
            "handle_plugin_event(3)",
            &parsed,
            "start_backup_file",
            "plugin_io OPEN",
            "plugin_io READ",
            "plugin_io CLOSE",
            "get_acl",
            "get_xattr",
            "end_backup_file",
            "handle_plugin_event(4)",
            "handle_plugin_event(2)",
        ]
    );
    let stored = [definition("probe_trace", &options)];
    for way in WAYS {
        std::fs::remove_file(&log).unwrap();
        let target = folder.path().join(format!("{way:?}"));
        let restored = restore_by(way, &stored, &ran.kept.saved, |options| options.where_prefix = Some(target.clone()));
        assert_eq!((restored.failures.as_slice(), &restored.end), (&[][..], &Ok(())), "{}", restored.job.log());
        assert_eq!(
            lines(&log),
            [
                "constructor",
                &parsed,
                &format!("start_restore_file('{}')", stored[0]),
                "create_file",
                "plugin_io OPEN",
                "set_file_attributes",
                "plugin_io CLOSE",
                "set_acl",
                "set_xattr",
                "end_restore_file",
                "handle_plugin_event(2)",
            ],
            "{way:?}"
        );
        assert!(target.join("probe/trace").is_file());
    }
}

#[test]
fn reads_of_every_size_and_kind_give_the_same_bytes() {
    for (case, size) in [
        ("one_byte", 60_000),
        ("short", 300_000),
        ("full", 30_000_000),
        ("bytes", 1_000_000),
        ("reused", 1_000_000),
        ("longer_buf", 1_000_000),
        ("eintr", 1_000_000),
        ("no_data", 1000),
        ("full", 262_144),
        ("full", 262_145),
    ] {
        let ran = backup("reads", &format!("case={case}:size={size}"));
        ran.whole();
        assert_eq!(ran.kept.tally, Tally { announced: 1, saved: 1, ..Tally::default() }, "{case}");
        let expected = if case == "no_data" { Vec::new() } else { pattern(size) };
        assert!(ran.kept.saved[0].content == expected, "{case}: {} bytes", ran.kept.saved[0].content.len());
    }
    for case in ["error", "over_count", "eintr_forever"] {
        let ran = backup("reads", &format!("case={case}"));
        ran.whole();
        assert_eq!(ran.kept.tally, Tally { announced: 1, failed: 1, ..Tally::default() }, "{case}");
        assert!(ran.kept.failed[0].1.message.contains("/probe/reads"), "{:?}", ran.kept.failed);
    }
    let ran = backup("reads", "case=raise");
    assert!(ran.stopped().contains("raised in the middle of a file"), "{}", ran.stopped());
    assert!(ran.job.has(MessageLevel::Fatal, "RuntimeError: raised in the middle of a file"));
    assert_eq!((ran.kept.tally.saved, ran.kept.tally.announced), (0, 1));
}

#[test]
fn ten_gibibytes_come_through_a_pipe_by_descriptor() {
    let kept = Kept { only_count: true, ..Kept::default() };
    let ran = run(&[definition("pipe", "")], |_| (), kept, Arc::default());
    ran.whole();
    assert_eq!(ran.kept.saved[0].length, 10 << 30);
    assert!(!ran.job.has(MessageLevel::Error, ""), "{}", ran.job.log());
}

#[test]
fn sockets_and_pipes_come_back_as_they_went() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    // More than a pipe holds; the smaller one goes to the worker whole.
    for (how, size) in [("pipe", 3_000_001), ("socket", 3_000_001), ("pipe", 120_001), ("socket", 120_001)] {
        std::fs::write(&source, pattern(size)).unwrap();
        let options = format!("how={how}:size=99999999:source={}", source.display());
        let ran = backup("pipe", &options);
        ran.whole();
        assert!(ran.kept.saved[0].content == pattern(size));
        let target = folder.path().join(format!("{how} {size}"));
        let restored = restore(&[definition("pipe", &options)], &ran.kept.saved, |options| {
            options.where_prefix = Some(target.clone());
        });
        assert_eq!((restored.failures.as_slice(), &restored.end), (&[][..], &Ok(())), "{}", restored.job.log());
        assert!(std::fs::read(target.join("probe/pipe")).unwrap() == pattern(size));
    }
}

#[test]
fn every_kind_of_object_is_announced_and_restored() {
    let ran = backup("kinds", "notsaved=yes");
    // Types that could not be saved are the plugin's own words: the job reaches its end.
    ran.whole();
    let tally = ran.kept.tally;
    assert_eq!(tally.failed + tally.skipped, 9, "{tally:?}\n{}", ran.job.log());
    let of = |name: &str| {
        let wanted = |saved: &&common::Saved| saved.entry.name == name.as_bytes();
        ran.kept.saved.iter().find(wanted).unwrap_or_else(|| panic!("{name} is missing"))
    };
    assert_eq!(of("/kinds/file").attrs.len(), 4);
    let binary = Attr::Xattr { name: b"user.binary".to_vec(), value: (0..=255).collect() };
    assert!(of("/kinds/file").attrs.contains(&binary));
    assert!(of("/kinds/second name").entry.hard_link);
    assert_eq!(of("/kinds/link").entry.kind, FileKind::Symlink);
    assert_eq!(of("/kinds/link").entry.link, b"file");
    assert_eq!(of("/kinds/fifo").entry.kind, FileKind::Fifo);
    assert_eq!(of("/kinds/").entry.kind, FileKind::Directory);
    assert_eq!(of("@KINDS/new\nline\\backslash").content, b"newline\n");
    let wide = &of("/kinds/wide integers").entry.stat;
    assert_eq!((wide.inode, wide.size, wide.ctime.seconds), (u64::MAX, (1 << 63) + 5, -1));
    assert_eq!(ran.kept.saved.iter().filter(|saved| saved.entry.name == b"@KINDS/twice").count(), 2);

    let folder = tempfile::tempdir().unwrap();
    let wanted: Vec<common::Saved> = ran
        .kept
        .saved
        .into_iter()
        .filter(|saved| {
            [&b"/kinds/file"[..], b"/kinds/link", b"/kinds/fifo", b"/kinds/folder/"]
                .contains(&saved.entry.name.as_slice())
        })
        .collect();
    let restored = restore(&[definition("kinds", "")], &wanted, |options| {
        options.where_prefix = Some(folder.path().into());
    });
    assert_eq!(restored.end, Ok(()), "{}", restored.job.log());
    assert_eq!(std::fs::read(folder.path().join("kinds/file")).unwrap(), b"text\n");
    assert_eq!(std::fs::read_link(folder.path().join("kinds/link")).unwrap(), Path::new("file"));
    assert!(folder.path().join("kinds/folder").is_dir());
}

/// Callbacks of a backup, in the order in which they are called.
const CALLBACKS: [&str; 12] = [
    "load_bareos_plugin",
    "parse_plugin_definition",
    "handle_plugin_event(16)",
    "handle_plugin_event(3)",
    "start_backup_file",
    "plugin_io_open",
    "plugin_io_read",
    "plugin_io_close",
    "get_acl",
    "get_xattr",
    "end_backup_file",
    "handle_plugin_event(4)",
];

#[test]
fn an_exception_in_any_callback_stops_the_job_with_its_traceback() {
    for callback in CALLBACKS {
        let ran = backup("raises", &format!("where={callback}"));
        assert!(!ran.stopped().is_empty());
        let name = callback.split('(').next().unwrap();
        let name = if name.starts_with("plugin_io") { "plugin_io" } else { name };
        let said = format!("ValueError: raised in {name}");
        assert!(ran.job.has(MessageLevel::Fatal, &said), "{callback}: {}", ran.job.log());
        assert!(ran.job.has(MessageLevel::Fatal, "Traceback (most recent call last)"), "{callback}");
    }
}

#[test]
fn a_worker_that_dies_in_any_callback_is_named_and_nothing_is_called_whole() {
    for callback in CALLBACKS.into_iter().chain(["handle_plugin_event(2)"]) {
        let ran = backup("exits", &format!("where={callback}"));
        assert_eq!(ran.stopped(), "the plugin worker exited with status 3", "{callback}");
        let Tally { announced, saved, lost, .. } = ran.kept.tally;
        let expected = match callback {
            "plugin_io_open" | "plugin_io_read" | "plugin_io_close" | "get_acl" | "get_xattr" => (1, 0, 1),
            // Before: nothing was announced. After: the entry was told as far as it came.
            "end_backup_file" | "handle_plugin_event(4)" | "handle_plugin_event(2)" => (1, saved, 1 - saved),
            _ => (0, 0, 0),
        };
        assert_eq!((announced, saved, lost), expected, "{callback}");
    }
    for (how, said) in [
        ("exit0", "exited with status 0"),
        ("segv", "was killed by SIGSEGV"),
        ("null", "was killed by SIGSEGV"),
        ("abort", "was killed by SIGABRT"),
        ("kill", "was killed by SIGKILL"),
    ] {
        let ran = backup("exits", &format!("where=plugin_io_read:how={how}"));
        assert_eq!(ran.stopped(), format!("the plugin worker {said}"));
        assert_eq!(ran.kept.tally.lost, 1);
    }
}

#[test]
fn a_worker_killed_at_any_byte_of_its_data_is_a_stopped_source() {
    for at in [1_u64, 4096, 262_143, 262_145, 1_000_000, 5_000_000, 9_000_000, 17_000_001] {
        for how in ["reads", "pipe"] {
            let folder = tempfile::tempdir().unwrap();
            // A name of its own for the program tells this worker from those of the tests that run beside.
            let program = folder.path().join("worker");
            std::os::unix::fs::symlink(common::worker_program(), &program).unwrap();
            let named = program.clone();
            let kill = Box::new(move || kill_all(&named));
            let kept = Kept { at: Some((at, kill)), ..Kept::default() };
            let ran = run(
                &[definition(how, "size=40000000")],
                |options| options.worker_program = Some(program),
                kept,
                Arc::default(),
            );
            assert_eq!(ran.stopped(), "the plugin worker was killed by SIGKILL", "{how} at {at}");
            assert_eq!(ran.kept.tally, Tally { announced: 1, lost: 1, ..Tally::default() });
        }
    }
}

/// Kills the processes that were started by this name.
fn kill_all(program: &Path) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.split(|&byte| byte == 0).next() == Some(program.as_os_str().as_encoded_bytes()) {
            let pid = entry.file_name().into_string().unwrap();
            assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
        }
    }
}

#[test]
fn what_a_plugin_prints_goes_to_the_log_and_spoils_nothing() {
    let ran = backup("prints", "long=yes");
    ran.whole();
    assert_eq!(ran.kept.saved[0].content, b"probe data\n");
    assert!(!ran.job.messages.lock().unwrap().is_empty());
    assert!(ran.job.messages.lock().unwrap().iter().all(|(_, text)| text.len() < 20_000));
}

#[test]
fn messages_have_their_levels() {
    let ran = backup("messages", "kinds=2,4,5,6,99");
    ran.whole();
    for (kind, level) in [
        (2, MessageLevel::Debug),
        (4, MessageLevel::Error),
        (5, MessageLevel::Warning),
        (6, MessageLevel::Info),
        (99, MessageLevel::Info),
    ] {
        let text = format!("python3-fd-mod: message of type {kind}: 100% %s %n");
        let found = ran.job.messages.lock().unwrap().iter().any(|given| *given == (level, text.clone()));
        assert!(found, "{kind}: {}", ran.job.log());
    }
    assert!(matches!(backup("messages", "kinds=3").end, Ok(End::Stopped(_))));
}

#[test]
fn plugins_that_cannot_be_loaded_say_why() {
    for (module, options, said) in [
        ("syntax_error", "", "SyntaxError"),
        ("raises_on_import", "", "No module named 'a_module_that_is_not_installed'"),
        ("no_such_module_anywhere", "", "No module named 'no_such_module_anywhere'"),
        ("empty", "", ""),
        ("missing", "", ""),
        ("missing", "only=load", "the plugin has no function parse_plugin_definition"),
    ] {
        let ran = backup(module, options);
        assert!(!ran.stopped().is_empty(), "{module}");
        let level = if options == "only=load" { MessageLevel::Warning } else { MessageLevel::Fatal };
        assert!(ran.job.has(level, said), "{module}: {}", ran.job.log());
        assert_eq!(ran.kept.tally, Tally::default(), "{module}");
    }
}

#[test]
fn nonsense_never_ends_in_a_whole_backup_of_something_else() {
    for rc in ["9", "-1", "99999999999999999999", "None", "text", "float", "true"] {
        for callback in CALLBACKS {
            let ran = backup("nonsense_rc", &format!("callback={callback}:rc={rc}"));
            // What it comes to is the contract's business; that it comes to an end, and adds up, is ours.
            assert!(ran.kept.tally.announced <= 1, "{callback} {rc}: {:?}", ran.kept.tally);
            for saved in &ran.kept.saved {
                assert!(saved.content.is_empty() || saved.content == b"probe data\n", "{callback} {rc}");
            }
        }
    }
}

#[test]
fn wrong_types_end_in_a_failure_that_names_them() {
    for case in [
        "fname_bytes",
        "fname_none",
        "fname_deleted",
        "fname_nul",
        "link_none",
        "link_int",
        "statp_missing",
        "statp_deleted",
        "statp_stat_result",
        "flags_none",
        "flags_bytes",
        "flags_short",
        "type_missing",
        "type_unknown",
        "buf_str",
        "buf_none",
        "buf_list",
        "status_none",
        "status_float",
        "open_status_only",
        "open_bad_descriptor",
    ] {
        let ran = backup("wrong_types", &format!("case={case}"));
        let complained = [MessageLevel::Error, MessageLevel::Fatal, MessageLevel::Warning]
            .into_iter()
            .any(|level| ran.job.has(level, ""));
        assert!(complained, "{case}: {:?}", ran.kept.tally);
        assert!(ran.end != Ok(End::Whole) || ran.kept.tally.saved == 0, "{case}: {}", ran.job.log());
    }
}

#[test]
fn a_buffer_of_a_gibibyte_fails_its_file_only() {
    let ran = backup("big_buffer", "");
    assert_eq!((ran.kept.tally.announced, ran.kept.tally.failed), (1, 1), "{}", ran.job.log());
}

#[test]
fn a_plugin_that_never_comes_back_is_ended_by_its_time_limit() {
    for how in ["sleep", "busy", "pipe", "deaf", "gil"] {
        for callback in ["start_backup_file", "plugin_io_read"] {
            let folder = tempfile::tempdir().unwrap();
            let pid = folder.path().join("pid");
            let started = Instant::now();
            let ran = run(
                &[definition("sleeps", &format!("how={how}:where={callback}:pid={}", pid.display()))],
                |options| options.callback_timeout = Some(Duration::from_secs(1)),
                Kept::default(),
                Arc::default(),
            );
            let reason = ran.stopped();
            assert!(
                reason.starts_with("the plugin did nothing for 1 s (--plugin-timeout)"),
                "{how} {callback}: {reason}"
            );
            assert!(ran.job.has(MessageLevel::Fatal, "the plugin did nothing for 1 s"));
            assert!(!is_alive(&lines(&pid)[0]), "{how} {callback}");
            assert_eq!(ran.kept.tally.saved, 0);
            // A second of silence, three of grace: an hour of sleep is not waited for.
            assert!(started.elapsed() < Duration::from_secs(60));
        }
    }
}

#[test]
fn a_cancel_ends_a_plugin_that_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let job = Arc::new(TestJob::default());
    let canceller = std::thread::spawn({
        let (job, pid) = (Arc::clone(&job), pid.clone());
        move || {
            while lines(&pid).is_empty() {
                std::thread::sleep(Duration::from_millis(10));
            }
            job.cancelled.store(true, Ordering::SeqCst);
        }
    });
    let options = format!("where=plugin_io_read:pid={}", pid.display());
    let ran = run(&[definition("sleeps", &options)], |_| (), Kept::default(), job);
    canceller.join().unwrap();
    assert!(ran.stopped().starts_with("the job was interrupted"), "{}", ran.stopped());
    assert!(!is_alive(&lines(&pid)[0]));
}

#[test]
fn what_a_plugin_leaves_behind_is_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let ran = backup("children", &format!("pids={}", pids.display()));
    ran.whole();
    let pids = lines(&pids);
    assert_eq!(pids.len(), 4);
    for pid in pids {
        assert!(!is_alive(&pid), "{pid} is still there");
    }
}

#[test]
fn two_definitions_of_one_module_share_a_worker_and_two_modules_do_not() {
    let state = tempfile::tempdir().unwrap();
    let options = common::options(state.path());
    let definitions = [definition("reads", "size=1"), definition("kinds", ""), definition("reads", "size=2")];
    let sources = backstay_bareos_host::sources(&definitions, Vec::new(), &options).unwrap();
    let infos: Vec<_> = sources.iter().map(backstay_core::Source::info).collect();
    assert_eq!(infos.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["bareos-fd-reads", "bareos-fd-kinds"]);
    assert_eq!(infos[0].definitions, [definitions[0].clone(), definitions[2].clone()]);
    assert_eq!(infos[0].adapter, Some(backstay_bareos_host::ADAPTER));
}

#[test]
fn threads_of_a_plugin_may_use_the_module() {
    let ran = backup("threads", "");
    ran.whole();
    assert!(!ran.job.has(MessageLevel::Error, ""), "{}", ran.job.log());
}

#[test]
fn local_files_come_back_with_mode_and_times() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(&file, pattern(70_000)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::symlink("a file", folder.path().join("link")).unwrap();
    let list = folder.path().join("list");
    std::fs::write(&list, format!("{}\n{}\n", file.display(), folder.path().join("link").display())).unwrap();
    let stored = [definition("local_list", &format!("filename={}", list.display()))];
    let ran = backup("local_list", &format!("filename={}", list.display()));
    ran.whole();
    assert_eq!(ran.kept.tally, Tally { announced: 2, saved: 2, ..Tally::default() });
    for way in WAYS {
        let target = folder.path().join(format!("{way:?}"));
        let restored = restore_by(way, &stored, &ran.kept.saved, |options| options.where_prefix = Some(target.clone()));
        assert_eq!((restored.failures.as_slice(), &restored.end), (&[][..], &Ok(())), "{}", restored.job.log());
        let back = target.join(file.strip_prefix("/").unwrap());
        assert!(std::fs::read(&back).unwrap() == pattern(70_000));
        let (was, is) = (std::fs::metadata(&file).unwrap(), std::fs::metadata(&back).unwrap());
        assert_eq!((was.mode(), was.uid(), was.mtime()), (is.mode(), is.uid(), is.mtime()), "{way:?}");
        let link = target.join(folder.path().join("link").strip_prefix("/").unwrap());
        assert_eq!(std::fs::read_link(link).unwrap(), Path::new("a file"));
    }
}

#[test]
fn a_worker_that_dies_in_a_restore_ends_it() {
    let saved = backup("exits", "").kept.saved;
    assert_eq!(saved.len(), 1);
    let folder = tempfile::tempdir().unwrap();
    for callback in
        ["start_restore_file", "create_file", "plugin_io_write", "plugin_io_close", "set_xattr", "end_restore_file"]
    {
        let stored = [definition("exits", &format!("where={callback}"))];
        for way in WAYS {
            let restored =
                restore_by(way, &stored, &saved, |options| options.where_prefix = Some(folder.path().into()));
            assert_eq!(restored.end.unwrap_err().0, "the plugin worker exited with status 3", "{way:?} {callback}");
        }
    }
    for callback in ["start_restore_file", "create_file", "plugin_io_write", "set_file_attributes", "set_acl"] {
        let stored = [definition("raises", &format!("where={callback}"))];
        let restored = restore(&stored, &saved, |options| options.where_prefix = Some(folder.path().into()));
        assert!(restored.end.is_err(), "{callback}: {}", restored.job.log());
        assert!(restored.job.has(MessageLevel::Fatal, "ValueError: raised in"), "{callback}: {}", restored.job.log());
    }
}

#[test]
fn secrets_in_a_definition_stay_out_of_the_log() {
    for (module, options) in [
        ("nonsense_rc", "callback=start_backup_file:rc=2"),
        ("nonsense_rc", "callback=parse_plugin_definition:rc=2"),
        ("nonsense_rc", "callback=start_backup_file:rc=9"),
        ("wrong_types", "case=type_missing"),
        ("empty", "x=1"),
    ] {
        let ran = backup(module, &format!("{options}:password=open-sesame"));
        let told = ran.end != Ok(End::Whole) || ran.job.has(MessageLevel::Error, "");
        assert!(told, "{options}: {}", ran.job.log());
        let failures: String = ran.kept.failed.iter().map(|(_, error)| error.message.as_str()).collect();
        let all = format!("{}{:?}{failures}", ran.job.log(), ran.end);
        assert!(!all.contains("open-sesame"), "{all}");
    }
}

#[test]
fn an_override_comes_before_the_stored_options() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("trace");
    let options = format!("option=value:log={}", log.display());
    let saved = backup("probe_trace", &options).kept.saved;
    for given in ["option=other", "python3:option=other"] {
        std::fs::remove_file(&log).unwrap();
        let restored = restore(&[definition("probe_trace", &options)], &saved, |changed| {
            changed.where_prefix = Some(folder.path().into());
            changed.overrides = vec![given.to_owned()];
        });
        assert_eq!(restored.end, Ok(()), "{}", restored.job.log());
        assert_eq!(lines(&log)[1], format!("parse_plugin_definition('option=other:{options}:')"));
    }
}

#[test]
fn a_worker_that_cannot_start_says_why_in_one_line() {
    let no_python = |options: &mut backstay_bareos_host::BareosOptions| options.python = Some("/no/such/python".into());
    let ran = run(&[definition("kinds", "")], no_python, Kept::default(), Arc::default());
    let reason = ran.stopped();
    assert!(
        reason.starts_with("the plugin worker exited with status ") && reason.contains("/no/such/python"),
        "{reason}"
    );
    assert_eq!(reason.lines().count(), 1);
    assert!(ran.end.is_err());
    let restored = restore(&[definition("kinds", "")], &[], no_python);
    assert_eq!(restored.end.unwrap_err().0, reason);
}
