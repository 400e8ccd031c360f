//! What is left out, by which rule, and how it is counted.

use std::path::{Path, PathBuf};

use backstay_core::{End, Outcome};
use backstay_engine::tree::{TreeError, TreeOptions};

use crate::support::{Fixture, Witness};

const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n";

#[test]
fn what_a_pattern_leaves_out_is_counted_once_and_named() {
    let fixture = Fixture::new();
    fixture.write("keep.c", b"c");
    let object = fixture.write("a/x.o", b"o");
    let kept = fixture.write("a/keep.o", b"o");
    let image = fixture.write("a/Disk.ISO", b"i");
    let folder = fixture.write("node_modules/deep/er/file", b"f").ancestors().nth(3).unwrap().to_owned();
    let options = TreeOptions {
        excludes: vec!["*.o".into(), "node_modules".into(), "!keep.o".into()],
        iexcludes: vec!["*.iso".into()],
        ..TreeOptions::default()
    };
    let done = fixture.back_up(&options);
    assert_eq!(done.skipped_by(&object), "--exclude *.o");
    assert_eq!(done.skipped_by(&folder), "--exclude node_modules");
    assert_eq!(done.skipped_by(&image), "--iexclude *.iso");
    assert_eq!(done.outcome(&kept), &Outcome::Saved);
    assert_eq!(done.names(&fixture.data()), ["a", "keep.c"]);
    assert_eq!(done.names(&fixture.data().join("a")), ["keep.o"]);
    assert_eq!((done.result.report.tally.skipped, done.result.report.tally.announced), (3, 7));
}

#[test]
fn a_file_of_gitignore_rules_leaves_out_what_git_would() {
    let fixture = Fixture::new();
    fixture.write("src/main.rs", b"m");
    fixture.write("target/debug/x", b"x");
    fixture.write("src/target", b"a file of that name");
    fixture.write("src/a.log", b"l");
    fixture.write("src/keep.log", b"l");
    let rules = fixture.folder.path().join("rules");
    let anchored = fixture.data().join("src/main.rs");
    std::fs::write(&rules, format!("# rules\n*.log\n!keep.log\ntarget/\n{}\n", anchored.display())).unwrap();
    let done = fixture.back_up(&TreeOptions { exclude_files: vec![rules.clone()], ..TreeOptions::default() });
    assert_eq!(done.names(&fixture.data()), ["src"]);
    assert_eq!(done.names(&fixture.data().join("src")), ["keep.log", "target"]);
    let rule = format!("--exclude-file {}: target/", rules.display());
    assert_eq!(done.skipped_by(&fixture.data().join("target")), rule);
}

#[test]
fn of_a_tagged_directory_only_the_tag_is_kept() {
    let fixture = Fixture::new();
    let tag = fixture.write("cache/CACHEDIR.TAG", CACHE_TAG);
    let file = fixture.write("cache/file", b"f");
    let folder = fixture.write("cache/sub/file", b"f").parent().unwrap().to_owned();
    let fake = fixture.write("fake/CACHEDIR.TAG", "Signature: something else, long enough to be one of them");
    let short = fixture.write("short/CACHEDIR.TAG", "Sig");
    let any = fixture.write("any/.nobackup", b"");
    let any_file = fixture.write("any/file", b"f");
    let with_header = fixture.write("header/.tag", b"skip: yes");
    let header_file = fixture.write("header/file", b"f");
    let wrong = fixture.write("wrong/.tag", b"keep");
    let wrong_file = fixture.write("wrong/file", b"f");
    let options = TreeOptions {
        exclude_caches: true,
        exclude_if_present: vec![".nobackup".into(), ".tag:skip".into()],
        ..TreeOptions::default()
    };
    let done = fixture.back_up(&options);
    for kept in [&tag, &fake, &short, &any, &with_header, &wrong, &wrong_file] {
        assert_eq!(done.outcome(kept), &Outcome::Saved);
    }
    assert_eq!(done.skipped_by(&file), "--exclude-caches");
    assert_eq!(done.skipped_by(&folder), "--exclude-caches");
    assert_eq!(done.skipped_by(&any_file), "--exclude-if-present .nobackup");
    assert_eq!(done.skipped_by(&header_file), "--exclude-if-present .tag:skip");
    assert_eq!(done.names(tag.parent().unwrap()), ["CACHEDIR.TAG"]);
    assert_eq!(done.result.report.tally.skipped, 4);
    assert_eq!(fixture.back_up(&TreeOptions::default()).result.report.tally.skipped, 0);
}

#[test]
fn larger_files_are_left_out_and_directories_never() {
    let fixture = Fixture::new();
    let fits = fixture.write("fits", vec![1; 1000]);
    let large = fixture.write("large", vec![1; 1001]);
    let done = fixture.back_up(&TreeOptions { exclude_larger_than: Some(1000), ..TreeOptions::default() });
    assert_eq!(done.outcome(&fits), &Outcome::Saved);
    assert_eq!(done.skipped_by(&large), "--exclude-larger-than 1000");
    assert_eq!(done.names(&fixture.data()), ["fits"]);
}

