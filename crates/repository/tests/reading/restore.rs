//! Restores: everything comes back, nothing else is touched, what is damaged is named.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_core::{FileKind, Id};
use backstay_repository::restore::{Overwrite, RestoreAction, RestoreOptions, RestoreProgress, RestoreReport, restore};
use backstay_repository::{BlobKind, InitOptions, Node, Reader, Repository, Tree, WriteOptions, Writer};
use backstay_stores::LocalStore;
use backstay_stores::faults::points::DURING_PACK_READ;
use backstay_stores::faults::{Fault, FaultStore};
use rustix::fs::XattrFlags;

use crate::fixture::{Fixture, PASSWORD, again, assert_same, flip, name_of, noise, open, set_time, survey};

fn options(target: &Path) -> RestoreOptions {
    RestoreOptions { target: target.to_owned(), ..RestoreOptions::default() }
}

fn run(fixture: &Fixture, options: &RestoreOptions) -> RestoreReport {
    restore(&fixture.reader(), &fixture.root(), &fixture.subpath(), options, &()).unwrap()
}

#[test]
fn everything_that_restic_saved_comes_back() {
    let fixture = Fixture::new();
    let report = run(&fixture, &RestoreOptions { verify: true, ..options(&fixture.target()) });
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &fixture.target());
    let names = survey(&fixture.source()).len() as u64;
    assert_eq!((report.total_files, report.files_restored, report.files_skipped), (names, names, 0));
    // All but the two empty ones and the second name of one.
    assert_eq!(report.files_verified, 204);
    assert_eq!(report.owners_refused, 0);
}

#[test]
fn the_whole_path_is_restored_when_no_subpath_is_given() {
    let fixture = Fixture::new();
    let report = restore(&fixture.reader(), &fixture.root(), b"/", &options(&fixture.target()), &()).unwrap();
    assert_eq!(report.errors, []);
    let below = fixture.target().join(fixture.source().strip_prefix("/").unwrap());
    assert_same(&fixture.source(), &below);
    let (above, saved) = (below.parent().unwrap(), fixture.source());
    assert_eq!(fs::metadata(above).unwrap().mode(), fs::metadata(saved.parent().unwrap()).unwrap().mode());
}

#[test]
fn one_file_can_be_restored_by_its_path() {
    let fixture = Fixture::new();
    let mut path = fixture.subpath();
    path.extend_from_slice(b"/deep/er/still/one");
    restore(&fixture.reader(), &fixture.root(), &path, &options(&fixture.target()), &()).unwrap();
    assert_eq!(fs::read_to_string(fixture.target().join("one")).unwrap(), "one file, two names");
    let missing = restore(&fixture.reader(), &fixture.root(), b"/no/such", &options(&fixture.target()), &());
    assert!(missing.unwrap_err().to_string().contains("/no/such"));
}

#[test]
fn zeros_become_holes() {
    let fixture = Fixture::new();
    run(&fixture, &options(&fixture.target()));
    let metadata = fs::metadata(fixture.target().join("sparse")).unwrap();
    assert_eq!(metadata.len(), (40 << 20) + 3);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} bytes are allocated", metadata.blocks() * 512);
}

#[test]
fn a_second_restore_writes_nothing() {
    let fixture = Fixture::new();
    run(&fixture, &options(&fixture.target()));
    let inode = fs::metadata(fixture.target().join("big")).unwrap().ino();
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::Never] {
        let report = run(&fixture, &RestoreOptions { overwrite, ..options(&fixture.target()) });
        assert_eq!(report.errors, [], "{overwrite:?}");
        assert_eq!(report.bytes_restored, 0, "{overwrite:?}");
        assert_same(&fixture.source(), &fixture.target());
    }
    assert_eq!(fs::metadata(fixture.target().join("big")).unwrap().ino(), inode);
}

