//! The project's probe plugins against the real worker: the reference trace, every kind of object, and plugins that do
//! everything wrong. None of them may hang, and none may pass for a whole job.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use backstay_bareos_protocol::{Task, ToWorker};
use common::{Host, Outcome, backup, probe_definition, restore, spec};

const BACKUP_CALLBACKS: [&str; 9] = [
    "load_bareos_plugin",
    "parse_plugin_definition",
    "start_backup_file",
    "plugin_io_open",
    "plugin_io_read",
    "plugin_io_close",
    "get_acl",
    "get_xattr",
    "end_backup_file",
];
const RESTORE_CALLBACKS: [&str; 8] = [
    "start_restore_file",
    "create_file",
    "plugin_io_open",
    "plugin_io_write",
    "set_file_attributes",
    "set_acl",
    "set_xattr",
    "end_restore_file",
];

#[test]
fn the_reference_trace_of_a_minimal_backup_and_restore_holds() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let definition = probe_definition("probe_trace", &format!("log={}", log.display()));
    let options = format!("log={}:", log.display());
    let outcome = backup(&definition).good();
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!(
            "constructor\nparse_plugin_definition('{options}')\nhandle_plugin_event(16)\nhandle_plugin_event(3)\n\
             parse_plugin_definition('{options}')\nstart_backup_file\nplugin_io OPEN\nplugin_io READ\n\
             plugin_io CLOSE\nget_acl\nget_xattr\nend_backup_file\nhandle_plugin_event(4)\nhandle_plugin_event(2)\n"
        )
    );
    assert_eq!((outcome.saved.len(), outcome.end().announced, outcome.announced), (1, 1, 1));

    std::fs::remove_file(&log).unwrap();
    let outcome = restore(&definition, &outcome.saved, folder.path()).good();
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!(
            "constructor\nparse_plugin_definition('{options}')\nstart_restore_file('{definition}')\ncreate_file\n\
             plugin_io OPEN\nset_file_attributes\nplugin_io CLOSE\nset_acl\nset_xattr\nend_restore_file\n\
             handle_plugin_event(2)\n"
        )
    );
    assert_eq!(outcome.restored, [Ok(())]);
    assert!(folder.path().join("probe/trace").exists());
}

#[test]
fn every_kind_of_object_is_announced_with_its_data_and_attributes() {
    let outcome = backup(&probe_definition("kinds", "devices=yes:surrogates=yes:notsaved=yes"));
    let end = outcome.end();
    assert!(end.whole, "{outcome:#?}");
    assert_eq!(end.announced, (outcome.saved.len() + outcome.not_saved.len()) as u64);
    assert_eq!(outcome.not_saved.len(), 9);
    let find = |name: &[u8]| outcome.saved.iter().filter(|one| one.entry.name == name).collect::<Vec<_>>();
    assert_eq!(find(b"/kinds/size says 0")[0].data, b"but here is data");
    assert_eq!(find(b"@KINDS/twice").len(), 2);
    assert_eq!(find(b"/kinds/latin1 \xe4")[0].data, b"not UTF-8\n");
    assert_eq!(find(b"/kinds/file")[0].acls, [b"acl\0x"]);
    assert!(find(b"/kinds/second name")[0].entry.no_read);
    let wide = &find(b"/kinds/wide integers")[0].entry.stat;
    assert_eq!((wide.ino, wide.size, wide.mtime, wide.ctime), (u64::MAX, (1 << 63) + 5, 1_100_000_000_123_456_789, -1));
}

#[test]
fn reads_of_every_size_and_kind_give_the_same_bytes() {
    let pattern = |i: usize| (i % 251) as u8;
    for (case, size) in [
        ("full", 1_000_000),
        ("one_byte", 20_000),
        ("short", 300_000),
        ("bytes", 1_000_000),
        ("reused", 1_000_000),
        ("longer_buf", 1_000_000),
        ("eintr", 1_000_000),
        ("no_data", 0),
    ] {
        let outcome = backup(&probe_definition("reads", &format!("case={case}:size={}", size.max(1)))).good();
        let data = &outcome.saved[0].data;
        assert_eq!(data.len(), size, "{case}");
        assert!(data.iter().enumerate().all(|(i, &byte)| byte == pattern(i)), "{case}");
    }
    for case in ["eintr_forever", "error", "raise", "over_count"] {
        let outcome = backup(&probe_definition("reads", &format!("case={case}")));
        assert!(outcome.saved[0].result.is_err() && outcome.end().errors > 0, "{case}: {outcome:#?}");
        assert_eq!(outcome.end().whole, case != "raise", "{case}");
    }
}

#[test]
fn a_pipe_and_a_socket_are_read_and_written_by_descriptor() {
    for how in ["pipe", "socket"] {
        let definition = probe_definition("pipe", &format!("size=3000000:how={how}"));
        let outcome = backup(&definition).good();
        assert_eq!(outcome.saved[0].data, vec![0; 3_000_000], "{how}");
        let folder = tempfile::tempdir().unwrap();
        restore(&definition, &outcome.saved, folder.path()).good();
        assert_eq!(std::fs::read(folder.path().join("probe/pipe")).unwrap(), vec![0; 3_000_000], "{how}");
    }
}

