//! Recorded traces: what `--trace-plugin` writes of one backup and one restore of each family of plugins, reduced to the
//! call, its main arguments and its answer, in call order. The calling sequences of the reference (4.1, 4.2, 4.3, 4.5) are
//! compared word for word; the families are snapshots beside this file.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write;
use std::path::Path;

use backstay_bareos_protocol::Task;
use common::files::{self, known};
use common::objects::{BASE, plugin};
use common::{Host, Outcome, Plugin, Saved, probe_definition, python_folder, spec};
use serde_json::Value;

const IO: [&str; 6] = ["?", "OPEN", "READ", "WRITE", "CLOSE", "SEEK"];

fn backup(definition: &str) -> Outcome {
    let mut job = spec(Task::Backup, vec![definition.to_owned()]);
    job.trace = true;
    Host::start(job).backup().good()
}

fn restore(definition: &str, saved: &[Saved], target: &Path) -> Outcome {
    let mut job = spec(Task::Restore, Vec::new());
    job.trace = true;
    let prefix = target.display().to_string();
    job.where_prefix = Some(prefix.clone());
    Host::start(job).restore(definition, saved, &prefix).good()
}

/// A line for each call; `hidden` are texts that differ from run to run, with what stands for them.
fn reduced(outcome: &Outcome, hidden: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for line in &outcome.trace {
        let line = hidden.iter().fold(line.clone(), |line, (text, name)| line.replace(text, name));
        let call: Value = serde_json::from_str(&line).unwrap();
        let name = call["call"].as_str().unwrap();
        let given = &call["arguments"][0];
        let left = if call["left"].is_null() { given } else { &call["left"][0] };
        let _ = match name {
            "plugin_io" => {
                let function = IO[usize::try_from(given["func"].as_i64().unwrap()).unwrap()];
                let more = match function {
                    "OPEN" => format!(" fname={} flags={} mode={}", given["fname"], given["flags"], given["mode"]),
                    "READ" | "WRITE" => format!(" count={}", given["count"]),
                    "SEEK" => format!(" offset={} whence={}", given["offset"], given["whence"]),
                    _ => String::new(),
                };
                writeln!(out, "{name} {function}{more} -> {} status={}", call["answer"], left["status"])
            }
            "start_backup_file" => {
                writeln!(
                    out,
                    "{name} -> {} type={} fname={} link={} no_read={}",
                    call["answer"], left["type"], left["fname"], left["link"], left["no_read"]
                )
            }
            "create_file" => {
                writeln!(
                    out,
                    "{name} type={} ofname={} olname={} -> {} create_status={}",
                    given["type"], given["ofname"], given["olname"], call["answer"], left["create_status"]
                )
            }
            "set_file_attributes" => writeln!(out, "{name} ofname={} -> {}", given["ofname"], call["answer"]),
            "get_acl" | "set_acl" => {
                writeln!(out, "{name} fname={} -> {} content={}", given["fname"], call["answer"], left["content"])
            }
            "get_xattr" | "set_xattr" => writeln!(
                out,
                "{name} fname={} -> {} name={} value={}",
                given["fname"], call["answer"], left["name"], left["value"]
            ),
            "restore_object_data" => writeln!(
                out,
                "{name} object_name={} object_len={} object_index={} jobid={} -> {}",
                given["object_name"], given["object_len"], given["object_index"], given["jobid"], call["answer"]
            ),
            _ if given.is_null() => writeln!(out, "{name} -> {}", call["answer"]),
            _ => writeln!(out, "{name} {given} -> {}", call["answer"]),
        };
    }
    out
}

// ---- the sequences of the reference

/// The table of 4.1, word for word.
const TABLE: &str = "\
| class constructor (from `load_bareos_plugin`) | class constructor |
| `parse_plugin_definition('option=value:')` | `parse_plugin_definition('option=value:')` |
| `handle_plugin_event(16)` EndFileSet | `start_restore_file(cmd)` |
| `handle_plugin_event(3)` StartBackupJob | `create_file` |
| `parse_plugin_definition('option=value:')` again | `plugin_io` OPEN |
| `start_backup_file` | (`plugin_io` WRITE ... none here, the file was empty) |
| `plugin_io` OPEN | `set_file_attributes` |
| `plugin_io` READ (returned 0) | `plugin_io` CLOSE |
| `plugin_io` CLOSE | `set_acl` |
| `get_acl` | `set_xattr` |
| `get_xattr` | `end_restore_file` |
| `end_backup_file` (returned OK) | `handle_plugin_event(2)` JobEnd |
| `handle_plugin_event(4)` EndBackupJob | |
| `handle_plugin_event(2)` JobEnd | |
";

