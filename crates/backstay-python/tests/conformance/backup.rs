//! Lines 29 to 45: backups.

use std::path::Path;

use backstay_bareos_protocol::Task;

use crate::common::files::{self, known};
use crate::common::objects::{failed, lines, plugin, run};
use crate::common::{FLAGS_LINKS, Host, backup, probe_definition, restore, spec};

#[test]
fn item_29_the_reference_trace_of_a_minimal_backup_and_restore_holds() {
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
fn item_30_the_save_packet_arrives_as_the_reference_says() {
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
fn item_31_answers_of_start_backup_file_do_what_the_table_says() {
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
fn item_32_a_packet_without_a_type_is_fatal() {
    let plugin = plugin("def objects(): yield '/f', 0, {}, b''");
    let outcome = run(&plugin);
    assert!(outcome.said(3, "no type in startBackupFile packet."), "{outcome:#?}");
    assert_eq!((outcome.end().announced, outcome.not_saved.len(), outcome.end().whole), (1, 1, false));
    assert_eq!(lines(&plugin, &["end"]).len(), 0);
}

#[test]
fn item_33_bad_packets_are_fatal_with_the_text_of_the_original() {
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

/// A file whose IO_OPEN does this to the packet is announced and nothing else: no IO_CLOSE, no attributes.
pub(super) fn open_fails(open: &str, cause: &str) {
    let plugin = plugin(&format!(
        "old = plugin_io\ndef plugin_io(iop):\n  old(iop)\n  if iop.func == IO_OPEN: {open}\n  return bRC_OK"
    ));
    let outcome = run(&plugin);
    assert_eq!(lines(&plugin, &["start", "io", "get_acl", "end"]), ["start /f", "io 1", "end"], "{open}");
    assert!(outcome.said(8, &format!("     Cannot open \"/f\": ERR={cause}.\n")), "{outcome:#?}");
    assert!(outcome.end().whole && outcome.end().errors == 1);
    assert!(outcome.saved[0].result.is_err());
}

#[test]
fn item_34_every_type_is_opened_read_and_closed_unless_no_read() {
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
    // Nothing was opened, so nothing is closed.
    for (open, cause) in [
        ("iop.io_errno = 2; return bRC_Error", "No such file or directory"),
        ("iop.io_errno = 13; iop.status = -1; return bRC_OK", "Permission denied"),
    ] {
        open_fails(open, cause);
    }
}

#[test]
fn item_35_reads_ask_for_whole_blocks_until_the_status_is_0() {
    for (sparse, count) in [(false, 262_144), (true, 262_136)] {
        let plugin = plugin(&format!(
            "def objects():\n\
             \x20 flags = bytearray(5); flags[0] = {}\n\
             \x20 state['pieces'] = [300000, 1, 70000, 262144, 5]\n\
             \x20 yield '/f', FT_REG, dict(flags=flags, st_size=3), b''\n\
             def plugin_io(iop):\n\
             \x20 if iop.func == IO_READ:\n\
             \x20   out('read', iop.count, iop.buf, iop.fname, iop.status, iop.filedes)\n\
             \x20   length = min(state['pieces'].pop(0), iop.count) if state['pieces'] else 0\n\
             \x20   iop.buf = bytes([length % 251]) * length; iop.status = length\n\
             \x20 return bRC_OK",
            if sparse { "1 << 5" } else { "0" }
        ));
        let outcome = run(&plugin).good();
        // No short request at the end, whatever st_size says.
        assert_eq!(lines(&plugin, &["read"]), vec![format!("read {count} None None 0 0"); 6]);
        let data = &outcome.saved[0].data;
        assert_eq!(data.len(), count + 1 + 70_000 + count.min(262_144) + 5);
        assert_eq!(data[data.len() - 5..], [5; 5]);
    }
}

/// A read that does this at the end of the data is an error of its file: the job goes on, the file is closed and asked
/// for its attributes.
fn read_fails(read: &str, cause: &str) {
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

#[test]
fn item_36_buffers_are_bytes_no_longer_than_asked_for() {
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
    for (read, cause) in [
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
        read_fails(read, cause);
    }
}

#[test]
fn item_37_a_read_error_keeps_the_job_and_closes_and_asks_for_attributes() {
    read_fails("iop.status = -1; iop.io_errno = 5", "Input/output error");
    read_fails("iop.status = -1; iop.io_errno = 28; return bRC_Error", "No space left on device");
}

#[test]
fn item_38_interrupted_reads_are_repeated_five_times() {
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
fn item_39_access_control_lists_and_attributes_are_asked_for_unless_switched_off() {
    let source = "state['count'] = 0\n\
         def objects():\n  yield '/f', FT_REG, {}, None\n  yield '/l', FT_LNK, dict(link='f'), None\n\
         def get_xattr(x):\n\
         \x20 out('get_xattr', x.fname, x.name, x.value); state['count'] += 1\n\
         \x20 x.name = bytearray(b'n%d' % state['count']); x.value = bytearray(b'v'); return bRC_OK if state['count'] % 3 == 0 else bRC_More";
    let loops = |name: &str| vec![format!("get_xattr {name} None None"); 3];
    for (flags, expected) in [
        ([0, 0xc0, 0, 8, 0], [vec!["get_acl /f".to_owned()], loops("/f"), loops("/l")].concat()),
        ([0, 0xc0, 0, 0, 0], vec!["get_acl /f".to_owned()]),
        ([0, 0x80, 0, 8, 0], [loops("/f"), loops("/l")].concat()),
        ([0, 0x80, 0, 0, 0], vec![]),
    ] {
        let plugin = plugin(source);
        let mut job = spec(Task::Backup, vec![plugin.definition("")]);
        job.flags = vec![flags];
        let outcome = Host::start(job).backup().good();
        assert_eq!(lines(&plugin, &["get_acl", "get_xattr"]), expected, "{flags:?}");
        assert_eq!(outcome.saved[0].xattrs.len(), if flags[3] == 8 { 3 } else { 0 });
    }
}

#[test]
fn item_40_a_directory_is_stored_under_its_link() {
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
fn item_41_end_backup_file_follows_every_good_start_and_says_how_to_go_on() {
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
    // Also after what is not saved, could not be opened, is unchanged, or is no file at all.
    let plugin = files::plugin(
        "def files():\n\
         \x20 yield '/old', FT_REG, {}\n\
         \x20 yield '/closed', FT_REG, dict(st_mtime=3000)\n\
         \x20 yield '/o', FT_RESTORE_FIRST, dict(object_name='o', object=bytearray(b'x'), object_len=1, st_mtime=3000)\n\
         \x20 yield '/gone', FT_DELETED, {}\n\
         \x20 yield '/sock', FT_NOACCESS, {}\n\
         \x20 yield '/99', 99, {}\n\
         def plugin_io(iop): return bRC_Error",
    );
    let outcome = Host::start_after(files::job(&plugin, 'I'), &[known("/old"), known("/gone")], &[]).backup();
    assert!(outcome.end().whole, "{outcome:#?}");
    let names = ["/old", "/closed", "/o", "/gone", "/sock", "/99"];
    let calls: Vec<_> = names.iter().flat_map(|name| [format!("start {name}"), "end".to_owned()]).collect();
    assert_eq!(lines(&plugin, &["start", "end"]), calls);
}

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
fn item_42_exceptions_and_fatal_messages_fail_the_job_and_others_do_not() {
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
    for (message, whole, errors, warnings) in [
        ("M_FATAL", false, 1, 0),
        ("M_ABORT", false, 1, 0),
        ("M_ERROR_TERM", false, 1, 0),
        ("M_ERROR", true, 1, 0),
        ("M_WARNING", true, 0, 1),
        ("M_INFO", true, 0, 0),
        ("M_TERM", true, 0, 0),
        ("M_NOTSAVED", true, 0, 0),
    ] {
        let plugin =
            plugin(&format!("def objects():\n  JobMessage({message}, 'said\\n')\n  yield '/f', FT_REG, {{}}, b''"));
        let outcome = run(&plugin);
        let end = outcome.end();
        assert_eq!((end.whole, end.errors, end.warnings), (whole, errors, warnings), "{message}");
        if !whole {
            assert_eq!(failed(&outcome), "python3-fd-mod: said");
        }
    }
}

#[test]
fn item_43_names_of_all_kinds_are_stored_and_restored() {
    let plugin = plugin(
        "names = ['@v/x', '@a:b', ' blank ', 'äöü ☃ 😀', 'new\\nline', 'back\\\\slash', 'a', '/', 'x' * 3000]\n\
         def objects():\n  for name in names: yield name, FT_LNK, dict(link=name), b''\n\
         def create_file(rp):\n\
         \x20 at = state['at'] = state.get('at', -1) + 1\n\
         \x20 out('same', rp.original_file_name == names[at], rp.original_link_name == names[at], rp.ofname == names[at])\n\
         \x20 rp.create_status = CF_SKIP; return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    assert_eq!(saved[3].entry.name, "äöü ☃ 😀".as_bytes());
    restore(&plugin.definition(""), &saved, Path::new("")).good();
    assert_eq!(lines(&plugin, &["same"]), vec!["same True True True"; 9]);
}

#[test]
fn item_44_nodes_and_links_come_back_as_they_were() {
    let plugin = plugin(
        "def objects():\n\
         \x20 yield '/null', FT_SPEC, dict(st_mode=0o020666, st_rdev=0x103, st_uid=7), None\n\
         \x20 yield '/fifo', FT_FIFO, dict(st_mode=0o010600, st_gid=8), None\n\
         \x20 yield '/link', FT_LNK, dict(st_mode=0o120777, link='../target of all'), None\n\
         \x20 yield '/second', FT_LNKSAVED, dict(st_nlink=2, link='/first', st_ino=9), None\n\
         def create_file(rp):\n\
         \x20 s = rp.statp\n\
         \x20 out('back', rp.type, rp.ofname, rp.original_link_name, oct(s.st_mode), s.st_rdev, s.st_uid, s.st_gid, s.st_nlink, s.st_ino)\n\
         \x20 rp.create_status = CF_SKIP; return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    assert!(lines(&plugin, &["io"]).is_empty());
    restore(&plugin.definition(""), &saved, Path::new("")).good();
    assert_eq!(
        lines(&plugin, &["back"]),
        [
            "back 6 /null  0o20666 259 7 0 1 0",
            "back 17 /fifo  0o10600 0 0 8 1 0",
            "back 4 /link ../target of all 0o120777 0 0 0 1 0",
            "back 1 /second /first 0o100644 0 0 0 2 9",
        ]
    );
}

#[test]
fn item_45_hard_links_are_read_twice_by_default_and_linked_if_wanted() {
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
    // Back, the second name says which file has the data.
    let source = std::fs::read_to_string(plugin.path("plug.py")).unwrap();
    let create = "def create_file(rp): out('back', rp.type, rp.ofname, rp.olname, rp.file_index, rp.linkFI); rp.create_status = CF_SKIP; return bRC_OK";
    std::fs::write(plugin.path("plug.py"), format!("{source}\n{create}")).unwrap();
    restore(&plugin.definition(""), &saved, Path::new("/x")).good();
    assert_eq!(lines(&plugin, &["back"])[..2], ["back 3 /x/a  1 0", "back 1 /x/b /x/a 2 1"]);
}
