//! The contract's state machine, word by word, with small plugins written for one behaviour each. Numbers in comments
//! are those of the conformance list of the reference.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::ffi::OsStrExt;

use backstay_bareos_protocol::{Created, FromWorker, Task, ToWorker};
use common::{FLAGS_LINKS, Host, Outcome, Plugin, Saved, backup, restore, spec};

/// What every plugin below starts with: one object after the other from `objects()`, as (name, type, fields, data).
const BASE: &str = r#"
import os, sys
import bareosfd
from bareosfd import *
from probe import out
state = {}
def load_bareos_plugin(text): return bRC_OK
def parse_plugin_definition(text): state['objects'] = None; state['options'] = text; return bRC_OK
def handle_plugin_event(event): out('event', event); return bRC_OK
def objects(): yield '/f', FT_REG, {}, b'data'
def start_backup_file(packet):
    if state['objects'] is None: state['objects'] = iter(objects())
    found = next(state['objects'], None)
    if found is None: return bRC_Stop
    out('start', found[0])
    packet.fname, packet.type = found[0], found[1]
    packet.statp = StatPacket(mode=0o100644, nlink=1)
    for name, value in found[2].items():
        setattr(packet.statp if name.startswith('st_') else packet, name, value)
    state['data'] = found[3]
    packet.no_read = packet.no_read or found[3] is None
    return bRC_OK
def end_backup_file(): out('end'); return bRC_More
def plugin_io(iop):
    if iop.func == IO_READ:
        iop.buf = bytearray(state['data'][:iop.count]); state['data'] = state['data'][iop.count:]
        iop.status = len(iop.buf)
    elif iop.func == IO_WRITE:
        iop.status = iop.count
        state.setdefault('written', bytearray()).extend(iop.buf)
    out('io', iop.func)
    return bRC_OK
def get_acl(acl): out('get_acl', acl.fname); return bRC_OK
def get_xattr(xattr): out('get_xattr', xattr.fname); return bRC_OK
def set_acl(acl): out('set_acl', acl.fname, bytes(acl.content)); return bRC_OK
def set_xattr(x): out('set_xattr', bytes(x.name), x.value if x.value is None else bytes(x.value)); return bRC_OK
def start_restore_file(cmd): out('start_restore', cmd); return bRC_OK
def create_file(rp): out('create', rp.ofname); rp.create_status = CF_EXTRACT; return bRC_OK
def set_file_attributes(rp): out('attributes', rp.ofname); return bRC_OK
def end_restore_file(): out('end_restore'); return bRC_OK
"#;

fn plugin(source: &str) -> Plugin {
    Plugin::new(&format!("{BASE}\n{source}"))
}

fn run(plugin: &Plugin) -> Outcome {
    backup(&plugin.definition(""))
}

/// The lines of the log whose first word is one of these.
fn lines(plugin: &Plugin, words: &[&str]) -> Vec<String> {
    plugin.log().into_iter().filter(|line| words.contains(&line.split(' ').next().unwrap())).collect()
}

fn failed(outcome: &Outcome) -> &str {
    assert!(!outcome.end().whole, "{outcome:#?}");
    &outcome.end().reason
}

// ---- definition and loading

#[test]
fn an_illegal_definition_fails_the_job_with_its_text() {
    for (definition, text) in [
        ("python3", "python3-fd: Illegal plugin definition python3"),
        ("python3:module_name=plug:flag", "python3-fd: Illegal argument flag without value"),
    ] {
        let outcome = backup(definition);
        assert!(outcome.said(3, text), "{outcome:#?}");
        assert_eq!(failed(&outcome), text);
    }
}