/// A plugin derived from the base class: one empty file with an access control list and an attribute.
const MINIMAL: &str = "\
from BareosFdWrapper import *
from BareosFdPluginBaseclass import *
@BareosPlugin
class Minimal(BareosFdPluginBaseclass):
    def start_backup_file(self, savepkt):
        savepkt.fname, savepkt.type, savepkt.statp = '/minimal', FT_REG, StatPacket(mode=0o100640)
        return bRC_OK
    def plugin_io_open(self, IOP):
        if IOP.flags & (os.O_CREAT | os.O_WRONLY): return super().plugin_io_open(IOP)
        self.fileType = 'virtual'
        return bRC_OK
    def get_acl(self, acl): acl.content = bytearray(b'acl'); return bRC_OK
    def get_xattr(self, xattr): xattr.name, xattr.value = bytearray(b'user.n'), bytearray(b'v'); return bRC_OK
";

/// A cell of the table as `written` writes a call.
fn cell(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('(') {
        return None;
    }
    if text.starts_with("class constructor") {
        return Some("load_bareos_plugin".to_owned());
    }
    let mut parts = text.split('`');
    let call = parts.nth(1).unwrap().replace("(cmd)", "");
    let word = parts.next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
    Some(if call == "plugin_io" { format!("{call} {word}") } else { call })
}

/// The calls of a trace as the reference writes them.
fn written(outcome: &Outcome) -> Vec<String> {
    let shown = |line: &String| {
        let call: Value = serde_json::from_str(line).unwrap();
        let name = call["call"].as_str().unwrap();
        let given = &call["arguments"][0];
        match name {
            "parse_plugin_definition" => format!("{name}('{}')", given.as_str().unwrap()),
            "handle_plugin_event" => format!("{name}({given})"),
            "plugin_io" => format!("{name} {}", IO[usize::try_from(given["func"].as_i64().unwrap()).unwrap()]),
            _ => name.to_owned(),
        }
    };
    outcome.trace.iter().map(shown).collect()
}

#[test]
fn the_reference_trace_of_4_1_holds_word_for_word() {
    let plugin = Plugin::new(MINIMAL);
    let definition = plugin.definition("option=value");
    let saved = backup(&definition);
    let restored = restore(&definition, &saved.saved, &plugin.path("out"));
    let column = |number: usize| -> Vec<String> {
        TABLE.lines().filter_map(|line| cell(line.split('|').nth(number).unwrap())).collect()
    };
    assert_eq!(written(&saved), column(1));
    assert_eq!(written(&restored), column(2));
}

/// 4.2 and 4.3: an accurate incremental backup of two lines with an override and objects of the job before.
#[test]
fn the_sequence_of_4_2_holds() {
    let plugin = files::plugin(
        "RegisterEvents([2, 3, 4, 16])\n\
         def files():\n\
         \x20 yield '/old', FT_REG, {}\n\
         \x20 yield '/new', FT_REG, dict(st_mtime=3000)\n\
         \x20 yield '/gone', FT_DELETED, {}\n\
         \x20 yield '/o', FT_RESTORE_FIRST, dict(object_name='o', object=bytearray(b'x'), object_len=1)",
    );
    let mut job = files::job(&plugin, 'I');
    job.definitions = vec![plugin.definition("line=1"), plugin.definition("line=2")];
    job.overrides = vec!["python3:over=1".to_owned()];
    (job.accurate, job.trace) = (true, true);
    let objects = [files::stored(&job.definitions[0], 1, b"x"), files::stored(&job.definitions[0], 2, b"y")];
    let outcome = Host::start_after(job, &["/old", "/gone", "/lost"].map(known), &objects).backup().good();
    let line = [
        "start_backup_file", // unchanged
        "end_backup_file",
        "start_backup_file", // changed
        "plugin_io OPEN",
        "plugin_io READ",
        "plugin_io READ",
        "plugin_io CLOSE",
        "get_acl",
        "get_xattr",
        "end_backup_file",
        "start_backup_file", // deleted
        "end_backup_file",
        "start_backup_file", // an object
        "end_backup_file",
        "start_backup_file", // bRC_Stop
    ];
    let mut expected = vec![
        "load_bareos_plugin", // 3: E(17) for each line
        "parse_plugin_definition('line=1:')",
        "parse_plugin_definition('line=2:')",
        "handle_plugin_event(16)",
        "parse_plugin_definition('over=1:')", // 4
        "restore_object_data",                // 5
        "restore_object_data",
        "handle_plugin_event(3)",             // 9
        "parse_plugin_definition('line=1:')", // 10
    ];
    expected.extend(line);
    expected.push("parse_plugin_definition('line=2:')");
    expected.extend(line);
    expected.extend([
        "check_file",             // 11
        "handle_plugin_event(4)", // 12
        "handle_plugin_event(2)", // 14
    ]);
    assert_eq!(written(&outcome), expected);
}

