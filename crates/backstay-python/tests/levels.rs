//! The contract beyond a full backup: change checks, the accurate list, restore objects, estimates, the trace. Numbers in
//! comments are those of the conformance list of the reference.
#![allow(clippy::unwrap_used)]

mod common;

use backstay_bareos_protocol::Task;
use common::files::{job, known, lines, names, plugin};
use common::{FLAGS_LINKS, Host, restore, spec};

// ---- incremental: 52 to 54, 58, 59

#[test]
fn a_file_that_no_earlier_job_has_is_saved_whatever_its_times_say() {
    let plugin = plugin("def files(): yield '/moved here', FT_REG, {}");
    let outcome = Host::start_after(job(&plugin, 'I'), &[known("/other")], &[]).backup().good();
    assert_eq!((names(&outcome.saved), outcome.unchanged), (vec!["/moved here".to_owned()], vec![]));
}

// ---- accurate: 56, 57

#[test]
fn marks_are_set_and_cleared_by_the_plugin() {
    let plugin = plugin(
        "def files():\n\
         \x20 out('rc', SetSeenBitmap(True), ClearSeenBitmap(False, '/b'), SetSeenBitmap(False, '/unknown'),\n\
         \x20     SetSeenBitmap(True, '/a'), SetSeenBitmap(False), SetValue(bVarFileSeen, '/c'), ClearSeenBitmap(False, '/d'),\n\
         \x20     GetValue(bVarAccurate))\n\
         \x20 return iter(())",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let files = ["/a", "/b", "/c", "/d"].map(known);
    let outcome = Host::start_after(job, &files, &[]).backup().good();
    assert_eq!(lines(&plugin, &["rc"])[0], "rc 0 0 0 2 2 0 0 1");
    assert_eq!(outcome.deleted, [("/b".to_owned(), false), ("/d".to_owned(), false)]);
}

#[test]
fn folders_are_known_and_marked_by_their_stored_names() {
    let plugin = plugin(
        "def files():\n\
         \x20 out('rc', SetSeenBitmap(False, '/e/'), SetValue(bVarFileSeen, '/f'))\n\
         \x20 yield '/same', FT_DIREND, dict(link='/same/', st_mode=0o040755, no_read=True)\n\
         \x20 yield '/touched', FT_DIREND, dict(link='/touched/', st_mode=0o040755, no_read=True, st_mtime=5)",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let files = ["/same/", "/touched/", "/e/", "/f/", "/g/"].map(known);
    let outcome = Host::start_after(job, &files, &[]).backup().good();
    assert_eq!((names(&outcome.saved), outcome.unchanged), (vec!["/touched/".to_owned()], vec!["/same/".to_owned()]));
    // Without its slash a name is another one.
    assert_eq!(lines(&plugin, &["check_file"]), ["check_file /f/", "check_file /g/"]);
}

#[test]
fn of_a_file_with_several_names_the_first_that_is_saved_has_the_data() {
    for (changed, first) in [("'/a', '/b', '/c'", "/a"), ("'/b', '/c'", "/b")] {
        let plugin = plugin(&format!(
            "def files():\n\
             \x20 for name in '/a', '/b', '/c':\n\
             \x20   yield name, FT_REG, dict(st_nlink=3, st_ino=5, st_dev=1, st_ctime=3000 if name in ({changed}) else 1000)"
        ));
        let mut job = job(&plugin, 'I');
        job.flags = vec![FLAGS_LINKS];
        let outcome = Host::start_after(job, &["/a", "/b", "/c"].map(known), &[]).backup().good();
        let (one, others) = outcome.saved.split_first().unwrap();
        assert_eq!((&one.entry.name[..], &one.data[..], one.entry.file_type), (first.as_bytes(), &b"data"[..], 3));
        assert_eq!(others.len() + outcome.unchanged.len(), 2);
        for other in others {
            assert_eq!(
                (other.entry.file_type, &other.entry.link[..], other.entry.link_file_index),
                (1, first.as_bytes(), 1)
            );
        }
    }
}

#[test]
fn check_changes_looks_at_the_real_stat() {
    let plugin = plugin(
        "def files():\n\
         \x20 same = SavePacket(fname='/a', statp=StatPacket(mode=0o100644, size=4, mtime=1000, ctime=1000))\n\
         \x20 other = SavePacket(fname='/a', statp=StatPacket(mode=0o100644, size=5, mtime=1000, ctime=1000))\n\
         \x20 new = SavePacket(fname='/new', statp=StatPacket())\n\
         \x20 stat = StatPacket(mode=0o040755, size=4, mtime=1000, ctime=1000)\n\
         \x20 folders = [SavePacket(fname='/d', link='/d/', statp=stat), SavePacket(fname='/d', link='', statp=stat)]\n\
         \x20 out('folders', [(CheckChanges(folder), folder.accurate_found) for folder in folders])\n\
         \x20 out('rc', CheckChanges(same), same.accurate_found, same.delta_seq, CheckChanges(other), CheckChanges(new),\n\
         \x20     new.accurate_found)\n\
         \x20 return iter(())",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let (name, mut file) = known("/a");
    file.delta_sequence = 7;
    Host::start_after(job, &[(name, file), known("/d/")], &[]).backup().good();
    assert_eq!(lines(&plugin, &["rc"])[0], "rc 5 True 7 0 0 False");
    assert_eq!(lines(&plugin, &["folders"])[0], "folders [(5, True), (5, True)]");
}

#[test]
fn a_delta_counts_on_from_the_accurate_list() {
    let plugin = plugin(
        "def start_backup_file(packet):\n\
         \x20 if state.get('done'): return bRC_Stop\n\
         \x20 state['done'] = True\n\
         \x20 packet.fname, packet.type, packet.statp = '/a', FT_REG, StatPacket(size=9)\n\
         \x20 packet.flags[28 >> 3] |= 1 << (28 & 7)\n\
         \x20 return bRC_OK",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let (name, mut file) = known("/a");
    file.delta_sequence = 3;
    let outcome = Host::start_after(job, &[(name, file)], &[]).backup().good();
    assert_eq!(outcome.saved[0].entry.delta_sequence, 4);
}

// ---- restore objects: 41, 55, 69

#[test]
fn restore_objects_are_saved_with_their_first_bytes() {
    let plugin = plugin(
        "def files():\n\
         \x20 yield '/o', FT_RESTORE_FIRST, dict(object_name='first', object=bytearray(b'x' * 5000), object_len=4999, object_index=3)\n\
         \x20 yield '/f', FT_REG, {}\n\
         \x20 yield '/c', FT_PLUGIN_CONFIG, dict(object_name='config', object=bytearray(b'\\x00\\xff'), object_len=2)\n\
         \x20 yield '/x', FT_PLUGIN_CONFIG_FILLED, dict(object_name='x', object=bytearray(b'x'), object_len=1)",
    );
    let outcome = Host::start_after(job(&plugin, 'F'), &[], &[]).backup();
    assert!(outcome.end().whole);
    let object = |at: usize| {
        let (entry, bytes) = &outcome.objects[at];
        (entry.object_name.as_str(), entry.object_type, entry.object_index, entry.file_index, bytes.len())
    };
    assert_eq!(object(0), ("first", 25, 3, 1, 4999));
    assert_eq!(object(1), ("config", 27, 0, 3, 2));
    assert_eq!(outcome.saved[0].entry.file_index, 2);
    assert_eq!(outcome.not_saved.len(), 1, "only a director makes the last kind");
    assert_eq!(
        lines(&plugin, &["io", "end", "get_acl"]),
        ["end", "io 1", "io 2", "io 2", "io 4", "get_acl /f", "end", "end", "end"]
    );
}

// ---- estimate: 77

#[test]
fn an_estimate_goes_on_after_a_fatal_message_and_is_not_called_whole() {
    let plugin = plugin(
        "def files():\n\
         \x20 JobMessage(M_FATAL, 'no server\\n')\n\
         \x20 yield '/a', FT_REG, {}",
    );
    let mut job = job(&plugin, 'F');
    job.task = Task::Estimate;
    let outcome = Host::start_after(job, &[], &[]).backup();
    assert_eq!(names(&outcome.saved), ["/a"]);
    assert!(!outcome.end().whole && outcome.end().reason.contains("no server"));
}

// ---- the trace

#[test]
fn a_trace_has_a_line_for_every_call_with_what_went_in_and_came_out() {
    let plugin = plugin("def files(): yield '/a', FT_REG, {}");
    let mut job = job(&plugin, 'F');
    job.trace = true;
    let outcome = Host::start_after(job, &[], &[]).backup().good();
    let calls: Vec<serde_json::Value> = outcome.trace.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = calls.iter().map(|call| call["call"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "load_bareos_plugin",
            "parse_plugin_definition",
            "parse_plugin_definition",
            "start_backup_file",
            "plugin_io",
            "plugin_io",
            "plugin_io",
            "plugin_io",
            "get_acl",
            "get_xattr",
            "end_backup_file",
            "start_backup_file"
        ]
    );
    let start = &calls[3];
    assert_eq!((start["answer"].as_i64(), start["arguments"][0]["fname"].as_str()), (Some(0), Some("")));
    assert_eq!(start["left"][0]["fname"], "/a");
    assert_eq!(start["left"][0]["statp"]["st_size"], 4);
    let read = &calls[5];
    assert_eq!(
        (read["arguments"][0]["func"].as_i64(), read["arguments"][0]["count"].as_i64()),
        (Some(2), Some(262_144))
    );
    assert_eq!(read["left"][0]["buf"]["bytes"], 4);
    assert_eq!(calls.last().unwrap()["answer"], 1);
}

// ---- restore: 68

#[test]
fn with_rules_for_names_there_is_no_where() {
    let plugin = plugin(
        "RegisterEvents([5])\n\
         def files(): yield '/a', FT_REG, {}\n\
         def create_file(rp): out('create', rp.ofname, rp.where, rp.regexwhere, GetValue(bVarWhere)); rp.create_status = CF_SKIP; return bRC_OK",
    );
    let saved = Host::start_after(job(&plugin, 'F'), &[], &[]).backup().good().saved;
    restore(&plugin.definition(""), &saved, std::path::Path::new("/x")).good();
    let mut job = spec(Task::Restore, Vec::new());
    job.where_prefix = None;
    Host::start(job).restore(&plugin.definition(""), &saved, "/y").good();
    assert_eq!(lines(&plugin, &["create"]), ["create /x/a /x None /x", "create /y/a None None None"]);
}
