//! Lines 60 to 72: restores.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use backstay_bareos_protocol::{Created, Task};

use crate::common::chain::Chain;
use crate::common::files::{self, stored};
use crate::common::objects::{lines, one_file, plugin, run};
use crate::common::{Host, restore, spec};

#[test]
fn item_60_the_calls_for_a_file_come_in_their_order() {
    let plugin = plugin(
        "def parse_plugin_definition(t): out('parse', t); state['objects'] = None; return bRC_OK\n\
         def objects(): yield '/f', FT_REG, {}, b'x' * 600000",
    );
    let saved = one_file(&plugin);
    let definition = plugin.definition("");
    let name = plugin.folder.path().display().to_string();
    restore(&definition, &saved, plugin.folder.path()).good();
    assert_eq!(
        plugin.log(),
        [
            "parse ",
            &format!("start_restore {definition}"),
            &format!("create {name}/f"),
            "io 1",
            "io 3",
            "io 3",
            "io 3",
            &format!("attributes {name}/f"),
            "io 4",
            &format!("set_acl {name}/f b'acl'"),
            "set_xattr b'n1' b'v'",
            "set_xattr b'n2' None",
            "end_restore",
        ]
    );
}

/// Two files of this type whose create_file answers so are created so, and each with these calls.
fn goes_on(answer: &str, kind: i32, created: Created, words: &str) {
    let plugin = plugin(&format!("def create_file(rp):\n  out('create')\n  {answer}"));
    let mut saved = one_file(&plugin);
    saved[0].entry.file_type = kind;
    saved.push(saved[0].clone());
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
    let all = ["create", "io", "attributes", "set_acl", "set_xattr", "end_restore"];
    let calls: Vec<_> = lines(&plugin, &all).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(outcome.created, [created; 2], "{answer}");
    assert_eq!(calls.join(" "), format!("{words} {words}"), "{answer}");
    assert!(outcome.end().whole, "{answer}: {outcome:#?}");
    assert_eq!(outcome.end().errors, if created == Created::Failed { 2 } else { 0 }, "{answer}");
    assert_eq!(outcome.restored[0].is_err(), created == Created::Failed);
}

#[test]
fn item_61_create_status_decides_how_a_file_goes_on() {
    for (answer, created, words) in [
        (
            "rp.create_status = CF_EXTRACT; return bRC_OK",
            Created::Ring,
            "create io io attributes io set_acl set_xattr set_xattr end_restore",
        ),
        (
            "rp.create_status = 77; return bRC_OK",
            Created::Ring,
            "create io io attributes io set_acl set_xattr set_xattr end_restore",
        ),
        ("rp.create_status = CF_SKIP; return bRC_OK", Created::Skip, "create end_restore"),
        ("rp.create_status = CF_CREATED; return bRC_OK", Created::Made, "create attributes end_restore"),
        ("rp.create_status = CF_ERROR; return bRC_OK", Created::Failed, "create end_restore"),
        ("return bRC_OK", Created::Failed, "create end_restore"),
        ("rp.create_status = CF_EXTRACT; return bRC_Error", Created::Failed, "create end_restore"),
        ("rp.create_status = CF_EXTRACT", Created::Failed, "create end_restore"),
    ] {
        goes_on(answer, 3, created, words);
    }
    let plugin = plugin("def create_file(rp): return bRC_Error");
    let saved = one_file(&plugin);
    let name = plugin.path("f").display().to_string();
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
    assert!(outcome.said(4, &format!("Plugin createFile call failed. Stat=2 file={name}")), "{outcome:#?}");
}

#[test]
fn item_62_a_start_restore_file_that_is_not_ok_ends_the_restore_at_that_file() {
    for source in [
        "def start_restore_file(cmd): return bRC_Error",
        "def start_restore_file(cmd): raise ValueError('no')",
        "count = []\ndef parse_plugin_definition(t):\n  state['objects'] = None; count.append(1); return bRC_Error if len(count) == 1 and not GetValue(bVarType) == 73 else bRC_OK",
    ] {
        let plugin = plugin(&format!("RegisterEvents([2, 6])\n{source}"));
        let mut saved = one_file(&plugin);
        saved.push(saved[0].clone());
        let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
        assert!(outcome.said(3, "Unbalanced call to createFile=0 0"), "{outcome:#?}");
        assert_eq!((outcome.created.len(), outcome.end().whole), (1, false), "{outcome:#?}");
        assert_eq!(lines(&plugin, &["create", "event"]), ["event 6"], "{source}");
    }
}

