//! Numbers that the reference marks as measured with Bareos itself ([M]): here they come out of the real worker, the same to
//! the last digit. What a line of the checklist shows completely stands in `conformance.rs`.
#![allow(clippy::unwrap_used)]

mod common;

use backstay_bareos_protocol::{Created, Task};
use common::chain::Chain;
use common::files::{self, known};
use common::objects::{lines, one_file, plugin, run};
use common::{FLAGS_LINKS, Host, backup, restore, spec};

/// 1.2: the table of definitions. Column by column: what follows the module's name, and the options that Python sees.
#[test]
fn the_table_of_option_strings_holds() {
    for (options, seen) in [
        (":option=value", "option=value:"),
        ("", ""),
        (r":a=1:b=x\:y:c=", r"a=1:b=x\:y:c=:"),
        (":mycnf=my.cnf::dumpbinary=/b", "mycnf=my.cnf::dumpbinary=/b:"),
        (":option1 = value1", "option1 = value1:"),
    ] {
        let plugin = plugin("def load_bareos_plugin(t): out('load', t); return bRC_OK");
        backup(&format!("python3:module_path={}:module_name=plug{options}", plugin.folder.path().display())).good();
        assert_eq!(lines(&plugin, &["load"]), [format!("load {seen}")]);
    }
    for (definition, text) in [
        ("python3", "python3-fd: Illegal plugin definition python3\n"),
        ("python3:module_name=m:flag", "python3-fd: Illegal argument flag without value\n"),
    ] {
        assert_eq!(backup(definition).messages[0], (3, text.to_owned()));
    }
}

/// 0: `sys.argv`, and what the daemon's umask leaves of a plugin's own files and folders.
#[test]
fn argv_and_umask_are_those_of_the_daemon() {
    let plugin = plugin(
        "out('argv', sys.argv)\n\
         open(__file__ + '.made', 'w').close(); os.makedirs(__file__ + '.dir')\n\
         out('modes', oct(os.stat(__file__ + '.made').st_mode), oct(os.stat(__file__ + '.dir').st_mode))",
    );
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["argv", "modes"]), ["argv ['']", "modes 0o100640 0o40751"]);
}

/// 2.3: a FileSet without options.
#[test]
fn a_file_set_without_options_gives_these_flag_bytes() {
    let chain = Chain::new();
    let module = chain.world.path("plugin/chain.py");
    let source = std::fs::read_to_string(&module).unwrap();
    let source = source.replace("    line = next(", "    out('flags', packet.flags.hex(' '))\n    line = next(");
    std::fs::write(&module, source).unwrap();
    chain.backup("full", "file /a 1");
    assert_eq!(chain.lines("flags"), ["flags 00 c0 00 08 00"; 2]);
}

/// 4.8: bVarJobStatus and, where 4.12 and 2.1 say so, bVarType.
#[test]
fn the_status_of_the_job_has_these_letters() {
    let plugin = plugin(
        "RegisterEvents([2, 3, 4, 5, 6, 16])\n\
         def show(where): out('status', where, GetValue(bVarJobStatus))\n\
         show('load')\n\
         def parse_plugin_definition(t): show('parse'); state['objects'] = None; return bRC_OK\n\
         def handle_plugin_event(event): show(event); return bRC_OK\n\
         def restore_object_data(rop): show('object'); return bRC_OK\n\
         old_create = create_file\n\
         def create_file(rp):\n\
         \x20 if rp.ofname == '/bad': JobMessage(M_FATAL, 'no')\n\
         \x20 return old_create(rp)",
    );
    let shown = || lines(&plugin, &["status"]).iter().map(|line| line[7..].to_owned()).collect::<Vec<_>>();
    let mut saved = run(&plugin).good().saved;
    assert_eq!(shown(), ["load 67", "parse 67", "16 67", "3 66", "parse 82", "4 84", "2 84"]);
    let definition = plugin.definition("");
    let restored = |saved: &[common::Saved]| {
        plugin.forget_log();
        let mut job = spec(Task::Restore, Vec::new());
        job.where_prefix = Some(String::new());
        Host::start_after(job, &[], &[files::stored(&definition, 1, b"x")]).restore(&definition, saved, "")
    };
    restored(&saved).good();
    assert_eq!(shown(), ["load 67", "parse 67", "object 67", "5 82", "parse 82", "6 84", "2 84"]);
    saved[0].entry.name = b"/bad".to_vec();
    assert!(!restored(&saved).end().whole);
    assert_eq!(shown()[4..], ["parse 82", "6 102"]);
}