#[test]
fn modules_that_do_not_load_fail_the_job_with_one_clear_reason() {
    for (source, reason) in [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def f(:\n  pass", "SyntaxError: invalid syntax"),
        ("", "the module plug has no function load_bareos_plugin"),
        ("def load_bareos_plugin(text): raise ValueError('no\\nway')", "way"),
    ] {
        let plugin = Plugin::new(source);
        let outcome = run(&plugin);
        assert!(failed(&outcome).contains(reason), "{outcome:#?}");
        assert!(outcome.messages.iter().any(|(kind, text)| *kind == 3 && text.contains(reason)), "{outcome:#?}");
        assert_eq!(outcome.saved.len(), 0);
    }
    let outcome = backup("python3:option=x");
    assert!(failed(&outcome).contains("names no module_name"), "{outcome:#?}");
    let outcome = backup("python3:module_path=/nowhere:module_name=missing_plugin");
    assert!(failed(&outcome).contains("No module named 'missing_plugin'"), "{outcome:#?}");
}

#[test]
fn a_traceback_reaches_the_job_log_whole() {
    let plugin =
        plugin("def start_backup_file(packet):\n    try: 1/0\n    except ZeroDivisionError: raise KeyError('k')");
    let outcome = run(&plugin);
    let (_, text) = outcome.messages.iter().find(|(kind, text)| *kind == 3 && text.contains("KeyError")).unwrap();
    assert!(text.starts_with("bareosfd: Traceback (most recent call last):\n"), "{text}");
    for part in ["ZeroDivisionError", "During handling of the above exception", "plug.py\", line", "KeyError: 'k'\n"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(outcome.said(3, "startBackupFile failed."), "{outcome:#?}");
}

#[test]
fn the_search_path_is_module_path_then_the_helper_folder() {
    let plugin =
        plugin("out('path', sys.path[0], sys.path[1])\nout('argv', sys.argv)\nout('mask', oct(os.umask(0) & 0o26))");
    run(&plugin).good();
    let modules = common::python_folder().join("modules");
    assert_eq!(
        plugin.log()[..2],
        [format!("path {} {}", plugin.folder.path().display(), modules.display()), "argv ['']".to_owned()]
    );
    assert_eq!(plugin.log()[2], "mask 0o26");
}

#[test]
fn packages_dotted_names_and_dashes_load() {
    let plugin = Plugin::new("");
    let source = format!("{BASE}\nout('loaded', __name__)");
    std::fs::create_dir_all(plugin.path("pack/age")).unwrap();
    std::fs::write(plugin.path("pack/__init__.py"), "").unwrap();
    std::fs::write(plugin.path("pack/age/__init__.py"), &source).unwrap();
    std::fs::write(plugin.path("with-dash.py"), &source).unwrap();
    for name in ["pack.age", "with-dash"] {
        plugin.forget_log();
        let outcome =
            backup(&format!("python3:module_path={}:module_name={name}", plugin.folder.path().display())).good();
        assert_eq!(plugin.log()[0], format!("loaded {name}"));
        assert_eq!(outcome.saved.len(), 1);
    }
}

#[test]
fn a_load_that_is_not_ok_skips_the_first_parse_only() {
    let plugin = plugin(
        "def load_bareos_plugin(text): out('load'); return bRC_Error\n\
         def parse_plugin_definition(text): out('parse'); state['objects'] = None; return bRC_OK",
    );
    let outcome = run(&plugin).good();
    assert_eq!(lines(&plugin, &["load", "parse"]), ["load", "parse"]);
    assert_eq!(outcome.saved.len(), 1);
}

#[test]
fn two_lines_share_one_module_and_each_packet_shows_its_own_line() {
    let plugin = plugin(
        "count = []\n\
         def parse_plugin_definition(text): out('parse', text); state['objects'] = None; count.append(1); return bRC_OK\n\
         def objects(): yield '/f%d' % len(count), FT_REG, {}, b''\n\
         old = start_backup_file\n\
         def start_backup_file(packet): out('cmd', packet.cmd); return old(packet)",
    );
    let definitions = vec![plugin.definition("a=1"), plugin.definition("a=2")];
    let outcome = Host::start(spec(Task::Backup, definitions.clone())).backup().good();
    assert_eq!(lines(&plugin, &["parse"]), ["parse a=1:", "parse a=2:", "parse a=1:", "parse a=2:"]);
    let names: Vec<_> = outcome.saved.iter().map(|one| (one.entry.definition, &one.entry.name[..])).collect();
    assert_eq!(names, [(0, &b"/f3"[..]), (1, b"/f4")]);
    let cmd = lines(&plugin, &["cmd"]);
    assert_eq!((&cmd[0], &cmd[3]), (&format!("cmd {}", definitions[0]), &format!("cmd {}", definitions[1])));
}

#[test]
fn a_parse_that_is_not_ok_ends_the_job_with_event_4_but_not_2() {
    let plugin = plugin(
        "RegisterEvents([2, 3, 4])\ncount = []\n\
         def parse_plugin_definition(text): count.append(1); return bRC_OK if len(count) == 1 else bRC_Error\n\
         def handle_plugin_event(event): out('event', event, chr(GetValue(bVarJobStatus))); return bRC_OK",
    );
    let outcome = run(&plugin);
    assert!(failed(&outcome).contains("parse_plugin_definition answered 2"), "{outcome:#?}");
    assert_eq!(plugin.log(), ["event 3 B", "event 4 E"]);
}

#[test]
fn an_override_in_a_backup_is_one_more_parse_with_its_own_options() {
    let plugin = plugin("def parse_plugin_definition(t): out('parse', t); state['objects'] = None; return bRC_OK");
    let mut job = spec(Task::Backup, vec![plugin.definition("a=1")]);
    job.overrides = vec!["python3:a=9:b=2".to_owned(), "bogus:k=v".to_owned(), "name".to_owned()];
    Host::start(job).backup().good();
    assert_eq!(lines(&plugin, &["parse"]), ["parse a=1:", "parse a=9:b=2:", "parse a=1:"]);
}

#[test]
fn an_override_in_a_restore_is_merged_into_the_first_definition_only() {
    let plugin = plugin(
        "def load_bareos_plugin(t): out('load', t); return bRC_OK\n\
         def parse_plugin_definition(t): out('parse', t); state['objects'] = None; return bRC_OK\n\
         def objects():\n  yield '/f', FT_REG, {}, b''\n  yield '/g', FT_REG, {}, b''",
    );
    let definition = plugin.definition("a=1");
    let saved = backup(&definition).good().saved;
    plugin.forget_log();
    let mut job = spec(Task::Restore, Vec::new());
    job.overrides = vec!["python3:lost=1".to_owned(), "python3:a=9:b=2".to_owned()];
    Host::start(job).restore(&definition, &saved, "").good();
    assert_eq!(lines(&plugin, &["load", "parse"]), ["load a=9:b=2:a=1:", "parse a=9:b=2:a=1:", "parse a=1:"]);
    assert_eq!(lines(&plugin, &["start_restore"])[0], format!("start_restore {definition}"));
}

// ---- the module in a job

#[test]
fn values_are_those_of_the_job_and_change_with_its_progress() {
    let plugin = plugin(
        "def show(where):\n    out(where, GetValue(bVarType), GetValue(bVarJobStatus), sorted(GetValue(bVarAccurateOptions)))\n\
         RegisterEvents((16, 3, 4, 2))\nshow('load')\n\
         def handle_plugin_event(event): show('event%d' % event); return bRC_OK\n\
         def objects():\n    show('file')\n    yield '/f', FT_REG, {}, b''\n\
         for number in range(0, 30):\n    v = GetValue(number)\n    out('value', number, repr(v))",
    );
    run(&plugin).good();
    let log = plugin.log();
    let value = |number: usize| {
        let start = format!("value {number} ");
        log.iter().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
    };
    for (number, expected) in [
        (0, "None"),
        (1, "7"),
        (2, "'client-fd'"),
        (3, "70"),
        (4, "73"),
        (5, "'client-fd'"),
        (6, "'job.2026-11-22_00.00.00_07'"),
        (7, "67"),
        (8, "0"),
        (9, "0"),
        (10, "None"),
        (11, "None"),
        (12, "'/tmp'"),
        (13, "None"),
        (14, "None"),
        (16, "'26.0.0~pre1 (21 August 2026)'"),
        (17, "None"),
        (18, "''"),
        (19, "0"),
        (20, "True"),
        (21, "'/etc/backstay/bareos/bareos-fd.d/*/*.conf'"),
        (22, "None"),
        (23, "frozenset()"),
        (24, "None"),
    ] {
        assert_eq!(value(number), expected, "variable {number}");
    }
    assert!(value(15).ends_with("/'"), "{}", value(15));
    let shown: Vec<_> = log.iter().filter(|line| !line.starts_with("value") && line.contains('[')).collect();
    assert_eq!(
        shown,
        [
            "load 73 67 []",
            "event16 73 67 []",
            "event3 66 66 []",
            "file 66 82 [32, 128, 256]",
            "event4 66 84 [32, 128, 256]",
            "event2 66 84 [32, 128, 256]"
        ]
    );
}

#[test]
fn set_value_and_events_follow_their_rules() {
    let plugin = plugin(
        r#"
def text(call, *arguments):
    try: return call(*arguments)
    except Exception as error: return '%s: %s' % (type(error).__name__, error)
def parse_plugin_definition(t):
    state['objects'] = None
    out('since', SetValue(bVarSinceTime, 5), GetValue(bVarSinceTime))
    out('bad', text(SetValue, bVarSinceTime, 'x'), GetValue(bVarSinceTime))
    SetValue(bVarSinceTime, 0)
    out('check', SetValue(bVarCheckChanges, 1), GetValue(bVarCheckChanges), SetValue(bVarCheckChanges, True),
        GetValue(bVarCheckChanges))
    out('others', SetValue(bVarFileSeen, '/f'), SetValue(bVarJobId, 1), SetValue(999, None))
    out('register', RegisterEvents([4]), RegisterEvents((4, 99)), RegisterEvents([0, 32]), RegisterEvents([]))
    out('refused', text(RegisterEvents, 5), '|', text(RegisterEvents, ['x']))
    out('count', GetInstanceCount(), UnRegisterEvents([17]), UnRegisterEvents([]))
    out('seen', SetSeenBitmap(True), SetSeenBitmap(False, '/f'), ClearSeenBitmap(True, None))
    packet = SavePacket(fname='/f', statp=StatPacket(mtime=10, ctime=10))
    out('accept', AcceptFile(packet), AcceptFile(SavePacket(fname='/f')), AcceptFile(SavePacket()))
    out('changes', CheckChanges(packet), text(CheckChanges, SavePacket()), text(CheckChanges, packet.statp))
    packet.save_time = 20; out('old', CheckChanges(packet))
    packet.save_time = 5; out('new', CheckChanges(packet))
    out('empty', AddExclude(), AddInclude(None), AddOptions(), AddRegex(), AddWild(None))
    return bRC_OK
"#,
    );
    run(&plugin).good();
    assert_eq!(
        plugin.log()[..13],
        [
            "since 0 5",
            "bad TypeError: 'str' object cannot be interpreted as an integer -1",
            "check 0 False 0 True",
            "others 2 2 2",
            "register 0 0 2 2",
            "refused TypeError: Expected a sequence of events | TypeError: 'str' object cannot be interpreted as an integer",
            "count 1 0 2",
            "seen 2 2 2",
            "accept 0 2 2",
            "changes 0 TypeError: fname needs to be of type string \"utf-8\" TypeError: CheckChanges needs a SavePacket",
            "old 5",
            "new 0",
            "empty 2 2 2 2 2",
        ]
    );
}

#[test]
fn messages_get_the_prefix_and_their_effects() {
    let plugin = plugin(
        "def handle_plugin_event(event): return bRC_OK\n\
         def objects():\n\
         \x20 JobMessage(M_INFO, '100% %s\\n'); JobMessage(M_INFO, None); JobMessage(M_INFO)\n\
         \x20 JobMessage(M_WARNING, 'w\\n'); JobMessage(M_ERROR, 'e\\n'); JobMessage(99, 'odd'); JobMessage(-5, 'odder')\n\
         \x20 DebugMessage(100, 'shown'); DebugMessage(101, 'hidden'); DebugMessage(1)\n\
         \x20 yield '/f', FT_REG, {}, b''",
    );
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.debug_level = 100;
    let outcome = Host::start(job).backup();
    let texts: Vec<_> = outcome.messages.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
    assert_eq!(
        texts,
        [
            (6, "python3-fd-mod: 100% %s\n"),
            (5, "python3-fd-mod: w\n"),
            (4, "python3-fd-mod: e\n"),
            (6, "python3-fd-mod: odd"),
            (6, "python3-fd-mod: odder"),
            (2, "python3-fd-mod: shown"),
        ]
    );
    let end = outcome.end();
    assert_eq!((end.whole, end.errors, end.warnings), (true, 1, 1));
}

#[test]
fn a_fatal_message_stops_all_loops_and_leaves_only_the_closing_event() {
    for kind in ["M_FATAL", "M_ABORT", "M_ERROR_TERM"] {
        let plugin = plugin(&format!(
            "RegisterEvents([2, 3, 4])\n\
             def handle_plugin_event(event): out('event', event, chr(GetValue(bVarJobStatus))); return bRC_OK\n\
             def objects():\n  yield '/f', FT_REG, {{}}, b''\n  JobMessage({kind}, 'that is it\\n')\n  yield '/g', FT_REG, {{}}, b''\n  yield '/h', FT_REG, {{}}, b''"
        ));
        let outcome = run(&plugin);
        assert_eq!(failed(&outcome), "python3-fd-mod: that is it");
        assert_eq!(outcome.end().errors, 1);
        assert_eq!(
            lines(&plugin, &["start", "end", "event"]),
            ["event 3 B", "start /f", "end", "start /g", "end", "event 4 f"]
        );
    }
}

#[test]
fn an_event_handler_that_answers_term_hears_no_more_events() {
    let plugin =
        plugin("RegisterEvents([2, 3, 4])\ndef handle_plugin_event(event): out('event', event); return bRC_Term");
    let outcome = run(&plugin).good();
    assert_eq!(lines(&plugin, &["event"]), ["event 3"]);
    assert_eq!(outcome.saved.len(), 1);
}

#[test]
fn events_that_are_not_registered_never_arrive() {
    let plugin = plugin("RegisterEvents([3, 4])\nUnRegisterEvents((4,))");
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["event"]), ["event 3"]);
}

