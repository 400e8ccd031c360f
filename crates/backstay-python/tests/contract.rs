//! The contract's state machine, word by word, with small plugins written for one behaviour each. Numbers in comments
//! are those of the conformance list of the reference.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::ffi::OsStrExt;

use backstay_bareos_fileset::{Exclude, Include, Options, Pattern, PatternKind, bit};
use backstay_bareos_protocol::{Created, FromWorker, LineRules, Task, ToWorker};
use common::objects::{failed, lines, one_file, plugin, run};
use common::{Host, Plugin, restore, spec};

// ---- definition and loading

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
fn an_override_in_a_backup_is_one_more_parse_with_its_own_options() {
    let plugin = plugin("def parse_plugin_definition(t): out('parse', t); state['objects'] = None; return bRC_OK");
    let mut job = spec(Task::Backup, vec![plugin.definition("a=1")]);
    job.overrides = vec!["python3:a=9:b=2".to_owned(), "bogus:k=v".to_owned(), "name".to_owned()];
    Host::start(job).backup().good();
    assert_eq!(lines(&plugin, &["parse"]), ["parse a=1:", "parse a=9:b=2:", "parse a=1:"]);
}

// ---- the module in a job

#[test]
fn functions_outside_of_their_place_answer_as_in_bareos() {
    let plugin = plugin(
        r#"
def text(call, *arguments):
    try: return call(*arguments)
    except Exception as error: return '%s: %s' % (type(error).__name__, error)
def parse_plugin_definition(t):
    state['objects'] = None
    out('count', GetInstanceCount())
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
        plugin.log()[..7],
        [
            "count 1",
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
fn accept_file_answers_by_the_rules_around_the_line() {
    let plugin = plugin(
        r#"
def parse_plugin_definition(t):
    state['objects'] = None
    out('accept', *(AcceptFile(SavePacket(fname=name, statp=StatPacket(mode=mode))) for name, mode in (
        ('/x/a.o', 0o100644), ('/x/a.c', 0o100644), ('/x/tmp', 0o040755), ('/x/tmp/', 0o040755), ('/x/tmp', 0o100644),
        ('/gone', 0o100644))))
    return bRC_OK
"#,
    );
    let pattern = |kind, text: &str| Pattern { kind, text: text.as_bytes().to_vec() };
    let mut options = Options {
        patterns: vec![pattern(PatternKind::Wild, "*.o"), pattern(PatternKind::WildDir, "*/tmp")],
        ..Options::default()
    };
    options.set(bit::EXCLUDE, true);
    let rules = LineRules {
        include: Include { options: vec![options], ..Include::default() },
        excludes: vec![Exclude { files: vec![b"/gone".to_vec()] }],
    };
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.rules = vec![Some(rules)];
    Host::start(job).backup().good();
    assert_eq!(lines(&plugin, &["accept"])[0], "accept 7 0 7 7 0 7");
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
fn an_open_that_answers_neither_ok_nor_error_counts_by_its_status() {
    let plugin = plugin(
        "old = plugin_io\ndef plugin_io(iop):\n  old(iop)\n  iop.status = 7 if iop.func == IO_OPEN else iop.status",
    );
    assert_eq!(run(&plugin).good().saved[0].data, b"data");
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

// ---- direct input and output

#[test]
fn a_descriptor_that_is_not_open_is_a_read_error() {
    let plugin = plugin("def plugin_io(iop): out('io', iop.func); iop.status = 1; iop.filedes = 999; return bRC_OK");
    let outcome = run(&plugin);
    assert!(outcome.said(4, "Read error on file /f. ERR=Bad file descriptor"), "{outcome:#?}");
    assert_eq!(lines(&plugin, &["io"]), ["io 1", "io 4"]);
}

// ---- restore

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
