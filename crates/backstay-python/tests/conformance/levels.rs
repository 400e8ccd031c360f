//! Lines 52 to 59: jobs that build on others, accurate jobs.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::Host;
use crate::common::chain::Chain;
use crate::common::files::{job, known, lines, names, plugin, stored};

#[test]
fn item_52_the_since_time_is_the_start_of_the_job_built_on() {
    let source = "def load_bareos_plugin(text):\n\
         \x20 out('values', chr(GetValue(bVarLevel)), GetValue(bVarSinceTime), GetValue(bVarPrevJobName))\n\
         \x20 return bRC_OK";
    for (level, expected) in [
        ('F', "values F 0 "),
        ('I', "values I 2000 job.2026-11-21_00.00.00_06"),
        ('D', "values D 2000 job.2026-11-21_00.00.00_06"),
    ] {
        let plugin = plugin(source);
        Host::start_after(job(&plugin, level), &[], &[]).backup().good();
        assert_eq!(plugin.log()[0], expected);
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let chain = Chain::new();
    let before = now();
    chain.backup("full", "file /a 1");
    let after = now();
    chain.backup("incremental", "file /a 2");
    chain.backup("incremental", "file /a 3");
    let log = chain.log();
    let since: Vec<u64> =
        log.iter().filter_map(|line| line.strip_prefix("since ")).map(|line| line.parse().unwrap()).collect();
    assert_eq!(since[0], 0);
    assert!((before..=after).contains(&since[1]) && since[2] > since[1], "{since:?}: {before} to {after}");
}

#[test]
fn item_53_an_unchanged_file_is_started_and_ended_and_nothing_else() {
    let plugin = plugin(
        "def files():\n\
         \x20 yield '/old', FT_REG, {}\n\
         \x20 yield '/new', FT_REG, dict(st_mtime=3000)\n\
         \x20 yield '/inode', FT_REG, dict(st_ctime=3000)\n\
         \x20 yield '/d', FT_DIREND, dict(link='/d/', st_mode=0o040755, no_read=True)\n\
         \x20 yield '/says', FT_NOCHG, {}\n\
         \x20 yield '/never seen', FT_NOCHG, {}",
    );
    let files = ["/old", "/new", "/inode", "/d/", "/says"].map(known);
    let outcome = Host::start_after(job(&plugin, 'I'), &files, &[]).backup().good();
    assert_eq!(outcome.unchanged, ["/old", "/d/", "/says"]);
    assert_eq!(names(&outcome.saved), ["/new", "/inode"]);
    assert_eq!(outcome.not_saved.len(), 1, "what is unchanged and nowhere is left out by the plugin's own word");
    assert_eq!(outcome.end().announced, 6);
    assert_eq!(
        lines(&plugin, &["start", "end", "io", "get_acl", "get_xattr"])[..3],
        ["start /old", "end", "start /new"]
    );
    assert!(outcome.said(9, "     Unchanged file skipped: /old\n"));
}

/// Whether a file of a known name is saved by an incremental job that does this at the end of the file set.
fn is_saved(force: &str, fields: &str, times: bool) -> bool {
    let plugin = plugin(&format!(
        "def handle_plugin_event(event):\n\
         \x20 if event == 16: {force}\n\
         \x20 return bRC_OK\n\
         RegisterEvents([16])\n\
         def files(): yield '/old', FT_REG, dict({fields})"
    ));
    if !times {
        let path = plugin.path("plug.py");
        let text = std::fs::read_to_string(&path).unwrap().replace(", mtime=1000, ctime=1000", "");
        std::fs::write(path, text).unwrap();
    }
    let outcome = Host::start_after(job(&plugin, 'I'), &[known("/old")], &[]).backup().good();
    assert_eq!(outcome.saved.len() + outcome.unchanged.len(), 1);
    !outcome.saved.is_empty()
}

#[test]
fn item_54_three_ways_force_a_file_into_the_backup() {
    assert!(!is_saved("pass", "", true));
    assert!(is_saved("SetValue(bVarCheckChanges, False)", "", true));
    assert!(is_saved("SetValue(bVarSinceTime, 1)", "", true));
    assert!(is_saved("pass", "save_time=1", true));
    // And the other way round: a time of its own that is later than the job's.
    assert!(!is_saved("SetValue(bVarSinceTime, 1)", "save_time=5000", true));
}

#[test]
fn item_55_objects_of_the_previous_job_come_before_the_backup_starts() {
    let plugin = plugin("RegisterEvents([3])");
    let definition = plugin.definition("a=1");
    let objects = [stored(&definition, 1, b"one"), stored(&definition, 2, &[7; 3000])];
    Host::start_after(job(&plugin, 'I'), &[], &objects).backup().good();
    let log = plugin.log();
    let first = format!("object object 1 b'one' 25 1 3 3 0 0 6 {definition}");
    let place = |start: &str| log.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{log:#?}"));
    assert_eq!(log[place("object object 1")], first);
    assert!(log[place("object object 2")].contains("25 2 3000 3000 0 0 6"));
    assert!(
        place("object object 1") < place("object object 2") && place("object object 2") < place("event 3"),
        "{log:#?}"
    );
    assert_eq!(lines(&plugin, &["load", "parse"]).len(), 3, "objects bring no parse of their own");
    // Over two jobs of the program: by their index, whatever their order was, and of the job just before only.
    let chain = Chain::new();
    chain.backup("full", "object three 3\nobject one 1\nobject two 2");
    chain.backup("incremental", "object four 4");
    chain.backup("incremental", "file /a 1");
    let objects = chain.lines("object");
    assert_eq!(
        objects,
        ["object one 1 4000 1", "object two 2 4000 1", "object three 3 4000 1", "object four 4 4000 2"]
    );
}

#[test]
fn item_56_what_an_accurate_job_does_not_mention_is_offered_to_check_file() {
    let plugin = plugin(
        "state['/kept'] = bRC_Seen\n\
         state['/error'] = bRC_Error\n\
         def files():\n\
         \x20 yield '/old', FT_REG, {}\n\
         \x20 yield '/size', FT_REG, dict(st_size=5)\n\
         \x20 yield '/later', FT_REG, dict(st_mtime=999)\n\
         \x20 yield '/unknown', FT_REG, {}",
    );
    let mut job = job(&plugin, 'I');
    job.accurate = true;
    let files = ["/old", "/size", "/later", "/kept", "/error", "/gone"].map(known);
    let outcome = Host::start_after(job, &files, &[]).backup().good();
    assert_eq!(outcome.unchanged, ["/old"]);
    assert_eq!(names(&outcome.saved), ["/size", "/later", "/unknown"]);
    assert_eq!(lines(&plugin, &["check_file"]), ["check_file /kept", "check_file /error", "check_file /gone"]);
    assert_eq!(outcome.deleted, [("/error".to_owned(), false), ("/gone".to_owned(), false)]);
    // Between the last file and the end of the job.
    let log = plugin.log();
    let place = |line: &str| log.iter().position(|have| have == line).unwrap();
    assert!(place("start /unknown") < place("check_file /kept"));
}

#[test]
fn item_57_accurate_and_its_options_are_known_to_the_plugin() {
    for (level, accurate, options, seen) in [
        ('F', false, vec![32, 128, 256], 0),
        ('I', true, vec![32, 128, 256], 1),
        ('I', true, vec![1, 1024], 1),
        ('D', false, vec![64], 0),
    ] {
        let plugin = plugin(
            "def files():\n\
             \x20 options = GetValue(bVarAccurateOptions)\n\
             \x20 out('accurate', GetValue(bVarAccurate), type(options).__name__, sorted(options))\n\
             \x20 return iter(())",
        );
        let mut job = job(&plugin, level);
        (job.accurate, job.accurate_options) = (accurate, options.clone());
        Host::start_after(job, &[], &[]).backup().good();
        // From the first BackupCommand on.
        let expected = [format!("accurate {seen} frozenset []"), format!("accurate {seen} frozenset {options:?}")];
        assert_eq!(lines(&plugin, &["accurate"]), expected);
    }
}

#[test]
fn item_58_a_deleted_name_is_not_restored_later() {
    let plugin = plugin("def files(): yield '/gone', FT_DELETED, {}");
    let outcome = Host::start_after(job(&plugin, 'I'), &[known("/gone")], &[]).backup().good();
    assert_eq!(outcome.deleted, [("/gone".to_owned(), true)]);
    assert_eq!((outcome.saved.len(), outcome.end().announced), (0, 1));
    assert_eq!(lines(&plugin, &["io", "end", "get_acl"]), ["end"]);
    let chain = Chain::new();
    chain.backup("full", "file /a 1\nfile /b 1");
    chain.backup("incremental", "gone /a -");
    chain.restore(&[]);
    assert_eq!(chain.lines("create"), ["create /b 3"]);
    // It can come back.
    chain.backup("incremental", "file /a 2");
    chain.restore(&[]);
    assert_eq!(chain.lines("create"), ["create /b 3", "create /a 3"]);
}

#[test]
fn item_59_a_virtual_file_with_the_times_of_its_making_is_saved_again() {
    assert!(is_saved("pass", "", false));
}