#[test]
fn functions_that_change_the_file_set_say_so_and_fail_the_job() {
    for call in [
        "AddExclude('x')",
        "AddInclude('x')",
        "AddOptions('x')",
        "AddRegex('x', ord(' '))",
        "AddWild('x', ord(' '))",
        "NewOptions()",
        "NewInclude()",
        "NewPreInclude()",
    ] {
        let plugin = plugin(&format!("def parse_plugin_definition(t): out('rc', {call}); return bRC_OK"));
        let outcome = run(&plugin);
        let function = call.split('(').next().unwrap();
        let text = format!("bareosfd.{function}: changing the file set from a plugin is not supported yet");
        assert_eq!(failed(&outcome), text);
        assert_eq!(outcome.messages, [(3, format!("{text}\n"))]);
        assert_eq!(plugin.log()[0], "rc 2");
    }
}

// ---- backup

#[test]
fn the_packet_arrives_as_the_reference_says() {
    let plugin = plugin(
        "def start_backup_file(packet):\n\
         \x20 out(repr(packet)); out(packet.statp, packet.object, len(packet.flags), packet.portable); return bRC_Stop",
    );
    run(&plugin).good();
    let log = plugin.log();
    let bits = "0000000000000011000000000001000000";
    assert_eq!(
        log[0],
        format!(
            "SavePacket(fname=\"\", link=\"\", type=0, flags={bits}, no_read=0, portable=1, accurate_found=0, \
             cmd=\"{}\", save_time=0, delta_seq=0, object_name=\"\", object=\"\", object_len=0, object_index=0)",
            plugin.definition("")
        )
    );
    assert_eq!(log[1], "None None 5 True");
}

#[test]
fn answers_of_start_backup_file_do_what_the_table_says() {
    for (rc, calls, kind, text) in [
        ("bRC_Stop", 1, 0, ""),
        ("bRC_Skip", 2, 0, ""),
        ("bRC_Error", 1, 3, "startBackupFile failed."),
        ("bRC_More", 1, 4, "unhandled returncode from startBackupFile."),
        ("bRC_Term", 1, 4, "unhandled returncode from startBackupFile."),
        ("bRC_Seen", 1, 4, "unhandled returncode from startBackupFile."),
        ("bRC_Core", 1, 4, "unhandled returncode from startBackupFile."),
        ("bRC_Cancel", 1, 4, "unhandled returncode from startBackupFile."),
        ("None", 1, 4, "unhandled returncode from startBackupFile."),
        ("'text'", 1, 4, "unhandled returncode from startBackupFile."),
        ("10**30", 1, 4, "unhandled returncode from startBackupFile."),
        ("True", 1, 0, ""),
    ] {
        let plugin = plugin(&format!(
            "def start_backup_file(packet):\n  out('called')\n  return {rc} if len(open({:?}).readlines()) == 1 else bRC_Stop",
            "LOG"
        ));
        let source = std::fs::read_to_string(plugin.path("plug.py")).unwrap();
        let source = source.replace("\"LOG\"", &format!("{:?}", plugin.path("log")));
        std::fs::write(plugin.path("plug.py"), source).unwrap();
        let outcome = run(&plugin);
        assert_eq!(plugin.log().len(), calls, "{rc}");
        assert_eq!(outcome.end().whole, kind != 3, "{rc}");
        assert_eq!(outcome.end().errors, u32::from(kind != 0), "{rc}");
        if kind != 0 {
            let text = format!("Command plugin \"{}\": {text}\n", plugin.definition(""));
            assert_eq!(outcome.messages, [(kind, text)], "{rc}");
        }
        assert_eq!((outcome.saved.len(), outcome.end().announced), (0, 0));
    }
}

#[test]
fn a_packet_without_a_type_is_fatal() {
    let plugin = plugin("def objects(): yield '/f', 0, {}, b''");
    let outcome = run(&plugin);
    assert!(outcome.said(3, "no type in startBackupFile packet."), "{outcome:#?}");
    assert_eq!((outcome.end().announced, outcome.not_saved.len(), outcome.end().whole), (1, 1, false));
    assert_eq!(lines(&plugin, &["end"]).len(), 0);
}

