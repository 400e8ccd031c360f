//! `--fileset`: a FileSet of Bareos' configuration selects as Bareos does (reference 6.5, 12.4).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::common::{World, fails_with, stderr, stdout};

impl World {
    /// Writes a FileSet with these blocks; `@` in them is this world's folder. Gives the file's name.
    fn file_set(&self, blocks: &str) -> String {
        let folder = self.shown("");
        let blocks = blocks.replace('@', folder.trim_end_matches('/'));
        self.write("set.conf", format!("FileSet {{\n  Name = \"test\"\n{blocks}\n}}\n"));
        self.shown("set.conf")
    }

    /// Backs up a FileSet with these blocks, and gives the names in the snapshot below this world's folder.
    fn saved(&self, blocks: &str) -> BTreeSet<String> {
        let file = self.file_set(blocks);
        let id = self.backup(["--fileset", &file]);
        let prefix = self.shown("");
        self.lines(["ls", &id]).iter().filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect()
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A tree with something for every kind of pattern.
fn world() -> World {
    let world = World::new();
    for file in ["d/a.o", "d/a.c", "d/keep.o", "d/tmp/x", "d/sub/b.o", "d/sub/tmp/y", "d/Big.ISO"] {
        world.write(file, file);
    }
    world
}

#[test]
fn files_alone_are_saved_whole() {
    let world = world();
    let all = names([
        "d",
        "d/Big.ISO",
        "d/a.c",
        "d/a.o",
        "d/keep.o",
        "d/sub",
        "d/sub/b.o",
        "d/sub/tmp",
        "d/sub/tmp/y",
        "d/tmp",
        "d/tmp/x",
    ]);
    assert_eq!(world.saved("Include { File = @/d }"), all);
    let snapshot = &world.objects(["snapshots"])[0];
    assert_eq!(snapshot["paths"], serde_json::json!([world.shown("d")]));
    world.restic(["check", "--read-data"]).assert().success();
}

#[test]
fn each_kind_of_pattern_leaves_out_what_the_contract_says() {
    let world = world();
    let all = world.saved("Include { File = @/d }");
    for (pattern, gone) in [
        // A star crosses slashes, and whole names are compared.
        ("Wild = \"*.o\"", vec!["d/a.o", "d/keep.o", "d/sub/b.o"]),
        ("Wild = \"@/d/*/tmp\"", vec!["d/sub/tmp", "d/sub/tmp/y"]),
        ("Wild = \"a.o\"", vec![]),
        ("Wild = \"*/tmp\"", vec!["d/tmp", "d/tmp/x", "d/sub/tmp", "d/sub/tmp/y"]),
        ("WildDir = \"*/tmp\"", vec!["d/tmp", "d/tmp/x", "d/sub/tmp", "d/sub/tmp/y"]),
        ("WildFile = \"*/tmp\"", vec![]),
        ("WildDir = \"*.o\"", vec![]),
        ("WildFile = \"*/?.[oc]\"", vec!["d/a.o", "d/a.c", "d/sub/b.o"]),
        ("WildBase = \"a.*\"", vec!["d/a.o", "d/a.c"]),
        ("WildBase = \"tmp\"", vec![]),
        ("Regex = \"/d/[^/]*\\\\.o$\"", vec!["d/a.o", "d/keep.o"]),
        ("RegexFile = \"(a|b)\\\\.[co]$\"", vec!["d/a.o", "d/a.c", "d/sub/b.o"]),
        ("RegexDir = \"sub\"", vec!["d/sub", "d/sub/b.o", "d/sub/tmp", "d/sub/tmp/y"]),
        ("RegexDir = \"\\\\.o\"", vec![]),
        ("IgnoreCase = yes; Wild = \"*.iso\"", vec!["d/Big.ISO"]),
        ("Wild = \"*.iso\"", vec![]),
        ("IgnoreCase = yes; Regex = \"big\"", vec!["d/Big.ISO"]),
        ("Enhanced Wild = yes; Wild = \"@/*.o\"", vec![]),
        ("Enhanced Wild = yes; Wild = \"@/d/*.o\"", vec!["d/a.o", "d/keep.o"]),
    ] {
        let saved = world.saved(&format!("Include {{ Options {{ {pattern}\n Exclude = yes }} File = @/d }}"));
        let left: BTreeSet<String> = all.iter().filter(|name| !gone.contains(&name.as_str())).cloned().collect();
        assert_eq!(saved, left, "{pattern}");
    }
}

#[test]
fn the_first_block_that_matches_decides() {
    let world = world();
    let saved = world.saved(
        "Include {
           Options { WildFile = \"*/keep.o\" }
           Options { WildFile = \"*.o\"; WildDir = \"*/tmp\"; Exclude = yes }
           File = @/d
         }",
    );
    assert_eq!(saved, names(["d", "d/Big.ISO", "d/a.c", "d/keep.o", "d/sub"]));
    // Only what is named: everything else meets a block that excludes without a pattern.
    let saved =
        world.saved("Include { Options { WildDir = \"*\"; Wild = \"*.c\" } Options { Exclude = yes } File = @/d }");
    assert_eq!(saved, names(["d", "d/a.c", "d/sub", "d/sub/tmp", "d/tmp"]));
}

#[test]
fn excluded_names_are_wildcards_and_a_block_that_accepts_goes_before_them() {
    let world = world();
    let saved = world.saved(
        "Include { Options { WildFile = \"*/keep.o\" } File = @/d } Exclude { File = @/d/tmp; File = *.o; File = \"@/*/tmp\" }",
    );
    assert_eq!(saved, names(["d", "d/Big.ISO", "d/a.c", "d/keep.o", "d/sub"]));
}

#[test]
fn includes_have_rules_of_their_own_and_a_root_is_reached_wherever_it_lies() {
    let world = world();
    let saved = world.saved(
        "Include { Options { Wild = \"*.o\"; WildDir = \"*/sub\"; Exclude = yes } File = @/d }
         Include { Options { Wild = \"*/y\"; Exclude = yes } File = @/d/sub/tmp; File = @/d/sub/b.o }",
    );
    // d/sub is there as the way to the roots in it.
    assert_eq!(saved, names(["d", "d/Big.ISO", "d/a.c", "d/sub", "d/sub/b.o", "d/sub/tmp", "d/tmp", "d/tmp/x"]));
    // What one Include leaves out and another selects is saved.
    let saved = world.saved(
        "Include { Options { Wild = \"*.o\"; Exclude = yes } File = @/d }
         Include { Options { Wild = \"*/tmp\"; Exclude = yes } File = @/d/sub/ }",
    );
    assert!(saved.contains("d/sub/b.o") && saved.contains("d/sub/tmp/y") && !saved.contains("d/a.o"), "{saved:?}");
}

#[test]
fn a_folder_is_kept_empty_or_left_out_as_its_options_say() {
    let world = world();
    let saved = world.saved("Include { Options { Recurse = no } File = @/d }");
    assert_eq!(saved, names(["d", "d/Big.ISO", "d/a.c", "d/a.o", "d/keep.o", "d/sub", "d/tmp"]));
    world.write("d/sub/.nobackup", "");
    let saved = world.saved("Include { File = @/d; Exclude Dir Containing = .nobackup; ExcludeDirContaining = x }");
    assert_eq!(saved, names(["d", "d/Big.ISO", "d/a.c", "d/a.o", "d/keep.o"]));
}

#[test]
fn a_file_system_of_another_kind_is_not_walked() {
    let world = world();
    assert_eq!(world.saved("Include { Options { FsType = proc } File = @/d }"), names(["d"]));
    let file = world.file_set("Include { Options { FsType = proc; FsType = ext4 } File = /proc/sys/kernel/random }");
    let id = world.backup(["--fileset", &file]);
    assert!(world.lines(["ls", &id]).iter().any(|line| line == "/proc/sys/kernel/random/uuid"));
}

#[test]
fn files_with_the_nodump_attribute_are_left_out_where_that_was_asked_for() {
    let world = world();
    let set = std::process::Command::new("chattr").arg("+d").arg(world.path("d/a.c")).status();
    if !set.is_ok_and(|status| status.success()) {
        // This file system has no such attribute.
        return;
    }
    assert!(!world.saved("Include { Options { HonorNodumpFlag = yes } File = @/d }").contains("d/a.c"));
    assert!(world.saved("Include { File = @/d }").contains("d/a.c"));
}

#[test]
fn sizes_choose_among_regular_files() {
    let world = World::new();
    for (name, size) in [("d/0", 0), ("d/10", 10), ("d/2000", 2000), ("d/2010", 2010), ("d/2100", 2100)] {
        world.write(name, vec![b'x'; size]);
    }
    std::os::unix::fs::symlink("nowhere", world.path("d/link")).unwrap();
    for (size, expected) in [
        ("2000", vec!["d/2000", "d/2010"]),
        ("\"less 10\"", vec!["d/0"]),
        ("\"greater 2010\"", vec!["d/2100"]),
        ("10-2k", vec!["d/10", "d/2000", "d/2010"]),
    ] {
        let mut saved = world.saved(&format!("Include {{ Options {{ Size = {size} }} File = @/d }}"));
        assert!(saved.remove("d") && saved.remove("d/link"));
        assert_eq!(saved.into_iter().collect::<Vec<_>>(), expected, "{size}");
    }
}

#[test]
fn hard_links_and_attributes_are_kept_where_the_options_say_so() {
    let world = World::new();
    world.write("d/one", "contents");
    std::fs::hard_link(world.path("d/one"), world.path("d/two")).unwrap();
    let has = std::process::Command::new("setfattr")
        .args(["-n", "user.note", "-v", "x"])
        .arg(world.path("d/one"))
        .status()
        .is_ok_and(|status| status.success());
    for (options, links, attributes) in [
        ("", 1, true),
        ("HardLinks = yes", 2, true),
        ("HardLinks = no; XattrSupport = no", 1, false),
        ("HardLinks = yes; AclSupport = no; XattrSupport = no", 2, false),
    ] {
        let file = world.file_set(&format!("Include {{ Options {{ {options} }} File = @/d }}"));
        let id = world.backup(["--fileset", &file]);
        let target = world.shown(&format!("out-{links}-{attributes}-{}", options.len()));
        world.run(["restore", &id, "--target", &target]).success();
        let restored = format!("{target}{}", world.shown("d/one"));
        let found = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(&restored).unwrap());
        assert_eq!(found, links, "{options}");
        if has {
            let got = std::process::Command::new("getfattr").args(["-n", "user.note", &restored]).output().unwrap();
            assert_eq!(got.status.success(), attributes, "{options}");
        }
    }
}

#[test]
fn lists_of_files_and_commands_are_expanded() {
    let world = world();
    world.write("list", format!("{}\n\n", world.shown("d/a.c")));
    let saved = world.saved("Include { File = \"<@/list\"; File = \"\\\\|echo @/d/tmp\" }");
    assert_eq!(saved, names(["d", "d/a.c", "d/tmp", "d/tmp/x"]));
    let file = world.file_set("Include { File = \"|exit 3\" }");
    fails_with(world.command(["backup", "--fileset", &file]), 1, &["set.conf, line 3", "exit 3", "exit status: 3"]);
}

#[test]
fn one_of_several_file_sets_is_chosen_by_its_name() {
    let world = world();
    let text = |name: &str, path: &str| {
        format!("FileSet {{ Name = {name}; Include {{ File = \"{}\" }} }}\n", world.shown(path))
    };
    world.write("sets", text("one", "d/tmp") + &text("two", "d/sub"));
    fails_with(world.command(["backup", "--fileset", "sets"]), 1, &["\"one\", \"two\"", "--fileset-name"]);
    fails_with(
        world.command(["backup", "--fileset", "sets", "--fileset-name", "three"]),
        1,
        &["sets has no FileSet \"three\"", "\"one\", \"two\""],
    );
    let id = world.backup(["--fileset", "sets", "--fileset-name", "two"]);
    let lines = world.lines(["ls", &id]);
    assert!(lines.contains(&world.shown("d/sub/b.o")) && !lines.contains(&world.shown("d/tmp/x")), "{lines:?}");
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let world = world();
    for (blocks, words) in [
        ("Include { Options { Wlid = x } File = @/d }", &["set.conf, line 3", "is \"Wild\" meant?"][..]),
        ("Include { Options { StripPath = 1 } File = @/d }", &["line 3", "Strip Path is not supported"]),
        ("Include { Options { Regex = \"(\" } File = @/d }", &["line 3", "not closed by )"]),
        ("Include { Options { FsType = ext9 } File = @/d }", &["\"test\" cannot be used", "ext9"]),
        ("Include { }", &["neither a File nor a Plugin"]),
        ("Include { File = @/missing }", &["missing", "nothing to back up"]),
        ("Include { Plugin = \"bpipe:x=y\" }", &["bpipe", "python3:"]),
    ] {
        let file = world.file_set(blocks);
        fails_with(world.command(["backup", "--fileset", &file]), 1, words);
    }
    fails_with(world.command(["backup", "--fileset", "nowhere"]), 1, &["nowhere: it cannot be read"]);
    fails_with(world.command(["backup", "--fileset", "x", "path"]), 1, &["--fileset", "PATH"]);
    fails_with(world.command(["backup", "--fileset-name", "x", "path"]), 1, &["--fileset"]);
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn directives_that_change_nothing_are_told_once() {
    let world = world();
    let file = world.file_set(
        "Ignore FileSet Changes = yes
         Include { Options { Compression = GZIP; Signature = MD5; Sparse = yes } Options { Signature = MD5 } File = @/d }",
    );
    let assert = world.run(["-v", "backup", "--fileset", &file]).success();
    let text = stderr(assert.get_output());
    assert_eq!(text.matches("Compression, Signature changes nothing here").count(), 1, "{text}");
    let assert = world.run(["backup", "--fileset", &file]).success();
    assert!(!stderr(assert.get_output()).contains("changes nothing"));
}

#[test]
fn skipped_entries_name_the_rule() {
    let world = world();
    let file =
        world.file_set("Include { Options { Wild = *.o; Exclude = yes } File = @/d } Exclude { File = @/d/tmp }");
    let assert = world.run(["-vv", "backup", "--fileset", &file, "--exclude", "*.ISO"]).success();
    let text = stderr(assert.get_output());
    for rule in ["Wild = \"*.o\"", "Exclude File = \"", "--exclude"] {
        assert!(text.lines().any(|line| line.contains("skipped") && line.contains(rule)), "{rule}\n{text}");
    }
    assert!(stdout(assert.get_output()).contains("skipped"));
}

#[test]
fn unchanged_files_of_a_file_set_are_not_read_again() {
    let world = world();
    let file = world.file_set("Include { File = @/d }");
    world.backup(["--fileset", &file]);
    let summary = world.objects(["backup", "--fileset", &file]).pop().unwrap();
    assert_eq!((&summary["files_unmodified"], &summary["data_blobs"]), (&Value::from(7), &Value::from(0)));
}

#[test]
fn plugin_lines_get_the_bits_of_their_include_and_join_the_files() {
    let world = world();
    let program = Path::new(env!("CARGO_BIN_EXE_backstay")).with_file_name("backstay-python");
    assert!(program.exists(), "run \"cargo build -p backstay-python\" first: there is no {}", program.display());
    world.write(
        "plugins/shows_flags.py",
        "from bareosfd import *\n\
         state = {}\n\
         def load_bareos_plugin(text): return bRC_OK\n\
         def parse_plugin_definition(text): state['left'] = 1; state['name'] = text.split('=')[1].rstrip(':'); return bRC_OK\n\
         def handle_plugin_event(event): return bRC_OK\n\
         def start_backup_file(packet):\n\
         \x20 if not state['left']: return bRC_Stop\n\
         \x20 state['left'] = 0\n\
         \x20 packet.fname, packet.type, packet.statp = '@' + state['name'] + '/' + packet.flags.hex(), FT_REG, StatPacket()\n\
         \x20 packet.no_read = True\n\
         \x20 return bRC_OK\n\
         def end_backup_file(): return bRC_OK\n\
         def plugin_io(iop): return bRC_OK\n\
         def get_acl(acl): return bRC_OK\n\
         def get_xattr(xattr): return bRC_OK\n",
    );
    let plugin = |name: &str| format!("python3:module_path=@/plugins:module_name=shows_flags:name={name}");
    world.write("more", plugin("listed").replace('@', world.shown("").trim_end_matches('/')));
    let file = world.file_set(&format!(
        "Include {{ Options {{ Signature = XXH128 }} Options {{ Sparse = yes; AclSupport = no }}
           File = @/d/tmp\n Plugin = \"{}\" }}
         Include {{ Plugin = \"<@/more\" }}",
        plugin("own")
    ));
    let more = plugin("extra").replace('@', world.shown("").trim_end_matches('/'));
    let id = world.backup(["--fileset", &file, "--plugin", &more]);
    let lines = world.lines(["ls", &id]).join("\n");
    for name in ["@own/2080000800", "@listed/00c0000800", "@extra/00c0000800", "d/tmp/x"] {
        assert!(lines.contains(name), "{name}\n{lines}");
    }
}

/// An option plugin that takes over texts, in capitals; it leaves out temporary files and the rest to the core.
const CAPITALS: &str = "\
import os
from bareosfd import *
state = {}
def load_bareos_plugin(text): RegisterEvents([bEventHandleBackupFile]); return bRC_OK
def parse_plugin_definition(text): return bRC_OK
def handle_plugin_event(event): return bRC_OK
def handle_backup_file(packet):
  ending = packet.fname.rpartition('.')[2]
  if packet.type == FT_DIREND and not packet.link.endswith('/taken/'): return bRC_Core
  return dict(tmp=bRC_Skip, bad=bRC_Error, core=bRC_Core).get(ending, bRC_OK)
def start_backup_file(packet): return bRC_Stop
def end_backup_file(): return bRC_OK
def plugin_io(iop):
  if iop.func == IO_OPEN:
    state['writes'] = iop.flags & (os.O_WRONLY | os.O_RDWR)
    state['file'] = open(iop.fname, 'wb' if state['writes'] else 'rb')
  elif iop.func == IO_READ:
    iop.buf = bytearray(state['file'].read(iop.count).upper())
    iop.status = len(iop.buf)
  elif iop.func == IO_WRITE: iop.status = state['file'].write(bytes(iop.buf).lower())
  elif iop.func == IO_CLOSE: state['file'].close()
  return bRC_OK
def get_acl(acl): return bRC_OK
def get_xattr(x): x.name, x.value = bytearray(b'user.taken'), bytearray(b'yes'); return bRC_OK
def set_acl(acl): return bRC_OK
def set_xattr(x): return bRC_OK
def check_file(name): return bRC_OK
def start_restore_file(cmd): return bRC_OK
def create_file(rp):
  os.makedirs(os.path.dirname(rp.ofname.rstrip('/')), exist_ok=True)
  rp.create_status = CF_CORE if rp.type == FT_DIREND else CF_EXTRACT
  return bRC_OK
def set_file_attributes(rp): return bRC_OK
def end_restore_file(): return bRC_OK
";

fn option_world() -> (World, String) {
    let world = World::new();
    for file in ["d/a.txt", "d/sub/b.txt", "d/c.core", "d/taken/e.txt", "d/x.tmp", "d/empty.txt", "d/only/y.tmp"] {
        world.write(file, if file.contains("empty") { "" } else { file });
    }
    std::fs::hard_link(world.path("d/a.txt"), world.path("d/sub/second.txt")).unwrap();
    world.write("plugins/capitals.py", CAPITALS);
    let file = world.file_set(
        "Include { Options { HardLinks = yes; Plugin = \"python3:module_path=@/plugins:module_name=capitals\" } File = @/d }",
    );
    (world, file)
}

#[test]
fn an_option_plugin_takes_over_leaves_out_and_passes_on() {
    let (world, file) = option_world();
    let summary = world.objects(["backup", "--fileset", &file]).pop().unwrap();
    let id = summary["snapshot_id"].as_str().unwrap();
    let entries = &summary["entries"];
    // 5 files, 1 further name, 4 directories; two temporary files were left out.
    assert_eq!((&entries["announced"], &entries["saved"], &entries["skipped"]), (&12.into(), &10.into(), &2.into()));
    let dump = |name: &str| stdout(world.run(["dump", id, &world.shown(name)]).success().get_output());
    for name in ["d/a.txt", "d/sub/b.txt", "d/taken/e.txt"] {
        assert_eq!(dump(name), name.to_uppercase());
    }
    assert_eq!(
        (dump("d/sub/second.txt"), dump("d/c.core"), dump("d/empty.txt")),
        ("D/A.TXT".into(), "d/c.core".into(), String::new())
    );
    let names = world.lines(["ls", id]).join("\n");
    assert!(!names.contains("x.tmp") && !names.contains("y.tmp") && names.contains("d/only"), "{names}");
    world.restic(["check", "--read-data"]).assert().success();
    world.run(["check", "--read-data"]).success();

    // Without the plugin, what it made of the files; through it, the files. The core's files are no business of its.
    world.run(["restore", id, "--target", &world.shown("plain")]).success();
    let under =
        |place: &str, name: &str| std::fs::read_to_string(format!("{}{}", world.shown(place), world.shown(name)));
    assert_eq!(under("plain", "d/sub/b.txt").unwrap(), "D/SUB/B.TXT");
    assert_eq!(under("plain", "d/c.core").unwrap(), "d/c.core");
    world.run(["restore", id, "--target", &world.shown("through"), "--through-plugin"]).success();
    for name in ["d/a.txt", "d/sub/b.txt", "d/taken/e.txt"] {
        assert_eq!(under("through", name).unwrap(), name);
    }
    assert!(under("through", "d/c.core").is_err());

    // The next job asks about what changed and about what is new; what is gone stays in the chain, not in the view.
    world.write("d/a.txt", "another text");
    world.write("d/new.txt", "new");
    std::fs::remove_file(world.path("d/taken/e.txt")).unwrap();
    let next = ["backup", "--fileset", &file, "--level", "incremental"];
    let summary = world.objects(next).pop().unwrap();
    let id = summary["snapshot_id"].as_str().unwrap();
    let dump = |name: &str| stdout(world.run(["dump", id, &world.shown(name)]).success().get_output());
    assert_eq!(
        (dump("d/a.txt"), dump("d/new.txt"), dump("d/sub/b.txt")),
        ("ANOTHER TEXT".into(), "NEW".into(), "D/SUB/B.TXT".into())
    );
    assert!(!world.lines(["ls", id]).join("\n").contains("e.txt"));
    world.run(["restore", id, "--target", &world.shown("chain"), "--through-plugin"]).success();
    assert_eq!(under("chain", "d/a.txt").unwrap(), "another text");
    assert_eq!(under("chain", "d/taken/e.txt").unwrap(), "d/taken/e.txt");
    // An accurate job finds out.
    let summary = world.objects([&next[..], &["--accurate"]].concat()).pop().unwrap();
    let id = summary["snapshot_id"].as_str().unwrap();
    world.run(["restore", id, "--target", &world.shown("accurate"), "--through-plugin"]).success();
    assert_eq!(under("accurate", "d/new.txt").unwrap(), "new");
    assert!(under("accurate", "d/taken/e.txt").is_err());
    world.restic(["check", "--read-data"]).assert().success();
}

#[test]
fn what_an_option_plugin_cannot_save_is_told_and_one_that_gives_up_ends_the_job() {
    let (world, file) = option_world();
    world.write("d/z.bad", "z");
    let said = stderr(world.run(["backup", "--fileset", &file]).code(3).get_output());
    assert!(said.contains("d/z.bad: handle_backup_file answered"), "{said}");
    std::fs::remove_file(world.path("d/z.bad")).unwrap();
    for (trouble, said) in [
        ("def handle_backup_file(packet): raise ValueError('no idea')", "no idea"),
        ("def handle_backup_file(packet): os._exit(9)", "exit"),
        ("def load_bareos_plugin(text): raise ValueError('no idea')", "no idea"),
    ] {
        world.write("plugins/capitals.py", format!("{CAPITALS}\n{trouble}\n"));
        let err = stderr(world.run(["backup", "--fileset", &file]).code(1).get_output());
        assert!(err.contains(said) && err.contains("no snapshot was made"), "{err}");
    }
    assert_eq!(world.objects(["snapshots"]).len(), 1);
}

#[test]
fn the_accurate_letters_of_a_file_set_hold_for_its_plugins_unless_the_command_line_has_others() {
    let (world, _) = option_world();
    let shows = "def load_bareos_plugin(text): RegisterEvents([bEventEndBackupJob]); return bRC_OK\n\
                 def handle_plugin_event(event): print('letters', sorted(GetValue(bVarAccurateOptions))); return bRC_OK\n";
    world.write("plugins/capitals.py", format!("{CAPITALS}\n{shows}"));
    let file = world.file_set(
        "Include { Options { Accurate = pu } Plugin = \"python3:module_path=@/plugins:module_name=capitals\" }",
    );
    let said = |more: &[&str]| {
        let mut command = world.command(["backup", "-v", "--fileset", &file]);
        stderr(command.args(more).assert().success().get_output())
    };
    assert!(said(&[]).contains("letters [2, 8]"), "{}", said(&[]));
    assert!(said(&["--accurate-options", "i"]).contains("letters [1]"), "{}", said(&["--accurate-options", "i"]));
}