#[test]
fn a_root_can_be_excluded_too() {
    let fixture = Fixture::new();
    let file = fixture.write("a/b/file", b"x");
    let rules = fixture.folder.path().join("rules");
    std::fs::write(&rules, "a/\n").unwrap();
    for options in [
        TreeOptions { excludes: vec!["a".into()], ..TreeOptions::default() },
        TreeOptions { exclude_files: vec![rules], ..TreeOptions::default() },
    ] {
        let done = fixture.back_up_with(std::slice::from_ref(&file), None, &options, Witness::default()).unwrap();
        assert!(matches!(done.outcome(&file), Outcome::Skipped(_)));
        assert_eq!(done.result.nodes, []);
        assert_eq!(done.result.end, End::Whole);
    }
}

#[test]
fn bad_rules_end_the_job_before_it_begins() {
    let fixture = Fixture::new();
    fixture.write("file", b"x");
    let options = TreeOptions { excludes: vec!["a[".into()], ..TreeOptions::default() };
    let error = fixture.back_up_with(&[fixture.data()], None, &options, Witness::default()).err().unwrap();
    assert!(matches!(error, TreeError::Exclude(_)) && error.to_string().contains("--exclude \"a[\""), "{error}");
}

/// The variable that tells the test below that it runs where it may mount.
const INSIDE: &str = "BACKSTAY_TEST_MOUNTS";

/// Mounts need a name space of their own: the test runs itself again inside one.
#[test]
fn one_file_system_stops_at_mount_points_but_not_at_roots() {
    if std::env::var_os(INSIDE).is_none() {
        let itself = std::env::current_exe().unwrap();
        let name = "excludes::one_file_system_stops_at_mount_points_but_not_at_roots";
        let output = std::process::Command::new("unshare")
            .args(["--map-root-user", "--mount", "--"])
            .arg(itself)
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if text.contains("unshare failed") {
            // Some containers forbid name spaces; there is no other way to mount something for a test.
            return;
        }
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let fixture = Fixture::new();
    let data = fixture.data();
    fixture.write("plain/file", b"1");
    for name in ["mount", "mount2", "mount3"] {
        std::fs::create_dir(data.join(name)).unwrap();
        mount(&data.join(name));
    }
    let hidden = fixture.write("mount/hidden/file", b"2");
    let beside = fixture.write("mount2/beside", b"3");
    let inner = fixture.write("mount2/deep/root/file", b"4");
    let whole = fixture.write("mount3/sub/file", b"5");
    std::fs::create_dir(data.join("mount3/again")).unwrap();
    mount(&data.join("mount3/again"));
    let other = fixture.write("mount3/again/file", b"6");
    let options = TreeOptions { one_file_system: true, ..TreeOptions::default() };
    let roots = [data.clone(), data.join("mount2/deep/root"), data.join("mount3")];
    let done = fixture.back_up_with(&roots, None, &options, Witness::default()).unwrap();
    assert_eq!(done.names(&data), ["mount", "mount2", "mount3", "plain"]);
    // A mount point is there, empty, with the metadata of what is mounted.
    assert_eq!(done.names(&data.join("mount")), Vec::<String>::new());
    assert_eq!(done.outcome(&data.join("mount")), &Outcome::Saved);
    assert!(!done.seen.contains_key(&hidden));
    // Of a mount that holds a root, only the way to the root.
    assert_eq!(done.names(&data.join("mount2")), ["deep"]);
    assert!(!done.seen.contains_key(&beside));
    assert_eq!(done.contents(&inner), b"4");
    // A mount that is a root itself is walked, and stops at the next one.
    assert_eq!(done.contents(&whole), b"5");
    assert_eq!(done.names(&data.join("mount3/again")), Vec::<String>::new());
    assert!(!done.seen.contains_key(&other));

    // A mounted file is no directory to be kept.
    let file = fixture.write("plain/mounted", b"");
    bind(&hidden, &file);
    let done = fixture.back_up(&options);
    assert_eq!(done.skipped_by(&file), "--one-file-system");

    let all = fixture.back_up(&TreeOptions::default());
    assert_eq!(all.contents(&hidden), b"2");
    assert_eq!(all.contents(&other), b"6");
    for path in
        [PathBuf::from("plain/mounted"), "mount3/again".into(), "mount3".into(), "mount2".into(), "mount".into()]
    {
        let status = std::process::Command::new("umount").arg(data.join(path)).status().unwrap();
        assert!(status.success());
    }
}

fn mount(path: &Path) {
    let status = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(path).status().unwrap();
    assert!(status.success());
}

fn bind(from: &Path, to: &Path) {
    let status = std::process::Command::new("mount").arg("--bind").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
