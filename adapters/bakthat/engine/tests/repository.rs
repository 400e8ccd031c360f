//! A Backstay repository as a destination.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use backstay_bakthat::archive::unpack_archive;
use backstay_bakthat::excludes::Excludes;
use backstay_bakthat::repository::{Repository, Saving};
use backstay_bakthat::{Control, Error};
use backstay_repository::repository::Repository as Opened;

static COUNT: AtomicU32 = AtomicU32::new(0);
const PASSWORD: &[u8] = b"password";

fn open(folder: &Path) -> Repository {
    Repository::open(folder.to_str().unwrap(), PASSWORD, true, &[], &Control::default()).unwrap()
}

fn saving(stored_name: &str) -> Saving<'_> {
    // Each is later than those before it.
    let time = 1_577_836_800.0 + f64::from(COUNT.fetch_add(1, Ordering::Relaxed)) / 4.0;
    Saving { stored_name, tags: &[], host: Some("host"), time }
}

fn site(folder: &Path) -> PathBuf {
    let site = folder.join("site");
    fs::create_dir_all(site.join("sub")).unwrap();
    fs::write(site.join("a"), vec![1; 100_000]).unwrap();
    fs::write(site.join("x.log"), "log").unwrap();
    fs::hard_link(site.join("a"), site.join("sub/again")).unwrap();
    symlink("/etc/hosts", site.join("link")).unwrap();
    site
}

fn backup(repository: &Repository, site: &Path, name: &str) -> u64 {
    repository.backup(site, b"site", &Excludes::default(), &saving(name), &Control::default(), &|_| {}).unwrap()
}

/// The names below a folder.
fn names(folder: &Path) -> String {
    let output = Command::new("find").args([".", "-mindepth", "1"]).current_dir(folder).output().unwrap();
    let mut lines: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    lines.sort_unstable();
    lines.join(" ")
}

fn restic(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r"]).arg(folder).args(arguments).env("RESTIC_PASSWORD", "password");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_backup_is_a_snapshot_and_comes_back_as_a_tar_and_as_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    let size = backup(&repository, &site, "site.20200101000000.tgz");
    let at = |name: &str| folder.path().join(name);
    let control = Control::default();
    assert!(repository.download("site.20200101000000.tgz", &at("1.tgz"), &control).unwrap());
    assert!(repository.download("site.20200101000000.tgz", &at("2.tgz"), &Control::default()).unwrap());
    assert!(fs::read(at("1.tgz")).unwrap() == fs::read(at("2.tgz")).unwrap());
    assert_eq!(control.position(), (size, size));
    assert_eq!(repository.size("site.20200101000000.tgz").unwrap(), Some(size));
    unpack_archive(&at("1.tgz"), &at("unpacked"), &Control::default()).unwrap();
    assert!(repository.restore("site.20200101000000.tgz", &at("restored"), &Control::default()).unwrap());
    for back in ["unpacked", "restored"] {
        assert_eq!(names(&at(back)), "./site ./site/a ./site/link ./site/sub ./site/sub/again ./site/x.log");
        assert_eq!(fs::read(at(back).join("site/sub/again")).unwrap(), vec![1; 100_000]);
    }
    assert!(!repository.download("other", &at("3.tgz"), &Control::default()).unwrap());
    assert!(!at("3.tgz").exists());
    let told = restic(&place, &["snapshots", "--json"]);
    assert!(told.contains("\"bakthat:site.20200101000000.tgz\"") && told.contains("2020-01-01"), "{told}");
    assert!(restic(&place, &["ls", "latest"]).contains("\n/site/sub/again\n"));
    restic(&place, &["check", "--read-data"]);
}

#[test]
fn the_next_backup_reads_only_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    backup(&repository, &site, "one");
    fs::write(site.join("new"), "new").unwrap();
    backup(&repository, &site, "two");
    let store = Arc::new(backstay_stores::LocalStore::new(&place));
    let snapshots = Opened::open(store, PASSWORD).unwrap().snapshots().unwrap();
    let [(one, _), (_, two)] = &snapshots[..] else { panic!() };
    assert_eq!(two.parent, Some(*one));
    let summary = two.summary.clone().unwrap();
    assert_eq!((summary.files_unmodified, summary.files_new, summary.files_changed), (3, 1, 0));
    // Under another name it is another tree, and the contents are known.
    let by = |arcname: &[u8], name: &str| {
        repository.backup(&site, arcname, &Excludes::default(), &saving(name), &Control::default(), &|_| {}).unwrap()
    };
    by(b"other", "three");
    assert!(restic(&place, &["ls", "latest"]).contains("/other/sub"));
    assert_eq!(repository.list().unwrap(), ["one", "three", "two"]);
}

#[test]
fn patterns_are_set_against_the_path_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    let told = Mutex::new(Vec::new());
    let excludes = Excludes::new(&["*.log", "site/sub"], false);
    let slash = PathBuf::from(format!("{}/", site.display()));
    let note = |path: &[u8]| told.lock().unwrap().push(String::from_utf8_lossy(path).into_owned());
    repository.backup(&slash, b"site", &excludes, &saving("one"), &Control::default(), &note).unwrap();
    let mut told = told.into_inner().unwrap();
    told.sort();
    assert_eq!(told, [site.join("sub"), site.join("x.log")].map(|path| path.display().to_string()));
    repository.restore("one", &folder.path().join("back"), &Control::default()).unwrap();
    assert_eq!(names(&folder.path().join("back")), "./site ./site/a ./site/link");
}