/// 4.5: a restore with an override and objects, of a file, a folder and a link.
#[test]
fn the_sequence_of_4_5_holds() {
    let plugin = plugin(
        "RegisterEvents([2, 5, 6])\n\
         def objects():\n\
         \x20 yield '/f', FT_REG, {}, b'data'\n\
         \x20 yield '/l', FT_LNK, dict(link='f'), None\n\
         \x20 yield '/d', FT_DIREND, dict(link='/d/'), None\n\
         def create_file(rp):\n\
         \x20 rp.create_status = CF_EXTRACT if rp.type == FT_REG else CF_CREATED; return bRC_OK\n\
         def restore_object_data(rop): return bRC_OK",
    );
    let definition = plugin.definition("a=1");
    let mut saved = backup(&definition).saved;
    for one in &mut saved {
        (one.acls, one.xattrs) =
            (vec![b"acl".to_vec()], vec![(b"n1".to_vec(), b"v".to_vec()), (b"n2".to_vec(), b"v".to_vec())]);
    }
    let mut job = spec(Task::Restore, Vec::new());
    job.overrides = vec!["python3:over=1".to_owned()];
    (job.where_prefix, job.trace) = (Some(String::new()), true);
    let objects = [files::stored(&definition, 1, b"x")];
    let outcome = Host::start_after(job, &[], &objects).restore(&definition, &saved, "").good();
    assert_eq!(
        written(&outcome),
        [
            "load_bareos_plugin", // 3: by the object
            "parse_plugin_definition('over=1:a=1:')",
            "restore_object_data",
            "handle_plugin_event(5)",          // 5
            "parse_plugin_definition('a=1:')", // 6: the file
            "start_restore_file",
            "create_file",
            "plugin_io OPEN",
            "plugin_io WRITE",
            "set_file_attributes",
            "plugin_io CLOSE",
            "set_acl",
            "set_xattr",
            "set_xattr",
            "end_restore_file",
            "parse_plugin_definition('a=1:')", // the link
            "start_restore_file",
            "create_file",
            "set_file_attributes",
            "end_restore_file",
            "parse_plugin_definition('a=1:')", // the folder
            "start_restore_file",
            "create_file",
            "set_file_attributes",
            "set_acl",
            "set_xattr",
            "set_xattr",
            "end_restore_file",
            "handle_plugin_event(6)", // 8
            "handle_plugin_event(2)", // 9
        ]
    );
}

// ---- the families

/// Backs up and restores by this definition; both traces become snapshots.
fn record(name: &str, definition: &str, hidden: &[(&str, &str)]) {
    let target = tempfile::tempdir().unwrap();
    let place = target.path().display().to_string();
    let mut hidden = hidden.to_vec();
    hidden.push((&place, "TARGET"));
    let python = python_folder().display().to_string();
    hidden.push((&python, "PYTHON"));
    let saved = backup(definition);
    insta::assert_snapshot!(format!("{name}_backup"), reduced(&saved, &hidden));
    let restored = restore(definition, &saved.saved, target.path());
    insta::assert_snapshot!(format!("{name}_restore"), reduced(&restored, &hidden));
}

/// A folder with a folder of one file (the order of several would be the file system's), and a symbolic link.
fn tree() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/file"), b"contents").unwrap();
    std::os::unix::fs::symlink("sub/file", folder.path().join("link")).unwrap();
    let shown = folder.path().display().to_string();
    (folder, shown)
}

#[test]
fn the_minimal_plugin() {
    let plugin = Plugin::new(MINIMAL);
    let folder = plugin.folder.path().display().to_string();
    record("minimal", &plugin.definition("option=value"), &[(&folder, "FOLDER")]);
}