#[test]
fn item_63_cf_core_makes_objects_and_opens_files_through_the_plugin() {
    let plugin = plugin(
        "def objects():\n\
         \x20 yield '/d', FT_DIREND, dict(link='/d/', st_mode=0o040700), None\n\
         \x20 yield '/d/l', FT_LNK, dict(link='target', st_mode=0o120777), None\n\
         \x20 yield '/d/p', FT_SPEC, dict(st_mode=0o010600), None\n\
         \x20 yield '/d/f', FT_REG, {}, b'data'\n\
         \x20 yield '/d/h', FT_LNKSAVED, dict(link='/d/f'), None\n\
         def create_file(rp): rp.create_status = CF_CORE; return bRC_OK\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 if iop.func == IO_OPEN and iop.flags: out('open', iop.flags, iop.mode, iop.filedes); state['file'] = open(iop.fname, 'wb')\n\
         \x20 if iop.func == IO_WRITE: state['file'].write(iop.buf)\n\
         \x20 if iop.func == IO_CLOSE and 'file' in state: state.pop('file').close()\n\
         \x20 return old(iop)",
    );
    let saved = run(&plugin).good().saved;
    plugin.forget_log();
    let outcome = restore(&plugin.definition(""), &saved, &plugin.path("out")).good();
    use Created::{Made, Ring};
    assert_eq!(outcome.created, [Made, Made, Made, Ring, Made]);
    assert_eq!(lines(&plugin, &["open"]), ["open 577 0 -1"]);
    assert_eq!(std::fs::read(plugin.path("out/d/h")).unwrap(), b"data");
    assert_eq!(std::fs::read_link(plugin.path("out/d/l")).unwrap().as_os_str().as_bytes(), b"target");
    assert_eq!(lines(&plugin, &["attributes"]).len(), 5);
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::metadata(plugin.path("out/d/p")).unwrap().file_type()));
    assert!(plugin.path("out/d").is_dir());
}

#[test]
fn item_64_cf_extract_opens_for_writing_and_a_short_write_ends_the_file() {
    for write in ["iop.status = iop.count - 1", "iop.status = 0; iop.io_errno = 28", "raise OSError(28, 'full')"] {
        let plugin = plugin(&format!(
            "old = plugin_io\ndef plugin_io(iop):\n  rc = old(iop)\n  if iop.func == IO_WRITE: {write}\n  return rc"
        ));
        let saved = one_file(&plugin);
        let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
        assert!(outcome.said(4, &format!("Write error on {}/f: ", plugin.folder.path().display())), "{outcome:#?}");
        assert!(outcome.restored[0].is_err());
        assert_eq!(outcome.end().whole, !write.starts_with("raise"), "{outcome:#?}");
        let calls = lines(&plugin, &["create", "io", "attributes", "set_acl", "end_restore"]);
        assert_eq!(calls[1..], ["io 1", "io 3", "io 4", "end_restore"], "{write}");
    }
    let plugin = plugin(
        "old = plugin_io\ndef plugin_io(iop):\n  if iop.func == IO_OPEN: out('open', iop.flags, oct(iop.mode), iop.filedes)\n  return old(iop)",
    );
    let saved = one_file(&plugin);
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    assert_eq!(lines(&plugin, &["open"]), ["open 577 0o600 -1"]);
}

#[test]
fn item_65_what_was_created_without_data_gets_attributes_only_if_it_is_a_folder() {
    let created = "rp.create_status = CF_CREATED; return bRC_OK";
    goes_on(created, 5, Created::Made, "create attributes set_acl set_xattr set_xattr end_restore");
    for kind in [1, 3, 4, 6, 17] {
        goes_on(created, kind, Created::Made, "create attributes end_restore");
    }
}