/// 4.8: how a backup of one file ends.
#[test]
fn backups_end_as_in_the_table() {
    // Whole is "Backup OK", with errors "Backup OK -- with warnings".
    let start = |rc: &str| format!("def start_backup_file(packet): return {rc}");
    for (source, whole, errors) in [
        (start("bRC_Error"), false, 1),
        (start("1 / 0"), false, 1),
        ("def objects(): JobMessage(M_FATAL, 'x'); yield '/f', FT_REG, {}, b''".to_owned(), false, 1),
        (start("bRC_More"), true, 1),
        ("def end_backup_file(): return bRC_Error".to_owned(), true, 0),
        ("def objects(): JobMessage(M_WARNING, 'x'); yield '/f', FT_REG, {}, b''".to_owned(), true, 0),
        ("def objects(): JobMessage(M_ERROR, 'x'); yield '/f', FT_REG, {}, b''".to_owned(), true, 1),
        ("def parse_plugin_definition(t): JobMessage(M_FATAL, 'x'); return bRC_OK".to_owned(), false, 1),
    ] {
        let plugin = plugin(&source);
        let outcome = run(&plugin);
        assert_eq!((outcome.end().whole, outcome.end().errors), (whole, errors), "{source}: {outcome:#?}");
    }
    // A fatal message while the file set is told ends the job before it starts: nobody hears of its end.
    let plugin =
        plugin("RegisterEvents([3, 4])\ndef parse_plugin_definition(t): JobMessage(M_FATAL, 'x'); return bRC_OK");
    run(&plugin);
    assert!(lines(&plugin, &["event", "start"]).is_empty());
}

/// 4.8: how a restore ends.
#[test]
fn restores_end_as_in_the_table() {
    for (source, created, whole, errors) in [
        ("def create_file(rp): return bRC_OK", Created::Failed, true, 1),
        ("def create_file(rp): rp.create_status = CF_SKIP; return bRC_OK", Created::Skip, true, 0),
        ("def start_restore_file(cmd): return bRC_Error", Created::Failed, false, 1),
        ("def end_restore_file(): JobMessage(M_ERROR, 'x'); return bRC_OK", Created::Ring, true, 1),
    ] {
        let plugin = plugin(source);
        let saved = one_file(&plugin);
        let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path());
        assert_eq!(
            (outcome.created[0], outcome.end().whole, outcome.end().errors),
            (created, whole, errors),
            "{source}"
        );
    }
}

/// 4.10: an unchanged tree in which one folder changed.
#[test]
fn an_incremental_of_an_unchanged_tree_asks_for_nothing() {
    let plugin = files::plugin(
        "def files():\n\
         \x20 yield '/d/a', FT_REG, {}\n\
         \x20 yield '/d/b', FT_REG, {}\n\
         \x20 yield '/d', FT_DIREND, dict(link='/d/', st_mtime=3000)",
    );
    let outcome = Host::start_after(files::job(&plugin, 'I'), &["/d/a", "/d/b", "/d/"].map(known), &[]).backup().good();
    assert_eq!((outcome.saved.len(), outcome.unchanged.len()), (1, 2));
    let calls = ["start", "end", "io", "get_acl", "get_xattr"];
    assert_eq!(
        lines(&plugin, &calls),
        [
            "start /d/a",
            "end",
            "start /d/b",
            "end",
            "start /d",
            "io 1",
            "io 2",
            "io 2",
            "io 4",
            "get_acl /d",
            "get_xattr /d",
            "end"
        ]
    );
}

/// 4.11: bVarAccurateOptions.
#[test]
fn accurate_options_are_empty_and_then_these_three() {
    let plugin = plugin(
        "def parse_plugin_definition(t): state['objects'] = None; out('options', GetValue(bVarAccurateOptions) == frozenset({32, 128, 256}), GetValue(bVarAccurateOptions) == frozenset()); return bRC_OK",
    );
    run(&plugin).good();
    assert_eq!(lines(&plugin, &["options"]), ["options False True", "options True False"]);
}

