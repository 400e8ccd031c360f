//! The project's probe plugins against the real worker: the reference trace, every kind of object, and plugins that do
//! everything wrong. None of them may hang, and none may pass for a whole job.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use backstay_bareos_protocol::{Task, ToWorker};
use common::{Host, Outcome, backup, probe_definition, restore, spec};

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
fn a_giant_buffer_is_a_read_error() {
    for status in ["all", "count"] {
        let outcome = backup(&probe_definition("big_buffer", &format!("status={status}")));
        assert!(outcome.said(4, "Read error on file /probe/big_buffer"), "{outcome:#?}");
        assert!(outcome.end().whole && outcome.saved[0].data.is_empty());
    }
}