#[test]
fn item_66_nobody_but_the_plugin_sets_owner_mode_and_times() {
    for status in ["CF_CORE", "CF_EXTRACT"] {
        let plugin = plugin(&format!(
            "def objects(): yield '/f', FT_REG, dict(st_mode=0o104777, st_uid=4711, st_gid=4712, st_mtime=5, st_atime=6), b'data'\n\
             def create_file(rp): rp.create_status = {status}; return bRC_OK\n\
             def set_file_attributes(rp): rp.create_status = CF_CORE; return bRC_Core\n\
             old = plugin_io\n\
             def plugin_io(iop):\n\
             \x20 if iop.func == IO_OPEN and iop.flags: state['file'] = open(iop.fname, 'wb')\n\
             \x20 if iop.func == IO_CLOSE and 'file' in state: state.pop('file').close()\n\
             \x20 return old(iop)"
        ));
        let saved = run(&plugin).good().saved;
        restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
        let made = std::fs::metadata(plugin.path("f")).unwrap();
        let folder = std::fs::metadata(plugin.folder.path()).unwrap();
        // What the plugin's own open() gives.
        assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o640, folder.uid(), folder.gid()), "{status}");
        assert!(made.mtime() > 1_000_000_000, "{status}");
    }
}

#[test]
fn item_67_the_restore_packet_is_complete() {
    let plugin = plugin(
        "def create_file(rp):\n  out(repr(rp)); out(rp.filedes, rp.regexwhere, GetValue(bVarWhere), GetValue(bVarLevel), chr(GetValue(bVarType)))\n\
         \x20 rp.create_status = CF_SKIP; return bRC_OK",
    );
    let saved = one_file(&plugin);
    let name = plugin.folder.path().display().to_string();
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    let log = plugin.log();
    let packet = log.iter().find(|line| line.starts_with("RestorePacket")).unwrap();
    assert!(packet.starts_with("RestorePacket(stream=1, data_stream=2, type=3, file_index=1, linkFI=0, uid=0, statp=\"StatPacket(dev=0, ino=0, mode=0644, nlink=1, "), "{packet}");
    assert!(packet.ends_with(&format!(
        "attrEx=\"\", ofname=\"{name}/f\", olname=\"\", where=\"{name}\", RegexWhere=\"(null)\", replace=97, create_status=2, original_file_name=\"/f\", original_link_name=\"\")"
    )), "{packet}");
    assert!(log.contains(&format!("-1 None {name} 32 R")), "{log:?}");
    // The letter of the replace policy.
    for replace in ['a', 'w', 'n', 'o'] {
        let plugin = self::plugin(
            "def create_file(rp): out('replace', chr(rp.replace)); rp.create_status = CF_SKIP; return bRC_OK",
        );
        let saved = one_file(&plugin);
        let mut job = spec(Task::Restore, Vec::new());
        job.replace = replace;
        Host::start(job).restore(&plugin.definition(""), &saved, "").good();
        assert_eq!(lines(&plugin, &["replace"]), [format!("replace {replace}")]);
    }
}

#[test]
fn item_68_output_names_follow_where_and_regexwhere() {
    let chain = Chain::new();
    let kinds = "file /a 1\nfile @v/x 1\nlink /l /abs\nlink /r rel\nhard /h /a\nhard @h rel\nfolder /d /d/";
    chain.backup("full", kinds);
    let out = chain.world.path("out").display().to_string();
    let names = |more: &[&str]| -> Vec<String> {
        chain.restore(more);
        chain.lines("names").iter().map(|line| line["names ".len()..].replace(&out, "OUT")).collect()
    };
    let under = "'OUT' None 'OUT'";
    let expected = |link: &str| {
        [
            format!("OUT/a - {under}"),
            format!("OUT/@v/x - {under}"),
            format!("OUT/l {link} {under}"),
            format!("OUT/r rel {under}"),
            format!("OUT/h OUT/a {under}"),
            format!("OUT/@h rel {under}"),
            format!("OUT/d/ - {under}"),
        ]
    };
    assert_eq!(names(&[]), expected("/abs"));
    assert_eq!(names(&["--prefix-links"]), expected("OUT/abs"));
    let rule = ["--regex-where", "!^/!/x/!,!abs!ABS!"];
    let without = "None None None";
    assert_eq!(
        names(&rule)[..5],
        [
            format!("/x/a - {without}"),
            format!("@v/x - {without}"),
            format!("/x/l /abs {without}"),
            format!("/x/r rel {without}"),
            format!("/x/h /x/a {without}"),
        ]
    );
    assert_eq!(names(&[&rule[..], &["--prefix-links"]].concat())[2], format!("/x/l /x/ABS {without}"));
}