#[test]
fn overwriting_follows_the_chosen_rule() {
    let fixture = Fixture::new();
    let big = fixture.target().join("big");
    let spoil = || {
        let file = fs::OpenOptions::new().write(true).open(&big).unwrap();
        file.write_all_at(b"spoiled", 5 << 20).unwrap();
        set_time(&big, 1_600_000_000, 123_456_789);
    };
    run(&fixture, &options(&fixture.target()));
    let right = fs::read(&big).unwrap();

    spoil();
    for overwrite in [Overwrite::Never, Overwrite::IfChanged] {
        run(&fixture, &RestoreOptions { overwrite, ..options(&fixture.target()) });
        assert_ne!(fs::read(&big).unwrap(), right, "{overwrite:?}");
    }
    let inode = fs::metadata(&big).unwrap().ino();
    let report = run(&fixture, &options(&fixture.target()));
    assert_eq!(fs::read(&big).unwrap(), right);
    assert!(report.bytes_restored > 0 && report.bytes_restored <= 8 << 20, "{}", report.bytes_restored);
    assert_eq!(fs::metadata(&big).unwrap().ino(), inode);

    spoil();
    set_time(&big, 1, 0);
    run(&fixture, &RestoreOptions { overwrite: Overwrite::IfChanged, ..options(&fixture.target()) });
    assert_same(&fixture.source(), &fixture.target());
}

#[test]
fn a_longer_file_is_cut_and_a_shorter_one_filled() {
    let fixture = Fixture::new();
    run(&fixture, &options(&fixture.target()));
    let long = fixture.target().join("many/file 100");
    fs::write(&long, [fs::read(&long).unwrap(), b"more".to_vec()].concat()).unwrap();
    fs::OpenOptions::new().write(true).open(fixture.target().join("big")).unwrap().set_len(3 << 20).unwrap();
    fs::write(fixture.target().join("nothing"), "something").unwrap();
    let report = run(&fixture, &options(&fixture.target()));
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &fixture.target());
}

#[test]
fn what_has_the_wrong_kind_is_replaced() {
    let fixture = Fixture::new();
    let target = fixture.target();
    fs::create_dir_all(target.join("big")).unwrap();
    fs::create_dir_all(target.join("link")).unwrap();
    fs::write(target.join("many"), "a file where a directory belongs").unwrap();
    symlink("elsewhere", target.join("pipe")).unwrap();
    fs::write(target.join("dangling"), "").unwrap();
    let report = run(&fixture, &options(&target));
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &target);
}

#[test]
fn a_directory_that_is_not_empty_goes_only_when_deleting_is_allowed() {
    let fixture = Fixture::new();
    let target = fixture.target();
    fs::create_dir_all(target.join("big")).unwrap();
    fs::write(target.join("big/kept"), "precious").unwrap();
    let report = run(&fixture, &options(&target));
    assert_eq!(report.errors.iter().map(|failure| failure.path.as_slice()).collect::<Vec<_>>(), [b"/big"]);
    assert_eq!(fs::read_to_string(target.join("big/kept")).unwrap(), "precious");
    let report = run(&fixture, &RestoreOptions { delete: true, ..options(&target) });
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &target);
}

#[test]
fn other_names_of_a_file_in_the_target_keep_their_contents() {
    let fixture = Fixture::new();
    let target = fixture.target();
    fs::create_dir(&target).unwrap();
    let outside = fixture.home.path().join("outside");
    fs::write(&outside, "the other name's contents").unwrap();
    fs::hard_link(&outside, target.join("labelled")).unwrap();
    assert_eq!(run(&fixture, &options(&target)).errors, []);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "the other name's contents");
    assert_same(&fixture.source(), &target);
}