#[test]
fn an_exception_in_any_callback_fails_the_job_with_its_traceback() {
    for callback in BACKUP_CALLBACKS {
        let outcome = backup(&probe_definition("raises", &format!("where={callback}")));
        assert!(outcome.said(3, "ValueError: raised in "), "{callback}: {outcome:#?}");
        assert!(!outcome.end().whole, "{callback}");
        assert!(outcome.end().reason.contains("raised in"), "{callback}: {}", outcome.end().reason);
    }
    let saved = backup(&probe_definition("raises", "")).good().saved;
    for callback in RESTORE_CALLBACKS {
        let folder = tempfile::tempdir().unwrap();
        let outcome = restore(&probe_definition("raises", &format!("where={callback}")), &saved, folder.path());
        assert!(outcome.said(3, "ValueError: raised in "), "{callback}: {outcome:#?}");
        assert!(!outcome.end().whole, "{callback}");
    }
}

#[test]
fn nonsense_answers_never_hang_and_never_go_unsaid() {
    for rc in ["9", "-1", "99999999999999999999", "None", "text", "float"] {
        for callback in ["start_backup_file", "end_backup_file", "get_acl", "get_xattr", "parse_plugin_definition"] {
            let outcome = backup(&probe_definition("nonsense_rc", &format!("where={callback}:rc={rc}")));
            let end = outcome.end();
            assert!(!end.whole || end.errors > 0, "{callback} {rc}: {outcome:#?}");
        }
    }
    let saved = backup(&probe_definition("nonsense_rc", "rc=9")).good().saved;
    for rc in ["9", "None"] {
        for callback in ["start_restore_file", "create_file", "set_acl", "set_xattr"] {
            let folder = tempfile::tempdir().unwrap();
            let definition = probe_definition("nonsense_rc", &format!("where={callback}:rc={rc}"));
            let outcome = restore(&definition, &saved, folder.path());
            let end = outcome.end();
            assert!(!end.whole || end.errors + end.warnings > 0, "{callback} {rc}: {outcome:#?}");
        }
    }
}

#[test]
fn wrong_types_are_refused_one_by_one() {
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
        "stat_float",
        "acl_str",
        "status_none",
        "status_float",
    ] {
        let outcome = backup(&probe_definition("wrong_types", &format!("case={case}")));
        assert!(!outcome.end().whole, "{case}: {outcome:#?}");
    }
    for case in
        ["type_unknown", "buf_str", "buf_none", "buf_list", "count_less", "open_status_only", "open_bad_descriptor"]
    {
        let outcome = backup(&probe_definition("wrong_types", &format!("case={case}")));
        assert!(outcome.end().whole && outcome.end().errors == 1, "{case}: {outcome:#?}");
    }
    for case in ["buf_memoryview", "fname_surrogate", "xattr_name_str", "xattr_value_str"] {
        backup(&probe_definition("wrong_types", &format!("case={case}"))).good();
    }
}

#[test]
fn a_worker_that_dies_leaves_its_count_of_announced_objects() {
    for (how, exit) in [
        ("exit3", "Status(3)"),
        ("exit0", "Status(0)"),
        ("segv", "Signal(11)"),
        ("kill", "Signal(9)"),
        ("abort", "Signal(6)"),
        ("null", "Signal(11)"),
    ] {
        let outcome = backup(&probe_definition("exits", &format!("where=plugin_io_read:how={how}")));
        assert_eq!(outcome.exit, exit, "{how}");
        assert!(outcome.end.is_none(), "{how}");
        assert_eq!(outcome.announced, 1, "{how}");
    }
    let outcome = backup(&probe_definition("exits", "where=plugin_io_read:how=sysexit"));
    assert!(outcome.said(3, "SystemExit: 3"), "{outcome:#?}");
    assert!(!outcome.end().whole);
}

fn cancelled(how: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let definition = probe_definition("sleeps", &format!("where=plugin_io_read:how={how}:pid={}", pid.display()));
    let mut host = Host::start(spec(Task::Backup, vec![definition]));
    while !std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')) {
        std::thread::sleep(Duration::from_millis(20));
    }
    host.send(&ToWorker::Cancel);
    host.backup()
}

#[test]
fn a_plugin_that_never_comes_back_is_interrupted_by_a_cancel() {
    for how in ["sleep", "busy", "pipe", "deaf", "gil"] {
        let outcome = cancelled(how);
        assert_eq!(outcome.end().reason, "the job was cancelled", "{how}: {outcome:#?}");
        assert!(!outcome.end().whole && outcome.saved[0].result.is_err(), "{how}");
    }
}

#[test]
fn whatever_a_plugin_prints_harms_nothing() {
    let outcome = backup(&probe_definition("prints", "long=yes")).good();
    assert_eq!(outcome.saved[0].data, b"probe data\n");
    for line in ["Stdout printed in plugin_io", "Stderr complained in get_acl", "Stdout child in start_backup_file"] {
        assert!(outcome.printed.contains(&line.to_owned()), "{line}");
    }
}

#[test]
fn a_giant_buffer_is_a_read_error() {
    for status in ["all", "count"] {
        let outcome = backup(&probe_definition("big_buffer", &format!("status={status}")));
        assert!(outcome.said(4, "Read error on file /probe/big_buffer"), "{outcome:#?}");
        assert!(outcome.end().whole && outcome.saved[0].data.is_empty());
    }
}

#[test]
fn threads_and_children_that_a_plugin_leaves_do_not_hold_the_end() {
    let outcome = backup(&probe_definition("threads", "")).good();
    assert_eq!(outcome.messages.iter().filter(|(_, text)| text.contains("of job 7")).count(), 9, "{outcome:#?}");
    let outcome = backup(&probe_definition("children", "")).good();
    assert_eq!(outcome.exit, "Status(0)");
}