#[test]
fn item_69_restore_objects_come_first_and_load_the_script() {
    let plugin =
        files::plugin("def handle_plugin_event(event): out('event', event); return bRC_OK\nRegisterEvents([5, 6, 2])");
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
    // Without objects the script is loaded by the first file, when event 5 is over: item 70 shows it.
    // Over several jobs of the program: all of them, by their index and not by their jobs.
    let chain = Chain::new();
    chain.backup("full", "object b 2\nobject d 4\nfile /a 1\nconfig c 1");
    chain.backup("incremental", "object a 1\nobject c 3");
    chain.restore(&[]);
    let objects =
        ["a 1 4000 2", "b 2 4000 1", "c 3 4000 2", "d 4 4000 1", "c 1 4000 1"].map(|rest| format!("object {rest}"));
    assert_eq!(chain.lines("object"), objects);
    let log = chain.log();
    let place = |word: &str| log.iter().position(|line| line.starts_with(word)).unwrap();
    assert!(place("object c 1") < place("create"), "{log:?}");
}

#[test]
fn item_70_the_end_of_a_restore_is_told_always_and_the_end_of_the_job_if_it_is_good() {
    let plugin = plugin(
        "RegisterEvents([2, 5, 6])\n\
         def handle_plugin_event(event): out('event', event, chr(GetValue(bVarType)), chr(GetValue(bVarJobStatus))); return bRC_OK",
    );
    let saved = one_file(&plugin);
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    assert_eq!(lines(&plugin, &["event"]), ["event 6 R T", "event 2 R T"]);
    plugin.forget_log();
    // Loaded by an override before the start, it also sees event 5.
    let mut job = spec(Task::Restore, Vec::new());
    job.overrides = vec![plugin.definition("")];
    Host::start(job).restore(&plugin.definition(""), &saved, "").good();
    assert_eq!(lines(&plugin, &["event"]), ["event 5 R R", "event 6 R T", "event 2 R T"]);
    plugin.forget_log();
    let mut broken = saved.clone();
    broken[0].entry.name = b"/broken".to_vec();
    let source = std::fs::read_to_string(plugin.path("plug.py")).unwrap();
    std::fs::write(plugin.path("plug.py"), format!("{source}\ndef set_acl(acl): raise ValueError('no')")).unwrap();
    let outcome = restore(&plugin.definition(""), &broken, plugin.folder.path());
    assert!(!outcome.end().whole);
    assert_eq!(lines(&plugin, &["event"]), ["event 6 R f"]);
}

#[test]
fn item_71_versions_come_oldest_first() {
    let chain = Chain::new();
    chain.backup("full", "file /a first\nfile /b only");
    chain.backup("incremental", "file /a second\ndelta /c base");
    chain.backup("incremental", "file /a third\ndelta /c more");
    chain.restore(&[]);
    let writes = ["first", "only", "second", "base", "third", "more"].map(|text| format!("write {text}"));
    assert_eq!(chain.lines("write"), writes);
    assert_eq!(chain.lines("create").concat(), "create /a 3create /b 3create /a 3create /c 3create /a 3create /c 3");
}

#[test]
fn item_72_a_choice_of_files_restores_these_and_delivers_all_objects() {
    let chain = Chain::new();
    chain.backup("full", "file /a 1\nfile /d/b 2\nobject o 1\nfile /d/c 3");
    chain.restore(&["--include", "/d", "--exclude", "c"]);
    assert_eq!(chain.lines("create"), ["create /d/b 3"]);
    assert_eq!(chain.lines("object"), ["object o 1 4000 1"]);
    // Also when no file is among them.
    chain.restore(&["--exclude", "*"]);
    assert_eq!((chain.lines("create").len(), chain.lines("object").len()), (0, 1));
}
