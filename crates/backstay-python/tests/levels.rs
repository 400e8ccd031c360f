//! The contract beyond a full backup: change checks, the accurate list, restore objects, estimates, the trace. Numbers in
//! comments are those of the conformance list of the reference.
#![allow(clippy::unwrap_used)]

mod common;

use backstay_bareos_protocol::prior::{KnownFile, RestoreObject};
use backstay_bareos_protocol::{JobSpec, StatFields, Task};
use common::{Host, Plugin, restore, spec};

/// Announces `files()`: name, type, fields of the packet (`st_…` those of its stat); says what it was asked.
const BASE: &str = r#"
import bareosfd
from bareosfd import *
from probe import out
state = {}
def load_bareos_plugin(text): out('load', text); return bRC_OK
def parse_plugin_definition(text): state['files'] = iter(files()); out('parse', text); return bRC_OK
def handle_plugin_event(event): out('event', event); return bRC_OK
def files(): return iter(())
def start_backup_file(packet):
    found = next(state['files'], None)
    if found is None: return bRC_Stop
    out('start', found[0])
    packet.fname, packet.type = found[0], found[1]
    packet.statp = StatPacket(mode=0o100644, nlink=1, size=4, mtime=1000, ctime=1000)
    for name, value in found[2].items():
        setattr(packet.statp if name.startswith('st_') else packet, name, value)
    return bRC_OK
def end_backup_file(): out('end'); return bRC_More
def plugin_io(iop):
    out('io', iop.func)
    if iop.func == IO_OPEN: state['data'] = b'data'
    if iop.func == IO_READ:
        iop.buf = bytearray(state['data']); state['data'] = b''
        iop.status = len(iop.buf)
    if iop.func == IO_WRITE: iop.status = iop.count
    return bRC_OK
def get_acl(acl): out('get_acl', acl.fname); return bRC_OK
def get_xattr(xattr): out('get_xattr', xattr.fname); return bRC_OK
def restore_object_data(rop):
    out('object', rop.object_name, bytes(rop.object), rop.object_type, rop.object_index, rop.object_len,
        rop.object_full_len, rop.object_compression, rop.stream, rop.jobid, rop.plugin_name)
    return bRC_OK
def check_file(name): out('check_file', name); return state.get(name, bRC_OK)
def start_restore_file(cmd): return bRC_OK
def create_file(rp): rp.create_status = CF_EXTRACT; return bRC_OK
def set_file_attributes(rp): return bRC_OK
def end_restore_file(): return bRC_OK
"#;

fn plugin(source: &str) -> Plugin {
    Plugin::new(&format!("{BASE}\n{source}"))
}

fn job(plugin: &Plugin, level: char) -> JobSpec {
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.level = level;
    job.since = if level == 'F' { 0 } else { 2000 };
    job.previous_job_name = if level == 'F' { String::new() } else { "job.2026-11-21_00.00.00_06".to_owned() };
    job
}

/// A known file as `BASE` announces it.
fn known(name: &str) -> (&str, KnownFile) {
    let stat = StatFields { mode: 0o100_644, nlink: 1, size: 4, mtime: 1000, ctime: 1000, ..StatFields::default() };
    (name, KnownFile { stat, delta_sequence: 0 })
}

fn lines(plugin: &Plugin, words: &[&str]) -> Vec<String> {
    plugin.log().into_iter().filter(|line| words.contains(&line.split(' ').next().unwrap())).collect()
}

fn names(saved: &[common::Saved]) -> Vec<String> {
    saved.iter().map(|one| String::from_utf8_lossy(&one.entry.name).into_owned()).collect()
}

// ---- incremental: 52 to 54, 58, 59

#[test]
fn the_job_s_level_and_since_time_are_known_from_the_start() {
    let source = r#"
def load_bareos_plugin(text):
    out('values', chr(GetValue(bVarLevel)), GetValue(bVarSinceTime), GetValue(bVarAccurate), GetValue(bVarPrevJobName),
        GetValue(bVarAccurateOptions))
    return bRC_OK
def files():
    out('options', sorted(GetValue(bVarAccurateOptions)))
    return iter(())
"#;
    for (level, expected) in [
        ('F', "values F 0 0  frozenset()"),
        ('I', "values I 2000 0 job.2026-11-21_00.00.00_06 frozenset()"),
        ('D', "values D 2000 0 job.2026-11-21_00.00.00_06 frozenset()"),
    ] {
        let plugin = plugin(source);
        Host::start_after(job(&plugin, level), &[], &[]).backup().good();
        assert_eq!(plugin.log()[0], expected);
        // 57: the options are known from the first line's command on.
        assert_eq!(lines(&plugin, &["options"]), ["options []", "options [32, 128, 256]"]);
    }
}