#[test]
fn bad_packets_are_fatal_with_the_text_of_the_original() {
    let data = "object_name='n', object=bytearray(b'x'), object_len=1";
    for (change, text) in [
        ("packet.fname = b'/f'".to_owned(), "TypeError: fname needs to be of type string \"utf-8\""),
        ("packet.fname = None".to_owned(), "TypeError: fname needs to be of type string \"utf-8\""),
        ("del packet.fname".to_owned(), "RuntimeError: fname is empty"),
        ("packet.fname = 'a\\0b'".to_owned(), "ValueError: embedded null character"),
        ("packet.fname = '\\ud800'".to_owned(), "UnicodeEncodeError: "),
        ("packet.link = None".to_owned(), "TypeError: if given, link needs to be of type string \"utf-8\""),
        ("packet.statp = None".to_owned(), "RuntimeError: PyStatPacketToNative() failed"),
        ("del packet.statp".to_owned(), "RuntimeError: PyStatPacketToNative() failed"),
        ("packet.statp = os.stat('/')".to_owned(), "TypeError: statp needs to be of type StatPacket"),
        ("packet.flags = bytes(5)".to_owned(), "TypeError: flags need to be of type bytearray"),
        ("packet.flags = bytearray(4)".to_owned(), "RuntimeError: PyByteArray_Size(flags) failed"),
        (object(data, "object_len=0"), "RuntimeError: pSavePkt->object_len is <=0"),
        (object(data, "object_name=None"), "RuntimeError: object name missing"),
        (object(data, "object_name=b'n'"), "TypeError: object name must be unicode type"),
        (object(data, "object=None"), "RuntimeError: object missing"),
        (object(data, "object=b'x'"), "TypeError: object needs to be of type bytearray"),
        (object(data, "object_len=2"), "RuntimeError: object_len >= len(object)"),
    ] {
        let plugin = plugin(&format!(
            "old = start_backup_file\ndef start_backup_file(packet):\n  rc = old(packet)\n  {change}\n  return rc"
        ));
        let outcome = run(&plugin);
        assert!(outcome.said(3, &format!("bareosfd: {text}")), "{change}: {outcome:#?}");
        assert!(outcome.said(3, "startBackupFile failed."), "{change}: {outcome:#?}");
        assert_eq!((outcome.end().announced, outcome.not_saved.len(), outcome.end().whole), (1, 1, false), "{change}");
    }
}

fn object(data: &str, change: &str) -> String {
    format!(
        "fields = dict({data}); fields.update({change}); fields['type'] = FT_RESTORE_FIRST\n  for n, v in fields.items(): setattr(packet, n, v)"
    )
}

#[test]
fn every_type_is_opened_read_and_closed_unless_no_read() {
    let plugin = plugin(
        "def objects():\n\
         \x20 for kind in (FT_REG, FT_REGE, FT_LNK, FT_DIREND, FT_SPEC, FT_RAW, FT_FIFO, FT_LNKSAVED):\n\
         \x20   yield '/t%d' % kind, kind, dict(link='/t%d/' % kind), b'x'\n\
         \x20 yield '/silent', FT_REG, {}, None",
    );
    let outcome = run(&plugin).good();
    assert_eq!(outcome.saved.len(), 9);
    for one in &outcome.saved[..8] {
        assert_eq!(one.data, b"x", "{one:?}");
    }
    assert_eq!(lines(&plugin, &["io"]).join(" "), "io 1 io 2 io 2 io 4 ".repeat(8).trim());
    // No access control list for a symlink; everything else asks for both.
    let asked = lines(&plugin, &["get_acl", "get_xattr"]);
    assert_eq!(asked.len(), 17);
    assert!(!asked.contains(&"get_acl /t4".to_owned()) && asked.contains(&"get_xattr /t4".to_owned()));
    let numbers: Vec<_> = outcome.saved.iter().map(|one| one.entry.file_index).collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
}

#[test]
fn types_that_the_core_does_not_save_are_counted_and_said() {
    let plugin = plugin(
        "def objects():\n\
         \x20 for kind in (7, 8, 9, 10, 11, 12, 15, 18, 22, 24, 99): yield '/t%d' % kind, kind, {}, b'x'\n\
         \x20 yield '/sock', FT_SPEC, dict(st_mode=0o140600), b'x'\n\
         \x20 for kind in (13, 14, 19, 20, 23): yield '/u%d' % kind, kind, dict(link='/u%d/' % kind), b'x'",
    );
    let outcome = run(&plugin);
    let end = outcome.end();
    assert!(end.whole);
    assert_eq!((end.announced, outcome.announced), (17, 17));
    let (skipped, failed): (Vec<_>, Vec<_>) = outcome.not_saved.iter().partition(|(_, reason)| reason.is_ok());
    let names = |list: &[&(Vec<u8>, _)]| {
        list.iter().map(|one| String::from_utf8_lossy(&one.0).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&skipped), ["/t10", "/t11", "/t12", "/t18", "/sock"]);
    assert_eq!(names(&failed), ["/t7", "/t8", "/t9", "/t15", "/t22", "/t24", "/t99"]);
    assert_eq!(end.errors, 7);
    assert!(outcome.said(8, "     Unknown file type 99; not saved: /t99\n"), "{outcome:#?}");
    assert!(outcome.said(9, "     Unchanged file skipped: /t10\n"), "{outcome:#?}");
    assert_eq!(outcome.saved.iter().map(|one| one.entry.file_type).collect::<Vec<_>>(), [13, 14, 19, 20]);
    assert_eq!(outcome.deleted, [("/u23".to_owned(), true)]);
    assert!(outcome.saved[0].data == b"x");
    assert_eq!(lines(&plugin, &["end"]).len(), 17);
}

#[test]
fn a_directory_is_stored_under_its_link() {
    let plugin = plugin(
        "def objects():\n\
         \x20 yield '/a', FT_DIREND, dict(link='/b/'), None\n\
         \x20 yield '/c', FT_DIREND, dict(link='/c'), None\n\
         \x20 yield '/d', FT_DIREND, {}, None",
    );
    let outcome = run(&plugin);
    let names: Vec<_> = outcome.saved.iter().map(|one| String::from_utf8_lossy(&one.entry.name).into_owned()).collect();
    assert_eq!(names, ["/b/", "/c/", "/d/"]);
    assert_eq!((outcome.end().errors, outcome.end().warnings), (0, 1));
    assert_eq!(lines(&plugin, &["get_acl"])[0], "get_acl /a");
}

#[test]
fn a_failed_open_leaves_out_everything_but_the_end() {
    for (open, cause) in [
        ("iop.io_errno = 2; return bRC_Error", "No such file or directory"),
        ("iop.io_errno = 13; iop.status = -1; return bRC_OK", "Permission denied"),
        ("iop.status = 1; return bRC_OK", "Success"),
    ] {
        let plugin = plugin(&format!(
            "old = plugin_io\ndef plugin_io(iop):\n  old(iop)\n  if iop.func == IO_OPEN: {open}\n  return bRC_OK"
        ));
        let outcome = run(&plugin);
        assert_eq!(lines(&plugin, &["start", "io", "get_acl", "end"]), ["start /f", "io 1", "end"], "{open}");
        assert!(outcome.said(8, &format!("     Cannot open \"/f\": ERR={cause}.\n")), "{outcome:#?}");
        assert!(outcome.end().whole && outcome.end().errors == 1);
        assert!(outcome.saved[0].result.is_err());
    }
}

#[test]
fn an_open_that_answers_neither_ok_nor_error_counts_by_its_status() {
    let plugin = plugin(
        "old = plugin_io\ndef plugin_io(iop):\n  old(iop)\n  iop.status = 7 if iop.func == IO_OPEN else iop.status",
    );
    assert_eq!(run(&plugin).good().saved[0].data, b"data");
}

