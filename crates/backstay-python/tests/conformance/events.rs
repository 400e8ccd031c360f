//! Lines 73 to 78: events, cancel, estimate, option plugins.

use backstay_bareos_protocol::{Handled, JobSpec, StatFields, Task, ToWorker};

use crate::common::chain::Chain;
use crate::common::files::{self, job, known, names, stored};
use crate::common::objects::{failed, lines, one_file, plugin, run};
use crate::common::{Host, Plugin, spec};

#[test]
fn item_73_events_that_are_not_registered_never_arrive() {
    let plugin = plugin("RegisterEvents([3, 4])\nUnRegisterEvents((4,))");
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["event"]), ["event 3"]);
    // The commands are registered by themselves, and can be given back: then nobody parses again.
    let plugin = self::plugin(
        "def parse_plugin_definition(t): out('parse'); state['objects'] = None; return bRC_OK\nUnRegisterEvents([9])",
    );
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["parse", "event"]), ["parse"]);
    // What is registered arrives if it is generated: nothing of the kind that only Windows has.
    let plugin = self::plugin("RegisterEvents(range(1, 32))");
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["event"]), ["event 16", "event 3", "event 4", "event 2"]);
}

#[test]
fn item_74_the_job_has_no_type_until_it_starts() {
    let plugin = plugin(
        "RegisterEvents([3, 5, 16])\n\
         def show(where): out('type', where, chr(GetValue(bVarType)))\n\
         show('import')\n\
         def parse_plugin_definition(t): show('parse'); state['objects'] = None; return bRC_OK\n\
         def handle_plugin_event(event): show(event); return bRC_OK\n\
         def restore_object_data(rop): show('object'); return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    let types = ["import I", "parse I", "16 I", "3 B", "parse B"].map(|line| format!("type {line}"));
    assert_eq!(lines(&plugin, &["type"]), types);
    plugin.forget_log();
    let definition = plugin.definition("");
    let mut job = spec(Task::Restore, Vec::new());
    job.where_prefix = Some(String::new());
    Host::start_after(job, &[], &[stored(&definition, 1, b"x")]).restore(&definition, &saved, "").good();
    let types = ["import I", "parse I", "object I", "5 R", "parse R"].map(|line| format!("type {line}"));
    assert_eq!(lines(&plugin, &["type"]), types);
}

#[test]
fn item_75_the_end_of_the_backup_is_told_after_a_failure_too_and_the_end_of_the_job_is_not() {
    let events = "RegisterEvents([2, 4])\ndef handle_plugin_event(event): out('event', event, chr(GetValue(bVarJobStatus))); return bRC_OK\n";
    for (source, event) in [
        ("def start_backup_file(p): return bRC_Error", "event 4 f"),
        ("def objects(): JobMessage(M_FATAL, 'no'); yield '/f', FT_REG, {}, b''", "event 4 f"),
        ("def end_backup_file(): raise ValueError('no')", "event 4 f"),
        ("def plugin_io(iop): raise ValueError('no')", "event 4 f"),
    ] {
        let plugin = plugin(&format!("{events}{source}"));
        assert!(!run(&plugin).end().whole);
        assert_eq!(lines(&plugin, &["event"]), [event], "{source}");
    }
    // After a cancel too: item 76. A good job hears of both.
    let plugin = plugin(events);
    one_file(&plugin);
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["event"]), ["event 4 T", "event 2 T"]);
}

#[test]
fn item_76_a_cancel_reaches_a_blocked_callback_and_the_closing_callbacks_follow() {
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
    // The job is cancelled only when the handler has come back, however long that takes.
    let plugin = self::plugin(
        "import time\nRegisterEvents([4, 14])\n\
         def handle_plugin_event(event):\n\
         \x20 if event == 14: time.sleep(1); out('handled', chr(GetValue(bVarJobStatus)))\n\
         \x20 return bRC_OK\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 old(iop)\n\
         \x20 if iop.func == IO_READ:\n\
         \x20   out('blocked')\n\
         \x20   try: time.sleep(600)\n\
         \x20   finally: out('interrupted')\n\
         \x20 return bRC_OK",
    );
    let mut host = Host::start(spec(Task::Backup, vec![plugin.definition("")]));
    while !plugin.log().contains(&"blocked".to_owned()) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    host.send(&ToWorker::Cancel);
    assert_eq!(failed(&host.backup()), "the job was cancelled");
    assert_eq!(lines(&plugin, &["handled", "interrupted"]), ["handled R", "interrupted"]);
}