#[test]
fn links_that_somebody_planted_lead_nowhere() {
    let fixture = Fixture::new();
    let outside = fixture.home.path().join("outside");
    fs::create_dir_all(outside.join("er/still")).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    fs::set_permissions(outside.join("victim"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = survey(&outside);
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::Never] {
        let target = fixture.home.path().join(format!("target {overwrite:?}"));
        fs::create_dir(&target).unwrap();
        symlink(&outside, target.join("deep")).unwrap();
        symlink(outside.join("victim"), target.join("big")).unwrap();
        symlink(outside.join("victim"), target.join("nothing")).unwrap();
        symlink(outside.join("new"), target.join("labelled")).unwrap();
        let report = run(&fixture, &RestoreOptions { overwrite, delete: true, ..options(&target) });
        assert_eq!(survey(&outside), before, "{overwrite:?}");
        if overwrite == Overwrite::Never {
            let failed: Vec<_> = report.errors.iter().map(|failure| failure.path.as_slice()).collect();
            assert!(failed.contains(&b"/deep".as_slice()), "{failed:?}");
        } else {
            assert_eq!(report.errors, []);
            assert_same(&fixture.source(), &target);
        }
    }
}

#[test]
fn patterns_choose_what_is_restored() {
    let fixture = Fixture::new();
    let names = |target: &Path| survey(target).into_keys().collect::<Vec<PathBuf>>();
    let included = fixture.home.path().join("included");
    let report = run(
        &fixture,
        &RestoreOptions { include: vec!["/deep/er/still".into(), "FILE 7".into()], ..options(&included) },
    );
    assert_eq!(report.errors, []);
    assert_eq!(names(&included), ["deep", "deep/er", "deep/er/still", "deep/er/still/one"].map(PathBuf::from));
    let passed = fs::metadata(included.join("deep/er")).unwrap();
    assert_eq!((passed.mode() & 0o7777, passed.mtime()), (0o750, 1_000_000_000));

    let folded = fixture.home.path().join("folded");
    run(&fixture, &RestoreOptions { iinclude: vec!["FILE 7".into()], ..options(&folded) });
    assert_eq!(names(&folded), ["many", "many/file 7"].map(PathBuf::from));

    let excluded = fixture.home.path().join("excluded");
    run(&fixture, &RestoreOptions { exclude: vec!["many".into(), "/deep/**/one".into()], ..options(&excluded) });
    let found = names(&excluded);
    assert!(!found.contains(&PathBuf::from("many")) && !found.contains(&PathBuf::from("deep/er/still/one")));
    assert!(found.contains(&PathBuf::from("deep/er/still")) && found.contains(&PathBuf::from("big")));

    let broken = restore(
        &fixture.reader(),
        &fixture.root(),
        b"",
        &RestoreOptions { include: vec!["[".into()], ..options(&excluded) },
        &(),
    );
    assert!(broken.unwrap_err().to_string().contains("\"[\""));
}

#[test]
fn deleting_removes_what_the_snapshot_lacks_and_honours_patterns() {
    let fixture = Fixture::new();
    let target = fixture.target();
    run(&fixture, &options(&target));
    fs::create_dir_all(target.join("extra/inner")).unwrap();
    fs::write(target.join("extra/inner/file"), "").unwrap();
    fs::write(target.join("many/extra"), "").unwrap();
    fs::write(target.join("many/keep.me"), "").unwrap();
    symlink(fixture.source(), target.join("many/extra link")).unwrap();

    let before = survey(&target);
    let planned = RestoreOptions { delete: true, dry_run: true, ..options(&target) };
    assert_eq!(run(&fixture, &planned).files_deleted, 4);
    assert_eq!(survey(&target), before);

    let limited = RestoreOptions { delete: true, exclude: vec!["*.me".into()], ..options(&target) };
    assert_eq!(run(&fixture, &limited).files_deleted, 3);
    assert!(target.join("many/keep.me").exists() && !target.join("extra").exists());
    assert_eq!(run(&fixture, &RestoreOptions { delete: true, ..options(&target) }).files_deleted, 1);
    assert_same(&fixture.source(), &target);
    assert!(fixture.source().join("big").exists());
}

#[test]
fn the_root_directory_is_not_emptied_by_mistake() {
    let fixture = Fixture::new();
    let everything = RestoreOptions { delete: true, dry_run: true, ..options(Path::new("/")) };
    let refused = restore(&fixture.reader(), &fixture.root(), b"", &everything, &());
    assert!(refused.unwrap_err().to_string().contains("include pattern"));
}

#[test]
fn a_dry_run_changes_nothing() {
    let fixture = Fixture::new();
    let report = run(&fixture, &RestoreOptions { dry_run: true, ..options(&fixture.target()) });
    assert!(!fixture.target().exists());
    assert_eq!(report.total_files, survey(&fixture.source()).len() as u64);
    assert_eq!(report.files_restored, report.total_files);
}

#[test]
fn a_damaged_blob_fails_the_files_that_need_it_and_nothing_else() {
    let fixture = Fixture::new();
    let mut path = fixture.subpath();
    path.extend_from_slice(b"/big");
    let reader = fixture.reader();
    let blob = reader.node_at(&fixture.root(), &path).unwrap().unwrap().content.unwrap()[3];
    let location = reader.locate(BlobKind::Data, &blob).unwrap();
    let pack = fixture.objects("data").into_iter().find(|file| name_of(file) == location.pack.to_hex()).unwrap();
    flip(&pack, u64::from(location.offset) + 1000);
    let report = run(&fixture, &options(&fixture.target()));
    assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    assert_eq!(report.errors[0].path, b"/big");
    let message = &report.errors[0].message;
    assert!(message.contains(&name_of(&pack)) && message.contains(&blob.to_hex()), "{message}");
    let (mut source, mut target) = (survey(&fixture.source()), survey(&fixture.target()));
    source.remove(Path::new("big"));
    target.remove(Path::new("big"));
    assert_eq!(source, target);
    // It must not look whole to the next restore: it may be there in part, or not at all.
    assert!(fs::metadata(fixture.target().join("big")).map_or(true, |found| found.mtime() != 1_600_000_000));
}

#[test]
fn missing_and_cut_off_packs_fail_only_what_was_in_them() {
    let fixture = Fixture::new();
    let packs = fixture.objects("data");
    let (cut, gone) = (&packs[packs.len() - 1], &packs[packs.len() - 2]);
    fs::remove_file(gone).unwrap();
    let length = fs::metadata(cut).unwrap().len();
    fs::set_permissions(cut, fs::Permissions::from_mode(0o600)).unwrap();
    fs::OpenOptions::new().write(true).open(cut).unwrap().set_len(length / 2).unwrap();
    let report = run(&fixture, &options(&fixture.target()));
    assert!(!report.errors.is_empty());
    for failure in &report.errors {
        let reasons = [&name_of(cut), &name_of(gone), "another name"];
        assert!(reasons.iter().any(|reason| failure.message.contains(*reason)), "{}", failure.message);
    }
    let failed: Vec<PathBuf> =
        report.errors.iter().map(|failure| PathBuf::from(OsStr::from_bytes(&failure.path[1..]))).collect();
    let (source, target) = (survey(&fixture.source()), survey(&fixture.target()));
    for (name, record) in source.iter().filter(|(name, _)| !failed.contains(name)) {
        assert_eq!(Some(record), target.get(name), "{}", name.display());
    }
}

#[test]
fn verifying_notices_what_was_changed_behind_the_back_of_the_restore() {
    struct Spoiler(PathBuf);
    impl RestoreProgress for Spoiler {
        fn item(&self, action: RestoreAction, path: &[u8], _: u64) {
            if action == RestoreAction::Restored && path == b"/many/file 150" {
                fs::write(&self.0, "something else").unwrap();
            }
        }
    }
    let fixture = Fixture::new();
    let spoiler = Spoiler(fixture.target().join("many/file 150"));
    let options = RestoreOptions { verify: true, ..options(&fixture.target()) };
    let report = restore(&fixture.reader(), &fixture.root(), &fixture.subpath(), &options, &spoiler).unwrap();
    assert_eq!(report.errors.iter().map(|failure| failure.path.as_slice()).collect::<Vec<_>>(), [b"/many/file 150"]);
    assert!(report.errors[0].message.contains("verification failed"));
}

#[test]
fn a_cancelled_restore_claims_nothing() {
    struct Cancelled;
    impl RestoreProgress for Cancelled {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let fixture = Fixture::new();
    let result =
        restore(&fixture.reader(), &fixture.root(), &fixture.subpath(), &options(&fixture.target()), &Cancelled);
    assert!(result.unwrap_err().to_string().contains("interrupted"));
}

#[test]
fn a_full_target_stops_the_restore_with_a_clear_error() {
    const TEST: &str = "restore::a_full_target_stops_the_restore_with_a_clear_error";
    if let Some(home) = std::env::var_os("BACKSTAY_TEST_SMALL") {
        let home = PathBuf::from(home);
        let repository = open(&home.join("repository"));
        let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
        let root = repository.snapshots().unwrap().pop().unwrap().1.tree;
        let result = restore(&reader, &root, b"", &options(&home.join("small/target")), &());
        println!("the result: {}", result.unwrap_err());
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "this test mounts a small file system: run it as root");
    let fixture = Fixture::new();
    fs::create_dir(fixture.home.path().join("small")).unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$BACKSTAY_TEST_SMALL/small\" && exec \"$@\"";
    let output =
        again(&["unshare", "--mount", "sh", "-c", script, "sh"], TEST, "BACKSTAY_TEST_SMALL", fixture.home.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the result: the restore stopped"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}

#[test]
fn without_privileges_owners_are_counted_and_set_id_bits_dropped() {
    const TEST: &str = "restore::without_privileges_owners_are_counted_and_set_id_bits_dropped";
    if let Some(home) = std::env::var_os("BACKSTAY_TEST_NOBODY") {
        let home = PathBuf::from(home);
        assert!(!rustix::process::geteuid().is_root());
        let repository = open(&home.join("repository"));
        let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
        let root = repository.snapshots().unwrap().pop().unwrap().1.tree;
        let path = std::env::var_os("BACKSTAY_TEST_PATH").unwrap().into_encoded_bytes();
        for _ in 0..2 {
            let report = restore(&reader, &root, &path, &options(&home.join("open/target")), &()).unwrap();
            println!("errors: {:?}, refused: {}", report.errors, report.owners_refused > 0);
        }
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "this test changes its user: run it as root");
    let fixture = Fixture::new();
    let home = fixture.home.path();
    for path in [home.to_owned(), fixture.store()]
        .into_iter()
        .chain(["data", "index", "keys", "snapshots"].map(|name| fixture.store().join(name)))
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for folder in ["data", "index", "keys", "snapshots", ""] {
        for file in fixture.objects(folder) {
            fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    fs::create_dir(home.join("open")).unwrap();
    fs::set_permissions(home.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    // The test program itself may lie where nobody else can reach it.
    let program = home.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", TEST, "--nocapture"])
        .env("BACKSTAY_TEST_NOBODY", home)
        .env("BACKSTAY_TEST_PATH", fixture.source())
        .env("TMPDIR", home.join("open"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("errors: [], refused: true").count(), 2, "{said}");
    let target = home.join("open/target");
    assert_eq!(fs::metadata(target.join("many/file 2")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(target.join("empty")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(fs::read(target.join("big")).unwrap(), fs::read(fixture.source().join("big")).unwrap());
}

/// A repository of our own with the given root nodes.
fn repository_with(home: &Path, nodes: impl FnOnce(&Writer) -> Vec<Node>) -> (Arc<Repository>, Id) {
    let store = Arc::new(LocalStore::new(home.join("own")));
    let repository = Arc::new(Repository::init(store, b"test", InitOptions::default()).unwrap());
    let index = Arc::new(repository.load_index().unwrap());
    let writer = Writer::new(repository.clone(), index, WriteOptions::default()).unwrap();
    let nodes = nodes(&writer);
    let tree = writer.save(BlobKind::Tree, &Tree { nodes }.encode()).unwrap();
    writer.finish().unwrap();
    (repository, tree)
}

fn node(name: &[u8], kind: FileKind) -> Node {
    let mode = if kind == FileKind::Directory { 0o040_755 } else { 0o100_644 };
    Node { name: name.to_vec(), mode: Node::go_mode_from_unix(mode), ..Node::new(kind) }
}

fn file(writer: &Writer, name: &[u8], contents: &[u8]) -> Node {
    let id = writer.save(BlobKind::Data, contents).unwrap();
    Node { content: Some(vec![id]), size: contents.len() as u64, ..node(name, FileKind::File) }
}

#[test]
fn names_that_lead_elsewhere_are_refused_one_by_one() {
    let home = tempfile::tempdir().unwrap();
    let (repository, tree) = repository_with(home.path(), |writer| {
        let inner = writer.save_tree(&[file(writer, b"escaped", b"x")]).unwrap();
        let mut nodes: Vec<Node> = [&b".."[..], b"../up", b"a/b", b"", b".", b"nul\0l", b"/abs"]
            .iter()
            .flat_map(|name| {
                let directory = Node { subtree: Some(inner), ..node(name, FileKind::Directory) };
                [file(writer, name, b"bad"), directory]
            })
            .collect();
        nodes.push(file(writer, b"good", b"good"));
        nodes.push(file(writer, b"good", b"the same name again"));
        nodes.push(Node { link_target: Vec::new(), ..node(b"no target", FileKind::Symlink) });
        nodes.push(Node { content: None, ..node(b"no contents", FileKind::File) });
        nodes.push(Node { content: Some(vec![Id::of(b"nowhere")]), ..node(b"missing", FileKind::File) });
        nodes
    });
    let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
    let target = home.path().join("way down/target");
    let report = restore(&reader, &tree, b"", &options(&target), &()).unwrap();
    assert_eq!(report.errors.len(), 18, "{:#?}", report.errors);
    assert_eq!(
        survey(&home.path().join("way down")).into_keys().collect::<Vec<_>>(),
        ["target", "target/good"].map(PathBuf::from)
    );
    assert_eq!(fs::read_to_string(target.join("good")).unwrap(), "good");
}

#[test]
fn sockets_and_devices_are_made_again() {
    let home = tempfile::tempdir().unwrap();
    let (repository, tree) = repository_with(home.path(), |_| {
        let special =
            |name: &[u8], kind, mode, device| Node { mode: Node::go_mode_from_unix(mode), device, ..node(name, kind) };
        vec![special(b"null", FileKind::CharDevice, 0o020_666, 259), special(b"socket", FileKind::Socket, 0o140_755, 0)]
    });
    let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
    let target = home.path().join("target");
    let report = restore(&reader, &tree, b"", &options(&target), &()).unwrap();
    let socket = fs::symlink_metadata(target.join("socket")).unwrap();
    assert_eq!(socket.mode(), 0o140_755);
    // Only root may make devices, and not in every container: then the entry is named.
    match fs::symlink_metadata(target.join("null")) {
        Ok(device) if report.errors.is_empty() => assert_eq!((device.mode(), device.rdev()), (0o020_666, 259)),
        _ => {
            assert_eq!(report.errors.len(), 1);
            assert_eq!(report.errors[0].path, b"/null");
        }
    }
}

#[test]
fn the_internal_folder_is_left_out_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let (repository, tree) = repository_with(home.path(), |writer| {
        let inner = writer.save_tree(&[file(writer, b"ledger", b"x")]).unwrap();
        let deep = Node { subtree: Some(inner), ..node(b".backstay", FileKind::Directory) };
        let tree = writer.save_tree(std::slice::from_ref(&deep)).unwrap();
        vec![deep, Node { subtree: Some(tree), ..node(b"home", FileKind::Directory) }]
    });
    let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
    let target = home.path().join("target");
    restore(&reader, &tree, b"", &RestoreOptions { skip_internal: true, ..options(&target) }, &()).unwrap();
    assert!(!target.join(".backstay").exists());
    assert!(target.join("home/.backstay/ledger").exists());
    restore(&reader, &tree, b"", &options(&target), &()).unwrap();
    assert!(target.join(".backstay/ledger").exists());
}

#[test]
fn many_files_of_several_blobs_are_written_with_few_of_them_open() {
    let fixture = Fixture::empty();
    // Two chunks each, the first shared by all: every file is open at the same time.
    let shared = noise(9 << 20, 7);
    for number in 0..160_u64 {
        let mut contents = shared[..600_000].to_vec();
        contents.extend(noise(8, number + 100));
        fs::write(fixture.source().join(format!("{number}")), &contents).unwrap();
    }
    fixture.backup("many");
    let report = run(&fixture, &RestoreOptions { verify: true, ..options(&fixture.target()) });
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &fixture.target());
}

/// An access control list as Linux stores it: everybody may, and user 1234 too.
fn access_list() -> Vec<u8> {
    let none = u32::MAX;
    let entries = [(1_u16, none), (2, 1234), (4, none), (0x10, none), (0x20, none)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in entries {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&7_u16.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    list
}

#[test]
fn attributes_that_the_snapshot_lacks_are_removed() {
    let fixture = Fixture::new();
    let target = fixture.target();
    run(&fixture, &options(&target));
    for name in ["labelled", "big", "many"] {
        rustix::fs::setxattr(target.join(name), "user.extra", b"x", XattrFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(target.join("labelled"), "user.test", b"changed", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(target.join("big"), "system.posix_acl_access", &access_list(), XattrFlags::empty()).unwrap();
    let report = run(&fixture, &options(&target));
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &target);
}

#[test]
fn an_access_control_list_that_the_target_passes_on_is_not_kept() {
    let fixture = Fixture::new();
    let target = fixture.target();
    fs::create_dir(&target).unwrap();
    rustix::fs::setxattr(&target, "system.posix_acl_default", &access_list(), XattrFlags::empty()).unwrap();
    let report = run(&fixture, &options(&target));
    assert_eq!(report.errors, []);
    assert_same(&fixture.source(), &target);
}

#[test]
fn a_running_program_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let sleep = fs::read("/bin/sleep").unwrap();
    let newer = [&sleep[..], b"a little more"].concat();
    let (repository, tree) = repository_with(home.path(), |writer| vec![file(writer, b"program", &newer)]);
    let target = home.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("program"), &sleep).unwrap();
    fs::set_permissions(target.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = std::process::Command::new(target.join("program")).arg("60").spawn().unwrap();
    let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
    let report = restore(&reader, &tree, b"", &options(&target), &()).unwrap();
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(report.errors, []);
    assert_eq!(fs::read(target.join("program")).unwrap(), newer);
}

#[test]
fn two_names_of_one_object_with_different_contents_become_two_files() {
    let home = tempfile::tempdir().unwrap();
    let (repository, tree) = repository_with(home.path(), |writer| {
        let linked = |name, contents| Node { inode: 5, device_id: 6, links: 3, ..file(writer, name, contents) };
        vec![linked(b"a", b"before"), linked(b"b", b"after"), linked(b"c", b"after")]
    });
    let reader = Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap()));
    let target = home.path().join("target");
    assert_eq!(restore(&reader, &tree, b"", &options(&target), &()).unwrap().errors, []);
    let inode = |name| fs::metadata(target.join(name)).unwrap().ino();
    assert!(inode("b") == inode("c") && inode("a") != inode("b"));
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "before");
    assert_eq!(fs::read_to_string(target.join("c")).unwrap(), "after");
}

#[test]
fn a_read_that_the_store_refuses_fails_its_files_in_the_stores_words() {
    let fixture = Fixture::new();
    let store = Arc::new(FaultStore::new(Arc::new(LocalStore::new(fixture.store()))));
    let repository = Arc::new(Repository::open(store.clone(), PASSWORD.as_bytes()).unwrap());
    let reader = Arc::new(Reader::new(Arc::clone(&repository), Arc::new(repository.load_index().unwrap())));
    // The trees are read by then.
    let calls = |store: &FaultStore| store.counts().calls;
    let options = RestoreOptions { dry_run: true, ..options(&fixture.target()) };
    restore(&reader, &fixture.root(), &fixture.subpath(), &options, &()).unwrap();
    let begin = calls(&store);
    for number in 1..begin + 1000 {
        store.arm(DURING_PACK_READ, number, Fault::Fail);
    }
    let options = RestoreOptions { dry_run: false, ..options };
    let report = restore(&reader, &fixture.root(), &fixture.subpath(), &options, &()).unwrap();
    assert!(report.errors.iter().any(|error| error.path == b"/big"), "{:?}", report.errors);
    for error in &report.errors {
        let told = error.message.contains("a planned failure") || error.message.contains("another name");
        assert!(told && !error.message.contains("damaged"), "{error:?}");
    }
}