#[test]
fn a_read_error_keeps_the_job_and_closes_and_asks_for_attributes() {
    for (read, cause) in [
        ("iop.status = -1; iop.io_errno = 5", "Input/output error"),
        ("iop.buf = bytearray(iop.count + 1); iop.status = 1", "the plugin's buffer is longer than what was asked for"),
        (
            "iop.buf = bytearray(1 << 30); iop.status = iop.count",
            "the plugin's buffer is longer than what was asked for",
        ),
        ("iop.buf = bytearray(4); iop.status = iop.count + 1", "the plugin's status is larger than what was asked for"),
        ("iop.buf = bytearray(4); iop.status = 5", "the plugin's buffer is shorter than its status"),
        ("iop.buf = 'text'; iop.status = 4", "the plugin's buffer holds no bytes"),
        ("iop.buf = None; iop.status = 4", "the plugin's buffer holds no bytes"),
    ] {
        let plugin = plugin(&format!(
            "old = plugin_io\ndef plugin_io(iop):\n  rc = old(iop)\n  if iop.func == IO_READ and not state['data']:\n    {read}\n  return rc"
        ));
        let outcome = run(&plugin);
        assert!(outcome.said(4, &format!("Read error on file /f. ERR={cause}\n")), "{read}: {outcome:#?}");
        assert!(outcome.end().whole && outcome.end().errors == 1, "{read}: {outcome:#?}");
        assert!(outcome.saved[0].result.is_err());
        let calls = lines(&plugin, &["io", "get_acl", "get_xattr", "end"]);
        assert_eq!(calls[calls.len() - 4..], ["io 4", "get_acl /f", "get_xattr /f", "end"], "{read}");
    }
}

#[test]
fn kinds_of_buffers_are_taken() {
    let plugin = plugin(
        "import array\n\
         def objects():\n\
         \x20 for number in range(4): state['kind'] = number; yield '/%d' % number, FT_REG, {}, b'abcdef'\n\
         kinds = [bytes, bytearray, memoryview, lambda b: array.array('B', b)]\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 rc = old(iop)\n\
         \x20 if iop.func == IO_READ: iop.buf = kinds[state['kind']](iop.buf)\n\
         \x20 return rc",
    );
    let outcome = run(&plugin).good();
    assert!(outcome.saved.iter().all(|one| one.data == b"abcdef"), "{outcome:#?}");
}

#[test]
fn interrupted_reads_are_repeated_five_times() {
    for (fails, good) in [(5, true), (6, false)] {
        let plugin = plugin(&format!(
            "count = []\nold = plugin_io\ndef plugin_io(iop):\n\
             \x20 if iop.func == IO_READ and len(count) < {fails}:\n\
             \x20   count.append(1); iop.status = -1; iop.io_errno = 4; return bRC_Error\n\
             \x20 return old(iop)"
        ));
        let outcome = run(&plugin);
        assert_eq!(outcome.saved[0].result.is_ok(), good, "{outcome:#?}");
        if !good {
            assert!(outcome.said(4, "Interrupted system call"), "{outcome:#?}");
        }
    }
}

#[test]
fn large_data_pass_the_ring_in_both_directions() {
    let plugin = plugin(
        "import hashlib\n\
         block = bytes(range(256)) * 1024\n\
         def objects(): state['left'] = 100; yield '/f', FT_REG, {}, b''\n\
         def plugin_io(iop):\n\
         \x20 if iop.func == IO_READ and state['left']:\n\
         \x20   assert iop.count == 262144 and iop.buf is None and iop.filedes == 0 and iop.fname is None\n\
         \x20   state['left'] -= 1; iop.buf = block; iop.status = len(block)\n\
         \x20 if iop.func == IO_OPEN: state['sizes'] = []; state['sum'] = hashlib.sha256()\n\
         \x20 if iop.func == IO_WRITE:\n\
         \x20   assert type(iop.buf) is bytearray and len(iop.buf) == iop.count\n\
         \x20   state['sizes'].append(iop.count); state['sum'].update(iop.buf); iop.status = iop.count\n\
         \x20 if iop.func == IO_CLOSE and state['sizes']: out(set(state['sizes']), state['sum'].hexdigest() == hashlib.sha256(block * 100).hexdigest())\n\
         \x20 return bRC_OK",
    );
    let outcome = run(&plugin).good();
    let saved = outcome.saved;
    assert_eq!(saved[0].data.len(), 100 << 18);
    assert!(saved[0].data.chunks(256).all(|chunk| chunk.iter().enumerate().all(|(i, &byte)| i == usize::from(byte))));
    plugin.forget_log();
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    assert!(plugin.log().contains(&"{262144} True".to_owned()), "{:?}", plugin.log());
}

#[test]
fn reads_of_one_byte_are_put_together() {
    let plugin = plugin(
        "def objects(): yield '/f', FT_REG, {}, bytes(i % 251 for i in range(30000))\n\
         def plugin_io(iop):\n\
         \x20 if iop.func == IO_READ:\n\
         \x20   iop.buf = state['data'][:1]; state['data'] = state['data'][1:]; iop.status = len(iop.buf)\n\
         \x20 return bRC_OK",
    );
    let outcome = run(&plugin).good();
    assert!(outcome.saved[0].data.iter().enumerate().all(|(i, &byte)| i % 251 == usize::from(byte)));
    assert_eq!((outcome.saved[0].data.len(), outcome.spans), (30_000, 1));
}

#[test]
fn sparse_files_are_read_and_restored_in_positioned_blocks() {
    let plugin = plugin(
        "def objects():\n\
         \x20 flags = bytearray(5); flags[0] = 1 << 5\n\
         \x20 yield '/s', FT_REG, dict(flags=flags, st_size=786508), b'x' * 262136 + bytes(2 * 262136) + b'y' * 100\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 if iop.func in (IO_READ, IO_WRITE, IO_SEEK): out('io', iop.func, iop.count, iop.offset, iop.whence)\n\
         \x20 rc = old(iop)\n\
         \x20 return rc\n\
         old_create = create_file\n\
         def create_file(rp): out('stream', rp.data_stream); return old_create(rp)",
    );
    let outcome = run(&plugin).good();
    assert_eq!(lines(&plugin, &["io"])[1], "io 2 262136 0 0");
    let saved = outcome.saved;
    assert_eq!(saved[0].data.len(), 786_508);
    plugin.forget_log();
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    let io: Vec<_> = lines(&plugin, &["io", "stream"]).into_iter().filter(|line| line.len() > 4).collect();
    assert_eq!(io, ["stream 6", "io 3 262136 0 0", "io 5 0 786408 0", "io 3 100 0 0"]);
}