/// 4.6: parent folders that the core makes.
#[test]
fn parent_folders_are_made_with_the_mode_of_the_daemon() {
    let plugin = plugin("def create_file(rp): rp.create_status = CF_CORE; return bRC_OK");
    let mut saved = one_file(&plugin);
    saved[0].entry.name = b"/deep/er/f".to_vec();
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    for name in ["deep", "deep/er"] {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(plugin.path(name)).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o751, "{name}");
    }
}

/// 4.7: where = `/` is no prefix.
#[test]
fn the_root_as_target_is_no_prefix() {
    let chain = Chain::new();
    chain.backup("full", "file /a 1\nfile @v/x 1\nhard /h /a");
    chain.restore_to("/", &["--overwrite", "always"]);
    assert_eq!(chain.lines("names"), ["names /a - '' None ''", "names @v/x - '' None ''", "names /h /a '' None ''"]);
}

/// 4.12: an estimate's job.
#[test]
fn an_estimate_is_a_job_of_the_console() {
    let chain = Chain::new();
    let module = chain.world.path("plugin/chain.py");
    let source = std::fs::read_to_string(&module).unwrap();
    let source = source.replace(
        "out('since',",
        "out('job', GetValue(bVarJobId), GetValue(bVarType), GetValue(bVarJobName)); out('since',",
    );
    std::fs::write(&module, source).unwrap();
    chain.estimate(&[], "file /a 1");
    let job = chain.lines("job").remove(0);
    let name = job.strip_prefix("job 0 73 -Console-.").unwrap_or_else(|| panic!("{job}"));
    // A date, a time, a number.
    let shape: String = name.chars().map(|letter| if letter.is_ascii_digit() { '9' } else { letter }).collect();
    assert!(shape.starts_with("9999-99-99_99.99.99_99"), "{name}");
}

/// 3.9: attributes byte for byte. (The original appends a NUL to an access control list; nobody relies on it.)
#[test]
fn attributes_come_back_byte_for_byte() {
    let plugin = plugin(
        "everything = bytes(range(256))\n\
         def get_acl(acl): acl.content = bytearray(b'acl\\0x'); return bRC_OK\n\
         def get_xattr(x): x.name = bytearray(everything); x.value = bytearray(everything); return bRC_OK\n\
         def set_acl(acl): out('acl', acl.content == b'acl\\0x', type(acl.content).__name__); return bRC_OK\n\
         def set_xattr(x): out('xattr', x.name == everything, x.value == everything, type(x.value).__name__); return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    assert_eq!(lines(&plugin, &["acl", "xattr"]), ["acl True bytearray", "xattr True True bytearray"]);
}

/// 6.4: HardLinks = yes.
#[test]
fn a_second_name_is_asked_for_attributes_and_does_not_get_them_back() {
    let plugin = plugin(
        "def objects():\n  for name in '/a', '/b': yield name, FT_REG, dict(st_nlink=2, st_ino=5, st_dev=1), b'data'\n\
         old = get_acl\n\
         def get_acl(acl): acl.content = bytearray(b'acl'); return old(acl)\n\
         def create_file(rp):\n\
         \x20 out('create', rp.type, rp.linkFI, rp.olname)\n\
         \x20 rp.create_status = CF_EXTRACT if rp.type == FT_REG else CF_CREATED; return bRC_OK",
    );
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.flags = vec![FLAGS_LINKS];
    let saved = Host::start(job).backup().good().saved;
    let calls = ["start", "io", "get_acl", "get_xattr"];
    let second = ["start /b", "get_acl /b", "get_xattr /b"];
    let log = lines(&plugin, &calls);
    assert_eq!(log[log.len() - 3..], second);
    plugin.forget_log();
    restore(&plugin.definition(""), &saved, std::path::Path::new("/x")).good();
    assert_eq!(lines(&plugin, &["create", "set_acl"]), ["create 3 0 ", "set_acl /x/a b'acl'", "create 1 1 /x/a"]);
}

/// 5.5: a file of 786508 bytes: 262136 of data, two blocks of zeros, 100 of data.
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
