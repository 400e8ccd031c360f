//! Mounts for real where the system lets us; where it does not, each test says so and why, and the view's own tests
//! (crates/mount) carry the behaviour.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{PASSWORD, World, fails_with};

/// Why nothing can be mounted here, if so.
fn why_not() -> Option<String> {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse: {error}"));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    let may_mount = u64::from_str_radix(capabilities, 16).unwrap() & 1 << 21 != 0;
    if !may_mount && Command::new("fusermount3").arg("--version").output().is_err() {
        return Some("neither the right to mount nor fusermount3".to_owned());
    }
    None
}

/// Whether tests can mount; says loudly when not.
fn can_mount(test: &str) -> bool {
    match why_not() {
        None => true,
        Some(reason) => {
            // Past the test harness, which keeps what a test that passes prints to itself.
            let line = format!("SKIPPED {test}: nothing can be mounted here ({reason})\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            false
        }
    }
}

/// A mounted repository: unmounted in the end, whatever happens.
struct Mount {
    child: Child,
    place: PathBuf,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Mount {
    fn new(world: &World, arguments: &[&str]) -> Self {
        let place = world.path("mnt");
        std::fs::create_dir_all(&place).unwrap();
        let mut command = Command::new(world.bare().get_program());
        command.current_dir(world.path("")).args(["mount", "--json", "mnt"]).args(arguments);
        command.env("BACKSTAY_REPOSITORY", world.path("repository")).env("BACKSTAY_PASSWORD", PASSWORD);
        command.env("HOME", world.path("home")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut mount = Self { child, place, errors: Some(errors) };
        if !line.contains("\"mounted\"") {
            mount.child.wait().unwrap();
            panic!("it was not mounted: {line} {}", mount.errors.take().unwrap().join().unwrap());
        }
        mount
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it; gives its status and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        self.signal(Signal::INT);
        self.ended()
    }

    /// Waits for its end.
    fn ended(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.errors.take().unwrap().join().unwrap())
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let place = self.place.to_str().unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(place))
    }

    /// A file or folder of the saved tree in the newest snapshot.
    fn saved(&self, world: &World, name: &str) -> PathBuf {
        self.place.join("snapshots/latest").join(world.shown(name).trim_start_matches('/'))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        }
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_saved_is_seen_as_it_was() {
    if !can_mount("what_was_saved_is_seen_as_it_was") {
        return;
    }
    let world = World::new();
    world.make_tree();
    let noise: Vec<u8> =
        (0..4_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    world.write("tree/big", noise);
    std::fs::write(world.path("tree").join(std::ffi::OsStr::from_bytes(b"raw \xff name")), "raw").unwrap();
    std::fs::hard_link(world.path("tree/hello.txt"), world.path("tree/docs/hello again")).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, world.path("tree/pipe"), pipe, rustix::fs::Mode::from_raw_mode(0o640), 0)
        .unwrap();
    rustix::fs::setxattr(world.path("tree/hello.txt"), "user.note", b"a\0b", rustix::fs::XattrFlags::empty()).unwrap();
    let time = rustix::fs::Timespec { tv_sec: -86_400, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, world.path("tree/docs/readme"), &times, rustix::fs::AtFlags::empty())
        .unwrap();
    world.backup(["tree"]);
    let mount = Mount::new(&world, &[]);
    let saved = mount.saved(&world, "tree");
    // The judge knows nothing of us: names, kinds, modes, owners, times, links, contents, attributes.
    let look = |folder: &Path| {
        let script = "find . -mindepth 1 -printf '%P %y %m %U %G %l' \\( -type d -printf ' \\n' \\) -o -printf ' %n %s %T@ %C@\\n' | sed 's/ [0-9.]*$//' | sort; \
            find . -type f -print0 | sort -z | xargs -0 sha256sum; find . -type f -print0 | sort -z | xargs -0 getfattr -d -e hex";
        let output = Command::new("sh").current_dir(folder).args(["-c", script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (ours, theirs) = (look(&saved), look(&world.path("tree")));
    assert!(theirs.contains("user.note=0x610062") && theirs.contains("raw"), "{theirs}");
    assert_eq!(ours, theirs);
    let numbers: Vec<u64> = ["hello.txt", "docs/hello again"]
        .iter()
        .map(|name| std::fs::metadata(saved.join(name)).unwrap().ino())
        .collect();
    assert_eq!(numbers[0], numbers[1]);
    assert!(std::fs::symlink_metadata(saved.join("pipe")).unwrap().file_type().is_fifo());
    let error = std::fs::write(saved.join("new"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    let (status, errors) = mount.end();
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_dir(world.path("repository/locks")).unwrap().count(), 0);
}

#[test]
fn holes_are_holes_and_cost_no_blocks() {
    if !can_mount("holes_are_holes_and_cost_no_blocks") {
        return;
    }
    let world = World::new();
    world.write("tree/sparse", "start");
    let file = std::fs::OpenOptions::new().write(true).open(world.path("tree/sparse")).unwrap();
    file.set_len(200 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 100 << 20).unwrap();
    world.backup(["tree"]);
    let mount = Mount::new(&world, &[]);
    let saved = mount.saved(&world, "tree/sparse");
    let metadata = std::fs::metadata(&saved).unwrap();
    assert_eq!(metadata.len(), 200 << 20);
    assert!(metadata.blocks() * 512 < 40 << 20, "{}", metadata.blocks());
    let open = std::fs::File::open(&saved).unwrap();
    let hole = rustix::fs::seek(&open, rustix::fs::SeekFrom::Hole(0)).unwrap();
    assert!(hole > 0 && hole < 20 << 20, "{hole}");
    let data = rustix::fs::seek(&open, rustix::fs::SeekFrom::Data(hole)).unwrap();
    assert!(data > hole && data <= 100 << 20, "{data}");
    let output = Command::new("cmp").arg(&saved).arg(world.path("tree/sparse")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // While it is open, the mount does not end.
    drop(open);
    assert_eq!(mount.end().0, Some(0));
}

#[test]
fn new_snapshots_appear_and_filters_and_templates_hold() {
    if !can_mount("new_snapshots_appear_and_filters_and_templates_hold") {
        return;
    }
    let world = World::with_snapshot();
    let mount = Mount::new(
        &world,
        &["--refresh", "0s", "--tag", "wanted", "--path-template", "by/%t/%T", "--path-template", "%i"],
    );
    assert_eq!(names(&mount.place), ["by"]);
    world.write("tree/later", "came later");
    let id = world.backup(["tree", "--tag", "wanted"]);
    let other = world.backup(["tree", "--tag", "other"]);
    wait_until("the new snapshot", || names(&mount.place).len() == 2);
    let mut expected = [id[..8].to_owned(), "by".to_owned()];
    expected.sort();
    assert_eq!(names(&mount.place), expected);
    assert!(!mount.place.join(&other[..8]).exists());
    let later = world.shown("tree/later");
    let later = later.trim_start_matches('/');
    for folder in [id[..8].to_owned(), "by/wanted/latest".to_owned()] {
        assert_eq!(std::fs::read_to_string(mount.place.join(folder).join(later)).unwrap(), "came later");
    }
    assert_eq!(mount.end().0, Some(0));
}

#[test]
fn a_damaged_blob_hurts_its_own_file_and_is_told_once() {
    if !can_mount("a_damaged_blob_hurts_its_own_file_and_is_told_once") {
        return;
    }
    let world = World::new();
    world.write("tree/whole", "all is well");
    world.backup(["tree"]);
    let before = packs(&world);
    world.write("tree/broken", "something else");
    world.backup(["tree"]);
    let mut broken = 0;
    for pack in packs(&world).into_iter().filter(|pack| !before.contains(pack)) {
        // The data blob stands in a pack without the word that every tree has; both are sealed, so ask restic.
        let id = pack.file_name().unwrap().to_str().unwrap().to_owned();
        let lines = world.lines(["find", "--pack", &id]);
        if lines.iter().any(|line| line.contains("/broken")) {
            let mut bytes = std::fs::read(&pack).unwrap();
            bytes[3] ^= 1;
            std::fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::write(&pack, bytes).unwrap();
            broken += 1;
        }
    }
    assert_eq!(broken, 1);
    let mount = Mount::new(&world, &[]);
    for _ in 0..3 {
        let error = std::fs::read(mount.saved(&world, "tree/broken")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        assert_eq!(std::fs::read_to_string(mount.saved(&world, "tree/whole")).unwrap(), "all is well");
    }
    let (status, errors) = mount.end();
    assert_eq!(status, Some(0));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("tree/broken") && errors.contains("damaged"), "{errors}");
}

fn packs(world: &World) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(world.path("repository/data")).unwrap();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().map(|pack| pack.unwrap().path()))
        .collect()
}

#[test]
fn unmounting_ends_it_and_a_busy_mount_waits_until_a_second_signal() {
    if !can_mount("unmounting_ends_it_and_a_busy_mount_waits_until_a_second_signal") {
        return;
    }
    let world = World::with_snapshot();
    let mut mount = Mount::new(&world, &[]);
    assert_eq!(std::fs::read_dir(world.path("repository/locks")).unwrap().count(), 1);
    // Somebody else's lock check, as restic makes it: shared goes, exclusive does not.
    world.restic(["snapshots", "--no-cache"]).assert().success();
    world.restic(["prune", "--no-cache"]).assert().failure();
    assert!(Command::new("umount").arg(&mount.place).status().unwrap().success());
    assert_eq!(mount.ended(), (Some(0), String::new()));
    drop(mount);

    let mut mount = Mount::new(&world, &[]);
    let open = std::fs::File::open(mount.saved(&world, "tree/hello.txt")).unwrap();
    mount.signal(Signal::TERM);
    // It says so and goes on.
    std::thread::sleep(Duration::from_millis(500));
    assert!(mount.child.try_wait().unwrap().is_none());
    assert!(mount.is_mounted());
    mount.signal(Signal::TERM);
    let (status, errors) = mount.ended();
    assert_eq!(status, Some(130), "{errors}");
    assert!(errors.contains("in use") && errors.contains("second signal"), "{errors}");
    assert!(!mount.is_mounted(), "a dead mount is left");
    drop(open);

    // The same without a second signal: it waits for the last file to be closed.
    let mut mount = Mount::new(&world, &["--no-lock"]);
    let open = std::fs::File::open(mount.saved(&world, "tree/hello.txt")).unwrap();
    mount.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(mount.is_mounted());
    drop(open);
    assert_eq!(mount.ended().0, Some(0));
    assert!(!mount.is_mounted());
}

#[test]
fn many_names_and_many_readers_are_served() {
    if !can_mount("many_names_and_many_readers_are_served") {
        return;
    }
    let world = World::new();
    std::fs::create_dir_all(world.path("tree/many")).unwrap();
    for number in 0..20_000 {
        std::fs::write(world.path(format!("tree/many/{number}")), "").unwrap();
    }
    for number in 0..8_u32 {
        let noise: Vec<u8> =
            (0..700_000_u32).flat_map(|at| (at ^ number << 24).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        world.write(&format!("tree/{number}"), noise);
    }
    world.backup(["tree"]);
    let mount = Mount::new(&world, &[]);
    assert_eq!(names(&mount.saved(&world, "tree/many")).len(), 20_000);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (mount, world) = (&mount, &world);
            scope.spawn(move || {
                let name = format!("tree/{}", number % 8);
                assert!(std::fs::read(mount.saved(world, &name)).unwrap() == std::fs::read(world.path(&name)).unwrap());
                let output = Command::new("ls").arg("-l").arg(mount.saved(world, "tree/many")).output().unwrap();
                assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 20_001);
            });
        }
    });
    assert_eq!(mount.end(), (Some(0), String::new()));
}

#[test]
fn a_place_that_cannot_be_mounted_on_is_named() {
    let world = World::with_snapshot();
    fails_with(world.command(["mount", "nowhere"]), 1, &["nowhere"]);
    fails_with(world.command(["mount", "tree"]), 1, &["tree", "not empty"]);
    fails_with(world.command(["mount", "tree/hello.txt"]), 1, &["hello.txt", "not a folder"]);
    fails_with(world.command(["mount", "--path-template", "%x", "mnt"]), 1, &["%x", "%T"]);
    fails_with(world.command(["mount", "--no-default-permissions", "mnt"]), 1, &["--allow-other"]);
    if can_mount("a_place_that_cannot_be_mounted_on_is_named") {
        let mount = Mount::new(&world, &[]);
        fails_with(world.command(["mount", "mnt"]), 1, &["mnt", "not empty"]);
        assert_eq!(mount.end().0, Some(0));
    }
}