#[test]
fn attributes_follow_the_table_of_the_reference() {
    let plugin = plugin(
        "def objects():\n  for number in range(7): state['n'] = number; state['x'] = 0; yield '/%d' % number, FT_REG, {}, None\n\
         def get_acl(acl):\n\
         \x20 n = state['n']\n\
         \x20 if n == 0: acl.content = bytearray(b'a\\0x')\n\
         \x20 if n == 1: acl.content = bytearray()\n\
         \x20 return bRC_Error if n == 2 else bRC_OK\n\
         def get_xattr(x):\n\
         \x20 n, state['x'] = state['n'], state['x'] + 1\n\
         \x20 if n == 0:\n\
         \x20   x.name = bytearray(b'n%d' % state['x']); x.value = [None, bytearray(b'v'), None, bytearray(), 'text'][state['x']]\n\
         \x20   return bRC_More if state['x'] < 4 else bRC_OK\n\
         \x20 if n == 3: x.name = 'text'; x.value = bytearray(b'v')\n\
         \x20 if n == 4: x.name = bytearray(); x.value = bytearray(b'v')\n\
         \x20 if n == 5: x.name = bytearray(b'n'); return bRC_More if state['x'] == 1 else bRC_Error\n\
         \x20 if n == 6: x.name = bytearray(b'n'); x.value = bytearray(1 << 20)\n\
         \x20 return bRC_OK",
    );
    let outcome = run(&plugin);
    let acls: Vec<_> = outcome.saved.iter().map(|one| one.acls.len()).collect();
    assert_eq!(acls, [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(outcome.saved[0].acls[0], b"a\0x");
    let pair = |n: &str, v: &str| (n.as_bytes().to_vec(), v.as_bytes().to_vec());
    assert_eq!(outcome.saved[0].xattrs, [pair("n1", "v"), pair("n2", ""), pair("n3", ""), pair("n4", "")]);
    assert!(outcome.saved[1..].iter().all(|one| one.xattrs.is_empty()), "{outcome:#?}");
    assert_eq!((outcome.end().whole, outcome.end().errors), (true, 3));

    let plugin = self::plugin("def get_acl(acl): acl.content = 'text'; return bRC_OK");
    let outcome = run(&plugin);
    assert!(outcome.said(3, "acl packet content needs to be of bytearray type"), "{outcome:#?}");

    // 39: switched off, nobody asks.
    let plugin = self::plugin("");
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.flags = vec![[0, 0x80, 0, 0, 0]];
    Host::start(job).backup().good();
    assert!(lines(&plugin, &["get_acl", "get_xattr"]).is_empty());
}

#[test]
fn each_definition_has_the_option_bits_of_its_own_include() {
    let plugin = plugin("");
    let mut job =
        spec(Task::Backup, vec![plugin.definition("n=1"), plugin.definition("n=2"), plugin.definition("n=3")]);
    job.flags = vec![[0, 0x80, 0, 0, 0], [0, 0xc0, 0, 8, 2]];
    let saved = Host::start(job).backup().good().saved;
    let flags: Vec<_> = saved.iter().map(|one| (one.entry.definition, one.entry.flags)).collect();
    // The third has none given: the defaults.
    assert_eq!(flags, [(0, [0, 0x80, 0, 0, 0]), (1, [0, 0xc0, 0, 8, 2]), (2, [0, 0xc0, 0, 8, 0])]);
    assert_eq!(lines(&plugin, &["get_acl"]).len(), 2);
}

#[test]
fn what_is_too_long_for_a_frame_is_cut_or_refused() {
    let plugin = plugin(
        "def get_acl(acl): acl.content = bytearray(5 << 20); return bRC_OK\n\
         def objects():\n  JobMessage(M_INFO, 'ä' * (5 << 20))\n  yield '/f', FT_REG, {}, b'data'\n\
         \x20 yield 'x' * (5 << 20), FT_REG, {}, b'data'",
    );
    let outcome = run(&plugin);
    assert!(outcome.messages[0].1.ends_with("äää\n(the rest of 10485776 bytes is left out)\n"));
    assert!(outcome.messages[1].1.contains("The access control list of file /f takes 1 MiB or more"));
    assert!(outcome.said(3, "ValueError: a file name of more than 1 MiB"), "{:?}", outcome.end);
    assert_eq!((outcome.saved.len(), outcome.not_saved.len(), outcome.end().announced), (1, 1, 2));
    assert!(outcome.saved[0].result.is_ok() && outcome.saved[0].acls.is_empty());
}

#[test]
fn answers_of_end_backup_file_continue_or_end_the_line() {
    for (rc, files, errors, warnings) in
        [("bRC_More", 3, 0, 0), ("bRC_OK", 1, 0, 0), ("bRC_Error", 1, 0, 1), ("None", 1, 1, 0), ("42", 1, 1, 0)]
    {
        let plugin = plugin(&format!(
            "def objects():\n  for name in '/a', '/b', '/c': yield name, FT_REG, {{}}, b'x'\ndef end_backup_file(): return {rc}"
        ));
        let outcome = run(&plugin);
        assert_eq!(outcome.saved.len(), files, "{rc}");
        let end = outcome.end();
        assert_eq!((end.whole, end.errors, end.warnings), (true, errors, warnings), "{rc}");
    }
}

#[test]
fn hard_links_are_read_twice_by_default_and_linked_if_wanted() {
    let plugin = plugin(
        "def objects():\n\
         \x20 for name in '/a', '/b', '/a': yield name, FT_REG, dict(st_nlink=2, st_ino=5, st_dev=1), b'data'\n\
         \x20 yield '/c', FT_REG, dict(st_nlink=2, st_ino=6, st_dev=1), b'other'",
    );
    let outcome = run(&plugin).good();
    assert!(outcome.saved.iter().all(|one| one.entry.file_type == 3 && !one.data.is_empty()));
    plugin.forget_log();
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.flags = vec![FLAGS_LINKS];
    let saved = Host::start(job).backup().good().saved;
    let second = &saved[1];
    assert_eq!((second.entry.file_type, &second.entry.link[..], second.entry.link_file_index), (1, &b"/a"[..], 1));
    assert!(second.data.is_empty() && second.entry.no_read);
    assert_eq!(lines(&plugin, &["get_acl"]).len(), 4);
    assert_eq!((saved[2].entry.file_type, &saved[2].data[..]), (3, &b"data"[..]));
    assert_eq!(saved[3].entry.file_type, 3);
}

#[test]
fn names_and_integers_survive_exactly() {
    let plugin = plugin(
        "names = ['@v/x', '@a:b', ' blank ', 'äöü ☃ 😀', '/surrogate \\udcff', 'new\\nline']\n\
         def objects():\n  for name in names:\n    yield name, FT_REG, dict(link='l\\udcfe', st_ino=2**64-1, st_size=2**63+5, st_mtime=10**18+1, st_ctime=-1), b''\n\
         def create_file(rp):\n\
         \x20 s = rp.statp\n\
         \x20 out(ascii(rp.original_file_name), ascii(rp.original_link_name), s.st_ino, s.st_size, s.st_mtime, s.st_ctime)\n\
         \x20 rp.create_status = CF_SKIP; return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    assert_eq!(saved[4].entry.name, b"/surrogate \xff");
    assert_eq!(saved[4].entry.link, b"l\xfe");
    plugin.forget_log();
    restore(&plugin.definition(""), &saved, std::path::Path::new("")).good();
    let log: Vec<_> = plugin.log().into_iter().filter(|line| line.starts_with('\'')).collect();
    assert_eq!(log.len(), 6);
    assert_eq!(
        log[4],
        r"'/surrogate \udcff' 'l\udcfe' 18446744073709551615 9223372036854775813 1000000000000000001 -1"
    );
    assert!(log[3].starts_with(r"'\xe4\xf6\xfc \u2603 \U0001f600'"), "{}", log[3]);
}

// ---- direct input and output

#[test]
fn a_descriptor_is_read_by_the_host_and_closed_before_io_close() {
    let plugin = plugin(
        "import subprocess, socket\n\
         def objects():\n  for how in 'file', 'pipe', 'socket', 'plugin': state['how'] = how; yield '/' + how, FT_REG, {}, b'by plugin'\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 how = state['how']\n\
         \x20 if how == 'plugin': return old(iop)\n\
         \x20 out('io', iop.func, iop.filedes == state.get('fd'))\n\
         \x20 if iop.func == IO_OPEN:\n\
         \x20   if how == 'file': state['fd'] = os.open(__file__, os.O_RDONLY); os.lseek(state['fd'], 1, 0)\n\
         \x20   if how == 'pipe':\n\
         \x20     state['child'] = subprocess.Popen(['sh', '-c', 'head -c 300000 /dev/zero'], stdout=subprocess.PIPE)\n\
         \x20     state['fd'] = state['child'].stdout.fileno()\n\
         \x20   if how == 'socket':\n\
         \x20     a, b = socket.socketpair(); b.send(b'by socket'); b.close(); state['fd'] = a.detach()\n\
         \x20   iop.filedes = state['fd']; iop.status = iostat_do_in_core\n\
         \x20 if iop.func == IO_CLOSE:\n\
         \x20   if how == 'pipe': state['child'].stdout.close(); out('exit', state['child'].wait())\n\
         \x20   else: os.close(state['fd'])\n\
         \x20 return bRC_OK",
    );
    let outcome = run(&plugin).good();
    let source = std::fs::read(plugin.path("plug.py")).unwrap();
    assert_eq!(outcome.saved[0].data, source[1..]);
    assert_eq!(outcome.saved[1].data, vec![0; 300_000]);
    assert_eq!(outcome.saved[2].data, b"by socket");
    assert_eq!(outcome.saved[3].data, b"by plugin");
    let direct = ["io 1 False", "io 4 True", "io 1 False", "io 4 True", "exit 0", "io 1 False", "io 4 True"];
    assert_eq!(lines(&plugin, &["io", "exit"])[..7], direct);
}

#[test]
fn a_descriptor_that_is_not_open_is_a_read_error() {
    let plugin = plugin("def plugin_io(iop): out('io', iop.func); iop.status = 1; iop.filedes = 999; return bRC_OK");
    let outcome = run(&plugin);
    assert!(outcome.said(4, "Read error on file /f. ERR=Bad file descriptor"), "{outcome:#?}");
    assert_eq!(lines(&plugin, &["io"]), ["io 1", "io 4"]);
}

#[test]
fn a_restore_writes_to_the_descriptor() {
    let plugin = plugin(
        "def objects(): yield '/f', FT_REG, {}, b'written directly'\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 if not (iop.flags & os.O_CREAT or state.get('direct')): return old(iop)\n\
         \x20 out('io', iop.func, iop.flags, iop.mode)\n\
         \x20 if iop.func == IO_OPEN:\n\
         \x20   state['direct'] = os.open(iop.fname, iop.flags, iop.mode); iop.filedes = state['direct']; iop.status = 1\n\
         \x20 if iop.func == IO_CLOSE: out('same', iop.filedes == state['direct']); os.close(iop.filedes)\n\
         \x20 return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    plugin.forget_log();
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    assert_eq!(outcome.created, [Created::Fd]);
    assert_eq!(std::fs::read(plugin.path("f")).unwrap(), b"written directly");
    assert_eq!(lines(&plugin, &["io", "attributes", "same"])[0], "io 1 577 384");
    let order: Vec<_> = lines(&plugin, &["io", "attributes", "same"]).iter().map(|line| line[..2].to_owned()).collect();
    assert_eq!(order, ["io", "at", "io", "sa"]);
}

// ---- restore

fn one_file(plugin: &Plugin) -> Vec<Saved> {
    let mut saved = run(plugin).good().saved;
    saved[0].acls = vec![b"acl".to_vec()];
    saved[0].xattrs = vec![(b"n1".to_vec(), b"v".to_vec()), (b"n2".to_vec(), Vec::new())];
    plugin.forget_log();
    saved
}

#[test]
fn create_status_decides_how_a_file_goes_on() {
    let all = ["create", "io", "attributes", "set_acl", "set_xattr", "end_restore"];
    for (answer, kind, created, words) in [
        (
            "rp.create_status = CF_EXTRACT; return bRC_OK",
            3,
            Created::Ring,
            "create io io attributes io set_acl set_xattr set_xattr end_restore",
        ),
        (
            "rp.create_status = 77; return bRC_OK",
            3,
            Created::Ring,
            "create io io attributes io set_acl set_xattr set_xattr end_restore",
        ),
        ("rp.create_status = CF_SKIP; return bRC_OK", 3, Created::Skip, "create end_restore"),
        ("rp.create_status = CF_CREATED; return bRC_OK", 3, Created::Made, "create attributes end_restore"),
        (
            "rp.create_status = CF_CREATED; return bRC_OK",
            5,
            Created::Made,
            "create attributes set_acl set_xattr set_xattr end_restore",
        ),
        ("rp.create_status = CF_ERROR; return bRC_OK", 3, Created::Failed, "create end_restore"),
        ("return bRC_OK", 3, Created::Failed, "create end_restore"),
        ("rp.create_status = CF_EXTRACT; return bRC_Error", 3, Created::Failed, "create end_restore"),
        ("rp.create_status = CF_EXTRACT", 3, Created::Failed, "create end_restore"),
    ] {
        let plugin = plugin(&format!("def create_file(rp):\n  out('create')\n  {answer}"));
        let mut saved = one_file(&plugin);
        saved[0].entry.file_type = kind;
        let second = saved[0].clone();
        saved.push(second);
        let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
        let calls: Vec<_> =
            lines(&plugin, &all).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(outcome.created, [created; 2], "{answer}");
        assert_eq!(calls.join(" "), format!("{words} {words}"), "{answer}");
        assert!(outcome.end().whole, "{answer}: {outcome:#?}");
        assert_eq!(outcome.end().errors, if created == Created::Failed { 2 } else { 0 }, "{answer}");
        assert_eq!(outcome.restored[0].is_err(), created == Created::Failed);
    }
    let plugin = plugin("def create_file(rp): return bRC_Error");
    let saved = one_file(&plugin);
    let name = plugin.path("f").display().to_string();
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
    assert!(outcome.said(4, &format!("Plugin createFile call failed. Stat=2 file={name}")), "{outcome:#?}");
}

#[test]
fn cf_core_makes_objects_and_opens_files_through_the_plugin() {
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
    // 66: nobody but the plugin sets mode or times.
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(plugin.path("out/d/f")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn the_restore_packet_is_complete() {
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
}

#[test]
fn a_start_restore_file_that_is_not_ok_ends_the_restore_at_that_file() {
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
fn write_errors_close_the_file_without_attributes() {
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
}

#[test]
fn a_file_that_cannot_be_opened_fails_and_the_next_one_goes_on() {
    let plugin = plugin(
        "old = plugin_io\ndef plugin_io(iop):\n  rc = old(iop)\n  if iop.func == IO_OPEN and iop.flags: iop.io_errno = 13; return bRC_Error\n  return rc",
    );
    let mut saved = one_file(&plugin);
    saved.push(saved[0].clone());
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
    assert_eq!(outcome.created, [Created::Failed; 2]);
    assert!(outcome.said(4, "Permission denied") && outcome.end().whole && outcome.end().errors == 2, "{outcome:#?}");
}

#[test]
fn attributes_that_cannot_be_set_are_warnings_and_stop_the_rest() {
    let plugin = plugin("def set_xattr(x): out('set_xattr'); return bRC_Error\ndef set_acl(a): return bRC_Error");
    let saved = one_file(&plugin);
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
    assert_eq!(lines(&plugin, &["set_xattr"]).len(), 1);
    assert_eq!((outcome.end().whole, outcome.end().errors, outcome.end().warnings), (true, 0, 2));
    assert!(outcome.restored[0].is_err());
}

#[test]
fn an_end_restore_file_that_answers_nothing_is_fatal() {
    let plugin = plugin("def end_restore_file(): pass");
    let saved = one_file(&plugin);
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
    assert!(!outcome.end().whole, "{outcome:#?}");
    let plugin = self::plugin("def end_restore_file(): return bRC_Error");
    let saved = one_file(&plugin);
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
}

#[test]
fn restore_events_come_with_the_job_s_state() {
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
}

#[test]
fn exceptions_in_restore_callbacks_are_fatal_with_their_traceback() {
    for callback in [
        "start_restore_file",
        "create_file",
        "plugin_io",
        "set_file_attributes",
        "set_acl",
        "set_xattr",
        "end_restore_file",
    ] {
        let plugin = plugin("");
        let saved = one_file(&plugin);
        let source = std::fs::read_to_string(plugin.path("plug.py")).unwrap();
        std::fs::write(
            plugin.path("plug.py"),
            format!("{source}\ndef {callback}(*a): raise ValueError('in {callback}')"),
        )
        .unwrap();
        let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
        assert!(outcome.said(3, &format!("ValueError: in {callback}\n")), "{callback}: {outcome:#?}");
        assert!(!outcome.end().whole, "{callback}");
    }
}

// ---- cancel and the end

#[test]
fn a_cancel_reaches_a_blocked_callback_and_the_closing_callbacks_follow() {
    for block in [
        "time.sleep(600)",
        "os.read(os.pipe()[0], 1)",
        "exec('while True: pass')",
        "threading.Lock().acquire() and threading.Event().wait()",
    ] {
        let plugin = plugin(&format!(
            "import time, threading\nRegisterEvents([2, 4, 14])\n\
             def handle_plugin_event(event):\n\
             \x20 out('event', event, chr(GetValue(bVarJobStatus)), threading.current_thread() is threading.main_thread())\n\
             \x20 return bRC_OK\n\
             old = plugin_io\n\
             def plugin_io(iop):\n  old(iop)\n  if iop.func == IO_READ: out('blocked'); {block}\n  return bRC_OK\n\
             def objects():\n  yield '/f', FT_REG, {{}}, b'data'\n  yield '/g', FT_REG, {{}}, b'data'"
        ));
        let mut host = Host::start(spec(Task::Backup, vec![plugin.definition("")]));
        while !plugin.log().contains(&"blocked".to_owned()) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        host.send(&ToWorker::Cancel);
        let outcome = host.backup();
        assert_eq!(failed(&outcome), "the job was cancelled", "{block}");
        let log = lines(&plugin, &["event", "io", "end", "start"]);
        assert_eq!(
            log,
            ["start /f", "io 1", "io 2", "event 14 R False", "io 4", "end", "event 4 A True"],
            "{block}: {outcome:#?}"
        );
        assert_eq!((outcome.saved.len(), outcome.saved[0].result.is_err()), (1, true));
        assert!(outcome.messages.iter().all(|(kind, _)| *kind != 3), "{outcome:#?}");
    }
}

#[test]
fn a_cancel_is_only_told_to_a_plugin_that_registered_for_it() {
    let plugin = plugin("import time\nRegisterEvents([4])\ndef objects(): out('blocked'); time.sleep(600); yield");
    let mut host = Host::start(spec(Task::Backup, vec![plugin.definition("")]));
    while !plugin.log().contains(&"blocked".to_owned()) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    host.send(&ToWorker::Cancel);
    let outcome = host.backup();
    assert_eq!(failed(&outcome), "the job was cancelled");
    assert_eq!(lines(&plugin, &["event", "end"]), ["event 4"]);
}

#[test]
fn a_cancel_between_files_of_a_restore_closes_what_is_open() {
    let plugin = plugin("RegisterEvents([2, 6, 14])\ndef objects(): yield '/f', FT_REG, {}, b'x' * 300000");
    let saved = one_file(&plugin);
    let mut host = Host::start(spec(Task::Restore, Vec::new()));
    host.send(&ToWorker::Restore(Box::new(backstay_bareos_protocol::RestoreEntry {
        definition: plugin.definition(""),
        entry: saved[0].entry.clone(),
        output_name: plugin.path("f").as_os_str().as_bytes().to_vec(),
        output_link: Vec::new(),
    })));
    assert!(matches!(host.next(), Some((FromWorker::Created(Created::Ring), None))));
    host.send(&ToWorker::Cancel);
    match host.next() {
        Some((FromWorker::Finished(end), None)) => assert!(!end.whole),
        other => panic!("{other:?}"),
    }
    host.end();
    assert_eq!(
        lines(&plugin, &["io", "event", "attributes", "end_restore"]),
        ["io 1", "event 14", "io 4", "end_restore", "event 6"]
    );
}

#[test]
fn a_worker_whose_host_goes_away_ends_by_itself() {
    let plugin = plugin("import time\ndef objects(): out('blocked'); time.sleep(600); yield");
    let host = Host::start(spec(Task::Backup, vec![plugin.definition("")]));
    while !plugin.log().contains(&"blocked".to_owned()) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    host.worker.sender.close();
    let outcome = host.backup();
    assert!(!outcome.exit.contains("Signal") && !outcome.exit.contains("Killed"), "{}", outcome.exit);
}

#[test]
fn missing_callbacks_are_named_once() {
    let plugin = Plugin::new(
        "from bareosfd import *\ncount = []\n\
         def load_bareos_plugin(t): return bRC_OK\n\
         def parse_plugin_definition(t): return bRC_OK\n\
         def start_backup_file(p):\n  count.append(1)\n  p.fname = '/%d' % len(count); p.type = FT_REG; p.statp = StatPacket()\n  return bRC_OK if len(count) < 4 else bRC_Stop\n\
         def end_backup_file(): return bRC_More",
    );
    let outcome = run(&plugin);
    {
        let name = "plugin_io";
        let text = format!("the plugin has no function {name}");
        let said = outcome.messages.iter().filter(|(_, message)| message.contains(&text)).count();
        assert_eq!(said, 1, "{name}: {outcome:#?}");
    }
    // 3.5: without plugin_io every open fails.
    assert!(outcome.saved.iter().all(|one| one.result.is_err()) && outcome.saved.len() == 3, "{outcome:#?}");
}

#[test]
fn what_the_plugin_prints_is_kept_and_temporary_things_go_away() {
    let plugin = plugin(
        "import atexit, tempfile\nprint('printed')\nsys.stderr.write('complained')\nsys.stdout.write('not ended')\n\
         folder = tempfile.TemporaryDirectory(); out('folder', folder.name)\natexit.register(lambda: out('atexit'))",
    );
    let outcome = run(&plugin).good();
    for line in ["Stdout printed", "Stderr complained", "Stdout not ended"] {
        assert!(outcome.printed.contains(&line.to_owned()), "{:?}", outcome.printed);
    }
    assert!(plugin.log().contains(&"atexit".to_owned()));
    let folder = lines(&plugin, &["folder"])[0]["folder ".len()..].to_owned();
    assert!(!std::path::Path::new(&folder).exists());
}

#[test]
fn children_of_the_plugin_inherit_nothing_of_the_host() {
    let plugin = plugin(
        "import subprocess\n\
         held = lambda: [os.readlink('/proc/self/fd/%s' % n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)]\n\
         out('worker', sum('socket:' in t or 'memfd:' in t for t in held()))\n\
         listed = subprocess.run(['ls', '-l', '/proc/self/fd'], close_fds=False, capture_output=True, text=True).stdout\n\
         out('child', listed.count('socket:') + listed.count('memfd:'))",
    );
    run(&plugin).good();
    // The worker itself keeps its socket; the rings' descriptors are closed once they are mapped.
    assert_eq!(lines(&plugin, &["worker", "child"]), ["worker 1", "child 0"]);
}

#[test]
fn functions_work_in_every_thread_of_the_plugin() {
    let plugin = plugin(
        "import threading\n\
         def work(n):\n  for _ in range(200): JobMessage(M_INFO, 'thread %d %s\\n' % (n, GetValue(bVarJobName)))\n\
         def objects():\n\
         \x20 threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n\
         \x20 for t in threads: t.start()\n\
         \x20 for n in range(50): yield '/%d' % n, FT_REG, {}, b'x' * 100000\n\
         \x20 for t in threads: t.join()",
    );
    let outcome = run(&plugin).good();
    assert_eq!((outcome.messages.len(), outcome.saved.len()), (800, 50));
    assert!(outcome.saved.iter().all(|one| one.data.len() == 100_000));
}