#[test]
fn the_local_files_class() {
    let (folder, shown) = tree();
    let names = ["sub", "link", "sub/file"].map(|name| format!("{shown}/{name}"));
    std::fs::write(folder.path().join("list"), names.join("\n")).unwrap();
    record("local_files", &probe_definition("local_list", &format!("filename={shown}/list")), &[(&shown, "FOLDER")]);
}

#[test]
fn a_pipe_by_direct_io() {
    record("pipe", &probe_definition("pipe", "size=1000000"), &[]);
}

#[test]
fn restore_objects_in_a_chain() {
    let plugin = files::plugin(
        "RegisterEvents([2, 3, 4, 5, 6, 16])\n\
         def files():\n\
         \x20 yield '/f', FT_REG, {}\n\
         \x20 yield 'state', FT_RESTORE_FIRST, dict(object_name='state', object=bytearray(b'x' * 3000), object_len=3000, object_index=7)",
    );
    let folder = plugin.folder.path().display().to_string();
    let hidden = [(folder.as_str(), "FOLDER")];
    let mut job = files::job(&plugin, 'I');
    job.trace = true;
    let objects =
        [files::stored(&plugin.definition(""), 7, &[b'x'; 3000]), files::stored(&plugin.definition(""), 8, b"y")];
    let outcome = Host::start_after(job, &[], &objects).backup().good();
    insta::assert_snapshot!("restore_objects_backup", reduced(&outcome, &hidden));
    let mut job = spec(Task::Restore, Vec::new());
    (job.where_prefix, job.trace) = (Some(String::new()), true);
    let restored = Host::start_after(job, &[], &objects).restore(&plugin.definition(""), &outcome.saved, "").good();
    insta::assert_snapshot!("restore_objects_restore", reduced(&restored, &hidden));
}

#[test]
fn an_accurate_chain() {
    let plugin = files::plugin(
        "RegisterEvents([2, 3, 4, 16])\n\
         state['/kept'] = bRC_Seen\n\
         def files():\n\
         \x20 yield '/same', FT_REG, {}\n\
         \x20 yield '/grown', FT_REG, dict(st_size=5)\n\
         \x20 yield '/gone', FT_DELETED, {}",
    );
    let folder = plugin.folder.path().display().to_string();
    let hidden = [(folder.as_str(), "FOLDER")];
    let mut job = files::job(&plugin, 'I');
    (job.accurate, job.trace) = (true, true);
    let names = ["/same", "/grown", "/gone", "/kept", "/lost"].map(known);
    let outcome = Host::start_after(job, &names, &[]).backup().good();
    insta::assert_snapshot!("accurate_backup", reduced(&outcome, &hidden));
    // Two versions of one name, older first.
    let versions = [outcome.saved[0].clone(), outcome.saved[0].clone()];
    let restored = restore(&plugin.definition(""), &versions, &plugin.path("out"));
    insta::assert_snapshot!("accurate_restore", reduced(&restored, &hidden));
}

#[test]
fn sparse_data() {
    let plugin = Plugin::new(&format!(
        "{BASE}\ndef objects():\n\
         \x20 flags = bytearray(5); flags[0] = 1 << 5\n\
         \x20 yield '/s', FT_REG, dict(flags=flags, st_size=786508), b'x' * 262136 + bytes(2 * 262136) + b'y' * 100"
    ));
    let folder = plugin.folder.path().display().to_string();
    record("sparse", &plugin.definition(""), &[(&folder, "FOLDER")]);
}

#[test]
fn the_example_that_lists_a_tree() {
    let (_folder, shown) = tree();
    let examples = python_folder().join("examples");
    for io in ["core", "plugin"] {
        let definition =
            format!("python3:module_path={}:module_name=tree_lister:path={shown}/sub:io={io}", examples.display());
        record(&format!("tree_lister_{io}"), &definition, &[(&shown, "FOLDER")]);
    }
}

#[test]
fn the_example_with_a_database() {
    let (folder, shown) = tree();
    let made = std::process::Command::new("python3")
        .args(["-c", "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('create table t (a)'); c.execute('insert into t values (1)'); c.commit()"])
        .arg(folder.path().join("app.db"))
        .status()
        .unwrap();
    assert!(made.success());
    let examples = python_folder().join("examples");
    let definition = format!(
        "python3:module_path={}:module_name=sqlite_and_folder:database={shown}/app.db:folder={shown}/sub",
        examples.display()
    );
    record("sqlite_and_folder", &definition, &[(&shown, "FOLDER")]);
}