#[test]
fn a_file_alone_and_a_folder_behind_a_link_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    backup(&repository, &site.join("x.log"), "file");
    let link = folder.path().join("current");
    symlink("site", &link).unwrap();
    let slash = PathBuf::from(format!("{}/", link.display()));
    backup(&repository, &slash, "behind");
    let back = |name: &str| {
        let back = folder.path().join(format!("back-{name}"));
        repository.restore(name, &back, &Control::default()).unwrap();
        names(&back)
    };
    assert_eq!(back("file"), "./site");
    assert_eq!(back("behind"), "./site ./site/a ./site/link ./site/sub ./site/sub/again ./site/x.log");
    let missing = repository.backup(
        &folder.path().join("missing"),
        b"missing",
        &Excludes::default(),
        &saving("missing"),
        &Control::default(),
        &|_| {},
    );
    assert!(matches!(missing, Err(Error::File { .. })), "{missing:?}");
}

#[test]
fn an_archive_moves_in_with_its_links_and_a_damaged_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    let at = |name: &str| folder.path().join(name);
    let size = backup(&repository, &site, "one");
    repository.download("one", &at("one.tgz"), &Control::default()).unwrap();
    assert_eq!(repository.backup_tar(&at("one.tgz"), &saving("moved"), &Control::default()).unwrap(), size);
    repository.download("moved", &at("moved.tgz"), &Control::default()).unwrap();
    assert!(fs::read(at("one.tgz")).unwrap() == fs::read(at("moved.tgz")).unwrap());
    let whole = fs::read(at("one.tgz")).unwrap();
    fs::write(at("one.tgz"), &whole[..whole.len() - 9]).unwrap();
    assert!(repository.backup_tar(&at("one.tgz"), &saving("damaged"), &Control::default()).is_err());
    assert_eq!(repository.list().unwrap(), ["moved", "one"]);
    restic(&place, &["check", "--read-data"]);
}

#[test]
fn the_bytes_of_an_archive_that_moves_in_are_counted_to_the_end_and_not_beyond() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    backup(&repository, &site, "one");
    let archive = folder.path().join("one.tgz");
    assert!(repository.download("one", &archive, &Control::default()).unwrap());
    let control = Control::default();
    repository.backup_tar(&archive, &saving("two"), &control).unwrap();
    let length = fs::metadata(&archive).unwrap().len();
    assert_eq!(control.position(), (2 * length, 2 * length));
}

#[test]
fn what_is_deleted_is_forgotten_and_prune_gives_its_room_back() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    backup(&repository, &site, "one");
    repository.delete("one", &Control::default()).unwrap();
    repository.delete("one", &Control::default()).unwrap();
    assert!(repository.list().unwrap().is_empty());
    repository.prune(&Control::default()).unwrap();
    assert_eq!(fs::read_dir(place.join("snapshots")).unwrap().count(), 0);
    let packs = Command::new("find").arg(place.join("data")).args(["-type", "f"]).output().unwrap();
    assert!(packs.stdout.is_empty());
    restic(&place, &["check"]);
}

#[test]
fn whoever_gives_up_has_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    let control = Control::default();
    control.cancel();
    let done = repository.backup(&site, b"site", &Excludes::default(), &saving("one"), &control, &|_| {});
    assert!(matches!(done, Err(Error::Interrupted)), "{done:?}");
    assert!(repository.list().unwrap().is_empty());
}

#[test]
fn a_wrong_password_and_a_missing_repository_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("repository");
    let open = |password: &[u8], create: bool| {
        Repository::open(place.to_str().unwrap(), password, create, &[], &Control::default())
    };
    assert!(open(PASSWORD, false).unwrap_err().to_string().contains("no repository"));
    open(PASSWORD, true).unwrap();
    assert!(matches!(open(b"other", true), Err(Error::WrongPassword(_))));
}

#[test]
fn a_backup_takes_one_lock_and_waits_for_another_ones_only_as_long_as_it_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    let locks = || fs::read_dir(place.join("locks")).unwrap().count();
    let seen = Mutex::new(Vec::new());
    let note = |_: &[u8]| seen.lock().unwrap().push(locks());
    let logs = Excludes::new(&["*.log"], false);
    repository.backup(&site, b"site", &logs, &saving("site.1.tgz"), &Control::default(), &note).unwrap();
    assert_eq!(*seen.lock().unwrap(), [1]);

    let store = Arc::new(backstay_stores::LocalStore::new(&place));
    let other = Arc::new(Opened::open(store, PASSWORD).unwrap());
    let alone = other.lock(true, None).unwrap();
    let control = Control::default();
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| repository.backup(&site, b"site", &logs, &saving("site.2.tgz"), &control, &|_| {}));
        std::thread::sleep(std::time::Duration::from_millis(300));
        control.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Interrupted)));
    });
    assert_eq!(repository.list().unwrap(), ["site.1.tgz"]);
    drop(alone);
    backup(&repository, &site, "site.3.tgz");
}

#[test]
fn what_is_read_is_under_a_lock_and_none_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (site, place) = (site(folder.path()), folder.path().join("repository"));
    let repository = open(&place);
    backup(&repository, &site, "one");
    let store = Arc::new(backstay_stores::LocalStore::new(&place));
    let other = Arc::new(Opened::open(store, PASSWORD).unwrap());
    let alone = other.lock(true, None).unwrap();
    std::thread::scope(|scope| {
        let (reading, saving) = (
            scope.spawn(|| repository.download("one", &folder.path().join("out"), &Control::default())),
            scope.spawn(|| backup(&repository, &site, "two")),
        );
        std::thread::sleep(std::time::Duration::from_millis(800));
        assert!(!folder.path().join("out").exists());
        assert_eq!(repository.list().unwrap(), ["one"]);
        drop(alone);
        assert!(reading.join().unwrap().unwrap());
        saving.join().unwrap();
    });
    assert_eq!(repository.list().unwrap(), ["one", "two"]);
    assert_eq!(fs::read_dir(place.join("locks")).unwrap().count(), 0);
}