#[test]
fn an_unchanged_file_is_started_and_ended_and_nothing_else() {
    let plugin = plugin(
        "def files():\n\
         \x20 yield '/old', FT_REG, {}\n\
         \x20 yield '/new', FT_REG, dict(st_mtime=3000)\n\
         \x20 yield '/inode', FT_REG, dict(st_ctime=3000)\n\
         \x20 yield '/d', FT_DIREND, dict(link='/d/', st_mode=0o040755, no_read=True)\n\
         \x20 yield '/says', FT_NOCHG, {}\n\
         \x20 yield '/never seen', FT_NOCHG, {}",
    );
    let files = ["/old", "/new", "/inode", "/d/", "/says"].map(known);
    let outcome = Host::start_after(job(&plugin, 'I'), &files, &[]).backup().good();
    assert_eq!(outcome.unchanged, ["/old", "/d/", "/says"]);
    assert_eq!(names(&outcome.saved), ["/new", "/inode"]);
    assert_eq!(outcome.not_saved.len(), 1, "what is unchanged and nowhere is left out by the plugin's own word");
    assert_eq!(outcome.end().announced, 6);
    assert_eq!(lines(&plugin, &["start", "end", "io", "get_acl", "get_xattr"])[..3], ["start /old", "end", "start /new"]);
    assert!(outcome.said(9, "     Unchanged file skipped: /old\n"));
}

#[test]
fn a_file_that_no_earlier_job_has_is_saved_whatever_its_times_say() {
    let plugin = plugin("def files(): yield '/moved here', FT_REG, {}");
    let outcome = Host::start_after(job(&plugin, 'I'), &[known("/other")], &[]).backup().good();
    assert_eq!((names(&outcome.saved), outcome.unchanged), (vec!["/moved here".to_owned()], vec![]));
}

#[test]
fn three_ways_force_a_file_into_the_backup() {
    for force in [
        "SetValue(bVarCheckChanges, False)",
        "SetValue(bVarSinceTime, 1)",
        "state.update(save_time=1)",
        "state.update(fresh=1)",
    ] {
        let plugin = plugin(&format!(
            "def handle_plugin_event(event):\n\
             \x20 if event == 16: {force}\n\
             \x20 return bRC_OK\n\
             RegisterEvents([16])\n\
             def files():\n\
             \x20 yield '/old', FT_REG, dict(save_time=state.get('save_time', 0))"
        ));
        let mut definition = String::new();
        if force.contains("fresh") {
            // 59: a virtual file with the times of its StatPacket's making.
            let path = plugin.path("plug.py");
            let text = std::fs::read_to_string(&path).unwrap().replace(", mtime=1000, ctime=1000", "");
            std::fs::write(path, text).unwrap();
            definition = "x=1".to_owned();
        }
        let mut job = job(&plugin, 'I');
        job.definitions = vec![plugin.definition(&definition)];
        let outcome = Host::start_after(job, &[known("/old")], &[]).backup().good();
        assert_eq!(names(&outcome.saved), ["/old"], "{force}");
    }
}

#[test]
fn a_deleted_name_is_told_as_deleted() {
    let plugin = plugin("def files(): yield '/gone', FT_DELETED, {}");
    let outcome = Host::start_after(job(&plugin, 'I'), &[known("/gone")], &[]).backup().good();
    assert_eq!(outcome.deleted, [("/gone".to_owned(), true)]);
    assert_eq!((outcome.saved.len(), outcome.end().announced), (0, 1));
    assert_eq!(lines(&plugin, &["io", "end", "get_acl"]), ["end"]);
}

// ---- accurate: 56, 57

