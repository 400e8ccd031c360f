//! Lines 79 to 84: the helper modules, and the other daemons.

use std::os::unix::fs::MetadataExt;

use backstay_bareos_protocol::Task;

use crate::common::{Host, Plugin, backup, probe_definition, restore, spec};

#[test]
fn item_79_decorated_and_old_style_plugins_load() {
    let outcome = backup(&probe_definition("old_style", "")).good();
    assert_eq!(
        (&outcome.saved[0].entry.name[..], &outcome.saved[0].data[..]),
        (&b"/old_style"[..], &b"old style\n"[..])
    );
    let folder = tempfile::tempdir().unwrap();
    restore(&probe_definition("old_style", ""), &outcome.saved, folder.path()).good();
    assert_eq!(std::fs::read(folder.path().join("old_style")).unwrap(), b"old style\n");
    let decorated = Plugin::new(
        "from BareosFdWrapper import *\nfrom BareosFdPluginBaseclass import *\n\
         @BareosPlugin\nclass Decorated(BareosFdPluginBaseclass):\n  pass",
    );
    assert!(backup(&decorated.definition("")).good().saved.is_empty());
}

/// Shows the options that the base class made of the definition, or what it answered.
const OPTIONS: &str = "from BareosFdWrapper import *\nfrom BareosFdPluginBaseclass import *\nfrom probe import out\n\
     @BareosPlugin\nclass Options(BareosFdPluginBaseclass):\n\
     \x20 def __init__(self, plugindef): super().__init__(plugindef, ['must'])\n\
     \x20 def parse_plugin_definition(self, plugindef):\n\
     \x20   rc = super().parse_plugin_definition(plugindef, ['many'])\n\
     \x20   out(rc, sorted(self.options.items())); return rc";

#[test]
fn item_80_the_base_class_reads_options_in_all_their_forms() {
    let plugin = Plugin::new(OPTIONS);
    std::fs::write(plugin.path("defaults.conf"), "# comment\n[section]\na = default\nfrom = file\\\n next\nmany = d\n")
        .unwrap();
    std::fs::write(plugin.path("overrides.conf"), "z = override\n").unwrap();
    let shown = |options: &str| {
        plugin.forget_log();
        let mut job = spec(Task::Backup, vec![plugin.definition(options)]);
        job.used_config = format!("{}/*/*.conf", plugin.folder.path().display());
        std::fs::create_dir_all(plugin.path("bareos-fd.d")).unwrap();
        let outcome = Host::start(job).backup();
        (plugin.log(), outcome)
    };
    let (log, outcome) = shown(r"must=x\:y\:z:a=1:a=2:many=p:many=q:blank =  b :c=d=e:secret#enc=Xk~0{Zv");
    outcome.good();
    let options =
        "[('a', '1'), ('blank', 'b'), ('c', 'd=e'), ('many', ['p', 'q']), ('must', 'x:y:z'), ('secret', 'hello')]";
    // The second parse changes nothing.
    assert_eq!(log, [format!("0 {options}"), format!("0 {options}")]);
    let (log, outcome) = shown("must=1:z=9:b=2:defaults_file=defaults.conf:overrides_file=overrides.conf");
    outcome.good();
    assert_eq!(
        log[0],
        "0 [('a', 'default'), ('b', '2'), ('from', 'filenext'), ('many', ['d']), ('must', '1'), ('z', 'override')]"
    );
    let (_, outcome) = shown("a=1");
    assert!(outcome.said(3, "Mandatory option 'must' not defined."), "{outcome:#?}");
    let (_, outcome) = shown("must=1:defaults_file=nowhere.conf");
    assert!(outcome.said(3, "While loading options file 'nowhere.conf': "), "{outcome:#?}");
    let (_, outcome) = shown("must=1:p#enc=\"");
    assert!(outcome.said(3, "Transformation enc of value '\"' for key p failed: "), "{outcome:#?}");
    let (_, outcome) = shown("must=1:empty=");
    assert!(outcome.said(5, "ignoring option 'empty' with no value!"), "{outcome:#?}");
}

#[test]
fn item_81_the_base_class_reads_and_writes_files_that_the_host_creates() {
    let plugin = Plugin::new(
        "import os\nfrom BareosFdWrapper import *\nfrom BareosFdPluginBaseclass import *\n\
         @BareosPlugin\nclass OneFile(BareosFdPluginBaseclass):\n\
         \x20 def start_backup_file(self, savepkt):\n\
         \x20   savepkt.fname = self.options['file']; savepkt.type = FT_REG\n\
         \x20   savepkt.statp = StatPacket(mode=0o100600, size=os.stat(savepkt.fname).st_size); return bRC_OK",
    );
    let data: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(plugin.path("data"), &data).unwrap();
    let definition = plugin.definition(&format!("file={}", plugin.path("data").display()));
    let saved = backup(&definition).good().saved;
    assert!(saved[0].data == data);
    let folder = tempfile::tempdir().unwrap();
    restore(&definition, &saved, folder.path()).good();
    let back = folder.path().join(plugin.path("data").strip_prefix("/").unwrap());
    assert!(std::fs::read(back).unwrap() == data);
}

#[test]
fn item_82_the_local_files_class_restores_owner_mode_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("file"), b"contents").unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    std::fs::set_permissions(at("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(at("dir"), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    // Another owner only where the tests run as root.
    let is_root = std::os::unix::fs::chown(at("file"), Some(1234), Some(1235)).is_ok();
    std::fs::set_permissions(at("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4751)).unwrap();
    let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_007);
    for name in ["file", "dir"] {
        std::fs::File::open(at(name)).unwrap().set_modified(when).unwrap();
    }
    let names = ["file", "link", "dir"].map(|name| at(name).display().to_string());
    std::fs::write(at("list"), names.join("\n")).unwrap();
    let definition = probe_definition("local_list", &format!("filename={}", at("list").display()));
    let saved = backup(&definition).good().saved;
    assert_eq!(saved.len(), 3);
    let target = tempfile::tempdir().unwrap();
    restore(&definition, &saved, target.path()).good();
    let back = |name: &str| std::fs::symlink_metadata(target.path().join(at(name).strip_prefix("/").unwrap())).unwrap();
    for (name, mode) in [("file", 0o4751), ("dir", 0o711)] {
        let found = back(name);
        assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, 1_000_000_007), "{name}");
    }
    if is_root {
        assert_eq!((back("file").uid(), back("file").gid()), (1234, 1235));
    }
    assert!(back("link").file_type().is_symlink());
    assert_eq!(std::fs::read(target.path().join(at("file").strip_prefix("/").unwrap())).unwrap(), b"contents");
}
