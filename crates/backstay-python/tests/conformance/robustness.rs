//! Lines 85 to 89: robustness beyond the original.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use backstay_bareos_protocol::Task;

use crate::common::objects::{plugin, run};
use crate::common::{Host, backup, probe_definition, restore, spec};

#[test]
fn item_85_a_worker_that_dies_takes_no_other_job_with_it() {
    // A job that runs beside all of them.
    let beside = probe_definition("reads", "case=short:size=3000000");
    let beside = std::thread::spawn(move || Host::start(spec(Task::Backup, vec![beside])).backup().good());
    for (how, exit) in [
        ("exit3", "Status(3)"),
        ("exit0", "Status(0)"),
        ("segv", "Signal(11)"),
        ("kill", "Signal(9)"),
        ("abort", "Signal(6)"),
        ("null", "Signal(11)"),
    ] {
        let outcome = backup(&probe_definition("exits", &format!("where=plugin_io_read:how={how}")));
        assert_eq!(outcome.exit, exit, "{how}");
        assert!(outcome.end.is_none(), "{how}");
        assert_eq!(outcome.announced, 1, "{how}");
    }
    let outcome = backup(&probe_definition("exits", "where=plugin_io_read:how=sysexit"));
    assert!(outcome.said(3, "SystemExit: 3"), "{outcome:#?}");
    assert!(!outcome.end().whole);
    assert_eq!(beside.join().unwrap().saved[0].data.len(), 3_000_000);
}

#[test]
fn item_86_functions_work_in_every_thread_of_the_plugin() {
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

#[test]
fn item_87_names_that_are_not_utf_8_are_kept_or_complained_of() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join(std::ffi::OsStr::from_bytes(b"latin1 \xe4"));
    std::fs::write(&name, b"contents").unwrap();
    std::fs::write(folder.path().join("plain"), b"plain").unwrap();
    // Listed as Python lists it.
    let plugin = plugin(&format!(
        "folder = {:?}\n\
         def objects():\n  for name in sorted(os.listdir(folder)): yield os.path.join(folder, name), FT_REG, {{}}, b'data'\n\
         def check_file(name): return bRC_OK",
        folder.path()
    ));
    let saved = run(&plugin).good().saved;
    assert_eq!(saved[0].entry.name, name.as_os_str().as_bytes());
    restore(&plugin.definition(""), &saved, Path::new("")).good();
    // By the class that refuses them: a message, and the others are saved.
    let list = folder.path().join("list");
    std::fs::write(
        &list,
        [folder.path().join("plain").as_os_str().as_bytes(), b"\n", name.as_os_str().as_bytes(), b"\n"].concat(),
    )
    .unwrap();
    let outcome = backup(&probe_definition("local_list", &format!("filename={}", list.display())));
    assert!(outcome.end().whole && outcome.said(4, "latin1"), "{outcome:#?}");
    assert!(outcome.saved.iter().any(|one| one.data == b"plain"));
}

#[test]
fn item_88_whatever_a_plugin_prints_harms_nothing() {
    let outcome = backup(&probe_definition("prints", "long=yes")).good();
    assert_eq!(outcome.saved[0].data, b"probe data\n");
    for line in ["Stdout printed in plugin_io", "Stderr complained in get_acl", "Stdout child in start_backup_file"] {
        assert!(outcome.printed.contains(&line.to_owned()), "{line}");
    }
}

#[test]
fn item_89_threads_and_children_that_a_plugin_leaves_do_not_hold_the_end() {
    let outcome = backup(&probe_definition("threads", "")).good();
    assert_eq!(outcome.messages.iter().filter(|(_, text)| text.contains("of job 7")).count(), 9, "{outcome:#?}");
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let outcome = backup(&probe_definition("children", &format!("pids={}", pids.display()))).good();
    assert_eq!(outcome.exit, "Status(0)");
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 4);
    for pid in pids.lines() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        assert!(matches!(state, None | Some('Z' | 'X')), "{stat}");
    }
}