#[test]
fn what_an_accurate_job_does_not_mention_is_offered_to_check_file() {
    let plugin = plugin(
        "state['/kept'] = bRC_Seen\n\
         state['/error'] = bRC_Error\n\
         def files():\n\
         \x20 yield '/old', FT_REG, {}\n\
         \x20 yield '/size', FT_REG, dict(st_size=5)\n\
         \x20 yield '/later', FT_REG, dict(st_mtime=999)\n\
         \x20 yield '/unknown', FT_REG, {}",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let files = ["/old", "/size", "/later", "/kept", "/error", "/gone"].map(known);
    let outcome = Host::start_after(job, &files, &[]).backup().good();
    assert_eq!(outcome.unchanged, ["/old"]);
    assert_eq!(names(&outcome.saved), ["/size", "/later", "/unknown"]);
    assert_eq!(lines(&plugin, &["check_file"]), ["check_file /kept", "check_file /error", "check_file /gone"]);
    assert_eq!(outcome.deleted, [("/error".to_owned(), false), ("/gone".to_owned(), false)]);
    // Between the last file and the end of the job.
    let log = plugin.log();
    let place = |line: &str| log.iter().position(|have| have == line).unwrap();
    assert!(place("start /unknown") < place("check_file /kept"));
}

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
fn check_changes_looks_at_the_real_stat() {
    let plugin = plugin(
        "def files():\n\
         \x20 same = SavePacket(fname='/a', statp=StatPacket(mode=0o100644, size=4, mtime=1000, ctime=1000))\n\
         \x20 other = SavePacket(fname='/a', statp=StatPacket(mode=0o100644, size=5, mtime=1000, ctime=1000))\n\
         \x20 new = SavePacket(fname='/new', statp=StatPacket())\n\
         \x20 out('rc', CheckChanges(same), same.accurate_found, same.delta_seq, CheckChanges(other), CheckChanges(new),\n\
         \x20     new.accurate_found)\n\
         \x20 return iter(())",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let (name, mut file) = known("/a");
    file.delta_sequence = 7;
    Host::start_after(job, &[(name, file)], &[]).backup().good();
    assert_eq!(lines(&plugin, &["rc"])[0], "rc 5 True 7 0 0 False");
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

fn stored(definition: &str, index: i32, text: &[u8]) -> RestoreObject {
    RestoreObject {
        definition: definition.to_owned(),
        object_type: 25,
        object_index: index,
        object_name: format!("object {index}"),
        object: text.to_vec(),
        job_id: 6,
    }
}

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
    assert_eq!(lines(&plugin, &["io", "end", "get_acl"]), ["end", "io 1", "io 2", "io 2", "io 4", "get_acl /f", "end", "end", "end"]);
}

#[test]
fn objects_of_the_previous_job_come_before_the_backup_starts() {
    let plugin = plugin("RegisterEvents([3])");
    let definition = plugin.definition("a=1");
    let objects = [stored(&definition, 1, b"one"), stored(&definition, 2, &[7; 3000])];
    Host::start_after(job(&plugin, 'I'), &[], &objects).backup().good();
    let log = plugin.log();
    let first = format!("object object 1 b'one' 25 1 3 3 0 0 6 {definition}");
    let place = |start: &str| log.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{log:#?}"));
    assert_eq!(log[place("object object 1")], first);
    assert!(log[place("object object 2")].contains("25 2 3000 3000 0 0 6"));
    assert!(place("object object 1") < place("object object 2") && place("object object 2") < place("event 3"), "{log:#?}");
    assert_eq!(lines(&plugin, &["load", "parse"]).len(), 3, "objects bring no parse of their own");
}

#[test]
fn objects_load_the_script_of_a_restore_and_so_it_hears_of_its_start() {
    let plugin = plugin("def handle_plugin_event(event): out('event', event); return bRC_OK\nRegisterEvents([5, 6, 2])");
    let definition = plugin.definition("a=1");
    let mut job = spec(Task::Restore, Vec::new());
    job.where_prefix = Some(String::new());
    job.overrides = vec!["python3:b=2".to_owned()];
    let objects = [stored(&definition, 1, b"one"), stored(&definition, 2, b"two")];
    Host::start_after(job, &[], &objects).restore(&definition, &[], "").good();
    let log = plugin.log();
    assert_eq!(log[0], "load b=2:a=1:");
    assert_eq!(log[1], "parse b=2:a=1:");
    assert!(log[2].starts_with("object object 1") && log[3].starts_with("object object 2"));
    assert_eq!(log[4..], ["event 5", "event 6", "event 2"]);
}

// ---- estimate: 77

#[test]
fn an_estimate_starts_and_ends_files_and_reads_nothing() {
    let plugin = plugin(
        "RegisterEvents([2, 3, 4, 16])\n\
         def load_bareos_plugin(text): out('values', GetValue(bVarJobId), chr(GetValue(bVarType))); return bRC_OK\n\
         def files():\n\
         \x20 yield '/a', FT_REG, {}\n\
         \x20 yield '/o', FT_RESTORE_FIRST, dict(object_name='o', object=bytearray(b'x'), object_len=1)\n\
         \x20 yield '/old', FT_REG, {}",
    );
    let mut job = job(&plugin, 'I');
    job.task = Task::Estimate;
    job.job_id = 0;
    let outcome = Host::start_after(job, &[known("/old")], &[stored(&plugin.definition(""), 1, b"x")]).backup();
    assert!(outcome.end().whole);
    assert_eq!((names(&outcome.saved), outcome.unchanged), (vec!["/a".to_owned()], vec!["/old".to_owned()]));
    assert_eq!(
        plugin.log(),
        [
            "values 0 I",
            "parse ",
            "event 16",
            "parse ",
            "start /a",
            "end",
            "start /o",
            "end",
            "start /old",
            "end",
            "event 2"
        ]
    );
}

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
    assert_eq!((read["arguments"][0]["func"].as_i64(), read["arguments"][0]["count"].as_i64()), (Some(2), Some(262_144)));
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