#[test]
fn item_77_an_estimate_starts_and_ends_files_and_reads_nothing() {
    let plugin = files::plugin(
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
    // Through the program: what is deleted or left out is no part of it, and the files are counted.
    let chain = Chain::new();
    chain.backup("full", "file /a 1\nfile /b 1");
    let said = chain.estimate(&["--level", "incremental"], "gone /a -\nold /b 1\nobject o 1\nfile /c 1\nlink /l c");
    assert!(said.contains("2 entries"), "{said}");
}

/// A job with one option plugin and no plugin line.
fn option_job(plugin: &Plugin, level: char) -> JobSpec {
    JobSpec { option_lines: 1, ..job(plugin, level) }
}

fn stat(mode: u16, size: u64) -> StatFields {
    StatFields { mode, size, nlink: 1, mtime: 1000, ctime: 1000, ..StatFields::default() }
}

#[test]
fn item_78_an_option_plugin_is_asked_about_every_file() {
    let plugin = files::plugin(
        "RegisterEvents([3, 4, 16, 19])\n\
         def handle_backup_file(packet):\n\
         \x20 out('file', packet.fname, packet.link, packet.type, packet.statp.st_size, packet.portable, packet.flags.hex())\n\
         \x20 packet.fname, packet.type, packet.no_read = 'ignored', FT_DELETED, True\n\
         \x20 if packet.link.endswith('.flags'): packet.flags = 7\n\
         \x20 answers = dict(skip=bRC_Skip, core=bRC_Core, seen=bRC_Seen, stop=bRC_Stop, more=bRC_More)\n\
         \x20 return answers.get(packet.link.split('.')[-1], bRC_OK)",
    );
    let mut host = Host::start(option_job(&plugin, 'F'));
    let file = |host: &mut Host, name: &str| host.offer(3, name, stat(0o100_644, 4));
    assert_eq!(file(&mut host, "/d/a"), None);
    assert_eq!(file(&mut host, "/d/a.skip"), Some(Handled::Skip));
    assert_eq!(file(&mut host, "/d/a.core"), Some(Handled::Core));
    for other in ["/d/a.seen", "/d/a.stop", "/d/a.more"] {
        assert!(matches!(file(&mut host, other), Some(Handled::Failed(_))), "{other}");
    }
    // What has no data is taken over without a read; a directory comes after what is in it.
    assert_eq!(host.offer(2, "/d/empty", stat(0o100_644, 0)), None);
    assert_eq!(host.offer(4, "/d/link", stat(0o120_777, 1)), None);
    assert_eq!(host.offer(6, "/d/pipe", stat(0o010_644, 0)), None);
    assert_eq!(host.offer(5, "/d", stat(0o040_755, 0)), None);
    host.send(&ToWorker::EndFiles);
    let outcome = host.backup().good();
    assert_eq!(names(&outcome.saved), ["/d/a", "/d/empty", "/d/link", "/d/pipe", "/d/"]);
    assert_eq!(outcome.saved.iter().map(|one| one.data.len()).collect::<Vec<_>>(), [4, 0, 0, 0, 0]);
    assert_eq!((outcome.announced, outcome.saved[4].entry.file_type), (0, 5));
    let log = plugin.log();
    assert_eq!(
        log[..6],
        ["load ", "parse ", "event 16", "event 3", "file /d/a /d/a 3 4 True 00c0000800", "io 1"],
        "no second look at the definition, and no start_backup_file"
    );
    assert_eq!(lines(&plugin, &["io"]), ["io 1", "io 2", "io 2", "io 4"]);
    assert_eq!(lines(&plugin, &["start", "end"]), Vec::<String>::new());
    assert_eq!(
        lines(&plugin, &["get_acl", "get_xattr"]),
        [
            "get_acl /d/a",
            "get_xattr /d/a",
            "get_acl /d/empty",
            "get_xattr /d/empty",
            "get_xattr /d/link",
            "get_acl /d/pipe",
            "get_xattr /d/pipe",
            "get_acl /d",
            "get_xattr /d"
        ]
    );
    assert_eq!(log.last().unwrap(), "event 4");

    // An exception ends the job, as everywhere; so does a packet that cannot be read back.
    let raises = files::plugin("def handle_backup_file(packet): raise ValueError('no')\nRegisterEvents([19])");
    for (broken, name) in [(&raises, "/x"), (&plugin, "/x.flags")] {
        let mut host = Host::start(option_job(broken, 'F'));
        assert!(matches!(host.offer(3, name, stat(0o100_644, 4)), Some(Handled::Failed(_))));
        assert!(!host.backup().end().whole);
    }
    // Whoever did not register the event has no say.
    let silent = files::plugin("def handle_backup_file(packet): out('asked'); return bRC_OK");
    let mut host = Host::start(option_job(&silent, 'F'));
    assert_eq!(host.offer(3, "/x", stat(0o100_644, 4)), Some(Handled::Core));
    host.send(&ToWorker::EndFiles);
    host.backup().good();
    assert!(lines(&silent, &["asked"]).is_empty());
    // What did not change since the reference job is not offered; what that job has not is.
    let mut host = Host::start_after(option_job(&plugin, 'I'), &[known("/d/a")], &[]);
    assert_eq!(host.offer(3, "/d/a", stat(0o100_644, 4)), Some(Handled::Unchanged));
    assert_eq!(host.offer(3, "/d/b", stat(0o100_644, 4)), None);
    assert_eq!(host.offer(3, "/d/a", StatFields { mtime: 3000, ..stat(0o100_644, 4) }), None);
    host.send(&ToWorker::EndFiles);
    host.backup().good();
}
